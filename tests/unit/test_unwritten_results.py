"""What was done on a host and could not be written: kept on its disk, and what a journal lacks of it afterwards."""

from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.journal import Access, Unwritten, UnwrittenResult
from rollbackd.journal.unwritten import missing
from tests.unit.builders import at

STREAM = "incident:shop-1"
BEGUN = facts.ApplyStarted("code")
DONE = facts.Applied("code", "all of it")
FAILED = facts.ApplyFailed("code", "no room", permanent=False)
THEIRS = facts.Adopted("boot/2", "ops-b")
OURS = facts.Adopted("boot/3", "ops-a")


def result(fact: Any = DONE) -> UnwrittenResult:
    kind, body = facts.encode(fact)
    return UnwrittenResult(STREAM, "apply", "code", at(1), "ops-a", at(9), kind, body.decode())


def late(failed: str = "") -> facts.ReportedLate:
    return facts.ReportedLate("apply", "code", "ops-a", at(9), failed)


def records(*found: Any) -> list[Record]:
    """An incident's facts a minute apart, from the start on."""
    return [Record(n, STREAM, n, at(n - 1), "rollbackd", fact) for n, fact in enumerate(found, 1)]


@pytest.mark.parametrize(
    ("found", "lacks"),
    [
        ((OURS, BEGUN), DONE),
        ((OURS, BEGUN, facts.Approved()), DONE),
        ((OURS, BEGUN, OURS), DONE),
        ((OURS, BEGUN, DONE), None),
        ((OURS, BEGUN, OURS, DONE, facts.ApplyStarted("code", 2)), None),
        ((OURS, BEGUN, THEIRS), late()),
        ((OURS, BEGUN, THEIRS, DONE), late()),
        ((OURS, BEGUN, FAILED), late()),
        ((OURS, BEGUN, facts.Parked("it may still run there")), late()),
        ((OURS, BEGUN, THEIRS, facts.Parked("it may still run there"), late()), None),
        ((OURS,), late()),
        ((), None),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, tuple) else " ".join(type(fact).__name__ for fact in one),
)
def test_a_journal_lacks_a_result_while_that_is_waited_for_and_after_that_only_that_it_came_late(
    found: tuple[Any, ...], lacks: Any
) -> None:
    assert missing(records(*found), result()) == lacks


def test_a_late_failure_says_why() -> None:
    assert missing(records(OURS, BEGUN, THEIRS), result(FAILED)) == late("no room")
    moved = facts.StepSuperseded("code")
    assert missing(records(OURS, BEGUN, THEIRS), result(moved)) == late("somebody else moved it")


def test_an_earlier_attempt_of_the_same_step_is_not_this_one() -> None:
    there = records(facts.ApplyStarted("code"), BEGUN, THEIRS, facts.ApplyStarted("code", 2))
    assert missing(there[:2], result()) == DONE
    assert missing(there, result()) == late()


def test_what_is_kept_is_found_again_until_it_is_forgotten(tmp_path: Path) -> None:
    access = Access(tmp_path)
    before, unwritten = (Unwritten.beside("postgresql://db/x", access) for _ in range(2))
    assert before.results() == []
    assert before.keep(result(FAILED))
    assert before.keep(result())
    damaged = tmp_path / "journal.unwritten" / "basket-1.json"
    damaged.write_text("{")
    assert unwritten.results() == [result()]
    assert damaged.stat().st_mode & 0o777 == 0o644, "it is left for a person"
    assert (tmp_path / "journal.unwritten").stat().st_mode & 0o777 == 0o700
    unwritten.forget(result())
    unwritten.forget(result())
    assert unwritten.results() == []


def test_where_it_cannot_be_kept_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.unwritten").touch()
    unwritten = Unwritten(tmp_path / "journal.unwritten")
    assert not unwritten.keep(result())
    assert unwritten.results() == []
