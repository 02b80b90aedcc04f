"""The context of a message: what every one is made of. No I/O."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rollbackd.adapter import Message
from rollbackd.facts import Record
from rollbackd.incident.life import Incident
from rollbackd.model import Priority
from rollbackd.notify.messages import buttons, phrases, plain_text
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.phrases import Lines
from rollbackd.notify.messages.troubles import Troubles

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class MessageContext:
    """What a message is made of besides the fact itself."""

    record: Record
    before: Incident | None
    """The fact's incident before the fact; None at its opening, and for other streams."""
    incident: Incident | None
    """The fact's incident after the fact."""
    troubles: Troubles
    """The troubles as they were before the fact."""
    later: Troubles
    """The troubles after it."""
    signals: Path
    """The directory of the signal files."""

    @property
    def about(self) -> Incident:
        """The fact's incident. :raises LookupError: the fact is of another stream."""
        if self.incident is None:
            raise LookupError(f"{self.record.stream} is no incident's")
        return self.incident


def message_of(
    record: Record, event: str, title: str, severity: Severity, lines: Lines, thread: str, suffix: str = ""
) -> Message:
    """A message with a key of the fact's place; its texts are made fit to be shown."""
    return Message(
        key=f"{record.stream}/{record.n}{suffix}",
        event=event,
        title=plain_text.line(title),
        lines=tuple((heading, plain_text.paragraph(text)) for heading, text in lines),
        severity=severity,
        thread=thread,
        at=record.at,
    )


def of_incident(
    record: Record, about: Incident, event: str, title: str, severity: Severity, lines: Lines, group: str = ""
) -> Envelope:
    """A message about an incident; tiers that it was escalated to hear all of it.

    Without a group it is hurried: only a storm makes one message of it and of others of its event.
    """
    said = (*phrases.broken(about.decision.trigger), *lines)
    message = message_of(record, event, f"{about.service} {title}", severity, said, about.id)
    answers = buttons.of_incident(about)
    placed = replace(message, service=about.service, incident=about.id, priority=about.priority, buttons=answers)
    return Envelope(placed, record.stream, group or event, hurried=not group, tier=about.tier)


def loud(priority: Priority) -> Severity:
    """The severity of something that is done by itself."""
    return "critical" if priority is Priority.P0 else "warning"


def urgent(priority: Priority) -> Severity:
    """The severity of something that people must do now."""
    return "critical" if priority in {Priority.P0, Priority.P1} else "warning"
