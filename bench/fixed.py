"""A layer without a program behind it: what it runs is a variable. So the daemon alone is measured, and no spawning.

The daemon under test finds it as it finds every adapter, by an entry point.
"""

import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from rollbackd.adapter import Place, Settings
from rollbackd.model import Change, Problem, Progress, Release, Traits

GOOD, BAD = Release("good"), Release("bad")
_RUNNING: dict[str, Release] = {}
"""By service and layer; the layers of a service are built more than once."""


class FixedSettings(Settings):
    """A layer of adapter `fixed`."""

    record: Path | None = None
    """A file that gets a line a call: service, method, nanoseconds since 1970."""


class Fixed:
    """One variable as a layer; it runs the bad release until it is rolled back."""

    settings_model: ClassVar[type[Settings]] = FixedSettings
    traits = Traits()

    def __init__(self, settings: FixedSettings, place: Place) -> None:
        self._record = settings.record
        self._place = place
        self.resource = f"fixed:{place.service}/{place.layer}"

    def _note(self, method: str) -> None:
        if self._record is not None:
            at = time.time_ns()
            os.write(_file(self._record), f"{self._place.service} {method} {at}\n".encode())

    async def current(self) -> Release:
        self._note("current")
        return _RUNNING.get(self.resource, BAD)

    async def releases(self) -> Sequence[Release]:
        self._note("releases")
        return (BAD, GOOD)

    async def plan(self, target: Release) -> Change:
        self._note("plan")
        return Change(self._place.layer, _RUNNING.get(self.resource, BAD), target)

    async def apply(self, change: Change) -> None:
        self._note("apply")
        _RUNNING[self.resource] = change.after

    async def progress(self, change: Change) -> Progress:
        self._note("progress")
        done = _RUNNING.get(self.resource, BAD) == change.after
        return Progress.DONE if done else Progress.NOT_STARTED

    async def ready(self) -> Sequence[Problem]:
        self._note("ready")
        return ()


@cache
def _file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
