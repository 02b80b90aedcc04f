"""All that the journal says up to one place, folded once. Values alone, so that it can be written down. No I/O."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rollbackd.facts import ClockPassed, Decided, Ended, Escalated, Opening, Record, Rising
from rollbackd.model import FLEET, service_stream
from rollbackd.policy.ledger import FleetLedger, ServiceLedger, fold_fleet, fold_service
from rollbackd.state.incidents import KnownIncidents

_UNKNOWN = ServiceLedger()
_SERVICE = service_stream("")


@dataclass(slots=True)
class Counts:
    """What is counted since the first fact, for metrics. Drills are no rollbacks."""

    began: Counter[str] = field(default_factory=Counter)
    """Rollbacks of each service; a question is one from when it became one."""
    asked: Counter[str] = field(default_factory=Counter)
    """Questions about each service."""
    passed: Counter[str] = field(default_factory=Counter)
    """How often each clock of incidents was passed."""
    escalations: Counter[int] = field(default_factory=Counter)
    """How often each tier of people was told."""
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)
    """The last outcome of each incident, by service."""
    drills: set[str] = field(default_factory=set)
    """The incidents of drills."""
    decided: Counter[str] = field(default_factory=Counter)
    """Decisions on triggers, by action."""

    def copy(self) -> "Counts":
        outcomes = {service: dict(ends) for service, ends in self.outcomes.items()}
        began, asked, passed, decided = (Counter(one) for one in (self.began, self.asked, self.passed, self.decided))
        return Counts(began, asked, passed, Counter(self.escalations), outcomes, set(self.drills), decided)

    def ended(self, service: str) -> Counter[str]:
        """How a service's incidents ended, by their last outcome."""
        return Counter(self.outcomes.get(service, {}).values())

    def take(self, fact: object) -> None:
        """One more fact."""
        match fact:
            case Opening() if fact.drill:
                self.drills.add(fact.incident)
            case Opening() | Rising():
                waits = isinstance(fact, Opening) and fact.asks
                (self.asked if waits else self.began)[fact.service] += 1
            case Ended() if fact.incident not in self.drills:
                self.outcomes.setdefault(fact.service, {})[fact.incident] = fact.outcome.value
            case ClockPassed():
                self.passed[fact.clock] += 1
            case Escalated():
                self.escalations[fact.tier] += 1
            case Decided():
                self.decided[fact.decision.action.value] += 1


@dataclass(slots=True)
class Projection:
    """The ledgers, the incidents, the counts."""

    seq: int = 0
    """The place of the last fact that it knows."""
    fleet: FleetLedger = field(default_factory=FleetLedger)
    services: dict[str, ServiceLedger] = field(default_factory=dict)
    incidents: KnownIncidents = field(default_factory=KnownIncidents)
    counts: Counts = field(default_factory=Counts)

    def copy(self) -> "Projection":
        """The projection as it is now; what is folded later does not change the copy."""
        return Projection(self.seq, self.fleet, dict(self.services), self.incidents.copy(), self.counts.copy())

    def of(self, service: str) -> ServiceLedger:
        """A service's ledger; an empty one when nothing was ever written of it."""
        return self.services.get(service, _UNKNOWN)

    def apply(self, records: Sequence[Record]) -> None:
        """Take in the facts that come next, in their order. Many at once give the same as one by one, and cost less."""
        by_service: defaultdict[str, list[Record]] = defaultdict(list)
        of_fleet: list[Record] = []
        for record in records:
            if record.stream.startswith(_SERVICE):
                by_service[record.stream.removeprefix(_SERVICE)].append(record)
                if isinstance(record.fact, Decided):
                    self.counts.take(record.fact)
                continue
            self.counts.take(record.fact)
            if record.stream != FLEET:
                self.incidents.apply(record)
                continue
            of_fleet.append(record)
            if service := getattr(record.fact, "service", ""):
                by_service[service].append(record)
        self.fleet = fold_fleet(self.fleet, of_fleet)
        for service, own in by_service.items():
            self.services[service] = fold_service(self.of(service), own)
        if records:
            self.seq = records[-1].seq
