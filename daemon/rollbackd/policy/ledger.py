"""What was: states, marks, quarantine, holds, rollbacks, decisions, folded from facts. No I/O.

`evolve_service` and `evolve_fleet` take one record each; folding a stream from its start gives what was folded live.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import Action, Outcome, State

KEPT = 100
"""Spells, marks and rollbacks that are remembered of a service."""
KEPT_MARKS = 2 * KEPT
"""Reasons of marks that are remembered of a service: more than there are states that could still be a target."""
KEPT_EPISODES = 10_000
"""Decided episodes of a service: more than can go on at once, since one that is forgotten is decided and told again."""
KEPT_OF_FLEET = 1000
"""Openings and ends that are remembered of all services together."""
ONE_CHANGE = timedelta(minutes=5)
"""Layers that change within this are one change."""
LEDGER_KINDS = (
    "Changed", "MarkedGood", "MarkTaken", "Quarantined", "QuarantineLifted", "Held", "Unheld", "Decided",
    "NoticeAcknowledged", "Opening", "Ended", "BreakerReset", "Notice",
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


@dataclass(frozen=True, slots=True)
class Verdicted:
    """The last decision on an episode."""

    at: datetime
    action: Action
    against: frozenset[str]
    """The guards that stood against."""
    incident: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold by API or command line."""

    actor: str
    reason: str
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class ServiceLedger:
    """What was of one service."""

    spells: tuple[Spell, ...] = ()
    """Oldest first; the last one runs now, unless an incident is open."""
    good: Mapping[str, str] = field(default_factory=dict)
    """State key to why."""
    marked: tuple[State, ...] = ()
    """States marked good that need not have run here, oldest mark first."""
    taken: frozenset[str] = frozenset()
    """Keys of states that a trigger blamed: no ref marks them good again, only a person or time."""
    quarantined: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Layer and release id, to why."""
    hold: Hold | None = None
    rollbacks: tuple[Rollback, ...] = ()
    episodes: Mapping[str, Verdicted] = field(default_factory=dict)

    @property
    def present(self) -> State | None:
        return self.spells[-1].state if self.spells else None

    @property
    def open(self) -> Rollback | None:
        """The open incident."""
        last = self.rollbacks[-1] if self.rollbacks else None
        return last if last is not None and last.ended is None else None

    def blocked(self, state: State) -> tuple[str, ...]:
        """The layers whose release in this state is quarantined."""
        return tuple(layer for layer, release in state.releases.items() if (layer, release.id) in self.quarantined)


@dataclass(frozen=True, slots=True)
class FleetLedger:
    """What was of all services together."""

    openings: tuple[tuple[datetime, str, bool], ...] = ()
    """When, which incident, whether a person's own; newest last."""
    ends: tuple[tuple[datetime, str, Outcome], ...] = ()
    """Automatic incidents that acted, by their last outcome, since the breaker was reset last."""
    hold: Hold | None = None
    n: int = 0
    """The place of the last fact in the fleet's stream: what an opening follows."""


def evolve_service(ledger: ServiceLedger, record: Record) -> ServiceLedger:
    """The ledger after one more fact of the service's stream, or an opening or end of its incidents."""
    match record.fact:
        case facts.Changed(state, after, by, incident):
            return _changed(ledger, Spell(state, after, by, incident))
        case facts.MarkedGood(state, why):
            return _marked(_unmarked(ledger, state), state, why)
        case facts.MarkTaken(state, _):
            return _with(_unmarked(ledger, state), taken=ledger.taken | {state.key})
        case facts.Quarantined(releases, why):
            return replace(ledger, quarantined={**ledger.quarantined, **dict.fromkeys(releases.items(), why)})
        case facts.QuarantineLifted(releases, _):
            left = {pair: why for pair, why in ledger.quarantined.items() if pair not in releases.items()}
            return replace(ledger, quarantined=left)
        case facts.Held(reason, until):
            return replace(ledger, hold=Hold(record.actor, reason, until))
        case facts.Unheld():
            return replace(ledger, hold=None)
        case facts.Decided(decision):
            guards = frozenset(finding.guard for finding in decision.against)
            verdicted = Verdicted(record.at, decision.action, guards, decision.joins)
            return replace(ledger, episodes=_remember(ledger.episodes, decision.trigger.episode, verdicted))
        case facts.Opening(_, incident, manual):
            return replace(ledger, rollbacks=(*ledger.rollbacks, Rollback(incident, record.at, manual))[-KEPT:])
        case facts.Ended():
            return replace(ledger, rollbacks=tuple(_ended(rollback, record) for rollback in ledger.rollbacks))
        case _:
            return ledger


def _with(
    ledger: ServiceLedger,
    spells: tuple[Spell, ...] | None = None,
    good: Mapping[str, str] | None = None,
    marked: tuple[State, ...] | None = None,
    taken: frozenset[str] | None = None,
) -> ServiceLedger:
    """As `replace`, at a third of its price: states and marks of years are folded at each start."""
    return ServiceLedger(
        ledger.spells if spells is None else spells,
        ledger.good if good is None else good,
        ledger.marked if marked is None else marked,
        ledger.taken if taken is None else taken,
        ledger.quarantined,
        ledger.hold,
        ledger.rollbacks,
        ledger.episodes,
    )


def _marked(ledger: ServiceLedger, state: State, why: str) -> ServiceLedger:
    good = {**ledger.good, state.key: why}
    if len(good) > KEPT_MARKS:
        del good[next(iter(good))]
    taken = ledger.taken - {state.key} if state.key in ledger.taken else ledger.taken
    return _with(ledger, good=good, marked=(*ledger.marked, state)[-KEPT:], taken=taken)


def _unmarked(ledger: ServiceLedger, state: State) -> ServiceLedger:
    """Without the state's mark; mostly there is none."""
    if state.key not in ledger.good:
        return ledger
    good = dict(ledger.good)
    del good[state.key]
    return _with(ledger, good=good, marked=tuple(other for other in ledger.marked if other.key != state.key))


def _remember(before: Mapping[str, Verdicted], episode: str, verdicted: Verdicted) -> dict[str, Verdicted]:
    """With the one decided last at the end; the one decided longest ago is forgotten first."""
    episodes = dict(before)
    episodes.pop(episode, None)
    episodes[episode] = verdicted
    if len(episodes) > KEPT_EPISODES:
        del episodes[next(iter(episodes))]
    return episodes


def _changed(ledger: ServiceLedger, spell: Spell) -> ServiceLedger:
    if ledger.present == spell.state and ledger.present is not None:
        return ledger
    before = ledger.spells
    if before and before[-1].ended is None:
        last = before[-1]
        before = (*before[:-1], Spell(last.state, last.after, last.by, last.incident, spell.by))
    return _with(ledger, spells=(*before, spell)[-KEPT:])


def _ended(rollback: Rollback, record: Record) -> Rollback:
    fact = record.fact
    if rollback.incident != fact.incident:
        return rollback
    ended = rollback.ended or record.at
    return replace(rollback, ended=ended, outcome=fact.outcome, acted=fact.acted, watch_until=fact.watch_until)


def evolve_fleet(ledger: FleetLedger, record: Record) -> FleetLedger:
    """The ledger after one more fact of the fleet's stream."""
    ledger = replace(ledger, n=record.n)
    match record.fact:
        case facts.Opening(_, incident, manual):
            return replace(ledger, openings=(*ledger.openings, (record.at, incident, manual))[-KEPT_OF_FLEET:])
        case facts.Ended(_, incident, outcome, acted, _, manual):
            others = tuple([end for end in ledger.ends if end[1] != incident])
            if not acted:  # what touched nothing spent nothing
                ledger = replace(ledger, openings=tuple(one for one in ledger.openings if one[1] != incident))
            if not acted or manual:
                return replace(ledger, ends=others)
            return replace(ledger, ends=(*others, (record.at, incident, outcome))[-KEPT_OF_FLEET:])
        case facts.BreakerReset():
            return replace(ledger, ends=())
        case facts.Held(reason, until):
            return replace(ledger, hold=Hold(record.actor, reason, until))
        case facts.Unheld():
            return replace(ledger, hold=None)
        case _:
            return ledger


def change_window(ledger: ServiceLedger) -> tuple[datetime, datetime] | None:
    """When the last change was: from the last look at the old state to the first at the new.

    Changes that follow each other within `ONE_CHANGE` are one.
    """
    start: datetime | None = None
    end: datetime | None = None
    for spell in reversed(ledger.spells[1:]):
        if spell.incident or (start is not None and start - spell.by > ONE_CHANGE):
            break
        start, end = spell.after, end or spell.by
    return None if start is None or end is None else (start, end)
