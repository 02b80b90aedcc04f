"""What is installed: the wheel's names, and that the house's own files hold together."""

import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from rollbackd import __version__
from tests.e2e.debian import build_wheel

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(PROJECT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """All paths in the wheel."""
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


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


@pytest.mark.timeout(600)  # all that it needs is unpacked
def test_it_installs_alone_with_the_pinned_versions_and_without_the_developers_environment(
    wheel: Path, tmp_path: Path
) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(home), "--disable-pip-version-check", "--quiet"]
    options = ["--no-compile", "--only-binary", ":all:", "--constraint", str(PROJECT / "constraints.txt")]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True, stdin=subprocess.DEVNULL)
    (site,) = home.glob("lib/*/site-packages")
    there = {one.name.lower(): one.version for one in distributions(path=[str(site)]) if one.name != "rollbackd"}
    pinned = dict(line.lower().split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines())
    assert {"aiohttp", "typer", "promql-parser"} <= there.keys()
    assert {name: version for name, version in there.items() if pinned.get(name) != version} == {}
    assert there.keys() & {"pytest", "mypy", "ruff", "hypothesis", "import-linter"} == set()

    def says(*words: str) -> str:
        argv = [str(home / "bin" / "rollbackd"), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert says("--version") == f"rollbackd {__version__}\n"
    assert '"postgres"' in says("schema"), "also the parts whose programs' libraries are extras"


@pytest.mark.parametrize("script", sorted((PROJECT / ".ci").iterdir()), ids=lambda path: path.name)
def test_the_scripts_stop_at_the_first_failure(script: Path) -> None:
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True, stdin=subprocess.DEVNULL)


def test_make_names_its_targets() -> None:
    said = subprocess.run(["make", "-C", str(PROJECT)], capture_output=True, text=True, check=True).stdout
    for target in ("test", "lint", "fmt", "types", "demo", "bench"):
        assert re.search(rf"^ +make {target} ", said, re.MULTILINE), said
