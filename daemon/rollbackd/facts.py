"""What the journal keeps: facts, append-only, one class a kind. Frozen, no I/O.

A body once written is never rewritten: a new field needs a default, a class keeps its name.
Facts marked `Intent` name the position they follow and lose when another came first; the others take the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, get_args

from pydantic import TypeAdapter

from rollbackd.model import CheckResult, Decision, Outcome, Plan, State, Trigger, Verdict


# -- of an incident -----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Opened:
    """Intent. The incident begins; it carries all that it needs to be finished under another configuration."""

    service: str
    decision: Decision
    config: Mapping[str, Any]
    """The service's configuration, secrets as references."""
    plans: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adopted:
    """Intent. A process takes the incident over; written before it drives it."""

    process: str
    """Boot id and process id of who drives."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Another trigger of the same service while this incident is open: evidence."""

    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Planned:
    """The layers were looked at, every `plan` and `ready` passed, and the guards once more."""

    plan: Plan
    present: State


@dataclass(frozen=True, slots=True)
class Entering:
    """Intent."""

    layer: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Entered:
    layer: str


@dataclass(frozen=True, slots=True)
class EnterFailed:
    layer: str
    reason: str
    permanent: bool
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class ApplyStarted:
    """Intent."""

    layer: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Applied:
    layer: str


@dataclass(frozen=True, slots=True)
class ApplyFailed:
    layer: str
    reason: str
    permanent: bool
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class StepSuperseded:
    """Somebody else moved the layer while the incident ran."""

    layer: str


@dataclass(frozen=True, slots=True)
class Gated:
    """One round of the gate checks."""

    verdict: Verdict
    results: tuple[CheckResult, ...]


@dataclass(frozen=True, slots=True)
class Leaving:
    """Intent."""

    layer: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Left:
    layer: str


@dataclass(frozen=True, slots=True)
class LeaveFailed:
    layer: str
    reason: str
    permanent: bool
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of verification."""

    verdict: Verdict
    results: tuple[CheckResult, ...]


@dataclass(frozen=True, slots=True)
class PlanEnded:
    """A plan of the list did not help; the next one runs on top of it."""

    name: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Paused:
    """A hold stopped it at a boundary."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unpaused:
    """The hold is gone."""


@dataclass(frozen=True, slots=True)
class AbortRequested:
    """A person wants it stopped at the next boundary."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A person has seen it: reminders stop, brackets with `leave: acknowledged` are left."""

    leave: bool = False
    """Leave every bracket that is still entered."""


@dataclass(frozen=True, slots=True)
class Parked:
    """It killed its driver again and again, or the world contradicts the journal: a person must look."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Relapsed:
    """Recovered, and in the watch time after it the same state was in trouble again: ineffective after all."""

    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Told:
    """A message about it was delivered."""

    receiver: str
    event: str
    key: str


# -- of a service -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Changed:
    """A state replaced another, as two looks saw it."""

    state: State
    after: datetime
    """The last look at the old state; for the first state ever, the first look itself."""
    by: datetime
    """The first look at the new one."""
    incident: str = ""
    """The incident whose rollback led here; empty when it was a change of somebody's."""


@dataclass(frozen=True, slots=True)
class MarkedGood:
    state: State
    why: str
    """`ran 30m without a trigger`, `verified after checkout-3`, `marked by unix:ann`, `ref checkpoint-7`."""


@dataclass(frozen=True, slots=True)
class MarkTaken:
    """A trigger blamed a state: it is good no more."""

    state: State
    why: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Releases left behind by a rollback that helped, or named by a person: never a target."""

    releases: Mapping[str, str]
    """Layer to release id."""
    why: str


@dataclass(frozen=True, slots=True)
class QuarantineLifted:
    releases: Mapping[str, str]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A hold by API or command line; signal files need no fact. On the fleet's stream it holds all services."""

    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unheld:
    pass


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision on a trigger; every one is kept."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class NoticeAcknowledged:
    """A person has seen what was refused; its reminders stop."""

    episode: str = ""
    """Empty: everything refused so far."""


# -- of the fleet -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Opening:
    """Intent, with `Opened` in one unit: budgets and one open incident a service hold by its position."""

    service: str
    incident: str
    manual: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """With `Closed` or `Relapsed` in one unit."""

    service: str
    incident: str
    outcome: Outcome
    acted: bool
    """Whether any step was begun."""
    watch_until: datetime | None = None
    manual: bool = False


@dataclass(frozen=True, slots=True)
class BreakerReset:
    """A person lets automatic rollbacks go on."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about rollbackd itself or a service that people should hear of."""

    kind: str
    """`backend_unreachable`, `quarantined_release`, `cannot_roll_back`, `journal`, `override`, `rule_fault`, …"""
    text: str
    service: str = ""
    over: bool = False
    """The trouble is over."""
    details: Mapping[str, str] = field(default_factory=dict)


IncidentFact = (
    Opened | Adopted | Joined | Planned | Entering | Entered | EnterFailed | ApplyStarted | Applied | ApplyFailed
    | StepSuperseded | Gated | Leaving | Left | LeaveFailed | Round | PlanEnded | Paused | Unpaused | AbortRequested
    | Acknowledged | Parked | Closed | Relapsed | Told
)  # fmt: skip
ServiceFact = (
    Changed | MarkedGood | MarkTaken | Quarantined | QuarantineLifted | Held | Unheld | Decided | NoticeAcknowledged
)
FleetFact = Opening | Ended | BreakerReset | Notice | Held | Unheld
Fact = IncidentFact | ServiceFact | FleetFact

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Fact)}

KINDS = frozenset(_KINDS)
"""Every kind that this version can read."""


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_KINDS[kind])


@dataclass(frozen=True, slots=True)
class Record:
    """A fact as the journal keeps it."""

    seq: int
    """Its place among all facts of all streams."""
    stream: str
    n: int
    """Its place in its stream, from 1."""
    at: datetime
    actor: str
    fact: Any


def encode(fact: Any) -> tuple[str, bytes]:
    """Kind and JSON body."""
    kind = type(fact).__name__
    return kind, _adapter(kind).dump_json(fact)


def decode(kind: str, body: bytes | str) -> Any:
    """The fact again. :raises KeyError: for a kind that this version does not know."""
    return _adapter(kind).validate_json(body)
