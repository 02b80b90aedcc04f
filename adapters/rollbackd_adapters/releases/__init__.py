"""A directory of releases and a link to the one that runs, as Capistrano, Deployer and many front ends keep them.

It moves the link, at one instant, and runs the `then` commands; it saves nothing, since the release that is left stays
where it is. The oldest beyond `keep` are removed at night. A release is one directory: its name, the directory itself
and, where there is one, what its `revision` file says. A name that is used again for something else is another release;
one whose files are changed in place is seen to be another only by its revision file.
"""

import asyncio
import os
import re
from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from rollbackd.adapter import AdapterError, Needs, Place, Settings
from rollbackd.model import Change, Release, Traits
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.failures import as_adapter_errors, holding
from rollbackd_adapters.ids import check_own
from rollbackd_adapters.lacks import hint, missing_of_then
from rollbackd_adapters.releases.disk import Disk
from rollbackd_adapters.releases.settings import ReleasesSettings
from rollbackd_adapters.then import Then
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, named

__all__ = ["ReleasesAdapter", "ReleasesSettings"]

_ID = re.compile(r"[0-9a-f]{16}")
_REMOVING = timedelta(minutes=1)
"""For each old release. The rest of it is removed next time."""
_AT_ONCE = 5


class ReleasesAdapter(StepAdapter[ReleasesSettings]):
    """One link as a layer."""

    settings_model: ClassVar[type[Settings]] = ReleasesSettings
    traits = Traits(local=True)

    def __init__(self, settings: ReleasesSettings, place: Place) -> None:
        super().__init__(settings, place)
        link = Path(os.path.realpath(settings.link.parent), settings.link.name)
        self.resource = f"releases:{link}"
        self.needs = Needs(writes=(settings.link.parent, settings.directory), moves=(link, settings.link))
        """Where the link is replaced, and the releases: `then` runs in one, and old ones are removed."""
        self._link = settings.link
        self._disk = Disk(settings)
        self._unknown = self._disk.gone
        self._log = log.get("releases").bind(service=place.service, layer=place.layer)

    async def current(self) -> Release:
        return (await asyncio.to_thread(self._disk.current)).release

    async def releases(self) -> Sequence[Release]:
        found, refused = await asyncio.to_thread(self._disk.found)
        self._passed_over = f"{len(refused)} of the releases are passed over: {refused[0]}" if refused else ""
        return [each.release for each in found]

    async def read(self, release: Release, path: Path) -> str:
        self._check_id(release)
        found = await asyncio.to_thread(self._disk.find, release)
        link = next(one for one in self.needs.moves if path.is_relative_to(one))
        return await asyncio.to_thread(_text, found.path / path.relative_to(link))

    async def _move(self, change: Change, trace: Trace, _lock: Lock) -> None:
        await in_thread(self._switch, change, trace)

    def _switch(self, change: Change, trace: Trace) -> None:
        target = self._disk.find(change.after)
        if trace.begun is None:
            trace.intend()
        boundary("releases.begun")
        self._disk.point(target)
        boundary("releases.moved")

    async def _then(self, change: Change) -> Then:
        target = await asyncio.to_thread(self._disk.find, change.after)
        return Then(self._settings.then, target.path, self._settings.timeout, self._settings.run_as)

    async def _elsewhere(self) -> str:
        return (
            f"{self._link} leads to a release that this rollback neither began at nor goes to: somebody else moved it"
        )

    async def _problems(self) -> list[str]:
        return await asyncio.to_thread(self._blocked)

    def _blocked(self) -> list[str]:
        try:
            self._disk.current()
        except AdapterError as error:
            return [str(error)]
        needed = [self._link.parent, *([self._settings.directory] if self._settings.keep else [])]
        found = [
            f"{path}: rollbackd may not write there; give its user that right (ReadWritePaths= too)"
            for path in needed
            if not os.access(path, os.W_OK | os.X_OK)
        ]
        return found + missing_of_then(self._spawner, self._settings.then, self._settings.run_as)

    def _check_id(self, release: Release) -> None:
        check_own(release, _ID, "a release; `rollbackd plan` lists them")

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        """Remove the oldest releases. One that cannot be removed is no release any more, and is tried next time."""
        keep = last or self._settings.keep
        if not keep:
            return []
        async with holding(self._spawner, self.resource):
            names, aside = await in_thread(self._set_aside, keep, frozenset(spare))
        for path in aside[:_AT_ONCE]:  # without the lock: nothing goes to them, and a rollback is not kept waiting
            with as_adapter_errors():
                finished = await self._spawner.run(
                    ["rm", "-rf", "--one-file-system", "--", str(path)], timeout=_REMOVING
                )
            if not finished.ok:
                self._log.warning("an old release is not removed yet", path=str(path), error=finished.tail)
        return names

    def _set_aside(self, keep: int, spare: frozenset[str]) -> tuple[list[str], list[Path]]:
        needed = spare | {self._disk.current().release.id} | named(self._place.scratch, "before", "after")
        try:
            return self._disk.set_aside(keep, needed)
        except OSError as error:
            text = f"{self._settings.directory}: old releases cannot be removed: {hint(error)}"
            raise AdapterError(text, permanent=False) from error


def _text(file: Path) -> str:
    """Of a file; empty: there is none."""
    try:
        return file.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise AdapterError(f"{file}: {hint(error)}", permanent=False) from error
