"""Messages about drills: little while they run, since nobody need come, and what they showed. No I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rollbackd import facts
from rollbackd.incident.drill import INTERRUPTED, NOT_READY, READY
from rollbackd.incident.life import Incident
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.messages.context import MessageContext, Severity, message_of
from rollbackd.notify.messages.envelope import Envelope

_SAID = {
    READY: "went back and returned",
    NOT_READY: "a rollback would not work",
    INTERRUPTED: "was interrupted",
}
_SEVERITY: dict[str, Severity] = {READY: "info", NOT_READY: "warning", INTERRUPTED: "warning"}
_SILENT = {
    "there": frozenset({"started", "recovered", "acknowledged", "checked"}),
    "back": frozenset({"opened", "started", "recovered", "acknowledged", "checked"}),
}
"""Events of a drill's two incidents that are not told, since the drill's own end tells them better."""


def of_drill(about: Incident, made: Iterable[Envelope]) -> tuple[Envelope, ...]:
    """Messages about one of a drill's incidents, which say so. On the way there nothing is critical: it comes back."""
    found = []
    for one in made:
        message = one.message
        if message.event in _SILENT[about.drill]:
            continue
        calm: Severity = "warning" if about.drill == "there" else message.severity
        severity = calm if message.severity == "critical" else message.severity
        title = f"drill: {message.title}"
        told = replace(message, title=title, severity=severity)
        found.append(replace(one, message=told, group=f"drill/{one.group}"))
    return tuple(found)


def drilled(told: MessageContext, fact: facts.Drilled) -> Sequence[Envelope]:
    """The end of an executed drill. What other drills found is told when readiness is lost or regained."""
    if not fact.incident:
        return []
    service = told.record.stream.partition(":")[2]
    ways = f"{fact.incident} there" + (f", {fact.returned} back" if fact.returned else "")
    lines = phrases.filled(
        ("What", f"the drill of {service} {_SAID[fact.result]}, by plan {', then '.join(fact.plans)}"),
        ("Problems", "; ".join(plain_text.line(text) for text in fact.problems)),
        ("Took", f"{round(fact.took.total_seconds())} s to go there"),
        ("Slow", "; ".join(plain_text.line(text) for text in fact.slow)),
        ("More", f"`rollbackd drill --list {service}`; `rollbackd incidents {fact.incident}` ({ways})"),
    )
    title = f"drill of {service}: {_SAID[fact.result]}"
    message = message_of(told.record, "drilled", title, _SEVERITY[fact.result], lines, fact.incident)
    return [Envelope(replace(message, service=service, incident=fact.incident), told.record.stream)]
