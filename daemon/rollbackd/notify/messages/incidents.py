"""Messages about a rollback, from its opening to its end. No I/O."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from rollbackd import facts
from rollbackd.incident.next import ATTEMPTS
from rollbackd.incident.outcomes import BAD_ENDS, DEGRADED, MEANINGS
from rollbackd.model import Outcome
from rollbackd.notify.messages import approvals, phrases, plain_text
from rollbackd.notify.messages.context import MessageContext, loud, of_incident, urgent
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.troubles import refusal_thread

_NEWS = timedelta(minutes=10)
"""How long the same rule need not be told of again, while an incident that is stopped takes its trouble in."""


def opening(told: MessageContext) -> Envelope:
    """The opening of a question or of a rollback."""
    about = told.about
    if about.waits:
        return approvals.asks(told)
    decision = about.decision
    request = decision.trigger.request
    rule = plain_text.line(decision.trigger.rule, 100)
    by = f"{plain_text.line(request.actor, 100)} asked for it" if request is not None else f"rule {rule} is met"
    lines = phrases.filled(
        ("What", f"{about.service} is being taken back: {by}"),
        ("Reason", plain_text.line(request.reason) if request is not None else ""),
        *phrases.change(decision),
        *phrases.trouble(about),
        *phrases.target(decision),
        *phrases.data(decision),
        ("Checks", phrases.checks(about.examined)),
        ("Next", f"every layer is looked at once more, then plan {', then '.join(about.plans)}"),
        ("Stop it", phrases.stop(about, told.signals)),
        ("More", phrases.more(about)),
    )
    title = f"rolling back{phrases.way(decision)}"
    return of_incident(told.record, about, "opened", title, loud(about.priority), lines)


def opened(told: MessageContext, _fact: facts.Opened) -> Sequence[Envelope]:
    return [opening(told)]


def started(told: MessageContext, fact: facts.Entering | facts.ApplyStarted) -> Sequence[Envelope]:
    """The first step or bracket of a rollback; what is entered while it asks is none."""
    about = told.about
    if about.begun is None or told.before is None or told.before.begun is not None:
        return []
    lines = phrases.filled(
        ("What", f"plan {about.running} has begun with {plain_text.line(fact.layer, 63)}"),
        *phrases.change(about.decision),
        ("Steps", phrases.steps(about)),
        ("From", phrases.state(about.present)),
        ("To", phrases.state(about.decision.target)),
        *phrases.data(about.decision),
        ("Checks", phrases.checks(about.examined)),
        ("Next", "the checks decide whether it got well"),
        ("Stop it", phrases.stop(about, told.signals)),
    )
    title = f"rolling back{phrases.way(about.decision)}, begun with {plain_text.line(fact.layer, 63)}"
    return [of_incident(told.record, about, "started", title, loud(about.priority), lines)]


def plan_ended(told: MessageContext, fact: facts.PlanEnded) -> Sequence[Envelope]:
    about, before = told.about, told.before
    if fact.outcome is Outcome.PASSED:  # it had no step to take: nothing happened
        return []
    raised = before is not None and before.priority is not about.priority
    lines = phrases.filled(
        ("What", f"plan {fact.name} did not help ({fact.outcome})"),
        ("Priority", f"raised from {before.priority} to {about.priority}" if raised and before is not None else ""),
        *phrases.change(about.decision),
        ("Checks", phrases.checks(about.results)),
        ("Next", f"plan {about.running}, on top of it"),
        ("Stop it", phrases.stop(about, told.signals)),
    )
    title = f"still failing after plan {fact.name}" + (f", now {about.priority}" if raised else "")
    return [of_incident(told.record, about, "plan_ended", title, loud(about.priority), lines)]


def paused(told: MessageContext, fact: facts.Paused) -> Sequence[Envelope]:
    about = told.about
    lines = phrases.filled(
        ("What", f"a hold stopped it: {plain_text.line(fact.reason)}"),
        *phrases.change(about.decision),
        ("Steps", phrases.steps(about)),
        *phrases.still_entered(about),
        ("Next", "nothing until the hold is gone, then it goes on where it stopped"),
        ("Go on", f"`rollbackd resume {about.service}`, or remove the HOLD file from {told.signals}"),
        ("End it", f"`rollbackd abort {about.id}`"),
    )
    return [of_incident(told.record, about, "paused", "rollback held", "warning", lines)]


def abort_requested(told: MessageContext, fact: facts.AbortRequested) -> Sequence[Envelope]:
    about = told.about
    lines = phrases.filled(
        ("What", f"{plain_text.line(told.record.actor, 100)} wants it stopped"),
        ("Reason", plain_text.line(fact.reason)),
        *phrases.change(about.decision),
        ("Next", "the step in hand ends, no other begins, the brackets are left"),
    )
    title = "rollback is being aborted"
    return [of_incident(told.record, about, "abort_requested", title, "warning", lines)]


def acknowledged(told: MessageContext, _fact: facts.Acknowledged) -> Sequence[Envelope]:
    about, actor = told.about, plain_text.line(told.record.actor, 100)
    lines = phrases.filled(("What", f"{actor} has seen it"), ("Now", phrases.standing(about)))
    one = of_incident(told.record, about, "acknowledged", f"acknowledged by {actor}", "info", lines)
    return [replace(one, message=replace(one.message, acknowledged=True))]


def parked(told: MessageContext, fact: facts.Parked) -> Sequence[Envelope]:
    about = told.about
    lines = phrases.filled(
        ("What", f"it was stopped for a person to look at: {plain_text.line(fact.reason)}"),
        *phrases.change(about.decision),
        ("Steps", phrases.steps(about)),
        ("Failed last", phrases.failure(about)),
        *phrases.still_entered(about),
        ("Next", "nothing happens by itself any more"),
        ("End it", f"`rollbackd abort {about.id}`; seen: `rollbackd ack {about.id}`"),
        ("More", phrases.more(about)),
    )
    title = "rollback stopped, needs a person"
    return [of_incident(told.record, about, "parked", title, "critical", lines)]


def reported_late(told: MessageContext, fact: facts.ReportedLate) -> Sequence[Envelope]:
    about, host = told.about, plain_text.line(fact.host, 100)
    came = f"failed: {plain_text.line(fact.failed)}" if fact.failed else "was done"
    lines = phrases.filled(
        ("What", f"{fact.what} {plain_text.line(fact.layer, 100)} {came} on {host}, at {phrases.moment(fact.ended)}"),
        ("Why now", "that host was cut off from the journal, and another one had taken over"),
        *phrases.change(about.decision),
        ("Next", f"nothing follows from it; look at what runs. {phrases.standing(about)}"),
        ("More", phrases.more(about)),
    )
    title = "what a host did that drove before"
    return [of_incident(told.record, about, "reported_late", title, "warning", lines)]


def joined(told: MessageContext, fact: facts.Joined) -> Sequence[Envelope]:
    """Trouble that came while nothing is done about it; the same rule again some minutes later is no news."""
    about, trigger = told.about, fact.trigger
    stopped = about.parked or about.paused
    earlier = told.before.joined if told.before is not None else ()
    lately = any(one.rule == trigger.rule and trigger.reached - one.reached < _NEWS for one in earlier)
    if not stopped or lately or trigger.request is not None:
        return []
    rule = plain_text.line(trigger.rule, 100)
    lines = phrases.filled(
        ("What", f"{about.service} is in trouble: rule {rule} is met, and nothing is done about it"),
        *phrases.why(trigger.evidence, trigger.onset),
        ("Reason", f"{about.id} is stopped: {plain_text.line(stopped)}"),
        ("Next", phrases.standing(about)),
        ("End it", f"`rollbackd abort {about.id}`; then `rollbackd rollback {about.service}` goes back"),
        ("More", phrases.more(about)),
    )
    title = f"has more trouble ({rule}), and nothing is done about it"
    return [of_incident(told.record, about, "joined", title, urgent(trigger.priority), lines)]


def not_left(told: MessageContext, fact: facts.LeaveFailed) -> Sequence[Envelope]:
    """A bracket that could not be left after the end. Nothing else would say that a person's order did not help."""
    about = told.about
    attempt = about.failure.attempt if about.failure is not None else 1
    if about.outcome is None or not (fact.permanent or attempt >= ATTEMPTS):
        return []
    layer = plain_text.line(fact.layer, 63)
    lines = phrases.filled(
        ("What", f"{layer} of {about.service} is still entered: leaving it failed: {plain_text.line(fact.reason)}"),
        *phrases.still_entered(about),
        ("Next", "nothing by itself: mend that, then say it again"),
        ("More", phrases.more(about)),
    )
    return [of_incident(told.record, about, "not_left", f"{layer} could not be left", urgent(about.priority), lines)]


def closed(told: MessageContext, fact: facts.Closed) -> Sequence[Envelope]:
    about = told.about
    meaning = MEANINGS[fact.outcome]
    degraded = fact.outcome is Outcome.RECOVERED and bool(about.unasked)
    said, advice = DEGRADED if degraded else (meaning.said, meaning.advice)
    failed = about.failure.evidence if about.failure is not None else ""
    lines = phrases.filled(
        ("What", f"{about.service} {said}: {plain_text.line(fact.reason)}"),
        ("Took", phrases.took(about, told.record.at)),
        *phrases.change(about.decision),
        *phrases.trouble(about),
        *phrases.target(about.decision),
        *phrases.data(about.decision),
        ("Steps", phrases.steps(about)),
        ("Failed last", phrases.failure(about) if fact.outcome is not Outcome.RECOVERED else ""),
        ("Output", plain_text.line(failed[-400:], 400) if fact.outcome is Outcome.FAILED else ""),
        ("Checks", phrases.checks(about.results or about.examined)),
        *phrases.still_entered(about),
        ("Next", advice),
        ("Seen it", f"`rollbackd ack {about.id}`" if fact.outcome in BAD_ENDS else ""),
        ("More", phrases.more(about)),
    )
    group = f"{fact.outcome}/asked" if fact.outcome in {Outcome.EXPIRED, Outcome.PASSED} and not about.acted else ""
    one = of_incident(
        told.record,
        about,
        str(fact.outcome),
        f"{said}{phrases.way(about.decision) if about.acted else ''}",
        meaning.severity,
        lines,
        group,
    )
    over = _over(told)
    ended = replace(one.message, resolves=over, settles=_refusals(told))
    return [replace(one, message=ended, group=f"{one.group}/over" if over else one.group)]


def _refusals(told: MessageContext) -> tuple[str, ...]:
    """The threads of earlier refusals that this end settles.

    The refusal of its own episode became this incident, which says how it is. Where the service is well all refusals
    are over. The opening took its own episode's refusal out of the fold.
    """
    about = told.about
    well = about.outcome is Outcome.RECOVERED
    known = [trouble.episode for trouble in told.troubles.refusals(about.service)] if well else []
    own = [trigger.episode for trigger in (about.decision.trigger, *about.joined)]
    return tuple(dict.fromkeys(refusal_thread(about.service, one) for one in (*known, *own)))


def _over(told: MessageContext) -> bool:
    """Whether nobody need come any more: it is well, or a person decided how it stays."""
    return told.about.outcome in {Outcome.RECOVERED, Outcome.PASSED} or told.about.id not in told.later.known


def relapsed(told: MessageContext, fact: facts.Relapsed) -> Sequence[Envelope]:
    about = told.about
    lines = phrases.filled(
        ("What", f"{about.service} had recovered, and is in trouble again: {plain_text.line(fact.trigger.rule)}"),
        *phrases.change(about.decision),
        *phrases.why(fact.trigger.evidence, fact.trigger.onset),
        *phrases.still_entered(about),
        ("Next", MEANINGS[Outcome.INEFFECTIVE].advice),
        ("Seen it", f"`rollbackd ack {about.id}`"),
        ("More", phrases.more(about)),
    )
    title = f"still failing after the rollback{phrases.way(about.decision)}"
    return [of_incident(told.record, about, "ineffective", title, "critical", lines)]
