"""An incident that is parked does not blind its service: what somebody deploys is seen, and judged."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollbackd import facts
from rollbackd.journal import Entry
from rollbackd.model import Outcome, incident_stream
from tests.unit.judgement.script import SHOP
from tests.unit.judgement.shop import MONDAY, PAGE, Shop
from tests.unit.judgement.stage import Stage

SCHEMAS = {SHOP: {"plans": {"default": ["db", "code"]}}, "rules": [PAGE]}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A rollback to v1 was cut off too often in its step."""
    made = Shop(tmp_path)
    await made.open()
    await made.let("10:02 code takes 4m", "10:03 alert Sick fires while v2", "10:04 nothing more happens")
    parked = facts.Parked("cut off 3 times")
    await made.daemon.read_model.append(Entry(incident_stream("shop-1"), parked))
    yield made
    await made.down()


async def test_a_release_of_somebodys_ends_it_and_is_judged_by_itself(shop: Shop) -> None:
    await shop.let("10:15 deploys v3", "10:17 nothing more happens")
    assert (await shop.incident()).outcome is Outcome.SUPERSEDED
    present = shop.daemon.read_model.of("shop").spells[-1]
    assert (present.state.name, present.incident) == ("code v3", "")
    await shop.let("10:20 alert Sick fires while v3", "10:40 nothing more happens")
    assert shop.words.count("rolls back") == 2
    assert shop.world.layers["shop"]["code"].present.id == "v1"


@pytest.mark.parametrize("meanwhile", ["10:15 nothing more happens", "10:15 code cannot be seen"])
async def test_it_stays_parked_while_nobody_moved_anything_or_nobody_knows(shop: Shop, meanwhile: str) -> None:
    await shop.let("10:08 nothing more happens", meanwhile, "10:30 nothing more happens")
    found = await shop.incident()
    assert (found.outcome, found.parked) == (None, "cut off 3 times")


async def test_what_its_own_step_took_along_is_moved_by_nobody_else(tmp_path: Path) -> None:
    shop = Shop.__new__(Shop)
    Stage.__init__(shop, tmp_path, {SHOP: ("db", "schema", "code")}, SCHEMAS, 0)
    await shop.let("Sun 10:00 ran code=v1,db=d1,schema=s1, good")
    await shop.clock.go(MONDAY)
    await shop.up()
    await shop.let("10:00 deploys code=v2,db=d2,schema=s2", "10:02 db takes 1m", "10:03 alert Sick fires while v2")
    shop.world.layers[SHOP]["db"].lies = True
    parked = facts.Parked("cut off 3 times")
    await shop.daemon.read_model.append(Entry(incident_stream("shop-1"), parked))
    await shop.let("10:08 deploys schema=s1", "10:15 nothing more happens")
    assert (await shop.incident()).outcome is None
    await shop.let("10:16 deploys code=v3", "10:18 nothing more happens")
    assert (await shop.incident()).reason == "somebody else changed code meanwhile"
    await shop.down()
