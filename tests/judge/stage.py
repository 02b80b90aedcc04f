"""The daemon's own parts on the stage of the situations, in a world whose Prometheus scrapes and answers PromQL."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np

from rollbackd.config.models import Config
from rollbackd.model import CheckResult, Verdict
from rollbackd.signals.prometheus import QueryAnswer, RangeAnswer, RangeSeries, RulesAnswer, Series
from rollbackd.signals.query_answers import AlertingRule
from tests.judge.incident import Incident
from tests.judge.promql import Evaluation, Value, parse
from tests.judge.series import PACE, Floats, Found
from tests.judge.traffic import Traffic, Turn
from tests.unit.judgement.clock import LeapingClock
from tests.unit.judgement.stage import BEGIN, Stage, configured
from tests.unit.judgement.world import DOWN, World, WorldPrometheus

ZERO = BEGIN + timedelta(days=8, hours=12)
"""When the time of an incident is 0."""
_AHEAD = 20
"""How many polls are worked out at once."""


def moment(seconds: float) -> datetime:
    """A time of an incident as wall time."""
    return ZERO + timedelta(seconds=round(seconds, 3))


def seconds(time: datetime) -> float:
    """Wall time as a time of the incident."""
    return (time - ZERO).total_seconds()


@dataclass(frozen=True, slots=True)
class AlertingFile:
    """One alerting rule, and how Alertmanager passes on what comes of it."""

    name: str
    query: str
    waits: float
    labels: Mapping[str, str]


class JudgeWorld(World):
    """Counters instead of readings."""

    def __init__(self, clock: LeapingClock, incident: Incident, seed: Sequence[int], until: float) -> None:
        super().__init__(clock, {host.name: host.layers for host in incident.hosts})
        self.incident = incident
        self.deploying: tuple[float, int] = (5.0, 0)
        """How the release that comes now spreads."""
        self._turns: dict[tuple[str, str], list[Turn]] = {
            (host.name, layer): [] for host in incident.hosts for layer in host.layers
        }
        self._seed, self._until = seed, until
        self.traffic: Traffic | None = None
        self.prometheus = self.metrics = JudgePrometheus(self)

    def open(self) -> None:
        """The history is complete: from now on there are samples."""
        self.traffic = Traffic(
            self.incident, self._seed, {key: tuple(each) for key, each in self._turns.items()}, self._until
        )

    def moved(self) -> None:
        now, changed = seconds(self.clock.true), False
        for (service, layer), turns in self._turns.items():
            present = self.layers[service][layer].present.id
            if present and (not turns or turns[-1].release != present):
                turns.append(Turn(now, present, *self.deploying))
                changed = True
        if changed and self.traffic is not None:
            self.traffic.turned(now, {key: tuple(each) for key, each in self._turns.items()})
            self.metrics.void()
        super().moved()

    def verdict(self, service: str, name: str) -> CheckResult:
        assert self.traffic is not None
        if self.traffic.runs(service, seconds(self.clock.true)):
            return CheckResult(name, Verdict.GOOD, "answers")
        return CheckResult(name, Verdict.BAD, "connection refused")


@dataclass
class JudgePrometheus(WorldPrometheus):
    """Answers PromQL from what was scraped until then."""

    world: JudgeWorld
    alerting: Sequence[AlertingFile] = ()
    _ahead: Evaluation | None = None
    _times: Mapping[float, int] = field(default_factory=dict)

    @property
    def away(self) -> bool:
        now = seconds(self.world.clock.true)
        return any(one.down and one.begin <= now < one.end for one in self.world.incident.outages)

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        if self.away:
            return QueryAnswer(problem=DOWN)
        time = at or self.world.clock.true
        found, column = self.at(query, seconds(time))
        rows = [int(row) for row in np.flatnonzero(found.there[:, column])]
        return QueryAnswer(tuple(Series(found.labels[row], float(found.values[row, column]), time) for row in rows))

    def at(self, query: str, time: float) -> tuple[Found, int]:
        """What an expression is at a time, and the column of that.

        It is worked out for the next polls as well: samples are drawn already, and no range sees later ones. What is
        drawn anew makes it void.
        """
        if self._ahead is None or time not in self._times:
            times = np.arange(_AHEAD, dtype=np.float64) * PACE + time
            self._times = {float(one): column for column, one in enumerate(times)}
            self._ahead = self._evaluation(times)
        return _as_series(self._ahead.of(parse(query)), _AHEAD), self._times[time]

    def void(self) -> None:
        """Samples are drawn anew."""
        self._ahead = None

    def _evaluation(self, times: Floats) -> Evaluation:
        traffic = self.world.traffic
        assert traffic is not None
        return Evaluation(lambda name: traffic.metric(name, float(times[0])), times)

    async def rules(self) -> RulesAnswer:
        if self.away:
            return RulesAnswer(problem=DOWN)
        return RulesAnswer(
            tuple(AlertingRule(one.name, one.query, one.labels, timedelta(seconds=one.waits)) for one in self.alerting)
        )

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        if self.away:
            return RangeAnswer(problem=DOWN)
        times = [start + step * n for n in range(int((end - start) / step) + 1)]
        if query.startswith("ALERTS"):
            return RangeAnswer(tuple(self._alerts(times)))
        found = _as_series(self._evaluation(np.array([seconds(time) for time in times])).of(parse(query)), len(times))
        series = []
        for row, labels in enumerate(found.labels):
            there = np.flatnonzero(found.there[row])
            if len(there):
                series.append(RangeSeries(labels, tuple((times[k], float(found.values[row, k])) for k in there)))
        return RangeAnswer(tuple(series))


def _as_series(value: Value, times: int) -> Found:
    if isinstance(value, float):
        return Found([{}], np.full((1, times), value), np.ones((1, times), dtype=bool))
    return value


@lru_cache(maxsize=256)
def _configured(directory: Path, layers: tuple[tuple[str, tuple[str, ...]], ...], parts: str) -> Config:
    return configured(directory, dict(layers), json.loads(parts), 0)


class JudgeStage(Stage):
    """One incident's stage. The configuration is the shipped one: nothing in it is set but what must be."""

    def __init__(self, directory: Path, incident: Incident, seed: Sequence[int], until: float, parts: str) -> None:
        layers = tuple((host.name, host.layers) for host in incident.hosts)
        self.scene = JudgeWorld(LeapingClock(BEGIN), incident, seed, until)
        self._set(self.scene, _configured(directory, layers, parts))
