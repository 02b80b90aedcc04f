"""The shipped rule packs against a real Prometheus: each rule, with data of services in every kind of health."""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import CheckPlace
from rollbackd.checks.command import Command, CommandSettings
from rollbackd.clock import SystemClock
from rollbackd.config import files
from rollbackd.config.packs import read_rules
from rollbackd.model import Verdict
from rollbackd.process import Spawner
from rollbackd.rules.samples import Observation, judge, own
from rollbackd.rules.spec import CheckWhen, QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track, step
from rollbackd.sources.prometheus import Prometheus
from tests.servers import Server, prometheus, sample

pytestmark = pytest.mark.needs("prometheus", "promtool")

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
START = datetime(2025, 6, 1, 12, tzinfo=UTC)
SPAN, STEP = timedelta(minutes=30), timedelta(seconds=15)
END = START + SPAN
TURN = START + timedelta(minutes=15)
"""When `turning` goes bad."""
BUCKETS = (0.1, 0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Health:
    """How a service fares, per second; None: it has no such series at all."""

    answers: float | None = 20.0
    errors: float | None = 0.0
    seconds: float = 0.3
    """How long each answer takes."""
    up: float | None = 1.0


SERVICES = {
    "healthy": Health(errors=0.2),
    "flawless": Health(errors=None),
    "failing": Health(errors=15.0),
    "at-the-limit": Health(answers=18.0, errors=2.0),
    "slow": Health(seconds=3.0),
    "idle": Health(answers=0.0),
    "idle-flawless": Health(answers=0.0, errors=None),
    "rare": Health(answers=0.05, errors=0.05),
    "gone": Health(answers=None, errors=None, up=0.0),
    "half-up": Health(up=0.5),
    "unknown": Health(answers=None, errors=None, up=None),
    "turning": Health(),
}


def history() -> str:
    """Half an hour of them all, in the OpenMetrics text format."""
    lines: dict[str, list[str]] = {}
    steps = int(SPAN / STEP) + 1
    totals: dict[tuple[str, str], float] = {}

    def say(name: str, value: float, at: datetime, **labels: str) -> None:
        lines.setdefault(name, []).append(f"{sample(name, labels)} {value!r} {at.timestamp()}")

    def count(key: tuple[str, str], more: float) -> float:
        totals[key] = totals.get(key, 0.0) + more
        return totals[key]

    for number in range(steps):
        at = START + number * STEP
        for service, health in SERVICES.items():
            errors = 10.0 if service == "turning" and at > TURN else health.errors
            if health.answers is not None:
                total = count((service, "200"), health.answers * STEP.total_seconds())
                say("http_requests_total", total, at, service=service, code="200")
                for limit in (*BUCKETS, float("inf")):
                    inside = total if health.seconds <= limit else 0.0
                    le = "+Inf" if limit == float("inf") else str(limit)
                    say("http_request_duration_seconds_bucket", inside, at, service=service, le=le)
            if errors is not None:
                more = count((service, "503"), errors * STEP.total_seconds())
                say("http_requests_total", more, at, service=service, code="503")
            if health.up is not None:
                for instance in ("a", "b"):
                    is_up = 1.0 if health.up == 1.0 or (health.up == 0.5 and instance == "a") else 0.0
                    say("up", is_up, at, service=service, instance=instance)
    return "\n".join(line for each in lines.values() for line in each) + "\n"


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


async def look(client: Prometheus, when: QueryWhen, service: str, at: datetime = END) -> Observation:
    """One poll of one condition for one service."""

    async def values(query: str) -> list[float]:
        answer = await client.instant(query, at)
        assert answer.problem == ""
        return own(((series.labels, series.value) for series in answer.series), {"service": service})

    count = None
    if when.samples is not None:
        counts = await values(when.samples.query)
        count = counts[0] if counts else None
    at_least = None if when.samples is None else when.samples.at_least
    return judge(await values(when.query), when.above, when.below, when.aggregate, count, at_least)


EXPECTED = {
    "high-error-rate": {
        "healthy": GOOD,
        "flawless": GOOD,
        "failing": BAD,
        "at-the-limit": GOOD,
        "slow": GOOD,
        "idle": UNKNOWN,
        "idle-flawless": UNKNOWN,
        "rare": UNKNOWN,
        "gone": UNKNOWN,
        "unknown": UNKNOWN,
    },
    "slow": {
        "healthy": GOOD,
        "slow": BAD,
        "idle": UNKNOWN,
        "rare": UNKNOWN,
        "gone": UNKNOWN,
        "unknown": UNKNOWN,
    },
    "unavailable": {"healthy": GOOD, "idle": GOOD, "gone": BAD, "half-up": BAD, "unknown": UNKNOWN},
}


@pytest.mark.parametrize(
    ("rule", "service", "verdict"),
    [(rule, service, verdict) for rule, table in EXPECTED.items() for service, verdict in table.items()],
)
async def test_each_rule_of_the_http_pack_judges(
    asked: Prometheus, tmp_path: Path, rule: str, service: str, verdict: Verdict
) -> None:
    seen = await look(asked, query_of(pack(tmp_path, "http")[rule]), service)
    assert seen.verdict is verdict, seen.reason
    assert not seen.fault


def test_every_rule_of_the_http_pack_is_tried(tmp_path: Path) -> None:
    assert set(pack(tmp_path, "http")) == set(EXPECTED)


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
        at += timedelta(seconds=30)
    assert pending is not None
    assert met is not None
    assert met - pending == when.for_ == timedelta(minutes=5)
    assert timedelta() < pending - TURN < timedelta(minutes=3)


async def test_without_any_such_metric_nothing_is_ever_concluded(asked: Prometheus, tmp_path: Path) -> None:
    rules = pack(tmp_path, "http", requests="no_such_total", durations="no_such_bucket", up="no_such")
    for rule in rules.values():
        assert (await look(asked, query_of(rule), "healthy")).reason == "no data"


# -- smoke --------------------------------------------------------------------------------------
async def smoke(*argv: str) -> tuple[Verdict, str]:
    """One run of a service's smoke test."""
    place = CheckPlace("smoke", "checkout", {}, Spawner(), SystemClock(), lambda: None, None)
    result = await Command(CommandSettings(command=argv), place).run()
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
