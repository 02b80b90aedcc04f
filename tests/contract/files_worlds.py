"""Layers of adapter `files` on real directories, and what tests do with them."""

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import KEY, World, finish, place, planned
from rollbackd_adapters.files import FilesAdapter, FilesSettings
from rollbackd_adapters.traces import safe_name
from tests.contract.worlds import script

SAVED = f"before-{safe_name(KEY)}"


def layer(path: Path, **settings: Any) -> FilesAdapter:
    """A layer on `path/conf`, unless the settings say otherwise."""
    given = {"adapter": "files", "paths": [str(path / "conf")], "room": 0, **settings}
    return FilesAdapter(FilesSettings.model_validate(given), place(path))


def content(directory: Path) -> dict[str, str]:
    """What is in a directory, by relative path: text, `-> target` or `/`, each with its mode."""
    found = {}
    for path in sorted(directory.rglob("*")):
        what = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
        mode = "" if path.is_symlink() else f" {stat.S_IMODE(path.lstat().st_mode):o}"
        found[str(path.relative_to(directory))] = what + mode
    return found


def fill(directory: Path, version: int) -> None:
    """One of three contents of a configuration."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "conf.d").mkdir(parents=True)
    (directory / "app.json").write_text(json.dumps({"version": version}))
    (directory / ".env").write_text(f"VERSION={version}\nTOKEN=secret-{version}\n")
    (directory / ".env").chmod(0o600)
    (directory / "conf.d" / f"only-{version}").write_text(f"{version}\n")
    (directory / "current").symlink_to(f"conf.d/only-{version}")


class FilesWorld(World):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.conf = path / "conf"
        self.conf.mkdir(parents=True)
        self.check = script(path / "check", 'test -s "$1"')
        self._timeout = "20s"
        self._ids: dict[int, str] = {}
        for version in (2, 3):
            fill(self.conf, version)
            self._ids[version] = finish(self.adapter().take(f"v{version}")).release
        self._contents = {3: content(self.conf)}

    def adapter(self) -> FilesAdapter:
        syntax = [{"glob": "*.json", "command": [self.check, "{file}"]}]
        return layer(self.path, syntax=syntax, timeout=self._timeout, auto=False)

    def present(self) -> str:
        versions = [version for version in (1, 2, 3) if f'"version": {version}' in (self.conf / "app.json").read_text()]
        found = content(self.conf)
        for version in versions:
            fill(self.path / "other", version)
            if found == content(self.path / "other"):
                return self._ids.get(version, "of somebody else")
        return f"a mixture: {found}"

    def target(self) -> Release:
        return Release(self._ids[2])

    def moved_by_somebody(self) -> None:
        fill(self.conf, 1)

    def everything(self) -> object:
        snapshots = self.path / "scratch" / "store" / "snapshots"
        return content(self.conf), sorted(path.name for path in snapshots.iterdir())

    def break_it(self) -> None:
        shutil.rmtree(self.path / "scratch" / "store" / "blobs")

    def hang(self) -> None:
        script(Path(self.check), "sleep 1000")
        self._timeout = "500ms"


def failure(work: Any) -> AdapterError:
    with pytest.raises(AdapterError) as failed:
        finish(work)
    return failed.value


def roll_back(ours: FilesAdapter, target: Release, key: str = KEY) -> None:
    change = finish(planned(ours, target, key))
    finish(ours.apply(change))
    assert finish(ours.progress(change)) is Progress.DONE


def at(name: str, times: int, act: Callable[[], None]) -> None:
    """Do something at the n-th boundary of a name."""
    left = [times]

    def hook(reached: str) -> None:
        if reached == name:
            left[0] -= 1
            if left[0] == 0:
                act()

    boundary.hook = hook
