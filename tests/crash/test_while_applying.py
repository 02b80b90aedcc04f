"""What people and alerts say while a step runs never costs the step its result, and an abort counts right after it."""

import asyncio
import sys
from pathlib import Path

import pytest
from aiohttp import web

from rollbackd import facts
from rollbackd.model import Outcome
from tests.crash.lives import until, zygote
from tests.crash.shop import Shop
from tests.crash.world import World, alert, of_kind
from tests.fakes.receiving import serving
from tests.fakes.slack import SlackFake


class _SlowSlack(SlackFake):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.awake = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await self.awake.wait()
        return await super().handle(request)


async def _abort_by_command_line(world: World) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rollbackd", "abort", "shop-1", "--config", str(world.config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed in the middle of it"])
async def test_news_during_a_step_cost_no_result_and_an_abort_counts_after_it(tmp_path: Path, killed: bool) -> None:
    shop = Shop(tmp_path / "shop", wait=True)
    slack = _SlowSlack()
    async with serving(slack) as url, zygote() as mother:
        world = World(tmp_path, mother, slack, f"{url}{slack.path}")
        world.configure([shop.service()])
        await world.deployed({shop.name: shop.history})
        life = await world.begin()
        assert await world.post(alert(shop.name))

        async def applying() -> bool:
            return shop.applying

        await until(applying, "the first step's program")
        slack.awake.set()
        assert await world.told("started")
        assert await world.post(alert(shop.name, 1))
        assert await world.has("Joined")
        await world.order("/api/v1/incidents/shop-1/acknowledge")
        assert await world.told("acknowledged")
        await _abort_by_command_line(world)
        assert await world.told("abort_requested")
        if killed:
            await life.kill()
            life = await world.begin()
        shop.go()
        assert await world.told("aborted")
        assert await life.stop() == 0
        assert shop.effects == ["enter", "config v1", "leave"]
        assert not (shop.root / "gate").exists()
        records = await world.checked()
    assert slack.wrong == []
    kinds = [type(record.fact) for record in records if record.stream == "incident:shop-1"]
    during = kinds[kinds.index(facts.ApplyStarted) : kinds.index(facts.Applied)]
    assert {facts.Told, facts.Joined, facts.Acknowledged, facts.AbortRequested} <= set(during)
    assert during.count(facts.Told) == 4
    assert [fact.layer for fact in of_kind(records, facts.ApplyStarted)] == ["config"]
    assert [fact.layer for fact in of_kind(records, facts.Applied)] == ["config"]
    assert [fact.layer for fact in of_kind(records, facts.Left)] == ["gate"]
    assert [fact.outcome for fact in of_kind(records, facts.Closed)] == [Outcome.ABORTED]
    (joined,) = of_kind(records, facts.Joined)
    assert joined.trigger.service == shop.name
