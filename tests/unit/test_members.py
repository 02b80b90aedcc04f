"""A member's clock beside the database's, and all configurations: told when they part and when they agree again."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from rollbackd import facts
from rollbackd.journal import JournalUnavailable, Member
from rollbackd.journal.memory import MemoryJournal
from rollbackd.state.members import Membership
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import JumpWatch
from tests.fakes.clock import ManualClock


class ApartJournal(MemoryJournal):
    """Its clock is another one than ours."""

    ahead = timedelta()
    away = False
    configurations: Mapping[str, str] = {"ops-1": "c1", "ops-2": "c1"}

    async def members(self) -> list[Member]:
        now = datetime(2026, 3, 1, tzinfo=UTC)
        gone = Member("ops-3", "", "1.0", "c0", now, timedelta(), timedelta(), drives=False, epoch=1)
        lost = Member("ops-4", "boot/4", "1.0", "c0", now, timedelta(seconds=5), timedelta(), drives=False, epoch=1)
        living = [
            Member(host, "boot/1", "1.0", which, now, timedelta(seconds=2), timedelta(), drives=False, epoch=1)
            for host, which in self.configurations.items()
        ]
        return [*living, gone, lost]

    async def attend(self, host: str, process: str, version: str, configuration: str) -> timedelta:
        if self.away:
            raise JournalUnavailable("db1: does not serve now")
        return self.ahead


async def test_a_clock_that_is_far_from_the_databases_is_told_once_and_asks_until_they_agree() -> None:
    clock = ManualClock()
    journal, jumps = ApartJournal(clock), JumpWatch(clock)
    member = Membership("ops-1", "boot/1", "c1", ReadModel(journal), clock, jumps)
    for seconds, astray in (
        (1.9, ""),
        (-3, "our clock is 3.0s behind the database's"),
        (2.5, "our clock is 2.5s ahead of the database's"),
        (0, ""),
    ):
        journal.ahead = timedelta(seconds=seconds)
        await member.attend()
        assert jumps.astray == astray
    told = [record.fact for record in journal.records]
    assert told == [
        facts.Notice(
            "clock",
            "on ops-1 our clock is 3.0s behind the database's; until they agree nothing is rolled back by itself there",
            details={"subject": "ops-1"},
        ),
        facts.Notice(
            "clock", "the clock of ops-1 agrees with the database's again", over=True, details={"subject": "ops-1"}
        ),
    ]


async def test_a_member_that_is_not_heard_knows_that_nothing_can_be_written_until_it_is() -> None:
    clock = ManualClock()
    journal = ApartJournal(clock)
    read_model = ReadModel(journal)
    member = Membership("ops-1", "boot/1", "c1", read_model, clock, JumpWatch(clock))
    journal.away = True
    with pytest.raises(JournalUnavailable):
        await member.attend()
    assert read_model.trouble == "db1: does not serve now"
    journal.away = False
    await member.attend()
    assert read_model.trouble == ""


async def test_configurations_that_differ_for_longer_than_a_change_of_them_takes_are_told_once_and_that_it_is_over() -> (
    None
):
    clock = ManualClock()
    journal = ApartJournal(clock)
    apart, alike = {"ops-1": "c1", "ops-2": "c2"}, {"ops-1": "c2", "ops-2": "c2"}

    async def told_after(*looks: Mapping[str, str]) -> list[str]:
        before = len(journal.records)
        member = Membership("ops-1", "boot/1", "c1", ReadModel(journal), clock, JumpWatch(clock))
        for journal.configurations in looks:
            await member.compare()
        return [f"{one.fact.kind}: {one.fact.text}" for one in journal.records[before:]]

    assert await told_after(alike, apart, alike, apart) == [], "it was being changed"
    (said,) = await told_after(apart, apart, apart)
    assert said == (
        "configurations_differ: not all hosts have the same configuration (c1 on ops-1; c2 on ops-2): who takes over "
        "would not do the same"
    )
    assert await told_after(apart, apart) == [], "whoever drove before has told it"
    assert await told_after(alike, alike) == [
        "configurations_differ: all hosts that live have the same configuration again"
    ]
