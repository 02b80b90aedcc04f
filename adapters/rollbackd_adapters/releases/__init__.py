"""A directory of releases and a link to the one that runs, as Capistrano, Deployer and many front ends keep them.

It moves the link, at one instant, runs the `then` commands and removes the oldest releases beyond `keep`; it saves
nothing, since the release that is left stays where it is. A release is one directory: its name, the directory itself
and, where there is one, what its `revision` file says. A name that is used again for something else is another release;
one whose files are changed in place is seen to be another only by its revision file.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from rollbackd.adapter import AdapterError, Needs, Place, Settings
from rollbackd.model import Change, Problem, Progress, Release, Traits
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Busy, Lock, Spawner, SpawnError
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.ids import check_own
from rollbackd_adapters.lacks import missing_of_then
from rollbackd_adapters.releases.disk import Disk, ReleaseDirectory
from rollbackd_adapters.releases.settings import ReleasesSettings
from rollbackd_adapters.then import run_then
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, named, progress_of

__all__ = ["ReleasesAdapter", "ReleasesSettings"]

_ID = re.compile(r"[0-9a-f]{16}")
_REMOVING = timedelta(minutes=1)
"""For each old release; people wait. What is left of it is removed next time."""
_AT_ONCE = 5


class ReleasesAdapter:
    """One link as a layer."""

    settings_model: ClassVar[type[Settings]] = ReleasesSettings
    traits = Traits()

    def __init__(self, settings: ReleasesSettings, place: Place) -> None:
        self._settings = settings
        self._place = place
        self._link = settings.link
        self._disk = Disk(settings)
        self._log = log.get("releases").bind(service=place.service, layer=place.layer)

    @property
    def resource(self) -> str:
        return f"releases:{os.path.realpath(self._link.parent)}/{self._link.name}"

    @property
    def needs(self) -> Needs:
        """Where the link is replaced, and the releases: `then` runs in one, and old ones are removed."""
        return Needs(writes=(self._link.parent, self._settings.directory))

    async def current(self) -> Release:
        return (await asyncio.to_thread(self._disk.current)).release

    async def releases(self) -> Sequence[Release]:
        return [found.release for found in await asyncio.to_thread(self._disk.all)]

    async def plan(self, target: Release) -> Change:
        _check_id(target)
        wanted, current = await asyncio.to_thread(lambda: (self._disk.find(target), self._disk.current()))
        return Change(self._place.layer, current.release, wanted.release)

    async def apply(self, change: Change) -> None:
        _check_id(change.before)
        _check_id(change.after)
        trace = Trace(self._place.scratch, change)
        spawner: Spawner = self._place.spawner
        with as_adapter_errors():
            async with spawner.hold(self.resource) as lock:
                target = await in_thread(self._switch, change, trace)
                if target is None:
                    return
                await run_then(
                    self._settings.then,
                    place=self._place,
                    change=change,
                    trace=trace,
                    lock=lock,
                    cwd=target.path,
                    timeout=self._settings.timeout,
                )
                trace.finish(after=change.after.id)
                await self._prune(lock)

    def _switch(self, change: Change, trace: Trace) -> ReleaseDirectory | None:
        """Move the link, unless it has moved; None when all of the change was done before."""
        progress = progress_of(trace, change, self._disk.current().release.id)
        if progress is Progress.DONE:
            return None
        if progress is Progress.SUPERSEDED:
            raise AdapterError(
                f"{self._link} leads to a release that this rollback neither began at nor goes to: somebody else moved "
                "it, and it is left to them",
                permanent=True,
            )
        target = self._disk.find(change.after)
        begun = trace.begun
        if begun is None:
            trace.begin(key=change.key, before=change.before.id, after=change.after.id)
        boundary("releases.begun")
        if not (begun or {}).get("moved"):
            self._disk.point(target)
            boundary("releases.moved")
            if self._settings.then:  # from here on a link that leads elsewhere is somebody else's doing
                trace.begin(moved=True)
        return target

    async def progress(self, change: Change) -> Progress:
        spawner: Spawner = self._place.spawner
        trace = Trace(self._place.scratch, change)
        if spawner.held(self.resource):
            return Progress.RUNNING
        return progress_of(trace, change, (await asyncio.to_thread(self._disk.current)).release.id)

    async def ready(self) -> Sequence[Problem]:
        return [Problem(self._place.layer, text) for text in await asyncio.to_thread(self._problems)]

    def _problems(self) -> list[str]:
        try:
            self._disk.current()
        except AdapterError as error:
            return [str(error)]
        spawner: Spawner = self._place.spawner
        needed = [self._link.parent, *([self._settings.directory] if self._settings.keep else [])]
        found = [
            f"{path}: rollbackd may not write there; give its user that right (ReadWritePaths= too)"
            for path in needed
            if not os.access(path, os.W_OK | os.X_OK)
        ]
        return found + missing_of_then(spawner, self._settings.then)

    async def _prune(self, lock: Lock) -> None:
        """Remove the oldest. The change is done whatever becomes of it, so a failure is logged and tried next time."""
        if not self._settings.keep:
            return
        spawner: Spawner = self._place.spawner
        try:
            for path in (await asyncio.to_thread(self._surplus))[:_AT_ONCE]:
                finished = await spawner.run(
                    ["rm", "-rf", "--one-file-system", "--", str(path)], timeout=_REMOVING, lock=lock
                )
                if not finished.ok:
                    self._log.warning("an old release is not removed yet", path=str(path), error=finished.tail)
        except (AdapterError, SpawnError, Busy, OSError) as error:
            self._log.warning("old releases cannot be removed", error=str(error))

    def _surplus(self) -> list[Path]:
        spare = {self._disk.current().release.id, *named(self._place.scratch)}
        return self._disk.surplus(self._settings.keep, spare)


def _check_id(release: Release) -> None:
    check_own(release, _ID, "a release; `rollbackd plan` lists them")
