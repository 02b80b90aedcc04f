"""The incidents as the facts up to one place have made them, each folded once. No I/O."""

from dataclasses import dataclass, field

from rollbackd.facts import Opened, Record
from rollbackd.incident.fold import evolve, opened
from rollbackd.incident.life import Incident
from rollbackd.model import incident_stream, name_in

KEPT_ENDED = 200
"""Ended incidents that are remembered, of all services together; an older one is read from its stream again."""


@dataclass(slots=True)
class KnownIncidents:
    """The open incidents, and the newest of those that have ended."""

    open: dict[str, Incident] = field(default_factory=dict)
    ended: dict[str, Incident] = field(default_factory=dict)
    """The one with the newest fact last."""

    def copy(self) -> "KnownIncidents":
        return KnownIncidents(dict(self.open), dict(self.ended))

    def of(self, stream: str) -> Incident | None:
        """The incident of a stream; None when it is of none, or of one that ended too long ago."""
        name = name_in(stream)
        return (self.open.get(name) or self.ended.get(name)) if stream == incident_stream(name) else None

    def keep(self, incident: Incident) -> None:
        """Remember an incident as it is now."""
        self.open.pop(incident.id, None)
        self.ended.pop(incident.id, None)
        (self.open if incident.outcome is None else self.ended)[incident.id] = incident
        if len(self.ended) > KEPT_ENDED:
            del self.ended[next(iter(self.ended))]

    def apply(self, record: Record) -> None:
        """Take in one more fact of whatever stream; one that an incident has already, or that nobody needs, is passed.

        An incident that is not remembered begins with its opening alone: `keep` brings back an older one.
        """
        known = self.of(record.stream)
        if known is not None:
            if record.n > known.n:
                self.keep(evolve(known, record))
        elif isinstance(record.fact, Opened) and record.fact.decision.present is not None:
            self.keep(opened(record))
