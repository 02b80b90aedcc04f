"""A layer on another host: the connection is cut, and the far side killed, at every boundary of a change.

Whatever is lost, asking again tells the truth: it is done in the end, it is done once, and DONE is never said too early.
"""

import asyncio
import getpass
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Progress, Release
from rollbackd.system.clock import SystemClock
from rollbackd.testing import finish, place, planned
from rollbackd_adapters.remote import RemoteAdapter, RemoteSettings
from tests.contract.worlds import CommandWorld
from tests.sshd import Sshd, sshd

pytestmark = pytest.mark.needs("sshd", "ssh", "ssh-keygen")

AT_ONCE = 4
LIMIT = 60.0
"""Seconds for one story on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@dataclass
class Story:
    """One change of one world over there, with one accident."""

    world: CommandWorld
    adapter: RemoteAdapter
    hook: Path

    @classmethod
    def new(cls, path: Path, server: Sshd) -> "Story":
        world = CommandWorld(path / "world")
        layer = world.adapter()._settings.model_dump(mode="json", exclude_defaults=True)
        reach = server.serve(path / "far", {"layer": layer})
        settings = RemoteSettings.model_validate({**reach, "ssh": f"{getpass.getuser()}@127.0.0.1", "timeout": "30s"})
        return cls(world, RemoteAdapter(settings, place(path / "near")), path / "far" / "layers.yaml.hook")

    @property
    def passed(self) -> list[str]:
        log = self.hook.with_suffix(".passed")
        return log.read_text().splitlines() if log.exists() else []

    @property
    def conversations(self) -> int:
        """With a far side that came as far as its hello."""
        return self.passed.count("layer.hello")

    def arm(self, what: str, at: int) -> None:
        self.hook.write_text(json.dumps({"what": what, "at": at}))

    async def run(self, change: Change) -> int:
        """What the runner does, until it is done; how often it failed on the way."""
        failures = 0
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    if (progress := await self.adapter.progress(change)) is Progress.NOT_STARTED:
                        await self.adapter.apply(change)
                        progress = await self.adapter.progress(change)
                        assert progress is not Progress.NOT_STARTED
                except AdapterError as error:
                    failures += 1
                    if error.permanent or failures > 5:
                        raise
                    continue
                if progress is Progress.DONE:
                    self.check()
                    return failures
                assert progress is Progress.RUNNING
                await SystemClock().sleep(timedelta(milliseconds=50))

    def check(self) -> None:
        assert self.world.present() == "v2", "DONE is the truth"
        assert self.world.finished() == 1, "and it happened once"


def _boundaries(path: Path, server: Sshd) -> list[str]:
    """All that a change comes by when nothing happens: names in order, over three conversations."""
    story = Story.new(path, server)
    change = finish(planned(story.adapter, Release("v2")))
    story.arm("nothing", 10**9)
    assert finish(story.run(change)) == 0
    assert story.conversations == 3
    return story.passed


def _places(names: list[str], what: str) -> list[int]:
    """Numbers of boundaries, from 1, in the conversation that applies: from its hello to its last answer.

    Of the many programs that only look, the first stands for all.
    """
    hellos = [n for n, name in enumerate(names, 1) if name == "layer.hello"]
    first, last = hellos[1], hellos[2] - 1
    done = names.index("layer.done", first) + 1
    programs = [n for n in range(first, done) if names[n - 1].startswith("process.")]
    effect = programs[-3:]
    if what == "hang up":
        return [effect[1]]  # while the program runs
    words = [n for n in range(first, last + 1) if names[n - 1].startswith("layer.")]
    return sorted({*words, *effect, *(programs[:3] if what == "die" else ())})


@pytest.mark.parametrize("what", ["cut", "hang up", "die"])
async def test_an_accident_at_each_boundary_leaves_one_effect_and_the_truth(
    tmp_path: Path, server: Sshd, what: str
) -> None:
    names = await asyncio.to_thread(_boundaries, tmp_path / "before", server)
    places = _places(names, what)
    slots = asyncio.Semaphore(AT_ONCE)
    failures: dict[int, int] = {}

    async def tell(n: int) -> None:
        async with slots:
            story = await asyncio.to_thread(Story.new, tmp_path / str(n), server)
            change = await planned(story.adapter, Release("v2"))
            story.arm(what, n)
            try:
                failures[n] = await story.run(change)
            except BaseException as error:
                error.add_note(f"{what} at boundary {n}, {names[n - 1]}; passed: {story.passed}")
                raise
            if n < places[-1]:
                assert story.conversations > 3, "it was asked again"

    await asyncio.gather(*(tell(n) for n in places))
    if what != "die":
        early = places[:2] if what == "cut" else []  # nothing was asked for yet
        assert {n for n, times in failures.items() if times} <= {*early}, "what goes on is waited for, not repeated"
    assert max(failures.values()) <= 1


async def test_while_a_lost_effect_goes_on_another_connection_says_so(tmp_path: Path, server: Sshd) -> None:
    """Also while none of its programs runs; and a second order waits for the first instead of doing it again."""
    names = await asyncio.to_thread(_boundaries, tmp_path / "before", server)
    story = await asyncio.to_thread(Story.new, tmp_path, server)
    change = await planned(story.adapter, Release("v2"))
    story.arm("stop", names.index("layer.asked") + 2)  # the first look of `apply`, before any of its programs
    applying = asyncio.create_task(story.adapter.apply(change))
    stopped = story.hook.with_suffix(".stopped")
    async with asyncio.timeout(LIMIT):
        while not stopped.exists():
            await SystemClock().sleep(timedelta(milliseconds=20))
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    try:
        assert await story.adapter.progress(change) is Progress.RUNNING
        again = asyncio.create_task(story.adapter.apply(change))
        async with asyncio.timeout(LIMIT):
            while not story.adapter._spawner.held(story.adapter.resource):
                await SystemClock().sleep(timedelta(milliseconds=20))
    finally:
        os.kill(int(stopped.read_text()), signal.SIGCONT)
    await again
    story.check()
    assert await story.adapter.progress(change) is Progress.DONE
