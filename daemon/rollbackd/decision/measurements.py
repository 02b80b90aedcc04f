"""Measurements: what the rule of an incident measured around the onset, for people to see; nothing is decided by them.

They are asked once the first step has begun, or people are asked, and again at the end: no step waits for them. What is
not answered is not drawn.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from math import ceil, isfinite

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, JournalUnavailable, until_written
from rollbackd.model import Action, Trigger, incident_stream, name_in
from rollbackd.rules.compare import Span
from rollbackd.rules.reach import against_number
from rollbackd.rules.samples import Observation, settle
from rollbackd.rules.spec import AlertWhen, QueryWhen, Rule
from rollbackd.signals.alert_expressions import rule_of
from rollbackd.signals.baselines import Baselines, Line, by_time
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.redaction import without_passwords
from rollbackd.system.tasks import until_first
from rollbackd.views import incident_plot
from rollbackd.views.presenters import plot_view

_POINTS = 300
"""The most that are kept of one incident, each time."""
_BEFORE = timedelta(minutes=15)
"""How long before the trouble, or the change that it is put down to, they begin."""
_OF_CHANGE = timedelta(hours=2)
"""A change that was longer before the onset would make the plot too coarse."""
_LONGEST = timedelta(days=2)
"""An incident that was open for longer is shown up to its last two days alone."""
_SHARED = timedelta(seconds=10)
"""How long an answer serves other incidents of the same rule: in a storm there are many."""
_FRESH = timedelta(minutes=10)
"""How long after an end it is still asked, by a start that finds that nobody had."""
_AWAITED = timedelta(seconds=5)
"""How long a message that shows it is held back for one."""
_AGAIN = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is measured: a query, of a score also what it is a share of, and what is bad of it."""

    rule: Rule
    query: str
    of: str = ""
    threshold: float | None = None
    limit: str = ""
    aggregate: str = "max"

    @property
    def text(self) -> str:
        query = f"({self.query}) / ({self.of})" if self.of else self.query
        return without_passwords(" ".join(query.split()))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was measured of all services at once."""

    subject: tuple[str, str]
    """The rule, and the alert's name."""
    asked: _Question
    span: Span
    step: timedelta
    values: Mapping[str, Sequence[float | None]]
    """By service, one each step."""


class MeasurementTaker:
    """The root task `measurements`."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        prometheus: Prometheus | None,
    ) -> None:
        self._every = config.poll_every
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._prometheus = prometheus
        self._bases = Baselines(config, read_model, rule_states, prometheus) if prometheus is not None else None
        self._wanted: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        """Incidents, each with whether it has ended."""
        self._pending: dict[str, asyncio.Event] = {}
        """Incidents that are waiting for one."""
        self._latest: _Answer | None = None
        self._log = log.get("measurements")
        if prometheus is not None:
            read_model.subscribe(self._heard)

    def _heard(self, record: facts.Record) -> None:
        match record.fact:
            case facts.Opened(_, decision):
                due = decision.action is Action.ASK
            case facts.Entering(_, attempt) | facts.ApplyStarted(_, attempt):
                due = attempt == 1
            case fact:
                due = isinstance(fact, facts.Closed)
        if due:
            self._want(name_in(record.stream), ended=isinstance(record.fact, facts.Closed))

    def _want(self, name: str, *, ended: bool) -> None:
        self._pending.setdefault(name, asyncio.Event())
        self._wanted.put_nowait((name, ended))

    async def run(self) -> None:
        """Take them for ever; first those that an earlier process did not come to."""
        for name in {*self._read_model.open_incidents(), *self._read_model.last_incidents()}:
            found = await self._read_model.incident(name)
            if found is not None and found.closed is None and (found.begun or found.waits):
                self._want(name, ended=False)
            elif found is not None and found.closed is not None and self._clock.now() - found.closed < _FRESH:
                self._want(name, ended=True)
        while True:
            name, ended = await self._wanted.get()
            say = partial(self._log.error, "a measurement waits for the journal", incident=name)
            try:
                await until_written(partial(self._take, name, ended=ended), self._clock, _AGAIN, say)
            finally:
                if (pending := self._pending.pop(name, None)) is not None:
                    pending.set()

    async def plot(self, name: str) -> str:
        """An incident's plot as SVG; empty where there is none. One that is being measured is waited for, a little."""
        if (pending := self._pending.get(name)) is not None:
            await until_first(pending.wait(), self._clock.sleep(_AWAITED))
        try:
            found = await self._read_model.incident(name)
            records = await self._read_model.journal.latest(facts.kinds(facts.Measured), incident_stream(name), 1)
        except JournalUnavailable:
            return ""
        if found is None or not records:
            return ""
        return incident_plot.standalone(found.service, asdict(plot_view(found, records[0].fact)))

    async def _take(self, name: str, *, ended: bool) -> None:
        """Ask and write it down, unless that was done. :raises JournalUnavailable:"""
        found = await self._read_model.incident(name)
        if found is None or (found.measured_at_end if ended else found.measured):
            return
        fact = await self._measured(found, ended=ended)
        if fact is not None:
            await self._read_model.append(Entry(incident_stream(name), fact))

    async def _measured(self, incident: Incident, *, ended: bool) -> facts.Measured | None:
        """What there is to draw; None where nothing was measured."""
        now, trigger, change = self._clock.now(), incident.decision.trigger, incident.decision.change
        first = trigger.onset
        if change is not None and timedelta() <= first - change.start <= _OF_CHANGE:
            first = change.start
        begin = max(first - _BEFORE, now - _LONGEST).replace(microsecond=0)
        found = await self._answer(trigger, (begin, now))
        values = found.values.get(incident.service, ()) if found is not None else ()
        if found is None or not any(one is not None for one in values):
            return None
        asked = found.asked
        return facts.Measured(
            asked.text, found.span[0], found.step, tuple(values), asked.threshold, asked.limit, at_end=ended
        )

    async def _answer(self, trigger: Trigger, span: Span) -> _Answer | None:
        subject, known = (trigger.rule, trigger.labels.get("alertname", "")), self._latest
        if (
            known is not None
            and known.subject == subject
            and abs(known.span[0] - span[0]) < known.step * 2
            and span[1] - known.span[1] < _SHARED
        ):
            return known
        asked = await self._question(trigger)
        if asked is None or self._bases is None:
            return None
        step = max(self._every, timedelta(seconds=1), (span[1] - span[0]) / (_POINTS - 1))
        step = timedelta(seconds=ceil(step.total_seconds()))
        lines = await self._bases.lines(asked.rule, asked.query, span, step)
        counted = await self._bases.lines(asked.rule, asked.of, span, step) if asked.of else {}
        if isinstance(lines, str) or isinstance(counted, str):
            self._log.info("nothing is drawn of an incident", because=lines if isinstance(lines, str) else counted)
            return None
        values: dict[str, Sequence[float | None]] = {}
        for service, own in lines.items():
            many, of = (_by_place(some, span[0], step) for some in (own, counted.get(service, ())))
            places = range((span[1] - span[0]) // step + 1)
            values[service] = [_value(asked, many.get(place, ()), of.get(place, ())) for place in places]
        self._latest = _Answer(subject, asked, span, step, values)
        return self._latest

    async def _question(self, trigger: Trigger) -> _Question | None:
        """What to ask of a rule: the query that triggered, or the expression of the alert that did."""
        rule = self._rule_states.rule(trigger.rule)
        if rule is None or self._prometheus is None:
            return None
        sources = [one.source for one in trigger.evidence]
        leaves = [leaf for leaf in rule.leaves if isinstance(leaf, QueryWhen)]
        leaves.sort(key=lambda leaf: " ".join(leaf.query.split()) not in sources)
        if leaves:
            return _of_leaf(rule, leaves[0])
        if not any(isinstance(leaf, AlertWhen) for leaf in rule.leaves):
            return None
        answer = await self._prometheus.rules()
        meant = rule_of(trigger.labels, answer.alerting)
        return _of_alert(rule, meant.query) if meant is not None else None


def _of_leaf(rule: Rule, leaf: QueryWhen) -> _Question:
    worst, best = ("min", "max") if leaf.below is not None or leaf.drops_by is not None else ("max", "min")
    aggregate = {"sum": "sum", "max": "max", "min": "min", "all": best}.get(leaf.aggregate or "", worst)
    if leaf.score is not None:
        return _Question(rule, leaf.query, leaf.score.of, round(leaf.score.even, 4), leaf.limit, "sum")
    threshold = leaf.above if leaf.above is not None else leaf.below
    return _Question(rule, leaf.query, "", threshold, leaf.limit, aggregate)


def _of_alert(rule: Rule, expression: str) -> _Question:
    """Of a condition the side that is measured; a condition itself has no values while it is not met."""
    found = against_number(expression)
    if found is None:
        return _Question(rule, expression)
    query, sign, threshold = found
    return _Question(rule, query, "", threshold, f"{sign} {threshold:g}", "min" if sign.startswith("<") else "max")


def _by_place(lines: Sequence[Line], begin: datetime, step: timedelta) -> dict[int, list[float]]:
    """The values at each step; a proxy before Prometheus may have moved the times a little."""
    return {round((at - begin) / step): values for at, values in by_time(points for _, points in lines).items()}


def _value(asked: _Question, values: Sequence[float], of: Sequence[float]) -> float | None:
    """What a service's series come to at one time; None where that is no number."""
    found = settle(values, asked.aggregate)
    if asked.of:
        total = settle(of, asked.aggregate)
        if isinstance(found, Observation) or isinstance(total, Observation) or total <= 0:
            return None
        found = found / total
    return None if isinstance(found, Observation) or not isfinite(found) else float(f"{found:.4g}")
