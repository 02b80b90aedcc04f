"""Releases as directories, and a symbolic link `current` that names the one in use; then a command, such as a reload.

Moves the link by rename(2), so that it is the old one or the new one. Saves nothing: no release is ever changed.
"""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import Change, Problem, Progress, Release, Traits
from rollbackd.syntax.units import Duration
from rollbackd.system.spawner import Busy, Spawner, SpawnError, sync_directory, write_durably

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class SymlinkSettings(Settings):
    """A layer of adapter `symlink`."""

    directory: Path
    """Has a directory for each release, and the link `current`."""
    reload: tuple[str, ...] = Field(min_length=1)
    """Runs after the link was moved."""
    timeout: Duration = timedelta(minutes=1)


class Symlink:
    """One directory of releases."""

    settings_model: ClassVar[type[Settings]] = SymlinkSettings
    traits = Traits()

    def __init__(self, settings: SymlinkSettings, place: Place) -> None:
        self._settings = settings
        self._place = place
        self._spawner: Spawner = place.spawner
        self._link = settings.directory / "current"
        self.resource = f"symlink:{settings.directory}"

    async def current(self) -> Release:
        return self._release(self._present())

    async def releases(self) -> Sequence[Release]:
        found = [entry.name for entry in self._settings.directory.iterdir() if not entry.is_symlink()]
        return [self._release(name) for name in sorted(found, reverse=True)]

    async def plan(self, target: Release) -> Change:
        self._check(target)
        return Change(self._place.layer, await self.current(), self._release(target.id))

    async def progress(self, change: Change) -> Progress:
        if self._spawner.held(self.resource):
            return Progress.RUNNING
        present = self._present()
        done = self._spawner.recorded(self._trace(change, "reload"), self._settings.reload)
        if done is not None and done.ok:
            return Progress.DONE if present == change.after.id else Progress.SUPERSEDED
        begun = self._trace(change, "begun").exists()
        expected = {change.before.id, change.after.id} if begun else {change.before.id}
        return Progress.NOT_STARTED if present in expected else Progress.SUPERSEDED

    async def apply(self, change: Change) -> None:
        self._check(change.after)
        try:
            async with self._spawner.hold(self.resource) as lock:
                progress = await self.progress(change)
                if progress is Progress.SUPERSEDED:
                    raise AdapterError(f"{self._link} was moved by somebody else", permanent=True)
                if progress is Progress.DONE:
                    return
                write_durably(self._trace(change, "begun"), b"{}")
                self._move(change.after.id)
                finished = await self._spawner.run_recorded(
                    self._settings.reload,
                    record=self._trace(change, "reload"),
                    lock=lock,
                    timeout=self._settings.timeout,
                )
        except (SpawnError, Busy) as error:
            raise AdapterError(str(error), permanent=isinstance(error, SpawnError) and error.permanent) from error
        if not finished.ok:
            raise AdapterError(f"reload: {finished.ending}", permanent=False, evidence=finished.tail)

    async def ready(self) -> Sequence[Problem]:
        if not self._link.exists():
            return [Problem(self._place.layer, f"{self._link} leads nowhere; point it to a release")]
        return []

    def _present(self) -> str:
        try:
            return self._link.readlink().name
        except OSError as error:
            raise AdapterError(f"{self._link}: {error.strerror}", permanent=False) from error

    def _move(self, name: str) -> None:
        new = self._settings.directory / ".new"
        new.unlink(missing_ok=True)
        new.symlink_to(name)
        os.replace(new, self._link)
        sync_directory(self._settings.directory)

    def _release(self, name: str) -> Release:
        made = (self._settings.directory / name).stat().st_mtime
        return Release(name, created=datetime.fromtimestamp(made, UTC))

    def _check(self, release: Release) -> None:
        if _NAME.fullmatch(release.id) is None or not (self._settings.directory / release.id).is_dir():
            raise AdapterError("no such release", permanent=True)

    def _trace(self, change: Change, what: str) -> Path:
        return self._place.scratch / f"{re.sub(r'[^a-z0-9]', '-', change.key)}.{what}.json"
