"""Comparisons on a real Prometheus: yesterday, before the change, peers, old instances, tests of samples, old trouble."""

import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.config.load import load
from rollbackd.decision.blame import Blame
from rollbackd.decision.engine import DecisionEngine
from rollbackd.journal import Entry, Journal
from rollbackd.model import Release, State, Verdict, service_stream
from rollbackd.rules.tracks import Standing
from rollbackd.signals.polls import PrometheusPolls
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import SystemClock
from tests.fakes.journal import MemoryJournal
from tests.servers import Server, prometheus, sample

pytestmark = pytest.mark.needs("prometheus", "promtool")

EVERY = timedelta(seconds=15)
AGO = timedelta(minutes=25)
"""When the services changed."""
SERVICES = ("fell", "rose", "slower", "canary", "steady", "always-bad")
GROUPS = {"alike": ["fell", "steady", "rose", "slower"]}
RATE = "sum by (service) (rate(orders_total[2m]))"
RULES: list[dict[str, Any]] = [
    {"name": "orders-fell", "when": {"query": RATE, "drops_by": "50%", "against": {"offset": "1d"}, "for": "2m"}},
    {"name": "errors-rose", "when": {"query": "errors_ratio", "rises_by": "50%", "against": {"before_change": "20m"}}},
    {
        "name": "unlike-peers",
        "when": {"query": RATE, "drops_by": "50%", "against": {"peers": "alike"}},
        "services": GROUPS["alike"],
    },
    {
        "name": "new-version",
        "when": {"query": "errors_by_version", "rises_by": "50%", "against": {"peers": {"label": "version"}}},
        "services": ["canary"],
    },
    {
        "name": "slower",
        "when": {"query": "latency", "differs": {"direction": "up"}, "against": {"before_change": "20m"}},
    },
    {"name": "bad", "when": {"query": "errors_ratio", "above": "10%", "for": "1m"}},
    {"name": "paged", "when": {"alert": 'alertname="Paged"'}},
]


def history(now: datetime) -> str:
    """An hour of today and one of yesterday, in the OpenMetrics text format; all is well until the change.

    Both go on for five minutes, so that a poll which comes later sees the same.
    """
    random = Random(11)
    lines: dict[str, list[str]] = {}
    orders = dict.fromkeys(SERVICES, 0.0)

    def say(name: str, value: float, at: datetime, **labels: str) -> None:
        lines.setdefault(name, []).append(f"{sample(name, labels)} {value!r} {at.timestamp()}")

    for back in (timedelta(days=1), timedelta()):
        for number in range(240, -20, -1):
            at = now - back - number * EVERY
            after = at >= now - AGO + EVERY
            for service in SERVICES:
                orders[service] += 30 if after and service == "fell" else 150
                say("orders_total", orders[service], at, service=service)
                sick = (after and service == "rose") or service == "always-bad"
                say("errors_ratio", 0.3 if sick else 0.04, at, service=service)
                level = 0.42 if after and service == "slower" else 0.30
                say("latency", level * random.gauss(1, 0.05), at, service=service)
            say("errors_by_version", 0.02, at, service="canary", version="v1")
            if after:
                say("errors_by_version", 0.2, at, service="canary", version="v2")
                say("ALERTS", 1, at, alertname="Paged", alertstate="firing", service="rose")
            say("ALERTS", 1, at, alertname="Paged", alertstate="firing", service="always-bad")
    lines["orders_total"].insert(0, "# TYPE orders counter")
    return "".join(f"{line}\n" for found in lines.values() for line in found)


class NoJudge:
    """Nothing is decided here."""

    def consider_soon(self, *_: Any, **__: Any) -> None:
        """What was seen is asked of the rules' states."""

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Nobody is told here."""
        work.close()


@dataclass(frozen=True)
class Seen:
    """What one poll, and the start before it, saw."""

    rule_states: RuleStates
    polls: PrometheusPolls
    before: Blame
    change: datetime

    def says(self, rule: str, service: str) -> tuple[Standing, str]:
        now = SystemClock().now()
        return next((one.standing, one.reason) for one in self.rule_states.seen(service, now) if one.rule == rule)

    async def earlier(self, rule: str, service: str) -> tuple[Verdict, str]:
        found = self.rule_states.rule(rule)
        assert found is not None
        return await self.before.before(found, service, self.change, timedelta(minutes=20), {"alertname": "Paged"})


@pytest.fixture(scope="module")
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def server(now: datetime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), samples=history(now)) as running:
        yield running


@pytest.fixture
async def seen(now: datetime, server: Server, tmp_path: Path) -> AsyncIterator[Seen]:
    layer = {"adapter": "command", "current": ["x"], "releases": ["x"], "apply": ["x"]}
    verify = {"checks": [{"command": ["true"]}]}
    services = [
        {"name": name, "match": {"service": name}, "layers": {"code": layer}, "verify": verify} for name in SERVICES
    ]
    daemon = {"mode": "act", "open_on_loopback": True}
    document = {"daemon": daemon, "prometheus": {"url": server.url}, "peers": GROUPS, "rules": RULES}
    document["limits"] = {"change_window": "30m"}
    (tmp_path / "config.yaml").write_text(json.dumps(document | {"services": services}))
    config = load(tmp_path / "config.yaml").config
    clock = SystemClock()
    read_model = ReadModel(cast("Journal", MemoryJournal(cast("Any", clock))))
    old, new = (State({"code": Release(name)}) for name in ("v1", "v2"))
    for name in SERVICES:
        if name in {"steady", "fell"}:
            continue
        at = now - AGO
        for state, after, by in ((old, at, at - timedelta(hours=9)), (new, at - EVERY, at)):
            await read_model.append(Entry(service_stream(name), facts.Changed(state, min(after, by), by)))
    rule_states = RuleStates(config)
    client = Prometheus(server.url, timedelta(seconds=20), clock)
    polls = PrometheusPolls(config, read_model, rule_states, cast("DecisionEngine", NoJudge()), clock, client)
    await polls.rebuild()
    await polls.poll()
    yield Seen(rule_states, polls, Blame(config, read_model, rule_states, clock, client), now - AGO - EVERY)
    await client.close()


async def test_each_comparison_finds_what_moved_and_nothing_else(seen: Seen) -> None:
    assert seen.polls.problem == ""
    moved = {
        "orders-fell": "fell",
        "errors-rose": "rose",
        "new-version": "canary",
        "slower": "slower",
    }
    for rule, service in moved.items():
        found = {name: seen.says(rule, name)[0] for name in SERVICES if rule != "new-version" or name == "canary"}
        assert {name for name, standing in found.items() if standing is Standing.BAD} == {service}, rule
        assert set(found.values()) <= {Standing.BAD, Standing.GOOD}, (rule, found)


async def test_each_shows_its_numbers(seen: Seen) -> None:
    assert seen.says("orders-fell", "fell")[1] == "2, 80% below 10 1d ago (drops_by 50%)"
    rose = "0.3, 650% above 0.04, the median of 20m before the change (rises_by 50%)"
    assert seen.says("errors-rose", "rose")[1] == rose
    canary = "0.2, 900% above 0.02, the median of 1 unchanged by version (rises_by 50%)"
    assert seen.says("new-version", "canary")[1] == canary
    said = seen.says("slower", "slower")[1]
    assert said.startswith("p = ")
    assert "samples against 0.3" in said
    assert said.endswith("% up")


async def test_freshly_changed_peers_do_not_count(seen: Seen) -> None:
    standing, said = seen.says("unlike-peers", "fell")
    assert standing is Standing.INCONCLUSIVE
    assert "only 1 of the other services in alike have data, no incident and no fresh change" in said


@pytest.mark.parametrize(
    ("rule", "service", "verdict"),
    [
        ("bad", "rose", Verdict.GOOD),
        ("bad", "always-bad", Verdict.BAD),
        ("paged", "rose", Verdict.GOOD),
        ("paged", "always-bad", Verdict.BAD),
        ("paged", "steady", Verdict.INCONCLUSIVE),
        ("orders-fell", "rose", Verdict.GOOD),
        ("errors-rose", "always-bad", Verdict.GOOD),
    ],
)
async def test_what_was_bad_before_the_change_is_told_from_what_came_after(
    seen: Seen, rule: str, service: str, verdict: Verdict
) -> None:
    found, said = await seen.earlier(rule, service)
    assert found is verdict, said
