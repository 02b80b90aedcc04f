"""The layers of a service as adapters that can be asked. They are looked at and planned; nothing here changes them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from rollbackd import plugins
from rollbackd.adapter import (
    Adapter,
    AdapterError,
    CarriedAlong,
    KeepsSchema,
    Marks,
    MixedError,
    NamedByFile,
    Place,
    PointInTime,
    ReadsReleases,
    Watched,
    is_moved_by,
)
from rollbackd.config.models import Service
from rollbackd.config.secrets import reveal
from rollbackd.execution.absent import AbsentLayer
from rollbackd.incident.plan import Move, moves
from rollbackd.incident.spec import PlanSpec
from rollbackd.model import NO_RELEASE, Bracketed, Change, DataGoal, Plan, Problem, Release, State, Traits
from rollbackd.policy.data import reckoned
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Spawner

T = TypeVar("T")
NO_CLUSTERS: Mapping[str, ClusterSettings] = MappingProxyType({})
ASKING = timedelta(seconds=60)
"""How long a read-only question to an adapter may take."""
GUESSED = 7
"""Characters of an id that a person must write at least."""
_PLANNED = 5
"""How many releases a layer is asked to plan a way to, until it can."""
_PRUNING = timedelta(hours=1)
"""How long a layer may take to drop what is old."""


class LookFailed(Exception):  # noqa: N818  # an answer: there is no look
    """A layer could not be looked at; the sentence says which and why."""


_MARKING = timedelta(seconds=5)
"""How long whoever announces a change waits for its mark."""
_BETWEEN = timedelta(milliseconds=100)
"""The pause between two looks that must find the same."""
_AGAIN = "its last step broke off: it is done again"


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """From which state a plan takes a service to which, and what it begins with."""

    present: State
    target: State
    key: str = ""
    """What the keys of its changes begin with; empty for a plan that is only shown."""
    returns: bool = False
    """Whether it takes back what the plan did: a release that the configuration fixes is then where it comes from."""
    unfinished: Collection[str] = ()
    """Layers whose last step broke off; they have a step whatever release they show."""
    data: DataGoal | None = None
    """The time whose data a step on data brings back."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A service's layers."""

    service: Service
    adapters: Mapping[str, Adapter]
    clean: Callable[[str], str] = str
    """Takes secrets out of what an adapter says, which may quote an answer of somebody else."""

    @property
    def traits(self) -> dict[str, Traits]:
        return {name: adapter.traits for name, adapter in self.adapters.items()}

    @property
    def data(self) -> tuple[str, ...]:
        """The layers whose releases are lineages of data."""
        return tuple(name for name, adapter in self.adapters.items() if isinstance(adapter, PointInTime))

    async def as_of(self, layer: str, time: datetime) -> Release:
        """The release of a layer of data that brings back what it held then. :raises LookFailed: there is none."""
        adapter = self.adapters[layer]
        assert isinstance(adapter, PointInTime)
        return await self._ask(layer, partial(adapter.as_of, time))

    @property
    def marked(self) -> tuple[str, ...]:
        """The layers of data that can mark what they hold now."""
        return tuple(name for name, adapter in self.adapters.items() if isinstance(adapter, Marks))

    async def mark(self, layer: str, at: datetime, why: str) -> None:
        """Mark what a layer of data holds now. :raises LookFailed: it cannot, or not in time."""
        adapter = self.adapters[layer]
        assert isinstance(adapter, Marks)
        await self._ask(layer, partial(adapter.mark, at, why), _MARKING)

    async def look(self, *, mixed: bool = False, told: bool = False) -> State:
        """The releases that are there now.

        :param mixed: also while the parts of a layer differ: for a person's order, and for nothing else.
        :param told: a layer may answer what it was told last; for nothing that acts or decides.
        :raises LookFailed: when any layer does not answer.
        """
        names = [name for name, adapter in self.adapters.items() if adapter.traits.releases]
        found = await asyncio.gather(
            *(self._ask(name, partial(_present, self.adapters[name], mixed=mixed, told=told)) for name in names)
        )
        return State(dict(zip(names, found, strict=True)))

    async def steady(self, known: str, clock: Clock, *, mixed: bool = False, told: bool = False) -> State | None:
        """What runs now, looked at twice unless it is the state with that key; None when two looks differ.

        :param told: that nothing has changed may be what a layer was told last; what has changed is asked.
        :raises LookFailed: when any layer does not answer.
        """
        told = told and any(isinstance(adapter, Watched) for adapter in self.adapters.values())
        first = await self.look(mixed=mixed, told=told)
        if told and first.key != known:
            first = await self.look(mixed=mixed)
        if first.key == known:
            return first
        await clock.sleep(_BETWEEN)
        second = await self.look(mixed=mixed)
        return second if second.key == first.key else None

    def part_of(self, name: str) -> str:
        """The layer that takes this one along whenever it moves; empty: none does."""
        if name not in self.adapters:  # an earlier configuration had it
            return ""
        adapter = self.adapters[name]
        return adapter.part_of if isinstance(adapter, KeepsSchema) else ""

    async def brought(self, layer: str, before: State) -> dict[str, Release]:
        """What is part of a layer that has moved, and shows another release since. :raises LookFailed:"""
        parts = [name for name in self.adapters if self.part_of(name) == layer]
        asked = (self._ask(name, partial(_present, self.adapters[name], mixed=False)) for name in parts)
        found = dict(zip(parts, await asyncio.gather(*asked), strict=True))
        return {name: release for name, release in found.items() if release != before.releases.get(name)}

    async def there(self) -> dict[str, tuple[Release, ...]]:
        """What each layer can go back to, newest first. :raises LookFailed: when any layer does not answer."""
        names = [name for name, adapter in self.adapters.items() if adapter.traits.releases]
        found = await asyncio.gather(*(self._ask(name, self.adapters[name].releases) for name in names))
        return {name: tuple(releases) for name, releases in zip(names, found, strict=True)}

    async def releases(self, layer: str) -> tuple[Release, ...]:
        """What one layer has now, then what it can go back to. :raises LookFailed: the layer does not answer."""
        adapter = self.adapters.get(layer)
        if adapter is None or not adapter.traits.releases:
            raise LookFailed(f"{layer}: {self.service.name} has no such layer with releases")
        now, others = await asyncio.gather(
            self._ask(layer, partial(_present, adapter, mixed=False)), self._ask(layer, adapter.releases)
        )
        return (now, *others)

    async def ready(self, names: Sequence[str] = ()) -> tuple[Problem, ...]:
        """What would stop a rollback, of the layers that are named, or of all."""
        wanted = list(names or self.adapters)
        found = await asyncio.gather(*(self._all_problems(name) for name in wanted))
        return tuple(problem for problems in found for problem in problems)

    async def unwatched(self, names: Sequence[str]) -> tuple[Problem, ...]:
        """What keeps these layers from being told of changes; each look asks them then, which stops nothing."""
        found = []
        for name in names:
            if isinstance(adapter := self.adapters[name], Watched):
                with suppress(LookFailed):  # then each look says it
                    found += [Problem(name, text) for text in await self._ask(name, adapter.unwatched)]
        return tuple(found)

    async def _all_problems(self, name: str) -> Sequence[Problem]:
        """What the layer itself finds, and else what a rollback would meet: it asks what there is, and plans a way."""
        if found := await self._problems(name):
            return found
        adapter = self.adapters[name]
        try:
            if adapter.traits.releases:
                present, there = await asyncio.gather(
                    self._ask(name, partial(_present, adapter, mixed=True)), self._ask(name, adapter.releases)
                )
                targets = [release for release in there if release != present][:_PLANNED]
            else:
                targets = [NO_RELEASE] if adapter.traits.step else []
            await self._plan_any(name, targets)
        except LookFailed as error:
            return (Problem(name, str(error).removeprefix(f"{name}: ")),)
        return ()

    async def _plan_any(self, name: str, targets: Sequence[Release]) -> None:
        """Plan a way to the first that can be gone to: one that is damaged is another one's business.

        :raises LookFailed: none can be, with what the first says.
        """
        first: LookFailed | None = None
        for target in targets:
            try:
                await self._ask(name, partial(self.adapters[name].plan, target), self._patience(name))
            except LookFailed as error:
                first = first or error
            else:
                return
        if first is not None:
            raise first

    async def _problems(self, name: str) -> Sequence[Problem]:
        try:
            found = await self._ask(name, self.adapters[name].ready, self._patience(name))
            return tuple(replace(problem, text=self.clean(problem.text)) for problem in found)
        except LookFailed as error:
            return (Problem(name, str(error).removeprefix(f"{name}: ")),)

    async def plan(self, name: str, way: PlanRequest) -> Plan:
        """The plan of that name, each step as its adapter plans it; without steps when nothing differs.

        :raises LookFailed: when a layer cannot plan its step.
        """
        spec = self.service.plans[name]
        if way.returns:
            spec = spec.model_copy(update={"steps": spec.layers})
        fixed = await self._fixed(spec)
        wanted = self._whole(moves(spec, way.present, way.target, self.traits, fixed, way.unfinished))
        planned = await asyncio.gather(*(self._step(move, way, fixed=move.layer in fixed) for move in wanted))
        steps = await self._fitting(planned, way)
        moved = {change.layer for change in steps}
        if left := next((layer for layer in way.present.mixed if layer not in moved), ""):
            differ = f"its parts differ ({way.present.releases[left].label})"
            text = f"{differ}, and plan {name} does not bring them together"
            raise LookFailed(f"{left}: {text}; give --plan, one that has a step for it")
        brackets = tuple(Bracketed(layer, self.service.layers[layer].leave) for layer in spec.within)
        return Plan(name, tuple(steps), brackets, () if way.returns else spec.unasked)

    def _whole(self, wanted: Sequence[Move]) -> Sequence[Move]:
        """Without steps of what another one takes along: a database comes back with the schema of its copy."""
        moved = {move.layer for move in wanted}
        return [move for move in wanted if self.part_of(move.layer) not in moved]

    async def _fitting(self, steps: Sequence[Change], way: PlanRequest) -> Sequence[Change]:
        """The steps, with what schemas mean for them.

        Where one takes code back alone, that is what the code would miss in the schema that stays; where one takes data
        back, it is the schema that comes with it, unless that is the target's.
        """
        moved = {change.layer for change in steps}
        for name, adapter in self.adapters.items():
            if name in moved or not isinstance(adapter, KeepsSchema):
                continue
            if adapter.part_of in moved:
                steps = [await self._carrying(step, name, adapter, way) for step in steps]
                continue
            files = tuple(adapter.rests_on)
            carried = {one for one in moved if any(is_moved_by(self.adapters[one], path) for path in files)}
            if missed := await self._missed(name, adapter, [one for one in steps if one.layer in carried], way):
                said = tuple(f"{name} does not go back with it: {self.clean(text)}" for text in missed)
                steps = [
                    replace(one, reversible=False, risks=(*one.risks, *said)) if one.layer in carried else one
                    for one in steps
                ]
        return steps

    async def _carrying(self, step: Change, name: str, keeper: KeepsSchema, way: PlanRequest) -> Change:
        """A step, and where it brings a layer back that is part of its own, whether that is what the target has."""
        if step.layer != keeper.part_of:
            return step
        said, wanted = f"{name} comes back with it, at the release that the copy has", way.target.releases.get(name)
        with suppress(LookFailed):  # the step can be done without it
            found = None
            if isinstance(keeper, CarriedAlong):
                found = await self._ask(name, partial(keeper.carried_by, step.after))
            if wanted is not None and found is not None:
                if found.id == wanted.id:
                    return step
                said = f"{name} comes back with it as {found.name}, and the state that it is to serve has {wanted.name}"
        return replace(step, risks=(*step.risks, said))

    async def _missed(self, name: str, keeper: KeepsSchema, code: Sequence[Change], way: PlanRequest) -> Sequence[str]:
        """What code would miss in a layer that stays, by what its own release says that it needs, or a good state."""
        known, present = way.target.releases.get(name), way.present.releases.get(name)
        file = keeper.named_in if isinstance(keeper, NamedByFile) else None
        if isinstance(keeper, NamedByFile) and file is not None and (text := await self._read(file, code)):
            try:
                known = keeper.named(text)
            except AdapterError as error:
                return (f"{file.name}: {error}",)
        if not code or known is None or (present is not None and known.id == present.id):
            return ()
        return await self._ask(name, partial(keeper.unfit, known))

    async def _read(self, file: Path, code: Sequence[Change]) -> str:
        """What a file has in the releases that code goes to; empty where none has it."""
        for change in code:
            adapter = self.adapters[change.layer]
            if isinstance(adapter, ReadsReleases) and is_moved_by(adapter, file):
                return await self._ask(change.layer, partial(adapter.read, change.after, file))
        return ""

    async def _fixed(self, spec: PlanSpec) -> dict[str, Release]:
        """The releases that the configuration fixes for steps of a plan."""
        named = {layer: text for step in spec.steps if not isinstance(step, str) for layer, text in step.items()}
        there = await asyncio.gather(*map(self._there, named))
        return {
            layer: resolve(layer, text, known, whole=True)
            for (layer, text), known in zip(named.items(), there, strict=True)
        }

    async def _there(self, layer: str) -> Sequence[Release]:
        adapter = self.adapters[layer]
        return await self._ask(layer, adapter.releases) if adapter.traits.releases else ()

    async def unfound(self) -> tuple[str, ...]:
        """Why plans cannot go to what they fix, a sentence for each such plan."""
        found = await asyncio.gather(*map(self._fixed, self.service.plans.values()), return_exceptions=True)
        return tuple(
            f"plan {name} of {self.service.name} cannot be run: {error}"
            for name, error in zip(self.service.plans, found, strict=True)
            if isinstance(error, LookFailed)
        )

    async def fixed(self, layer: str) -> frozenset[str]:
        """The ids of a layer's releases that any plan fixes. :raises LookFailed: the layer does not answer."""
        steps = [step for spec in self.service.plans.values() for step in spec.steps if not isinstance(step, str)]
        texts = [step[layer] for step in steps if layer in step]
        there = await self._there(layer) if texts else ()
        return frozenset(release.id for release in there if any(map(release.is_called, texts)))

    async def pruned(self, layer: str, prune: Callable[[], Awaitable[Sequence[str]]]) -> Sequence[str]:
        """What a layer has dropped. :raises LookFailed: it failed."""
        return await self._ask(layer, prune, _PRUNING)

    async def _step(self, move: Move, way: PlanRequest, *, fixed: bool) -> Change:
        if move.to == NO_RELEASE and way.data is not None and self.traits[move.layer].releases:
            await self.as_of(move.layer, way.data.time)  # there was none, which it says again
            raise LookFailed(f"{move.layer}: a copy of its data came only now; it is decided again")
        change = await self._ask(
            move.layer, partial(self.adapters[move.layer].plan, move.to), self._patience(move.layer)
        )
        if change.before.parts and change.before != way.present.releases.get(move.layer):
            raise LookFailed(f"{move.layer}: its parts differ since it was looked at: {change.before.label}")
        again = (_AGAIN,) if move.layer in way.unfinished else ()
        change = reckoned(change, way.data, fixed=fixed)
        return replace(change, key=f"{way.key}/{move.layer}" if way.key else "", risks=(*change.risks, *again))

    async def prepare(self, name: str, way: PlanRequest) -> tuple[Plan, tuple[Problem, ...]]:
        """The plan, and what would stop a layer that it needs. All are asked at once, since a sick service waits.

        :raises LookFailed: when a layer cannot plan its step.
        """
        spec = self.service.plans[name]
        layers = list(dict.fromkeys([*spec.within, *spec.layers]))
        plan, found = await asyncio.gather(
            self.plan(name, way),
            asyncio.gather(*(self._problems(layer) for layer in layers)),
        )
        needed = {*spec.within, *(change.layer for change in plan.steps)}
        problems = [problem for layer, own in zip(layers, found, strict=True) if layer in needed for problem in own]
        return plan, tuple(problems)

    def _patience(self, layer: str) -> timedelta:
        """How long a layer may look before it moves, which can be to read all that it has: its own `timeout`."""
        own = getattr(self.service.layers[layer], "timeout", None)
        return max(ASKING, own) if isinstance(own, timedelta) else ASKING

    async def _ask(self, layer: str, ask: Callable[[], Awaitable[T]], limit: timedelta | None = None) -> T:
        """Ask, and await the answer within its limit. Whoever is cancelled before it begins has asked nothing."""
        limit = limit or ASKING
        try:
            async with asyncio.timeout(limit.total_seconds()):
                return await ask()
        except AdapterError as error:
            raise LookFailed(f"{layer}: {self.clean(str(error))}") from error
        except TimeoutError as error:
            raise LookFailed(f"{layer}: no answer within {limit.total_seconds():.0f} s") from error
        except Exception as error:  # somebody else's adapter may raise anything; one layer must not end the daemon
            said = self.clean(f"{type(error).__name__}: {error}")
            raise LookFailed(f"{layer}: its adapter failed: {said}") from error


async def _present(adapter: Adapter, *, mixed: bool, told: bool = False) -> Release:
    try:
        return await (adapter.asked() if isinstance(adapter, Watched) and not told else adapter.current())
    except MixedError as error:
        if not mixed:
            raise
        return error.mixture


def resolve(layer: str, text: str, releases: Sequence[Release], *, whole: bool = False) -> Release:
    """The release of that id, label or other name. People may also write the beginning that only one id has.

    :param whole: as the configuration names it: nothing is guessed.
    :raises LookFailed: when there is none, or more than one.
    """
    for fits in (Release.is_called,) if whole else (Release.is_called, _begins):
        found = {release.id: release for release in releases if text and fits(release, text)}
        if len(found) == 1:
            (one,) = found.values()
            return replace(one, names=()) if one.names else one
        if found:
            raise LookFailed(f'{layer}: "{text}" fits {len(found)} releases; give more of the id')
    known = ", ".join(release.name for release in releases[:5]) or "none"
    raise LookFailed(f'{layer}: no release "{text}"; the newest are: {known}')


def _begins(release: Release, text: str) -> bool:
    """Whether an id, or a name that is a commit's, begins with that; fewer than seven characters say too little."""
    commit_like = set(text) <= set("0123456789abcdef")
    names = (release.id, *(release.names if commit_like else ()))
    return len(text) >= GUESSED and any(name.startswith(text) for name in names)


class LayerFactory:
    """Builds the layers of a service, once for each configuration of it."""

    def __init__(
        self,
        scratch: Path,
        spawner: Spawner | None,
        clock: Clock,
        clusters: Mapping[str, ClusterSettings] = NO_CLUSTERS,
        *,
        host: str = "",
        epoch: int = 0,
    ) -> None:
        """:param spawner: None where nothing is asked of what is built.

        :param host: what this host is called, where several share the journal.
        :param epoch: by which it is driven; 0 where nobody else may drive.
        """
        self._host = host
        self._epoch = epoch
        self._scratch = scratch
        self._spawner = spawner
        self._clock = clock
        self._clusters = clusters

    def build(self, service: Service) -> Layers:
        """The layers of a service. :raises ValueError: an adapter refuses its settings; loading checked that."""
        adapters: dict[str, Adapter] = {}
        other = partial(plugins.other_layer, adapters)
        for name, settings in service.layers.items():
            scratch = self._scratch / service.name / name
            place = Place(
                service.name, name, scratch, self._spawner, self._clock, reveal, other, self._clusters, self._epoch
            )
            adapters[name] = plugins.build_adapter(settings, place)
        if self._host and service.on not in {"", self._host}:
            why = f"{service.name} is on {service.on}, and this is {self._host}: it cannot be rolled back from here"
            adapters = {name: AbsentLayer(adapter, why) for name, adapter in adapters.items()}
        clean = self._spawner.clean if self._spawner is not None else str
        return Layers(service, adapters, clean)
