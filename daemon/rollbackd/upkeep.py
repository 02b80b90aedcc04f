"""Upkeep on the calendar: what is over is forgotten, in the journal and in layers, and every chain is computed again.

When each began last is kept beside the readers' places in the journal. It is no fact, so that it wakes nobody.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from rollbackd import facts
from rollbackd.calendar import CalendarEntry
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.cron import CronTimes
from rollbackd.system.clock import Clock

_TIMES = {
    "prune": CronTimes("17 3 * * *"),
    "audit": CronTimes("17 4 * * *"),
    "checkpoint": CronTimes("47 * * * *"),
}


class Upkeep:
    """Prunes and audits once a night, and writes the checkpoint each hour."""

    def __init__(
        self, read_model: ReadModel, keep: timedelta, clock: Clock, retention: Callable[[], Awaitable[None]]
    ) -> None:
        """:param retention: has the layers drop what is old."""
        self._read_model = read_model
        self._retention = retention
        self._keep = keep
        self._clock = clock
        self._last: dict[str, datetime] = {}

    async def open(self) -> None:
        """Know what was done when. :raises JournalUnavailable:"""
        for name in _TIMES:
            if seconds := await self._read_model.journal.cursor(name):
                self._last[name] = datetime.fromtimestamp(seconds, UTC)

    def planned(self) -> list[CalendarEntry]:
        """All of it, as the timetable takes it."""
        work = {"prune": self._prune, "audit": self._audit, "checkpoint": self._read_model.save}
        return [
            CalendarEntry(name, times, partial(self._last.get, name), partial(self._begin, name, work[name]))
            for name, times in _TIMES.items()
        ]

    async def _begin(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        now = self._clock.now()
        await self._read_model.journal.enqueue((), name, int(now.timestamp()))
        self._last[name] = now
        await work()

    async def _prune(self) -> None:
        await self._read_model.journal.prune(self._clock.now() - self._keep)
        await self._retention()

    async def _audit(self) -> None:
        if broken := await self._read_model.audit():
            text = f"the journal does not fit together: {'; '.join(broken[:5])}"
            await self._read_model.tell(facts.Notice("audit", text))
