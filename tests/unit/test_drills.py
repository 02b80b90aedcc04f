"""Drills on the whole daemon, with layers and a journal in memory, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rollbackd import facts
from rollbackd.adapter import AdapterError, Difference, Snapshot, SnapshotProblem
from rollbackd.calendar import Calendar
from rollbackd.config.schedules import DrillSchedule
from rollbackd.core import Core
from rollbackd.drills.schedule import DrillTimetable
from rollbackd.journal import JournalUnavailable
from rollbackd.model import DAEMON, Outcome, Release, Request, Verdict
from rollbackd.operations import InvalidOrder, OrderRefused, UnknownName
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.signals.events import Posted
from rollbackd.views.shapes import DrillView
from tests.fakes.clock import START
from tests.fakes.notifications import opened
from tests.unit.judgement.clock import idle
from tests.unit.judgement.stage import Stage
from tests.unit.judgement.world import WorldLayer

T = TypeVar("T")
ANN = "unix:ann"
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
BROKEN = {"name": "broken", "when": {"event": "broken"}, "without_change": "roll_back"}
SHOP = {
    "drill": True,
    "plans": {"default": {"steps": ["code", "config"]}, "degrade": {"steps": [{"config": "c0"}]}},
}


@dataclass
class Practice:
    """A shop that ran v1 well and runs v2, and whoever practises there."""

    stage: Stage
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def core(self) -> Core:
        return self.stage.daemon

    @property
    def ledger(self) -> ServiceLedger:
        return self.core.read_model.of("shop")

    @property
    def runs(self) -> dict[str, str]:
        return {name: layer.present.id for name, layer in self.stage.world.layers["shop"].items()}

    def layer(self, name: str = "code") -> WorldLayer:
        return self.stage.world.layers["shop"][name]

    async def up(self) -> None:
        await self.stage.up()
        self.tasks = [asyncio.create_task(self.core.drills.run())]
        await idle()

    async def down(self) -> None:
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.stage.down()

    async def restart(self) -> None:
        await self.down()
        await self.up()

    async def pass_(self, length: timedelta) -> None:
        await self.stage.clock.go(self.stage.clock.true + length)

    async def get(self, work: Coroutine[Any, Any, T]) -> T:
        """The answer, with as much time as it takes."""
        task = asyncio.create_task(work)
        await idle()
        for _ in range(3000):
            if task.done():
                break
            await self.pass_(SECOND / 10)
        return await task

    async def until(self, holds: Callable[[], bool], limit: timedelta = timedelta(hours=2)) -> None:
        end = self.stage.clock.true + limit
        while not holds():
            assert self.stage.clock.true < end, "it never came to that"
            await self.pass_(SECOND)

    async def drill(self, plan: str = "", *, execute: bool = False, service: str = "shop") -> DrillView:
        return await self.get(self.core.operations.drill(service, plan, ANN, execute=execute))

    async def refused(self, plan: str = "", *, service: str = "shop") -> str:
        with pytest.raises(OrderRefused) as refusal:
            await self.drill(plan, execute=True, service=service)
        return str(refusal.value)

    async def over(self) -> facts.Drilled:
        """What the drill under way showed in the end."""
        count = len(self.written(facts.Drilled))
        await self.until(lambda: len(self.written(facts.Drilled)) > count)
        await self.pass_(SECOND)
        return self.written(facts.Drilled)[-1]

    async def trouble(self, key: str = "1") -> None:
        await self.get(self.core.operations.report([Posted(event="broken", service="shop", key=key)], "token:ci"))

    def written(self, kind: type[T]) -> list[T]:
        return [record.fact for record in self.stage.journal.records if isinstance(record.fact, kind)]

    def notices(self, kind: str) -> list[tuple[str, bool]]:
        return [(one.text, one.over) for one in self.written(facts.Notice) if one.kind == kind]

    def outcomes(self) -> list[tuple[str, Outcome]]:
        return [(one.incident, one.outcome) for one in self.written(facts.Ended)]


async def begun(directory: Path, **given: Any) -> Practice:
    given = {"rules": [BROKEN], "shop": SHOP, "desk": {"drill": True}, **given}
    stage = Stage(directory, {"shop": ["code", "config"], "desk": ["code"]}, given, 0)
    for release, good, length in (("code=v0,config=c0", True, 60), ("code=v1,config=c1", True, 60), ("v2", False, 5)):
        await stage.ran("shop", release, good=good)
        await stage.clock.go(stage.clock.true + length * MINUTE)
    for release, good in (("d1", True), ("d2", False)):
        await stage.ran("desk", release, good=good)
    one = Practice(stage)
    await one.up()
    await one.pass_(MINUTE)
    return one


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Practice]:
    one = await begun(tmp_path)
    yield one
    await one.down()


# -- asking, without touching ---------------------------------------------------------------------
async def test_a_drill_touches_nothing_and_is_a_fact(shop: Practice) -> None:
    found = await shop.drill()
    assert (found.result, found.problems, found.incident) == ("ready", (), "")
    assert [(one.layer, one.before, one.after) for one in found.layers] == [("code", "v2", "v1"), ("config", "", "")]
    assert [(one.name, one.verdict) for one in found.checks] == [("health", "good")]
    assert (found.present and found.present.ids["code"], found.goes_to and found.goes_to.ids["code"]) == ("v2", "v1")
    assert shop.stage.world.calls == []
    assert shop.core.read_model.open_incidents() == []
    assert [one.result for one in await shop.get(shop.core.operations.drills("shop"))] == ["ready"]
    assert await shop.get(shop.core.operations.drills("desk")) == []


async def test_each_thing_that_would_stop_a_rollback_is_a_problem(shop: Practice) -> None:
    shop.layer("config").problems = ("its disk is full",)
    shop.stage.world.checks["shop", "health"] = (Verdict.BAD, "")
    assert (await shop.drill()).problems == (
        "check health fails now, no rollback could be verified: answered 500",
        "config: its disk is full",
    )
    shop.layer("config").problems = ()
    shop.stage.world.checks["shop", "health"] = (Verdict.INCONCLUSIVE, "")
    assert (await shop.drill()).problems == (
        "check health cannot be asked, no rollback could be verified: could not be asked",
    )


async def test_without_anywhere_to_go_it_is_not_ready(shop: Practice) -> None:
    shop.layer().known = (Release("v2"),)
    found = await shop.drill()
    assert found.result == "not_ready"
    assert found.problems[0].startswith("no good state to go back to")


async def test_a_layer_that_cannot_plan_and_layers_that_change_are_problems(shop: Practice) -> None:
    async def plan(target: Release) -> Any:
        raise AdapterError(f"no way to {target.id}", permanent=True)

    shop.layer().plan = plan  # type: ignore[method-assign]
    assert "code: no way to v1" in (await shop.drill()).problems
    shop.layer().moving = iter(Release(f"v{n}") for n in range(10, 100))
    assert "the layers are in transition: two looks differ" in (await shop.drill()).problems
    shop.layer().stuck = True
    assert "code: the repository is locked" in (await shop.drill()).problems


async def test_a_plan_that_has_nothing_to_do_is_a_problem(shop: Practice) -> None:
    shop.stage.world.run("shop", "config", "c0")
    await shop.pass_(MINUTE)
    found = await shop.drill("degrade")
    assert found.problems == ("no plan of degrade has a step to take: what they name is there already",)


async def test_lost_readiness_is_told_once_and_once_that_it_is_back(shop: Practice) -> None:
    shop.layer().problems = ("no space left",)
    for _ in range(2):
        await shop.drill()
    lost = ("a rollback of shop would not work: code: no space left", False)
    assert shop.notices("readiness") == [lost]
    assert shop.ledger.ready is False
    assert ready_metric(shop) == 0
    shop.layer().problems = ()
    for _ in range(2):
        await shop.drill()
    assert shop.notices("readiness") == [lost, ("a rollback of shop would work again", True)]
    assert ready_metric(shop) == 1


def ready_metric(shop: Practice) -> float | None:
    return shop.core.operations.registry.get_sample_value("rollbackd_ready", {"service": "shop"})


async def test_a_service_that_was_never_drilled_has_no_readiness(shop: Practice) -> None:
    assert ready_metric(shop) is None


async def test_what_takes_longer_than_its_target_is_told_and_makes_nothing_unready(tmp_path: Path) -> None:
    targets = {"steps": {"command": "30s"}, "recovery": "1m"}
    shop = await begun(tmp_path, targets=targets)
    stream = "incident:shop-1"
    await shop.stage.write(stream, opened())
    await shop.stage.write(stream, facts.ApplyStarted("code"))
    await shop.pass_(90 * SECOND)
    await shop.stage.write(stream, facts.Applied("code"))
    found = await shop.drill()
    assert found.result == "ready"
    assert found.slow == ("code takes 1m30s, its target is 30s", "all of it takes 2m15s, its target is 1m")
    assert found.expected == timedelta(seconds=135)
    await shop.down()


async def test_unknown_names_are_answered_with_what_there_is(shop: Practice) -> None:
    with pytest.raises(UnknownName, match="there are: shop, desk"):
        await shop.drill(service="nowhere")
    with pytest.raises(UnknownName):
        await shop.get(shop.core.operations.drills("nowhere"))
    with pytest.raises(InvalidOrder, match="it has: default, degrade"):
        await shop.drill("everything")


# -- snapshots ------------------------------------------------------------------------------------
@dataclass
class Keeper(WorldLayer):
    """A layer that keeps its own past."""

    kept: tuple[Snapshot, ...] = ()
    wrong: tuple[SnapshotProblem, ...] = ()
    breaks: Exception | None = None
    comes_out_wrong: tuple[SnapshotProblem, ...] = ()

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        return self.comes_out_wrong

    async def snapshots(self) -> Sequence[Snapshot]:
        return self.kept

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        if self.breaks is not None:
            raise self.breaks
        return [replace(one, snapshot=name) for one in self.wrong]

    async def take(self, name: str = "", why: str = "manual") -> Snapshot:
        raise NotImplementedError

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        raise NotImplementedError

    async def restore(self, name: str, key: str, only: Sequence[str] = ()) -> Snapshot:
        raise NotImplementedError

    async def export_to(self, name: str, path: str) -> None:
        raise NotImplementedError

    async def import_from(self, path: str) -> Snapshot:
        raise NotImplementedError

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        raise NotImplementedError


async def test_the_snapshot_of_where_it_would_go_is_read(tmp_path: Path) -> None:
    shop = await begun(tmp_path)
    old = shop.layer()
    layer = Keeper("code", shop.stage.world.calls, present=old.present, known=old.known, world=shop.stage.world)
    adapters = shop.core.layers["shop"].adapters
    adapters["code"] = layer  # type: ignore[index]
    assert (await shop.drill()).layers[0].snapshot == ""
    layer.kept = (Snapshot("s3", "v3", START), Snapshot("s1", "v1", START), Snapshot("s0", "v1", START))
    assert (await shop.drill()).layers[0].snapshot == "s1 verified, restored into scratch"
    layer.comes_out_wrong = (SnapshotProblem("s1", "", "not what was saved"),)
    assert (await shop.drill()).problems == ("code: snapshot s1: not what was saved",)
    layer.wrong = (
        SnapshotProblem("", "etc/app.conf", "its hash differs"),
        SnapshotProblem("", "", "it is short"),
    )
    damaged = await shop.drill()
    assert damaged.layers[0].snapshot == "damaged"
    assert damaged.problems == ("code: snapshot s1: etc/app.conf: its hash differs", "code: snapshot s1: it is short")
    said = list[str]()
    for error in (AdapterError("no such store", permanent=True), TimeoutError(), ValueError("odd")):
        layer.breaks = error
        said += (await shop.drill()).problems
    assert said == [
        "code: no such store",
        "code: its snapshot could not be read in 30m",
        "code: its adapter failed: ValueError: odd",
    ]
    await shop.down()


async def test_a_rollback_goes_before_what_a_drill_still_reads(shop: Practice) -> None:
    planned, asked = shop.layer().plan, 0

    async def plan(target: Release) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:  # the review's own; the first was to see where it would go
            await asyncio.Event().wait()
        return await planned(target)

    shop.layer().plan = plan  # type: ignore[method-assign]
    drill = asyncio.create_task(shop.core.operations.drill("shop", "", ANN))
    await shop.pass_(SECOND)
    assert asked == 2
    await shop.trouble()
    with pytest.raises(OrderRefused, match="the drill of shop was broken off: shop-1 goes first"):
        await shop.get(_of(drill))
    await shop.until(lambda: shop.outcomes() == [("shop-1", Outcome.RECOVERED)])


# -- for real -------------------------------------------------------------------------------------
async def test_it_goes_there_and_comes_back_and_leaves_no_trace(shop: Practice) -> None:
    before = shop.ledger
    view = await shop.drill(execute=True)
    assert (view.result, view.incident) == ("running", "shop-1")
    listed = await shop.get(shop.core.operations.drills())
    assert [(one.result, one.incident) for one in listed] == [("running", "shop-1")]
    drilled = await shop.over()
    assert (drilled.result, drilled.problems) == ("ready", ())
    assert (drilled.incident, drilled.returned) == ("shop-1", "shop-2")
    assert drilled.took >= 30 * SECOND
    assert shop.stage.world.calls == ["apply code v1", "apply code v2"]
    assert shop.outcomes() == [("shop-1", Outcome.RECOVERED), ("shop-2", Outcome.RECOVERED)]
    assert (shop.ledger.spells, shop.ledger.good, shop.ledger.quarantined) == (
        before.spells,
        before.good,
        before.quarantined,
    )
    for kind in (facts.MarkTaken, facts.Quarantined):
        assert shop.written(kind) == []
    (one,) = await shop.get(shop.core.operations.drills("shop"))
    assert (one.result, one.incident, one.returned, one.actor) == ("ready", "shop-1", "shop-2", ANN)


async def test_the_time_that_the_present_state_has_baked_is_kept(shop: Practice) -> None:
    service = shop.stage.config.services[0]
    await shop.pass_(10 * MINUTE)
    baked = shop.core.bake_timer.share(service)
    await shop.drill(execute=True)
    await shop.over()
    assert baked > 0.2
    assert shop.core.bake_timer.share(service) >= baked


async def test_real_trouble_right_after_it_is_rolled_back_at_once(shop: Practice) -> None:
    await shop.drill(execute=True)
    await shop.over()
    await shop.trouble()
    await shop.until(lambda: shop.outcomes()[-1] == ("shop-3", Outcome.RECOVERED))
    assert shop.runs["code"] == "v1"


async def test_a_fixed_release_is_left_again(shop: Practice) -> None:
    await shop.drill("degrade", execute=True)
    assert (await shop.over()).result == "ready"
    assert shop.stage.world.calls == ["apply config c0", "apply config c1"]


async def test_what_is_not_ready_is_not_executed(shop: Practice) -> None:
    shop.layer().problems = ("no space left",)
    found = await shop.drill(execute=True)
    assert (found.result, found.incident) == ("not_ready", "")
    assert shop.stage.world.calls == []


async def test_what_it_must_not_come_on_top_of(tmp_path: Path) -> None:
    shop = await begun(tmp_path, desk={})
    assert await shop.refused(service="desk") == (
        "desk is not drilled for real: its configuration does not say `drill: true`"
    )
    await shop.get(shop.core.operations.hold("shop", ANN, "the database moves", None))
    assert await shop.refused() == "shop is not drilled: held by unix:ann: the database moves"
    await shop.get(shop.core.operations.unhold("shop", ANN))
    shop.layer().reversible = False
    assert "cannot be taken back: code" in await shop.refused()
    shop.layer().reversible = True
    shop.layer().errors = [AdapterError("broken", permanent=True)]
    await shop.trouble()
    await shop.until(lambda: bool(shop.outcomes()))
    assert "is not drilled while it may be in trouble: broken is bad" in await shop.refused()
    await shop.down()


async def test_what_would_not_come_back_as_it_is_is_not_drilled_for_real(shop: Practice) -> None:
    layer = shop.layer()
    layer.aside = "2 uncommitted changes; commit them first"
    said = "shop is not drilled, it would not come back as it is: code: "
    assert await shop.refused() == f"{said}2 uncommitted changes; commit them first"
    layer.aside, layer.known = "", tuple(one for one in layer.known if one != layer.present)
    assert await shop.refused() == f"{said}v2 is not among what it can go back to"
    assert shop.runs == {"code": "v2", "config": "c1"}
    assert (await shop.drill()).result == "ready", "a rollback would work all the same"


async def test_one_is_drilled_at_a_time_and_not_during_a_rollback(shop: Practice) -> None:
    await shop.drill(execute=True)
    assert await shop.refused(service="desk") == (
        "desk is not drilled: shop is, and one is drilled at a time; again when it has ended"
    )
    assert "shop-1 is open" in await shop.refused()
    with pytest.raises(OrderRefused, match="shop-1 is open; again when it has ended"):
        await shop.drill()
    await shop.over()
    assert (await shop.drill(execute=True, service="desk")).result == "running"


async def test_nothing_is_drilled_for_real_in_shadow(tmp_path: Path) -> None:
    shop = await begun(tmp_path, shop={**SHOP, "mode": "shadow"})
    assert "its mode is shadow" in await shop.refused()
    assert (await shop.drill()).result == "ready"
    await shop.down()


async def test_not_while_a_rollback_is_still_watched(shop: Practice) -> None:
    await shop.trouble()
    await shop.until(lambda: bool(shop.outcomes()))
    await shop.get(
        shop.core.operations.report([Posted(event="broken", service="shop", key="2", state="resolved")], "x")
    )
    await shop.pass_(SECOND)
    refusal = await shop.refused()
    assert "it is watched after shop-1" in refusal


async def test_a_drill_waits_for_no_place_and_takes_none(tmp_path: Path) -> None:
    shop = await begun(tmp_path, limits={"concurrent": 1})
    hold_up = shop.layer().hold_up = asyncio.Event()
    await shop.drill(execute=True)
    await shop.get(shop.core.operations.rollback(Request("desk", ANN)))
    await shop.until(lambda: shop.outcomes() == [("desk-1", Outcome.RECOVERED)])
    hold_up.set()
    assert (await shop.over()).result == "ready"
    await shop.down()


# -- cut off --------------------------------------------------------------------------------------
@pytest.mark.parametrize("moment", ["there", "between", "back", "done"])
async def test_a_restart_forgets_neither_the_way_nor_the_return(shop: Practice, moment: str) -> None:
    await shop.drill(execute=True)
    reached = {
        "there": lambda: "apply code v1" in shop.stage.world.calls,
        "between": lambda: bool(shop.outcomes()),
        "back": lambda: len(shop.written(facts.Opening)) == 2,
        "done": lambda: len(shop.outcomes()) == 2,
    }[moment]
    await shop.until(reached)
    await shop.restart()
    await shop.until(lambda: bool(shop.written(facts.Drilled)))
    assert [one.result for one in shop.written(facts.Drilled)] == ["ready"]
    assert shop.stage.world.calls == ["apply code v1", "apply code v2"]
    assert len(shop.written(facts.Opening)) == 2


async def test_a_hold_delays_the_return_which_is_told_once_and_made_up_for(shop: Practice) -> None:
    await shop.drill(execute=True)
    await shop.until(lambda: bool(shop.outcomes()))
    await shop.get(shop.core.operations.hold("shop", ANN, "look first", None))
    await shop.pass_(10 * MINUTE)
    stuck = "shop-1, a drill of shop, cannot return: held by unix:ann: look first; it is tried again"
    if not shop.notices("drill_stuck"):  # the return was open already, and is paused
        assert shop.written(facts.Paused)
    else:
        assert shop.notices("drill_stuck") == [(stuck, False)]
    assert shop.runs["code"] == "v1"
    assert shop.ledger.drill == "shop-1"
    await shop.get(shop.core.operations.unhold("shop", ANN))
    await shop.over()
    assert shop.runs["code"] == "v2"
    assert [over for _, over in shop.notices("drill_stuck")] in ([], [False, True])


async def test_a_layer_that_is_not_ready_to_return_is_told_and_tried_again(shop: Practice) -> None:
    shop.stage.journal.after = lambda written: (
        setattr(shop.layer(), "problems", ("no space left",))
        if any(isinstance(fact, facts.Closed) for fact in written)
        else None
    )
    await shop.drill(execute=True)
    await shop.until(lambda: bool(shop.notices("drill_stuck")))
    assert "code: no space left" in shop.notices("drill_stuck")[0][0]
    (under_way, *_) = await shop.core.operations.drills("shop")
    assert under_way.problems == ("cannot return: code: no space left",)
    assert (await shop.core.operations.service("shop")).incident == "shop-1"
    shop.stage.journal.after = None
    shop.layer().problems = ()
    assert (await shop.over()).result == "ready"
    assert shop.runs["code"] == "v2"


async def test_an_abort_ends_the_way_there_and_it_returns(shop: Practice) -> None:
    await shop.drill(execute=True)
    await shop.until(lambda: "apply code v1" in shop.stage.world.calls)
    await shop.get(shop.core.operations.abort("shop", ANN, "enough"))
    drilled = await shop.over()
    assert drilled.result == "interrupted"
    assert "by unix:ann: enough" in drilled.problems[0]
    assert shop.runs["code"] == "v2"


async def test_a_return_that_fails_is_told_and_the_layers_are_looked_at_again(shop: Practice) -> None:
    shop.stage.journal.after = lambda written: (
        setattr(shop.layer(), "errors", [AdapterError("broken", permanent=True)])
        if any(isinstance(fact, facts.Opening) and fact.drill == "back" for fact in written)
        else None
    )
    await shop.drill(execute=True)
    drilled = await shop.over()
    assert drilled.result == "not_ready"
    assert "it did not return: shop-2 ended failed" in drilled.problems[0]
    assert shop.ledger.spells[-1].state.releases["code"].id == "v1"
    assert shop.ledger.spells[-1].incident == "shop-2"


async def test_what_somebody_deploys_between_is_left_alone(shop: Practice) -> None:
    shop.stage.journal.after = lambda written: (
        shop.stage.world.run("shop", "code", "v3") if any(isinstance(fact, facts.Closed) for fact in written) else None
    )
    await shop.drill(execute=True)
    drilled = await shop.over()
    assert drilled.result == "interrupted"
    assert "somebody else changed code meanwhile" in drilled.problems[0]
    assert shop.runs["code"] == "v3"
    assert shop.ledger.present is not None
    assert shop.ledger.present.releases["code"].id == "v3"


# -- real trouble ---------------------------------------------------------------------------------
@pytest.mark.parametrize("moment", ["stepped", "between", "back", "back and stepped"])
async def test_real_trouble_during_it_ends_it_and_is_rolled_back_when_it_has_returned(
    shop: Practice, moment: str
) -> None:
    reached: Callable[[], bool] = {
        "stepped": lambda: "apply code v1" in shop.stage.world.calls,
        "between": lambda: bool(shop.outcomes()),
        "back": lambda: len(shop.written(facts.Opening)) == 2,
        "back and stepped": lambda: "apply code v2" in shop.stage.world.calls,
    }[moment]
    shop.stage.world.checks["shop", "health"] = (Verdict.GOOD, "")
    await shop.drill(execute=True)
    await shop.until(reached)
    await shop.trouble()
    shop.stage.world.checks["shop", "health"] = (Verdict.BAD, "code=v2")
    began = shop.stage.clock.true
    await shop.until(lambda: shop.outcomes()[-1:] == [("shop-3", Outcome.RECOVERED)])
    assert shop.runs["code"] == "v1"
    assert shop.stage.clock.true - began < 5 * MINUTE
    opening = shop.written(facts.Opening)[-1]
    assert (opening.incident, opening.manual, opening.drill) == ("shop-3", False, "")
    assert len(shop.written(facts.Drilled)) == 1


async def test_real_trouble_before_its_first_step_ends_it_there(shop: Practice) -> None:
    planned, go_on = shop.layer().plan, asyncio.Event()

    async def plan(target: Release) -> Any:
        if shop.ledger.open is not None:
            await go_on.wait()
        return await planned(target)

    shop.layer().plan = plan  # type: ignore[method-assign]
    await shop.drill(execute=True)
    await shop.trouble()
    go_on.set()
    await shop.until(lambda: shop.outcomes()[-1:] == [("shop-2", Outcome.RECOVERED)])
    assert shop.outcomes()[0] == ("shop-1", Outcome.ABORTED)
    (drilled,) = shop.written(facts.Drilled)
    assert (drilled.result, drilled.returned) == ("interrupted", "")
    assert "broken came during the drill" in drilled.problems[0]
    assert shop.stage.world.calls == ["apply code v1"]


async def test_a_persons_rollback_ends_the_drill_and_goes_where_it_went(shop: Practice) -> None:
    hold_up = shop.layer().hold_up = asyncio.Event()
    await shop.drill(execute=True)
    await shop.until(lambda: "apply code v1" in shop.stage.world.calls)
    order = asyncio.create_task(shop.core.operations.rollback(Request("shop", "unix:bob")))
    await shop.pass_(SECOND)
    hold_up.set()
    with pytest.raises(OrderRefused, match="no plan of default has a step to take"):
        await shop.get(_of(order))
    (drilled,) = shop.written(facts.Drilled)
    assert drilled.problems == ("unix:bob ordered a rollback: it did not return",)
    await shop.pass_(5 * MINUTE)
    assert shop.runs["code"] == "v1"
    assert shop.ledger.spells[-1].incident == "shop-1"
    assert shop.ledger.open is None


async def test_a_persons_rollback_elsewhere_goes_there_from_wherever_the_drill_is(shop: Practice) -> None:
    await shop.drill(execute=True)
    await shop.until(lambda: bool(shop.outcomes()))
    incident = await shop.get(shop.core.operations.rollback(Request("shop", "unix:bob", to="code=v0")))
    await shop.until(lambda: (incident, Outcome.RECOVERED) in shop.outcomes())
    assert shop.ledger.drill == ""
    ran = [(spell.state.releases["code"].id, spell.incident) for spell in shop.ledger.spells]
    assert ran == [("v0", ""), ("v1", ""), ("v2", ""), ("v1", "shop-1"), ("v0", incident)]


async def test_while_the_drills_step_goes_on_the_order_is_refused_with_what_to_do(shop: Practice) -> None:
    hold_up = shop.layer().hold_up = asyncio.Event()
    await shop.drill(execute=True)
    await shop.until(lambda: "apply code v1" in shop.stage.world.calls)
    order = asyncio.create_task(shop.core.operations.rollback(Request("shop", "unix:bob")))
    with pytest.raises(OrderRefused, match="shop-1, a drill, is being ended; order again when it has"):
        await shop.get(_of(order))
    hold_up.set()
    await shop.until(lambda: bool(shop.outcomes()))
    assert shop.outcomes() == [("shop-1", Outcome.ABORTED)]


async def _of(task: "asyncio.Task[T]") -> T:
    return await task


# -- on the calendar ------------------------------------------------------------------------------
def calendar(shop: Practice, *entries: dict[str, Any]) -> Calendar:
    config = shop.stage.config
    named = tuple(DrillSchedule.model_validate(entry) for entry in entries)
    planned = config.model_copy(update={"schedules": named})
    drills = DrillTimetable(planned, shop.core.read_model, shop.stage.clock, shop.core.drills)
    return Calendar(drills.planned(), shop.stage.clock)


async def keeps(shop: Practice, table: Calendar) -> None:
    shop.tasks.append(asyncio.create_task(table.run()))
    await idle()


def results(shop: Practice) -> list[tuple[str, bool]]:
    return [(one.result, bool(one.incident)) for one in shop.written(facts.Drilled)]


async def test_the_calendar_holds_them_at_their_times(shop: Practice) -> None:
    asked, executed = {"drill": "shop", "cron": "0 4 * * *"}, {"drill": "shop", "cron": "0 5 * * *", "execute": True}
    await keeps(shop, calendar(shop, asked, executed))
    assert results(shop) == []
    await shop.until(lambda: shop.stage.clock.true.hour == 4, timedelta(hours=9))
    await shop.pass_(MINUTE)
    assert results(shop) == [("ready", False)]
    await shop.pass_(timedelta(hours=1, minutes=30))
    assert results(shop) == [("ready", False), ("ready", True)]
    assert shop.runs["code"] == "v2"
    (one, _) = await shop.get(shop.core.operations.drills("shop"))
    assert one.actor == DAEMON


async def test_one_that_was_missed_is_made_up_for_once_and_one_that_was_cut_off_is_not_repeated(shop: Practice) -> None:
    await shop.stage.write("service:shop", facts.Drilled(("default",), "ready", incident="shop-0", execute=True))
    await shop.down()
    await shop.stage.clock.go(shop.stage.clock.true + timedelta(days=40))
    await shop.up()
    entry = {"drill": "shop", "cron": "0 4 1 * *", "execute": True}
    await keeps(shop, calendar(shop, entry))
    await shop.until(lambda: bool(shop.outcomes()))
    await shop.restart()
    await keeps(shop, calendar(shop, entry))
    await shop.pass_(timedelta(hours=2))
    assert results(shop) == [("ready", True), ("ready", True)]


async def test_one_that_cannot_be_held_now_is_tried_again_and_in_the_end_noted(
    shop: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollbackd.drills.schedule._GIVEN_UP", timedelta(minutes=50))
    await shop.get(shop.core.operations.hold("shop", ANN, "holidays", None))
    await keeps(shop, calendar(shop, {"drill": "shop", "every": "1h", "execute": True}))
    await shop.pass_(timedelta(minutes=30))
    assert results(shop) == []
    await shop.get(shop.core.operations.unhold("shop", ANN))
    await shop.pass_(timedelta(minutes=20))
    assert results(shop) == [("ready", True)]
    await shop.get(shop.core.operations.hold("shop", ANN, "holidays", None))
    await shop.pass_(timedelta(hours=2))
    assert results(shop) == [("ready", True), ("interrupted", False)]
    assert shop.written(facts.Drilled)[-1].problems == ("shop is not drilled: held by unix:ann: holidays",)


async def test_a_service_that_left_the_configuration_meanwhile_is_said_to_be_where_it_is(shop: Practice) -> None:
    await shop.drill(execute=True)
    await shop.until(lambda: bool(shop.outcomes()))
    await shop.down()
    config = shop.stage.config
    shop.stage.config = config.model_copy(update={"services": config.services[1:]})
    shop.stage.config.__dict__.pop("by_name")  # remembered of the other one
    del shop.stage.world.layers["shop"]
    await shop.up()
    await shop.until(lambda: bool(shop.written(facts.Drilled)))
    (drilled,) = shop.written(facts.Drilled)
    assert drilled.problems == ("shop is no longer in the configuration: it was not brought back",)


async def test_a_journal_that_cannot_be_written_for_a_while_loses_no_return(shop: Practice) -> None:
    await shop.drill(execute=True)
    failures = 5

    async def broken(written: Sequence[Any]) -> None:
        nonlocal failures
        if any(isinstance(fact, facts.Opening | facts.Drilled) for fact in written) and failures:
            failures -= 1
            raise JournalUnavailable("disk full")

    shop.stage.journal.before = broken
    assert (await shop.over()).result == "ready"
    assert failures == 0
    assert shop.runs["code"] == "v2"
