"""What the read model knows: counts of facts, and incidents as all facts so far have made them."""

import asyncio
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.fold import fold
from rollbackd.incident.life import Incident
from rollbackd.journal import Conflict, Entry, Journal, JournalUnavailable
from rollbackd.model import FLEET, Outcome, incident_stream
from rollbackd.state.incidents import KEPT_ENDED
from rollbackd.state.projection import Projection
from rollbackd.state.read_model import ReadModel
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import opened, planned

SPAN = timedelta(minutes=5)


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


# -- one state ----------------------------------------------------------------------------------
STREAM = incident_stream("shop-1")


class TornJournal(MemoryJournal):
    """Others hear late of what is written, or never, as of another process."""

    deaf = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kept: list[list[Record]] = []
        self.reads = Counter[str]()

    def subscribe(self, heard: Callable[[Sequence[Record]], None]) -> None:
        def late(records: Sequence[Record]) -> None:
            if self.deaf:
                self.kept.append(list(records))
            else:
                heard(records)

        super().subscribe(late)

    async def read(self, stream: str, after: int = 0) -> list[Record]:
        self.reads["read"] += 1
        return await super().read(stream, after)

    async def since(self, seq: int, kinds: Sequence[str] = (), limit: int = 0) -> list[Record]:
        self.reads["since"] += 1
        return await super().since(seq, kinds, limit)


def begun(name: str = "shop-1") -> tuple[Entry, Entry]:
    """What opens an incident."""
    service = name.rpartition("-")[0]
    return Entry(FLEET, facts.Opening(service, name)), Entry(incident_stream(name), opened(service))


@pytest.fixture
async def journal() -> TornJournal:
    return TornJournal(ManualClock())


@pytest.fixture
async def model(journal: TornJournal) -> ReadModel:
    made = ReadModel(journal)
    await made.open()
    journal.reads.clear()
    return made


async def folded(journal: TornJournal, name: str = "shop-1") -> Incident | None:
    return fold([record for record in journal.records if record.stream == incident_stream(name)])


async def test_an_incident_is_what_all_of_its_facts_make_it_and_nothing_is_read(
    model: ReadModel, journal: TornJournal
) -> None:
    await model.append(*begun())
    for fact in (planned(), facts.ApplyStarted("code"), facts.Applied("code"), facts.Told("room", "opened", "1")):
        await model.append(Entry(STREAM, fact))
        assert await model.incident("shop-1") == await folded(journal)
    await journal.append(Entry(STREAM, facts.Acknowledged(), "unix:ann"))  # past the read model, by this process
    assert await model.incident("shop-1") == await folded(journal)
    assert journal.reads == {}


async def test_what_was_not_heard_in_its_order_is_read_before_an_incident_is_told_of(
    model: ReadModel, journal: TornJournal
) -> None:
    seen: list[int] = []
    model.subscribe(lambda record: seen.append(record.seq))
    await model.append(*begun())
    journal.deaf = True
    await journal.append(Entry(STREAM, facts.AbortRequested("stop"), "unix:ann"))
    journal.deaf = False
    await journal.append(Entry(STREAM, facts.Acknowledged(), "unix:ann"))
    assert (model.seq, seen) == (2, [1, 2]), "nothing is taken in over a gap"
    found = await model.incident("shop-1")
    assert found is not None
    assert (found.aborted, found.acknowledged, found) == ("unix:ann", "unix:ann", await folded(journal))
    assert (model.seq, seen, journal.reads) == (4, [1, 2, 3, 4], {"since": 1})


async def test_what_is_heard_again_or_late_is_taken_in_once(model: ReadModel, journal: TornJournal) -> None:
    seen: list[int] = []
    model.subscribe(lambda record: seen.append(record.seq))
    journal.deaf = True
    await asyncio.gather(*(model.append(Entry(FLEET, facts.Opening("shop", f"shop-{n}", asks=True))) for n in range(9)))
    journal.deaf = False
    for records in reversed(journal.kept):
        model._heard(records)
    await model.refresh()
    assert (seen, model.counts.asked["shop"]) == (list(range(1, 10)), 9)


async def test_what_was_not_written_is_not_known(model: ReadModel, journal: TornJournal) -> None:
    await model.append(*begun())
    before = await model.incident("shop-1")
    journal.broken = True
    with pytest.raises(JournalUnavailable):
        await model.append(Entry(STREAM, facts.Acknowledged()))
    journal.broken = False
    with pytest.raises(Conflict):
        await model.append(Entry(FLEET, facts.BreakerReset("")), Entry(STREAM, facts.Acknowledged(), follows=0))
    assert (await model.incident("shop-1"), model.seq, model.trouble) == (before, 2, "no space left on device")


async def test_a_new_life_knows_what_is_open_and_reads_what_has_ended_once(journal: TornJournal) -> None:
    for name in ("shop-1", "till-1"):
        await journal.append(*begun(name))
    await journal.append(
        Entry(STREAM, facts.Closed(Outcome.FAILED, "x")),
        Entry(FLEET, facts.Ended("shop", "shop-1", Outcome.FAILED, True)),
    )
    later = ReadModel(journal)
    await later.open()
    journal.reads.clear()
    assert (await later.incident("till-1"), journal.reads) == (await folded(journal, "till-1"), {})
    for _ in range(2):
        assert (await later.incident("shop-1"), journal.reads) == (await folded(journal), {"read": 1})
    assert await later.incident("shop-7") is None


async def test_only_the_newest_that_ended_are_remembered(model: ReadModel, journal: TornJournal) -> None:
    names = [f"s{n}-1" for n in range(KEPT_ENDED + 1)]
    for name in names:
        await model.append(*begun(name), Entry(incident_stream(name), facts.Closed(Outcome.RECOVERED, "well")))
    assert [await model.incident(name) for name in names[1:]] == [await folded(journal, name) for name in names[1:]]
    assert journal.reads == {}
    assert await model.incident(names[0]) == await folded(journal, names[0])
    assert journal.reads == {"read": 1}


async def test_facts_at_once_give_the_same_as_one_by_one(journal: TornJournal) -> None:
    await journal.append(
        *begun(), Entry(STREAM, planned()), Entry(STREAM, facts.ClockPassed("start_within", SPAN, "late"))
    )
    await journal.append(Entry(STREAM, facts.Escalated(1, "late")), Entry(FLEET, facts.Held("no", None)))
    at_once, one_by_one = Projection(), Projection()
    at_once.apply(journal.records)
    for record in journal.records:
        one_by_one.apply([record])
    assert at_once == one_by_one
    assert (at_once.counts.passed, at_once.counts.escalations) == ({"start_within": 1}, {1: 1})


async def test_a_projection_can_be_written_down_and_goes_on_from_there(journal: TornJournal) -> None:
    await journal.append(*begun(), Entry(STREAM, planned()), Entry(FLEET, facts.Held("no", None)))
    first = Projection()
    first.apply(journal.records[:2])
    later = pickle.loads(pickle.dumps(first))
    assert later == first
    for one in (first, later):
        one.apply(journal.records[2:])
    assert later == first
    assert later.incidents.of(STREAM) == await folded(journal)
