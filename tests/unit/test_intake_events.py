"""Events from the post to the judge: on disk first, heard once, and judged once whatever ends in between."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.decision.engine import DecisionEngine
from rollbackd.execution.preflight import Objection
from rollbackd.journal import Entry, JournalUnavailable, Receipt, Received
from rollbackd.model import Action, Alert, Decision, Event, Outcome, Trigger, service_stream
from rollbackd.signals.events import EventError, Posted, event_to_json
from rollbackd.signals.intake import EventReceipt, SignalIntake
from rollbackd.signals.rule_state import RuleStates
from tests.fakes.clock import START, ManualClock
from tests.unit.house import House

MINUTE = timedelta(minutes=1)
E2E = {"name": "e2e", "when": {"event": "e2e_failed", "times": 2, "within": "30m"}}


class Bench:
    """Notes what it is to consider, with the inbox rows that the decision will have handled."""

    def __init__(self) -> None:
        self.behind = False
        self.considered: list[tuple[Trigger, tuple[int, ...]]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def consider_soon(self, trigger: Trigger, handled: Sequence[int] = ()) -> None:
        self.considered.append((trigger, tuple(handled)))

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))


class IntakeHouse(House):
    """The house with one rule of events, and an intake that may begin anew on the same journal."""

    def __init__(self, directory: Path, *rules: Any) -> None:
        super().__init__(directory, rules=rules or [E2E])
        self.start()

    def start(self) -> None:
        """A new life: what is in memory is gone."""
        self.rule_states = RuleStates(self.config, self.read_model.of)
        self.decision_engine = Bench()
        self.intake = SignalIntake(
            self.read_model, self.rule_states, cast("DecisionEngine", self.decision_engine), self.clock, None
        )

    async def restart(self) -> None:
        self.start()
        await self.intake.recall()
        await self.intake.recover()
        await self.judged()

    async def report(self, key: str = "", **more: Any) -> EventReceipt:
        given = {"event": "e2e_failed", "service": "shop", "key": key} | more
        taken = await self.intake.report([Posted.model_validate(given)])
        await self.judged()
        return taken

    async def judged(self) -> None:
        await self.settle()
        assert all(task.done() for task in self.decision_engine.tasks)

    async def waiting(self) -> list[str]:
        return [row.key.rpartition("/")[2] for row in await self.journal.unhandled()]


@pytest.fixture
async def house(tmp_path: Path) -> IntakeHouse:
    return IntakeHouse(tmp_path)


async def test_the_event_that_makes_enough_of_them_is_considered_with_its_row(house: IntakeHouse) -> None:
    assert await house.report("1") == EventReceipt(1, 0, ())
    assert (house.decision_engine.considered, await house.waiting()) == ([], [])
    house.clock.advance(5 * MINUTE)
    assert await house.report("2") == EventReceipt(1, 0, ())
    ((trigger, rows),) = house.decision_engine.considered
    (row,) = await house.journal.unhandled()
    assert rows == (row.id,)
    assert (trigger.rule, trigger.onset) == ("e2e", house.clock.now() - 5 * MINUTE)


async def test_the_same_key_again_is_a_duplicate_and_counts_once(house: IntakeHouse) -> None:
    await house.report("1")
    assert await house.report("1", text="again") == EventReceipt(0, 1, ())
    assert house.decision_engine.considered == []
    both = [Posted(event="e2e_failed", service="shop", key=key) for key in ("2", "2", "1")]
    assert await house.intake.report(both) == EventReceipt(1, 2, ())


async def test_what_nobody_asks_for_is_not_kept_and_said_why(house: IntakeHouse) -> None:
    assert await house.report("1", service="basket") == EventReceipt(
        0, 0, ("e2e_failed: there is no service basket in the configuration",)
    )
    assert await house.waiting() == []


async def test_what_cannot_be_is_refused_whole(house: IntakeHouse) -> None:
    good = Posted(event="e2e_failed", service="shop", key="1")
    bad = Posted(event="e2e_failed", service="shop", at=house.clock.now() + 2 * MINUTE)
    with pytest.raises(EventError, match="in the future"):
        await house.intake.report([good, bad])
    assert await house.report("1") == EventReceipt(1, 0, ())


async def test_what_could_not_be_stored_is_not_heard(house: IntakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_items: Sequence[Received]) -> Receipt:
        raise JournalUnavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(house.journal, "receive", full)
        with pytest.raises(JournalUnavailable):
            await house.report("1")
    await house.report("2")
    assert house.decision_engine.considered == []
    assert await house.report("1") == EventReceipt(1, 0, ())
    assert len(house.decision_engine.considered) == 1


async def test_a_start_hears_again_what_may_still_count(house: IntakeHouse) -> None:
    await house.report("1")
    await house.restart()
    assert house.decision_engine.considered == []
    await house.report("2")
    assert len(house.decision_engine.considered) == 1


async def test_what_was_stored_and_not_judged_is_judged_after_a_start(house: IntakeHouse) -> None:
    await house.report("1")
    await house.report("2")
    ((before, _),) = house.decision_engine.considered
    await house.restart()
    ((after, rows),) = house.decision_engine.considered
    (row,) = await house.journal.unhandled()
    assert (after.episode, rows) == (before.episode, (row.id,))
    await house.journal.handled(rows)
    await house.restart()
    assert house.decision_engine.considered == []


async def test_what_came_before_a_long_absence_is_judged_as_of_then(house: IntakeHouse) -> None:
    """It was answered 200: it is judged, and how late that is is for the decision to say."""
    await house.report("1")
    await house.report("2")
    ((before, _),) = house.decision_engine.considered
    house.clock.advance(60 * MINUTE)
    await house.restart()
    ((after, _),) = house.decision_engine.considered
    assert (after.episode, after.onset) == (before.episode, before.onset)


async def test_what_was_resolved_before_a_start_leads_to_nothing(house: IntakeHouse) -> None:
    await house.report("1")
    await house.report("2")
    house.clock.advance(MINUTE)
    await house.report("2", state="resolved")
    await house.restart()
    assert (house.decision_engine.considered, await house.waiting()) == ([], [])


async def test_what_nobody_asks_for_any_more_is_put_aside_by_one_write_at_a_start(
    house: IntakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = house.clock.now()
    reported = [Event("of_a_rule_that_is_gone", f"{n}", now, service="shop") for n in range(5)]
    await house.journal.receive([Received(event.key, "event", event_to_json(event)) for event in reported])
    handled, writes = house.journal.handled, []

    async def counted(ids: Sequence[int]) -> None:
        writes.append(len(ids))
        await handled(ids)

    monkeypatch.setattr(house.journal, "handled", counted)
    await house.restart()
    assert (writes, await house.waiting()) == ([5], [])


async def test_one_more_of_an_episode_that_was_decided_is_no_news(house: IntakeHouse) -> None:
    await house.report("1")
    await house.report("2")
    ((met, _),) = house.decision_engine.considered
    decided = facts.Decided(Decision(met, Action.OBSERVE, (), None, None))
    await house.read_model.append(Entry(service_stream("shop"), decided))
    await house.journal.handled([row.id for row in await house.journal.unhandled()])
    await house.report("3")
    assert (len(house.decision_engine.considered), await house.waiting()) == (1, [])


async def test_what_fails_after_a_rollback_is_news_also_for_the_next_life(house: IntakeHouse) -> None:
    await house.report("1")
    await house.report("2")
    ((met, _),) = house.decision_engine.considered
    await house.open(trigger=met)
    await house.journal.handled([row.id for row in await house.journal.unhandled()])
    house.clock.advance(MINUTE)
    assert (await house.run()).outcome is Outcome.RECOVERED
    house.clock.advance(MINUTE)
    await house.report("3")
    assert len(house.decision_engine.considered) == 1
    await house.report("4")
    again = house.decision_engine.considered[-1][0]
    assert again.onset == house.clock.now()
    await house.restart()
    assert [trigger.episode for trigger, _ in house.decision_engine.considered] == [again.episode]


async def test_an_incident_that_touched_nothing_leaves_what_was_reported_as_it_is(house: IntakeHouse) -> None:
    await house.report("1")
    house.objection = Objection(Outcome.DECLINED, "not now")
    await house.open()
    house.clock.advance(MINUTE)
    assert (await house.run()).outcome is Outcome.DECLINED
    house.clock.advance(MINUTE)
    await house.report("2")
    assert len(house.decision_engine.considered) == 1


async def test_what_the_configuration_no_longer_asks_for_leads_to_nothing(tmp_path: Path) -> None:
    house = IntakeHouse(tmp_path)
    await house.report("1")
    await house.report("2")
    house.config = house.config.model_copy(update={"rules": ()})
    await house.restart()
    assert (house.decision_engine.considered, await house.waiting()) == ([], [])


async def test_an_event_meets_a_composed_rule(tmp_path: Path) -> None:
    either = {"name": "either", "when": {"any": [{"all": [E2E["when"], {"alert": "a=b"}]}, {"event": "lost"}]}}
    house = IntakeHouse(tmp_path, either)
    await house.report("1")
    await house.report("2")
    assert house.decision_engine.considered == []
    await house.report("3", event="lost")
    assert [trigger.rule for trigger, _ in house.decision_engine.considered] == ["either"]


class RestlessClock(ManualClock):
    """Each look at it takes 10 ms."""

    looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return super().monotonic() + self.looks / 100


async def test_in_a_storm_of_deliveries_one_portion_is_judged_between_two_rests(tmp_path: Path) -> None:
    house = IntakeHouse(tmp_path, {"name": "sick", "when": {"alert": 'alertname="Sick"'}})
    house.clock = RestlessClock()
    house.start()
    receive = house.journal.receive

    async def after_a_moment(items: Sequence[Received]) -> Receipt:
        await asyncio.sleep(0)
        return await receive(items)

    house.journal.receive = after_a_moment  # type: ignore[method-assign]  # its disk takes a moment

    async def storm(name: str) -> None:
        labels = {"alertname": "Sick", "service": "shop"}
        await asyncio.gather(*(
            house.intake.receive([Alert(f"{name}-{delivery}-{one}", labels, {}, START, None) for one in range(5)])
            for delivery in range(10)
        ))  # fmt: skip
        await house.settle()

    await storm("first")
    assert len(house.decision_engine.considered) == 32
    await storm("second")
    assert len(house.decision_engine.considered) == 32
    house.clock.advance(timedelta(seconds=1))
    await house.settle()
    assert len(house.decision_engine.considered) == 64
    house.clock.advance(timedelta(seconds=1))
    await house.judged()
    assert len(house.decision_engine.considered) == 100
