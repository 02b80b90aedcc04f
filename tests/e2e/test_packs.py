"""The shipped rule packs against a real Prometheus: each rule, with data of services in every kind of health."""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import CheckPlace
from rollbackd.checks.command import CommandCheck, CommandSettings
from rollbackd.config import files
from rollbackd.config.packs import read_rules
from rollbackd.model import Event, Verdict
from rollbackd.rules.compare import Baseline
from rollbackd.rules.events import EventRun
from rollbackd.rules.events import step as step_events
from rollbackd.rules.matchers import all_match, parse_matchers
from rollbackd.rules.samples import Observation, own
from rollbackd.rules.spec import AlertWhen, CheckWhen, EventWhen, QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track, step
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_conditions import by_itself, by_shift
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from tests.e2e.pack_data import END, START, TURN, history
from tests.servers import Server, prometheus

pytestmark = pytest.mark.needs("prometheus", "promtool")

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), samples=history()) as running:
        yield running


@pytest.fixture
async def asked(server: Server) -> AsyncIterator[Prometheus]:
    client = Prometheus(server.url, timedelta(seconds=20), SystemClock())
    yield client
    await client.close()


def pack(directory: Path, name: str, **settings: Any) -> Mapping[str, Rule]:
    """A pack's rules by name, read as the configuration does."""
    config = directory / "config.yaml"
    given = "".join(f", {key}: {value}" for key, value in settings.items())
    config.write_text(f"rules: [{{pack: {name}{given}}}]\n")
    rules = read_rules(files.read(config).document, directory)
    assert rules.faults == []
    return {placed.name: placed.rule for placed in rules.placed if placed.rule is not None}


def query_of(rule: Rule) -> QueryWhen:
    assert isinstance(rule.when, QueryWhen)
    return rule.when


async def look(
    client: Prometheus, when: QueryWhen, service: str, at: datetime = END, match: Mapping[str, str] | None = None
) -> Observation:
    """One poll of one condition for one service."""

    async def values(query: str, then: datetime) -> list[float]:
        answer = await client.instant(query, then)
        assert answer.problem == ""
        return own(((series.labels, series.value) for series in answer.series), match or {"service": service})

    counted = await values(when.counting, at) if when.counting else None
    if when.against is None or when.score is not None:
        return by_itself(when, await values(when.query, at), counted)
    assert when.against.offset is not None
    past = await values(when.query, at - when.against.offset)
    base = Baseline(tuple(past), f" {when.other}") if past else Baseline(missing=f"there is no data of {when.other}")
    return by_shift(when, await values(when.query, at), counted, base)


PAST = "15m"
"""What packs that compare with the past compare with here, where it is short."""
SETTINGS = {"auth": {"past": PAST}, "business": {"past": PAST, "window": "5m"}}
EXPECTED: dict[str, dict[str, dict[Verdict, str]]] = {
    "http": {
        "error-score": {
            GOOD: "healthy flawless slow at-the-limit",
            BAD: "failing rare",
            UNKNOWN: "idle idle-flawless gone unknown",
        },
        "new-version-fails": {
            GOOD: "healthy flawless slow at-the-limit",
            BAD: "failing rare",
            UNKNOWN: "idle idle-flawless gone unknown",
        },
        "high-error-rate": {
            GOOD: "healthy flawless at-the-limit slow",
            BAD: "failing",
            UNKNOWN: "idle idle-flawless rare gone unknown",
        },
        "slow": {GOOD: "healthy", BAD: "slow", UNKNOWN: "idle rare gone unknown"},
        "unavailable": {GOOD: "healthy idle half-up", BAD: "gone", UNKNOWN: "unknown"},
    },
    "saturation": {
        "processor": {GOOD: "roomy leaking unlimited", BAD: "full boxed", UNKNOWN: "unknown"},
        "memory": {GOOD: "roomy leaking unlimited", BAD: "full boxed", UNKNOWN: "unknown"},
        "disk-full": {GOOD: "roomy leaking", BAD: "full", UNKNOWN: "unknown"},
        "disk-filling": {GOOD: "roomy full", BAD: "leaking", UNKNOWN: "young unknown"},
    },
    "auth": {
        "refused": {GOOD: "calm peaking flawless", BAD: "locked", UNKNOWN: "asleep idle unknown"},
        "refused-peak": {GOOD: "calm locked flawless", BAD: "peaking", UNKNOWN: "asleep idle unknown"},
        "login-failures": {GOOD: "calm", BAD: "locked", UNKNOWN: "asleep unknown"},
        "session-refresh-failures": {GOOD: "calm", BAD: "locked", UNKNOWN: "asleep unknown"},
    },
    "database": {
        "connection-failures": {GOOD: "steady", BAD: "strained", UNKNOWN: "resting unknown"},
        "database-down": {GOOD: "steady resting", BAD: "strained", UNKNOWN: "unknown"},
        "connections-used": {GOOD: "steady resting", BAD: "strained", UNKNOWN: "unknown"},
        "replication-lag": {GOOD: "steady resting", BAD: "strained", UNKNOWN: "unknown"},
        "deadlocks": {GOOD: "steady resting", BAD: "strained", UNKNOWN: "unknown"},
    },
    "kubernetes": {
        "crash-looping": {GOOD: "web starting pulling batch", BAD: "crashing", UNKNOWN: "unknown"},
        "not-ready": {GOOD: "web starting batch", BAD: "crashing pulling", UNKNOWN: "unknown"},
        "no-image": {GOOD: "web starting crashing batch", BAD: "pulling", UNKNOWN: "unknown"},
    },
    "business": {
        "activation-drop": {GOOD: "thriving", BAD: "dropping lost", UNKNOWN: "tiny newborn unknown"},
        "key-flow-drop": {GOOD: "thriving", BAD: "dropping", UNKNOWN: "tiny newborn unknown"},
    },
}


@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rules in EXPECTED.items() for rule in rules])
async def test_each_rule_of_a_pack_judges(asked: Prometheus, tmp_path: Path, name: str, rule: str) -> None:
    when = query_of(pack(tmp_path, name, **SETTINGS.get(name, {}))[rule])
    for verdict, services in EXPECTED[name][rule].items():
        for service in services.split():
            seen = await look(asked, when, service)
            assert seen.verdict is verdict, f"{service}: {seen.reason}"
            assert not seen.fault


@pytest.mark.parametrize("name", [name for name in files.pack_names() if name != "smoke"])
def test_every_query_of_a_pack_is_tried_in_each_kind_of_health(tmp_path: Path, name: str) -> None:
    asking = {rule.name for rule in pack(tmp_path, name).values() if isinstance(rule.when, QueryWhen)}
    assert asking == EXPECTED.get(name, {}).keys()
    for rule, verdicts in EXPECTED.get(name, {}).items():
        assert verdicts.keys() == {GOOD, BAD, UNKNOWN}, rule


async def test_no_error_at_all_is_a_rate_of_zero(asked: Prometheus, tmp_path: Path) -> None:
    seen = await look(asked, query_of(pack(tmp_path, "http")["high-error-rate"]), "flawless")
    assert (seen.verdict, seen.value) == (GOOD, 0.0)


async def test_what_is_seen_is_the_truth(asked: Prometheus, tmp_path: Path) -> None:
    rules = pack(tmp_path, "http")
    failing = await look(asked, query_of(rules["high-error-rate"]), "failing")
    assert failing.value == pytest.approx(15 / 35, abs=0.01)
    slow = await look(asked, query_of(rules["slow"]), "slow")
    assert slow.value is not None
    assert 2.0 < slow.value <= 5.0
    half = await look(asked, query_of(rules["unavailable"]), "half-up")
    assert half.value == pytest.approx(0.5)


async def test_a_settings_value_moves_the_threshold(asked: Prometheus, tmp_path: Path) -> None:
    strict = query_of(pack(tmp_path, "http", error_rate="0.5%")["high-error-rate"])
    assert (await look(asked, strict, "healthy")).verdict is BAD
    lax = query_of(pack(tmp_path, "http", min_samples=1)["high-error-rate"])
    assert (await look(asked, lax, "rare")).verdict is BAD


async def test_an_error_rate_is_met_only_after_it_lasted(asked: Prometheus, tmp_path: Path) -> None:
    when = query_of(pack(tmp_path, "http")["high-error-rate"])
    track, met, pending = Track(), None, None
    at = TURN - timedelta(minutes=1)
    while at < TURN + timedelta(minutes=10):
        seen = await look(asked, when, "turning", at)
        track = step(track, when, seen.verdict, seen.reason, at)
        if track.standing is Standing.PENDING and pending is None:
            pending = at
        if track.met:
            met = at
            break
        at += timedelta(seconds=15)
    assert pending is not None
    assert met is not None
    assert met - pending == when.for_ == timedelta(minutes=3, seconds=45)
    assert timedelta() < pending - TURN < timedelta(minutes=1)


async def test_without_any_such_metric_nothing_is_ever_concluded(asked: Prometheus, tmp_path: Path) -> None:
    rules = pack(tmp_path, "http", requests="no_such_total", durations="no_such_bucket", up="no_such")
    for rule in rules.values():
        assert (await look(asked, query_of(rule), "healthy")).reason == "no data"


# -- settings of the other packs ----------------------------------------------------------------
async def test_pods_are_placed_by_the_label_and_the_namespace(asked: Prometheus, tmp_path: Path) -> None:
    rules = pack(tmp_path, "kubernetes", as_label="app", service='"app, namespace"')
    for service, verdict in (("web", GOOD), ("crashing", BAD)):
        here, elsewhere = ({"app": service, "namespace": namespace} for namespace in ("shop", "other"))
        assert (await look(asked, query_of(rules["crash-looping"]), "", match=here)).verdict is verdict
        assert (await look(asked, query_of(rules["crash-looping"]), "", match=elsewhere)).verdict is UNKNOWN


async def test_shares_are_told_as_they_are(asked: Prometheus, tmp_path: Path) -> None:
    async def value(name: str, rule: str, service: str) -> float | None:
        return (await look(asked, query_of(pack(tmp_path, name, **SETTINGS.get(name, {}))[rule]), service)).value

    assert await value("saturation", "processor", "boxed") == pytest.approx(0.95, abs=0.001)
    assert await value("saturation", "disk-filling", "leaking") == pytest.approx(1.5, abs=0.01)
    assert await value("auth", "refused", "flawless") == 0.0
    assert await value("database", "connections-used", "steady") == pytest.approx(0.6)
    assert await value("kubernetes", "not-ready", "crashing") == pytest.approx(0.5)
    assert await value("business", "key-flow-drop", "dropping") == 0.0


async def test_a_pack_can_be_for_some_services_and_of_some_rules(tmp_path: Path) -> None:
    rules = pack(tmp_path, "auth", **{"as": "door", "only": "[refused, login-failures]", "services": "[login, web]"})
    assert {name: rule.services for name, rule in rules.items()} == {
        "door-refused": ("login", "web"),
        "door-login-failures": ("login", "web"),
    }


# -- events and alerts --------------------------------------------------------------------------
def reported(rule: Rule, *minutes: float, **labels: str) -> bool:
    """Whether a rule is met when its event was reported so long after the start."""
    when = rule.when
    assert isinstance(when, EventWhen)
    run: EventRun | None = None
    events: list[Event] = []
    for number, each in enumerate(minutes):
        events.append(Event(when.event, str(number), START + timedelta(minutes=each), labels=labels))
        run = step_events(run, when, events, events[-1], events[-1].at)
    return run is not None


def test_the_security_pack_takes_findings_and_alerts_that_are_bad_enough(tmp_path: Path) -> None:
    rules = pack(tmp_path, "security")
    assert {rule.impact for rule in rules.values()} == {"critical"}
    assert reported(rules["security-finding"], 0, severity="high")
    assert not reported(rules["security-finding"], 0, severity="low")
    assert not reported(rules["security-finding"], 0)
    assert reported(rules["data-loss"], 0)
    when = rules["security-alert"].when
    assert isinstance(when, AlertWhen)
    for severity, category, asked in (
        ("critical", "security", True),
        ("critical", "", False),
        ("low", "security", False),
    ):
        assert all_match(parse_matchers(when.alert), {"severity": severity, "category": category}) is asked


def test_the_business_pack_counts_complaints_and_broken_runs(tmp_path: Path) -> None:
    rules = pack(tmp_path, "business")
    assert not reported(rules["complaints"], 0, 5, 10, 15)
    assert reported(rules["complaints"], 0, 5, 10, 15, 20)
    assert not reported(rules["complaints"], 0, 10, 20, 30, 40), "five, but never within half an hour"
    assert not reported(rules["key-flow-broken"], 0)
    assert reported(rules["key-flow-broken"], 0, 10)


# -- smoke --------------------------------------------------------------------------------------
async def smoke(*argv: str) -> tuple[Verdict, str]:
    """One run of a service's smoke test."""
    place = CheckPlace("smoke", "checkout", {}, Spawner(), SystemClock(), lambda: None, None)
    result = await CommandCheck(CommandSettings(command=argv), place).run()
    return result.verdict, result.reason


async def test_the_smoke_pack_is_met_by_three_failures_in_a_row(tmp_path: Path) -> None:
    rules = pack(tmp_path, "smoke")
    assert set(rules) == {"smoke-failed"}
    when = rules["smoke-failed"].when
    assert isinstance(when, CheckWhen)
    assert (when.check, when.failures, when.after_change) == ("smoke", 3, timedelta(minutes=10))
    failing, passing, absent = (
        [sys.executable, "-c", "raise SystemExit(1)"],
        [sys.executable, "-c", ""],
        ["/nowhere/at/all"],
    )
    track, standings = Track(), []
    runs = [passing, failing, failing, passing, failing, failing, absent, failing]
    for number, argv in enumerate(runs):
        verdict, reason = await smoke(*argv)
        track = step(track, when, verdict, reason, START + number * when.every)
        standings.append(track.standing)
    assert standings[0] is Standing.GOOD
    assert standings[3] is Standing.GOOD, "a success begins anew"
    assert Standing.BAD not in standings[:-1], "one that cannot be started counts neither way"
    assert standings[-1] is Standing.BAD
