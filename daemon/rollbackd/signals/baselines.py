"""Baselines: what query conditions compare a service with, such as another time, before its change, or its peers.

Few ranges are asked for many services. What lies before a change does not move any more, and is asked once.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rollbackd.config.models import Config
from rollbackd.policy.changes import newest
from rollbackd.policy.ledger import ServiceLedger, Spell
from rollbackd.rules.compare import FEWEST_BEFORE, FEWEST_PEERS, Baseline, Point, Span, finite, middle, spans
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Observation, settle
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_answers import Series
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel

_AT_ONCE = 8
"""How many ranges are asked for one condition in one poll; other services have their turn in the next."""
_WIDER = 4
"""How many times as long as one service needs a range for many services may be."""
_POINTS = 500
"""The most points of one series in a range; a longer range is asked in longer steps."""
_SETTLED = timedelta(minutes=5)
"""How old a time of the past must be before a missing answer is final."""
BEFORE_UNDONE = "before the change that was rolled back"
_LABELS_BEFORE = timedelta(minutes=5)
"""How long before a change instances are looked for; those that were there are unchanged ones."""

Line = tuple[Mapping[str, str], Sequence[Point]]
"""A series: its labels and points."""
Lines = Mapping[str, Sequence[Line]]
"""By service."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A service's last change that was somebody's own, and what came of it."""

    start: datetime
    """The last look at the old state."""
    end: datetime
    """The first look at the new one."""
    began: datetime | None
    """When the old state began; None when that is not known."""
    settled: datetime
    """Since when what runs now runs: since that change, or since our rollback of it."""
    undone: bool
    """Whether it was rolled back."""


def turn_of(ledger: ServiceLedger) -> Turn | None:
    """The last change of a service; None when none is known. A rollback of ours is not one, it undoes one."""
    spells: tuple[Spell, ...] = ledger.spells
    while spells and spells[-1].incident:
        spells = spells[:-1]
    found = newest(replace(ledger, spells=spells))
    if found is None:
        return None
    place = next(n for n, spell in enumerate(spells) if spell.after == found.start and n)
    began = spells[place - 1].by if place > 1 else None
    settled = ledger.spells[-1].by
    return Turn(found.start, found.end, began, settled, undone=len(spells) < len(ledger.spells))


class Baselines:
    """Finds what to compare with, for all services of a condition at once."""

    def __init__(self, config: Config, read_model: ReadModel, rule_states: RuleStates, prometheus: Prometheus) -> None:
        assert config.prometheus is not None
        self._every = config.prometheus.poll_every
        self._window = config.limits.change_window
        self._groups = config.peers
        self._matches = {service.name: service.match for service in config.services}
        self._read_model = read_model
        self._rule_states = rule_states
        self._prometheus = prometheus
        self._turns: dict[str, tuple[tuple[Spell, ...], Turn | None]] = {}
        self._past: defaultdict[str, dict[tuple[object, ...], tuple[Span, Sequence[Line]]]] = defaultdict(dict)
        """What was before a service's change, by service and question, with the time that was asked about."""
        self._owned: dict[tuple[str, ...], tuple[list[Mapping[str, str]], list[str | None], bool]] = {}
        """Of the last answer to rules for these services: each series' labels, its service; whether each has one."""

    # -- changes --------------------------------------------------------------------------------
    def turn(self, service: str) -> Turn | None:
        """The service's last change."""
        ledger = self._read_model.of(service)
        known = self._turns.get(service)
        if known is None or known[0] is not ledger.spells:
            known = self._turns[service] = (ledger.spells, turn_of(ledger))
        return known[1]

    def fresh(self, service: str, now: datetime) -> bool:
        """Whether a change of the service is young enough to be to blame."""
        turn = self.turn(service)
        return turn is not None and now - turn.end <= self._window

    def forget(self, service: str) -> None:
        """Forget what was before changes that are too old to compare with."""
        self._past.pop(service, None)

    def after(self, leaf: QueryWhen, service: str, now: datetime, since: datetime | None = None) -> datetime | None:
        """From when on the query sees nothing but what runs at `now`; None when no change before that is known.

        :param since: when a rollback's last step ended.
        """
        turn = self.turn(service)
        times = [turn.end, turn.settled] if turn is not None else []
        known = [time for time in (*times, since) if time is not None and time <= now]
        return max(known) + reach(leaf.query) if known else None

    def group(self, leaf: QueryWhen) -> tuple[str, ...]:
        """The services that the condition compares with, and those that it is for."""
        return self._groups.get(leaf.group, ())

    # -- what to compare with -------------------------------------------------------------------
    async def earlier(
        self, rule: Rule, leaf: QueryWhen, services: Collection[str], now: datetime, since: datetime | None
    ) -> dict[str, Baseline]:
        """The value of so long ago. Where the service was sick then, before a rollback, of right before the trouble."""
        assert leaf.against is not None
        assert leaf.against.offset is not None
        by_time: defaultdict[datetime, list[str]] = defaultdict(list)
        for service in services:
            by_time[self.well(leaf, service, now - leaf.against.offset, since)].append(service)
        found: dict[str, Baseline] = {}
        for at, of in by_time.items():
            answer = await self._prometheus.instant(leaf.query, at)
            words = leaf.other if at == now - leaf.against.offset else BEFORE_UNDONE
            values = self.values(rule, answer.series)
            for service in of:
                own = values.get(service, ())
                found[service] = Baseline(missing=answer.problem) if answer.problem else base_of(leaf, own, words)
        return found

    def well(self, leaf: QueryWhen, service: str, at: datetime, since: datetime | None) -> datetime:
        """A time in the past, moved to before the change where it would show what a rollback has undone."""
        turn = self.turn(service)
        if turn is None or not (turn.undone or since is not None):
            return at
        over = max(turn.settled, since or turn.settled) + reach(leaf.query)
        return turn.start if turn.start < at < over else at

    def peers(
        self, leaf: QueryWhen, services: Iterable[str], values: Mapping[str, Sequence[float]], now: datetime
    ) -> dict[str, Baseline]:
        """The median of the other services of the group at the same time."""
        known: dict[str, float] = {}
        for peer in self.undisturbed_peers(leaf, now):
            value = settle(values.get(peer, ()), leaf.aggregate)
            if not isinstance(value, Observation):
                known[peer] = value
        found = {}
        for service in services:
            others = [value for peer, value in known.items() if peer != service]
            missing = (
                f"only {len(others)} of the other services in {leaf.group} have data, no incident and no fresh change; "
                f"wants {FEWEST_PEERS}"
            )
            found[service] = middle(others, f", the median of {len(others)} peers", FEWEST_PEERS, missing)
        return found

    def undisturbed_peers(self, leaf: QueryWhen, now: datetime) -> list[str]:
        """The services of the group that can be compared with: in no incident, and unchanged for the change window."""
        found = []
        for peer in self.group(leaf):
            ledger = self._read_model.of(peer)
            changed = ledger.spells[-1].by if len(ledger.spells) > 1 else None
            if ledger.open is None and (changed is None or now - changed > self._window):
                found.append(peer)
        return found

    async def before_change(
        self, rule: Rule, leaf: QueryWhen, services: Iterable[str], now: datetime
    ) -> dict[str, Sequence[float] | str]:
        """The samples of before each service's change, or why there are none."""
        assert leaf.against is not None
        assert leaf.against.before_change is not None
        length = leaf.against.before_change
        found: dict[str, Sequence[float] | str] = {}
        wanted: dict[str, Span] = {}
        for service in services:
            turn = self.turn(service)
            if turn is None:
                found[service] = "no change to compare with"
            elif (window := _window_before(turn, length, reach(leaf.query))) is None:
                found[service] = "what ran before the change ran too short to compare with"
            else:
                wanted[service] = window
        pace = self._every if leaf.differs is not None else length / 100
        lines = await self._asked_once(rule, leaf, wanted, length, pace, now)
        for service, line in lines.items():
            if isinstance(line, str):
                found[service] = line
            else:
                samples = samples_of(leaf, line)
                found[service] = samples.reason if isinstance(samples, Observation) else samples
        return found

    async def median_before(
        self, rule: Rule, leaf: QueryWhen, services: Iterable[str], now: datetime
    ) -> dict[str, Baseline]:
        """The median of before each service's change."""
        found = {}
        for service, samples in (await self.before_change(rule, leaf, services, now)).items():
            missing = samples if isinstance(samples, str) else f"there are {len(samples)} values of {leaf.other}"
            values = () if isinstance(samples, str) else samples
            found[service] = middle(values, f", the median of {leaf.other}", FEWEST_BEFORE, missing)
        return found

    async def old_instances(
        self, rule: Rule, leaf: QueryWhen, services: Iterable[str], now: datetime
    ) -> dict[str, frozenset[str] | str]:
        """The values of the label right before each service's change, or why they are not known."""
        turns = {service: self.turn(service) for service in services}
        windows = {service: (turn.start - _LABELS_BEFORE, turn.start) for service, turn in turns.items() if turn}
        lines = await self._asked_once(rule, leaf, windows, _LABELS_BEFORE, _LABELS_BEFORE / 5, now)
        found: dict[str, frozenset[str] | str] = dict.fromkeys(turns, "no change to compare with")
        for service, line in lines.items():
            if isinstance(line, str):
                found[service] = line
            else:
                there = frozenset(labels.get(leaf.by_label, "") for labels, points in line if points) - {""}
                found[service] = there or f"no series had the label {leaf.by_label} right before the change"
        return found

    # -- asking ---------------------------------------------------------------------------------
    async def _asked_once(
        self,
        rule: Rule,
        leaf: QueryWhen,
        windows: Mapping[str, Span],
        length: timedelta,
        pace: timedelta,
        now: datetime,
    ) -> dict[str, Sequence[Line] | str]:
        """What was in each service's own window, from memory where it was asked before; or why it is not known."""
        found: dict[str, Sequence[Line] | str] = {}
        missing: dict[str, Span] = {}
        question = (leaf.query, rule.services, pace)
        for service, window in windows.items():
            known = self._past[service].get(question)
            if known is not None and known[0] == window:
                found[service] = known[1]
            else:
                missing[service] = window
        for begin, end in list(reversed(spans(missing.values(), length * _WIDER)))[:_AT_ONCE]:
            lines = await self.lines(rule, leaf.query, (begin, end), max(self._every, pace, (end - begin) / _POINTS))
            for service, window in missing.items():
                if begin <= window[0] and window[1] <= end and service not in found:
                    if isinstance(lines, str):
                        found[service] = lines
                        continue
                    own = [(labels, within(points, window)) for labels, points in lines.get(service, ())]
                    found[service] = own
                    if any(points for _, points in own) or now - window[1] > _SETTLED:
                        self._past[service][question] = (window, own)
        return {service: found.get(service, "what was before the change is not asked yet") for service in windows}

    async def lines(self, rule: Rule, query: str, span: Span, pace: timedelta) -> Lines | str:
        """A query's series over a time, by service, or why there are none."""
        answer = await self._prometheus.range(query, *span, pace)
        return answer.problem or self.spread(rule, [(one.labels, one.points) for one in answer.series])

    def spread(self, rule: Rule, lines: Sequence[Line]) -> Lines:
        """The series by service."""
        found: defaultdict[str, list[Line]] = defaultdict(list)
        for service, line in zip(self.owners(rule, [labels for labels, _ in lines]), lines, strict=True):
            if service is not None:
                found[service].append(line)
        return found

    def values(self, rule: Rule, series: Sequence[Series]) -> Mapping[str, Sequence[float]]:
        """The values of an instant answer, by service."""
        owners, alone = self._known_owners(rule, [one.labels for one in series])
        if alone:
            return {service: (one.value,) for service, one in zip(owners, series, strict=True) if service is not None}
        found: defaultdict[str, list[float]] = defaultdict(list)
        for service, one in zip(owners, series, strict=True):
            if service is not None:
                found[service].append(one.value)
        return found

    def _known_owners(self, rule: Rule, labels: list[Mapping[str, str]]) -> tuple[list[str | None], bool]:
        """The service of each series, and whether each has one series alone.

        Answers about the same services follow one another, poll by poll, and labels compare faster than they are found.
        """
        known = self._owned.get(rule.services)
        if known is None or known[0] != labels:
            owners = self.owners(rule, labels)
            owned = [owner for owner in owners if owner is not None]
            known = self._owned[rule.services] = (labels, owners, len(set(owned)) == len(owned))
        return known[1], known[2]

    def owners(self, rule: Rule, labels: Sequence[Mapping[str, str]]) -> list[str | None]:
        """The service of each series. One without labels, from a query for one service alone, is of that service."""
        owners = self._rule_states.spread(labels, rule)
        match = self._matches.get(rule.services[0]) if len(rule.services) == 1 else None
        if match is None:
            return owners
        return [
            rule.services[0]
            if owner is None and any(all(one.get(name, text) == text for name, text in each.items()) for each in match)
            else owner
            for owner, one in zip(owners, labels, strict=True)
        ]


def by_time(lines: Iterable[Sequence[Point]]) -> dict[datetime, list[float]]:
    """The values of several series at each time, oldest first."""
    found: dict[datetime, list[float]] = {}
    for points in lines:
        for at, value in points:
            found.setdefault(at, []).append(value)
    return dict(sorted(found.items()))


def samples_of(leaf: QueryWhen, lines: Iterable[Line]) -> list[float] | Observation:
    """A service's samples, one for each time; an observation when they cannot be told apart."""
    return finite(by_time(points for _, points in lines).values(), leaf.aggregate)


def within(points: Sequence[Point], window: Span) -> list[Point]:
    """The points of a time, both ends included."""
    return [point for point in points if window[0] <= point[0] <= window[1]]


def base_of(leaf: QueryWhen, values: Sequence[float], words: str) -> Baseline:
    """One service's values at another time, as what to compare with; `words` say when, such as `1d ago`."""
    value = settle(values, leaf.aggregate)
    if isinstance(value, Observation):
        return Baseline(missing=f"{words} there is {value.reason}")
    return Baseline((value,), f" {words}")


def _window_before(turn: Turn, length: timedelta, back: timedelta) -> Span | None:
    """The time before a change in which nothing but the state that ran then is seen."""
    begin = turn.start - length if turn.began is None else max(turn.start - length, turn.began + back)
    return (begin, turn.start) if begin < turn.start else None
