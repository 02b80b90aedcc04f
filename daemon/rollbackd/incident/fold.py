"""Folds an incident from its facts, one record at a time. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import assert_never

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.life import Failure, Flight, Incident, Yes
from rollbackd.incident.plan import reached
from rollbackd.model import DAEMON, NO_RELEASE, Action, Decision, Outcome, Plan, Release, State, Verdict, name_in

_OF_PEOPLE = (
    facts.Approved, facts.Denied, facts.AbortRequested, facts.Acknowledged, facts.Escalated, facts.Joined,
    facts.Mending,
)  # fmt: skip
"""What a person says or orders, where the actor is one."""


def opened(record: Record) -> Incident:
    """An incident's first fact. :raises ValueError: when it is another, or there is no state to go back from."""
    fact = record.fact
    if not isinstance(fact, facts.Opened) or fact.decision.present is None:
        raise ValueError(f"{record.stream} begins with {type(fact).__name__}, not with Opened and a present state")
    return Incident(
        id=name_in(record.stream),
        n=record.n,
        service=fact.service,
        opened=record.at,
        decision=fact.decision,
        config=fact.config,
        plans=fact.plans,
        present=fact.decision.present,
        asked=record.at if fact.decision.action is Action.ASK else None,
        responded=record.at if fact.decision.trigger.request is not None else None,
    )


def fold(records: Iterable[Record]) -> Incident | None:
    """The incident of a whole stream; None when the stream is empty."""
    incident: Incident | None = None
    for record in records:
        incident = opened(record) if incident is None else evolve(incident, record)
    return incident


def evolve(incident: Incident, record: Record) -> Incident:
    """The incident after one more fact."""
    incident = replace(incident, n=record.n)
    if incident.responded is None and record.actor != DAEMON and isinstance(record.fact, _OF_PEOPLE):
        incident = replace(incident, responded=record.at)
    fact = record.fact
    match fact:
        case facts.Entering() | facts.ApplyStarted() | facts.Leaving():
            return _started(incident, Flight(_WHAT[type(fact)], fact.layer, fact.attempt, record.at))
        case facts.EnterFailed() | facts.ApplyFailed() | facts.LeaveFailed():
            what = _WHAT[type(fact)]
            attempt = incident.flight.attempt if incident.flight is not None else 1
            failure = Failure(what, fact.layer, attempt, fact.reason, fact.permanent, record.at, fact.evidence)
            asks = incident.waits and what == "enter"
            notes = _noting(incident, fact.layer, f"not entered while it asks: {fact.reason}" if asks else "")
            return replace(incident, flight=None, failure=failure, notes=notes)
        case facts.Entered(layer, note):
            entered = (*(other for other in incident.entered if other != layer), layer)
            notes = _noting(incident, layer, note)
            return replace(incident, flight=None, failure=None, entered=entered, notes=notes)
        case facts.Left(layer, note):
            entered = tuple(other for other in incident.entered if other != layer)
            inside = tuple(other for other in incident.inside if other != layer)
            notes = _noting(incident, layer, note)
            return replace(incident, flight=None, failure=None, entered=entered, inside=inside, notes=notes)
        case facts.Applied(layer, note, brought):
            return _applied(replace(incident, notes=_noting(incident, layer, note)), layer, brought, record.at)
        case facts.StepSuperseded(layer):
            return replace(incident, flight=None, superseded=layer)
        case facts.Gated() | facts.Round():
            return _looked(incident, fact, record.at)
        case facts.Approved() | facts.Denied() | facts.AskedAgain() | facts.Risen():
            return _answered(incident, record, fact)
        case _:
            return _other(incident, record)


def _noting(incident: Incident, layer: str, note: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*incident.notes, f"{layer}: {note}"])) if note else incident.notes


def _answered(
    incident: Incident, record: Record, fact: facts.Approved | facts.Denied | facts.AskedAgain | facts.Risen
) -> Incident:
    """The incident after an answer to its question, by people, time or a worse trigger."""
    match fact:
        case facts.Approved(reason):
            given = Yes(record.actor, record.at, reason)
            return replace(incident, approvals=(*incident.approvals, given))
        case facts.Denied(reason):
            return replace(incident, denied=record.actor, deny_reason=reason)
        case facts.AskedAgain(decision, _):
            return _decided(replace(incident, approvals=(), asked=record.at), decision)
        case facts.Risen(decision, why, by_people):
            return _decided(replace(incident, risen=why, by_people=by_people, parked="", failure=None), decision)
        case _:
            assert_never(fact)


def _decided(incident: Incident, decision: Decision) -> Incident:
    """The incident with another decision; nothing was touched yet.

    The trigger of the decision before stays evidence. A plan that is not in the incident's own configuration, since the
    file was edited meanwhile, is dropped.
    """
    before = incident.decision.trigger
    joined = incident.joined if before.episode == decision.trigger.episode else (*incident.joined, before)[-20:]
    present = decision.present if decision.present is not None else incident.present
    known = incident.config.get("plans")
    plans = tuple(name for name in decision.plans if not isinstance(known, Mapping) or name in known)
    return replace(incident, decision=decision, plans=plans or incident.plans, present=present, joined=joined)


_WHAT: Mapping[type, str] = {
    facts.Entering: "enter",
    facts.EnterFailed: "enter",
    facts.ApplyStarted: "apply",
    facts.ApplyFailed: "apply",
    facts.Leaving: "leave",
    facts.LeaveFailed: "leave",
}


def _started(incident: Incident, flight: Flight) -> Incident:
    stepping = incident.stepping
    if flight.what == "apply":
        stepping = {flight.layer: flight.since, **stepping}
    elif flight.what == "enter":
        incident = replace(incident, inside=(*(one for one in incident.inside if one != flight.layer), flight.layer))
    if incident.waits:
        return replace(incident, flight=flight, brackets={**incident.enters_asked, **incident.brackets})
    begun, working = incident.begun or flight.since, incident.working or flight.since
    return replace(incident, flight=flight, acted=True, begun=begun, working=working, stepping=stepping)


def _switched(plan: Plan, target: State | None) -> dict[str, Release]:
    """The releases of a plan that its configuration fixes: those that differ from the target's."""
    found = {step.layer: step.after for step in plan.steps if step.after != NO_RELEASE}
    return {layer: to for layer, to in found.items() if target is None or target.releases.get(layer) != to}


def _unpaused(incident: Incident, at: datetime) -> Incident:
    """The incident after a hold; the time of the hold is taken out of its clocks."""
    held = max(at - incident.held_since, timedelta()) if incident.held_since is not None else timedelta()
    return replace(
        incident,
        paused="",
        held_since=None,
        working=incident.working + held if incident.working is not None else None,
        stepping={layer: since + held for layer, since in incident.stepping.items()},
        resumed=at,
        rounds=0,
        looked=None,
    )


def _applied(incident: Incident, layer: str, brought: Mapping[str, Release], at: datetime) -> Incident:
    changes = incident.plan.steps if incident.plan is not None else ()
    change = next((change for change in changes if change.layer == layer), None)
    moved, present = incident.moved, incident.present
    if change is not None and layer in present.releases:
        moved = {layer: present.releases[layer], **moved}
        present = reached(present, {layer: change.after, **brought})
    length = max(at - incident.stepping.get(layer, at), incident.took.get(layer, timedelta()))
    return replace(
        incident,
        flight=None,
        failure=None,
        done=(*incident.done, layer),
        moved=moved,
        present=present,
        stepped=at,
        rounds=0,
        looked=None,
        stepping={other: since for other, since in incident.stepping.items() if other != layer},
        took={**incident.took, layer: length},
    )


def _looked(incident: Incident, fact: facts.Gated | facts.Round, at: datetime) -> Incident:
    conclusive = incident.conclusive if fact.verdict is Verdict.INCONCLUSIVE else fact.verdict
    if isinstance(fact, facts.Gated):
        return replace(incident, gate=fact.verdict, gated=at, conclusive=conclusive, results=fact.results)
    counts = {Verdict.GOOD: incident.rounds + 1, Verdict.BAD: 0, Verdict.INCONCLUSIVE: incident.rounds}
    return replace(incident, rounds=counts[fact.verdict], looked=at, conclusive=conclusive, results=fact.results)


def _other(incident: Incident, record: Record) -> Incident:
    match record.fact:
        case facts.Adopted(_, host):
            flight = incident.flight
            if flight is not None:
                elsewhere = flight.elsewhere or (incident.host if host != incident.host else "")
                flight = replace(flight, adoptions=flight.adoptions + 1, elsewhere=elsewhere)
            return replace(incident, flight=flight, adopted=record.at, host=host)
        case facts.Planned(plan, present):
            brackets = {**incident.brackets, **{bracket.layer: bracket.leave for bracket in plan.brackets}}
            off = {**incident.off, **dict.fromkeys(plan.unasked, _switched(plan, incident.decision.target))}
            data = incident.data | {step.layer for step in plan.steps if step.loss is not None}
            return replace(incident, plan=plan, present=present, brackets=brackets, off=off, data=data, results=())
        case facts.PlanEnded(_, outcome):
            return _next_plan(incident, outcome)
        case facts.Paused(reason):
            return replace(incident, paused=reason, held_since=incident.held_since or record.at)
        case facts.Unpaused():
            return _unpaused(incident, record.at)
        case facts.AbortRequested(reason):
            return replace(incident, aborted=record.actor, abort_reason=reason)
        case facts.Acknowledged(leave):
            return _acknowledged(incident, record.actor, leave=leave)
        case facts.Parked(reason):
            return _parked(incident, reason, record.at)
        case facts.Closed(outcome, reason):
            return replace(incident, outcome=outcome, reason=reason, closed=record.at, flight=None)
        case facts.Relapsed(trigger):
            return replace(incident, outcome=Outcome.INEFFECTIVE, reason=f"in trouble again: {trigger.rule}")
        case _:
            return _noted(incident, record.fact)


def _noted(incident: Incident, fact: object) -> Incident:
    """The incident after a fact beside its own course."""
    match fact:
        case facts.Joined(trigger):
            return replace(incident, joined=(*incident.joined, trigger)[-20:])
        case facts.Examined(results):
            return replace(incident, examined=results)
        case facts.ReportedLate(what, layer, host, _, failed):
            came = f"failed: {failed}" if failed else "was done"
            return replace(incident, notes=_noting(incident, layer, f"{what} {came} on {host}, as is known only now"))
        case facts.EvidenceTaken(results, at_end):
            return replace(incident, evidence=results, evidence_at_end=at_end or incident.evidence_at_end)
        case facts.Measured():
            return replace(incident, measured=True, measured_at_end=fact.at_end or incident.measured_at_end)
        case facts.ClockPassed(clock):
            return replace(incident, clocks=incident.clocks | {clock})
        case facts.Escalated(tier, why):
            return replace(incident, tier=max(incident.tier, tier), whys=incident.whys | {why})
        case _:
            return incident


def _acknowledged(incident: Incident, actor: str, *, leave: bool) -> Incident:
    """The acknowledged incident; after the end it also tries again to leave what could not be left."""
    failure = incident.failure
    if incident.outcome is not None and failure is not None and failure.what == "leave":
        failure = None
    return replace(incident, acknowledged=actor, leave_all=incident.leave_all or leave, failure=failure)


def _parked(incident: Incident, reason: str, at: datetime) -> Incident:
    """The parked incident; what was in flight is not tried again by itself, not even by an abort or after the end."""
    flight, failure = incident.flight, incident.failure
    if flight is not None:
        failure = Failure(flight.what, flight.layer, flight.attempt, reason, permanent=True, at=at)
    return replace(incident, parked=reason, flight=None, failure=failure)


def _next_plan(incident: Incident, outcome: Outcome) -> Incident:
    return replace(
        incident,
        tried=incident.tried + 1,
        unhelpful=incident.unhelpful + (outcome is not Outcome.PASSED),
        plan=None,
        done=(),
        stepped=None,
        gate=None,
        gated=None,
        conclusive=None,
        rounds=0,
        looked=None,
        failure=None,
        stepping={},
    )
