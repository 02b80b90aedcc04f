"""What is outside of the daemon: what the services run, and what Prometheus, Alertmanager and the checks say of them."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import cycle
from typing import Any, cast

from rollbackd.adapter import Adapter, AdapterError
from rollbackd.config.models import Service
from rollbackd.execution.layers import Layers
from rollbackd.model import Alert, Change, CheckResult, Release, Traits, Verdict
from rollbackd.rules.matchers import parse_matchers
from rollbackd.signals.alertmanager_client import FiringAlerts, Unreachable
from rollbackd.signals.prometheus import QueryAnswer, RangeAnswer, RangeSeries, RulesAnswer, Series
from rollbackd.signals.silences import Silence
from rollbackd.syntax.units import parse_duration
from tests.unit.house import FakeLayer
from tests.unit.judgement.clock import LeapingClock

DOWN = "Prometheus at http://127.0.0.1:9090: no answer within 5s"
LONG_AGO = timedelta(days=30)
FOR_EVER = timedelta(days=365)
_NEVER = datetime.max.replace(tzinfo=UTC)
_PACE, _MINUTE = timedelta(seconds=15), timedelta(minutes=1)
"""How often it is scraped, and what counts are for."""


@dataclass
class WorldLayer(FakeLayer):
    """A layer that the world feels."""

    world: "World | None" = None
    stuck: bool = False
    forgets: bool = False
    """It does not say what it can go back to."""
    moving: Iterator[Release] | None = None
    takes: timedelta = timedelta()
    """How long its step takes."""
    along: tuple[str, str] | None = None
    """What its step takes along, a layer that is part of it, and to which release."""

    async def current(self) -> Release:
        if self.stuck:
            raise AdapterError("the repository is locked", permanent=False)
        return await super().current() if self.moving is None else next(self.moving)

    async def releases(self) -> Sequence[Release]:
        if self.forgets:
            raise AdapterError("cannot be listed", permanent=False)
        return await super().releases()

    async def apply(self, change: Change) -> None:
        assert self.world is not None
        await self.world.clock.sleep(self.takes)
        await super().apply(change)
        if self.along is not None:
            name, release = self.along
            own = next(layers for layers in self.world.layers.values() if layers.get(self.name) is self)
            own[name].present = Release(release)
        self.world.moved()


@dataclass
class WorldSchema(WorldLayer):
    """The schema of the layer `db`."""

    part_of = "db"
    rests_on = ()

    def misfit(self) -> str:
        return ""

    async def unfit(self, release: Release) -> Sequence[str]:
        return ()


def _kind(name: str) -> type[WorldLayer]:
    return WorldSchema if name == "schema" else WorldLayer


@dataclass
class Reading:
    """What one query says of one service over time."""

    usual: float | None
    now: float | None
    """What it says while nothing below holds."""
    sick: dict[tuple[str, str], float | None] = field(default_factory=dict)
    """What it says while a layer runs a release."""
    course: list[tuple[datetime, float | None]] = field(default_factory=list)


@dataclass
class Version:
    """A release that serves, from when until when."""

    release: str
    since: datetime
    until: datetime = _NEVER


class World:
    """Changed by the script and by rollbacks; asked by the daemon through its own interfaces."""

    def __init__(self, clock: LeapingClock, layers: Mapping[str, Sequence[str]]) -> None:
        self.clock = clock
        self.calls: list[str] = []
        self.layers = {
            service: {name: _kind(name)(name, self.calls, Traits(), Release(""), (), world=self) for name in names}
            for service, names in layers.items()
        }
        self.readings: defaultdict[str, dict[str, Reading]] = defaultdict(dict)
        self.prometheus = WorldPrometheus(self)
        self.alertmanager = WorldAlertmanager(self)
        self.checks: dict[tuple[str, str], tuple[Verdict, str]] = {}
        self.alerts: dict[str, Alert] = {}
        self.cures: dict[str, tuple[str, str]] = {}
        """Alerts by fingerprint, with the layer and the release that make them fire."""
        self.past_alerts: list[Alert] = []
        self.silences: dict[str, Silence] = {}
        self.versions: defaultdict[str, list[Version]] = defaultdict(list)
        """Of `code`, oldest first."""
        self.beside: dict[str, str] = {}
        """The release that goes on serving beside the one that was deployed, by service."""

    # -- what runs ------------------------------------------------------------------------------
    def build(self, service: Service) -> Layers:
        """The layers in memory, whatever the configuration says of their adapters."""
        own = self.layers.get(service.name, {})
        return Layers(service, {name: cast("Adapter", layer) for name, layer in own.items()})

    def run(self, service: str, layer: str, release: str) -> None:
        """Somebody deploys."""
        one, made = self.layers[service][layer], Release(release)
        one.present = made
        one.moving = None
        if made not in one.known:
            one.known = (made, *one.known)
        self.moved()

    def runs(self, service: str, layer: str, release: str) -> bool:
        return self.layers[service][layer].present.id == release

    # -- what is measured -----------------------------------------------------------------------
    def measure(self, query: str, service: str, value: float | None, sick: tuple[str, str] | None = None) -> None:
        """What a query says from now on; with `sick` only while that layer runs that release."""
        reading = self.readings[query].get(service)
        if reading is None:
            reading = self.readings[query][service] = Reading(value, value)
            reading.course.append((self.clock.true - LONG_AGO, value))
        elif sick is None:
            reading.now = value
        else:
            reading.sick[sick] = value
        self._read(service, reading)

    def _read(self, service: str, reading: Reading) -> None:
        holds = [value for (layer, release), value in reading.sick.items() if self.runs(service, layer, release)]
        value = holds[-1] if holds else reading.now
        if value != reading.course[-1][1]:
            reading.course.append((self.clock.true, value))

    def moved(self) -> None:
        """Another release runs: what is measured may be another now, alerts may be over."""
        for service, layers in self.layers.items():
            serving, runs = [one for one in self.versions[service] if one.until > self.clock.true], layers.get("code")
            if runs is None or any(one.release == runs.present.id for one in serving[-1:]):
                continue
            for one in serving:
                one.until = one.until if one.release == self.beside.get(service) else self.clock.true
            self.beside.pop(service, None)
            self.versions[service].append(Version(runs.present.id, self.clock.true))
        for by_service in self.readings.values():
            for service, reading in by_service.items():
                self._read(service, reading)
        for name, (layer, release) in list(self.cures.items()):
            if not self.runs(self.alerts[name].labels["service"], layer, release):
                self.resolve(name)

    def verdict(self, service: str, name: str) -> CheckResult:
        verdict, sick = self.checks.get((service, name), (Verdict.GOOD, ""))
        layer, _, release = sick.partition("=")
        over = bool(sick) and not self.runs(service, layer, release)
        said = {Verdict.GOOD: "answers", Verdict.BAD: "answered 500", Verdict.INCONCLUSIVE: "could not be asked"}
        found = Verdict.GOOD if over else verdict
        return CheckResult(name, found, said[found])

    # -- alerts ---------------------------------------------------------------------------------
    def fire(self, name: str, labels: Mapping[str, str], since: datetime, sick: tuple[str, str] | None) -> Alert:
        """An alert fires; what comes of it is the script's, or Alertmanager's."""
        named = {"alertname": name, **labels}
        fingerprint = hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:16]
        alert = self.alerts[fingerprint] = Alert(fingerprint, named, {}, since, None)
        if sick is not None:
            self.cures[fingerprint] = sick
        return alert

    def resolve(self, fingerprint: str) -> Alert:
        alert = replace(self.alerts.pop(fingerprint), ends_at=self.clock.true)
        self.cures.pop(fingerprint, None)
        self.past_alerts.append(alert)
        return alert

    def firing(self, name: str, service: str) -> str:
        """Its fingerprint."""
        return next(
            key
            for key, one in self.alerts.items()
            if one.labels["alertname"] == name and one.labels["service"] == service
        )

    def silence(self, matchers: str, by: str) -> None:
        ends = self.clock.true + FOR_EVER
        self.silences[by] = Silence(f"by {by}", parse_matchers(matchers), ends, by, "looking at it")


@dataclass
class WorldPrometheus:
    """Answers from what the world measured; queries are mere names."""

    world: World
    down: bool = False

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        if self.down:
            return QueryAnswer(problem=DOWN)
        time = at or self.world.clock.true
        if query == "vector(1)":
            return QueryAnswer((Series({}, 1.0, time),))
        if "version" in query:
            return QueryAnswer(tuple(Series(labels, value, time) for labels, value in self._by_version(query, time)))
        found = [(service, self._asked(query, service, time)) for service in self._services(query)]
        return QueryAnswer(tuple(Series({"service": one}, value, time) for one, value in found if value is not None))

    async def rules(self) -> RulesAnswer:
        return RulesAnswer(problem=DOWN) if self.down else RulesAnswer()

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        if self.down:
            return RangeAnswer(problem=DOWN)
        times = [start + step * n for n in range(int((end - start) / step) + 1)]
        if query.startswith("ALERTS"):
            return RangeAnswer(tuple(self._alerts(times)))
        if "version" in query:
            lines: defaultdict[tuple[tuple[str, str], ...], list[tuple[datetime, float]]] = defaultdict(list)
            for time in times:
                for labels, counted in self._by_version(query, time):
                    lines[tuple(labels.items())].append((time, counted))
            return RangeAnswer(tuple(RangeSeries(dict(labels), tuple(points)) for labels, points in lines.items()))
        found = []
        for service in self._services(query):
            points = tuple((time, value) for time in times if (value := self._asked(query, service, time)) is not None)
            found.append(RangeSeries({"service": service}, points))
        return RangeAnswer(tuple(one for one in found if one.points))

    def _by_version(self, query: str, time: datetime) -> Iterator[tuple[dict[str, str], float]]:
        """What is counted of each release that serves then: the same share of the requests."""
        name, window = _windowed(query)
        for service in self._services(query):
            serving = [one for one in self.world.versions[service] if one.since < time <= one.until]
            errors, requests = (self.world.readings[one][service] for one in ("errors", "requests"))
            for one in serving:
                counted = (requests.now or 0) / len(serving) * (min(window, time - one.since) / _MINUTE)
                share = errors.sick.get(("code", one.release), errors.now) or 0
                yield {"service": service, "version": one.release}, counted * (share if name == "failed" else 1)

    def _services(self, query: str) -> Sequence[str]:
        name = _windowed(query)[0]
        return list(self.world.readings["errors" if name == "failed" else name])

    def _asked(self, query: str, service: str, time: datetime) -> float | None:
        """What a query is at a time; what it counts is so many in a minute."""
        name, window = _windowed(query)
        times = (time - _PACE * n for n in range(int(window / _PACE))) if window >= _PACE else (time,)
        values = [value for each in times if (value := self._at(name, service, each)) is not None]
        counted = window / _MINUTE if "increase(" in query else 1.0
        return sum(values) / len(values) * counted if values else None

    def _at(self, name: str, service: str, time: datetime) -> float | None:
        if name != "failed":
            return _at(self.world.readings[name][service], time)
        errors, requests = (_at(self.world.readings[one][service], time) for one in ("errors", "requests"))
        return None if errors is None or requests is None else errors * requests

    def _alerts(self, times: Sequence[datetime]) -> Iterator[RangeSeries]:
        for alert in (*self.world.past_alerts, *self.world.alerts.values()):
            ends = alert.ends_at or self.world.clock.true
            points = tuple((time, 1.0) for time in times if alert.starts_at <= time <= ends)
            if points:
                yield RangeSeries(alert.labels, points)

    async def close(self) -> None:
        return


_OF_PACK = (
    (re.compile(r"histogram_quantile"), "latency"),
    (re.compile(r"avg_over_time\(up\["), "down"),
    (re.compile(r"increase\(.*code=~", re.DOTALL), "failed"),
    (re.compile(r"rate\(.*code=~.*/", re.DOTALL), "errors"),
    (re.compile(r"increase\("), "requests"),
)
"""What the queries of the pack `http` ask, the first that fits."""


@cache
def _windowed(query: str) -> tuple[str, timedelta]:
    """The name of what is measured, and over how long."""
    found = re.fullmatch(r"(?:avg_over_time|increase)\((\w+)\[(\d+[ms])\]\)", query)
    if found is not None:
        return found[1], parse_duration(found[2])
    if "(" not in query:
        return query, timedelta()
    window = re.search(r"\[(\d+[ms])\]", query)
    assert window is not None, query
    return next(name for pattern, name in _OF_PACK if pattern.search(query)), parse_duration(window[1])


def _at(reading: Reading, time: datetime) -> float | None:
    for since, value in reversed(reading.course):
        if since <= time:
            return value
    return None


@dataclass
class WorldAlertmanager:
    """What fires, and what is silenced."""

    world: World
    down: bool = False

    restarted: datetime | None = None
    """When it began anew; it knows of nothing that was sent to it before."""
    inhibited: set[str] = field(default_factory=set)
    """Fingerprints."""

    async def firing(self, now: datetime) -> FiringAlerts:
        if self.down:
            raise Unreachable("Alertmanager at http://127.0.0.1:9093: no answer within 5s")
        if self.restarted is not None and now - self.restarted < timedelta(minutes=2):
            return FiringAlerts(whole=False)
        listed = self.world.alerts
        alerts = tuple(alert for name, alert in listed.items() if name not in self.inhibited)
        return FiringAlerts(alerts, frozenset(listed))

    async def silences(self) -> list[Silence]:
        if self.down:
            raise Unreachable("Alertmanager at http://127.0.0.1:9093: no answer within 5s")
        return list(self.world.silences.values())


class WorldCheckRunner:
    """Checks answer what the world says."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(
        self, service: Service, refs: Sequence[Any], since: datetime | None = None
    ) -> tuple[CheckResult, ...]:
        return tuple([await self.ask(service, ref, since) for ref in refs])

    async def ask(self, service: Service, ref: Any, since: datetime | None = None) -> CheckResult:
        return self._world.verdict(service.name, str(ref))


def moving(*releases: str) -> Iterator[Release]:
    """A layer that says something else at each look."""
    return cycle(Release(release) for release in releases)
