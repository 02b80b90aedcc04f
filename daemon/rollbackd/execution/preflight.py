"""The preflight: what is asked right before the first step of a plan. It only reads; all of it must agree."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rollbackd import facts
from rollbackd.execution.layers import Layers, LookFailed, PlanRequest
from rollbackd.incident.life import Incident
from rollbackd.model import Change, Outcome, Plan
from rollbackd.policy.data import to_ask
from rollbackd.policy.guards import DATA_LOSS, IRREVERSIBLE


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an incident ends before its first step."""

    outcome: Outcome
    reason: str


Confirm = Callable[[Incident], Awaitable[Objection | None]]
"""Asks the guards once more, right before the first step, and whether the trouble is still there."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """The preflight of one incident: the layers are looked at, each plans its step and is asked whether it is ready."""

    layers: Layers
    confirm: Confirm

    async def of(self, incident: Incident) -> facts.Planned | facts.PlanEnded | Objection:
        """The plan that runs next, the fact that it has nothing to do, or why the incident ends here.

        The layers are looked at and plan at once: from what the decision saw, which is what the look must find again.

        :raises LookFailed: a layer cannot be looked at, cannot plan its step, or is not ready; it may be passing.
        """
        look = self.layers.look(mixed=bool(incident.present.mixed))
        present, plan = await asyncio.gather(look, self._planned(incident), return_exceptions=True)
        if isinstance(present, BaseException):
            raise present
        if present.key != incident.present.key:
            moved = ", ".join(present.differing(incident.present))
            return Objection(Outcome.SUPERSEDED, f"somebody else changed {moved}")
        objection = await self.confirm(incident) if incident.tried == 0 else None
        if objection is not None:
            return objection
        if isinstance(plan, BaseException):
            raise plan
        if not plan.steps and incident.tried + 1 < len(incident.plans):
            return facts.PlanEnded(plan.name, Outcome.PASSED)
        if not plan.steps:
            return untouched(incident, Outcome.FAILED, f"plan {plan.name} has no step to take: nothing differs")
        if final := self._irreversible(incident, plan.steps):
            return untouched(incident, Outcome.DECLINED, f"cannot be taken back, and not allowed: {final}")
        if lost := self._lost(incident, plan.steps):
            return untouched(incident, Outcome.DECLINED, f"data would be lost that nobody blames: {lost}")
        return facts.Planned(plan, present)

    async def _planned(self, incident: Incident) -> Plan:
        target = incident.decision.target
        if target is None:
            raise LookFailed("there is no target")
        unfinished = incident.decision.unfinished if incident.tried == 0 else ()
        returns = incident.drill == "back"
        data = incident.decision.data
        way = PlanRequest(incident.present, target, incident.key, returns=returns, unfinished=unfinished, data=data)
        plan, problems = await self.layers.prepare(incident.running, way)
        if plan.steps and problems:
            raise LookFailed("; ".join(f"{problem.layer}: {problem.text}" for problem in problems))
        return plan

    def _irreversible(self, incident: Incident, changes: tuple[Change, ...]) -> str:
        """Layers whose step cannot be taken back, and which nobody allowed."""
        request, plan = incident.decision.trigger.request, self.layers.service.plans[incident.running]
        if incident.by_people and any(one.guard == IRREVERSIBLE.name for one in incident.decision.against):
            return ""  # people were asked about it by name, and said yes
        allowed = {*plan.irreversible, *(request.irreversible if request else ())}
        return ", ".join(change.layer for change in changes if not change.reversible and change.layer not in allowed)

    def _lost(self, incident: Incident, changes: tuple[Change, ...]) -> str:
        """What would be lost of data beyond the limit, and was not shown to whoever said yes."""
        request = incident.decision.trigger.request
        shown = "; ".join(one.reason for one in incident.decision.findings if one.guard == DATA_LOSS.name)
        agreed = incident.by_people or (request is not None and bool(request.plan_id))
        return "; ".join(text for text in to_ask(changes) if not agreed or text not in shown)


def untouched(incident: Incident, outcome: Outcome, reason: str) -> Objection:
    """The end of an incident before a plan's first step: nothing was touched, unless an earlier plan did not help."""
    if incident.moved:
        return Objection(Outcome.INEFFECTIVE, f"{reason}; the plan before it did not help")
    return Objection(outcome, f"nothing was touched: {reason}")
