"""Facts: what the journal keeps, append-only, one class for each kind. Frozen, no I/O.

A body once written is never rewritten: a new field needs a default, a class keeps its name. Facts marked `Intent` name
the fact that they follow, and lose when another came first. The others take the next place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, get_args

from pydantic import TypeAdapter

from rollbackd.model import (
    CheckResult,
    Decision,
    Outcome,
    Plan,
    Priority,
    Release,
    Request,
    SignalHold,
    State,
    Trigger,
    Verdict,
)


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
    host: str = ""
    """Where that is, when several hosts may drive; else empty."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Another trigger of the same service while this incident is open: evidence."""

    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Examined:
    """The service's checks, run once beside a decision that asks or acts, for people to see."""

    results: tuple[CheckResult, ...]


@dataclass(frozen=True, slots=True)
class Approved:
    """A person says yes to what the incident asks."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """A person says no."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """The world moved after people were asked: the question is another now, and the yeses so far are void."""

    decision: Decision
    changed: str
    """What is different now, as a sentence."""


@dataclass(frozen=True, slots=True)
class Risen:
    """Intent, with `Rising` in one unit. A question became a rollback."""

    decision: Decision
    why: str
    """`approved by unix:ann, unix:bob`, `nobody answered within 10m`, `data-corruption came`."""
    by_people: bool = False


@dataclass(frozen=True, slots=True)
class ClockPassed:
    """Something took longer than it may; each clock of an incident is passed once."""

    clock: str
    """`start_within`, `recover_within`, or a target: `target:code`."""
    limit: timedelta
    text: str


@dataclass(frozen=True, slots=True)
class Escalated:
    """The next people are told."""

    tier: int
    """Its place in `notify.escalation`, from 0."""
    why: str


@dataclass(frozen=True, slots=True)
class Planned:
    """The layers were looked at, every `plan` and `ready` passed, and the guards once more."""

    plan: Plan
    present: State


@dataclass(frozen=True, slots=True)
class Entering:
    """Intent. A bracket is about to be entered."""

    layer: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Entered:
    layer: str
    note: str = ""
    """What people should know of how it was entered; empty: nothing."""


@dataclass(frozen=True, slots=True)
class EnterFailed:
    layer: str
    reason: str
    permanent: bool
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class ApplyStarted:
    """Intent. A step is about to be applied."""

    layer: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Applied:
    layer: str
    note: str = ""
    """What people should know of how it was done; empty: nothing."""
    brought: Mapping[str, Release] = field(default_factory=dict)
    """Layers that are part of it and show another release since, such as the schema of a database that was restored."""


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
class ReportedLate:
    """What an effect came to on a host that drove before: heard of only when another one had taken over.

    It is kept for people; nothing is undone, and nothing follows from it.
    """

    what: str
    """`enter`, `apply` or `leave`."""
    layer: str
    host: str
    ended: datetime
    failed: str = ""
    """Why it failed; empty: it was done."""


@dataclass(frozen=True, slots=True)
class Gated:
    """One round of the gate checks."""

    verdict: Verdict
    results: tuple[CheckResult, ...]


@dataclass(frozen=True, slots=True)
class Leaving:
    """Intent. A bracket is about to be left."""

    layer: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Left:
    layer: str
    note: str = ""


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
class EvidenceTaken:
    """What stands around a rollback that does not help, asked for people to read; nothing is decided by it."""

    results: tuple[CheckResult, ...]
    at_end: bool = False
    """Whether it was asked after the end."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the rule's query said around the onset, for people to see as a plot; nothing is decided by it."""

    query: str
    begin: datetime
    step: timedelta
    values: tuple[float | None, ...]
    """One each step from `begin` on, 300 at most and of four digits; None where nothing was known."""
    threshold: float | None = None
    """None where it is compared with what moves."""
    limit: str = ""
    """What is bad, as the rule says it: `> 0.1`; empty: nothing says it."""
    at_end: bool = False
    """Whether it was asked after the end, and reaches to it."""


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
    """A person has seen the incident: reminders stop, and brackets with `leave: acknowledged` are left."""

    leave: bool = False
    """Whether every bracket that is still entered is to be left."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The incident waits for a person: it killed its driver again and again, or the world contradicts the journal."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Relapsed:
    """The incident recovered, and in the watch time after it the same state was in trouble again: it did not help."""

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
    fixed: tuple[str, ...] = ()
    """Layers that its plan took to a release of the configuration's own: it is never good by itself."""
    unasked: tuple[str, ...] = ()
    """Rules that ask what is switched off in it."""


@dataclass(frozen=True, slots=True)
class MarkedGood:
    state: State
    why: str
    """`ran 30m without a trigger`, `verified after checkout-3`, `marked by unix:ann`, `ref checkpoint-7`."""


@dataclass(frozen=True, slots=True)
class MarkTaken:
    """A trigger blamed a state, which is good no more."""

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
class Mending:
    """A person mends it, and says how long that takes; meanwhile nothing goes back. It ends as a hold does.

    Of a service; an incident that is open then has it, too.
    """

    length: timedelta
    reason: str
    heeded: bool = True
    """Whether it holds anything: an estimate beyond `limits.mending` does not."""


@dataclass(frozen=True, slots=True)
class Unheld:
    pass


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision on a trigger; every one is kept."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Announced:
    """Somebody says that the service changes, or has just changed."""

    id: str
    """The announcer's idempotency key, or a name of our own."""
    releases: Mapping[str, str] = field(default_factory=dict)
    """Layer to release as the announcer names it: an id, a prefix of it or a label; empty: whatever changes now."""
    kind: str = ""
    priority: Priority | None = None
    confirm_by: datetime | None = None
    """When it goes back unless somebody confirms it before; None: never."""
    text: str = ""
    by: str = ""
    """Who makes it, where the announcer, such as a CI job, says so; empty: the announcer."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A person, or CI, says that an announced change is well."""

    id: str
    """The announcement's."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """A plan that was printed; it can be run as shown."""

    id: str
    """A digest of all that it shows: the same plan has the same id."""
    request: Request
    present: State
    target: State
    plans: tuple[str, ...]
    steps: tuple[str, ...]
    """Layer and release ids of the first plan's steps."""


@dataclass(frozen=True, slots=True)
class Drilled:
    """A drill was held: what a rollback would find, or what it did when one was executed and taken back."""

    plans: tuple[str, ...]
    result: str
    """`ready`, `not_ready`, or `interrupted`, which says nothing either way."""
    problems: tuple[str, ...] = ()
    """Sentences, each with what to do."""
    took: timedelta = timedelta()
    """How long the asking took, or the way there; for an executed drill without the return."""
    expected: timedelta | None = None
    """How long a rollback takes, from the past; None when a step never ran."""
    target: timedelta | None = None
    """How long it may take."""
    incident: str = ""
    """The one that went there; empty: nothing was touched."""
    returned: str = ""
    """The one that came back; empty when there was nothing to take back."""
    slow: tuple[str, ...] = ()
    """What takes longer than its target; a sentence each. It makes nothing unready."""
    execute: bool = False
    """Whether it was to be executed, whatever came of it."""


@dataclass(frozen=True, slots=True)
class SnapshotBegun:
    """Work on a layer's snapshots begins; what cuts it off is found by it, and gone on with."""

    layer: str
    run: str
    """Its own name: the facts that come of it have it, too."""
    what: str
    """`keep`: take, verify, send elsewhere, drop old ones; `test`: into a scratch place; `restore`."""
    schedule: str = ""
    """The entry of the calendar that wants it; empty: a person does."""
    name: str = ""
    """The snapshot that is restored, or how the one that is taken is to be called; empty: by its layer."""
    only: tuple[str, ...] = ()
    """The parts that are restored; empty: all."""
    release: str = ""
    """The release that became good and is kept for that, of data the key of the state; empty: whatever is there."""
    kind: str = ""
    """`schema`: that alone; empty: all."""


@dataclass(frozen=True, slots=True)
class Snapshotted:
    """A snapshot was taken, came back from elsewhere, or was there already when it was to be taken."""

    layer: str
    name: str
    release: str
    created: datetime
    run: str = ""
    why: str = ""
    size: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotVerified:
    """All of a snapshot was read, or restored into a scratch place, and compared with what was saved."""

    layer: str
    name: str
    created: datetime
    """When it was taken."""
    problems: tuple[str, ...] = ()
    rehearsed: bool = False
    run: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotCopied:
    """A snapshot was sent elsewhere by a command."""

    layer: str
    name: str
    copy: str
    """The name of the copy there."""
    run: str = ""
    digest: str = ""
    """The sha256 of what was sent, in hex; empty in facts of old."""


@dataclass(frozen=True, slots=True)
class SnapshotRestored:
    """A person took a layer to a snapshot."""

    layer: str
    name: str
    release: str
    saved: str
    """The snapshot of what was there before."""
    run: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotEnded:
    """The work that `SnapshotBegun` began is over."""

    layer: str
    run: str
    problems: tuple[str, ...] = ()
    """Sentences; none: all of it was done."""
    dropped: tuple[str, ...] = ()
    """Snapshots that nothing keeps any more."""


@dataclass(frozen=True, slots=True)
class NoticeAcknowledged:
    """A person has seen what was refused; its reminders stop."""

    episode: str = ""
    """Empty: everything refused so far."""


@dataclass(frozen=True, slots=True)
class Subsided:
    """Trouble that people heard of has ended by itself: what was refused, or what nothing else ends."""

    episode: str
    """The refused one's; empty where `thread` says which."""
    why: str
    thread: str = ""
    """Of an incident that ended badly and was acknowledged, or of a notice without an end."""


# -- of the fleet -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Opening:
    """Intent, with `Opened` in one unit: budgets and one open incident a service hold by its position."""

    service: str
    incident: str
    manual: bool = False
    asks: bool = False
    """Whether it waits for people; then it spends nothing until `Rising`."""
    drill: str = ""
    """`there`: an executed drill begins, which lasts until `Drilled` names this incident; `back`: its return."""


@dataclass(frozen=True, slots=True)
class Rising:
    """Intent, with `Risen` in one unit: what waited for people acts from now on, and counts as opened now."""

    service: str
    incident: str
    manual: bool = False
    """Whether people approved it; then no budget is asked."""


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
    denied: bool = False
    """A person said no: the same episode is not asked or acted on again."""
    stepped: datetime | None = None
    """Of one that recovered: when its last step ended. What is reported from then on is of the state that it led to."""
    unfinished: tuple[str, ...] = ()
    """Layers of the plan in which it broke off. Whatever release they show, their steps are still to be done."""
    toward: str = ""
    """The key of the state that it was to reach."""


@dataclass(frozen=True, slots=True)
class BreakerReset:
    """A person lets automatic rollbacks go on."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Paged:
    """A receiver that keeps open what it is told got one message about several troubles, in a thread of its own."""

    receiver: str
    thread: str
    incidents: tuple[str, ...]
    """The threads of those: incidents, or refusals. Once all are acknowledged the page is, and with the end of the last
    it is resolved."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about rollbackd itself or a service that people should hear of."""

    kind: str
    """`backend_unreachable`, `quarantined_release`, `cannot_roll_back`, `journal`, `override`, `rule_fault`, …"""
    text: str
    service: str = ""
    over: bool = False
    """Whether the trouble is over."""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignalHolds:
    """All that the signal files of a host hold from now on, where several hosts share the journal."""

    host: str
    holds: tuple[SignalHold, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """The journal goes on elsewhere: the last fact of this one, on which nothing starts any more."""

    to: str
    """Where, as sentences call it."""


IncidentFact = (
    Opened | Adopted | Joined | Examined | Approved | Denied | AskedAgain | Risen | ClockPassed | Escalated | Planned
    | Entering | Entered | EnterFailed | ApplyStarted | Applied | ApplyFailed | StepSuperseded | ReportedLate | Gated
    | Leaving | Left | LeaveFailed | Round | EvidenceTaken | Measured | PlanEnded | Paused | Unpaused | AbortRequested
    | Acknowledged | Parked | Closed | Relapsed | Told | Mending
)  # fmt: skip
ServiceFact = (
    Changed | MarkedGood | MarkTaken | Quarantined | QuarantineLifted | Held | Unheld | Mending | Decided
    | NoticeAcknowledged | Announced | Confirmed | Proposed | Drilled | SnapshotBegun | Snapshotted | SnapshotVerified
    | SnapshotCopied | SnapshotRestored | SnapshotEnded | Subsided
)  # fmt: skip
FleetFact = (
    Opening | Rising | Ended | BreakerReset | Paged | Notice | NoticeAcknowledged | Subsided | Held | Unheld | Moved
    | SignalHolds
)  # fmt: skip
Fact = IncidentFact | ServiceFact | FleetFact

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Fact)}

KINDS = frozenset(_KINDS)
"""Every kind that this version can read."""


def kinds(*classes: type[Fact]) -> tuple[str, ...]:
    """The names that classes of facts have in the journal."""
    return tuple(one.__name__ for one in classes)


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
    """A fact as its kind and JSON body."""
    kind = type(fact).__name__
    return kind, _adapter(kind).dump_json(fact)


def decode(kind: str, body: bytes | str) -> Any:
    """The fact of a kind and a body. :raises KeyError: for a kind that this version does not know."""
    return _adapter(kind).validate_json(body)
