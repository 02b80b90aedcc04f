"""The calendar begins its entries, each once at a time; what was missed is made up for, once.

When an entry ran last its owner knows from the journal, so that no start forgets it and none runs twice. The loop is on
our clock and not on a scheduler's, so that a clock that is set moves what comes next, too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rollbackd.journal import JournalUnavailable
from rollbackd.syntax.cron import CronTimes
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

_GLANCE = timedelta(seconds=15)
"""The longest sleep, since wall time may be set meanwhile."""
_APART = timedelta(seconds=30)
"""The time between two entries that have the same times."""
_FARTHEST = timedelta(minutes=10)
"""All entries of the same times begin within this."""
_AGAIN = timedelta(minutes=1)
"""The pause before an entry that failed is begun again."""


@dataclass(frozen=True, slots=True)
class CalendarEntry:
    """One entry of the calendar."""

    name: str
    """Unique: `snapshot checkout/config 0 2 * * *`."""
    times: CronTimes | None
    """When it comes; None: whenever `due` says so."""
    last: Callable[[], datetime | None]
    """When it began last, as the journal says; None: never."""
    work: Callable[[], Awaitable[None]]
    """Writes that it began, once what it waits for is over. How many entries work at once is its own business."""
    due: Callable[[], object] = lambda: None
    """For an entry without times: anything but None once it is to begin."""


class Calendar:
    """The root task `timetable`."""

    def __init__(self, entries: Sequence[CalendarEntry], clock: Clock) -> None:
        self._entries = tuple(entries)
        self._clock = clock
        self._since = clock.now()
        """When the calendar began to look, by the clock as it is now."""
        self._offsets = _offsets(entries)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._rest: dict[str, float] = {}
        """Until when an entry that failed is left alone."""
        self._log = log.get("calendar")

    async def run(self) -> None:
        """Begin entries for ever."""
        try:
            while True:
                self.look()
                await self._clock.sleep(self._until_next())
        finally:
            await end(self._running.values())

    def look(self) -> None:
        """Begin what is due."""
        now = self._clock.now()
        self._since = min(self._since, now)
        due = [entry for entry in self._entries if entry.name not in self._running and self.next(entry) <= now]
        for entry in sorted(due, key=self.next):
            if self._clock.monotonic() >= self._rest.get(entry.name, 0):
                self._running[entry.name] = asyncio.create_task(self._guarded(entry), name=entry.name)

    def next(self, entry: CalendarEntry) -> datetime:
        """When an entry is to begin; a time in the past when it was missed."""
        if entry.times is None:
            return self._since if entry.due() else self._clock.now() + _GLANCE
        last, offset = entry.last(), self._offsets[entry.name]
        if last is None and entry.times.every is not None:
            return self._since + offset
        return entry.times.after_last(last, self._clock.now(), self._since) + offset

    def _until_next(self) -> timedelta:
        waiting = [self.next(entry) for entry in self._entries if entry.name not in self._running]
        left = min(waiting, default=self._clock.now() + _GLANCE) - self._clock.now()
        return min(max(left, timedelta(seconds=1)), _GLANCE)

    async def _guarded(self, entry: CalendarEntry) -> None:
        try:
            await entry.work()
        except JournalUnavailable as error:
            self._log.error("what is on the calendar waits for the journal", entry=entry.name, error=str(error))
            self._leave_alone(entry)
        except Exception:  # noqa: BLE001  # one entry must not end the others; it is begun again
            self._log.exception("what is on the calendar failed", entry=entry.name)
            self._leave_alone(entry)
        finally:
            self._running.pop(entry.name, None)

    def _leave_alone(self, entry: CalendarEntry) -> None:
        self._rest[entry.name] = self._clock.monotonic() + _AGAIN.total_seconds()


def _offsets(entries: Sequence[CalendarEntry]) -> dict[str, timedelta]:
    """How much later each entry begins: those of the same times must not all begin at once. The first is on time."""
    groups: dict[CronTimes, list[str]] = {}
    for entry in entries:
        if entry.times is None:
            continue
        groups.setdefault(entry.times, []).append(entry.name)
    apart = {times: min(_APART, _FARTHEST / len(names)) for times, names in groups.items()}
    return {name: n * apart[times] for times, names in groups.items() for n, name in enumerate(names)}
