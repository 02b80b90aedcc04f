"""A directory of releases and its link: the contract on a real directory, and what must never be removed or followed."""

import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.execution.layers import resolve
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import AdapterContract, World, finish, perform, place, planned
from rollbackd_adapters.releases import ReleasesAdapter, ReleasesSettings, disk
from rollbackd_adapters.releases.disk import Disk
from tests.contract.elsewhere import occupy
from tests.contract.worlds import script


class ReleasesWorld(World):
    """Three releases of a front end; v3 runs."""

    def __init__(self, path: Path, *, relative: bool = False, then: bool = True, **more: Any) -> None:
        self.path = path
        self.directory = path / "web" / "releases"
        self.link = path / "web" / "current"
        for name in ("v1", "v2", "v3"):
            self.deploy(name)
        (self.directory / ".incoming").mkdir()
        (self.directory / "notes").write_text("not a release")
        (self.directory / "stable").symlink_to("v1")
        self.link.symlink_to("releases/v3" if relative else self.directory / "v3")
        self.log = path / "reloaded"
        self.reload = script(path / "reload", "sleep 0.1", f"cat app >> {self.log}")
        self._settings = {
            "adapter": "releases", "directory": self.directory, "link": self.link, "timeout": "20s",
            "then": [[self.reload]] if then else [], **more,
        }  # fmt: skip

    def deploy(self, name: str, revision: str = "") -> None:
        (self.directory / name / "assets").mkdir(parents=True)
        (self.directory / name / "app").write_text(f"{name}\n")
        if revision:
            (self.directory / name / "REVISION").write_text(f"{revision}\n")

    def settings(self) -> ReleasesSettings:
        return ReleasesSettings.model_validate(self._settings)

    def adapter(self) -> ReleasesAdapter:
        return ReleasesAdapter(self.settings(), place(self.path))

    def id_of(self, name: str) -> str:
        return next(each.release.id for each in Disk(self.settings()).all() if each.name == name)

    def running(self) -> str:
        return Path(os.path.realpath(self.link)).name

    def present(self) -> str:
        return self.id_of(self.running())

    def target(self) -> Release:
        return Release(self.id_of("v2"))

    def moved_by_somebody(self) -> None:
        self.link.unlink()
        self.link.symlink_to(self.directory / "v1")

    def finished(self) -> int | None:
        if not self._settings["then"]:
            return None
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def everything(self) -> object:
        return os.readlink(self.link), sorted(map(str, (self.path / "web").rglob("*"))), self.finished()

    def break_it(self) -> None:
        shutil.rmtree(self.directory / "v3")

    def hang(self) -> None:
        if not self._settings["then"]:
            return occupy(self.path, self.adapter().resource)
        script(Path(self.reload), "sleep 1000")
        self._settings["timeout"] = "500ms"
        return None

    def go(self, name: str, key: str) -> None:
        adapter = self.adapter()
        change = finish(planned(adapter, resolve("web", name, finish(adapter.releases())), key))
        assert finish(perform(adapter, change)) is Progress.DONE
        finish(adapter.prune())

    def names(self) -> list[str]:
        return [release.label for release in finish(self.adapter().releases())]


class TestReleases(AdapterContract):
    def make_world(self, path: Path) -> World:
        return ReleasesWorld(path)


class TestReleasesThatAreRemoved(AdapterContract):
    def make_world(self, path: Path) -> World:
        world = ReleasesWorld(path, relative=True, then=False, keep=3)
        world.deploy("v0")
        return world


@pytest.fixture
def world(tmp_path: Path) -> ReleasesWorld:
    return ReleasesWorld(tmp_path)


def test_newest_first_with_numbers_as_numbers_and_nothing_that_is_no_release(world: ReleasesWorld) -> None:
    world.deploy("v10")
    world.deploy("v9")
    assert world.names() == ["v10", "v9", "v3", "v2", "v1"]


def test_newest_can_be_the_last_changed(tmp_path: Path) -> None:
    world = ReleasesWorld(tmp_path, order="mtime", names="v*")
    for age, name in enumerate(("v2", "v3", "v1")):
        os.utime(world.directory / name, (2_000_000_000 - age, 2_000_000_000 - age))
    assert world.names() == ["v2", "v3", "v1"]


@pytest.mark.parametrize("relative", [False, True])
def test_a_link_stays_relative_or_absolute_and_is_never_gone(tmp_path: Path, relative: bool) -> None:
    world = ReleasesWorld(tmp_path, relative=relative)
    seen = []
    boundary.hook = lambda _name: seen.append(world.running())
    world.go("v2", "shop-1/0/web")
    assert os.readlink(world.link) == ("releases/v2" if relative else str(world.directory / "v2"))
    assert [now for before, now in pairwise(seen) if before != now] == ["v2"]
    assert set(seen) == {"v3", "v2"}
    assert sorted(os.listdir(world.link.parent)) == ["current", "releases"]


def test_a_name_that_is_used_again_is_another_release_also_when_its_inode_is_too(world: ReleasesWorld) -> None:
    before = Release(world.id_of("v2"))
    ids = {before.id}
    for _ in range(20):
        shutil.rmtree(world.directory / "v2")
        world.deploy("v2")
        ids.add(world.id_of("v2"))
    assert len(ids) == 21
    with pytest.raises(AdapterError, match="no longer in") as refused:
        finish(world.adapter().plan(before))
    assert refused.value.permanent


def test_files_that_come_into_a_release_leave_it_what_it_is_but_its_revision_does_not(world: ReleasesWorld) -> None:
    before = world.id_of("v3")
    (world.directory / "v3" / "cache").mkdir()
    (world.directory / "v3").chmod(0o700)
    assert world.id_of("v3") == before
    (world.directory / "v3" / "REVISION").write_text("3f2a\n")
    assert world.id_of("v3") != before


def test_a_file_marks_a_release_as_good(tmp_path: Path) -> None:
    world = ReleasesWorld(tmp_path, good=".good")
    (world.directory / "v1" / ".good").touch()
    assert [release.label for release in finish(world.adapter().releases()) if release.good] == ["v1"]


def test_the_oldest_go_but_none_that_is_needed(tmp_path: Path) -> None:
    world = ReleasesWorld(tmp_path, keep=2, good=".good")
    for number in range(4, 9):
        world.deploy(f"v{number}")
    (world.directory / "v2" / ".good").touch()
    world.go("v4", "shop-1/0/web")  # from v3
    assert world.names() == ["v8", "v7", "v4", "v3", "v2"]
    world.deploy("v9")
    world.go("v7", "shop-2/0/web")  # v3 and v4: rolled back from and to a moment ago
    assert world.names() == ["v9", "v8", "v7", "v4", "v3", "v2"]
    assert sorted(path.name for path in world.directory.iterdir() if path.name.startswith(".")) == [".incoming"]
    assert (world.directory / "notes").exists()
    assert (world.directory / "stable").is_symlink()


def test_what_cannot_be_removed_costs_no_rollback_and_is_removed_next_time(tmp_path: Path) -> None:
    world = ReleasesWorld(tmp_path, keep=1)
    world.deploy("v4")
    (world.directory / ".removed.v0").write_text("left behind")
    place_taken = world.directory / ".removed.v1"
    place_taken.mkdir()
    world.go("v2", "shop-1/0/web")
    assert world.names() == ["v4", "v3", "v2", "v1"]
    assert not place_taken.exists()
    world.go("v3", "shop-2/0/web")
    assert world.names() == ["v4", "v3", "v2"]


def _link_outside(world: ReleasesWorld) -> None:
    (world.path / "outside").mkdir()
    world.link.unlink()
    world.link.symlink_to(world.path / "outside")


def _release_outside(world: ReleasesWorld) -> None:
    (world.path / "v3").mkdir()
    shutil.rmtree(world.directory / "v3")
    (world.directory / "v3").symlink_to(world.path / "v3")


def _a_directory(world: ReleasesWorld) -> None:
    world.link.unlink()
    world.link.mkdir()


def _nowhere(world: ReleasesWorld) -> None:
    world.link.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_link_outside, "which is no release in"),
        (_release_outside, "which is no release in"),
        (_a_directory, "is not a link"),
        (_nowhere, "nothing is there"),
        (ReleasesWorld.break_it, "not a directory that is there"),
    ],
)
def test_a_link_that_leads_to_no_release_is_a_problem_and_stays(world: ReleasesWorld, spoil: Any, words: str) -> None:
    adapter = world.adapter()
    change = finish(planned(adapter, world.target()))
    spoil(world)
    (problem,) = finish(adapter.ready())
    assert words in problem.text
    with pytest.raises(AdapterError, match=words):
        finish(adapter.apply(change))


def test_a_link_to_a_link_inside_is_followed(world: ReleasesWorld) -> None:
    world.link.unlink()
    world.link.symlink_to(world.directory / "stable")
    assert finish(world.adapter().current()).label == "v1"


def test_without_then_the_link_is_all(tmp_path: Path) -> None:
    world = ReleasesWorld(tmp_path, then=False)
    world.go("v1", "shop-1/0/web")
    assert world.running() == "v1"


def test_a_command_that_is_missing_is_told_before(world: ReleasesWorld) -> None:
    Path(world.reload).unlink()
    (problem,) = finish(world.adapter().ready())
    assert "no such program" in problem.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"directory": "releases"}, "write the whole path"),
        ({"directory": "/srv/web/../x"}, "without .."),
        ({"link": "/srv/web/releases/current"}, "inside of `directory`"),
        ({"revision": "a/b"}, "pattern"),
        ({"good": ".."}, "no file's name"),
        ({"keep": -1}, "greater than or equal"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as failed:
        ReleasesSettings.model_validate(
            {"adapter": "releases", "directory": "/srv/web/releases", "link": "/srv/web/current", **settings}
        )
    assert words in str(failed.value)


@pytest.mark.parametrize("order", ["name", "mtime"])
def test_of_thousands_of_releases_the_newest_are_looked_at_and_the_one_that_runs(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LISTED", 20)
    world = ReleasesWorld(tmp_path, order=order, then=False, keep=1)
    for number in range(10, 50):
        (world.directory / f"v{number}").mkdir()
        os.utime(world.directory / f"v{number}", (10**9 + number, 10**9 + number))
    for name in ("v1", "v2", "v3"):
        os.utime(world.directory / name, (10**9, 10**9))
    names = world.names()
    assert names == [*(f"v{number}" for number in range(49, 29, -1)), "v3"]
    assert finish(world.adapter().ready()) == []
    finish(world.adapter().prune())
    assert world.names() == ["v49", "v3"]
