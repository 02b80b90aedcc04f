"""Layers of data: only where a plan names them, to the time of the blamed change, and with what they lose told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.adapter import AdapterError, Marks, PointInTime
from rollbackd.decision.data_target import DataTarget
from rollbackd.execution.layers import LookFailed, PlanRequest
from rollbackd.model import (
    FLEET,
    Action,
    Change,
    DataGoal,
    DataLoss,
    Outcome,
    Release,
    Replaced,
    Request,
    State,
    Traits,
    Verdict,
)
from rollbackd.operations import OrderRefused
from rollbackd.operations.parameters import ChangeBody
from rollbackd.policy import data, guards
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.policy.spec import Limits
from rollbackd.policy.target import Candidate
from rollbackd.views.shapes import ChangeView
from tests.unit.builders import at, minutes, released, situation, state, trigger
from tests.unit.judgement.clock import idle
from tests.unit.judgement.stage import Stage
from tests.unit.judgement.world import WorldLayer

ANN = "unix:ann"
ORIGIN = Release("original")


# -- pure ---------------------------------------------------------------------------------------------
def step(copied: float, wanted: float | None = None, *, sure: bool = True, limit: float = 1) -> Change:
    aim = at(wanted) if wanted is not None else None
    return Change("db", ORIGIN, Release("c1"), loss=DataLoss(at(copied), minutes(limit), aim, sure))


def test_the_change_that_is_blamed_began_before_the_trouble_and_shortly_so() -> None:
    limits, earlier = Limits(), Verdict.GOOD
    found = data.put_down_to(trigger(), released(), limits, earlier)
    assert isinstance(found, Replaced)
    assert data.put_down_to(trigger(), released(), limits, Verdict.BAD) is None
    assert data.put_down_to(trigger(onset=at(500)), released(), limits, None) is None
    assert data.put_down_to(trigger(onset=at(-500)), released(), limits, None) is None
    assert data.put_down_to(trigger(), ServiceLedger(), limits, None) is None
    order = trigger(onset=at(500), request=Request("checkout", ANN))
    assert data.put_down_to(order, released(), limits, Verdict.BAD) == found


def test_the_goal_is_the_start_of_the_change_or_people_are_asked() -> None:
    change = data.put_down_to(trigger(), released(), Limits(), None)
    assert data.data_goal(trigger(), change) == DataGoal(at(-10.5))
    assert data.data_goal(trigger(), None) == DataGoal(at(0), sure=False)
    assert data.data_goal(trigger(), None, at(-30)) == DataGoal(at(-30))


def test_a_good_state_says_nothing_about_data() -> None:
    old, now = state("v1", db="c0"), state("v2", db="c1")
    assert data.without_data(old, now, ["db"]) == state("v1", db="c1")
    assert data.without_data(old, now, ["db", "other"]) == state("v1", db="c1")
    assert data.without_data(old, now, []) is old


def test_the_two_figures_are_told_apart() -> None:
    change = replace(step(-12), loss=DataLoss(at(-12), minutes(1)))
    assert change.loss is not None
    assert (change.loss.aim, change.loss.gap) == (at(-12), timedelta())
    told = data.reckoned(change, DataGoal(at(-10)), fixed=False)
    assert told.loss == DataLoss(at(-12), minutes(1), at(-10))
    first, second, third = told.risks
    assert first.endswith("is meant to go")
    assert "2m before that goes with it" in second
    assert "old passwords" in third
    newer = data.reckoned(change, DataGoal(at(-20), sure=False), fixed=True)
    assert newer.loss == DataLoss(at(-12), minutes(1), at(-12))
    assert len(newer.risks) == 2
    plain = Change("code", Release("2"), Release("1"))
    assert data.reckoned(plain, DataGoal(at(0)), fixed=False) is plain
    assert data.reckoned(change, None, fixed=False) is change


def test_more_than_is_accepted_between_the_copy_and_the_change_asks() -> None:
    assert data.to_ask([step(-11, -10)]) == ()
    (beyond,) = data.to_ask([step(-12, -10)])
    assert "writes of 2m between the copy" in beyond
    (unsure,) = data.to_ask([step(-10, -10, sure=False)])
    assert "no change is to blame" in unsure
    assert data.losses([Change("code", Release("2"), Release("1"))]) == data.NOTHING_LOST
    for changes, action in (((step(-12, -10),), Action.ASK), ((step(-10.5, -10),), None), ((), None)):
        given = situation(changes=changes)
        assert guards.data_loss(trigger(), given).against is action
    shown = trigger(request=Request("checkout", ANN, plan_id="1a2b3c"))
    assert guards.data_loss(shown, situation(changes=(step(-12, -10),))).against is None


# -- a daemon -----------------------------------------------------------------------------------------
@dataclass
class DataLayer(WorldLayer):
    """A database in memory: copies at times, and a lineage."""

    copies: tuple[tuple[str, datetime], ...] = ()
    limit: timedelta = timedelta(minutes=1)
    rehearsed: Sequence[str] = ()
    marks: list[tuple[datetime, str]] = field(default_factory=list)
    unmarkable: str = ""
    any_time: bool = False
    """A time is a release by itself, and is not among those that are told."""

    async def mark(self, at: datetime, why: str) -> None:
        if self.unmarkable:
            raise AdapterError(self.unmarkable, permanent=False)
        self.marks.append((at, why))

    async def releases(self) -> Sequence[Release]:
        return [self.present, *(Release(name, name, when) for name, when in self.copies if name != self.present.id)]

    async def as_of(self, time: datetime) -> Release:
        if self.any_time:
            return Release(f"at{time:%Y%m%dT%H%M%S}", "", time)
        for name, when in sorted(self.copies, key=lambda one: one[1], reverse=True):
            if when <= time and name != self.present.id:
                return Release(name, name, when)
        raise AdapterError("no copy is as old as that; take some", permanent=True)

    async def plan(self, target: Release) -> Change:
        known = {release.id: release for release in await self.releases()}
        if self.any_time and target.id.startswith("at"):
            when = datetime.strptime(target.id, "at%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            return Change(self.name, self.present, target, loss=DataLoss(when, self.limit))
        if target.id not in known:
            raise AdapterError("no such copy", permanent=True)
        when = known[target.id].created or self.copies[0][1]
        return Change(self.name, self.present, known[target.id], loss=DataLoss(when, self.limit))


PLANS = {"default": {"steps": ["code"]}, "code": ["code"], "all": {"steps": ["code", "db"]}, "data": ["db"]}


class Shop:
    """v1 ran well, v2 came ten minutes ago; copies of the database were taken all the while."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def db(self) -> DataLayer:
        found = self.stage.world.layers["shop"]["db"]
        assert isinstance(found, DataLayer)
        return found

    @property
    def calls(self) -> list[str]:
        return [call for call in self.stage.world.calls if call.startswith("apply")]

    @property
    def ledger(self) -> ServiceLedger:
        return self.stage.daemon.read_model.of("shop")

    def copied(self, name: str, ago: float) -> None:
        self.db.copies = (*self.db.copies, (name, self.stage.clock.true - timedelta(minutes=ago)))

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(3600):
            if holds():
                return
            await self.stage.clock.go(self.stage.clock.true + timedelta(seconds=1))
        raise AssertionError("it never came to that")

    async def order(self, **given: Any) -> str:
        task = asyncio.create_task(self.stage.daemon.operations.rollback(Request("shop", ANN, **given)))
        await idle()
        await self.until(task.done)
        await self.until(lambda: self.ledger.open is None or self.ledger.open.waits)
        return await task

    async def sick(self, plan: str) -> Any:
        """Trouble that began now, of a rule with that plan."""
        now = self.stage.clock.true
        found = trigger("page", now, service="shop", plan=(plan,), episode=f"page/{now.isoformat()}")
        return await self.stage.daemon.decision_engine.consider(found)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    given = {"shop": {"plans": PLANS, "plan": "default", "drill": True}}
    stage = Stage(tmp_path, {"shop": ["code", "db"]}, given, 0)
    own = stage.world.layers["shop"]
    own["db"] = DataLayer("db", stage.world.calls, Traits(data=True), ORIGIN, (ORIGIN,), world=stage.world)
    assert isinstance(own["db"], PointInTime)
    assert isinstance(own["db"], Marks)
    await stage.up()
    for release in ("v0", "v1"):
        stage.world.run("shop", "code", release)
        await stage.clock.go(stage.clock.true + timedelta(hours=1))
        assert stage.daemon.read_model.of("shop").present is not None
    made = Shop(stage)
    made.copied("c1", 30)
    made.copied("c2", 0.5)
    stage.world.run("shop", "code", "v2")
    await stage.clock.go(stage.clock.true + timedelta(minutes=10))
    made.copied("c3", 1)
    yield made
    await stage.down()


async def test_without_a_plan_that_names_it_data_stays_whatever_a_good_state_had(shop: Shop) -> None:
    shop.db.present = Release("c1")  # somebody restored it by hand: every good state had another lineage
    shop.stage.world.run("shop", "code", "v3")
    await shop.stage.clock.go(shop.stage.clock.true + timedelta(minutes=8))
    await shop.order()
    assert shop.calls == ["apply code v1"]
    assert shop.ledger.rollbacks[-1].outcome is Outcome.RECOVERED
    assert shop.ledger.present == State({"code": Release("v1"), "db": Release("c1")})


async def test_it_goes_to_the_newest_copy_from_before_the_change_and_can_become_good(shop: Shop) -> None:
    await shop.order(plan="all")
    assert shop.calls == ["apply code v1", "apply db c2"]
    assert shop.ledger.rollbacks[-1].outcome is Outcome.RECOVERED
    reached = shop.ledger.present
    assert reached == State({"code": Release("v1"), "db": Release("c2")})
    assert reached is not None
    assert reached.key in shop.ledger.good
    assert ("db", "original") not in shop.ledger.quarantined
    assert ("code", "v2") in shop.ledger.quarantined


async def test_a_copy_that_is_too_old_is_gone_to_only_by_people_who_saw_it(shop: Shop) -> None:
    shop.db.copies = (shop.db.copies[0],)
    decision = await shop.sick("all")
    assert decision.action is Action.ASK
    (why,) = (one.reason for one in decision.against if one.guard == "data_loss")
    assert "between the copy" in why
    assert "more than `max_loss` 1m" in why
    await shop.stage.daemon.operations.approve(decision.joins, ANN)
    await shop.until(lambda: shop.ledger.open is None)
    assert shop.calls == ["apply code v1", "apply db c1"]


async def test_without_a_change_to_blame_people_are_asked(shop: Shop) -> None:
    await shop.stage.clock.go(shop.stage.clock.true + timedelta(hours=5))
    shop.copied("c4", 0)
    decision = await shop.sick("data")
    assert decision.action is Action.ASK
    assert any("nobody knows which data is right" in one.reason for one in decision.against)
    assert shop.calls == []


async def test_data_alone_goes_back_where_no_other_state_is_good(shop: Shop) -> None:
    for good in list(shop.ledger.good):
        state = next(spell.state for spell in shop.ledger.spells if spell.state.key == good)
        await shop.stage.daemon.operations.quarantine("shop", {"code": state.releases["code"].id}, ANN)
    await shop.order(plan="data")
    assert shop.calls == ["apply db c2"]
    assert shop.ledger.present == State({"code": Release("v2"), "db": Release("c2")})


async def test_people_name_a_copy_or_a_time(shop: Shop) -> None:
    with pytest.raises(OrderRefused, match="data goes back only where a plan names it"):
        await shop.order(to="db=c1")
    zoneless = f"{shop.stage.clock.true - timedelta(minutes=15):%Y-%m-%dT%H:%M:%S}"
    with pytest.raises(OrderRefused, match="another time in each zone"):
        await shop.order(to=f"db={zoneless}", plan="data")
    with pytest.raises(OrderRefused, match="no copy is as old"):
        await shop.order(to="db=2020-01-01T00:00:00Z", plan="data")
    plan = await shop.stage.daemon.operations.plan(Request("shop", ANN, to=f"db={zoneless}Z", plan="data"))
    assert [one.after for one in plan.steps] == ["c1"]
    assert any("old passwords" in risk for risk in plan.steps[0].risks)
    await shop.order(plan_id=plan.id)
    assert shop.calls == ["apply db c1"]


async def test_a_time_is_gone_to_that_is_not_among_the_releases_that_are_told(shop: Shop) -> None:
    shop.db.any_time = True
    wanted = shop.stage.clock.true - timedelta(minutes=15)
    name = f"at{wanted:%Y%m%dT%H%M%S}"
    plan = await shop.stage.daemon.operations.plan(
        Request("shop", ANN, to=f"db={wanted:%Y-%m-%dT%H:%M:%S}Z", plan="data")
    )
    assert [one.after for one in plan.steps] == [name[:12]]
    await shop.order(plan_id=plan.id)
    assert shop.calls == [f"apply db {name}"]


async def announce(shop: Shop, key: str) -> ChangeView:
    change = ChangeBody(service="shop", key=key, releases={"code": "v3"})
    return await shop.stage.daemon.operations.changed(change, ANN)


async def notices(shop: Shop) -> list[str]:
    records = await shop.stage.daemon.read_model.journal.latest(facts.kinds(facts.Notice), FLEET, 100)
    return [record.fact.text for record in reversed(records) if "marked" in record.fact.text]


async def test_an_announced_change_is_marked_once_as_of_its_own_time(shop: Shop) -> None:
    told = await announce(shop, "build-1")
    assert shop.db.marks[-1] == (told.at, "change")
    before = len(shop.db.marks)
    await announce(shop, "build-1")
    assert len(shop.db.marks) == before


async def test_a_mark_that_cannot_be_set_is_told_once_and_stops_no_announcement(shop: Shop) -> None:
    shop.db.unmarkable = "the server is away"
    await announce(shop, "build-2")
    await announce(shop, "build-3")
    shop.db.unmarkable = ""
    await announce(shop, "build-4")
    said, over = await notices(shop)
    assert said.startswith("shop/db was not marked: the server is away; a rollback goes to the time")
    assert over == "shop/db is marked again"


async def test_a_state_that_became_good_is_marked_once(shop: Shop) -> None:
    (entry,) = (one for one in shop.stage.daemon.snapshot_manager.planned() if one.name == "mark shop")
    assert entry.due() is None, "v2 is not good yet"
    await shop.stage.clock.go(shop.stage.clock.true + timedelta(hours=1))
    assert entry.due() is not None
    await entry.work()
    assert shop.db.marks == [(shop.stage.clock.true, "good")]
    assert entry.due() is None


async def test_a_copy_by_name_counts_from_the_change(shop: Shop) -> None:
    with pytest.raises(OrderRefused, match="more than `max_loss`"):
        await shop.order(to="db=c1", plan="data")
    assert shop.ledger.open is not None
    assert shop.ledger.open.waits
    assert shop.calls == []


async def test_a_printed_plan_that_moves_data_is_run_as_shown(shop: Shop) -> None:
    plan = await shop.stage.daemon.operations.plan(Request("shop", ANN, plan="all"))
    assert [one.layer for one in plan.steps] == ["code", "db"]
    await shop.order(plan_id=plan.id)
    assert shop.calls == ["apply code v1", "apply db c2"]


async def test_a_plan_for_which_there_is_no_copy_touches_nothing(shop: Shop) -> None:
    shop.db.copies = ()
    decision = await shop.sick("all")
    assert decision.action is Action.REFUSE
    assert any("no copy is as old as that" in one.reason for one in decision.against)
    assert shop.calls == []


async def test_an_executed_drill_moves_everything_but_data(shop: Shop) -> None:
    await shop.order(plan="default")
    await shop.stage.clock.go(shop.stage.clock.true + timedelta(hours=2))
    service = shop.stage.config.services[0]
    before = len(shop.calls)
    for plan in ("all", "data"):
        task = asyncio.create_task(shop.stage.daemon.drills.execute(service, plan, ANN))
        await idle()
        await shop.until(task.done)
        with suppress(OrderRefused):
            await task
        for _ in range(1200):
            await shop.stage.clock.go(shop.stage.clock.true + timedelta(seconds=1))
    assert "apply code v0" in shop.calls[before:]
    assert not any("db" in call for call in shop.calls[before:])


async def test_random_incidents_without_a_plan_that_names_it_never_touch_data(shop: Shop) -> None:
    """1,000 of them: any states, good or not, restores by hand, copies, changes and orders."""
    chance = Random(11)
    world = shop.stage.world.layers["shop"]
    layers = shop.stage.world.build(shop.stage.config.services[0])
    versions, lineages = ["v0", "v1", "v2", "v3"], ["original", "c1", "c2", "c3"]
    world["code"].known = tuple(Release(version) for version in versions)
    moved = 0
    for _ in range(1000):
        present, past = (state(chance.choice(versions), db=chance.choice(lineages)) for _ in range(2))
        world["code"].present, world["db"].present = present.releases["code"], present.releases["db"]
        names = chance.sample(["default", "code", "all", "data"], chance.randint(1, 2))
        to = chance.choice(["", "", past.key, "db=c1"])
        request = Request("shop", ANN, to=to) if chance.random() < 0.5 else None
        found = trigger(request=request)
        target = DataTarget(layers, found, present)
        specs = [shop.stage.config.services[0].plans[name] for name in names]
        chosen: Candidate | None = next(iter(target.plain([Candidate(past, 1, None)])), None)
        if request is not None and to.startswith("db="):
            chosen = Candidate(State({**present.releases, "db": Release("c1")}), 0, None)
        chosen = target.alone(specs) or chosen
        if chosen is None:
            continue
        goal = DataGoal(shop.stage.clock.true - timedelta(minutes=chance.choice([0, 20, 5000])))
        try:
            wanted = await target.of(chosen, specs, goal)
            steps = [
                step for name in names for step in (await layers.plan(name, PlanRequest(present, wanted.state))).steps
            ]
        except (LookFailed, AdapterError):
            continue
        if not any("db" in spec.layers for spec in specs):
            assert wanted.state.releases["db"] == present.releases["db"]
            assert "db" not in {step.layer for step in steps}
        moved += "db" in {step.layer for step in steps}
    assert moved > 50, "with such a plan it does move"
    assert shop.calls == []
