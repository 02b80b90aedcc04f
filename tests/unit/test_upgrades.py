"""A layer goes forward by a person's order: announced, after what stops a rollback was asked, in the adapter's words."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.adapter import AdapterError
from rollbackd.decision.refusals import InvalidOrder, OrderRefused, UnknownName
from rollbackd.model import Change, Release
from rollbackd.views.shapes import UpgradeView
from tests.unit.test_operations import ANN, House, opened

KEY = "upgrade-20260301T120000Z"


class Upgraded:
    """Makes the layer `config` one that goes forward."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.asked: list[str] = []
        self.before, self.after = Release("r1"), Release("r2")
        self.fails: AdapterError | None = None
        layer: Any = house.stage.daemon.operations._parts.layers["shop"].adapters["config"]
        layer.forward, layer.upgrade, layer.stands_midway = self.forward, self.upgrade, self.stands_midway
        self.midway: str | AdapterError = ""

    async def forward(self, to: str = "") -> Change:
        self.asked.append(f"forward {to}")
        return Change("config", self.before, self.after, key=KEY)

    async def upgrade(self, change: Change) -> str:
        announced = [fact.id for fact in self.house.written(facts.Announced)]
        self.asked.append(f"upgrade {change.key} after {announced}")
        if self.fails is not None:
            raise self.fails
        return "snapshot-before-1"

    async def stands_midway(self) -> str:
        if isinstance(self.midway, AdapterError):
            raise self.midway
        return self.midway

    async def order(self, to: str = "", **more: Any) -> UpgradeView:
        given = {"over_hold": False, **more}
        return await self.house.get(self.house.operations.upgrade("shop", "config", to, ANN, **given))


@pytest.fixture
async def upgraded(tmp_path: Path) -> AsyncIterator[Upgraded]:
    house = await opened(tmp_path)
    yield Upgraded(house)
    await house.stage.down()


async def test_an_upgrade_is_announced_before_it_is_made_and_once(upgraded: Upgraded) -> None:
    done = await upgraded.order("r2")
    assert done == UpgradeView("shop", "config", "r1", "r2", "snapshot-before-1", KEY)
    assert upgraded.asked == ["forward r2", f"upgrade {KEY} after ['{KEY}']"]
    (announced,) = upgraded.house.written(facts.Announced)
    assert (announced.releases, announced.kind) == ({"config": "r2"}, "upgrade")
    await upgraded.order()  # what was cut off has the same key
    assert len(upgraded.house.written(facts.Announced)) == 1


async def test_where_it_leads_nowhere_nothing_is_done(upgraded: Upgraded) -> None:
    upgraded.before = upgraded.after
    assert await upgraded.order() == UpgradeView("shop", "config", "r2", "r2")
    assert upgraded.asked == ["forward "]
    assert upgraded.house.written(facts.Announced) == []


async def test_what_the_layer_cannot_do_is_said_in_its_words(upgraded: Upgraded) -> None:
    upgraded.fails = AdapterError("r2 failed; it is at r1 now", permanent=True)
    with pytest.raises(OrderRefused, match="shop/config: r2 failed; it is at r1 now"):
        await upgraded.order()


async def test_a_hold_and_a_rollback_at_work_stop_it(upgraded: Upgraded) -> None:
    house = upgraded.house
    await house.get(house.operations.hold("shop", ANN, "we look at it", None))
    with pytest.raises(
        OrderRefused, match=r"shop/config is not touched: .*we look at it.*`--over-hold` goes over that"
    ):
        await upgraded.order()
    assert (await upgraded.order(over_hold=True)).after == "r2"
    await house.get(house.operations.unhold("shop", ANN))
    upgraded.asked.clear()
    await house.event("worse")
    await house.event("broken")
    assert house.stage.daemon.read_model.of("shop").acting is not None, "a rollback is at work"
    with pytest.raises(OrderRefused, match="shop/config is not touched: shop-1 is at work; again when it has ended"):
        await upgraded.order()
    assert upgraded.asked == []


async def test_one_that_was_cut_off_is_told_after_a_start(upgraded: Upgraded) -> None:
    operations = upgraded.house.operations
    for midway in ("", AdapterError("it does not answer", permanent=False)):
        upgraded.midway = midway
        await upgraded.house.get(operations.say_what_stands_midway())
        assert upgraded.house.written(facts.Notice) == []
    upgraded.midway = "shop/config: an upgrade to r2 was cut off at r1"
    await upgraded.house.get(operations.say_what_stands_midway())
    (told,) = upgraded.house.written(facts.Notice)
    assert (told.kind, told.service, told.text) == ("upgrade_cut_off", "shop", upgraded.midway)


async def test_a_layer_that_does_not_go_forward_is_none(upgraded: Upgraded) -> None:
    work = upgraded.house.operations.upgrade
    with pytest.raises(InvalidOrder, match="shop/code is not upgraded by rollbackd"):
        await upgraded.house.get(work("shop", "code", "", ANN, over_hold=False))
    with pytest.raises(InvalidOrder, match='shop has no layer "cod"'):
        await upgraded.house.get(work("shop", "cod", "", ANN, over_hold=False))
    with pytest.raises(UnknownName, match='there is no service "shp"'):
        await upgraded.house.get(work("shp", "code", "", ANN, over_hold=False))
