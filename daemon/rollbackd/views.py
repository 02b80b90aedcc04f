"""What people and scripts are shown: frozen values that become JSON as they are. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class StateView:
    """One state of a service, as its history or a plan shows it."""

    key: str
    releases: Mapping[str, str]
    """Layer to release, in words: `v41 (3f2a9c…)`."""
    ids: Mapping[str, str]
    """Layer to release id."""
    since: datetime | None = None
    until: datetime | None = None
    """None while it runs."""
    good: str = ""
    """Why it is good; empty when it is not."""
    quarantined: tuple[str, ...] = ()
    """Layers whose release is quarantined."""
    via: str = ""
    """The incident whose rollback led here."""


@dataclass(frozen=True, slots=True)
class HoldView:
    """A person's stop sign, or a silence that counts as one."""

    scope: str
    """A service's name, or `*`."""
    actor: str
    reason: str
    source: str
    """`file`, `api` or `silence`."""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RuleView:
    """What a rule says of a service right now."""

    rule: str
    verdict: str
    """`good`, `pending`, `bad` or `inconclusive`."""
    reason: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service at a glance."""

    name: str
    mode: str
    priority: str
    health: str
    """The worst of its rules: `good`, `pending`, `bad`, `inconclusive`."""
    present: StateView | None
    """None: in transition, or not looked at yet."""
    target: StateView | None
    """Where an automatic rollback would go."""
    cannot: str
    """Why it cannot be rolled back, and what would make it so; empty when it can."""
    incident: str
    """The open one."""
    holds: tuple[HoldView, ...] = ()
    rules: tuple[RuleView, ...] = ()
    baked: float = 0.0
    """Share of the bake time that the present state has behind it, 0 to 1; 1 also when it is good."""


@dataclass(frozen=True, slots=True)
class RecordView:
    """One fact, for a timeline."""

    n: int
    at: datetime
    actor: str
    kind: str
    text: str
    """A sentence."""
    fact: Mapping[str, Any] = field(default_factory=dict)
    """The fact as it is kept."""


@dataclass(frozen=True, slots=True)
class StepView:
    """One layer's step in a plan."""

    layer: str
    before: str
    after: str
    status: str
    """`waiting`, `running`, `done`, `failed`."""
    reversible: bool = True
    risks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IncidentView:
    """An incident at a glance."""

    id: str
    service: str
    status: str
    """`queued`, `running`, `paused`, `parked`, `verifying` or `closed`."""
    outcome: str
    """Empty while it is open."""
    reason: str
    rule: str
    priority: str
    plan: str
    opened: datetime
    closed: datetime | None
    before: StateView | None
    target: StateView | None
    steps: tuple[StepView, ...] = ()
    entered: tuple[str, ...] = ()
    """Brackets that are entered now."""
    acknowledged: str = ""
    """By whom."""


@dataclass(frozen=True, slots=True)
class FindingView:
    guard: str
    against: str
    """Empty: passed."""
    reason: str
    escalate: bool = False


@dataclass(frozen=True, slots=True)
class DecisionView:
    """A decision with its reasons."""

    at: datetime
    service: str
    rule: str
    priority: str
    action: str
    escalate: bool
    incident: str
    """The incident that it opened or joined."""
    onset: datetime
    evidence: tuple[str, ...]
    """Sentences: the query, the value, the threshold."""
    findings: tuple[FindingView, ...]
    present: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class IncidentDetail:
    """All about one incident, from the journal alone."""

    incident: IncidentView
    decision: DecisionView | None
    records: tuple[RecordView, ...]


@dataclass(frozen=True, slots=True)
class PlanView:
    """What a rollback would be, and what would be decided now; nothing was touched."""

    service: str
    plan: str
    present: StateView | None
    target: StateView | None
    steps: tuple[StepView, ...]
    brackets: tuple[str, ...]
    problems: tuple[str, ...]
    """What would stop it: layers not ready, no target."""
    action: str
    """What would be decided for an automatic trigger with a fresh onset."""
    findings: tuple[FindingView, ...]


@dataclass(frozen=True, slots=True)
class Readiness:
    """`/readyz`."""

    ready: bool
    problems: tuple[str, ...]
    """Sentences; `cannot roll back X yet: …` does not make it unready, the journal or a backend does."""
    notes: tuple[str, ...] = ()
