"""The situation: all that a decision rests on, gathered. It reads the world and changes nothing."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Protocol

from rollbackd.config.models import Config, Service
from rollbackd.decision.blame import Blame
from rollbackd.decision.circumstances import Circumstances
from rollbackd.decision.data_target import DataTarget, with_named_time
from rollbackd.execution.layers import Layers, LookFailed, PlanRequest, resolve
from rollbackd.model import Change, Release, Replaced, Request, State, Trigger, Verdict
from rollbackd.policy.changes import to_blame
from rollbackd.policy.data import without_data
from rollbackd.policy.decide import plans_for
from rollbackd.policy.guards import CHANGE, Circumstance, Situation
from rollbackd.policy.target import Candidate, candidates, still_there
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.state_watcher import StateWatcher
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration
from rollbackd.system.clock import Clock, JumpWatch

_AT_ONCE = 32
"""How many services are looked at for a decision at the same time."""
_FEW = 3
"""Quarantined states that are named; the others are counted."""
_TARGETS = 10
"""How many good states are tried, the newest first, when what they need turns out to be damaged."""


class HoldSource(Protocol):
    """A sentence for each thing that holds a service; the labels are the trigger's."""

    def __call__(self, service: str, labels: Mapping[str, str], *, silences: bool = True) -> tuple[str, ...]: ...


class SituationReader:
    """Makes situations, from memory or with a fresh look at the layers."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        jumps: JumpWatch,
        holds: HoldSource,
        layers: Mapping[str, Layers],
        state_watcher: StateWatcher,
        blame: Blame | None = None,
        missing: Callable[[str], None] = lambda _: None,
        circumstances: Circumstances | None = None,
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._jumps = jumps
        self._holds = holds
        self._layers = layers
        self._state_watcher = state_watcher
        self._blame = blame
        self._looking = asyncio.Semaphore(_AT_ONCE)
        self._circumstances = circumstances
        self._missing = missing
        """Called with a service whose newest good state cannot be gone back to."""

    async def looked(self, trigger: Trigger) -> Situation:
        """The situation with a fresh look, of which only so many go on at once."""
        async with self._looking:
            return await self.full(trigger)

    def is_known(self, trigger: Trigger) -> bool:
        """Whether what runs was seen since the trigger's trouble began, so that the change to blame is known."""
        seen = self._state_watcher.seen(trigger.service)
        return seen is not None and seen >= trigger.onset

    def quick(self, trigger: Trigger, present: State | None = None) -> Situation:
        """The situation from what is known already; the layers are not asked."""
        service = self._service(trigger)
        ledger = self._read_model.of(trigger.service)
        now = self._clock.now()
        here = present or ledger.present
        self._jumps.look()
        found = candidates(ledger, here, self._began(trigger))
        request = trigger.request
        return Situation(
            ledger=ledger,
            fleet=self._read_model.fleet,
            limits=self._config.limits,
            now=now,
            present=here,
            target=found[0] if found else None,
            no_target="" if found else self._no_target(service, trigger),
            mode=self._config.mode(service),
            holds=self._holds(trigger.service, trigger.labels),
            jumped=self._jumps.last_jump,
            astray=self._jumps.astray,
            troubled=self._rule_states.troubled(),
            behind=self._rule_states.behind(trigger),
            services=len(self._config.services),
            windows=self._config.windows,
            policy=self._config.policy,
            irreversible=request.irreversible if request is not None else (),
            over_hold=request.over_hold if request is not None else False,
            asking=self._config.asking,
            groups=self._config.groups,
            persons=self._config.persons,
            of_hosts=bool(self._config.daemon.of_host),
        )

    async def full(self, trigger: Trigger, *, shown: bool = False, trial: bool = False) -> Situation:
        """The situation with a fresh look at the layers: what runs, where they can go, the plan, what stops it.

        :param shown: a person will see where it goes before it goes there, so that the beginning of an id is enough.
        :param trial: nothing is written down, and nothing comes of it.
        """
        service = self._service(trigger)
        layers = self._layers[trigger.service]
        returns = trigger.drill == "back"
        if self._read_model.of(trigger.service).acting is not None and not returns:
            return self.quick(trigger)
        ordered = trigger.request is not None and not trigger.drill
        look = self._state_watcher.peek if returns or trial else partial(self._state_watcher.look, mixed=ordered)
        present, there = await asyncio.gather(look(trigger.service), layers.there(), return_exceptions=True)
        if isinstance(present, BaseException):
            raise present
        given = replace(self.quick(trigger, present), present=present, looked=present is not None)
        earlier, users, recent, circumstances = await asyncio.gather(
            self._earlier(trigger), self._users(trigger), self.recent(trigger), self._explained(trigger)
        )
        given = replace(given, earlier=earlier, users=users, recent=recent, circumstances=circumstances)
        if present is None:
            why = self._state_watcher.problems.get(trigger.service, "")
            return replace(given, problems=(why,) if why else ())
        try:
            if isinstance(there, BaseException):
                raise there
            trigger, named, known = await with_named_time(trigger, layers, there)
            chosen = self._target(trigger, present, known, shown=shown, trial=trial)
        except LookFailed as error:
            return replace(given, target=None, no_target=str(error), problems=(str(error),))
        data = DataTarget(layers, trigger, present)
        given = replace(given, data=data.goal(given, chosen, named))
        for _ in range(_TARGETS):
            wanted = plans_for(trigger, replace(given, target=chosen), service.plan)
            plans = tuple(name for name in wanted if name in service.plans) or service.plan  # the file may have changed
            specs = [service.plans[name] for name in plans]
            chosen = data.alone(specs) or chosen
            if chosen is None:
                return replace(given, target=None, no_target=self._no_target(service, trigger))
            left = self._read_model.of(trigger.service).unfinished
            unfinished = left.layers if left is not None else ()
            try:
                target = await data.of(chosen, specs, given.data)
            except LookFailed as error:
                return replace(given, target=chosen, problems=(str(error),))
            way = PlanRequest(present, target.state, returns=returns, unfinished=unfinished, data=given.data)
            changes, problems = await self._planned(layers, plans, way)
            other = (
                await self._instead(trigger, present, chosen, layers, shown=shown, trial=trial) if problems else chosen
            )
            if other == chosen:
                break
            chosen = other
        allowed = {*given.irreversible, *(layer for name in plans for layer in service.plans[name].irreversible)}
        return replace(given, target=target, changes=changes, problems=problems, irreversible=allowed)

    def without_data(self, service: str, state: State, present: State) -> State:
        """A state with its layers of data as they are now, which is how an order names it by its key."""
        return without_data(state, present, self._layers[service].data)

    async def _instead(
        self, trigger: Trigger, present: State, target: Candidate, layers: Layers, *, shown: bool, trial: bool
    ) -> Candidate | None:
        """Another target after one could not be planned: a release that was found damaged is not offered any more."""
        try:
            return self._target(trigger, present, await layers.there(), shown=shown, trial=trial)
        except LookFailed:
            return target

    async def _earlier(self, trigger: Trigger) -> tuple[Verdict, str] | None:
        """What the trigger's own rule said right before the newest change; None where that makes no difference."""
        ledger = self._read_model.of(trigger.service)
        known = ledger.episodes.get(trigger.episode)
        if known is not None and CHANGE.name in known.found:
            return None  # it stays found
        rule = self._rule_states.rule(trigger.rule)
        change = to_blame(ledger, trigger.onset)
        if rule is None or change is None or self._blame is None or not self._in_question(change, trigger):
            return None
        length = self._config.limits.before_change
        return await self._blame.before(rule, trigger.service, change.start, length, trigger.labels, change.old_since)

    async def _explained(self, trigger: Trigger) -> Mapping[str, Circumstance]:
        """What else than the release may explain it."""
        return await self._circumstances.of(trigger) if self._circumstances is not None else {}

    def _in_question(self, change: Replaced, trigger: Trigger) -> bool:
        within = trigger.onset - change.end <= self._config.limits.change_window
        return trigger.request is None and within and change.start <= trigger.onset

    async def _users(self, trigger: Trigger) -> float | None:
        """The share of users that is affected, where the rule has a query for it."""
        rule = self._rule_states.rule(trigger.rule)
        if rule is None or self._blame is None or trigger.request is not None:
            return None
        return await self._blame.users(rule, trigger.service)

    async def recent(self, trigger: Trigger) -> tuple[Verdict, str] | None:
        """What the trigger's own query says of right now; None where it makes no difference."""
        rule = self._rule_states.rule(trigger.rule)
        if rule is None or self._blame is None or trigger.request is not None:
            return None
        return await self._blame.recent(rule, trigger.service)

    def _service(self, trigger: Trigger) -> Service:
        service = self._config.service(trigger.service)
        assert service is not None
        return service

    async def _planned(
        self, layers: Layers, plans: tuple[str, ...], way: PlanRequest
    ) -> tuple[tuple[Change, ...], tuple[str, ...]]:
        """The steps of the first plan that has any, and what would stop them."""
        try:
            for name in plans:
                plan, problems = await layers.prepare(name, way)
                if plan.steps:
                    break
            else:
                return (), (f"no plan of {', '.join(plans)} has a step to take",)
        except LookFailed as error:
            return (), (str(error),)
        return plan.steps, tuple(f"{problem.layer}: {problem.text}" for problem in problems)

    def _target(
        self,
        trigger: Trigger,
        present: State,
        there: Mapping[str, tuple[Release, ...]],
        *,
        shown: bool,
        trial: bool,
    ) -> Candidate | None:
        ids = {layer: {release.id for release in releases} for layer, releases in there.items()}
        request = trigger.request
        if request is not None and request.to not in {"", "last-stable"}:
            wanted = self._wanted(trigger, request, present, there, shown=shown or bool(request.plan_id))
            if mixed := wanted.state.mixed:
                text = f"the parts of {' and of '.join(mixed)} differ, and {request.to} does not say where they go"
                raise LookFailed(f"{text}; name a state's key, or last-stable, which says it for all layers")
            return wanted
        known = candidates(self._read_model.of(trigger.service), present, self._began(trigger))
        found = DataTarget(self._layers[trigger.service], trigger, present).plain(known)
        if not trial and found and still_there(found[0].state, present, ids):
            self._missing(trigger.service)
        return next((one for one in found if not still_there(one.state, present, ids)), None)

    def _wanted(
        self,
        trigger: Trigger,
        request: Request,
        present: State,
        there: Mapping[str, tuple[Release, ...]],
        *,
        shown: bool,
    ) -> Candidate:
        """The state that a person names: by its key, as LAYER=RELEASE, or by a release that only one layer has."""
        text, service = request.to, request.service
        named = resolve if shown else partial(_unguessed, f"rollbackd plan {service} --to {text}")
        ledger = self._read_model.of(service)
        past = [*(spell.state for spell in ledger.spells), *ledger.marked]
        known = DataTarget(self._layers[service], trigger, present).by_key(past)
        if text in known:
            return Candidate(known[text], 0, None)
        layer, equals, name = text.partition("=")
        if equals and layer in there:
            return Candidate(State({**present.releases, layer: named(layer, name, there[layer])}), 0, None)
        errors = []
        found = []
        for layer, releases in there.items():
            try:
                found.append((layer, named(layer, text, releases)))
            except LookFailed as error:
                errors.append(str(error))
        if len(found) > 1:
            raise LookFailed(f'"{text}" is a release of {" and ".join(layer for layer, _ in found)}; say LAYER={text}')
        if not found:
            raise LookFailed("; ".join(errors) or f"{service} has no layer with releases")
        return Candidate(State({**present.releases, found[0][0]: found[0][1]}), 0, None)

    def _began(self, trigger: Trigger) -> datetime | None:
        """When the trouble began; None where that does not tell what ran then: an order, or a clock that jumped."""
        jumped = self._jumps.last_jump
        unsure = jumped is not None and abs(self._clock.now() - jumped) < self._config.limits.stale_after
        return None if unsure or trigger.request is not None else trigger.onset

    def _no_target(self, service: Service, trigger: Trigger) -> str:
        ledger = self._read_model.of(service.name)
        sick = candidates(ledger, ledger.present)
        if sick and not candidates(ledger, ledger.present, self._began(trigger)):
            return f"no good state to go back to: {sick[0].state.name} ran when the trouble began; name one with --to"
        known = {spell.state.key: spell.state for spell in ledger.spells}
        others = [state for key, state in known.items() if ledger.present is None or key != ledger.present.key]
        left = [state.name for state in others if ledger.blocked(state)]
        bake = format_duration(service.bake)
        why = f"none of the {len(known)} known ones, other than the present one, ran for {bake} without a trigger"
        if left:
            names = ", ".join(left[:_FEW]) + (f" and {len(left) - _FEW} more" if len(left) > _FEW else "")
            why = f"quarantined, since a rollback from there helped: {names}"
            why += f"; no other one ran for {bake} without a trigger" if len(left) < len(others) else ""
        return (
            f"no good state to go back to: {why}; name one with --to, or mark one with "
            f"`rollbackd good {service.name} REF`"
        )


def _unguessed(plan: str, layer: str, text: str, releases: Sequence[Release]) -> Release:
    """As `resolve`, but of a beginning it only says whose it is: nobody would see where it goes before it goes there.

    :param plan: the command that shows it.
    """
    found = resolve(layer, text, releases)
    if not any(release.is_called(text) for release in releases):
        guess = f'{layer}: "{text}" is only the beginning of {found.name} ({found.id})'
        raise LookFailed(f"{guess}; write the whole id, or run what `{plan}` shows by its --plan-id")
    return found
