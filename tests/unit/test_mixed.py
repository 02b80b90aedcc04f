"""A layer whose parts differ: nothing starts there unasked, and one order of a person brings them together."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rollbackd import facts
from rollbackd.model import Action, Outcome, Release, Request
from rollbackd.operations import InvalidOrder, OrderRefused
from rollbackd.signals.events import Posted
from tests.unit.house import V1, House
from tests.unit.judgement.stage import Stage

T = TypeVar("T")
MIXTURE = Release("mixed-12", "web1 v2, web2 v1", parts=(("web1", "v2"), ("web2", "v1")))
ANN = Request("shop", "unix:ann")
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """v1 was good, v2 ran; then the hosts of the code differ."""
    plans = {"default": ["config", "code"], "config": ["config"]}
    rules = [{"name": "broken", "when": {"event": "broken"}}]
    one = Stage(tmp_path, {"shop": ["code", "config"]}, {"rules": rules, "shop": {"plans": plans}}, 0)
    await one.ran("shop", "code=v1,config=c1", good=True)
    await one.clock.go(one.clock.true + 60 * MINUTE)
    await one.ran("shop", "v2", good=False)
    await one.up()
    await one.clock.go(one.clock.true + MINUTE)
    one.world.layers["shop"]["code"].present = MIXTURE
    await one.clock.go(one.clock.true + MINUTE)
    yield one
    await one.down()


async def answer(stage: Stage, work: Coroutine[Any, Any, T]) -> T:
    """With as much time as it takes."""
    task = asyncio.create_task(work)
    while not task.done():
        await stage.clock.go(stage.clock.true + timedelta(seconds=1))
    return await task


async def test_nothing_goes_back_unasked_and_nothing_becomes_good(stage: Stage) -> None:
    view = await stage.daemon.operations.service("shop")
    assert view.cannot == "its layers cannot be looked at: code: the hosts differ: web1 v2, web2 v1"
    assert view.present is not None
    await stage.clock.go(stage.clock.true + 60 * MINUTE)
    assert set(stage.daemon.read_model.of("shop").good.values()) == {"ran 30m without a trigger"}, "v1 alone is good"
    await stage.daemon.operations.report([Posted(event="broken", service="shop", key="1")], "token:ci")
    await stage.clock.go(stage.clock.true + MINUTE)
    decided = [record.fact.decision for record in stage.journal.records if isinstance(record.fact, facts.Decided)]
    assert [(decision.action, decision.present) for decision in decided] == [(Action.REFUSE, None)]
    assert stage.world.calls == []
    with pytest.raises(InvalidOrder, match="cannot be told: code: the hosts differ"):
        await answer(stage, stage.daemon.operations.good("shop", {}, "unix:ann"))


@pytest.mark.parametrize("to", ["code=v1", "last-stable", ""])
async def test_an_order_brings_them_together(stage: Stage, to: str) -> None:
    stage.world.layers["shop"]["config"].present = Release("c1")
    plan = await answer(stage, stage.daemon.operations.plan(replace(ANN, to=to)))
    assert (plan.action, plan.problems) == ("refuse", ())
    assert [(step.layer, step.before, step.after) for step in plan.steps] == [
        ("code", "web1 v2, web2 v1 (mixed-12)", "v1")
    ]
    name = await answer(stage, stage.daemon.operations.rollback(replace(ANN, to=to)))
    await stage.clock.go(stage.clock.true + 5 * MINUTE)
    incident = await stage.daemon.read_model.incident(name)
    assert incident is not None
    assert incident.outcome is Outcome.RECOVERED
    ledger = stage.daemon.read_model.of("shop")
    assert ledger.present is not None
    assert (ledger.present.name, ledger.present.key in ledger.good) == ("code v1, config c1", True)
    assert ledger.quarantined == {("code", "v2"): "left behind by shop-1"}
    assert not any(spell.state.mixed for spell in ledger.spells), "what they had was never a state"
    assert stage.daemon.state_watcher.problems == {}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (replace(ANN, to="config=c1"), "the parts of code differ, and config=c1 does not say where they go; name a"),
        (replace(ANN, plan="config"), r"code: its parts differ \(web1 v2, web2 v1\), and plan config does not bring"),
    ],
)
async def test_an_order_that_would_leave_them_apart_is_refused(stage: Stage, request_: Request, said: str) -> None:
    stage.world.layers["shop"]["config"].present = Release("c2")
    stage.world.layers["shop"]["config"].known += (Release("c1"), Release("c2"))
    with pytest.raises(OrderRefused, match=said):
        await answer(stage, stage.daemon.operations.rollback(request_))
    assert stage.world.calls == []


# -- on the way ---------------------------------------------------------------------------------
@pytest.mark.parametrize("now", [V1, replace(MIXTURE, id="mixed-34", parts=(("web1", "v1"), ("web2", "v1")))])
async def test_hosts_that_somebody_moves_before_the_first_step_are_theirs(tmp_path: Path, now: Release) -> None:
    house = House(tmp_path)
    house.layers["code"].present = MIXTURE
    await house.open()
    house.layers["code"].present = now
    incident = await house.run()
    assert (incident.outcome, house.calls) == (Outcome.SUPERSEDED, [])


async def test_hosts_that_begin_to_differ_right_before_the_first_step_end_it(tmp_path: Path) -> None:
    """The look saw one release, and the plan, a moment later, several."""
    house = House(tmp_path)
    code = house.layers["code"]
    await house.open()
    plan = code.plan

    async def late(target: Release) -> object:
        return replace(await plan(target), before=MIXTURE)

    code.plan = late  # type: ignore[method-assign,assignment]
    incident = await house.run()
    assert (incident.outcome, house.calls) == (Outcome.FAILED, [])
    assert incident.reason == ("nothing was touched: code: its parts differ since it was looked at: web1 v2, web2 v1")
