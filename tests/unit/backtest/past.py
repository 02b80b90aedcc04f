"""A past made of functions of time, as a Prometheus would tell it, and a configuration to play on it."""

import json
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rollbackd.backtest.cache import HistoryCache
from rollbackd.backtest.grid import Grid
from rollbackd.backtest.history import History
from rollbackd.backtest.play import Play, Played
from rollbackd.backtest.playable import layers_with_releases, playable, traits_of
from rollbackd.backtest.recorded import from_text
from rollbackd.config.load import load
from rollbackd.config.models import Config
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_answers import (
    MISSING,
    QueryAnswer,
    RangeAnswer,
    RangeSeries,
    Row,
    RowsAnswer,
    RulesAnswer,
    Series,
)
from rollbackd.system.clock import SystemClock

BEGIN = datetime(2026, 3, 2, tzinfo=UTC)
PACE = timedelta(seconds=15)
Course = Callable[[datetime], float | None]
_LAYER = {"adapter": "command", "current": ["current"], "releases": ["releases"], "apply": ["apply"]}


def at(hours: float, minutes: float = 0) -> datetime:
    return BEGIN + timedelta(hours=hours, minutes=minutes)


@dataclass
class PastServer(Prometheus):
    """Answers from the courses, and counts what it is asked."""

    courses: Mapping[str, Mapping[str, Course]]
    """By query and service; the query is a mere name."""
    alerts: list[tuple[Mapping[str, str], datetime, datetime]] = field(default_factory=list)
    most: int = 11_000
    """Points of one series in one answer."""
    down: bool = False
    asked: list[tuple[str, datetime, int]] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    """Questions that were not about what a rule's query says at each poll."""

    def _value(self, query: str, service: str, when: datetime) -> float | None:
        return self.courses[query][service](when)

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        self.own.append(query)
        assert at is not None
        found = [(one, self._value(query, one, at)) for one in self.courses.get(query, ())]
        return QueryAnswer(tuple(Series({"service": one}, value, at) for one, value in found if value is not None))

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        self.own.append(query)
        times = [start + step * n for n in range(int((end - start) / step) + 1)]
        if query.startswith("ALERTS"):
            lines = [(labels, [(t, 1.0) for t in times if a <= t < b]) for labels, a, b in self.alerts]
            return RangeAnswer(tuple(RangeSeries(labels, tuple(points)) for labels, points in lines if points))
        found = []
        for service in self.courses.get(query, ()):
            points = tuple((t, value) for t in times if (value := self._value(query, service, t)) is not None)
            found.append(RangeSeries({"service": service}, points))
        return RangeAnswer(tuple(one for one in found if one.points))

    async def rows(self, query: str, start: datetime, step: timedelta, count: int) -> RowsAnswer:
        self.asked.append((query, start, count))
        if self.down:
            return RowsAnswer(problem="Prometheus at http://127.0.0.1:9090: no answer: Connection refused")
        if count > self.most:
            return RowsAnswer(problem="Prometheus at http://127.0.0.1:9090: answered 422, execution: too many points")
        times = [start + step * n for n in range(count)]
        if query.startswith("ALERTS"):
            named = {"__name__": "ALERTS", "alertstate": "firing"}
            lines = [
                ({**named, **labels}, [1.0 if a <= t < b else MISSING for t in times]) for labels, a, b in self.alerts
            ]
            return RowsAnswer(tuple(Row(labels, array("d", values)) for labels, values in lines if max(values) > 0))
        found = []
        for service, course in self.courses.get(query, {}).items():
            values = [MISSING if (value := course(t)) is None else value for t in times]
            if any(value != MISSING for value in values):
                found.append(Row({"service": service}, array("d", values)))
        return RowsAnswer(tuple(found))

    async def rules(self) -> RulesAnswer:
        return RulesAnswer(problem="it has none")

    async def close(self) -> None:
        return


def configured(directory: Path, rules: list[Any], services: tuple[str, ...] = ("shop",), **parts: Any) -> Config:
    document = {
        "daemon": {"mode": "shadow", "open_on_loopback": True},
        "prometheus": {"url": "http://127.0.0.1:9090", "poll_every": "15s"},
        "alertmanager": {"url": "http://127.0.0.1:9093"},
        "rules": rules,
        "services": [
            {
                "name": name,
                "match": {"service": name},
                "layers": {"code": _LAYER},
                "checks": {"health": {"command": ["true"]}, "smoke": {"command": ["true"]}},
                "verify": {"every": "30s", "passes": 2, "deadline": "5m", "checks": ["health"]},
            }
            for name in services
        ],
        **parts,
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(document))
    return load(path).config


async def played(
    directory: Path,
    config: Config,
    server: PastServer,
    changes: str,
    hours: float,
    *,
    begin: datetime = BEGIN,
    every_poll: bool = False,
) -> Played:
    """The play of so many hours; `changes` as in a file."""
    clock = SystemClock()
    traits = traits_of(config, clock)
    given = playable(config)
    grid = Grid.over(begin, begin + timedelta(hours=hours), PACE)
    history = History(server, "here", timedelta(seconds=5), HistoryCache(directory / "cache"), grid, clock)
    await history.fetch(given.queries, lambda _done, _of: None)
    recorded = from_text(changes, "changes", layers_with_releases(traits))
    return await Play(given.config, history, server, recorded, traits, every_poll=every_poll).run()
