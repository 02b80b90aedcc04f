"""What the book counts, of facts."""

from typing import Any, cast

from rollbackd import facts
from rollbackd.journal import Entry, Journal
from rollbackd.model import FLEET, Outcome
from rollbackd.state.read_model import ReadModel
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal


async def booked(*said: Any) -> ReadModel:
    """A book, and one that reads the same journal as after a restart: they say the same."""
    journal = MemoryJournal(ManualClock())
    read_model, later = ReadModel(cast("Journal", journal)), ReadModel(cast("Journal", journal))
    for fact in said:
        await read_model.append(Entry(FLEET, fact))
    await later.open()
    for service in ("shop", "till"):
        assert (read_model.counts.began[service], read_model.counts.asked[service]) == (
            later.counts.began[service],
            later.counts.asked[service],
        )
        assert read_model.counts.ended(service) == later.counts.ended(service)
    return read_model


async def test_a_question_counts_as_a_rollback_once_it_has_become_one() -> None:
    asked = [facts.Opening("shop", "shop-1", asks=True), facts.Opening("till", "till-1", asks=True)]
    read_model = await booked(*asked, facts.Rising("shop", "shop-1", manual=True))
    assert (read_model.counts.asked["shop"], read_model.counts.began["shop"]) == (1, 1)
    assert (read_model.counts.asked["till"], read_model.counts.began["till"]) == (1, 0)


async def test_the_last_outcome_of_an_incident_counts() -> None:
    ends = [facts.Ended("shop", "shop-1", outcome, True) for outcome in (Outcome.RECOVERED, Outcome.INEFFECTIVE)]
    read_model = await booked(facts.Opening("shop", "shop-1"), *ends)
    assert (read_model.counts.began["shop"], read_model.counts.ended("shop")) == (1, {"ineffective": 1})


async def test_drills_count_neither_as_rollbacks_nor_as_recoveries() -> None:
    said: list[Any] = []
    for number, way in enumerate(("there", "back"), 1):
        said += [facts.Opening("shop", f"shop-{number}", True, drill=way)]
        said += [facts.Ended("shop", f"shop-{number}", Outcome.RECOVERED, True, manual=True)]
    read_model = await booked(
        *said, facts.Opening("shop", "shop-3"), facts.Ended("shop", "shop-3", Outcome.FAILED, True)
    )
    assert (read_model.counts.began["shop"], read_model.counts.ended("shop")) == (1, {"failed": 1})
