"""Messages about services and about rollbackd itself: decisions without an incident, and notices. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import FLEET, Decision, Priority
from rollbackd.notification_events import CHANGED
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.messages.buttons import acknowledgement
from rollbackd.notify.messages.context import MessageContext, Severity, message_of
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.self_notices import OWN_KINDS, TEMPLATE, UNDELIVERABLE, UNREACHABLE
from rollbackd.notify.messages.troubles import MONTHLY, Trouble, guards, needs_person, notice_thread, refusal_thread
from rollbackd.policy.guards import SHADOW, SWITCHED_OFF
from rollbackd.syntax.units import format_duration

_TITLES: Mapping[str, str] = {
    "audit": "the journal does not fit together",
    "clock": "the clock jumped",
    "configuration": "a new configuration was not taken over",
    "drill_stuck": "a drill cannot return",
    "internal": "a part of rollbackd failed",
    MONTHLY: "the report of last month",
    "journal": "the journal cannot be written",
    "override": "a signal file needs a look",
    "readiness": "a rollback would not work",
    "report_unwritten": "a report cannot be written",
    "rule_fault": "a rule cannot be judged",
    "slack_silent": "clicks in Slack are not heard",
    "source_refused": "a sender is not understood",
    TEMPLATE: "a template of messages fails",
    "silence_unread": "a silence cannot be read",
}
"""Titles of kinds whose own words say too little."""
_UNSHOWN = frozenset({"subject", "receiver", "receivers", "entry"})
"""Details of a notice that say where it belongs, and are not for its readers."""
_CRITICAL_KINDS = frozenset({"drill_stuck", "journal", "not_ready", UNREACHABLE, UNDELIVERABLE})


def decided(told: MessageContext, fact: facts.Decided) -> Sequence[Envelope]:
    decision = fact.decision
    if decision.joins or decision.trigger.request is not None:  # whoever ordered it has the answer
        return []
    if SWITCHED_OFF.name in guards(decision):  # people heard of it when it was switched off
        return []
    if decision.action == "observe":
        return [_observed(told, decision)]
    if not needs_person(decision) or told.troubles.repeats(decision.trigger.service, decision):
        return []
    return [refused(told.record, decision, "refused", "")]


def refused(record: Record, decision: Decision, event: str, since: str) -> Envelope:
    """A service in trouble that needs a person; a refusal that escalates goes to the tiers, too."""
    trigger = decision.trigger
    service = trigger.service
    severity: Severity = "critical" if decision.escalate or trigger.priority is Priority.P0 else "warning"
    lines = phrases.filled(
        *phrases.broken(trigger),
        ("What", f"{service} is in trouble (rule {plain_text.line(trigger.rule, 100)}) and was not rolled back{since}"),
        ("Against it", phrases.findings(decision.against)),
        *phrases.change(decision),
        *phrases.why(trigger.evidence, trigger.onset),
        *phrases.target(decision),
        ("Next", "nothing, unless what stands against it changes"),
        ("Roll back anyway", f"`rollbackd plan {service}`, then `rollbackd rollback {service}`"),
        ("Seen it", f"`rollbackd ack {service}`"),
        ("More", f"`rollbackd decisions {service}`"),
    )
    title = f"{service} needs a person ({plain_text.line(trigger.rule, 100)})"
    thread = refusal_thread(service, trigger.episode)
    message = message_of(record, event, title, severity, lines, thread)
    answers = (acknowledgement(service),)
    placed = replace(message, service=service, priority=trigger.priority, buttons=answers)
    group = f"{event}/{','.join(guards(decision))}"
    return Envelope(placed, record.stream, group, since=record.at if decision.escalate else None)


def _observed(told: MessageContext, decision: Decision) -> Envelope:
    trigger, service = decision.trigger, decision.trigger.service
    others = [finding for finding in decision.against if finding.guard != SHADOW.name]
    shadow = len(others) < len(decision.against)
    said = "would have been rolled back" if shadow and not others else "was only observed"
    lines = phrases.filled(
        *phrases.broken(trigger),
        ("What", f"{service} {said}: rule {plain_text.line(trigger.rule, 100)} is met"),
        ("Against it", phrases.findings(decision.against)),
        *phrases.change(decision),
        *phrases.why(trigger.evidence, trigger.onset),
        *phrases.target(decision),
        ("Plan", ", then ".join(decision.plans)),
        ("Roll back", f"`rollbackd plan {service}`, then `rollbackd rollback {service}`"),
        ("More", f"`rollbackd decisions {service}`"),
    )
    thread = f"observed/{service}/{plain_text.line(trigger.episode)}"
    title = f"{service} {said} ({plain_text.line(trigger.rule, 100)})"
    message = message_of(told.record, "observed", title, "info", lines, thread)
    placed = replace(message, service=service, priority=trigger.priority)
    return Envelope(placed, told.record.stream, group=f"observed/{','.join(guards(decision))}")


def changed(told: MessageContext, fact: facts.Changed) -> Sequence[Envelope]:
    """What runs now, for who looks whether trouble began with a change; the first state ever is none."""
    if fact.after == fact.by:
        return []
    service = told.record.stream.partition(":")[2]
    state = phrases.state(fact.state)
    said = f"rolled back to {state} by {fact.incident}" if fact.incident else f"changed to {state}"
    between = f"{phrases.moment(fact.after)} and {phrases.moment(fact.by)}"
    lines = (("What", f"{service} {said}"), ("Between", between))
    message = message_of(told.record, CHANGED, f"{service} {said}", "info", lines, f"changed/{service}")
    return [Envelope(replace(message, service=service, incident=fact.incident, at=fact.by), told.record.stream)]


def mending(told: MessageContext, fact: facts.Mending) -> Sequence[Envelope]:
    """Whoever mends a service; the same word in its incident is told here alone."""
    if told.incident is not None:
        return []
    service, actor = told.record.stream.partition(":")[2], plain_text.line(told.record.actor, 100)
    length, until = format_duration(fact.length), phrases.moment(told.record.at + fact.length)
    if fact.heeded:
        title = f"{service} mending by {actor}, {length}"
        what = f"{actor} mends {service}, and estimates {length}: nothing goes back until {until}"
        then = "when the time is over and the trouble goes on, it goes back by itself"
    else:
        title = f"{service} is not held up: {actor} estimates {length} for mending"
        what = f"{actor} mends {service}, and estimates {length}, longer than `limits.mending` allows"
        then = "what would go back goes back"
    ends = f"`rollbackd resume {service}` ends it" if fact.heeded else ""
    lines = phrases.filled(("What", what), ("Reason", plain_text.line(fact.reason)), ("Next", then), ("Ends", ends))
    message = message_of(told.record, "mending", title, "info", lines, f"mending/{service}")
    return [Envelope(replace(message, service=service), told.record.stream)]


def notice_acknowledged(told: MessageContext, fact: facts.NoticeAcknowledged) -> Sequence[Envelope]:
    actor = plain_text.line(told.record.actor, 100)
    if told.record.stream == FLEET:
        return [_seen_notice(told, one, place, actor) for place, one in enumerate(told.troubles.notices(), 1)]
    service = told.record.stream.partition(":")[2]
    made = []
    for place, trouble in enumerate(told.troubles.refused(service, fact.episode), 1):
        begun = trouble.record
        priority = begun.fact.decision.trigger.priority if begun is not None else None
        lines = (("What", f"{actor} has seen that {service} needs a person"),)
        title = f"{service} acknowledged by {actor}"
        message = message_of(told.record, "acknowledged", title, "info", lines, trouble.thread, f"/{place}")
        placed = replace(message, service=service, priority=priority, acknowledged=True)
        made.append(Envelope(placed, told.record.stream, since=trouble.escalates))
    return made


def _seen_notice(told: MessageContext, trouble: Trouble, place: int, actor: str) -> Envelope:
    what = notice_title(trouble.record.fact.kind if trouble.record is not None else trouble.what)
    lines = (("What", f"{actor} has acknowledged it: {what}"),)
    title = f"{what}: acknowledged by {actor}"
    message = message_of(told.record, "acknowledged", title, "info", lines, trouble.thread, f"/{place}")
    return Envelope(replace(message, service=trouble.service, acknowledged=True), FLEET, closes=True)


def subsided(told: MessageContext, fact: facts.Subsided) -> Sequence[Envelope]:
    """Refused trouble has ended by itself, so nobody need come any more."""
    if fact.thread:
        return []
    service = told.record.stream.partition(":")[2]
    return [_ended(told, one, fact.why, "") for one in told.troubles.refusals(service, fact.episode)]


def found_well(told: MessageContext, fact: facts.MarkedGood) -> Sequence[Envelope]:
    """The state that runs is good: what was refused about it is over."""
    ended = [one for one in told.troubles.refusals() if one.thread not in told.later.known]
    why = f"its state is good: {plain_text.line(fact.why)}"
    return [_ended(told, one, why, f"/{place}") for place, one in enumerate(ended, 1)]


def _ended(told: MessageContext, trouble: Trouble, why: str, suffix: str) -> Envelope:
    """The end of a trouble, for all who heard of it."""
    service, begun = trouble.service, trouble.record
    trigger = begun.fact.decision.trigger if begun is not None else None
    lines = phrases.filled(
        ("What", f"the trouble of {service} that needed a person has ended: {plain_text.line(why)}"),
        ("Rule", plain_text.line(trigger.rule, 100) if trigger is not None else ""),
        ("More", f"`rollbackd decisions {service}`"),
    )
    title = f"{service} resolved: its trouble has ended by itself"
    message = message_of(told.record, "passed", title, "info", lines, trouble.thread, suffix)
    priority = trigger.priority if trigger is not None else None
    placed = replace(message, service=service, priority=priority, resolves=True)
    return Envelope(placed, told.record.stream, "passed/refused", since=trouble.heard_since(told.record.at))


def notice_title(kind: str) -> str:
    """The title of a notice, which is what a phone shows at night."""
    return _TITLES.get(kind, kind.replace("_", " "))


def notice(told: MessageContext, fact: facts.Notice) -> Sequence[Envelope]:
    severity: Severity = (
        "info" if fact.over or fact.kind == MONTHLY else "critical" if fact.kind in _CRITICAL_KINDS else "warning"
    )
    about = f"{fact.service}: " if fact.service else ""
    shown = [
        (plain_text.line(name.replace("_", " "), 63), plain_text.paragraph(text))
        for name, text in fact.details.items()
        if name not in _UNSHOWN
    ]
    lines = phrases.filled(("What", plain_text.line(fact.text, 1000)), *shown)
    title = f"{about}{notice_title(fact.kind)}{' is over' if fact.over else ''}"
    message = message_of(told.record, fact.kind, title, severity, lines, notice_thread(fact))
    placed = replace(message, service=fact.service, resolves=fact.over)
    avoid = fact.details.get("receiver", "") if fact.kind in OWN_KINDS else ""
    envelope = Envelope(placed, told.record.stream, f"notice/{fact.kind}/{fact.over}", avoid)
    to = fact.details.get("receivers", "")
    return [replace(envelope, only=name, opens=False) for name in to.split(",")] if to else [envelope]
