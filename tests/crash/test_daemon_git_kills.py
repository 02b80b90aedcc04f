"""Real git under the whole daemon, killed 200 times at random: it ends right, builds once, loses nobody's work."""

import asyncio
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.model import Outcome, Release, State
from tests.contract.worlds import script, tree
from tests.crash.lives import Zygote, zygote
from tests.crash.repository import check_repository, make_repository
from tests.crash.shop import Shop
from tests.crash.world import World, alert, of_kind
from tests.fakes.receiving import serving
from tests.fakes.slack import SlackFake

KILLS = 200
AT_ONCE = 8
MOST = 8
"""Kills of one world."""
BUILD = 3.0
"""Seconds; asleep, so that several worlds fit on one processor."""
EARLY = 1.2
"""Seconds in which a life starts, decides, saves and checks out; half of the kills hit there."""
LATE = EARLY + BUILD + 1.5
VERIFYING = 1.5


class _Kills:
    """How many are left, and what became of them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.left = KILLS
        self.where: Counter[str] = Counter()
        self.descending = 0
        """Those that took everything with them that the daemon had started."""

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


class _Story:
    """One repository and its daemon, through all their lives."""

    def __init__(self, root: Path, template: Path, mother: Zygote, kills: _Kills) -> None:
        shutil.copytree(template, root / "repo", symlinks=True)
        self.repo = root / "repo"
        self.world = World(root, mother)
        self.unseen = 0
        """Builds that ended right before everything was killed, so that nobody could write it down."""
        self._built = root / "built"
        self._kills = kills
        self._killed = 0
        self._spared = False
        """The step was cut off twice; a third time would park it."""
        self._alert = alert("shop")
        self._answered = False

    @property
    def built(self) -> int:
        return len(self._built.read_text().splitlines()) if self._built.exists() else 0

    @property
    def _changes(self) -> Path:
        return self.world.root / "layers" / "shop" / "code" / "changes"

    def _service(self) -> dict[str, Any]:
        build = script(self.world.root / "build", f"sleep {BUILD}", f"echo built >> {self._built}")
        well = script(self.world.root / "well", f'read it < {self.repo}/file0 && [ "$it" = "release 1" ]')
        return {
            "name": "shop",
            "match": {"service": "shop"},
            "bake": "1h",
            "layers": {"code": {"adapter": "git", "repo": str(self.repo), "then": [[build]], "timeout": "1m"}},
            "checks": {"well": {"command": [well]}},
            "verify": {"settle": "0s", "every": "500ms", "passes": 3, "checks": ["well"]},
        }

    async def run(self) -> None:
        """From the alert to the end, however many lives that takes."""
        self.world.configure([self._service()])
        await self.world.deployed({"shop": [State({"code": Release(tree(self.repo, name))}) for name in ("v1", "v2")]})
        while not await self._live():
            pass
        await self._check()

    async def _live(self) -> bool:
        """One life; False when it was killed."""
        world, chance = self.world, self._kills.chance
        life = await world.start()
        ending = asyncio.create_task(self._to_the_end())
        if self._killed < MOST and self._kills.left > 0:
            longest = EARLY if chance.random() < 0.5 else LATE
            if self._spared:
                await world.has("Applied")
                longest = VERIFYING
            await asyncio.wait({ending}, timeout=chance.uniform(0, longest))
            if not ending.done() and life.alive and self._kills.take():
                await self._kill(descending=chance.random() < 0.5)
        ended = await ending
        code = await life.stop()
        assert (ended and code == 0) or code == -9, f"it ended by itself: {world.log[-3000:]}"
        return code == 0

    async def _to_the_end(self) -> bool:
        world = self.world
        # Alertmanager sends again what was not answered with 200, and only that.
        self._answered = self._answered or (await world.serving() and await world.post(self._alert))
        return await world.has("Closed")

    async def _kill(self, *, descending: bool) -> None:
        assert self.world.life is not None
        survivors = self.world.survivors() if descending else ()
        await self.world.life.kill(*survivors, descending=descending)
        self._killed += 1
        if descending and not any(self._changes.glob("*/then-*.json")):
            self.unseen = self.built
        incident = await self.world.incident("shop-1")
        flight = incident.flight if incident is not None else None
        self._spared = flight is not None and flight.adoptions >= 1
        self._kills.where[_phase(incident)] += 1
        self._kills.descending += descending

    async def _check(self) -> None:
        check_repository(self.repo, self._changes)
        assert self.built == 1 + self.unseen
        records = await self.world.checked()
        for kind in (facts.Opening, facts.Opened, facts.Ended):
            assert len(of_kind(records, kind)) == 1, kind
        assert [fact.layer for fact in of_kind(records, facts.Applied)] == ["code"]
        assert of_kind(records, facts.Parked) == []
        assert [fact.outcome for fact in of_kind(records, facts.Closed)] == [Outcome.RECOVERED]


def _phase(incident: Any) -> str:
    if incident is None:
        return "before it was opened"
    if incident.flight is not None:
        return "while the step ran"
    if incident.outcome is not None:
        return "after the end"
    return "while it was verified" if incident.done else "before the step"


@pytest.mark.needs("git")
@pytest.mark.timeout(360)
async def test_killed_at_random_the_daemon_ends_right_and_builds_once(tmp_path: Path) -> None:
    seed = int(os.environ.get("ROLLBACKD_SEED", "0")) or random.randrange(1, 10**9)
    print(f"seed: ROLLBACKD_SEED={seed}")
    make_repository(tmp_path / "template")
    kills = _Kills(seed)
    stories = list[_Story]()

    async def worker(mother: Zygote) -> None:
        while kills.left > 0:
            story = _Story(tmp_path / str(len(stories)), tmp_path / "template", mother, kills)
            stories.append(story)
            try:
                await story.run()
            except AssertionError as error:
                raise AssertionError(f"{story.world.root}: {error}\n{story.world.log[-6000:]}") from error

    async with zygote() as mother, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(worker(mother))
    unseen = sum(story.unseen for story in stories)
    print(f"{KILLS} kills, {kills.descending} with all it had started, in {len(stories)} worlds: {dict(kills.where)}")
    print(f"{unseen} builds ended unseen right before everything was killed")
    assert sum(kills.where.values()) == KILLS
    assert unseen <= KILLS // 20


async def test_a_step_that_is_cut_off_three_times_is_parked_and_told(tmp_path: Path) -> None:
    shop, slack = Shop(tmp_path / "shop"), SlackFake()
    async with serving(slack) as url, zygote() as mother:
        world = World(tmp_path, mother, slack, f"{url}{slack.path}")
        world.configure([shop.service()])
        await world.deployed({shop.name: shop.history})
        life = await world.begin(named="runner.apply")
        assert await world.post(alert(shop.name))
        assert await life.ended() == -9
        for _ in range(2):
            assert await (await world.start(named="runner.apply")).ended() == -9
        life = await world.begin()
        assert await world.told("parked")
        assert shop.effects == ["enter"]
        assert (await world.get("/api/v1/incidents/shop-1"))["incident"]["status"] == "parked"
        await world.order("/api/v1/incidents/shop-1/abort", reason="it kills the host")
        assert await world.told("aborted")
        assert await life.stop() == 0
        records = await world.checked()
        assert slack.wrong == []
        assert any("needs a person" in text for text in world.heard("shop"))
    assert shop.effects == ["enter", "leave"]
    (parked,) = of_kind(records, facts.Parked)
    assert parked.reason == "apply config was cut off 3 times: it may kill whoever runs it"
    assert [fact.outcome for fact in of_kind(records, facts.Closed)] == [Outcome.ABORTED]
    assert len(of_kind(records, facts.ApplyStarted)) == 1
    assert len(of_kind(records, facts.Leaving)) == 1
