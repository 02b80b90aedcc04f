"""The shell around the clocks: once, over restarts, and cheap for a thousand incidents that wait. In virtual time."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.config.models import Config, Notify, Service, Tier
from rollbackd.execution.incident_clocks import IncidentClocks
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Action, ApprovalRequest, Outcome, Priority, service_stream
from rollbackd.state.read_model import ReadModel
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import BAD, GOOD, opened, planned, trigger

MINUTE = timedelta(minutes=1)
TIERS = (
    Tier(to=("oncall",)),
    Tier(after=timedelta(minutes=30), to=("leads",)),
    Tier(after=timedelta(hours=2), to=("cto",)),
)


class World:
    """A journal that outlives the timekeepers on it."""

    def __init__(self, *services: str) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        service = {"match": {"x": "y"}, "layers": {"code": {"adapter": "git"}}, "verify": {"checks": ["health"]}}
        names = services or ("checkout",)
        made = tuple(Service.model_construct(name=name, **service) for name in names)  # type: ignore[arg-type]
        self.config = Config(notify=Notify(escalation=TIERS)).model_copy(update={"services": made})

    async def begin(self) -> IncidentClocks:
        """A new process."""
        read_model = ReadModel(self.journal)
        await read_model.open()
        clocks = IncidentClocks(self.config, read_model, self.clock)
        await clocks.begin()
        return clocks

    async def write(self, *given: Any, stream: str = "incident:checkout-1") -> None:
        await self.journal.append(*(Entry(stream, fact) for fact in given))

    async def open(self, name: str = "checkout-1", *, asks: bool = False, **more: Any) -> None:
        service = name.rpartition("-")[0]
        await self.write(facts.Opening(service, name, asks=asks), stream=FLEET)
        question = ApprovalRequest(("no change is known",), START + timedelta(minutes=45)) if asks else None
        action = Action.ASK if asks else Action.ROLL_BACK
        config = {"layers": {"code": {"adapter": "git"}}}
        made = replace(opened(service, action=action, question=question, **more), config=config)
        await self.write(made, stream=f"incident:{name}")

    async def end(self, outcome: Outcome, name: str = "checkout-1", *, acted: bool = True) -> None:
        await self.write(facts.Closed(outcome, "it is over"), stream=f"incident:{name}")
        service = name.rpartition("-")[0]
        await self.write(facts.Ended(service, name, outcome, acted), stream=FLEET)

    def due(self, stream: str = "incident:checkout-1") -> list[str]:
        """What was written, in short."""
        found = [record.fact for record in self.journal.records if record.stream == stream]
        return [
            one.clock if isinstance(one, facts.ClockPassed) else f"tier {one.tier}"
            for one in found
            if isinstance(one, facts.ClockPassed | facts.Escalated)
        ]


async def looks(clocks: IncidentClocks, times: int = 3) -> None:
    for _ in range(times):
        await clocks.look()


@pytest.fixture
def world() -> World:
    return World()


async def test_each_comes_due_at_its_time_and_is_written_once(world: World) -> None:
    clocks = await world.begin()
    await world.open(asks=True)
    await looks(clocks)
    assert world.due() == ["tier 0"]
    world.clock.advance(14 * MINUTE)
    await looks(clocks)
    assert world.due() == ["tier 0"]
    world.clock.advance(MINUTE)
    await looks(clocks)
    assert world.due() == ["tier 0", "start_within", "tier 1"]
    world.clock.advance(timedelta(hours=9))
    await looks(clocks)
    assert world.due() == ["tier 0", "start_within", "tier 1", "recover_within", "tier 2"]
    assert clocks._read_model.counts.passed == {"start_within": 1, "recover_within": 1}
    assert clocks._read_model.counts.escalations == {0: 1, 1: 1, 2: 1}


async def test_a_restart_forgets_nothing_and_tells_nothing_twice(world: World) -> None:
    await world.open(asks=True)
    for _ in range(3):
        await looks(await world.begin())
    assert world.due() == ["tier 0"]
    world.clock.advance(20 * MINUTE)
    await (await world.begin()).look()  # ended right after it was written
    for _ in range(3):
        clocks = await world.begin()
        await looks(clocks)
    assert world.due() == ["tier 0", "start_within", "tier 1"]
    assert (clocks._read_model.counts.passed, clocks._read_model.counts.escalations) == (
        {"start_within": 1},
        {0: 1, 1: 1},
    )


async def test_what_is_written_meanwhile_may_make_it_due_sooner(world: World) -> None:
    clocks = await world.begin()
    await world.open()
    world.clock.advance(6 * MINUTE)
    await looks(clocks)
    assert world.due() == ["tier 0"]
    await world.write(facts.Joined(trigger(priority=Priority.P0)))
    await looks(clocks)
    assert world.due() == ["tier 0", "start_within", "tier 1"]


async def test_a_slow_step_is_noticed_though_it_began_and_ended_between_two_looks(world: World) -> None:
    clocks = await world.begin()
    await world.open()
    await world.write(planned(), facts.ApplyStarted("code"))
    world.clock.advance(4 * MINUTE)
    await world.write(facts.Applied("code"))
    await looks(clocks)
    assert world.due() == ["target:code", "tier 0"]


async def test_an_end_that_failed_tells_the_next_people_also_when_we_were_down(world: World) -> None:
    await world.open()
    await looks(await world.begin())
    await world.end(Outcome.FAILED)
    clocks = await world.begin()
    await looks(clocks)
    assert world.due() == ["tier 0", "tier 1"]
    world.clock.advance(timedelta(hours=2))
    await looks(clocks)
    assert world.due() == ["tier 0", "tier 1", "tier 2"]
    assert clocks._watched == set()


@pytest.mark.parametrize("how", ["acknowledged", "good", "next"])
async def test_a_bad_end_is_over_when_seen_or_well_or_followed_by_the_next_incident(world: World, how: str) -> None:
    await world.write(facts.Changed(BAD, START, START), stream=service_stream("checkout"))
    clocks = await world.begin()
    await world.open()
    await world.end(Outcome.FAILED)
    await looks(clocks)
    if how == "acknowledged":
        await world.write(facts.Acknowledged())
    elif how == "good":
        await world.write(facts.MarkedGood(GOOD, "another one"), stream=service_stream("checkout"))
        await clocks._read_model.refresh()
        await clocks.look()
        assert "checkout-1" in clocks._watched
        await world.write(facts.MarkedGood(BAD, "ran 30m"), stream=service_stream("checkout"))
        await clocks._read_model.refresh()
    else:
        await world.open("checkout-2")
    world.clock.advance(timedelta(hours=3))
    for process in (clocks, await world.begin()):
        await looks(process)
        assert world.due() == ["tier 0", "tier 1"]
        assert "checkout-1" not in process._watched


async def test_what_is_well_while_it_is_being_read_is_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.write(facts.Changed(BAD, START, START), stream=service_stream("checkout"))
    clocks = await world.begin()
    await world.open()
    await world.end(Outcome.FAILED)
    await looks(clocks, 1)
    read_model = clocks._read_model
    read = read_model.incident

    async def meanwhile(name: str) -> Any:
        await world.write(facts.MarkedGood(BAD, "ran 30m"), stream=service_stream("checkout"))
        await read_model.refresh()
        return await read(name)

    monkeypatch.setattr(read_model, "incident", meanwhile)
    world.clock.advance(timedelta(hours=3))
    assert await clocks.look() == 0
    assert (clocks._watched, clocks._next, world.due()) == (set(), {}, ["tier 0", "tier 1"])


async def test_a_second_rollback_within_an_hour_tells_the_next_people(world: World) -> None:
    clocks = await world.begin()
    await world.open()
    await world.write(planned(), facts.ApplyStarted("code"), facts.Applied("code"))
    await world.end(Outcome.RECOVERED)
    world.clock.advance(20 * MINUTE)
    await world.open("checkout-2")
    await world.write(planned(), facts.ApplyStarted("code"), stream="incident:checkout-2")
    await clocks._read_model.refresh()
    await looks(clocks)
    assert world.due("incident:checkout-2") == ["tier 0", "tier 1"]


async def test_a_relapse_of_an_incident_that_was_forgotten_is_known_again(world: World) -> None:
    clocks = await world.begin()
    await world.open()
    await world.write(planned(), facts.ApplyStarted("code"), facts.Applied("code"))
    await world.end(Outcome.RECOVERED)
    await looks(clocks)
    assert clocks._watched == set()
    await world.write(facts.Relapsed(trigger()))
    await looks(clocks)
    assert world.due() == ["tier 0", "tier 1"]


async def test_a_journal_that_cannot_be_written_for_a_while_loses_none(world: World) -> None:
    await world.open()
    clocks = await world.begin()
    running = asyncio.create_task(clocks.run())
    world.journal.broken = True
    for _ in range(20):
        world.clock.advance(timedelta(seconds=5))
        await asyncio.sleep(0)
    assert world.due() == []
    world.journal.broken = False
    async with asyncio.timeout(10):
        while not world.due():
            world.clock.advance(timedelta(seconds=1))
            await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert world.due() == ["tier 0"]


async def test_a_fact_wakes_it_within_a_second(world: World) -> None:
    clocks = await world.begin()
    running = asyncio.create_task(clocks.run())
    await asyncio.sleep(0)
    await world.open()
    before = world.clock.now()
    async with asyncio.timeout(10):
        while not world.due():
            world.clock.advance(timedelta(milliseconds=100))
            for _ in range(5):
                await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert world.clock.now() - before <= timedelta(seconds=1.5)


class Counting(MemoryJournal):
    """Counts what is read."""

    def __init__(self, clock: ManualClock, before: MemoryJournal) -> None:
        super().__init__(clock, before.records)
        self.reads = 0

    async def read(self, stream: str, after: int = 0) -> Any:
        self.reads += 1
        return await super().read(stream, after)


async def test_hundreds_that_wait_are_never_read_again_and_judged_when_due() -> None:
    names = [f"s{n}" for n in range(300)]
    world = World(*names)
    clocks = await world.begin()
    counting = Counting(world.clock, world.journal)
    world.journal = clocks._read_model.journal = counting
    for name in names:
        await world.open(f"{name}-1", asks=True)
    await looks(clocks)
    judged: list[str] = []

    async def judge(incident: Any, now: Any) -> int:
        judged.append(incident.id)
        return await original(incident, now)

    original, clocks._write_due = clocks._write_due, judge  # type: ignore[method-assign]
    for _ in range(60):
        world.clock.advance(timedelta(seconds=10))
        await clocks.look()
    assert (judged, counting.reads) == ([], 0), "nothing was written, and nothing was due"
    await world.write(facts.Approved(), stream="incident:s7-1")
    await clocks.look()
    assert judged == ["s7-1"]
    world.clock.advance(5 * MINUTE)
    await looks(clocks)
    assert world.due("incident:s299-1") == ["tier 0", "start_within", "tier 1"]
    assert counting.reads == 0


def test_the_terms_are_those_of_the_configuration() -> None:
    terms = Config(notify=Notify(escalation=TIERS)).terms
    assert terms.tiers == (timedelta(), timedelta(minutes=30), timedelta(hours=2))
    assert (terms.steps["git"], terms.hotfix, terms.recovery) == (2 * MINUTE, 3 * MINUTE, 10 * MINUTE)
    steps: Mapping[str, timedelta] = Config.model_validate({"targets": {"steps": {"git": "5m"}}}).terms.steps
    assert (steps["git"], steps["files"]) == (5 * MINUTE, MINUTE)
