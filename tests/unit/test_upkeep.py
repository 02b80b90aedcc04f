"""The journal is cared for each night; a night without us is made up for once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import cast

from rollbackd.calendar import Calendar
from rollbackd.journal import AuditReport, Journal
from rollbackd.state.read_model import ReadModel
from rollbackd.upkeep import Upkeep
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal

KEEP = timedelta(days=30)


class Watched(MemoryJournal):
    """Notes what is done to it, and when."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pruned: list[tuple[str, datetime]] = []
        self.audited: list[str] = []
        self.retained: list[str] = []
        self.broken_links: tuple[str, ...] = ()

    async def prune(self, before: datetime) -> int:
        self.pruned.append((f"{self.clock.now():%d %H:%M}", before))
        return 0

    async def retain(self) -> None:
        """What is old in layers is dropped."""
        self.retained.append(f"{self.clock.now():%d %H:%M}")

    async def audit(self) -> AuditReport:
        self.audited.append(f"{self.clock.now():%d %H:%M}")
        return AuditReport(1, 1, self.broken_links)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(journal: Watched, clock: ManualClock) -> AsyncIterator[None]:
    """One life of the daemon, as far as this goes."""
    upkeep = Upkeep(ReadModel(cast("Journal", journal)), KEEP, clock, journal.retain)
    await upkeep.open()
    task = asyncio.create_task(Calendar(upkeep.planned(), clock).run())
    await settle()
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def pass_time(clock: ManualClock, length: timedelta) -> None:
    end = clock.now() + length
    while clock.now() < end:
        clock.advance(timedelta(minutes=5))
        await settle()


async def test_each_night_what_is_over_is_forgotten_and_all_is_audited() -> None:
    clock = ManualClock()
    journal = Watched(clock)
    async with running(journal, clock):
        assert (journal.pruned, journal.audited) == ([], [])
        await pass_time(clock, timedelta(days=2))
    assert [at for at, _ in journal.pruned] == journal.retained == ["03 03:20", "04 03:20"]
    assert journal.pruned[0][1] == datetime.fromisoformat("2026-03-03 03:20+00:00") - KEEP
    assert journal.audited == ["03 04:20", "04 04:20"]
    assert journal.records == []


async def test_a_night_in_which_nobody_was_there_is_made_up_for_once() -> None:
    clock = ManualClock()
    journal = Watched(clock)
    async with running(journal, clock):
        await pass_time(clock, timedelta(days=1))
    clock.advance(timedelta(days=3))
    async with running(journal, clock):
        await pass_time(clock, timedelta(hours=1))
    assert journal.audited == ["03 04:20", "06 10:00"]
    async with running(journal, clock):
        await pass_time(clock, timedelta(hours=1))
    assert journal.audited == ["03 04:20", "06 10:00"]
    assert [at for at, _ in journal.pruned] == ["03 03:20", "06 10:00"]


async def test_a_journal_that_does_not_fit_together_is_told() -> None:
    clock = ManualClock()
    journal = Watched(clock)
    journal.broken_links = tuple(f"x: #{number} is missing" for number in range(7))
    async with running(journal, clock):
        await pass_time(clock, timedelta(days=1))
    (record,) = journal.records
    assert record.fact.kind == "audit"
    assert record.fact.text == (
        "the journal does not fit together: x: #0 is missing; x: #1 is missing; x: #2 is missing; x: #3 is missing; "
        "x: #4 is missing"
    )
