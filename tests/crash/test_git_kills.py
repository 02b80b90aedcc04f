"""A git checkout with a build of 3 s, killed at random: it ends right, builds once, loses nobody's work.

The adapter alone, without a daemon around it."""

import asyncio
import json
import os
import random
import shutil
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rollbackd.execution.layers import resolve
from rollbackd.model import Change, Progress, Release
from rollbackd.system.spawner import write_durably
from rollbackd.system.supervisor import holders
from rollbackd.testing import kill, perform, place, planned
from rollbackd_adapters.git import GitAdapter, GitSettings
from tests.contract.worlds import script, tree
from tests.crash.repository import FILES, KEY, check_paths, check_repository, make_repository

KILLS = {"whole": 40, "paths": 12}
PATHS = (".gitignore", *(f"file{number}" for number in range(FILES)))
AT_ONCE = 8
BUILD = 3.0
"""Seconds; long enough for many kills, and asleep, so that several worlds fit on one processor."""
EARLY = 0.3
"""Seconds in which saving and the checkout happen; half of the kills hit there."""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    make_repository(tmp_path / "template")
    return tmp_path / "template"


@dataclass
class _World:
    """One repository through its lives."""

    path: Path
    only_paths: bool = False
    kills: int = 0
    unseen: int = 0
    """Builds that ended right before everything was killed, so that nobody could write it down."""
    child: int = 0
    die_at: float = 0.0
    descending: bool = False

    @property
    def repo(self) -> Path:
        return self.path / "repo"

    @property
    def built(self) -> int:
        log = self.path / "built"
        return len(log.read_text().splitlines()) if log.exists() else 0

    @property
    def _recorded(self) -> bool:
        return any(self.path.glob("scratch/changes/*/then-*.json"))

    def adapter(self) -> GitAdapter:
        settings = {"adapter": "git", "repo": self.repo, "then": [[str(self.path / "build")]], "timeout": "1m"}
        paths = PATHS if self.only_paths else ()
        return GitAdapter(GitSettings.model_validate({**settings, "paths": paths}), place(self.path))

    async def _target(self, adapter: GitAdapter) -> Release:
        if not self.only_paths:
            return Release(tree(self.repo, "v1"))
        return resolve("code", "v1", await adapter.releases())

    async def _life(self) -> Progress:
        """What the daemon does: the intent on disk, then the step until it is done."""
        intent = self.path / "intent.json"
        adapter = self.adapter()
        if not intent.exists():
            change = await planned(adapter, await self._target(adapter), KEY)
            at = change.intended or datetime.now(UTC)
            write_durably(intent, json.dumps([change.before.id, change.after.id, at.isoformat()]).encode())
        before, after, at_text = json.loads(intent.read_bytes())
        at = datetime.fromisoformat(at_text)
        change = Change("code", Release(before), Release(after), key=KEY, intended=at)
        async with asyncio.timeout(60):
            return await perform(adapter, change, retries=0)

    def live(self, chance: random.Random) -> None:
        """Begin a life, and choose when and how it ends."""
        self.die_at = time.monotonic() + chance.uniform(0, EARLY if chance.random() < 0.5 else BUILD + 2 * EARLY)
        self.descending = chance.random() < 0.5
        self.child = os.fork()
        if self.child == 0:
            status = 3
            try:
                status = 0 if asyncio.run(self._life()) is Progress.DONE else 4
            except BaseException:  # noqa: BLE001  # the parent is told by the status
                (self.path / "error").write_text(traceback.format_exc())
            finally:
                os._exit(status)

    def end(self) -> None:
        """The kill. What an earlier life left running is killed with the rest."""
        survivors = [pid for lock in self.path.glob("locks/*.run") for pid in holders(lock)] if self.descending else []
        kill(self.child, *survivors, descending=self.descending)
        os.waitpid(self.child, 0)
        if self.descending and not self._recorded:
            self.unseen = self.built
        self.kills += 1
        self.child = 0

    def check(self) -> None:
        """What must be true once it has ended."""
        if self.only_paths:
            check_paths(self.repo)
        else:
            check_repository(self.repo, self.path / "scratch" / "changes")
        assert self.built == 1 + self.unseen


def _new_world(path: Path, template: Path, scope: str) -> _World:
    shutil.copytree(template, path / "repo", symlinks=True)
    script(path / "build", f"sleep {BUILD}", f"echo built >> {path}/built")
    return _World(path, only_paths=scope == "paths")


@pytest.mark.needs("git")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scope", list(KILLS))
def test_killed_at_random_it_ends_right_and_builds_once(tmp_path: Path, template: Path, scope: str) -> None:
    wanted = KILLS[scope]
    seed = int(os.environ.get("ROLLBACKD_SEED", "0")) or random.randrange(1, 10**9)
    print(f"seed: ROLLBACKD_SEED={seed}")
    chance = random.Random(seed)
    kills, done, running = 0, list[_World](), list[_World]()
    until = time.monotonic() + timedelta(minutes=4).total_seconds()
    while running or kills < wanted:
        while kills < wanted and len(running) < AT_ONCE:
            running.append(_new_world(tmp_path / f"world{len(done) + len(running)}", template, scope))
            running[-1].live(chance)
        for world in tuple(running):
            ended, status = os.waitpid(world.child, os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0, (world.path / "error").read_text()
                world.check()
                running.remove(world)
                done.append(world)
            elif kills < wanted and time.monotonic() >= world.die_at:
                world.end()
                kills += 1
                world.live(chance)
        assert time.monotonic() < until, f"{len(running)} worlds do not end: {[str(world.path) for world in running]}"
        time.sleep(0.005)
    unseen = sum(world.unseen for world in done)
    print(f"{kills} kills in {len(done)} worlds; {unseen} builds ended unseen right before everything was killed")
    assert kills == wanted
    assert unseen <= max(1, wanted // 10)
