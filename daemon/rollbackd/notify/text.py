"""What people are told: from a fact, and what is known besides, to messages. The one place for words. No I/O.

A message says what happened, why, from where to where, what is next, and the command that stops it or goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rollbackd import facts
from rollbackd.adapter import Message
from rollbackd.facts import Record
from rollbackd.model import Decision, Outcome, Priority
from rollbackd.notify import clean, phrases
from rollbackd.notify.envelope import Envelope
from rollbackd.notify.own import OWN_KINDS, UNDELIVERABLE, UNREACHABLE
from rollbackd.notify.phrases import Lines
from rollbackd.notify.story import Story, story
from rollbackd.notify.troubles import Trouble, Troubles, guards, needs_person, notice_thread, refusal_thread

Severity = Literal["info", "warning", "critical"]
_ENDS: Mapping[Outcome, tuple[Severity, str, str]] = {
    Outcome.RECOVERED: ("info", "recovered", ""),
    Outcome.INEFFECTIVE: ("critical", "was rolled back and is still sick", "Look for another cause"),
    Outcome.UNVERIFIED: ("critical", "was rolled back, but nothing says whether it is well", "Look at it yourself"),
    Outcome.FAILED: ("critical", "could not be rolled back", "Finish it by hand, or roll back again"),
    Outcome.ABORTED: ("warning", "rollback was aborted", "It is as the last step left it"),
    Outcome.DECLINED: ("info", "rollback was declined", ""),
    Outcome.EXPIRED: ("warning", "rollback was not approved in time", ""),
    Outcome.PASSED: ("info", "trouble went away before the first step", ""),
    Outcome.SUPERSEDED: ("warning", "was changed by somebody else meanwhile", "Nothing more is done: it is theirs now"),
}  # fmt: skip
_TITLES: Mapping[str, str] = {
    "audit": "the journal does not fit together",
    "clock": "the clock jumped",
    "configuration": "a new configuration was not taken over",
    "internal": "a part of rollbackd failed",
    "journal": "the journal cannot be written",
    "override": "a signal file needs a look",
    "rule_fault": "a rule cannot be judged",
}
"""For kinds whose own words say too little."""
_CRITICAL_KINDS = frozenset({"journal", "not_ready", UNREACHABLE, UNDELIVERABLE})


@dataclass(frozen=True, slots=True)
class Told:
    """What a message is made of besides the fact itself."""

    record: Record
    story: Story
    """Of the fact's incident, up to the fact; empty for other streams."""
    troubles: Troubles
    """As they were before the fact."""
    signals: Path
    """The directory of the signal files."""


def envelopes(record: Record, stream: Sequence[Record], troubles: Troubles, signals: Path) -> tuple[Envelope, ...]:
    """The messages that a fact is worth; most facts are worth none.

    `stream` holds the facts of the same incident up to this one, and is empty for a fact of another stream.
    """
    make = _MAKERS.get(type(record.fact))
    if make is None:
        return ()
    return tuple(make(Told(record, story(stream), troubles, signals), record.fact))


def is_told(record: Record) -> bool:
    """Whether facts of its kind are ever worth a message."""
    return type(record.fact) in _MAKERS


def wordless(record: Record) -> Envelope:
    """For a fact that could not be put into words: better a poor message than none."""
    kind = type(record.fact).__name__
    lines = (("What", f"{kind} in {clean.line(record.stream)}, place {record.n}; see `rollbackd incidents`"),)
    message = _message(record, "unreadable", f"{kind} could not be put into words", "warning", lines, "unreadable")
    return Envelope(message, record.stream)


def _message(
    record: Record, event: str, title: str, severity: Severity, lines: Lines, thread: str, suffix: str = ""
) -> Message:
    return Message(
        key=f"{record.stream}/{record.n}{suffix}",
        event=event,
        title=clean.line(title),
        lines=tuple((heading, clean.paragraph(text)) for heading, text in lines),
        severity=severity,
        thread=thread,
        at=record.at,
    )


def _incident(told: Told, event: str, title: str, severity: Severity, lines: Lines) -> Envelope:
    about = told.story
    message = _message(told.record, event, f"{about.incident}: {title}", severity, lines, about.incident)
    placed = replace(message, service=about.service, incident=about.incident, priority=about.priority)
    return Envelope(placed, told.record.stream)


# -- of an incident -----------------------------------------------------------------------------
def _opened(told: Told, fact: facts.Opened) -> Sequence[Envelope]:
    about, decision = told.story, fact.decision
    severity: Severity = "critical" if about.priority is Priority.P0 else "warning"
    rule = clean.line(about.rule, 100)
    asked = f"{clean.line(about.request.actor, 100)} asked for it" if about.request else f"rule {rule} is met"
    lines = phrases.filled(
        ("What", f"{about.service} is being taken back: {asked}"),
        ("Reason", clean.line(about.request.reason) if about.request else ""),
        *phrases.why(about.evidence, None if about.request else about.onset),
        *phrases.target(decision),
        ("Next", f"every layer is looked at once more, then plan {', then '.join(about.plans)}"),
        ("Stop it", phrases.stop(about, told.signals)),
        ("More", phrases.more(about)),
    )
    return [_incident(told, "opened", f"rolling back {about.service} ({about.priority}, {rule})", severity, lines)]


def _started(told: Told, _fact: facts.Entering | facts.ApplyStarted) -> Sequence[Envelope]:
    about = told.story
    if about.starts > 1:
        return []
    layer, _ = about.attempt
    severity: Severity = "critical" if about.priority is Priority.P0 else "warning"
    lines = phrases.filled(
        ("What", f"plan {about.plan or 'default'} has begun with {clean.line(layer, 63)}"),
        ("Steps", phrases.steps(about)),
        ("From", phrases.state(about.present)),
        ("To", phrases.state(about.target)),
        ("Next", "the checks decide whether it got well"),
        ("Stop it", phrases.stop(about, told.signals)),
    )
    return [_incident(told, "started", f"the rollback of {about.service} has started", severity, lines)]


def _plan_ended(told: Told, fact: facts.PlanEnded) -> Sequence[Envelope]:
    about = told.story
    names = about.plans
    following = names[names.index(fact.name) + 1 :] if fact.name in names else ()
    lines = phrases.filled(
        ("What", f"plan {fact.name} did not help ({fact.outcome})"),
        ("Checks", phrases.checks(about.results)),
        ("Next", f"plan {following[0]}, on top of it" if following else "another plan, on top of it"),
        ("Stop it", phrases.stop(about, told.signals)),
    )
    return [_incident(told, "plan_ended", f"plan {fact.name} did not help {about.service}", "warning", lines)]


def _paused(told: Told, fact: facts.Paused) -> Sequence[Envelope]:
    about = told.story
    lines = phrases.filled(
        ("What", f"a hold stopped it: {clean.line(fact.reason)}"),
        ("Steps", phrases.steps(about)),
        *phrases.still_entered(about),
        ("Next", "nothing until the hold is gone, then it goes on where it stopped"),
        ("Go on", f"`rollbackd resume {about.service}`, or remove the HOLD file from {told.signals}"),
        ("End it", f"`rollbackd abort {about.incident}`"),
    )
    return [_incident(told, "paused", f"the rollback of {about.service} is held", "warning", lines)]


def _abort_requested(told: Told, fact: facts.AbortRequested) -> Sequence[Envelope]:
    about = told.story
    lines = phrases.filled(
        ("What", f"{clean.line(told.record.actor, 100)} wants it stopped"),
        ("Reason", clean.line(fact.reason)),
        ("Next", "the step in hand ends, no other begins, the brackets are left"),
    )
    return [_incident(told, "abort_requested", f"the rollback of {about.service} is being aborted", "warning", lines)]


def _acknowledged(told: Told, _fact: facts.Acknowledged) -> Sequence[Envelope]:
    about, actor = told.story, clean.line(told.record.actor, 100)
    one = _incident(told, "acknowledged", f"acknowledged by {actor}", "info", (("What", f"{actor} has seen it"),))
    return [replace(one, message=replace(one.message, acknowledged=about.outcome is not Outcome.RECOVERED))]


def _parked(told: Told, fact: facts.Parked) -> Sequence[Envelope]:
    about = told.story
    lines = phrases.filled(
        ("What", f"it was stopped for a person to look at: {clean.line(fact.reason)}"),
        ("Steps", phrases.steps(about)),
        ("Failed last", clean.line(about.failure)),
        *phrases.still_entered(about),
        ("Next", "nothing happens by itself any more"),
        ("End it", f"`rollbackd abort {about.incident}`; seen: `rollbackd ack {about.incident}`"),
        ("More", phrases.more(about)),
    )
    return [_incident(told, "parked", f"the rollback of {about.service} needs a person", "critical", lines)]


def _closed(told: Told, fact: facts.Closed) -> Sequence[Envelope]:
    about = told.story
    severity, said, advice = _ENDS[fact.outcome]
    lines = phrases.filled(
        ("What", f"{about.service} {said}: {clean.line(fact.reason)}"),
        ("Took", phrases.took(about, told.record.at)),
        *phrases.why(about.evidence, about.onset),
        ("Steps", phrases.steps(about)),
        ("Failed last", clean.line(about.failure) if fact.outcome is not Outcome.RECOVERED else ""),
        ("Output", clean.line(about.output[-400:], 400) if fact.outcome is Outcome.FAILED else ""),
        ("Checks", phrases.checks(about.results)),
        *phrases.still_entered(about),
        ("Next", advice),
        ("Seen it", f"`rollbackd ack {about.incident}`" if severity == "critical" else ""),
        ("More", phrases.more(about)),
    )
    one = _incident(told, str(fact.outcome), f"{about.service} {said}", severity, lines)
    return [replace(one, message=replace(one.message, resolves=fact.outcome is Outcome.RECOVERED))]


def _relapsed(told: Told, fact: facts.Relapsed) -> Sequence[Envelope]:
    about = told.story
    lines = phrases.filled(
        ("What", f"{about.service} had recovered, and is in trouble again: {clean.line(fact.trigger.rule)}"),
        *phrases.why(fact.trigger.evidence, fact.trigger.onset),
        *phrases.still_entered(about),
        ("Next", "Look for another cause"),
        ("Seen it", f"`rollbackd ack {about.incident}`"),
        ("More", phrases.more(about)),
    )
    return [_incident(told, "ineffective", f"{about.service} is sick again after its rollback", "critical", lines)]


# -- of services and the fleet ------------------------------------------------------------------
def _decided(told: Told, fact: facts.Decided) -> Sequence[Envelope]:
    decision = fact.decision
    if decision.joins:
        return []
    if decision.action == "observe":
        return [_observed(told, decision)]
    if not needs_person(decision) or told.troubles.repeats(decision.trigger.service, decision):
        return []
    return [_refused(told.record, decision, "refused", "")]


def _refused(record: Record, decision: Decision, event: str, since: str) -> Envelope:
    trigger = decision.trigger
    service = trigger.service
    severity: Severity = "critical" if decision.escalate or trigger.priority is Priority.P0 else "warning"
    lines = phrases.filled(
        ("What", f"{service} is in trouble (rule {clean.line(trigger.rule, 100)}) and was not rolled back{since}"),
        ("Against it", phrases.findings(decision.against)),
        *phrases.why(trigger.evidence, trigger.onset),
        *phrases.target(decision),
        ("Next", "nothing, unless what stands against it changes"),
        ("Roll back anyway", f"`rollbackd plan {service}`, then `rollbackd rollback {service}`"),
        ("Seen it", f"`rollbackd ack {service}`"),
        ("More", f"`rollbackd decisions {service}`"),
    )
    title = f"{service} needs a person ({trigger.priority}, {clean.line(trigger.rule, 100)})"
    thread = refusal_thread(service, clean.line(trigger.episode))
    message = _message(record, event, title, severity, lines, thread)
    placed = replace(message, service=service, priority=trigger.priority)
    return Envelope(placed, record.stream, group=f"{event}/{','.join(guards(decision))}")


def _observed(told: Told, decision: Decision) -> Envelope:
    trigger, service = decision.trigger, decision.trigger.service
    others = [finding for finding in decision.against if finding.guard != "shadow"]
    shadow = len(others) < len(decision.against)
    said = "would have been rolled back" if shadow and not others else "was only observed"
    lines = phrases.filled(
        ("What", f"{service} {said}: rule {clean.line(trigger.rule, 100)} is met"),
        ("Against it", phrases.findings(decision.against)),
        *phrases.why(trigger.evidence, trigger.onset),
        *phrases.target(decision),
        ("Plan", ", then ".join(decision.plans)),
        ("Roll back", f"`rollbackd plan {service}`, then `rollbackd rollback {service}`"),
        ("More", f"`rollbackd decisions {service}`"),
    )
    thread = f"observed/{service}/{clean.line(trigger.episode)}"
    title = f"{service} {said} ({trigger.priority}, {clean.line(trigger.rule, 100)})"
    message = replace(
        _message(told.record, "observed", title, "info", lines, thread), service=service, priority=trigger.priority
    )
    return Envelope(message, told.record.stream, group=f"observed/{','.join(guards(decision))}")


def _notice_acknowledged(told: Told, fact: facts.NoticeAcknowledged) -> Sequence[Envelope]:
    actor = clean.line(told.record.actor, 100)
    service = told.record.stream.partition(":")[2]
    made = []
    for place, trouble in enumerate(told.troubles.refused(service, fact.episode), 1):
        begun = trouble.record
        priority = begun.fact.decision.trigger.priority if begun is not None else None
        thread = refusal_thread(service, clean.line(trouble.episode))
        lines = (("What", f"{actor} has seen that {service} needs a person"),)
        title = f"{service}: acknowledged by {actor}"
        message = _message(told.record, "acknowledged", title, "info", lines, thread, f"/{place}")
        placed = replace(message, service=service, priority=priority, acknowledged=True)
        made.append(Envelope(placed, told.record.stream))
    return made


def _notice_title(kind: str) -> str:
    """What a phone shows of it at night."""
    return _TITLES.get(kind, kind.replace("_", " "))


def _notice(told: Told, fact: facts.Notice) -> Sequence[Envelope]:
    severity: Severity = "info" if fact.over else "critical" if fact.kind in _CRITICAL_KINDS else "warning"
    about = f"{fact.service}: " if fact.service else ""
    kind = _notice_title(fact.kind)
    shown = [
        (clean.line(name.replace("_", " "), 63), clean.paragraph(text))
        for name, text in fact.details.items()
        if name not in ("subject", "receiver")
    ]
    lines = phrases.filled(("What", clean.line(fact.text, 1000)), *shown)
    title = f"{about}{kind}{' is over' if fact.over else ''}"
    message = _message(told.record, fact.kind, title, severity, lines, clean.line(notice_thread(fact)))
    placed = replace(message, service=fact.service, resolves=fact.over)
    avoid = fact.details.get("receiver", "") if fact.kind in OWN_KINDS else ""
    return [Envelope(placed, told.record.stream, f"notice/{fact.kind}/{fact.over}", avoid)]


# -- again, until somebody acknowledges it ------------------------------------------------------
def reminder(trouble: Trouble, stream: Sequence[Record], now: datetime, k: int) -> Envelope | None:
    """The k-th reminder of a trouble; `stream` is its incident's, or empty. The same k has the same key."""
    begun = trouble.record
    if begun is None:
        return None
    since = f" since {phrases.moment(begun.at)}"
    if isinstance(begun.fact, facts.Decided):
        first = _refused(begun, begun.fact.decision, "reminder", since)
    elif isinstance(begun.fact, facts.Notice):
        lines = (("What", f"{clean.line(begun.fact.text, 1000)}; unsolved{since}"),)
        kind = _notice_title(begun.fact.kind)
        thread = clean.line(notice_thread(begun.fact))
        first = Envelope(_message(begun, "reminder", f"{kind} goes on", "warning", lines, thread), begun.stream)
    else:
        first = _incident_reminder(trouble, begun, story(stream), since)
    message = replace(
        first.message, key=f"{trouble.thread}/reminder/{begun.n}.{k}", title=f"Reminder: {first.message.title}", at=now
    )
    return replace(first, message=message, group="reminder")


def _incident_reminder(trouble: Trouble, begun: Record, about: Story, since: str) -> Envelope:
    what = trouble.what.replace("_", " ")
    lines = phrases.filled(
        ("What", f"{about.service}: {what}{since}, and nobody has acknowledged it"),
        ("Reason", clean.line(about.reason)),
        *phrases.still_entered(about),
        ("Checks", phrases.checks(about.results)),
        ("Seen it", f"`rollbackd ack {about.incident}`"),
        ("More", phrases.more(about)),
    )
    severity: Severity = "warning" if trouble.what in ("paused", "still_entered") else "critical"
    title = f"{about.incident}: {about.service} is {what}" if trouble.what != "failed" else f"{about.incident}: failed"
    message = _message(begun, "reminder", title, severity, lines, trouble.thread)
    placed = replace(message, service=about.service, incident=about.incident, priority=about.priority)
    return Envelope(placed, begun.stream)


_MAKERS: dict[type[Any], Callable[[Told, Any], Sequence[Envelope]]] = {
    facts.Opened: _opened,
    facts.Entering: _started,
    facts.ApplyStarted: _started,
    facts.PlanEnded: _plan_ended,
    facts.Paused: _paused,
    facts.AbortRequested: _abort_requested,
    facts.Acknowledged: _acknowledged,
    facts.Parked: _parked,
    facts.Closed: _closed,
    facts.Relapsed: _relapsed,
    facts.Decided: _decided,
    facts.NoticeAcknowledged: _notice_acknowledged,
    facts.Notice: _notice,
}
