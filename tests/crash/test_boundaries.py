"""The whole daemon is killed at each of its boundaries during a rollback, started again, and the world is compared."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.model import Outcome
from tests.crash.lives import Zygote, zygote
from tests.crash.shop import Shop
from tests.crash.world import World, alert, of_kind
from tests.fakes.receiving import serving
from tests.fakes.slack import SlackFake

AT_ONCE = 3
"""Worlds; each waits for its programs most of the time."""
ENOUGH = 5
"""Lives that ended before their boundary was reached: then each was tried. Their number differs a little."""
EVENTS = ["opened", "started", "recovered"]


class _Story:
    """One service, from the alert to the end of its rollback, with at most one kill on the way."""

    def __init__(self, root: Path, name: str, mother: Zygote, slack: SlackFake, url: str) -> None:
        self.shop = Shop(root / "shop", name)
        self.world = World(root, mother, slack, f"{url}{slack.path}")
        self._alert = alert(name)
        self._answered = False

    async def begin(self) -> None:
        self.world.configure([self.shop.service()])
        await self.world.deployed({self.shop.name: self.shop.history})

    async def live(self, **hook: Any) -> bool:
        """A life to the end of the rollback and of its messages; False when it was killed first."""
        world = self.world
        life = await world.start(**hook)
        # Alertmanager sends again what was not answered with 200, and only that.
        self._answered = self._answered or (await world.serving() and await world.post(self._alert))
        told = await world.told("recovered")
        code = await life.stop()  # it may have been killed right after that was on disk
        assert code in {0, -9}
        assert told or code
        return code == 0

    async def check(self) -> None:
        """What must be true at the end, whatever happened on the way."""
        shop = self.shop
        assert shop.effects == ["enter", "config v1", "code v1", "leave"]
        assert [(shop.root / layer).read_text() for layer in ("config", "code")] == ["v1\n", "v1\n"]
        assert not (shop.root / "gate").exists()
        records = await self.world.checked()
        for kind in (facts.Opening, facts.Opened, facts.Entered, facts.Left, facts.Planned, facts.Ended):
            assert len(of_kind(records, kind)) == 1, kind
        assert [fact.layer for fact in of_kind(records, facts.Applied)] == ["config", "code"]
        assert [fact.outcome for fact in of_kind(records, facts.Closed)] == [Outcome.RECOVERED]
        assert of_kind(records, facts.ApplyFailed) == []
        assert [fact.event for fact in of_kind(records, facts.Told)] == EVENTS
        heard = self.world.heard(self.shop.name)
        assert len(heard) == len(EVENTS)
        assert sum(heard.values()) <= len(EVENTS) + 1, "one kill repeats one message at most"


@pytest.mark.timeout(600)
async def test_killed_at_each_boundary_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    slack = SlackFake()
    async with serving(slack) as url, zygote() as mother:
        first = _Story(tmp_path / "0", "shop0", mother, slack, url)
        await first.begin()
        assert await first.live(names=str(tmp_path / "names"))
        await first.check()
        names = (tmp_path / "names").read_text().split()
        print(f"{len(names)} boundaries: {dict(Counter(names))}")
        survived = dict[int, int]()  # where it would have been killed, and how many boundaries there were
        numbers = count(1)

        async def worker(numbers: Iterator[int]) -> None:
            while len(survived) < ENOUGH:
                number = next(numbers)
                story = _Story(tmp_path / str(number), f"shop{number}", mother, slack, url)
                await story.begin()
                try:
                    passed = tmp_path / f"names-{number}"
                    if await story.live(at=number, names=str(passed)):
                        survived[number] = len(passed.read_text().split())
                        assert survived[number] < number, "it was to be killed"
                    else:
                        assert await story.live()
                    await story.check()
                except AssertionError as error:
                    raise AssertionError(f"killed at boundary {number}: {error}\n{story.world.log}") from error

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(worker(numbers))
        assert slack.wrong == []
    kills = next(numbers) - 1 - len(survived)
    print(f"{kills} kills; not reached: {sorted(survived)}")
    assert kills >= 0.9 * min(len(names), *survived.values()), "slow stories look more often"
