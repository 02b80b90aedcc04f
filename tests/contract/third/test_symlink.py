"""Somebody else's adapter keeps the contract too: it is installed on its own and found by its entry point."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from rollbackd.model import Release
from rollbackd.testing import AdapterContract, World, place

GROUP, NAME, INSIDE = "rollbackd.adapters", "symlink", "ROLLBACKD_THIRD"
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


class SymlinkWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "releases"
        for name in ("2024-01", "2024-02", "2024-03"):
            (self.root / name).mkdir(parents=True)
        (self.root / "current").symlink_to("2024-03")
        self.log = path / "log"
        self._timeout = "20s"
        self.reload = ["sh", "-c", f"sleep 0.2; echo reloaded >> {self.log}"]

    def adapter(self) -> Any:
        (entry,) = entry_points(group=GROUP, name=NAME)
        kind = entry.load()
        settings = {"adapter": NAME, "directory": self.root, "reload": self.reload, "timeout": self._timeout}
        return kind(kind.settings_model.model_validate(settings), place(self.path))

    def present(self) -> str:
        return os.readlink(self.root / "current")

    def target(self) -> Release:
        return Release("2024-02")

    def moved_by_somebody(self) -> None:
        (self.root / "current").unlink()
        (self.root / "current").symlink_to("2024-01")

    def finished(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def break_it(self) -> None:
        (self.root / "current").unlink()

    def hang(self) -> None:
        self.reload = ["sleep", "1000"]
        self._timeout = "500ms"


if os.environ.get(INSIDE):

    class TestSymlink(AdapterContract):
        def make_world(self, path: Path) -> World:
            return SymlinkWorld(path)

else:

    @pytest.fixture(scope="module")
    def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A directory with the adapter's distribution in it, as a package manager would leave it."""
        target = tmp_path_factory.mktemp("site")
        source = tmp_path_factory.mktemp("source") / "third"
        shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--no-index", "--no-deps", "--no-build-isolation", "--target", str(target), str(source)),
            ],
            check=True,
        )
        return target

    def test_installed_on_its_own_it_is_found_and_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
        paths = [
            str(installed),
            str(ROOT / "daemon"),
            str(ROOT / "adapters"),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
        finished = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                f"--basetemp={tmp_path / 'inside'}",
                "-p",
                "no:cacheprovider",
                __file__,
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), INSIDE: "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert " passed" in finished.stdout
        assert (installed / "rollbackd_symlink" / "__init__.py").exists()
