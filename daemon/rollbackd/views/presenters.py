"""Presenters: facts and ledgers in words, as sentences for timelines and values for tables. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from pydantic_core import from_json

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.approval import missing
from rollbackd.incident.life import Incident
from rollbackd.incident.next import verification_times
from rollbackd.incident.spec import VerifySpec
from rollbackd.model import (
    ApprovalRequest,
    Change,
    CheckResult,
    Decision,
    Evidence,
    Finding,
    Outcome,
    State,
    Trigger,
    Verdict,
)
from rollbackd.policy.changes import COMING, announcement, spell_of
from rollbackd.policy.ledger import Announcement, ServiceLedger, Spell
from rollbackd.syntax.units import format_duration
from rollbackd.views.shapes import (
    ChangeView,
    CheckView,
    DecisionView,
    DrillView,
    EvidenceView,
    FindingView,
    IncidentView,
    PlotMarkView,
    PlotView,
    QuestionView,
    RecordView,
    StateView,
    StepView,
    VerificationView,
)


def state_view(ledger: ServiceLedger, state: State, spell: Spell | None = None) -> StateView:
    """A state with its marks."""
    return StateView(
        key=state.key,
        releases={layer: release.name for layer, release in state.releases.items()},
        ids={layer: release.id for layer, release in state.releases.items()},
        since=spell.by if spell is not None else None,
        until=spell.ended if spell is not None else None,
        good=ledger.good.get(state.key, ""),
        quarantined=ledger.blocked(state),
        via=spell.incident if spell is not None else "",
        change=_announced(ledger, spell) if spell is not None else "",
    )


def _announced(ledger: ServiceLedger, spell: Spell) -> str:
    found = announcement(ledger, spell)
    return f"{found.kind or 'change'} by {found.by}" if found is not None else ""


WAITING = frozenset({"waiting", "overdue"})
"""The statuses of a change that somebody has to confirm."""


def change_view(ledger: ServiceLedger, service: str, announced: Announcement, now: datetime) -> ChangeView:
    """An announced change, with the state that it led to and what became of it."""
    spell = spell_of(ledger, announced)
    return ChangeView(
        id=announced.id,
        service=service,
        at=announced.at,
        by=announced.by,
        kind=announced.kind,
        priority=announced.priority.value if announced.priority is not None else "",
        releases=announced.releases,
        confirm_by=announced.confirm_by,
        confirmed=announced.confirmed,
        text=announced.text,
        state=spell.state.key if spell is not None else "",
        status=_became(ledger, announced, spell, now),
    )


def _became(ledger: ServiceLedger, announced: Announcement, spell: Spell | None, now: datetime) -> str:
    if announced.confirmed:
        return "confirmed"
    if spell is None:
        if now - announced.at > COMING:
            return "unseen"
        return "waiting" if announced.confirm_by is not None else "announced"
    if spell != ledger.spells[-1]:
        return "replaced"
    if announced.confirm_by is None:
        return "running"
    return "waiting" if now < announced.confirm_by else "overdue"


def waiting(ledger: ServiceLedger, service: str, now: datetime) -> tuple[ChangeView, ...]:
    """The announced changes that wait to be confirmed, newest first."""
    asked = [one for one in reversed(ledger.announced) if one.confirm_by is not None and not one.confirmed]
    views = [change_view(ledger, service, one, now) for one in asked]
    return tuple(view for view in views if view.status in WAITING)


def question_view(incident: Incident) -> QuestionView | None:
    """What an incident asks right now."""
    question = incident.decision.question
    if question is None or not incident.waits or incident.outcome is not None:
        return None
    people = tuple(dict.fromkeys(yes.actor for yes in incident.approvals))
    return QuestionView(
        question.why,
        missing(question, people),
        people,
        question.expires,
        question.otherwise,
        asked_of(question),
        ", ".join(question.excluded),
        incident.asked,
    )


def asked_of(question: ApprovalRequest) -> str:
    """Who may say yes: `one of tech (unix:ann, unix:bob) and one of product (token:desk)`."""
    groups = [f"one of {group} ({', '.join(question.members.get(group, ()))})" for group in question.by]
    more = question.approvals - len(groups)
    if not groups:
        return "anybody who may order a rollback" if more <= 1 else f"{more} people who may order a rollback"
    return " and ".join([*groups, *([f"{more} more of them"] if more > 0 else [])])


def drill_view(service: str, drilled: facts.Drilled, at: datetime, actor: str) -> DrillView:
    """A drill that has ended."""
    return DrillView(
        service=service,
        at=at,
        actor=actor,
        plans=drilled.plans,
        result=drilled.result,
        problems=drilled.problems,
        slow=drilled.slow,
        took=drilled.took,
        expected=drilled.expected,
        target=drilled.target,
        incident=drilled.incident,
        returned=drilled.returned,
    )


def evidence_text(evidence: Evidence) -> str:
    """`0.342, above 0.1 (> 0.1 for 5m): sum by …`."""
    threshold = f" ({evidence.threshold})" if evidence.threshold else ""
    return f"{evidence.value}{threshold}: {evidence.source}"


def _evidence(trigger: Trigger) -> tuple[str, ...]:
    seen = [evidence_text(one) for one in trigger.evidence]
    if trigger.request is not None:
        why = f": {trigger.request.reason}" if trigger.request.reason else ""
        seen.append(f"ordered by {trigger.request.actor}{why}")
    return tuple(seen)


def check_view(result: CheckResult) -> CheckView:
    return CheckView(result.name, result.verdict.value, result.reason)


def finding_view(finding: Finding) -> FindingView:
    against = finding.against.value if finding.against is not None and finding.counted else ""
    reason = finding.reason if finding.counted or finding.against is None else f"(not counted) {finding.reason}"
    return FindingView(finding.guard, against, reason, finding.escalate and finding.counted)


def decision_view(decision: Decision, at: datetime) -> DecisionView:
    """A decision with its reasons."""
    trigger = decision.trigger
    return DecisionView(
        at=at,
        service=trigger.service,
        rule=trigger.rule,
        priority=trigger.priority.value,
        action=decision.action.value,
        escalate=decision.escalate,
        incident=decision.joins,
        onset=trigger.onset,
        evidence=_evidence(trigger),
        findings=tuple(finding_view(finding) for finding in decision.findings),
        present=decision.present.name if decision.present is not None else "",
        target=decision.target.name if decision.target is not None else "",
        change=decision.change.name if decision.change is not None else "",
        seen=tuple(EvidenceView(one.source, one.value, one.threshold, one.at, one.url) for one in trigger.evidence),
    )


def plot_view(incident: Incident, measured: facts.Measured) -> PlotView:
    """What was measured, with what happened meanwhile."""
    decision = incident.decision
    marks = (
        ("change", decision.change.end if decision.change is not None else None),
        ("onset", decision.trigger.onset),
        ("decision", incident.opened),
        ("rollback", incident.begun),
        ("end", incident.closed),
    )
    end = measured.begin + measured.step * len(measured.values)
    return PlotView(
        measured.query,
        tuple((measured.begin + measured.step * n, value) for n, value in enumerate(measured.values)),
        measured.threshold,
        measured.limit,
        tuple(PlotMarkView(at, kind) for kind, at in marks if at is not None and measured.begin <= at <= end),
    )


def step_view(change: Change, took: Mapping[str, timedelta]) -> StepView:
    """A step as it would be; `took`: how long each layer's step took in the past."""
    expected = took.get(change.layer)
    names = (change.before.name, change.after.name)
    return StepView(change.layer, *names, "waiting", change.reversible, change.risks, expected)


def verification_view(incident: Incident, verify: VerifySpec) -> VerificationView | None:
    """How far the checks after the last step are; None while there is nothing to check, or nothing goes on."""
    times = verification_times(incident, verify)
    return VerificationView(incident.rounds, verify.passes, *times) if times is not None else None


def status(incident: Incident) -> str:
    """Where an incident stands, in a word."""
    if incident.outcome is not None:
        return "closed"
    if incident.parked:
        return "parked"
    if incident.waits:
        return "asking"
    if incident.paused:
        return "paused"
    if incident.plan is None:
        return "queued"
    over = len(incident.done) == len(incident.plan.steps)
    return "verifying" if over and incident.flight is None else "running"


def incident_view(incident: Incident, ledger: ServiceLedger) -> IncidentView:
    """An incident at a glance."""
    decision = incident.decision
    return IncidentView(
        id=incident.id,
        service=incident.service,
        status=status(incident),
        outcome=incident.outcome.value if incident.outcome is not None else "",
        reason=incident.reason or incident.parked or incident.paused,
        rule=decision.trigger.rule,
        priority=incident.priority.value,
        plan=incident.running,
        opened=incident.opened,
        closed=incident.closed,
        before=state_view(ledger, decision.present) if decision.present is not None else None,
        target=state_view(ledger, decision.target) if decision.target is not None else None,
        steps=_steps(incident),
        entered=incident.entered,
        acknowledged=incident.acknowledged,
        change=decision.change.name if decision.change is not None else "",
        question=question_view(incident),
        checks=tuple(check_view(one) for one in incident.examined),
        evidence=tuple(check_view(one) for one in incident.evidence),
        notes=incident.notes,
        watch_until=next((one.watch_until for one in ledger.rollbacks if one.incident == incident.id), None),
    )


def _steps(incident: Incident) -> tuple[StepView, ...]:
    return tuple(_step(incident, change) for change in (incident.plan.steps if incident.plan is not None else ()))


def _step(incident: Incident, change: Change) -> StepView:
    standing, attempt, since = "waiting", incident.attempts("apply", change.layer), None
    if change.layer in incident.done:
        standing = "done"
    elif incident.flight is not None and incident.flight.layer == change.layer:
        standing, attempt, since = "running", incident.flight.attempt, incident.stepping.get(change.layer)
    elif attempt:
        standing = "failed"
    return StepView(
        layer=change.layer,
        before=change.before.name,
        after=change.after.name,
        status=standing,
        reversible=change.reversible,
        risks=change.risks,
        attempt=attempt,
        since=since,
        took=incident.took.get(change.layer) if standing == "done" else None,
    )


def record_view(record: Record) -> RecordView:
    """One fact, for a timeline."""
    kind, body = facts.encode(record.fact)
    return RecordView(record.n, record.at, record.actor, kind, sentence(record.fact), _body(body))


def _body(body: bytes) -> dict[str, object]:
    found: dict[str, object] = from_json(body)
    found.pop("config", None)
    return found


def _checks(results: tuple[CheckResult, ...]) -> str:
    return "; ".join(f"{result.name} {result.verdict.value}: {result.reason}" for result in results)


def _round(results: tuple[CheckResult, ...]) -> str:
    """One round of checks: what each check says only where it is not good."""
    others = tuple(result for result in results if result.verdict is not Verdict.GOOD)
    good = ", ".join(result.name for result in results if result.verdict is Verdict.GOOD)
    return "; ".join(part for part in (_checks(others), f"{good} good" if good else "") if part)


def sentence(fact: object) -> str:  # noqa: C901, PLR0912, PLR0915  # one line a kind of fact
    """A fact as people read it."""
    match fact:
        case facts.Opened(service, decision, _, plans):
            target = decision.target.name if decision.target is not None else "?"
            by = ", then ".join(plans)
            if decision.question is not None:
                why = "; ".join(decision.question.why)
                return f"{decision.trigger.rule}: asks whether {service} goes back to {target}, by plan {by}: {why}"
            return f"opened for {decision.trigger.rule}: {service} goes back to {target}, by plan {by}"
        case facts.Adopted(process, host):
            return f"driven by process {process.rpartition('/')[2]}" + (f" on {host}" if host else "")
        case facts.Joined(trigger):
            return f"{trigger.rule} joined: {'; '.join(_evidence(trigger))}"
        case facts.Examined(results):
            return f"checked beside it: {_checks(results)}"
        case facts.ReportedLate(what, layer, host, ended, failed):
            came = f"failed: {failed}" if failed else "was done"
            when = f"{ended.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
            return f"late: {what} {layer} {came} on {host}, at {when}; nothing follows from it"
        case facts.EvidenceTaken(results, at_end):
            return f"evidence {'after the end' if at_end else 'while it does not help'}: {_checks(results)}"
        case facts.Measured():
            known = [value for value in fact.values if value is not None]
            when = "from before the onset to the end" if fact.at_end else "around the onset"
            return f"measured {min(known):g} to {max(known):g} {when}"
        case facts.Approved(reason):
            return "approved" + (f": {reason}" if reason else "")
        case facts.Denied(reason):
            return "denied" + (f": {reason}" if reason else "")
        case facts.AskedAgain(_, changed):
            return f"asked again: {changed}"
        case facts.Risen(_, why, _):
            return f"goes back: {why}"
        case facts.ClockPassed(_, _, text):
            return text
        case facts.Mending():
            return _mending(fact)
        case facts.Escalated(tier, why):
            return f"escalated to tier {tier + 1}: {why}"
        case facts.Planned(plan, _):
            steps = ", ".join(change.name for change in plan.steps)
            within = f"within {', '.join(one.layer for one in plan.brackets)}: " if plan.brackets else ""
            unasked = f"; rules not asked after it: {', '.join(plan.unasked)}" if plan.unasked else ""
            return f"plan {plan.name}: {within}{steps}{unasked}"
        case facts.Entering(layer, attempt) | facts.ApplyStarted(layer, attempt) | facts.Leaving(layer, attempt):
            verb = {facts.Entering: "entering", facts.ApplyStarted: "applying", facts.Leaving: "leaving"}[type(fact)]
            return f"{verb} {layer}" + (f", attempt {attempt}" if attempt > 1 else "")
        case facts.Entered(layer, note):
            return f"entered {layer}" + (f": {note}" if note else "")
        case facts.Applied(layer, note, brought):
            along = [f"{name} came with it, at {release.name}" for name, release in brought.items()]
            return "; ".join([f"applied {layer}" + (f": {note}" if note else ""), *along])
        case facts.Left(layer, note):
            return f"left {layer}" + (f": {note}" if note else "")
        case facts.EnterFailed() | facts.ApplyFailed() | facts.LeaveFailed():
            verbs = {facts.EnterFailed: "entering", facts.ApplyFailed: "applying", facts.LeaveFailed: "leaving"}
            verb = verbs[type(fact)]
            again = "" if fact.permanent else " (may be tried again)"
            return f"{verb} {fact.layer} failed: {fact.reason}{again}"
        case facts.StepSuperseded(layer):
            return f"somebody else changed {layer} meanwhile"
        case facts.Gated(verdict, results):
            return f"gate {verdict.value}: {_round(results)}"
        case facts.Round(verdict, results):
            return f"verification {verdict.value}: {_round(results)}"
        case facts.PlanEnded(name, Outcome.PASSED):
            return f"plan {name} has no step to take; the next one runs"
        case facts.PlanEnded(name, outcome):
            return f"plan {name} ended {outcome.value}; the next one runs"
        case facts.Paused(reason):
            return f"paused: {reason}"
        case facts.Unpaused():
            return "goes on: nothing holds it any more"
        case facts.AbortRequested(reason):
            return "abort requested" + (f": {reason}" if reason else "")
        case facts.Acknowledged(leave):
            return "acknowledged" + (", every bracket is to be left" if leave else "")
        case facts.Parked(reason):
            return f"parked for a person: {reason}"
        case facts.Closed(outcome, reason):
            return f"{outcome.value}: {reason}"
        case facts.Relapsed(trigger):
            return f"ineffective after all: {trigger.rule} again"
        case facts.Told(receiver, event, _):
            return f"told {receiver}: {event}"
        case _:
            return _of_service(fact)


def _mending(fact: facts.Mending) -> str:
    beyond = "" if fact.heeded else ", longer than limits.mending allows, so nothing is held up"
    return f"mending, estimated at {format_duration(fact.length)}{beyond}" + (f": {fact.reason}" if fact.reason else "")


def _of_service(fact: object) -> str:
    """A fact of a service, not of an incident."""
    match fact:
        case facts.Changed(state, _, _, incident):
            return f"{state.name} runs" + (f", by {incident}" if incident else "")
        case facts.MarkedGood(state, why):
            return f"{state.name} is good: {why}"
        case facts.MarkTaken(state, why):
            return f"{state.name} is good no more: {why}"
        case facts.Quarantined(releases, why) | facts.QuarantineLifted(releases, why):
            named = ", ".join(f"{layer} {release[:12]}" for layer, release in sorted(releases.items()))
            return f"{named} {'quarantined' if isinstance(fact, facts.Quarantined) else 'quarantined no more'}: {why}"
        case facts.Held(reason, until):
            return (
                "held"
                + (f" until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if until else "")
                + (f": {reason}" if reason else "")
            )
        case facts.Mending():
            return _mending(fact)
        case facts.Unheld():
            return "held no more"
        case facts.Announced():
            return f"{fact.kind or 'change'} announced" + (f": {fact.text}" if fact.text else "")
        case facts.Confirmed():
            return f"{fact.id} confirmed"
        case facts.Decided(decision):
            return f"{decision.trigger.rule}: {decision.action.value}"
        case facts.Drilled():
            return f"drill: {fact.result}"
        case _:
            return type(fact).__name__
