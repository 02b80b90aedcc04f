"""Reminders, and messages to the next people, until somebody acknowledges it. No I/O."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.life import Incident
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.messages.context import Severity, message_of, of_incident, urgent
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.self_notices import OWN_KINDS
from rollbackd.notify.messages.services import notice_title, refused
from rollbackd.notify.messages.troubles import LAST, Trouble, notice_thread
from rollbackd.syntax.units import format_duration

_SAID = {
    "failed": "rollback failed",
    "expired": "approval expired, nothing was done",
    "ineffective": "still failing after the rollback",
    "unverified": "rolled back, and nothing says whether it is well",
    "paused": "rollback held",
    "parked": "rollback stopped, needs a person",
}
"""What a trouble is called in titles."""


def reminder(trouble: Trouble, about: Incident | None, now: datetime, mark: str, signals: Path) -> Envelope | None:
    """A reminder of a trouble; `about` is its incident, if it has one. The same mark has the same key."""
    begun = trouble.record
    if begun is None:
        return None
    since = f" since {phrases.moment(begun.at)}"
    if isinstance(begun.fact, facts.Decided):
        first = refused(begun, begun.fact.decision, "reminder", since)
    elif isinstance(begun.fact, facts.Notice):
        lines = (("What", f"{plain_text.line(begun.fact.text, 1000)}; unsolved{since}"),)
        title, thread = f"{notice_title(begun.fact.kind)} goes on", notice_thread(begun.fact)
        own = begun.fact.details.get("receiver", "") if begun.fact.kind in OWN_KINDS else ""
        first = Envelope(message_of(begun, "reminder", title, "warning", lines, thread), begun.stream, avoid=own)
    elif about is None:
        return None
    elif trouble.what == "asks":
        first = _of_question(begun, about, now, mark, signals)
    else:
        first = _of_incident(trouble, begun, about, since)
    key, title = f"{trouble.thread}/reminder/{begun.n}.{mark}", f"Reminder: {first.message.title}"
    again = replace(first.message, key=key, title=title, at=now)
    return replace(first, message=again, group="reminder", hurried=False)


def _of_incident(trouble: Trouble, begun: Record, about: Incident, since: str) -> Envelope:
    what = trouble.what.replace("_", " ")
    lines = phrases.filled(
        ("What", f"{about.service}: {what}{since}, and {_open(begun)}"),
        ("Reason", plain_text.line(about.reason or about.parked or about.paused)),
        *phrases.change(about.decision),
        *phrases.still_entered(about),
        ("Checks", phrases.checks(about.results)),
        ("Seen it", f"`rollbackd ack {about.id}`"),
        ("More", phrases.more(about)),
    )
    severity: Severity = "warning" if trouble.what in ("paused", "still_entered") else "critical"
    title = _SAID.get(trouble.what, trouble.what.replace("_", " "))
    return of_incident(begun, about, "reminder", title, severity, lines)


def _open(begun: Record) -> str:
    if isinstance(begun.fact, facts.LeaveFailed):
        return f"leaving {plain_text.line(begun.fact.layer, 63)} failed: {plain_text.line(begun.fact.reason)}"
    return "nobody has acknowledged it"


def _of_question(begun: Record, about: Incident, now: datetime, mark: str, signals: Path) -> Envelope:
    question = about.decision.question
    left = question.expires - now if question is not None else timedelta()
    soon = f"only {format_duration(timedelta(seconds=round(left.total_seconds())))} are left" if mark == LAST else ""
    lines = phrases.filled(
        ("What", f"{about.service} is in trouble, and waits for people to say whether it goes back"),
        ("Soon", soon),
        *phrases.change(about.decision),
        *phrases.question(about, signals),
        *phrases.trouble(about),
        *phrases.target(about.decision),
        ("Checks", phrases.checks(about.examined)),
        ("Seen it", f"`rollbackd ack {about.id}`"),
        ("More", phrases.more(about)),
    )
    title = f"approval pending{phrases.way(about.decision)}{f', {soon}' if soon else ''}"
    return of_incident(begun, about, "reminder", title, urgent(about.priority), lines)


def escalation(trouble: Trouble, now: datetime, tier: int, after: timedelta) -> Envelope | None:
    """The refusal for the next people, when it escalates. The same tier has the same key."""
    begun = trouble.record
    if begun is None or not isinstance(begun.fact, facts.Decided):
        return None
    first = refused(begun, begun.fact.decision, "escalated", f"; nobody acknowledged it in {format_duration(after)}")
    message = replace(first.message, key=f"{trouble.thread}/tier/{begun.n}.{tier}", at=now, severity="critical")
    return replace(first, message=message, group=f"escalated/{tier}", since=None, tier=tier)
