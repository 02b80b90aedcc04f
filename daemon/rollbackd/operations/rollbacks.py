"""A rollback by order: what it would be, and the order itself."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

from rollbackd import facts
from rollbackd.config.models import Service
from rollbackd.decision.refusals import InvalidOrder, OrderRefused, UnknownName
from rollbackd.incident.life import Incident
from rollbackd.incident.spec import PlanSpec
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import DAEMON, Action, Decision, Request, Trigger, incident_stream, service_stream
from rollbackd.operations.base import OperationsParts
from rollbackd.operations.drills import DrillOperations
from rollbackd.policy.decide import decide
from rollbackd.policy.guards import GUARDS, Situation
from rollbackd.state import step_durations
from rollbackd.views.presenters import finding_view, state_view, step_view
from rollbackd.views.shapes import PlanView

_PRINTED = 500
"""Printed plans of a service that an order can name."""


class RollbackOperations(DrillOperations):
    """Prints plans, and runs them."""

    def __init__(self, parts: OperationsParts) -> None:
        super().__init__(parts)
        self._printing = asyncio.Lock()
        """The same plan twice at once is one fact."""

    async def plan(self, request: Request) -> PlanView:
        """What a rollback would be, and what would be decided now; nothing is touched.

        :raises UnknownName: InvalidOrder:
        """
        service = self._check(request)
        trigger = self._trial(service, request)
        given = await self._parts.situations.full(trigger, shown=True)
        automatic = Trigger(service.name, "trial", service.priority, trigger.episode, trigger.onset, trigger.reached)
        trial = decide(automatic, given, service.plan)
        ordered = decide(trigger, given, service.plan)
        ledger = self._read_model.of(service.name)
        target = given.target.state if given.target is not None else None
        proposed = await self._propose(request, ordered, given)
        took = await step_durations.of_steps(self._read_model.journal, service.name)
        spec = _in_use(service, ordered, given)
        verification = (spec.verify or service.verify).shortest
        return PlanView(
            service=service.name,
            plan=", then ".join(ordered.plans),
            present=state_view(ledger, given.present) if given.present is not None else None,
            target=state_view(ledger, target) if target is not None else None,
            steps=tuple(step_view(change, took) for change in given.changes),
            brackets=spec.within,
            problems=tuple(dict.fromkeys(finding.reason for finding in ordered.against)),
            action=trial.action.value,
            findings=tuple(finding_view(finding) for finding in trial.findings),
            id=proposed.id if proposed is not None else "",
            verification=verification,
            expected=step_durations.expected(given.changes, took, verification),
        )

    async def _propose(self, request: Request, ordered: Decision, given: Situation) -> facts.Proposed | None:
        """The plan as a fact that an order can name later; the same plan is written down once.

        While nothing can be written it is shown all the same, and cannot be named.
        """
        proposed = _proposed(request, ordered, given)
        if proposed is None:
            return None
        async with self._printing:
            try:
                if await self._find(request.service, proposed.id) is None:
                    entry = Entry(service_stream(request.service), proposed, request.actor or DAEMON)
                    await self._read_model.append(entry)
            except JournalUnavailable as error:
                self._log.warning(
                    "a plan could not be written; it has no id", service=request.service, error=str(error)
                )
                return None
        return proposed

    async def _find(self, service: str, plan_id: str) -> facts.Proposed | None:
        records = await self._read_model.journal.latest(facts.kinds(facts.Proposed), service_stream(service), _PRINTED)
        return next((record.fact for record in records if record.fact.id == plan_id), None)

    async def _as_shown(self, request: Request) -> tuple[Request, facts.Proposed]:
        """The order of a printed plan, and the plan.

        :raises UnknownName: InvalidOrder: there is no such plan, or it is ordered with another target.
        :raises OrderRefused: it would be another plan now.
        """
        service = self._check(request)
        if request.to or request.plan:
            raise InvalidOrder("a printed plan says where to and by which plan; leave both out")
        shown = await self._find(service.name, request.plan_id)
        if shown is None:
            again = f"`rollbackd plan {service.name}` prints one"
            raise UnknownName(f'{service.name} has no printed plan "{request.plan_id}"; {again}')
        if (running := self._read_model.of(service.name).acting) is not None:
            raise OrderRefused(f"{running.incident} of {service.name} acts already; plan {shown.id} is not run")
        order = replace(request, to=shown.request.to, plan=shown.request.plan)
        trigger = self._trial(service, order)
        given = await self._parts.situations.full(trigger, shown=True)
        now = _proposed(order, decide(trigger, given, service.plan), given)
        if now is None or now.id != shown.id:
            raise OrderRefused(_no_longer(shown, now))
        target = self._parts.situations.without_data(service.name, shown.target, shown.present)
        return replace(order, to=order.to or target.key), shown

    async def rollback(self, request: Request, episode: str = "", handled: Sequence[int] = ()) -> str:
        """A person's own rollback; the incident's id. One that acts already is joined, unless this may go elsewhere.

        One that asks is answered by it.

        `episode` names an order that may come twice, such as a file, and `handled` its row of the inbox.

        :raises UnknownName: InvalidOrder: OrderRefused:
        """
        shown = None
        if request.plan_id:
            request, shown = await self._as_shown(request)
        service = self._check(request)
        if drilled := await self._parts.drills.give_way(service.name, request.actor):
            request = replace(request, to=request.to or drilled)
        if joined := await self._join(service, request):
            return joined
        decision = await self._parts.decision_engine.consider(self._trial(service, request, episode), handled)
        if decision.action is not Action.ROLL_BACK:
            views = tuple(finding_view(finding) for finding in decision.findings)
            raise OrderRefused(f"{service.name} is not rolled back: {_against(decision)}", views)
        if shown is not None and decision.present != shown.present:  # it moved between two looks; no step was begun yet
            why = f"{shown.present.name} runs no more, as plan {shown.id} had it"
            await self._read_model.append(
                Entry(incident_stream(decision.joins), facts.AbortRequested(why), request.actor)
            )
            self._parts.runner.poke(decision.joins)
            raise OrderRefused(
                f"{service.name} is not rolled back: {why}; {decision.joins} is stopped before its first step"
            )
        return decision.joins

    async def _join(self, service: Service, request: Request) -> str:
        """The incident that acts already, with this order in it; empty when there is none, or this may go elsewhere.

        The same order again goes nowhere else: whoever saw it cut off gives it once more, also with the daemon stopped.
        """
        running = self._read_model.of(service.name).acting
        if running is None:
            return ""
        first = (await self._incident(running.incident)).decision.trigger.request
        if _aims(request) not in {_aims(Request(service.name, request.actor)), _aims(first) if first else None}:
            return ""

        def word(found: Incident) -> facts.Joined | None:
            over = found.outcome is not None or bool(found.parked)
            return None if over else facts.Joined(self._trial(service, request))

        found = await self._say(running.incident, request.actor, word)
        return found.id if found.outcome is None and not found.parked else ""


def _aims(request: Request) -> tuple[object, ...]:
    """What an order asks for, whoever gives it and why."""
    return request.to, request.plan, frozenset(request.irreversible), request.over_hold


def _in_use(service: Service, ordered: Decision, given: Situation) -> PlanSpec:
    """The plan that the steps are of: the first one that has them all."""
    layers = {change.layer for change in given.changes}
    plans = [service.plans[name] for name in ordered.plans]
    return next((plan for plan in plans if layers <= set(plan.layers)), plans[0])


def _proposed(request: Request, ordered: Decision, given: Situation) -> facts.Proposed | None:
    """What a plan shows, and its digest; None while there is nothing to show."""
    if ordered.present is None or ordered.target is None or not given.changes:
        return None
    steps = tuple(f"{one.layer}: {one.before.id} -> {one.after.id}" for one in given.changes)
    parts = (request.service, ordered.present.key, ordered.target.key, *ordered.plans, *steps)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return facts.Proposed(digest, request, ordered.present, ordered.target, ordered.plans, steps)


def _no_longer(shown: facts.Proposed, now: facts.Proposed | None) -> str:
    moved = _moved(shown, now)
    return f"the world moved since plan {shown.id} was printed: {moved}; `rollbackd plan` prints what it would be now"


def _moved(shown: facts.Proposed, now: facts.Proposed | None) -> str:
    if now is None:
        return "there is nothing to go back to, or nothing to do"
    if now.present.key != shown.present.key:
        return f"now {now.present.name} runs, then {shown.present.name} did"
    if now.target.key != shown.target.key:
        return f"it would go back to {now.target.name} now, not to {shown.target.name}"
    if now.plans != shown.plans:
        return f"its plan would be {', then '.join(now.plans)}"
    return f"its steps would be {'; '.join(now.steps)}"


def _against(decision: Decision) -> str:
    name = decision.trigger.service
    ways = {guard.name: f" ({guard.hint.format(service=name)})" for guard in GUARDS if guard.hint}
    texts = (finding.reason + ways.get(finding.guard, "") for finding in decision.against)
    return "; ".join(dict.fromkeys(texts))  # two guards may stand against it for one reason
