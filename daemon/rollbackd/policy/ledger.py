"""The past, folded from facts: states, marks, quarantine, holds, rollbacks, decisions. No I/O.

Folding a stream from its start, with `fold_service` and `fold_fleet`, gives the same as folding it fact by fact.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar, get_args

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import Action, Finding, Outcome, Priority, SignalHold, State
from rollbackd.syntax.units import format_duration

T = TypeVar("T")

KEPT = 100
"""Spells, marks and rollbacks that are remembered of a service."""
KEPT_MARKS = 2 * KEPT
"""Reasons of marks that are remembered of a service: more than there are states that could still be a target."""
KEPT_EPISODES = 10_000
"""Decided episodes of a service: more than can go on at once, since one that is forgotten is decided and told again."""
KEPT_ANNOUNCEMENTS = 50
"""Announced changes that are remembered of a service."""
KEPT_OF_FLEET = 1000
"""Openings and ends that are remembered of all services together."""
LEDGER_KINDS = facts.kinds(
    facts.Changed, facts.MarkedGood, facts.MarkTaken, facts.Quarantined, facts.QuarantineLifted, facts.Decided,
    facts.Announced, facts.Confirmed, facts.Drilled, facts.Mending, *get_args(facts.FleetFact),
)  # fmt: skip
"""The kinds of facts that make the ledger; all kinds of the fleet's stream, since an opening names its last place."""


@dataclass(frozen=True, slots=True)
class Spell:
    """A state, and how long it ran."""

    state: State
    after: datetime
    """The last look at the state before."""
    by: datetime
    """The first look at this one."""
    incident: str = ""
    """The incident whose rollback led here."""
    ended: datetime | None = None
    fixed: tuple[str, ...] = ()
    """Layers that the rollback took to a release of the configuration's own."""
    unasked: tuple[str, ...] = ()
    """Rules that ask what the rollback switched off."""

    def until(self, ended: datetime) -> "Spell":
        """The spell with its end. `replace` would take ten times as long, and a start ends years of spells."""
        return Spell(self.state, self.after, self.by, self.incident, self.ended or ended, self.fixed, self.unasked)


@dataclass(frozen=True, slots=True)
class Rollback:
    """An incident, as far as budgets and cooldowns need it."""

    incident: str
    opened: datetime
    manual: bool = False
    ended: datetime | None = None
    outcome: Outcome | None = None
    acted: bool = False
    watch_until: datetime | None = None
    waits: bool = False
    """The incident asks people: nothing was begun, and no budget is spent."""
    denied: bool = False
    """A person denied it."""
    drill: str = ""
    """`there` or `back` for an incident of an executed drill; else empty."""
    stepped: datetime | None = None
    """When the last step of a rollback that recovered ended; else None."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The work that a rollback left when it broke off; it stands until somebody changes something."""

    layers: tuple[str, ...]
    """Layers whose steps are still to be done, whatever release they show."""
    target: str
    """The key of the state that the rollback was to reach."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A change that somebody announced."""

    id: str
    at: datetime
    by: str
    """Who makes the change, as the announcer says."""
    releases: Mapping[str, str]
    """Layer to release as it was named: an id, a prefix of it or a label; empty: whatever changes next."""
    kind: str = ""
    priority: Priority | None = None
    confirm_by: datetime | None = None
    text: str = ""
    confirmed: str = ""
    """Who confirmed it; empty: nobody yet."""
    told_by: str = ""
    """Who announced it, when somebody else makes the change."""


@dataclass(frozen=True, slots=True)
class LastDecision:
    """The last decision on an episode."""

    at: datetime
    action: Action
    against: frozenset[str]
    """The guards that stood against."""
    incident: str = ""
    rule: str = field(default="", compare=False)
    alertname: str = field(default="", compare=False)
    """Of the alert that a plain alert rule was met by."""
    onset: datetime | None = field(default=None, compare=False)
    reached: datetime | None = field(default=None, compare=False)
    """When the episode was decided on first, as far as is remembered."""
    found: Mapping[str, Finding] = field(default_factory=dict, compare=False)
    """What stays found of the episode, by guard, each as it was found first."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold by API or command line."""

    actor: str
    reason: str
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


MENDING_APART = timedelta(hours=1)
"""Estimates that are given within this time count together."""


@dataclass(frozen=True, slots=True)
class MendingTime:
    """The time in which a person mends a service, and nothing goes back."""

    actor: str
    length: timedelta
    """The estimate that was given last."""
    since: datetime
    """When the first of those that count together was given."""
    until: datetime

    def since_with(self, now: datetime) -> datetime:
        """From when an estimate counts that is given now."""
        return self.since if now - self.until < MENDING_APART else now

    def within(self, begin: datetime, end: datetime) -> timedelta:
        """How much of a time was spent on mending."""
        return max(timedelta(), min(end, self.until) - max(begin, self.since))


@dataclass(frozen=True, slots=True)
class ServiceLedger:
    """The past of one service."""

    spells: tuple[Spell, ...] = ()
    """States and how long they ran, oldest first; the last one runs now, unless an incident is open."""
    good: Mapping[str, str] = field(default_factory=dict)
    """Keys of good states, each with the reason."""
    marked: tuple[State, ...] = ()
    """States that were marked good, oldest mark first; they need not have run here."""
    taken: frozenset[str] = frozenset()
    """Keys of states that a trigger blamed: only a person or time marks them good again, no ref does."""
    quarantined: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Quarantined releases, each a layer and a release id, with the reason."""
    hold: Hold | None = None
    rollbacks: tuple[Rollback, ...] = ()
    episodes: Mapping[str, LastDecision] = field(default_factory=dict)
    announced: tuple[Announcement, ...] = ()
    """Oldest first."""
    drill: str = ""
    """The incident that the executed drill under way began with; empty: there is none.

    What the layers run then is the drill's doing, and no state of the service.
    """
    ready: bool | None = None
    """Whether the last drill that told anything found the service ready; None: no drill told anything yet."""
    drilled: Mapping[tuple[tuple[str, ...], bool], datetime] = field(default_factory=dict)
    """When the last drill ended, by its plans and whether it was to be executed."""
    unfinished: Unfinished | None = None
    mending: MendingTime | None = None
    """The time of mending that was given last."""

    @property
    def present(self) -> State | None:
        return self.spells[-1].state if self.spells else None

    @property
    def open(self) -> Rollback | None:
        """The open incident."""
        last = self.rollbacks[-1] if self.rollbacks else None
        return last if last is not None and last.ended is None else None

    @property
    def acting(self) -> Rollback | None:
        """The open incident, unless it only asks. While an incident acts, what the layers run is its own doing.

        During an executed drill the last incident, also between the way there and the return.
        """
        running = self.rollbacks[-1] if self.drill and self.rollbacks else self.open
        return None if running is None or running.waits else running

    @property
    def undone(self) -> Rollback | None:
        """The newest rollback that has ended, without drills and without incidents that touched nothing."""
        real = (one for one in reversed(self.rollbacks) if one.acted and not one.drill and one.ended is not None)
        return next(real, None)

    def switched(self, state: State) -> bool:
        """Whether the state runs now and has a release that a plan fixed; only a person calls such a state good."""
        return bool(self.spells and self.spells[-1].fixed and self.spells[-1].state.key == state.key)

    def blocked(self, state: State) -> tuple[str, ...]:
        """The layers whose release in this state is quarantined."""
        return tuple(layer for layer, release in state.releases.items() if (layer, release.id) in self.quarantined)


@dataclass(frozen=True, slots=True)
class FleetLedger:
    """The past of all services together."""

    openings: tuple[tuple[datetime, str, bool], ...] = ()
    """Openings: when, which incident, and whether a person ordered it; newest last."""
    ends: tuple[tuple[datetime, str, Outcome], ...] = ()
    """Ends of automatic incidents that acted, with their last outcome, since the breaker was reset last."""
    hold: Hold | None = None
    signal_holds: Mapping[str, tuple[SignalHold, ...]] = field(default_factory=dict)
    """What signal files hold, by host, where several hosts share the journal; no host without any."""
    n: int = 0
    """The place of the last fact in the fleet's stream, which the next opening follows."""


def fold_service(ledger: ServiceLedger, records: Iterable[Record]) -> ServiceLedger:
    """The service's ledger after more facts of its stream, or openings and ends of its incidents.

    Many facts at once give the same as one by one, and years of facts take a fraction of a second.
    """
    draft = _ServiceDraft(ledger)
    for record in records:
        draft.take(record)
    return draft.ledger()


def fold_fleet(ledger: FleetLedger, records: Iterable[Record]) -> FleetLedger:
    """The fleet's ledger after more facts of its stream."""
    draft = _FleetDraft(ledger)
    for record in records:
        draft.take(record)
    return draft.ledger()


class _ServiceDraft:
    """A service's ledger while facts are taken in; dictionaries keep the order of what came."""

    def __init__(self, ledger: ServiceLedger) -> None:
        self._spells = list(ledger.spells)
        self._good = dict(ledger.good)
        self._marked = {state.key: state for state in ledger.marked}
        self._taken = set(ledger.taken)
        self._quarantined = dict(ledger.quarantined)
        self._hold = ledger.hold
        self._rollbacks = {rollback.incident: rollback for rollback in ledger.rollbacks}
        self._episodes = dict(ledger.episodes)
        self._announced = {one.id: one for one in ledger.announced}
        self._drill = ledger.drill
        self._ready = ledger.ready
        self._drilled = dict(ledger.drilled)
        self._unfinished = ledger.unfinished
        self._mending = ledger.mending

    def ledger(self) -> ServiceLedger:
        return ServiceLedger(
            tuple(self._spells),
            self._good,
            tuple(self._marked.values()),
            frozenset(self._taken),
            self._quarantined,
            self._hold,
            tuple(self._rollbacks.values()),
            self._episodes,
            tuple(self._announced.values()),
            self._drill,
            self._ready,
            self._drilled,
            self._unfinished,
            self._mending,
        )

    def take(self, record: Record) -> None:
        """One more fact."""
        match record.fact:
            case facts.Changed(state, after, by, incident, fixed, unasked):
                self._change(Spell(state, after, by, incident, None, fixed, unasked))
            case facts.MarkedGood(state, why):
                self._mark(state, why)
            case facts.MarkTaken(state, _):
                self._good.pop(state.key, None)
                self._marked.pop(state.key, None)
                self._taken.add(state.key)
            case facts.Quarantined(releases, why):
                self._quarantined.update(dict.fromkeys(releases.items(), why))
            case facts.QuarantineLifted(releases, _):
                for pair in releases.items():
                    self._quarantined.pop(pair, None)
            case facts.Held() | facts.Mending() | facts.Unheld():
                self._take_hold(record)
            case facts.Decided(decision):
                guards = frozenset(finding.guard for finding in decision.against)
                trigger = decision.trigger
                known = self._episodes.get(trigger.episode)
                lasting = {one.guard: one for one in decision.findings if one.guard in decision.lasting}
                verdicted = LastDecision(
                    record.at,
                    decision.action,
                    guards,
                    decision.joins,
                    trigger.rule,
                    trigger.labels.get("alertname", ""),
                    trigger.onset,
                    trigger.reached if known is None or known.reached is None else known.reached,
                    {**lasting, **(known.found if known is not None else {})},
                )
                _keep(self._episodes, trigger.episode, verdicted, KEPT_EPISODES)
            case facts.Announced() | facts.Confirmed():
                self._announce(record)
            case facts.Drilled():
                self._end_drill(record.fact, record.at)
            case _:
                self._take_incident(record)

    def _take_hold(self, record: Record) -> None:
        match record.fact:
            case facts.Held(reason, until):
                self._hold = Hold(record.actor, reason, until)
            case facts.Mending(length, reason, True):
                since = record.at if self._mending is None else self._mending.since_with(record.at)
                self._mending = MendingTime(record.actor, length, since, record.at + length)
                said = f"mending, {format_duration(length)}" + (f": {reason}" if reason else "")
                self._hold = Hold(record.actor, said, record.at + length)
            case facts.Unheld():
                self._hold = None
                if self._mending is not None and self._mending.until > record.at:
                    self._mending = replace(self._mending, until=record.at)
            case _:
                return

    def _mark(self, state: State, why: str) -> None:
        self._taken.discard(state.key)
        _keep(self._good, state.key, why, KEPT_MARKS)
        _keep(self._marked, state.key, state, KEPT)
        if self._spells and self._spells[-1].state.key == state.key:
            self._unfinished = None

    def _take_incident(self, record: Record) -> None:
        match record.fact:
            case facts.Opening(_, incident, manual, asks, drill):
                found = Rollback(incident, record.at, manual, waits=asks, drill=drill)
                _keep(self._rollbacks, incident, found, KEPT)
                self._drill = incident if drill == "there" else self._drill
            case facts.Rising(_, incident, manual):
                _keep(self._rollbacks, incident, Rollback(incident, record.at, manual), KEPT)
            case facts.Ended():
                self._end(record.fact, record.at)

    def _announce(self, record: Record) -> None:
        fact = record.fact
        if isinstance(fact, facts.Confirmed):
            before = self._announced.get(fact.id)
            if before is not None:
                self._announced[fact.id] = replace(before, confirmed=before.confirmed or record.actor)
            return
        if fact.id not in self._announced:
            _keep(self._announced, fact.id, announced(fact, record.at, record.actor), KEPT_ANNOUNCEMENTS)

    def _end_drill(self, fact: facts.Drilled, at: datetime) -> None:
        self._drilled[fact.plans, fact.execute] = at
        if fact.incident == self._drill:
            self._drill = ""
        if fact.result != "interrupted":
            self._ready = fact.result == "ready"

    def _change(self, spell: Spell) -> None:
        last = self._spells[-1] if self._spells else None
        if last is not None:
            if last.state == spell.state:
                return
            self._spells[-1] = last.until(spell.by)
            self._unfinished = self._unfinished if spell.incident else None
        self._spells.append(spell)
        del self._spells[:-KEPT]

    def _end(self, fact: facts.Ended, at: datetime) -> None:
        before = self._rollbacks.get(fact.incident)
        if fact.acted and (before is None or before.drill != "there"):
            self._unfinished = Unfinished(fact.unfinished, fact.toward) if fact.unfinished else None
        if before is not None:
            self._rollbacks[fact.incident] = replace(
                before,
                ended=before.ended or at,
                outcome=fact.outcome,
                acted=fact.acted,
                watch_until=fact.watch_until,
                waits=False,
                denied=fact.denied,
                stepped=fact.stepped or before.stepped,
            )


def announced(fact: facts.Announced, at: datetime, actor: str) -> Announcement:
    """The announcement that a fact tells of."""
    by = fact.by or actor
    given = (fact.releases, fact.kind, fact.priority, fact.confirm_by, fact.text)
    return Announcement(fact.id, at, by, *given, told_by=actor if by != actor else "")


class _FleetDraft:
    """The fleet's ledger while facts are taken in."""

    def __init__(self, ledger: FleetLedger) -> None:
        self._openings = {incident: (at, incident, manual) for at, incident, manual in ledger.openings}
        self._ends = {incident: (at, incident, outcome) for at, incident, outcome in ledger.ends}
        self._hold = ledger.hold
        self._signal_holds = dict(ledger.signal_holds)
        self._n = ledger.n

    def ledger(self) -> FleetLedger:
        openings, ends = tuple(self._openings.values()), tuple(self._ends.values())
        return FleetLedger(openings, ends, self._hold, self._signal_holds, self._n)

    def take(self, record: Record) -> None:
        """One more fact."""
        self._n = record.n
        match record.fact:
            case facts.Opening(_, incident, manual, False) | facts.Rising(_, incident, manual):
                _keep(self._openings, incident, (record.at, incident, manual), KEPT_OF_FLEET)
            case facts.Ended(_, incident, outcome, acted, _, manual, _):
                self._ends.pop(incident, None)
                if not acted:  # what touched nothing spent nothing
                    self._openings.pop(incident, None)
                elif not manual:
                    _keep(self._ends, incident, (record.at, incident, outcome), KEPT_OF_FLEET)
            case facts.BreakerReset():
                self._ends.clear()
            case facts.Held(reason, until):
                self._hold = Hold(record.actor, reason, until)
            case facts.Unheld():
                self._hold = None
            case facts.SignalHolds(host, holds):
                self._signal_holds.pop(host, None)
                if holds:
                    self._signal_holds[host] = holds


def _keep(kept: dict[str, T], name: str, value: T, most: int) -> None:
    """Keep a value as the newest one, and forget the oldest when there are too many."""
    kept.pop(name, None)
    kept[name] = value
    if len(kept) > most:
        del kept[next(iter(kept))]
