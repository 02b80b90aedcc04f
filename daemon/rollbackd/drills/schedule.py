"""Drills that `schedules` names, as the calendar takes them. A held drill is a fact, so no start repeats it."""

import asyncio
from datetime import datetime, timedelta
from functools import partial

from rollbackd import facts
from rollbackd.calendar import CalendarEntry
from rollbackd.config.models import Config, Service
from rollbackd.config.schedules import DrillSchedule
from rollbackd.drills.driver import DrillRunner
from rollbackd.drills.preconditions import DrillNotAllowed
from rollbackd.incident.drill import INTERRUPTED
from rollbackd.model import DAEMON
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock

_AT_ONCE = 2
"""How many drills of the calendar ask at the same time."""
_AGAIN = timedelta(minutes=10)
"""The pause before a drill is tried again that cannot be held now: a rollback is under way, or the service is held."""
_GIVEN_UP = timedelta(hours=24)
"""How long it is tried. After that it is noted why it was not held, and the next drill comes at its time."""


class DrillTimetable:
    """Every `{drill: SERVICE}` of the configuration."""

    def __init__(self, config: Config, read_model: ReadModel, clock: Clock, drills: DrillRunner) -> None:
        self._config = config
        self._read_model = read_model
        self._clock = clock
        self._drills = drills
        self._few = asyncio.Semaphore(_AT_ONCE)

    def planned(self) -> list[CalendarEntry]:
        """Every entry, as the calendar takes it."""
        return [
            CalendarEntry(_name(entry), entry.times, partial(self._last, entry), partial(self._hold, entry))
            for entry in self._config.schedules
            if isinstance(entry, DrillSchedule) and self._config.service(entry.drill) is not None
        ]

    def _service(self, entry: DrillSchedule) -> Service:
        service = self._config.service(entry.drill)
        assert service is not None
        return service

    def _plans(self, entry: DrillSchedule) -> tuple[str, ...]:
        plans = self._service(entry).plan
        return (entry.plan,) if entry.plan else plans[:1] if entry.execute else plans

    def _last(self, entry: DrillSchedule) -> datetime | None:
        """When a drill like it ended last, whoever held it."""
        return self._read_model.of(entry.drill).drilled.get((self._plans(entry), entry.execute))

    async def _hold(self, entry: DrillSchedule) -> None:
        """Hold the drill as soon as it can be held; not twice when an earlier process's has ended meanwhile."""
        before, began = self._last(entry), self._clock.monotonic()
        hold = self._drills.execute if entry.execute else self._drills.hold
        while self._last(entry) == before:
            try:
                async with self._few:
                    view = await hold(self._service(entry), entry.plan, DAEMON)
            except DrillNotAllowed as error:
                if self._clock.monotonic() - began >= _GIVEN_UP.total_seconds():
                    why = facts.Drilled(self._plans(entry), INTERRUPTED, (str(error),), execute=entry.execute)
                    await self._drills.note(entry.drill, why, DAEMON)
                    return
                await self._clock.sleep(_AGAIN)
                continue
            while view.incident and self._last(entry) == before:
                await self._clock.sleep(_AGAIN / 60)


def _name(entry: DrillSchedule) -> str:
    how = "executed" if entry.execute else "asked"
    return f"drill {entry.drill} {entry.plan or '-'} {how} {entry.cron or entry.every}"
