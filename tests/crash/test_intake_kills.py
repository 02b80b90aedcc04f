"""An alert that was answered 200 is on disk and is judged, whenever the daemon is killed."""

import asyncio
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from rollbackd import facts
from rollbackd.model import Action, Outcome
from rollbackd.signals.alertmanager_webhook import alert_from_json
from tests.crash.lives import LIMIT, until, zygote
from tests.crash.shop import Shop
from tests.crash.world import World, alert, delivery, of_kind

ROUNDS = 5
CONNECTIONS = 32
LONGEST_ROUND = 0.6
"""Seconds from the first answer to the kill."""


async def _rolled_back(world: World, shop: Shop) -> None:
    """A new life takes it to the end, though nobody delivers anything again."""
    life = await world.begin()
    assert await world.has("Closed")
    assert await life.stop() == 0
    assert shop.effects == ["enter", "config v1", "code v1", "leave"]
    records = await world.checked()
    assert [fact.outcome for fact in of_kind(records, facts.Closed)] == [Outcome.RECOVERED]


async def test_killed_right_after_the_answer_and_before_the_decision_it_is_rolled_back(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    async with zygote() as mother:
        world = World(tmp_path, mother)
        world.configure([shop.service()])
        await world.deployed({shop.name: shop.history})
        with shop.unseen():  # nothing can be decided without a look
            life = await world.begin()
            assert await world.post(alert(shop.name))
            await life.kill()
            async with world.journal() as journal:
                assert len(await journal.unhandled()) == 1
                assert of_kind(await journal.since(0), facts.Decided) == []
        await _rolled_back(world, shop)


async def test_killed_between_the_disk_and_the_answer_it_is_rolled_back(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    async with zygote() as mother:
        world = World(tmp_path, mother)
        world.configure([shop.service()])
        await world.deployed({shop.name: shop.history})
        life = await world.begin(once="SELECT count(*) FROM inbox")
        assert not await world.post(alert(shop.name))
        assert await life.ended() == -9
        await _rolled_back(world, shop)


async def _load(world: World, first: int, answered: set[str]) -> int:
    """Post distinct alerts over many connections until the daemon is gone; how many were sent."""
    sent = first

    async def post(session: aiohttp.ClientSession) -> None:
        nonlocal sent
        while True:
            one = alert("shop", sent)
            sent += 1
            async with session.post("/api/v1/alerts", json=delivery([one])) as answer:
                await answer.read()
                if answer.status == 200:
                    answered.add(one["fingerprint"])

    connector = aiohttp.UnixConnector(str(world.way_in), limit=CONNECTIONS)
    async with aiohttp.ClientSession("http://rollbackd", connector=connector) as session:
        ends = await asyncio.gather(*(post(session) for _ in range(CONNECTIONS)), return_exceptions=True)
    assert all(isinstance(end, aiohttp.ClientError | OSError) for end in ends), ends
    return sent


@pytest.mark.timeout(240)
async def test_killed_under_load_it_lost_nothing_that_it_answered(tmp_path: Path) -> None:
    seed = int(os.environ.get("ROLLBACKD_SEED", "0")) or random.randrange(1, 10**9)
    print(f"seed: ROLLBACKD_SEED={seed}")
    chance = random.Random(seed)
    shop = Shop(tmp_path / "shop")
    answered = set[str]()
    sent = 0
    async with zygote() as mother:
        world = World(tmp_path, mother)
        world.configure([shop.service() | {"mode": "shadow"}])
        await world.deployed({shop.name: shop.history})
        for _ in range(ROUNDS):
            before = len(answered)
            life = await world.begin()
            loading = asyncio.create_task(_load(world, sent, answered))

            async def some(before: int = before) -> bool:
                return len(answered) > before

            await until(some, "the first answer")
            await asyncio.sleep(chance.uniform(0, LONGEST_ROUND))  # not for a condition: the kill comes at random
            await life.kill()
            sent = await loading
            async with world.journal() as journal:
                rows = await journal.arrived("alert", datetime.now(UTC) - timedelta(hours=1))
                assert (await journal.audit()).broken == ()
            assert answered <= {alert_from_json(row.body).fingerprint for row in rows}
        life = await world.begin()

        async def all_judged() -> bool:
            return world.counted("SELECT count(*) FROM inbox WHERE NOT handled") == 0

        await until(all_judged, "all is judged", 2 * LIMIT)
        assert await life.stop() == 0
        records = await world.checked()
    decided = [fact.decision for fact in of_kind(records, facts.Decided)]
    judged = {decision.trigger.episode.split("/")[2] for decision in decided}
    print(f"{sent} sent, {len(answered)} answered, {len(rows)} on disk, {len(judged)} judged, in {ROUNDS} rounds")
    assert answered <= judged
    assert len(decided) == len(judged)
    assert {decision.action for decision in decided} == {Action.OBSERVE}
    assert shop.effects == []
