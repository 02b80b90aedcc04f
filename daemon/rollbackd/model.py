"""The values that flow through rollbackd. Frozen, no I/O; imports nothing of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Literal

DAEMON = "daemon"
"""The actor of what rollbackd does by itself. Others: `unix:deploy`, `token:release-desk`."""

FLEET = "fleet"
"""The stream of what concerns all services; a service's stream is `service:<name>`, an incident's `incident:<id>`."""


def service_stream(service: str) -> str:
    return f"service:{service}"


def incident_stream(incident: str) -> str:
    return f"incident:{incident}"


def name_in(stream: str) -> str:
    """The service's name, or the incident's id, that a stream is of; empty for the fleet's."""
    return stream.partition(":")[2]


def incident_service(stream: str) -> str:
    """The service of an incident's stream; empty for any other stream."""
    name = name_in(stream)
    return name.rpartition("-")[0] if stream == incident_stream(name) else ""


class Priority(StrEnum):
    """How urgent; P0 is the highest."""

    P0 = "P0"
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"


class Verdict(StrEnum):
    """What one look at a condition or a check says."""

    GOOD = "good"
    BAD = "bad"
    INCONCLUSIVE = "inconclusive"


class Action(StrEnum):
    """What is made of a trigger; `decide` says which wins when guards differ."""

    ROLL_BACK = "roll_back"
    ASK = "ask"
    OBSERVE = "observe"
    REFUSE = "refuse"


class Outcome(StrEnum):
    """How an incident ended."""

    RECOVERED = "recovered"
    INEFFECTIVE = "ineffective"
    UNVERIFIED = "unverified"
    FAILED = "failed"
    ABORTED = "aborted"
    DECLINED = "declined"
    EXPIRED = "expired"
    PASSED = "passed"
    SUPERSEDED = "superseded"


class Progress(StrEnum):
    """How far a change is, as the world itself shows it; right after a crash too."""

    NOT_STARTED = "not_started"
    """Nothing finished: `apply` may be called, also when it was cut off in the middle before."""
    RUNNING = "running"
    """A process of an earlier life still works on it; ask again."""
    DONE = "done"
    SUPERSEDED = "superseded"
    """Somebody else moved the layer meanwhile; it is theirs now."""


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a layer, named by its content."""

    id: str
    label: str = field(default="", compare=False)
    """What people call the release: a tag, a subject line."""
    created: datetime | None = field(default=None, compare=False)
    good: bool = field(default=False, compare=False)
    """Marked good by a ref that the layer names (`good: checkpoint-*`)."""
    names: tuple[str, ...] = field(default=(), compare=False)
    """What else a person may call it: all its tags and commits. Only `releases()` gives them; never journaled."""
    parts: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """Parts of the layer, such as hosts, and the id of the release that each has, while they differ: this only names
    them all, and is no release to go back to."""

    @property
    def name(self) -> str:
        """Label and short id, for people."""
        short = self.id[:12]
        return f"{self.label} ({short})" if self.label and self.label != short else short

    def is_called(self, text: str) -> bool:
        """Whether the text is its id, its label or another name of it, in full."""
        return text in {self.id, self.label, *self.names}


NO_RELEASE = Release("-")
"""Stands for before and after in the change of a layer without releases, such as a process to restart."""


@dataclass(frozen=True)  # without slots: a ledger of years asks for the same keys millions of times
class State:
    """The releases of all layers that have them."""

    releases: Mapping[str, Release]

    @cached_property
    def key(self) -> str:
        """12 hex digits over layers and release ids; equal states have equal keys."""
        text = "\n".join(f"{layer}={release.id}" for layer, release in sorted(self.releases.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """For people: `code v41 (3f2a…), config …`."""
        return ", ".join(f"{layer} {release.name}" for layer, release in sorted(self.releases.items()))

    @property
    def mixed(self) -> tuple[str, ...]:
        """The layers whose parts differ. With any of them it is no state that ran or could be good."""
        return tuple(layer for layer, release in sorted(self.releases.items()) if release.parts)

    def differing(self, other: State) -> tuple[str, ...]:
        """The layers whose releases differ between the two."""
        layers = sorted({*self.releases, *other.releases})
        return tuple(layer for layer in layers if self.releases.get(layer) != other.releases.get(layer))


@dataclass(frozen=True, slots=True)
class DataLoss:
    """What a step takes from data, as two spans of writes that are never added up: those since the time that is
    wanted, which are meant to go, and those between the copy and that time."""

    copied: datetime
    """The time whose data comes back."""
    limit: timedelta
    """How long a span of writes between the copy and the wanted time the layer accepts unasked: its `max_loss`."""
    wanted: datetime | None = None
    """The time whose data was asked for, not before `copied`: the start of the blamed change. Set by the core."""
    sure: bool = True
    """False: no change is blamed, nor did anybody name the copy or the time. Set by the core."""

    @property
    def aim(self) -> datetime:
        """The time whose data was asked for; that of the copy while nobody asked for any."""
        return self.copied if self.wanted is None else self.wanted

    @property
    def gap(self) -> timedelta:
        """The span between the copy and the wanted time."""
        return self.aim - self.copied


@dataclass(frozen=True, slots=True)
class DataGoal:
    """The time whose data is wanted."""

    time: datetime
    sure: bool = True
    """Whether a person named it, or it is the start of a change that the trouble is put down to. Else it is only when
    the trouble began, and people are asked."""


@dataclass(frozen=True, slots=True)
class Change:
    """A layer's way from one release to another, as planned; nothing has happened yet."""

    layer: str
    before: Release
    after: Release
    key: str = ""
    """Incident, position of the plan and layer; the same after a crash. Set by the core, not by the adapter."""
    intended: datetime | None = None
    """When the intent to apply it was journaled first. Set by the core."""
    reversible: bool = True
    risks: tuple[str, ...] = ()
    """Sentences for people: what this may lose."""
    aside: str = ""
    """What the step keeps aside, which going back to `before` would not bring again; what to do. No drill does it."""
    loss: DataLoss | None = None
    """What it takes from data, of a layer whose releases are lineages (`PointInTime`); else None."""

    @property
    def name(self) -> str:
        """For people: `code v42 (9c1b…) -> v41 (3f2a…)`, or the layer alone when it has no releases."""
        moves = self.after != NO_RELEASE
        return f"{self.layer} {self.before.name} -> {self.after.name}" if moves else self.layer


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a layer could not be rolled back right now: a sentence that says what to do."""

    layer: str
    text: str


@dataclass(frozen=True, slots=True)
class Traits:
    """What a layer can be used for; fixed by its settings."""

    releases: bool = True
    """Whether it has releases: `current` and `releases` answer."""
    step: bool = True
    bracket: bool = False
    data: bool = False
    """Whether it holds data: a plan goes back in it only by name."""
    local: bool = False
    """Whether what it moves is on the host that runs rollbackd, and another one on every other host."""


# -- signals ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a webhook or of Alertmanager's API; labels and annotations are text and never anything else."""

    fingerprint: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime | None
    """When it ended; None while it fires."""
    url: str = ""
    """Where the expression can be seen."""

    @property
    def firing(self) -> bool:
        return self.ends_at is None

    @property
    def episode(self) -> str:
        return f"alert/{self.fingerprint}/{self.starts_at.isoformat()}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that CI, a scanner or a business system reported; all of it is text and never anything else."""

    name: str
    key: str
    """The sender's own, or a hash of all that it sent: the same key again is the same event."""
    at: datetime
    firing: bool = True
    """False: what was reported before is over."""
    service: str = ""
    """As the sender names it; empty: its labels say it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A person's own rollback, by command line, API or signal file."""

    service: str
    actor: str
    reason: str = ""
    to: str = ""
    """A release (id, label, or the beginning of an id where a plan was shown), a state's key, or empty for the newest
    good state."""
    plan: str = ""
    irreversible: tuple[str, ...] = ()
    """Layers whose step may be irreversible, by name."""
    over_hold: bool = False
    plan_id: str = ""
    """A printed plan, to be run as shown or not at all."""
    drill: Literal["", "there", "back"] = ""
    """Which way of an executed drill it is; empty: it is none."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a rule saw, in words that need no other source: the query, the value, the threshold."""

    source: str
    """The alert's name and labels, the query, or the check's name."""
    value: str
    """With its unit: `34.2%`, `3.1s`, `firing`, `exit 1`."""
    threshold: str
    """`> 10% for 5m`, `3 failures in a row`; empty for an alert."""
    at: datetime
    url: str = ""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A rule met for a service, or a person's request."""

    service: str
    rule: str
    """The rule's name; `manual` for a person's own."""
    priority: Priority
    episode: str
    """The same text for the same trouble, whichever way it comes."""
    onset: datetime
    """When the trouble began: `startsAt` less the rule's `for`, the first bad sample."""
    reached: datetime
    """When it reached us."""
    evidence: tuple[Evidence, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    plan: tuple[str, ...] = ()
    """The rule's own plan or list of plans; empty: the service's."""
    without_change: Action = Action.ASK
    request: Request | None = None
    """Set for a person's own rollback."""
    impact: str = ""
    """How bad it is: `low`, `medium`, `high`, `critical`; empty when nobody said."""
    scope: str = ""
    """How far it reaches: `some`, `all`, or a word of the user's own."""
    components: tuple[str, ...] = ()
    """What is affected, in the user's own words."""
    users: float | None = None
    """The share of users that is affected, 0 to 1; None when it is not known."""
    met: datetime | None = None
    """When enough was seen, where the rule by its nature sees it later than the onset: an alert fired, the last event
    came. How stale the trigger is counts from then."""
    missed: str = ""
    """Why it comes too late to be acted on without asking; empty when it does not."""

    @property
    def actor(self) -> str:
        """Who wants it: the person who ordered it, or the daemon by itself."""
        return self.request.actor if self.request is not None else DAEMON

    @property
    def drill(self) -> str:
        """`there` or `back`, of an executed drill; empty: it is none."""
        return self.request.drill if self.request is not None else ""


# -- decisions ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Replaced:
    """A change: a state that replaced another. Trouble is put down to changes."""

    before: State
    after: State
    start: datetime
    """The last look at the old state."""
    end: datetime
    """The first look at the new one."""
    announced: str = ""
    """The announcement's id; empty when the change was only seen."""
    by: str = ""
    """Who announced it last."""
    kind: str = ""
    """`hotfix`, `deployment`, or a word of the announcer's own."""
    old_since: datetime | None = None
    """When the old state began to run; None when that was not written down."""
    announcers: tuple[str, ...] = ()
    """Everybody who announced it."""

    @property
    def name(self) -> str:
        """For people: `code v41 (3f2a…) -> v42 (9c1b…), hotfix announced by unix:ann`."""
        moved = []
        for layer in self.after.differing(self.before):
            old, new = self.before.releases.get(layer), self.after.releases.get(layer)
            moved.append(f"{layer} {old.name if old else 'new'} -> {new.name if new else 'gone'}")
        text = ", ".join(moved) or self.after.name
        return f"{text}, {self.kind or 'change'} announced by {self.by}" if self.by else text


@dataclass(frozen=True, slots=True)
class SignalHold:
    """What a signal file holds."""

    scope: str
    """A service's name, or `*`."""
    actor: str
    reason: str
    """A sentence."""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What people are asked before a rollback; it stands until somebody answers or it expires."""

    why: tuple[str, ...]
    """What stands against going back unasked, a sentence each."""
    expires: datetime
    approvals: int = 1
    """How many different people must say yes."""
    by: tuple[str, ...] = ()
    """Groups of which each gives at least one of them; empty: anybody who may order a rollback."""
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The actors of each group in `by`, as configured when it was asked."""
    excluded: tuple[str, ...] = ()
    """Who announced the change, when they may not approve going back."""
    persons: Mapping[str, str] = field(default_factory=dict)
    """Whose each actor is, where that matters, as configured when it was asked; any other is a person of their own."""
    of_hosts: bool = False
    """Whether a user's name has the host behind it, as in unix:ann@ops-1; one name is one person on every host."""
    otherwise: Literal["escalate", "roll_back"] = "escalate"
    """What happens when nobody answers in time."""
    over: bool = False
    """Whether it was asked knowing that the trouble is over."""

    @property
    def counts_persons(self) -> bool:
        """Whether it matters who says yes, and not only that somebody does who may. Then a file's owner is no answer:
        a file keeps its owner when somebody else moves it.
        """
        return self.approvals > 1 or bool(self.by) or bool(self.excluded)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one guard found."""

    guard: str
    against: Action | None
    """None: passed."""
    reason: str
    escalate: bool = False
    """Whether a refusal pages people."""
    counted: bool = True
    """False: shown and recorded, but without effect on the decision."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was made of a trigger, with every guard's finding."""

    trigger: Trigger
    action: Action
    findings: tuple[Finding, ...]
    present: State | None
    target: State | None
    plans: tuple[str, ...] = ()
    """Names, least impact first."""
    joins: str = ""
    """The open incident that this trigger is evidence for."""
    escalate: bool = False
    change: Replaced | None = None
    """The newest change before the trouble; None when none is known."""
    question: ApprovalRequest | None = None
    """What is asked, when the action is to ask."""
    start_within: timedelta | None = None
    """How soon a rollback must have begun, where the policy's row says so; else the priority's clock holds."""
    unfinished: tuple[str, ...] = ()
    """Layers whose step broke off in the rollback before: it is done again, whatever they show."""
    lasting: tuple[str, ...] = ()
    """Guards whose findings are about the onset, and stay found for the episode."""
    data: DataGoal | None = None
    """The time whose data a step on data brings back; None where no layer has any."""

    @property
    def against(self) -> tuple[Finding, ...]:
        """The findings that stand against rolling back."""
        return tuple(finding for finding in self.findings if finding.counted and finding.against is not None)

    @property
    def needs_person(self) -> bool:
        """Whether it was refused for a reason that only a person can mend."""
        if self.joins or self.action is Action.OBSERVE:
            return False
        return any(finding.against is Action.ASK or finding.escalate for finding in self.against)


# -- plans and checks ---------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Bracketed:
    """A bracket of a plan and when it is left."""

    layer: str
    leave: str
    """`steps`, `gate`, `verified` or `acknowledged`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The ordered steps from the present state to the target."""

    name: str
    steps: tuple[Change, ...]
    brackets: tuple[Bracketed, ...] = ()
    unasked: tuple[str, ...] = ()
    """Rules that ask what its steps switch off; nobody asks them while it is off."""

    @property
    def risks(self) -> tuple[str, ...]:
        return tuple(f"{change.layer}: {risk}" for change in self.steps for risk in change.risks)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One answer of one check."""

    name: str
    verdict: Verdict
    reason: str
    """`answered 500 in 1.2s, wants 2xx`; always says what was seen."""
    took: timedelta = timedelta()
    warn: bool = False
    """Whether it is only told, and never fails."""
    lags: bool = False
    """Whether it is bad now and may only lag behind: inconclusive until the deadline, bad there."""


def verdict_of(results: Sequence[CheckResult]) -> Verdict:
    """One verdict of many: bad beats inconclusive, which beats good. Warnings do not count; nothing is inconclusive."""
    counted = {result.verdict for result in results if not result.warn}
    for verdict in (Verdict.BAD, Verdict.INCONCLUSIVE, Verdict.GOOD):
        if verdict in counted:
            return verdict
    return Verdict.INCONCLUSIVE
