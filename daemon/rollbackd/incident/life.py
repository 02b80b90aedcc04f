"""An incident as its facts have made it, which is all that the next step is chosen from. No I/O."""

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
    """An effect that was begun and not yet reported. After a crash the world is asked about it first."""

    what: str
    """`enter`, `apply` or `leave`."""
    layer: str
    attempt: int
    since: datetime
    adoptions: int = 0
    """How many processes have taken the incident over since."""
    elsewhere: str = ""
    """The host that began it, when another one has taken over; what it left running there cannot be seen from here."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last attempt at an effect, which failed."""

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
    """An episode of trouble of one service that is rolled back, or that people are asked about."""

    id: str
    n: int
    """The place of its last fact, which the next intent follows."""
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
    """How many of the ended plans ran and did not help; a plan without a step to take does not count."""
    plan: Plan | None = None
    """The running plan, once it was prepared."""
    brackets: Mapping[str, str] = field(default_factory=dict)
    """When each bracket of any plan so far is left; a later plan need not name what an earlier one entered."""
    entered: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    """Brackets that are entered, or may be because entering them was begun."""
    done: tuple[str, ...] = ()
    """Layers of the running plan whose step is applied."""
    off: Mapping[str, Mapping[str, Release]] = field(default_factory=dict)
    """Rules about what a plan so far switches off, each with the releases of the steps that do."""
    moved: Mapping[str, Release] = field(default_factory=dict)
    """All layers that a step of any plan moved, each with its release before the first step."""
    data: frozenset[str] = frozenset()
    """Layers whose step, in any plan so far, takes data back: what they leave is a lineage, and no release is bad."""
    acted: bool = False
    """Whether any step or bracket was begun; what is entered while it asks does not count."""
    flight: Flight | None = None
    failure: Failure | None = None
    stepped: datetime | None = None
    """When the last step of the running plan ended."""
    gate: Verdict | None = None
    """The verdict of the last round of the gate."""
    gated: datetime | None = None
    conclusive: Verdict | None = None
    """The verdict of this plan's last round of gate or verification that was not inconclusive."""
    rounds: int = 0
    """Good rounds in a row, inconclusive ones aside."""
    looked: datetime | None = None
    """When the last round of verification was."""
    results: tuple[CheckResult, ...] = ()
    """The results of this plan's last round of gate or verification."""
    superseded: str = ""
    """The layer that somebody else moved."""
    paused: str = ""
    resumed: datetime | None = None
    """When a hold was lifted last; gate and verification count their time from then, or from the last step."""
    adopted: datetime | None = None
    """When a process took over last."""
    host: str = ""
    """The host of the process that took over last, when several may drive."""
    aborted: str = ""
    """Who wants it stopped."""
    abort_reason: str = ""
    acknowledged: str = ""
    """Who acknowledged it."""
    responded: datetime | None = None
    """When a person first said or ordered anything of it."""
    leave_all: bool = False
    """Whether a person wants every bracket left."""
    parked: str = ""
    joined: tuple[Trigger, ...] = ()
    asked: datetime | None = None
    """When the question that stands was asked; None: it never asked."""
    approvals: tuple[Yes, ...] = ()
    """The approvals of the question that stands, oldest first."""
    denied: str = ""
    """Who denied it."""
    deny_reason: str = ""
    risen: str = ""
    """Why the question became a rollback."""
    by_people: bool = False
    """Whether people approved it; then the guards do not bind it any more."""
    begun: datetime | None = None
    """When the first step or bracket was begun."""
    held_since: datetime | None = None
    """When the hold that stops it came; None while nothing does."""
    working: datetime | None = None
    """`begun`, moved later by the time that holds have stopped it since."""
    stepping: Mapping[str, datetime] = field(default_factory=dict)
    """Layers whose step was begun and is not done, with the time of the first attempt; holds are not counted."""
    notes: tuple[str, ...] = ()
    """Notes of its layers on how they were entered, done or left, each once: `sessions: 3 sessions are left …`."""
    took: Mapping[str, timedelta] = field(default_factory=dict)
    """How long each layer's step took, from its first attempt on; the longest when several plans had it."""
    examined: tuple[CheckResult, ...] = ()
    """The service's checks, once, beside the decision."""
    evidence: tuple[CheckResult, ...] = ()
    """What was asked last of what stands around it, since it did not help."""
    evidence_at_end: bool = False
    """Whether that was after the end."""
    measured: bool = False
    """Whether what its rule measured around the onset is kept."""
    measured_at_end: bool = False
    """Whether that reaches to the end."""
    clocks: frozenset[str] = frozenset()
    """The clocks that were passed and told."""
    tier: int = -1
    """The last tier of people that it was escalated to."""
    whys: frozenset[str] = frozenset()
    """The reasons of its escalations so far."""
    outcome: Outcome | None = None
    reason: str = ""
    closed: datetime | None = None

    @property
    def waits(self) -> bool:
        """Whether it asks people, and nothing was begun."""
        return self.decision.action is Action.ASK

    @property
    def carried_out(self) -> bool:
        """Whether every step of the running plan is applied: what is left is to look, and to leave brackets."""
        return self.plan is not None and self.flight is None and all(one.layer in self.done for one in self.plan.steps)

    @property
    def enters_asked(self) -> Mapping[str, str]:
        """The brackets of its plan that are entered while it asks, each with when it is left."""
        plans, layers = self.config.get("plans"), self.config.get("layers")
        plan = plans.get(self.running) if isinstance(plans, Mapping) else None
        if not isinstance(plan, Mapping) or not isinstance(layers, Mapping):
            return {}
        within = {name: layers[name] for name in plan.get("within", ())}
        return {name: str(one.get("leave", "")) for name, one in within.items() if one.get("enter") == "asked"}

    @property
    def drill(self) -> str:
        """`there` or `back` for an incident of an executed drill; else empty."""
        return self.decision.trigger.drill

    @property
    def priority(self) -> Priority:
        """The most urgent priority of its triggers, one level higher for each plan that did not help."""
        order = list(Priority)
        urgent = min(order.index(one.priority) for one in (self.decision.trigger, *self.joined))
        return order[max(0, urgent - self.unhelpful)]

    @property
    def running(self) -> str:
        """The name of the plan that runs, or ran last."""
        return self.plans[min(self.tried, len(self.plans) - 1)]

    @property
    def mark(self) -> str:
        """The name of its traces. The id alone may come twice, with a new journal or an old one put back."""
        return f"{self.id}/{self.opened:%Y%m%dT%H%M%S}"

    @property
    def key(self) -> str:
        """The beginning of its changes' keys: the incident, and the place of the plan in the list."""
        return f"{self.mark}.{self.tried}"

    @property
    def unasked(self) -> tuple[str, ...]:
        """Rules about what is switched off right now, without those about what a later plan switched on again."""
        return tuple(rule for rule, off in self.off.items() if off.items() <= self.present.releases.items())

    @property
    def fixed(self) -> tuple[str, ...]:
        """Layers that a plan took to a release that the configuration fixes, and not to the target's."""
        target = self.decision.target.releases if self.decision.target is not None else {}
        return tuple(layer for layer in self.moved if self.present.releases[layer] != target.get(layer))

    def attempts(self, what: str, layer: str) -> int:
        """How many attempts at this effect failed in a row."""
        failure = self.failure
        return failure.attempt if failure is not None and (failure.what, failure.layer) == (what, layer) else 0
