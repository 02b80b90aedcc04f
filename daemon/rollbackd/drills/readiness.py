"""Readiness: all that a rollback rests on is asked: layers, plans, snapshots, checks, time. Nothing is touched."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from rollbackd.adapter import Adapter, AdapterError, Rehearses, Snapshots
from rollbackd.config.models import Config, Service
from rollbackd.decision.situation import SituationReader
from rollbackd.execution.check_runner import CheckRunner, asked_by
from rollbackd.execution.layers import Layers, LookFailed, PlanRequest
from rollbackd.incident.spec import VerifySpec
from rollbackd.model import Change, CheckResult, Plan, Release, State, Trigger, Verdict
from rollbackd.state import step_durations
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration, whole_seconds
from rollbackd.system.clock import Clock
from rollbackd.views.shapes import DrillLayerView

_REHEARSAL = timedelta(minutes=30)
"""How long reading and restoring one layer's snapshot may take."""


@dataclass(frozen=True, slots=True)
class ReadinessFindings:
    """What was found."""

    plans: tuple[str, ...]
    problems: tuple[str, ...]
    slow: tuple[str, ...] = ()
    layers: tuple[DrillLayerView, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    present: State | None = None
    target: State | None = None
    expected: timedelta | None = None
    limit: timedelta | None = None
    irreversible: tuple[str, ...] = ()
    """Layers whose step cannot be taken back, and which no plan allows by name."""
    no_return: tuple[str, ...] = ()
    """Why going there and back would not leave all as it is now."""


@dataclass(slots=True)
class _Layer:
    """What is known of one layer so far."""

    name: str
    step: bool
    problems: list[str] = field(default_factory=list)
    change: Change | None = None
    copy: Release | None = None
    """Of a layer of data: the copy that a rollback would go to."""
    snapshot: str = ""


class ReadinessReview:
    """Asks for all services; it keeps nothing."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        clock: Clock,
        situations: SituationReader,
        layers: Mapping[str, Layers],
        check_runner: CheckRunner,
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._clock = clock
        self._situations = situations
        self._layers = layers
        self._check_runner = check_runner

    async def hold(
        self, service: Service, plans: tuple[str, ...], trial: Trigger, *, rehearse: bool = True
    ) -> ReadinessFindings:
        """Ask everything of these plans. `trial` is the trigger that a rollback by them would begin with.

        :param rehearse: also read the snapshots that it would go to, and restore them into a scratch place.
        """
        layers = self._layers[service.name]
        given = await self._situations.full(trial)
        target = given.target.state if given.target is not None else None
        asked = _asked(service, plans)
        for problem in await layers.ready(list(asked)):
            asked[problem.layer].problems.append(f"{problem.layer}: {problem.text}")
        problems: list[str] = []
        planned: list[Plan] = []
        if given.present is None:
            problems += list(given.problems) or ["the layers are in transition: two looks differ"]
        elif target is None:
            problems.append(given.no_target)
        else:
            left = given.ledger.unfinished.layers if given.ledger.unfinished is not None else ()
            way = PlanRequest(given.present, target, unfinished=left, data=given.data)
            planned = await self._ask_plans(layers, plans, asked, way, problems)
            await self._find_copies(layers, asked, way)
            if rehearse:
                await asyncio.gather(*(self._rehearse(layers.adapters[one.name], one) for one in asked.values()))
        checks = await self._run_checks(service, plans, problems)
        took = await step_durations.of_steps(self._read_model.journal, service.name)
        views = tuple(self._view(service, one, took) for one in asked.values())
        first = next((plan for plan in planned if plan.steps), None)
        expected = _total(service, first, took) if first is not None else None
        allowed = {layer for name in plans for layer in service.plans[name].irreversible}
        return ReadinessFindings(
            plans=plans,
            problems=tuple(dict.fromkeys([*problems, *(text for one in asked.values() for text in one.problems)])),
            slow=tuple(_slow(views, expected, self._config.targets.recovery)),
            layers=views,
            checks=checks,
            present=given.present,
            target=target,
            expected=expected,
            limit=self._config.targets.recovery,
            irreversible=tuple(
                one.name
                for one in asked.values()
                if one.change is not None and not one.change.reversible and one.name not in allowed
            ),
            no_return=await _no_return(layers, [one.change for one in asked.values() if one.change is not None]),
        )

    async def _ask_plans(
        self,
        layers: Layers,
        plans: Sequence[str],
        asked: Mapping[str, _Layer],
        way: PlanRequest,
        problems: list[str],
    ) -> list[Plan]:
        """The steps of each plan, as the layers plan them from where the service is now."""
        planned = []
        for name in plans:
            try:
                planned.append(await layers.plan(name, way))
            except LookFailed as error:
                problems.append(str(error))
        for plan in planned:
            for change in plan.steps:
                asked[change.layer].change = asked[change.layer].change or change
        data = [layer for name in plans for layer in layers.service.plans[name].layers if layer in layers.data]
        if len(planned) == len(plans) and not any(plan.steps for plan in planned) and data:
            problems.append(f"{', '.join(data)}: a drill moves no data; without --execute its copy is rehearsed")
        elif len(planned) == len(plans) and not any(plan.steps for plan in planned):
            problems.append(f"no plan of {', '.join(plans)} has a step to take: what they name is there already")
        return planned

    async def _find_copies(self, layers: Layers, asked: Mapping[str, _Layer], way: PlanRequest) -> None:
        """The copies of data that a rollback would go to. A drill that moves the other layers rehearses these."""
        for one in asked.values():
            if one.step and one.name in layers.data and way.data is not None:
                try:
                    one.copy = one.change.after if one.change else await layers.as_of(one.name, way.data.time)
                except LookFailed as error:
                    one.problems.append(str(error))

    async def _rehearse(self, adapter: Adapter, one: _Layer) -> None:
        """Read the snapshot of where the layer would go, and restore it into a scratch place where the layer can."""
        release = one.copy or (one.change.after if one.change is not None else None)
        if release is None or not isinstance(adapter, Snapshots):
            return
        try:
            async with asyncio.timeout(_REHEARSAL.total_seconds()):
                one.snapshot, faults = await _rehearsed(adapter, release)
        except TimeoutError:
            faults = [f"its snapshot could not be read in {format_duration(_REHEARSAL)}"]
        except AdapterError as error:
            faults = [str(error)]
        except Exception as error:  # noqa: BLE001  # an adapter of somebody else's may raise anything; that is what a drill is to find
            faults = [f"its adapter failed: {type(error).__name__}: {error}"]
        one.problems += [f"{one.name}: {text}" for text in faults]

    async def _run_checks(self, service: Service, plans: Sequence[str], problems: list[str]) -> tuple[CheckResult, ...]:
        """Ask what verification would ask, then the service's other checks, which are only told."""
        specs = [service.plans[name].verify or service.verify for name in plans]
        needed = asked_by(specs)
        others = [name for name in service.checks if name not in needed]
        results = await self._check_runner.run(service, [*needed, *others])
        for result in results[: len(needed)]:
            if not result.warn and result.verdict is not Verdict.GOOD:
                said = "fails now" if result.verdict is Verdict.BAD else "cannot be asked"
                problems.append(f"check {result.name} {said}, no rollback could be verified: {result.reason}")
        return results

    def _view(self, service: Service, one: _Layer, took: Mapping[str, timedelta]) -> DrillLayerView:
        change = one.change
        return DrillLayerView(
            layer=one.name,
            part="step" if one.step else "bracket",
            before=change.before.name if change is not None else "",
            after=change.after.name if change is not None else "",
            problems=tuple(text.removeprefix(f"{one.name}: ") for text in one.problems),
            snapshot=one.snapshot,
            expected=took.get(one.name) if one.step else None,
            target=self._config.targets.steps.get(service.layers[one.name].adapter) if one.step else None,
        )


def _asked(service: Service, plans: Sequence[str]) -> dict[str, _Layer]:
    """Every layer of these plans, in order."""
    found: dict[str, _Layer] = {}
    for name in plans:
        spec = service.plans[name]
        for layer in spec.within:
            found.setdefault(layer, _Layer(layer, step=False))
        for layer in spec.layers:
            found.setdefault(layer, _Layer(layer, step=True))
    return found


async def _no_return(layers: Layers, changes: Sequence[Change]) -> tuple[str, ...]:
    """What stands against a return. A layer that keeps snapshots keeps what it leaves, and knows what it cannot."""
    found = [f"{change.layer}: {change.aside}" for change in changes if change.aside]
    with suppress(LookFailed):  # whoever cannot be asked is not ready, which is told
        there = await layers.there()
        found += [
            f"{change.layer}: {change.before.name} is not among what it can go back to"
            for change in changes
            if change.layer in there
            and not isinstance(layers.adapters[change.layer], Snapshots)
            and change.before.id not in {release.id for release in there[change.layer]}
        ]
    return tuple(found)


async def _rehearsed(adapter: Snapshots, release: Release) -> tuple[str, list[str]]:
    """What became of the newest snapshot of a release, in words, and what is wrong with it."""
    kept = [one for one in await adapter.snapshots() if one.release == release.id and one.restorable]
    if not kept:
        return "", []
    newest = kept[0]
    said, wrong = "verified", await adapter.verify(newest.name)
    if not wrong and isinstance(adapter, Rehearses):
        said, wrong = "verified, restored into scratch", await adapter.rehearse(newest.name)
    texts = [f"snapshot {one.snapshot}: {f'{one.path}: ' if one.path else ''}{one.text}" for one in wrong]
    return ("damaged" if texts else f"{newest.name} {said}"), texts


def _total(service: Service, plan: Plan, took: Mapping[str, timedelta]) -> timedelta | None:
    """The time of all steps and of the shortest verification; None while a step never ran."""
    verify: VerifySpec = service.plans[plan.name].verify or service.verify
    return step_durations.expected(plan.steps, took, verify.shortest)


def _slow(views: Sequence[DrillLayerView], expected: timedelta | None, limit: timedelta) -> list[str]:
    found = [
        f"{one.layer} takes {format_duration(whole_seconds(one.expected))}, its target is {format_duration(one.target)}"
        for one in views
        if one.expected is not None and one.target is not None and one.expected > one.target
    ]
    if expected is not None and expected > limit:
        length = format_duration(whole_seconds(expected))
        found.append(f"all of it takes {length}, its target is {format_duration(limit)}")
    return found
