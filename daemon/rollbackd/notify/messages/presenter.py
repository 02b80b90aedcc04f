"""The presenter makes messages of a fact and of what is known besides. No I/O.

A message says what happened, why, from where to where, what is next, and the command that stops it or goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.life import Incident
from rollbackd.notify.messages import approvals, deadlines, drills, incidents, plain_text, services
from rollbackd.notify.messages.context import MessageContext, message_of
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.troubles import Troubles, fold


def envelopes(
    record: Record, before: Incident | None, after: Incident | None, troubles: Troubles, signals: Path
) -> tuple[Envelope, ...]:
    """The messages that a fact is worth; most facts are worth none.

    `before` and `after` are the fact's incident before and after it; None for a fact of another stream.
    """
    make = _MAKERS.get(type(record.fact))
    if make is None:
        return ()
    later = fold(troubles, record)
    made = make(MessageContext(record, before, after, troubles, later, signals), record.fact)
    if after is not None and after.drill:
        made = drills.of_drill(after, made)
    return tuple(replace(one, opens=one.message.thread in later.known) for one in made)


def is_told(record: Record) -> bool:
    """Whether facts of its kind are ever worth a message."""
    return type(record.fact) in _MAKERS


def wordless(record: Record) -> Envelope:
    """The message of a fact that could not be put into words: better a poor message than none."""
    kind = type(record.fact).__name__
    lines = (("What", f"{kind} in {plain_text.line(record.stream)}, place {record.n}; see `rollbackd incidents`"),)
    message = message_of(record, "unreadable", f"{kind} could not be put into words", "warning", lines, "unreadable")
    return Envelope(message, record.stream, opens=False)


_MAKERS: Mapping[type[Any], Callable[[MessageContext, Any], Sequence[Envelope]]] = {
    facts.Opened: incidents.opened,
    facts.Examined: approvals.examined,
    facts.Approved: approvals.approved,
    facts.AskedAgain: approvals.asked_again,
    facts.Risen: approvals.risen,
    facts.ClockPassed: deadlines.clock_passed,
    facts.Escalated: deadlines.escalated,
    facts.Entering: incidents.started,
    facts.ApplyStarted: incidents.started,
    facts.PlanEnded: incidents.plan_ended,
    facts.Paused: incidents.paused,
    facts.AbortRequested: incidents.abort_requested,
    facts.Acknowledged: incidents.acknowledged,
    facts.Parked: incidents.parked,
    facts.Joined: incidents.joined,
    facts.ReportedLate: incidents.reported_late,
    facts.LeaveFailed: incidents.not_left,
    facts.Closed: incidents.closed,
    facts.Relapsed: incidents.relapsed,
    facts.Changed: services.changed,
    facts.Decided: services.decided,
    facts.Drilled: drills.drilled,
    facts.Mending: services.mending,
    facts.NoticeAcknowledged: services.notice_acknowledged,
    facts.MarkedGood: services.found_well,
    facts.Subsided: services.subsided,
    facts.Notice: services.notice,
}
