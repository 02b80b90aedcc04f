"""A member's clock beside the database's: told when they part and when they agree again; between, people are asked."""

from datetime import timedelta

import pytest

from rollbackd import facts
from rollbackd.journal import JournalUnavailable
from rollbackd.journal.memory import MemoryJournal
from rollbackd.state.members import Membership
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import JumpWatch
from tests.fakes.clock import ManualClock


class ApartJournal(MemoryJournal):
    """Its clock is another one than ours."""

    ahead = timedelta()
    away = False

    async def attend(self, host: str, process: str, version: str) -> timedelta:
        if self.away:
            raise JournalUnavailable("db1: does not serve now")
        return self.ahead


async def test_a_clock_that_is_far_from_the_databases_is_told_once_and_asks_until_they_agree() -> None:
    clock = ManualClock()
    journal, jumps = ApartJournal(clock), JumpWatch(clock)
    member = Membership("ops-1", "boot/1", ReadModel(journal), clock, jumps)
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
    member = Membership("ops-1", "boot/1", read_model, clock, JumpWatch(clock))
    journal.away = True
    with pytest.raises(JournalUnavailable):
        await member.attend()
    assert read_model.trouble == "db1: does not serve now"
    journal.away = False
    await member.attend()
    assert read_model.trouble == ""
