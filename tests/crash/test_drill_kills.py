"""The whole daemon is killed at each boundary of an executed drill that is the drill's own, and it comes back."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollbackd import facts
from rollbackd.model import Outcome
from tests.crash.lives import Zygote, zygote
from tests.crash.shop import Shop
from tests.crash.world import World, of_kind

AT_ONCE = 3


def _once(kind: str, number: int = 1) -> dict[str, str]:
    """As soon as there are so many facts of a kind."""
    return {"once": f"SELECT (SELECT count(*) FROM facts WHERE kind = '{kind}') = {number}"}


MOMENTS: dict[str, dict[str, str]] = {
    "the way there is opened": _once("Opening"),
    "its first step begins": _once("ApplyStarted"),
    "its last step is done": _once("Applied", 2),
    "it is verified": _once("Ended"),
    "the return is opened": _once("Opening", 2),
    "the return is adopted": _once("Adopted", 2),
    "the return's page is up": _once("Entered", 2),
    "the return's first step is done": _once("Applied", 3),
    "the return is verified": _once("Ended", 2),
    "the result is written": _once("Drilled"),
}


class _Practice:
    """One service, from the order to the result, with at most one kill on the way."""

    def __init__(self, root: Path, name: str, mother: Zygote) -> None:
        self.shop = Shop(root / "shop", name)
        self.world = World(root, mother)

    async def begin(self) -> None:
        service = {**self.shop.service(), "drill": True, "checks": {"well": {"command": ["true"]}}}
        self.world.configure([service])
        await self.world.deployed({self.shop.name: self.shop.history})

    async def live(self, **hook: Any) -> bool:
        """A life to the drill's result; False when it was killed first."""
        world = self.world
        life = await world.start(**hook)
        if await world.serving() and not world.counted("SELECT count(*) FROM facts WHERE kind = 'Opening'"):
            with suppress(aiohttp.ClientError, OSError):
                await world.order(f"/api/v1/services/{self.shop.name}/drill", execute=True)
        ended = await world.has("Drilled")
        code = await life.stop()
        assert code in {0, -9}
        assert ended or code
        return code == 0

    async def check(self) -> None:
        shop = self.shop
        ways = [["enter", f"config {release}", f"code {release}", "leave"] for release in ("v1", "v2")]
        assert shop.effects == [effect for way in ways for effect in way]
        assert [(shop.root / layer).read_text() for layer in ("config", "code")] == ["v2\n", "v2\n"]
        assert not (shop.root / "gate").exists()
        records = await self.world.checked()
        assert [(one.incident, one.drill) for one in of_kind(records, facts.Opening)] == [
            (f"{shop.name}-1", "there"),
            (f"{shop.name}-2", "back"),
        ]
        assert [one.outcome for one in of_kind(records, facts.Ended)] == [Outcome.RECOVERED] * 2
        assert [(one.result, one.problems) for one in of_kind(records, facts.Drilled)] == [("ready", ())]
        for kind in (facts.Quarantined, facts.MarkTaken, facts.ApplyFailed):
            assert of_kind(records, kind) == [], kind
        assert len(of_kind(records, facts.Changed)) == len(shop.history), "it left no trace among the states"


@pytest.mark.timeout(200)
async def test_killed_at_each_of_its_own_boundaries_a_drill_comes_back_all_the_same(tmp_path: Path) -> None:
    async with zygote() as mother:
        few = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, moment: str, hook: dict[str, str]) -> None:
            async with few:
                practice = _Practice(tmp_path / str(number), f"shop{number}", mother)
                await practice.begin()
                try:
                    assert not await practice.live(**hook), "it was not killed"
                    assert await practice.live()
                    await practice.check()
                except AssertionError as error:
                    raise AssertionError(f"killed when {moment}: {error}\n{practice.world.log[-4000:]}") from error

        async with asyncio.TaskGroup() as tasks:
            for number, (moment, hook) in enumerate(MOMENTS.items()):
                tasks.create_task(one(number, moment, hook))
