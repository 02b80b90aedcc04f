"""A rollback that broke off in the middle: the same order again does what is left, whatever the layers say they run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Outcome, Progress, Release, Request, Traits
from rollbackd.operations import OrderRefused
from rollbackd.policy.ledger import ServiceLedger
from tests.unit.judgement.clock import idle
from tests.unit.judgement.stage import Stage
from tests.unit.judgement.world import WorldLayer

ANN = "unix:ann"
SECOND = timedelta(seconds=1)


@dataclass
class Marked(WorldLayer):
    """It knows a change that it finished by its key, as layers do that leave traces."""

    finished: set[str] = field(default_factory=set)
    breaks: bool = False
    """It moves, and then fails."""

    async def apply(self, change: Change) -> None:
        await super().apply(change)
        if self.breaks:
            raise AdapterError("the build broke", permanent=True)
        self.finished.add(change.key)

    async def progress(self, change: Change) -> Progress:
        return Progress.DONE if change.key in self.finished else Progress.NOT_STARTED


class Shop:
    """It ran v1 well, runs v2, and has a process that is restarted after the code has moved."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def ledger(self) -> ServiceLedger:
        return self.stage.daemon.read_model.of("shop")

    def layer(self, name: str) -> Marked:
        found = self.stage.world.layers["shop"][name]
        assert isinstance(found, Marked)
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(3600):
            if holds():
                return
            await self.stage.clock.go(self.stage.clock.true + SECOND)
        raise AssertionError("it never came to that")

    async def order(self, to: str = "") -> list[str]:
        """What is done for it until the incident has ended."""
        before = len(self.stage.world.calls)
        task = asyncio.create_task(self.stage.daemon.operations.rollback(Request("shop", ANN, to=to)))
        await idle()
        await self.until(task.done)
        await task
        await self.until(lambda: self.ledger.open is None)
        await self.stage.clock.go(self.stage.clock.true + timedelta(minutes=2))
        return [call for call in self.stage.world.calls[before:] if call.startswith("apply")]

    def ended(self, outcome: Outcome) -> bool:
        return self.ledger.rollbacks[-1].outcome is outcome


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    given = {"shop": {"plans": {"default": {"steps": ["code", "process"]}}}}
    stage = Stage(tmp_path, {"shop": ["code", "process"]}, given, 0)
    own = stage.world.layers["shop"]
    for name, traits in (("code", Traits()), ("process", Traits(releases=False))):
        own[name] = Marked(name, stage.world.calls, traits, Release(""), (), world=stage.world)
    for release, good, minutes in (("code=v0", True, 60), ("code=v1", True, 60), ("code=v2", True, 5)):
        await stage.ran("shop", release, good=good)
        await stage.clock.go(stage.clock.true + timedelta(minutes=minutes))
    await stage.up()
    await stage.clock.go(stage.clock.true + timedelta(minutes=1))
    yield Shop(stage)
    await stage.down()


async def test_a_step_that_moved_its_layer_and_then_failed_is_done_again(shop: Shop) -> None:
    shop.layer("code").breaks = True
    assert await shop.order() == ["apply code v1"]
    shop.layer("code").breaks = False
    assert shop.ended(Outcome.FAILED)
    assert shop.layer("code").present.id == "v1", "so it says"
    plan = await shop.stage.daemon.operations.plan(Request("shop", ANN))
    assert plan.steps[0].risks[-1] == "its last step broke off: it is done again"
    assert await shop.order() == ["apply code v1", "apply process -"]
    assert shop.ended(Outcome.RECOVERED)
    with pytest.raises(OrderRefused, match="no plan of default has a step to take"):
        await shop.order("v1")


async def test_what_comes_after_a_step_that_failed_is_done_too(shop: Shop) -> None:
    shop.layer("process").errors = [AdapterError("the unit does not start", permanent=True)]
    assert await shop.order() == ["apply code v1", "apply process -"]
    assert shop.ended(Outcome.FAILED)
    await shop.stage.down()
    await shop.stage.up()
    assert await shop.order() == ["apply process -"]
    assert shop.ended(Outcome.RECOVERED)


async def test_while_nothing_moved_the_state_to_leave_is_no_target(shop: Shop) -> None:
    shop.layer("code").errors = [AdapterError("no room", permanent=True)]
    assert await shop.order() == ["apply code v1"]
    assert shop.layer("code").present.id == "v2"
    assert await shop.order() == ["apply code v1", "apply process -"]


async def test_whoever_deploys_or_says_that_it_is_good_has_finished_it(shop: Shop) -> None:
    for end in ("deployed", "good"):
        shop.layer("process").errors = [AdapterError("the unit does not start", permanent=True)]
        await shop.order("v1")
        assert shop.ledger.unfinished is not None
        assert shop.ledger.unfinished.layers == ("process",)
        if end == "good":
            await shop.stage.daemon.operations.good("shop", {}, ANN)
        shop.stage.world.run("shop", "code", "v3" if end == "deployed" else "v1")
        await shop.until(lambda: shop.ledger.unfinished is None)
