"""What is installed: the wheel's names, and that the house's own files hold together."""

import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.e2e.debian import build_wheel

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All paths in the wheel."""
    with zipfile.ZipFile(build_wheel(PROJECT, tmp_path_factory.mktemp("wheel"))) as wheel:
        return set(wheel.namelist())


def test_the_wheel_takes_no_names_that_belong_to_others(names: set[str]) -> None:
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.startswith("rollbackd-")} == {"rollbackd", "rollbackd_adapters"}


def test_the_wheel_has_packs_units_license_and_an_example(names: set[str]) -> None:
    shipped = {name.partition(".data/data/share/rollbackd/")[2] for name in names}
    assert {
        "config.example.yaml",
        "systemd/rollbackd.service",
        "systemd/rollbackd.sysusers.conf",
        "systemd/rollbackd.tmpfiles.conf",
    } <= shipped
    assert "rollbackd/packs/http.yaml" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_every_dependency_is_pinned_by_name_and_version() -> None:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.+!-]*", line)] == []
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.split(r"[<>=\[]", line)[0].lower()
        for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    }
    assert sorted(wanted - pinned) == []


@pytest.mark.parametrize("script", sorted((PROJECT / ".ci").iterdir()), ids=lambda path: path.name)
def test_the_scripts_stop_at_the_first_failure(script: Path) -> None:
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True, stdin=subprocess.DEVNULL)


def test_make_names_its_targets() -> None:
    said = subprocess.run(["make", "-C", str(PROJECT)], capture_output=True, text=True, check=True).stdout
    for target in ("test", "lint", "fmt", "types", "demo", "bench"):
        assert re.search(rf"^ +make {target} ", said, re.MULTILINE), said
