"""What a layer writes to, and what its steps replace: what rests on that goes first."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollbackd.adapter import is_moved_by, written_by
from rollbackd.model import Traits
from rollbackd.testing import place
from rollbackd_adapters.env import EnvAdapter, EnvSettings
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.releases import ReleasesAdapter, ReleasesSettings


@pytest.mark.parametrize(
    ("paths", "inside"),
    [([], {"alembic.ini", "app/alembic.ini"}), (["app/", "two words"], {"app/alembic.ini", "two words/alembic.ini"})],
)
def test_a_repository_moves_its_work_tree_or_the_parts_that_it_names(
    tmp_path: Path, paths: list[str], inside: set[str]
) -> None:
    repo = tmp_path / "our shop"
    settings = GitSettings.model_validate({"adapter": "git", "repo": str(repo), "paths": paths})
    adapter: Any = GitAdapter(settings, place(tmp_path))
    asked = ["alembic.ini", "app/alembic.ini", "two words/alembic.ini", "other/alembic.ini"]
    moved = {name for name in asked if is_moved_by(adapter, repo / name)}
    assert moved == (inside if paths else {*asked})
    assert not is_moved_by(adapter, tmp_path / "our")
    assert not is_moved_by(adapter, tmp_path / "our shop next door/alembic.ini")


def test_a_link_and_a_file_are_moved_and_what_is_beside_them_is_not(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "adapter": "releases",
        "directory": str(tmp_path / "releases"),
        "link": str(tmp_path / "current"),
    }
    releases: Any = ReleasesAdapter(ReleasesSettings.model_validate(given), place(tmp_path / "a"))
    assert is_moved_by(releases, tmp_path / "current/alembic.ini")
    assert not is_moved_by(releases, tmp_path / "shared/alembic.ini")
    given = {"adapter": "env", "file": str(tmp_path / ".env"), "names": ["A"]}
    env: Any = EnvAdapter(EnvSettings.model_validate(given), place(tmp_path / "b"))
    assert is_moved_by(env, tmp_path / ".env")
    assert not is_moved_by(env, tmp_path / ".env.local")


@pytest.mark.parametrize(
    ("resource", "written"),
    [("symlink:/srv/a b", [Path("/srv/a b")]), ("/srv/x:y", [Path("/srv/x:y")]), ("http:shop/api", []), ("unit", [])],
)
def test_a_layer_that_says_nothing_of_its_needs_writes_to_its_resource(resource: str, written: list[Path]) -> None:
    adapter: Any = SimpleNamespace(resource=resource, traits=Traits())
    assert list(written_by(adapter)) == written
    assert [is_moved_by(adapter, path / "in it") for path in written] == [True] * len(written)


async def test_a_file_is_read_as_a_release_has_it_without_going_there(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / "releases" / name).mkdir(parents=True)
    (tmp_path / "releases/1/REVISION").write_text("r1\n")
    (tmp_path / "current").symlink_to("releases/2")
    given: dict[str, Any] = {
        "adapter": "releases",
        "directory": str(tmp_path / "releases"),
        "link": str(tmp_path / "current"),
    }
    adapter = ReleasesAdapter(ReleasesSettings.model_validate(given), place(tmp_path / "a"))
    there = {release.label: release for release in await adapter.releases()}
    assert await adapter.read(there["1"], tmp_path / "current/REVISION") == "r1\n"
    assert await adapter.read(there["2"], tmp_path / "current/REVISION") == "", "it has no such file"
