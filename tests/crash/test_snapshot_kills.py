"""A run on the calendar, and a restore by hand, killed at every boundary of theirs: the next life ends what was begun."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollbackd import facts
from tests.crash.lives import Zygote, until, zygote
from tests.crash.world import World, of_kind

AT_ONCE = 4
OF = ("snapshots.", "files.", "process.")
"""The boundaries that are tried: what journals, what takes and restores, what copies."""


class _Shop:
    """One configuration directory and its daemon."""

    def __init__(self, root: Path, mother: Zygote) -> None:
        self.world = World(root, mother)
        self.conf, self.remote = root / "conf", root / "remote"
        self.conf.mkdir()
        self.remote.mkdir()
        for number in range(3):
            (self.conf / f"file{number}").write_text(f"one {number}")

    def configure(self, *schedules: dict[str, Any]) -> None:
        service = {
            "name": "shop",
            "match": {"service": "shop"},
            "layers": {"config": {"adapter": "files", "paths": [str(self.conf)], "auto": False, "room": "1B"}},
            "verify": {"checks": [{"tcp": "127.0.0.1:1"}]},
        }
        self.world.configure([service], schedules=list(schedules))

    @property
    def scheduled(self) -> dict[str, Any]:
        there = str(self.remote)
        offsite = {
            "push": ["cp", "-t", there, "{file}"],
            "list": ["ls", there],
            "pull": ["cp", "-t", "{directory}", f"{there}/{{name}}"],
        }
        return {"snapshot": "shop/config", "every": "1d", "offsite": offsite}

    @property
    def contents(self) -> list[str]:
        return [path.read_text() for path in sorted(self.conf.iterdir())]

    async def ended(self) -> Any:
        """The daemon's records once the run is over, with the daemon stopped."""
        count = "SELECT count(*) FROM facts WHERE kind = 'Snapshot{}'"

        async def over() -> bool:
            return self.world.counted(count.format("Begun")) == self.world.counted(count.format("Ended"))

        assert await self.world.serving()
        await until(over, f"every run is over; log: {self.world.log[-2000:]}")
        assert await self.world.life.stop() == 0  # type: ignore[union-attr]
        return await self.world.checked()

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        store = self.world.root / "layers/shop/config/store/snapshots"
        return [json.loads(path.read_bytes().partition(b"\n")[0]) for path in store.iterdir()]


async def _at_each(
    root: Path, mother: Zygote, of: str, told: Callable[[_Shop, dict[str, Any]], Awaitable[bool]]
) -> int:
    """Tell a story for each boundary, in a world of its own, until a life reaches the end without being killed."""
    reached, number, over = 0, 0, asyncio.Event()
    few = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        nonlocal reached
        async with few:
            if over.is_set():
                return
            (root / f"{of}{number}").mkdir()
            if await told(_Shop(root / f"{of}{number}", mother), {"at": number, "of": of}):
                reached += 1
            else:
                over.set()

    async with asyncio.TaskGroup() as group:
        for number in range(1, 40):
            group.create_task(one(number))
    assert over.is_set()
    return reached


@pytest.mark.parametrize(("of", "least"), [("snapshots.", 5), ("files.", 4), ("process.", 4)])
async def test_a_run_on_the_calendar_is_gone_on_with_and_nothing_is_done_twice(
    tmp_path: Path, of: str, least: int
) -> None:
    async def told(shop: _Shop, hook: dict[str, Any]) -> bool:
        shop.configure(shop.scheduled)
        await shop.world.start(**hook)
        killed = not await shop.world.serving() or not await shop.world.has("SnapshotEnded")
        if not shop.world.dead:
            await shop.world.life.stop()  # type: ignore[union-attr]
        await shop.world.begin()
        records = await shop.ended()
        (begun,) = of_kind(records, facts.SnapshotBegun)
        (ended,) = of_kind(records, facts.SnapshotEnded)
        assert (ended.run, ended.problems) == (begun.run, ())
        (one,) = shop.snapshots
        assert one["why"] == "schedule"
        assert {fact.name for fact in of_kind(records, facts.SnapshotVerified)} == {one["name"]}
        assert len(list(shop.remote.iterdir())) == 1
        assert list((shop.world.root / "layers/.keeper").glob("*")) == []
        return killed

    async with zygote() as mother:
        assert await _at_each(tmp_path, mother, of, told) >= least


@pytest.mark.parametrize(("of", "least"), [("snapshots.", 3), ("files.", 10)])
async def test_a_restore_by_hand_is_finished(tmp_path: Path, of: str, least: int) -> None:
    async def told(shop: _Shop, hook: dict[str, Any]) -> bool:
        shop.configure()
        await shop.world.begin()
        await shop.world.order("/api/v1/services/shop/snapshots", name="one")
        before = shop.contents
        (shop.conf / "file0").write_text("two")
        (shop.conf / "file9").write_text("two")
        (shop.conf / "file1").unlink()
        await shop.world.life.stop()  # type: ignore[union-attr]
        await shop.world.begin(**hook)
        try:
            await shop.world.order("/api/v1/services/shop/snapshots/restore", snapshot="one")
            killed = False
            await shop.world.life.stop()  # type: ignore[union-attr]
        except (aiohttp.ClientError, OSError):
            killed = True
            assert await shop.world.life.ended() == -9  # type: ignore[union-attr]
        await shop.world.begin()
        records = await shop.ended()
        restores = [fact for fact in of_kind(records, facts.SnapshotBegun) if fact.what == "restore"]
        if not restores:  # killed while it was read, before anything was begun: whoever ordered it orders again
            assert "two" in shop.contents
            return killed
        (restored,) = of_kind(records, facts.SnapshotRestored)
        assert shop.contents == before
        assert restored.run == restores[0].run
        assert [one["name"] for one in shop.snapshots if one["why"] == "before"] == [restored.saved]
        return killed

    async with zygote() as mother:
        assert await _at_each(tmp_path, mother, of, told) >= least
