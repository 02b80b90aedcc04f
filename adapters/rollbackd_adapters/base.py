"""What layers have in common, so that an adapter says only what is its own.

A step is taken in one order: the resource is held, the change's traces are read, the world is asked how far it is, then
comes the move, the `then` commands and the marker. Whatever of that a crash cuts off, the next life asks the same and
goes on. What somebody else moved is left to them.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import NO_RELEASE, Change, Problem, Progress, Release, Traits
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Lock, Spawner, one_line
from rollbackd_adapters.failures import as_adapter_errors, holding
from rollbackd_adapters.ids import check_id
from rollbackd_adapters.then import Then, run_then
from rollbackd_adapters.traces import Trace, progress_of

SettingsT = TypeVar("SettingsT", bound=Settings)


class LayerPart(Generic[SettingsT]):
    """What does one part of a layer's work, with the layer's settings and in its place."""

    def __init__(self, settings: SettingsT, place: Place) -> None:
        self._settings = settings
        self._place = place
        self._spawner: Spawner = place.spawner
        self._clock: Clock = place.clock


class LayerAdapter(LayerPart[SettingsT]):
    """A layer with its settings and its place."""

    traits = Traits()
    resource: str
    """What two steps must never share."""

    async def ready(self) -> Sequence[Problem]:
        return [Problem(self._place.layer, text) for text in await self._problems()]

    async def _problems(self) -> Sequence[str]:
        """A sentence for each thing that would stop a rollback right now, with what to do. Read only."""
        raise NotImplementedError


class StepAdapter(LayerAdapter[SettingsT]):
    """A layer that moves something, and that may be cut off while it does.

    An adapter with releases has `current`, `releases`, `_move` and `_problems`; one without has the last two. All else
    has a default that fits a layer that moves at one instant.
    """

    _reversible = True
    """Going back can be undone."""
    _passed_over = ""
    """What `releases` left out last, in a sentence: a plan tells it."""
    _wait = timedelta()
    """How long another process that holds the resource is waited for."""

    async def current(self) -> Release:
        raise self._no_releases()

    async def releases(self) -> Sequence[Release]:
        raise self._no_releases()

    async def plan(self, target: Release) -> Change:
        if not self.traits.releases:
            return Change(self._place.layer, NO_RELEASE, NO_RELEASE, reversible=self._reversible)
        self._check_id(target)
        known = {release.id: release for release in await self.releases()}
        if target.id not in known:
            raise AdapterError(f"{one_line(target.name)}{self._unknown}", permanent=True)
        risks = (self._passed_over,) if self._passed_over else ()
        before = await self._present_release()
        return Change(self._place.layer, before, known[target.id], reversible=self._reversible, risks=risks)

    async def apply(self, change: Change) -> None:
        self._check(change)
        trace = Trace(self._place.scratch, change)
        async with holding(self._spawner, self.resource, self._wait) as lock:
            progress = await self._progress(change, trace)
            if progress is Progress.DONE:
                return
            if progress is Progress.RUNNING:
                raise AdapterError(f"{self._place.layer}: what was begun earlier still runs", permanent=False)
            if progress is Progress.SUPERSEDED:
                raise await self._superseded()
            then = await self._then(change)
            if not trace.known.get("moved"):
                await self._move(change, trace, lock)
                if then.commands:  # what they make of it must not be moved over by the next life
                    trace.begin(moved=True)
            await run_then(then, self._place, change, trace, lock)
            await self._finish(change, trace, lock)

    async def progress(self, change: Change) -> Progress:
        self._check(change)
        trace = Trace(self._place.scratch, change)
        if self._spawner.held(self.resource):
            return Progress.RUNNING
        with as_adapter_errors():
            return await self._progress(change, trace)

    # -- what an adapter has of its own ---------------------------------------------------------
    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Take the layer to `change.after`, or go on with what a crash cut off. Writes the intent (`trace.intend`)
        before anything is touched.
        """
        raise NotImplementedError

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        """How far the change is, from what is there and what its traces say. Read only."""
        if not self.traits.releases:
            return Progress.NOT_STARTED if trace.done is None else Progress.DONE
        return progress_of(trace, change, await self._present_id())

    async def _present_release(self) -> Release:
        """The release that is there, asked of the world itself."""
        return await self.current()

    async def _present_id(self) -> str:
        return (await self._present_release()).id

    async def _then(self, _change: Change) -> Then:
        """The commands that run after the move and belong to the change; none by default."""
        return Then()

    async def _finish(self, change: Change, trace: Trace, _lock: Lock) -> None:
        """The last thing: the change is done when this returns."""
        trace.finish(after=change.after.id)

    async def _superseded(self) -> AdapterError:
        return AdapterError(f"{await self._elsewhere()}, and it is left to them", permanent=True)

    async def _elsewhere(self) -> str:
        """Where the layer is when somebody else took it there."""
        return f"{self._place.layer} is not where this rollback began nor where it goes: somebody else moved it"

    _unknown = " is not among the releases that are told"
    """What is said of a target that `releases` does not have, after its name."""

    def _check_id(self, release: Release) -> None:
        """:raises AdapterError: permanent, for an id that cannot be one of this layer's."""
        check_id(release)

    def _check(self, change: Change) -> None:
        """:raises AdapterError: permanent, for a change whose releases cannot be this layer's."""
        if self.traits.releases:
            self._check_id(change.before)
            self._check_id(change.after)
        elif change.after != NO_RELEASE:
            raise self._no_releases()

    def _no_releases(self) -> AdapterError:
        return AdapterError(f"{self._place.layer} has no releases, so it cannot go to one", permanent=True)


class ChoosingAdapter(LayerPart[SettingsT]):
    """A layer whose settings say which of several steps takes it."""

    @property
    def _step(self) -> StepAdapter[SettingsT]:
        raise NotImplementedError

    async def current(self) -> Release:
        return await self._step.current()

    async def releases(self) -> Sequence[Release]:
        return await self._step.releases()

    async def plan(self, target: Release) -> Change:
        return await self._step.plan(target)

    async def apply(self, change: Change) -> None:
        await self._step.apply(change)

    async def progress(self, change: Change) -> Progress:
        return await self._step.progress(change)

    async def ready(self) -> Sequence[Problem]:
        return await self._step.ready()
