"""A journal of years is read in the second that a restart may take. Limits are wide: machines are shared."""

from pathlib import Path

from rollbackd.facts import Applied, Ended, Notice, Told
from rollbackd.journal import Entry, open_journal
from rollbackd.model import Outcome
from rollbackd.system.clock import SystemClock

FACTS = (
    Notice("rule_fault", "several series for one service and no `aggregate`", "checkout"),
    Applied("code"),
    Ended("checkout", "checkout-1", Outcome.RECOVERED, acted=True),
    Told("room", "opened", "checkout-1/opened/room"),
)


async def test_100_000_facts_are_opened_folded_and_asked_in_the_time_of_a_restart(tmp_path: Path) -> None:
    clock = SystemClock()
    url = f"sqlite:///{tmp_path}/journal.db"
    journal = await open_journal(url, clock)
    for start in range(0, 100_000, 5_000):
        numbers = range(start, start + 5_000)
        await journal.append(*(Entry(f"service:{number % 500}", FACTS[number % 4]) for number in numbers))
    await journal.close()

    started = clock.monotonic()
    journal = await open_journal(url, clock)
    opened = clock.monotonic()
    records = await journal.since(0, ("Notice", "Applied", "Ended", "Told"))
    read = clock.monotonic()
    newest = await journal.latest(("Ended", "Notice"), limit=50)
    asked = clock.monotonic()
    await journal.close()
    assert [record.seq for record in records] == list(range(1, 100_001))
    assert len(newest) == 50
    assert opened - started < 1  # measured 0.02 s
    assert read - opened < 5  # measured 0.9 s
    assert asked - read < 0.5  # measured 0.003 s
