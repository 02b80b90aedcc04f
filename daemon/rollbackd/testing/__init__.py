"""The contract that every adapter keeps, as tests to subclass: `pip install rollbackd`, then, in a test file of yours,

    class TestMine(AdapterContract):
        def make_world(self, path: Path) -> World:
            return MyWorld(path)

`MyWorld` is one layer on its real component, in a state of its own below `path`. Nothing here needs pytest-asyncio.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from rollbackd.adapter import Adapter, AdapterError, Bracket, Place, Prunes
from rollbackd.execution.layers import Layers
from rollbackd.model import NO_RELEASE, Change, Problem, Progress, Release
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from rollbackd.testing.lives import PATIENCE, descendants, kill, killed_at, starts

__all__ = [
    "HOSTILE",
    "KEY",
    "PATIENCE",
    "AdapterContract",
    "BracketContract",
    "BracketWorld",
    "StepContract",
    "World",
    "descendants",
    "finish",
    "kill",
    "killed_at",
    "perform",
    "place",
    "planned",
    "problems",
    "starts",
]

KEY = "contract-1/0/layer"
HOSTILE = (
    "--upload-pack=touch /tmp/x",
    "-rf",
    "a\nb",
    "../../etc",
    "a/../../etc",
    "",
    "$(id)",
    "a b",
    "\x1b[2J",
    "a" * 300,
)
"""Ids of releases that no adapter may do anything with."""

_T = TypeVar("_T")


class World(ABC):
    """One layer on its real component. It is asked only in ways that do not use the adapter."""

    @abstractmethod
    def adapter(self) -> Adapter:
        """A new adapter over this world, as a daemon has one that was just started."""

    @abstractmethod
    def present(self) -> str:
        """The id of the release that is there; anything constant for a layer without releases."""

    @abstractmethod
    def target(self) -> Release:
        """A release to go back to; NO_RELEASE for a layer without releases."""

    def moved_by_somebody(self) -> None:
        """Somebody else takes the layer to a third release."""
        raise NotImplementedError

    def finished(self) -> int | None:
        """How often the whole work has been finished since the beginning; None when that leaves no trace."""
        return None

    def everything(self) -> object:
        """All that reading must leave alone, as a value that can be compared."""
        return self.present()

    @abstractmethod
    def break_it(self) -> None:
        """Make a rollback impossible in a way that `ready`, or a plan, must see."""

    @abstractmethod
    def hang(self) -> None:
        """From now on an adapter's `apply` meets something that never ends; its limit is a second or less."""


class BracketWorld(ABC):
    """One bracket on its real component."""

    @abstractmethod
    def adapter(self) -> Bracket:
        """A new adapter over this world."""

    @abstractmethod
    def inside(self) -> bool:
        """Whether it is entered, as the world itself shows it."""

    def crossings(self) -> int | None:
        """How often it was entered or left; None when that leaves no trace."""
        return None


def place(path: Path, *, service: str = "contract", layer: str = "layer") -> Place:
    """A place for a layer below `path`, as a daemon that was just started has it."""
    scratch = path / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    return Place(service, layer, scratch, Spawner(path / "locks", clock), clock)


def finish(work: Coroutine[Any, Any, _T], limit: timedelta = PATIENCE) -> _T:
    """Run an adapter's answer to its end, or fail when that takes too long."""

    async def limited() -> _T:
        async with asyncio.timeout(limit.total_seconds()):
            return await work

    return asyncio.run(limited())


async def planned(adapter: Adapter, target: Release, key: str = KEY) -> Change:
    """A change as the core hands it over: planned, with its key and the time of its intent."""
    return replace(await adapter.plan(target), key=key, intended=SystemClock().now())


async def problems(adapter: Adapter) -> Sequence[Problem]:
    """What the daemon says of a layer before a rollback: what `ready` finds, else why no way can be planned."""
    service: Any = SimpleNamespace(name="contract", layers={"layer": adapter})
    return await Layers(service, {"layer": adapter}).ready()


async def perform(adapter: Adapter, change: Change, retries: int = 0) -> Progress:
    """What the runner does with a step: ask, wait for a survivor, apply, ask again.

    :raises AdapterError: it failed more often than `retries`.
    """
    clock = SystemClock()
    while (progress := await adapter.progress(change)) in {Progress.RUNNING, Progress.NOT_STARTED}:
        if progress is Progress.RUNNING:
            await clock.sleep(timedelta(milliseconds=20))
            continue
        try:
            await adapter.apply(change)
        except AdapterError as error:
            if error.permanent or retries <= 0:
                raise
            retries -= 1
            continue
        if (progress := await adapter.progress(change)) is not Progress.NOT_STARTED:
            return progress
        raise AssertionError("NOT_STARTED after apply returned")
    return progress


class StepContract:
    """What every step can rely on; enough for a layer without releases."""

    def make_world(self, path: Path) -> World:
        """A new world below `path`, an empty directory; may be called several times in a test."""
        raise NotImplementedError

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return self.make_world(tmp_path)

    def test_it_is_an_adapter_with_a_resource(self, world: World) -> None:
        adapter = world.adapter()
        assert isinstance(adapter, Adapter)
        assert adapter.traits.step
        assert adapter.resource
        assert adapter.resource == world.adapter().resource

    def test_a_plan_is_complete_and_only_reads(self, world: World) -> None:
        adapter, before = world.adapter(), world.everything()
        change = finish(adapter.plan(world.target()))
        assert change.after == world.target()
        assert not change.key
        assert change.intended is None
        if adapter.traits.releases:
            assert change.before.id == world.present()
        else:
            assert change.before == change.after == NO_RELEASE
        assert world.everything() == before

    def test_looking_only_reads(self, world: World) -> None:
        adapter = world.adapter()
        change = finish(planned(adapter, world.target()))
        before = world.everything()
        if adapter.traits.releases:
            finish(adapter.current())
            finish(adapter.releases())
        finish(adapter.progress(change))
        finish(adapter.ready())
        assert world.everything() == before

    def test_pruning_leaves_what_it_is_to_spare(self, world: World) -> None:
        adapter = world.adapter()
        if isinstance(adapter, Prunes):
            there = {release.id for release in finish(adapter.releases())}
            finish(adapter.prune(there, 1))
            assert {release.id for release in finish(adapter.releases())} == there

    def test_before_it_is_applied_a_change_has_not_started(self, world: World) -> None:
        adapter = world.adapter()
        assert finish(adapter.progress(finish(planned(adapter, world.target())))) is Progress.NOT_STARTED

    def test_apply_goes_to_the_target_and_says_so_in_the_next_life_too(self, world: World) -> None:
        adapter = world.adapter()
        change = finish(planned(adapter, world.target()))
        finish(adapter.apply(change))
        assert finish(adapter.progress(change)) is Progress.DONE
        assert finish(world.adapter().progress(change)) is Progress.DONE
        if adapter.traits.releases:
            assert world.present() == change.after.id == finish(adapter.current()).id
        assert world.finished() in {None, 1}

    def test_applying_again_is_harmless_and_does_nothing_twice(self, world: World) -> None:
        change = finish(planned(world.adapter(), world.target()))
        for _ in range(3):
            finish(world.adapter().apply(change))
        assert finish(world.adapter().progress(change)) is Progress.DONE
        assert world.finished() in {None, 1}

    def test_ready_is_silent_when_all_is_well(self, world: World) -> None:
        assert list(finish(world.adapter().ready())) == []

    def test_ready_says_what_is_broken(self, world: World) -> None:
        world.break_it()
        found = finish(problems(world.adapter()))
        assert found
        assert all(problem.text for problem in found)

    def test_what_hangs_is_ended(self, world: World) -> None:
        change = finish(planned(world.adapter(), world.target()))
        world.hang()
        adapter = world.adapter()
        with pytest.raises(AdapterError) as failed:
            finish(adapter.apply(change))
        assert not failed.value.permanent
        assert finish(adapter.progress(change)) is Progress.NOT_STARTED

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_a_hostile_release_is_refused_before_anything_is_started(self, world: World, hostile: str) -> None:
        adapter = world.adapter()
        change = finish(planned(adapter, world.target()))
        bad = Release(hostile)
        with starts() as started:
            if adapter.traits.releases:
                with pytest.raises(AdapterError) as refused:
                    finish(adapter.plan(bad))
                assert refused.value.permanent
            with pytest.raises(AdapterError) as refused:
                finish(adapter.apply(replace(change, after=bad)))
            assert refused.value.permanent
        assert started == []

    @pytest.mark.parametrize("descending", [False, True], ids=["alone", "with all it started"])
    def test_killed_at_each_boundary_it_ends_right_in_the_next_life(self, tmp_path: Path, descending: bool) -> None:
        for n in count(1):
            world = self.make_world(tmp_path / str(n))
            change = finish(planned(world.adapter(), world.target()))
            survived = not killed_at(n, lambda w=world, c=change: perform(w.adapter(), c), descending=descending)  # type: ignore[misc]
            assert finish(perform(world.adapter(), change)) is Progress.DONE, f"killed at boundary {n}"
            if change.after != NO_RELEASE:
                assert world.present() == change.after.id, f"killed at boundary {n}"
            assert world.finished() in {None, 1}, f"killed at boundary {n}"
            if survived:
                break


class AdapterContract(StepContract):
    """What a step can rely on whose layer has releases."""

    def test_the_present_release_is_among_those_to_go_back_to(self, world: World) -> None:
        adapter = world.adapter()
        current = finish(adapter.current())
        assert current.id == world.present()
        releases = finish(adapter.releases())
        assert {current, world.target()} <= set(releases)
        assert len(releases) == len(set(releases))

    def test_what_somebody_else_moved_is_left_to_them(self, world: World) -> None:
        adapter = world.adapter()
        change = finish(planned(adapter, world.target()))
        world.moved_by_somebody()
        theirs = world.present()
        assert theirs not in {change.before.id, change.after.id}
        assert finish(adapter.progress(change)) is Progress.SUPERSEDED
        with pytest.raises(AdapterError) as refused:
            finish(adapter.apply(change))
        assert refused.value.permanent
        assert world.present() == theirs
        assert not world.finished()

    def test_what_somebody_else_moved_afterwards_is_left_to_them(self, world: World) -> None:
        adapter = world.adapter()
        change = finish(planned(adapter, world.target()))
        finish(adapter.apply(change))
        world.moved_by_somebody()
        assert finish(adapter.progress(change)) is Progress.SUPERSEDED


class BracketContract:
    """What is entered before the steps and left after them."""

    def make_world(self, path: Path) -> BracketWorld:
        """A new world below `path`, outside of the bracket."""
        raise NotImplementedError

    @pytest.fixture
    def world(self, tmp_path: Path) -> BracketWorld:
        return self.make_world(tmp_path)

    def test_it_is_a_bracket(self, world: BracketWorld) -> None:
        assert isinstance(world.adapter(), Bracket)

    def test_inside_tells_the_truth(self, world: BracketWorld) -> None:
        bracket = world.adapter()
        assert not finish(bracket.inside(KEY))
        finish(bracket.enter(KEY))
        assert world.inside()
        assert finish(bracket.inside(KEY))
        assert finish(world.adapter().inside(KEY))
        finish(bracket.leave(KEY))
        assert not world.inside()
        assert not finish(bracket.inside(KEY))

    def test_entering_and_leaving_twice_is_harmless(self, world: BracketWorld) -> None:
        for _ in range(2):
            finish(world.adapter().enter(KEY))
        assert world.inside()
        for _ in range(2):
            finish(world.adapter().leave(KEY))
        assert not world.inside()
        assert world.crossings() in {None, 2}

    def test_it_can_be_entered_again_after_it_was_left(self, world: BracketWorld) -> None:
        bracket = world.adapter()
        for _ in range(2):
            finish(bracket.enter(KEY))
            assert world.inside()
            finish(bracket.leave(KEY))
            assert not world.inside()

    @pytest.mark.parametrize("descending", [False, True], ids=["alone", "with all it started"])
    def test_killed_at_each_boundary_the_next_life_gets_in_and_out(self, tmp_path: Path, descending: bool) -> None:
        for n in count(1):
            world = self.make_world(tmp_path / str(n))

            async def life(world: BracketWorld = world) -> None:
                await world.adapter().enter(KEY)
                await world.adapter().leave(KEY)

            survived = not killed_at(n, life, descending=descending)
            finish(world.adapter().enter(KEY))
            assert world.inside()
            finish(world.adapter().leave(KEY))
            assert not world.inside()
            if survived:
                break
