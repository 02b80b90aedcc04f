"""What was done about snapshots, folded from facts: the calendar's memory, and what a crash cut off. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from rollbackd import facts
from rollbackd.facts import Record

RUN_KINDS = facts.kinds(facts.SnapshotBegun, facts.Snapshotted, facts.SnapshotEnded)
FINDING_KINDS = facts.kinds(facts.SnapshotVerified)
RUNS_READ = 2000
"""How many facts of runs of a service a start reads; the run of once a month must be among them."""
FINDINGS_READ = 500


@dataclass(frozen=True, slots=True)
class SnapshotRun:
    """A piece of work that was begun."""

    at: datetime
    actor: str
    fact: facts.SnapshotBegun


@dataclass(frozen=True, slots=True)
class SnapshotCheck:
    """What was found about one snapshot."""

    at: datetime
    fact: facts.SnapshotVerified


@dataclass(slots=True)
class SnapshotHistory:
    """What was done about the snapshots of one layer."""

    open: dict[str, SnapshotRun] = field(default_factory=dict)
    """Runs that were begun and have not ended, by name."""
    taken: dict[str, str] = field(default_factory=dict)
    """The snapshot that was taken in each open run."""
    names: dict[str, None] = field(default_factory=dict)
    """Snapshots that were taken or came, oldest first, so that none of them is taken for that of another run."""
    scheduled: dict[str, SnapshotRun] = field(default_factory=dict)
    """The last run of each entry of the calendar."""
    kept: dict[str, str] = field(default_factory=dict)
    """For each entry of the calendar, the release that it kept last because that became good."""
    verified: dict[str, SnapshotCheck] = field(default_factory=dict)
    """The newest finding on each snapshot, oldest first."""
    ended: datetime | None = None
    """When the calendar's last run ended."""
    results: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The problems of the last run of each entry of the calendar."""

    def take(self, record: Record) -> None:
        """One more fact of the layer."""
        match record.fact:
            case facts.SnapshotBegun():
                begun = self.open[record.fact.run] = SnapshotRun(record.at, record.actor, record.fact)
                if record.fact.schedule:
                    self.scheduled[record.fact.schedule] = begun
            case facts.Snapshotted(_, name, _, _, run):
                self.names[name] = None
                if len(self.names) > RUNS_READ:
                    del self.names[next(iter(self.names))]
                if run in self.open:
                    self.taken[run] = name
            case facts.SnapshotEnded():
                self._end(record.fact, record.at)
            case facts.SnapshotVerified(_, name, _, _, _, _):
                self.verified.pop(name, None)
                self.verified[name] = SnapshotCheck(record.at, record.fact)
                if len(self.verified) > FINDINGS_READ:
                    del self.verified[next(iter(self.verified))]

    def _end(self, fact: facts.SnapshotEnded, at: datetime) -> None:
        taken = self.taken.pop(fact.run, None)
        begun = self.open.pop(fact.run, None)
        if begun is None or not begun.fact.schedule:
            return
        self.ended = at
        self.results[begun.fact.schedule] = fact.problems
        if taken is not None and begun.fact.release and not fact.problems:
            self.kept[begun.fact.schedule] = begun.fact.release

    def problems(self, schedules: Iterable[str]) -> tuple[str, ...]:
        """The problems of the last runs of these entries of the calendar."""
        return tuple(dict.fromkeys(text for name in schedules for text in self.results.get(name, ())))

    @property
    def newest(self) -> datetime | None:
        """When the newest snapshot that was found whole was taken."""
        whole = [one.fact.created for one in self.verified.values() if not one.fact.problems]
        return max(whole, default=None)


def folded(records: list[Record]) -> dict[str, SnapshotHistory]:
    """A service's facts, oldest first, by layer."""
    pasts: dict[str, SnapshotHistory] = {}
    for record in records:
        pasts.setdefault(record.fact.layer, SnapshotHistory()).take(record)
    return pasts
