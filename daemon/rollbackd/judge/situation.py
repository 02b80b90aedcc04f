"""Gathers all that a decision rests on. Reads the world, changes nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from rollbackd.book import Book
from rollbackd.clock import Clock, JumpWatch
from rollbackd.config.models import Config, Service
from rollbackd.judge.live import Live
from rollbackd.layers import Layers, LookFailed, resolve
from rollbackd.model import Change, Release, State, Trigger
from rollbackd.policy.decide import plans_for
from rollbackd.policy.guards import Situation
from rollbackd.policy.target import Candidate, candidates, still_there
from rollbackd.sources.states import Looker
from rollbackd.units import format_duration


class Holds(Protocol):
    """A sentence for each thing that holds a service; the labels are the trigger's."""

    def __call__(self, service: str, labels: Mapping[str, str], *, silences: bool = True) -> tuple[str, ...]: ...


class Situations:
    """Makes situations, from memory or with a fresh look."""

    def __init__(
        self,
        config: Config,
        book: Book,
        live: Live,
        clock: Clock,
        jumps: JumpWatch,
        holds: Holds,
        layers: Mapping[str, Layers],
        looker: Looker,
    ) -> None:
        self._config = config
        self._book = book
        self._live = live
        self._clock = clock
        self._jumps = jumps
        self._holds = holds
        self._layers = layers
        self._looker = looker

    def quick(self, trigger: Trigger, present: State | None = None) -> Situation:
        """From what is known: the layers are not asked."""
        service = self._service(trigger)
        ledger = self._book.of(trigger.service)
        now = self._clock.now()
        here = present or ledger.present
        found = candidates(ledger, here)
        request = trigger.request
        self._jumps.look()
        return Situation(
            ledger=ledger,
            fleet=self._book.fleet,
            limits=self._config.limits,
            now=now,
            present=here,
            target=found[0] if found else None,
            no_target=self._no_target(service),
            mode=self._config.mode(service),
            holds=self._holds(trigger.service, trigger.labels),
            jumped=self._jumps.last_jump,
            troubled=self._live.troubled(),
            services=len(self._config.services),
            windows=self._config.windows,
            policy=self._config.policy,
            irreversible=request.irreversible if request is not None else (),
            over_hold=request.over_hold if request is not None else False,
        )

    async def full(self, trigger: Trigger) -> Situation:
        """With a fresh look at the layers, what they can go back to, the plan and whether they are ready."""
        service = self._service(trigger)
        layers = self._layers[trigger.service]
        if self._book.of(trigger.service).open is not None:
            return self.quick(trigger)
        present = await self._looker.look(trigger.service)
        given = replace(self.quick(trigger, present), present=present)
        if present is None:
            why = self._looker.problems.get(trigger.service, "")
            return replace(given, problems=(why,) if why else ())
        try:
            there = await layers.there()
            target = self._target(trigger, present, there)
        except LookFailed as error:
            return replace(given, target=None, no_target=str(error))
        if target is None:
            return replace(given, target=None, no_target=self._no_target(service))
        plans = plans_for(trigger, given, service.plan)
        changes, problems = await self._planned(layers, plans, present, target.state)
        allowed = {*given.irreversible, *(layer for name in plans for layer in service.plans[name].irreversible)}
        return replace(given, target=target, changes=changes, problems=problems, irreversible=allowed)

    def _service(self, trigger: Trigger) -> Service:
        service = self._config.service(trigger.service)
        assert service is not None
        return service

    async def _planned(
        self, layers: Layers, plans: tuple[str, ...], present: State, target: State
    ) -> tuple[tuple[Change, ...], tuple[str, ...]]:
        """The steps of the first plan that has any, and what would stop them."""
        try:
            for name in plans:
                plan, problems = await layers.prepare(name, present, target)
                if plan.steps:
                    break
            else:
                return (), (f"no plan of {', '.join(plans)} has a step to take",)
        except LookFailed as error:
            return (), (str(error),)
        return plan.steps, tuple(f"{problem.layer}: {problem.text}" for problem in problems)

    def _target(self, trigger: Trigger, present: State, there: Mapping[str, tuple[Release, ...]]) -> Candidate | None:
        ids = {layer: {release.id for release in releases} for layer, releases in there.items()}
        request = trigger.request
        if request is not None and request.to not in {"", "last-stable"}:
            return self._wanted(trigger.service, request.to, present, there)
        found = candidates(self._book.of(trigger.service), present)
        return next((one for one in found if not still_there(one.state, present, ids)), None)

    def _wanted(
        self, service: str, text: str, present: State, there: Mapping[str, tuple[Release, ...]]
    ) -> Candidate | None:
        """What a person names: a state's key, LAYER=RELEASE, or a release that only one layer has."""
        ledger = self._book.of(service)
        known = {state.key: state for state in (*(spell.state for spell in ledger.spells), *ledger.marked)}
        if text in known:
            return Candidate(known[text], 0, None)
        layer, equals, name = text.partition("=")
        if equals and layer in there:
            return Candidate(State({**present.releases, layer: resolve(layer, name, there[layer])}), 0, None)
        errors = []
        found = []
        for layer, releases in there.items():
            try:
                found.append((layer, resolve(layer, text, releases)))
            except LookFailed as error:
                errors.append(str(error))
        if len(found) > 1:
            raise LookFailed(f'"{text}" is a release of {" and ".join(layer for layer, _ in found)}; say LAYER={text}')
        if not found:
            raise LookFailed("; ".join(errors) or f"{service} has no layer with releases")
        return Candidate(State({**present.releases, found[0][0]: found[0][1]}), 0, None)

    def _no_target(self, service: Service) -> str:
        ledger = self._book.of(service.name)
        count = len({spell.state.key for spell in ledger.spells})
        bake = format_duration(service.bake)
        return (
            f"no good state to go back to: none of the {count} known ones, other than the present one, ran for {bake} "
            f"without a trigger; name one with --to, or mark one with `rollbackd good {service.name} REF`"
        )
