"""What people and scripts are shown: frozen values that become JSON as they are. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
    change: str = ""
    """Who announced the change that led here, and of what kind: `hotfix by unix:ann`; empty when nobody did."""


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
class ChangeView:
    """An announced change."""

    id: str
    service: str
    at: datetime
    by: str
    kind: str
    priority: str
    """Empty when none was given."""
    releases: Mapping[str, str]
    confirm_by: datetime | None
    """When it goes back unless it is confirmed."""
    confirmed: str
    """By whom; empty: nobody yet."""
    text: str
    state: str = ""
    """The key of the state that it led to; empty when that was not seen yet."""
    status: str = ""
    """`announced` (not seen yet), `running`, `waiting` (to be confirmed), `overdue`, `confirmed`, `replaced` (it runs
    no more), `unseen` (nothing came of it in time)."""


@dataclass(frozen=True, slots=True)
class UpgradeView:
    """A layer that a person took forward."""

    service: str
    layer: str
    before: str
    after: str
    copy: str = ""
    """The copy of what was there before; empty: it was there already, and nothing was done."""
    change: str = ""
    """What it is announced as."""


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
    waiting: tuple[ChangeView, ...] = ()
    """Announced changes that wait to be confirmed, newest first."""
    asks: bool = False
    """Its open incident waits for people."""
    drilled: datetime | None = None
    """When a drill asked since the start whether a rollback would work; None: it was not asked yet."""
    unready: tuple[str, ...] = ()
    """What that drill found: why a rollback would not work, a sentence each."""


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
    expected: timedelta | None = None
    """How long it took in the past; None when it never ran."""
    attempt: int = 0
    """Which attempt runs, or failed last; 0 while there was none."""
    since: datetime | None = None
    """When what runs of it was begun."""
    took: timedelta | None = None
    """How long it took, once it is done."""


@dataclass(frozen=True, slots=True)
class VerificationView:
    """How far the checks after the last step are."""

    rounds: int
    """Good rounds in a row so far."""
    passes: int
    """How many of them are wanted."""
    next_look: datetime
    deadline: datetime


@dataclass(frozen=True, slots=True)
class QuestionView:
    """What an incident asks of people."""

    why: tuple[str, ...]
    """Sentences: what stands against going back unasked."""
    missing: str
    """What is still missing, such as `one of tech`."""
    approvals: tuple[str, ...]
    """Who said yes."""
    expires: datetime
    otherwise: str
    """`escalate` or `roll_back`, when nobody answers."""
    of: str = ""
    """Who is asked, a sentence: `one of tech (unix:ann, unix:bob) and one of product (token:desk)`."""
    excluded: str = ""
    """Who announced the change and may not say yes; empty when everybody asked may."""
    asked: datetime | None = None


@dataclass(frozen=True, slots=True)
class CheckView:
    """One answer of one check."""

    name: str
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class HealthView:
    """What a service's checks say right now."""

    service: str
    healthy: bool
    """Every check that verification counts is good."""
    checks: tuple[CheckView, ...]
    """Those, in the configuration's order."""
    others: tuple[CheckView, ...] = ()
    """Those that only warn, and those that verification does not ask."""


@dataclass(frozen=True, slots=True)
class IncidentView:
    """An incident at a glance."""

    id: str
    service: str
    status: str
    """`asking`, `queued`, `running`, `paused`, `parked`, `verifying` or `closed`."""
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
    change: str = ""
    """The change that the trouble is put down to, a sentence; empty when none is known."""
    question: QuestionView | None = None
    """What it asks, while it asks."""
    checks: tuple[CheckView, ...] = ()
    """What the service's checks said when it was opened."""
    evidence: tuple[CheckView, ...] = ()
    """What was asked besides, when figures stayed bad or after an end that did not help."""
    notes: tuple[str, ...] = ()
    """What its brackets said of how they were entered or left, where that is not as one would expect."""
    verification: VerificationView | None = None
    """How far verification is, while it goes on; only where one incident is asked for."""
    watch_until: datetime | None = None
    """Until when trouble of the same state makes it ineffective, once it recovered."""
    seq: int = 0
    """The place of its opening among all facts, in a list: `before` it are older ones; 0 where nothing is asked so."""


@dataclass(frozen=True, slots=True)
class FindingView:
    guard: str
    against: str
    """Empty: passed."""
    reason: str
    escalate: bool = False


@dataclass(frozen=True, slots=True)
class EvidenceView:
    """What a rule saw: the value against its threshold."""

    source: str
    """The alert, the query, or the check's name."""
    value: str
    threshold: str
    """Empty for an alert."""
    at: datetime
    url: str = ""
    """Where it can be seen; empty when nobody said."""


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
    change: str = ""
    """The newest change before the trouble, a sentence."""
    seen: tuple[EvidenceView, ...] = ()
    """The same evidence, part by part."""
    seq: int = 0
    """Its place among all facts, in a list: `before` it are older ones."""


@dataclass(frozen=True, slots=True)
class PlotMarkView:
    """A moment on a plot."""

    at: datetime
    kind: str
    """`change`, `onset`, `decision`, `rollback` (its first step) or `end`."""


@dataclass(frozen=True, slots=True)
class PlotView:
    """What the rule's query said around the onset, as it is kept with the incident."""

    query: str
    points: tuple[tuple[datetime, float | None], ...]
    """300 at most, oldest first; null where nothing was known."""
    threshold: float | None
    """Null where it is compared with what moves."""
    limit: str
    """What is bad, as the rule says it: `> 0.1`; empty: nothing says it."""
    marks: tuple[PlotMarkView, ...]
    url: str = ""
    """Where Prometheus draws the query; empty where its address is a secret, or of the daemon's host alone."""


@dataclass(frozen=True, slots=True)
class TickList:
    """Things to do after a rollback."""

    heading: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IncidentDetail:
    """All about one incident, from the journal alone; beside it what the host's reports ask of people."""

    incident: IncidentView
    decision: DecisionView | None
    records: tuple[RecordView, ...]
    after_care: tuple[TickList, ...] = ()
    review: tuple[str, ...] = ()
    """What only people know."""
    plot: PlotView | None = None
    """What was measured around the onset; null where nothing was, and where only news is asked for."""


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
    id: str = ""
    """Names this plan: `rollbackd rollback --plan-id` runs it as shown, or not at all; empty when there is none."""
    verification: timedelta | None = None
    """The shortest time that verification takes after the last step."""
    expected: timedelta | None = None
    """All steps, as long as they took in the past, and verification; None while a step was never run."""


@dataclass(frozen=True, slots=True)
class RuleTrialView:
    """What a rule makes of an alert that is tried."""

    rule: str
    asks: bool
    """Whether the alert is one that it asks for."""
    reason: str
    """`met`, why it is not met yet, or what of the alert does not fit."""


@dataclass(frozen=True, slots=True)
class HeardView:
    """Who would hear of a decision."""

    receiver: str
    event: str
    text: str
    """The message's title, or when a later tier is told."""


@dataclass(frozen=True, slots=True)
class TriggerTrialView:
    """What would be decided on a trigger, done and told, were it the first one."""

    decision: DecisionView
    plan: str
    """The plans that would be tried, in order."""
    brackets: tuple[str, ...]
    steps: tuple[StepView, ...]
    problems: tuple[str, ...]
    """What the layers say would stop a rollback."""
    expected: timedelta | None
    """All steps, as long as they took in the past, and verification; None while a step was never run."""
    heard: tuple[HeardView, ...]


@dataclass(frozen=True, slots=True)
class AlertTrialView:
    """An alert that was tried; nothing was written, done or told."""

    labels: Mapping[str, str]
    at: datetime
    """When it would begin, and reach us."""
    service: str
    """Whose it is; empty: nobody's."""
    why: str
    """Why nothing comes of it; empty when something does."""
    rules: tuple[RuleTrialView, ...] = ()
    """Those of the service that ask for alerts."""
    triggers: tuple[TriggerTrialView, ...] = ()
    """Each as if it were the only one; in earnest the first opens an incident, and the others join it."""


@dataclass(frozen=True, slots=True)
class ReceiverTrialView:
    """A receiver that was sent a test."""

    receiver: str
    kind: str
    """`slack`, `pagerduty`, …"""
    taken: bool
    """Whether it took the message, and its end where it keeps troubles open."""
    text: str
    """What the other side said."""
    title: str
    """The message's title, by which it is found there."""
    took: timedelta


@dataclass(frozen=True, slots=True)
class PassageView:
    """Whether an alert came through Alertmanager to us."""

    came: bool
    text: str
    """How, or why not, and what to look at."""
    took: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class ProbeView:
    """One question of a live check, and its answer."""

    part: str
    """`journal`, `query`, `prometheus`, `alertmanager`, `route`, `layer` or `receiver`."""
    name: str
    """What was asked: a rule, a layer, a receiver."""
    result: str
    """`ok`, `wrong`, or `note` for what is allowed and may still be a mistake."""
    text: str


@dataclass(frozen=True, slots=True)
class LiveCheckView:
    """What was asked of everything that the configuration names."""

    fine: bool
    """Nothing is wrong."""
    asked_by: str
    """Whose rights it was asked with: `the daemon`, or a unix user."""
    probes: tuple[ProbeView, ...]


@dataclass(frozen=True, slots=True)
class CountView:
    """How often something was."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class TimesView:
    """How long something took in a month, in seconds."""

    what: str
    """`detection` (onset to opening), `start` (opening to the first step) or `recovery` (first step to the end)."""
    count: int
    mean: float | None
    p95: float | None
    target: float | None
    """None: there is none."""
    slower: int
    """How many took longer than the target."""


@dataclass(frozen=True, slots=True)
class MonthView:
    """What was done in a month, in UTC; drills count apart."""

    month: str
    rollbacks: int
    """Those that took a first step."""
    recovered: int
    success: float
    """The share of them that recovered, 0 to 1."""
    asked: int
    """Incidents that ended without a step: denied, expired, passed."""
    refused: int
    """Decisions not to roll back."""
    drills: int
    """Executed ones."""
    drills_ready: int
    times: tuple[TimesView, ...]
    outcomes: tuple[CountView, ...]
    causes: tuple[CountView, ...]
    """The rules that triggered."""
    services: tuple[CountView, ...]
    against: tuple[CountView, ...]
    """The guards that stood against what was refused."""
    unready: tuple[str, ...]
    """Services that could not be rolled back now, a sentence each."""


@dataclass(frozen=True, slots=True)
class EventView:
    """One fact of the journal, for programs that read along."""

    seq: int
    """Its place among all facts; ask for what is after it."""
    at: datetime
    actor: str
    kind: str
    service: str
    """Empty: it is about all of them."""
    incident: str
    """Empty: it is about none."""
    text: str
    """A sentence."""
    fact: Mapping[str, Any]
    """The fact as it is kept."""


@dataclass(frozen=True, slots=True)
class DrillLayerView:
    """What a drill found of one layer."""

    layer: str
    part: str
    """`step` or `bracket`."""
    before: str
    after: str
    """Where it would go; empty when it would not move."""
    problems: tuple[str, ...]
    snapshot: str = ""
    """What became of the snapshot of where it would go, in words; empty when the layer keeps none of it."""
    expected: timedelta | None = None
    """How long its step took in the past; None when it never ran."""
    target: timedelta | None = None
    """How long it may take."""


@dataclass(frozen=True, slots=True)
class DrillView:
    """A drill: could a rollback work, or did one that was executed and taken back."""

    service: str
    at: datetime
    actor: str
    plans: tuple[str, ...]
    result: str
    """`ready`, `not_ready`, `interrupted`, or `running` while one that is executed has not ended."""
    problems: tuple[str, ...] = ()
    """Sentences, each with what to do."""
    slow: tuple[str, ...] = ()
    """What takes longer than its target."""
    took: timedelta = timedelta()
    """The asking, or the way there."""
    expected: timedelta | None = None
    """How long a rollback takes, from the past, verification included; None when a step never ran."""
    target: timedelta | None = None
    """How long it may take."""
    incident: str = ""
    """The one that went there; empty: nothing was touched."""
    returned: str = ""
    """The one that came back."""
    layers: tuple[DrillLayerView, ...] = ()
    """Only in the answer to the order; a list has them no more."""
    checks: tuple[CheckView, ...] = ()
    present: StateView | None = None
    goes_to: StateView | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """`/readyz`."""

    ready: bool
    problems: tuple[str, ...]
    """Sentences. What a rule has no data of does not make it unready; the journal, a backend or a faulty rule does."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiverView:
    """Somebody who is told."""

    name: str
    waiting: int
    """Messages that are not delivered yet."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """A daemon that shares the journal with others."""

    host: str
    version: str
    since: datetime
    """When this process was seen first."""
    silent: timedelta
    """How long it has not been heard of."""
    ahead: float
    """How many seconds its clock is ahead of the database's."""
    configuration: str
    """Stands for all in its configuration that should be the same on each host."""
    drives: bool
    epoch: int
    """That of who drives; each one that takes the journal over has a higher one."""


@dataclass(frozen=True, slots=True)
class DaemonView:
    """The daemon itself at a glance."""

    name: str
    """Who speaks."""
    version: str
    now: datetime
    ready: bool
    problems: tuple[str, ...]
    """What keeps it from its work, a sentence each."""
    breaker: str
    """Why no automatic rollback begins until a person resumes it; empty while the breaker is closed."""
    polled: datetime | None
    """When Prometheus was asked last; None: not yet, or there is none."""
    poll_problem: str
    """Why that had no answer; empty when it had one."""
    received: datetime | None
    """When alerts were posted last; None since the start."""
    receivers: tuple[ReceiverView, ...]
    driver: str = ""
    """Where several hosts share the journal: who drives, and whether this one stands by; else empty."""
