"""The calendar in virtual time: on time, once, made up for, and never in the way of each other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from rollbackd.calendar import Calendar, CalendarEntry
from rollbackd.journal import JournalUnavailable
from rollbackd.syntax.cron import CronTimes
from tests.fakes.clock import START, ManualClock

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Wish:
    """Work without times, wanted now and then."""

    def __init__(self) -> None:
        self.wanted = False
        self.begun = 0

    @property
    def planned(self) -> CalendarEntry:
        return CalendarEntry("wish", None, lambda: None, self.work, lambda: self.wanted)

    async def work(self) -> None:
        self.begun += 1
        self.wanted = False


class Job:
    """Work that remembers when it began."""

    def __init__(self, clock: ManualClock, name: str, times: CronTimes, last: datetime | None = None) -> None:
        self.clock = clock
        self.name = name
        self.times = times
        self.begun: list[datetime] = []
        self.last = last
        self.hold_up: asyncio.Event | None = None
        self.errors: list[Exception] = []

    @property
    def planned(self) -> CalendarEntry:
        return CalendarEntry(self.name, self.times, lambda: self.last, self.work)

    async def work(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.last = self.clock.now()
        self.begun.append(self.last)
        if self.hold_up is not None:
            await self.hold_up.wait()

    @property
    def times_begun(self) -> list[str]:
        return [f"{at:%d %H:%M}" for at in self.begun]


@asynccontextmanager
async def running(clock: ManualClock, *jobs: Job | Wish) -> AsyncIterator[Calendar]:
    table = Calendar([job.planned for job in jobs], clock)
    task = asyncio.create_task(table.run())
    await settle()
    yield table
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def pass_time(clock: ManualClock, length: timedelta, step: timedelta = 5 * MINUTE) -> None:
    end = clock.now() + length
    while clock.now() < end:
        clock.advance(min(step, end - clock.now()))
        await settle()


async def test_an_entry_begins_at_its_times_and_a_new_one_waits_for_its_first() -> None:
    clock = ManualClock()
    nightly = Job(clock, "nightly", CronTimes("0 2 * * *"))
    async with running(clock, nightly):
        assert nightly.begun == []
        await pass_time(clock, timedelta(days=2))
    assert nightly.times_begun == ["03 02:00", "04 02:00"]


async def test_a_new_distance_begins_at_once_and_then_so_long_after_the_one_before() -> None:
    clock = ManualClock()
    often = Job(clock, "often", CronTimes(every=6 * HOUR))
    async with running(clock, often):
        await pass_time(clock, timedelta(hours=13))
    assert often.times_begun == ["02 10:00", "02 16:00", "02 22:00"]


async def test_what_was_missed_while_nobody_was_there_is_made_up_for_once() -> None:
    clock = ManualClock()
    nightly = Job(clock, "nightly", CronTimes("0 2 * * *"), last=START - timedelta(days=5))
    done = Job(clock, "done", CronTimes("0 2 * * *"), last=START - 8 * HOUR)
    async with running(clock, nightly, done):
        await pass_time(clock, HOUR)
        assert nightly.times_begun == ["02 10:00"]
        assert done.begun == []
        await pass_time(clock, timedelta(days=1))
    assert nightly.times_begun == ["02 10:00", "03 02:00"]


class SetClock(ManualClock):
    """Its wall time is set by somebody; lengths of time are not."""

    shift = timedelta()

    def now(self) -> datetime:
        return super().now() + self.shift


async def test_a_clock_that_was_ahead_does_not_stop_the_calendar() -> None:
    clock = SetClock()
    nightly = Job(clock, "nightly", CronTimes("0 2 * * *"), last=START + timedelta(days=400))
    async with running(clock, nightly):
        await pass_time(clock, timedelta(days=1))
        assert nightly.times_begun == ["03 02:00"]
        clock.shift = -timedelta(days=20)
        await pass_time(clock, timedelta(days=1))
        assert len(nightly.begun) == 2


async def test_entries_of_the_same_time_begin_one_after_the_other() -> None:
    clock = ManualClock()
    jobs = [Job(clock, f"job {n}", CronTimes("0 2 * * *")) for n in range(4)]
    other = Job(clock, "other", CronTimes("1 2 * * *"))
    async with running(clock, *jobs, other):
        await pass_time(clock, timedelta(hours=15, minutes=55))
        await pass_time(clock, 10 * MINUTE, timedelta(seconds=10))
        await pass_time(clock, timedelta(hours=8))
    apart = [(job.begun[0] - jobs[0].begun[0]).total_seconds() for job in jobs]
    assert apart == [0, 30, 60, 90]
    assert other.times_begun == ["03 02:01"]


async def test_an_entry_never_runs_twice_at_once_and_holds_up_no_other() -> None:
    clock = ManualClock()
    slow, quick = Job(clock, "slow", CronTimes(every=HOUR)), Job(clock, "quick", CronTimes(every=HOUR))
    slow.hold_up = asyncio.Event()
    async with running(clock, slow, quick):
        await pass_time(clock, timedelta(hours=3))
        assert len(slow.begun) == 1
        assert len(quick.begun) >= 3
        slow.hold_up.set()
        await pass_time(clock, 5 * MINUTE)
        assert len(slow.begun) == 2


async def test_one_that_fails_is_begun_again_a_minute_later_and_ends_nothing() -> None:
    clock = ManualClock()
    failing = Job(clock, "failing", CronTimes(every=HOUR))
    failing.errors = [JournalUnavailable("disk full"), RuntimeError("a fault")]
    async with running(clock, failing):
        await pass_time(clock, timedelta(seconds=50), timedelta(seconds=10))
        assert len(failing.errors) == 1
        await pass_time(clock, 5 * MINUTE, timedelta(seconds=10))
    assert len(failing.begun) == 1


class RestlessClock(ManualClock):
    """It goes on a little whenever it is looked at, as a real one does."""

    def now(self) -> datetime:
        self._now += timedelta(microseconds=1)
        return super().now()


async def test_what_has_no_times_begins_soon_after_it_is_wanted_and_once() -> None:
    clock, wish = RestlessClock(), Wish()
    async with running(clock, wish, Job(clock, "other", CronTimes(every=HOUR))):
        await pass_time(clock, 3 * HOUR)
        assert wish.begun == 0
        wish.wanted = True
        await pass_time(clock, timedelta(seconds=15), timedelta(seconds=15))
        assert wish.begun == 1
        await pass_time(clock, 3 * HOUR)
        assert wish.begun == 1
