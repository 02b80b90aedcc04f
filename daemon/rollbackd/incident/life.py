"""An incident as its facts have made it: all that the next step is chosen from. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rollbackd.model import (
    Action,
    CheckResult,
    Decision,
    Outcome,
    Plan,
    Priority,
    Release,
    State,
    Trigger,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Flight:
    """Something begun and not yet reported: after a crash the world is asked about it first."""

    what: str
    """`enter`, `apply` or `leave`."""
    layer: str
    attempt: int
    since: datetime
    adoptions: int = 0
    """How many processes took the incident over since."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last attempt at something failed."""

    what: str
    layer: str
    attempt: int
    reason: str
    permanent: bool
    at: datetime
    evidence: str = ""
    """The last output of what failed."""


@dataclass(frozen=True, slots=True)
class Yes:
    """A person's approval."""

    actor: str
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """One episode of one service that acts or asks."""

    id: str
    n: int
    """The place of its last fact: what an intent follows."""
    service: str
    opened: datetime
    decision: Decision
    config: Mapping[str, object]
    plans: tuple[str, ...]
    present: State
    """The state of the layers now, as far as its own steps have moved them."""
    tried: int = 0
    """How many plans of the list have ended."""
    unhelpful: int = 0
    """How many of these ran; one that had no step to take made nothing worse."""
    plan: Plan | None = None
    """The one that runs, once it was prepared."""
    brackets: Mapping[str, str] = field(default_factory=dict)
    """When each bracket of any plan so far is left: a later plan need not name what an earlier one entered."""
    entered: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    """Brackets that are entered, or may be because entering them was begun."""
    done: tuple[str, ...] = ()
    """Layers of the running plan whose step is applied."""
    off: Mapping[str, Mapping[str, Release]] = field(default_factory=dict)
    """Rules that a plan so far says ask what it switches off, each with the releases of the steps that do."""
    moved: Mapping[str, Release] = field(default_factory=dict)
    """All layers that a step of any plan reached, with the release they were left at before the first."""
    acted: bool = False
    """Any step or bracket was begun."""
    flight: Flight | None = None
    failure: Failure | None = None
    stepped: datetime | None = None
    """When the last step of the running plan ended."""
    gate: Verdict | None = None
    """The last round of the gate."""
    gated: datetime | None = None
    conclusive: Verdict | None = None
    """The last round of gate or verification that said anything, in this plan."""
    rounds: int = 0
    """Good rounds in a row, inconclusive ones aside."""
    looked: datetime | None = None
    """The last round of verification."""
    results: tuple[CheckResult, ...] = ()
    """Of the last round of gate or verification, in this plan."""
    superseded: str = ""
    """The layer that somebody else moved."""
    paused: str = ""
    resumed: datetime | None = None
    """When a hold was lifted or a process took it over last: clocks of gate and verification begin again."""
    aborted: str = ""
    """Who wants it stopped."""
    abort_reason: str = ""
    acknowledged: str = ""
    """Who has seen it."""
    leave_all: bool = False
    """A person wants every bracket left."""
    parked: str = ""
    joined: tuple[Trigger, ...] = ()
    asked: datetime | None = None
    """When the question that stands was asked; None: it never asked."""
    approvals: tuple[Yes, ...] = ()
    """Of the question that stands, oldest first."""
    denied: str = ""
    """Who said no."""
    deny_reason: str = ""
    risen: str = ""
    """Why the question became a rollback."""
    by_people: bool = False
    """People said yes: the guards do not bind it any more."""
    begun: datetime | None = None
    """When the first step or bracket was begun."""
    held_since: datetime | None = None
    """When the hold that stops it came; None while nothing does."""
    working: datetime | None = None
    """`begun`, later by as long as holds have stopped it since."""
    stepping: Mapping[str, datetime] = field(default_factory=dict)
    """Layers whose step was begun and is not done, with when: at the first attempt, holds not counted."""
    notes: tuple[str, ...] = ()
    """What its brackets said of how they were entered or left, each once: `sessions: 3 sessions are left …`."""
    took: Mapping[str, timedelta] = field(default_factory=dict)
    """How long each layer's step took, from its first attempt on; the longest when several plans had it."""
    examined: tuple[CheckResult, ...] = ()
    """The service's checks, once, beside the decision."""
    clocks: frozenset[str] = frozenset()
    """The clocks that were passed and told."""
    tier: int = -1
    """The last tier of people that it was escalated to."""
    whys: frozenset[str] = frozenset()
    """Why it was escalated so far."""
    outcome: Outcome | None = None
    reason: str = ""
    closed: datetime | None = None

    @property
    def waits(self) -> bool:
        """It asks people, and nothing was begun."""
        return self.decision.action is Action.ASK

    @property
    def drill(self) -> str:
        """`there` or `back`, of an executed drill; empty: it is none."""
        return self.decision.trigger.drill

    @property
    def priority(self) -> Priority:
        """The most urgent of its triggers', one level higher for each plan that did not help."""
        order = list(Priority)
        urgent = min(order.index(one.priority) for one in (self.decision.trigger, *self.joined))
        return order[max(0, urgent - self.unhelpful)]

    @property
    def running(self) -> str:
        """The name of the plan that runs, or ran last."""
        return self.plans[min(self.tried, len(self.plans) - 1)]

    @property
    def mark(self) -> str:
        """What its traces are found by. With a new journal, or an old one put back, its name may come twice."""
        return f"{self.id}/{self.opened:%Y%m%dT%H%M%S}"

    @property
    def key(self) -> str:
        """What its changes' keys begin with: the incident and the place of the plan in the list."""
        return f"{self.mark}.{self.tried}"

    @property
    def unasked(self) -> tuple[str, ...]:
        """Rules that ask what is switched off right now; one that a later plan switched on again is asked."""
        return tuple(rule for rule, off in self.off.items() if off.items() <= self.present.releases.items())

    @property
    def fixed(self) -> tuple[str, ...]:
        """Layers that a plan took to a release of the configuration's own, and not to the target's."""
        target = self.decision.target.releases if self.decision.target is not None else {}
        return tuple(layer for layer in self.moved if self.present.releases[layer] != target.get(layer))

    def attempts(self, what: str, layer: str) -> int:
        """How often this failed in a row."""
        failure = self.failure
        return failure.attempt if failure is not None and (failure.what, failure.layer) == (what, layer) else 0
