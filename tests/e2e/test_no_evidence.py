"""No evidence, no rollback, and nothing becomes good by it. Recovered is only what was seen to be well.

The releases of these stories are bad in truth, or look well where nobody can know: careless judging would act on them.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import hostile
from tests.e2e.alerts import ALERT, alert, query_rule, webhook
from tests.e2e.hostile import Liar, by_turns, drips, half, hangs, says, warns
from tests.e2e.shop import BAD, Shop
from tests.e2e.telling import Begun, told
from tests.e2e.town import Town, reason, receivers, stands
from tests.servers import free_port, prometheus, wait_until

TOGETHER = 4
pytestmark = [pytest.mark.needs("git", "prometheus"), pytest.mark.timeout(240)]

# -- answers that must not be trusted, over ten minutes of the daemon's time ---------------------------
SPEED = 60.0
TEN_MINUTES = 600 / SPEED
"""In seconds of ours."""


@dataclass(frozen=True)
class Lie:
    """How a question is answered while v2 runs, and what a person is told of it."""

    answer: hostile.Answer
    says: str


LIES = {
    "nan": Lie(says("NaN"), "no number: NaN"),
    "infinite": Lie(says("+Inf"), "no number: Inf"),
    "empty": Lie(says(), "no data"),
    "ambiguous-bad": Lie(says("0.9", "0.8"), "ambiguous: 2 series for one service"),
    "ambiguous-good": Lie(says("0", "0"), "ambiguous: 2 series for one service"),
    "warnings-bad": Lie(warns("0.9"), "came with warnings, so it may be partial: remote_read"),
    "warnings-good": Lie(warns("0"), "came with warnings, so it may be partial: remote_read"),
    "drips": Lie(drips("0.9"), "no answer within 1s"),
    "hangs": Lie(hangs, "no answer within 1s"),
    "half-bad": Lie(half("0.9"), "query timed out"),
    "half-good": Lie(half("0"), "query timed out"),
}
TRUTHS = ("stays-well", "gets-well", "stays-sick", "goes-dark")


def _rule(case: str) -> dict[str, Any]:
    samples = {"query": f'samples{{case="{case}"}}', "at_least": 50}
    when = {"query": f'errors{{case="{case}"}}', "above": "10%", "for": "2m", "samples": samples}
    return {"name": f"rule-{case}", "when": when, "services": [case]}


def _runs(shop: Shop, tag: str) -> bool:
    return shop.running() == tag


@contextmanager
def lied_to(root: Path) -> Iterator[Town]:
    """A daemon at sixty times the speed, after ten minutes of its time with lies about v2 in every service."""
    with Liar() as liar, receivers() as messages, Town(root, *LIES, *TRUTHS) as town:
        town.speed, town.receivers, town.prometheus = SPEED, messages, liar.url
        verify = {"settle": "15s", "every": "30s", "passes": 3, "deadline": "12m", "checks": ["health"], "watch": "1m"}
        town.write_config(
            daemon=town.daemon(look_every="20m", reports=str(root / "reports")),
            prometheus={"url": liar.url, "poll_every": "15s", "timeout": "1s"},
            rules=[_rule(case) for case in town.shops],
            services=[town.service(name, bake="4m", verify=verify) for name in town.shops],
        )
        town.start_daemon()
        for name in town.shops:
            town.until_good("v1", name)
        for case, lie in LIES.items():
            liar.turn(case, lie.answer)
        truths = dict(liar.asked)
        town.until(lambda: all(liar.asked[case] > truths[case] + 2 for case in LIES), "every lie is told")
        for shop in town.shops.values():
            shop.deploy("v2", BAD)
            town.look(shop.name)
        for case, after in (("gets-well", says("0")), ("stays-sick", says("0.9")), ("goes-dark", says("NaN"))):
            liar.turn(case, by_turns(says("0.9"), after, partial(_runs, town.shops[case], "v2")))
        asked, over = liar.asked["nan"], time.monotonic() + TEN_MINUTES
        town.until(lambda: time.monotonic() > over and liar.asked["nan"] > asked + 20, "ten minutes of nothing", 90)
        for case in TRUTHS[1:]:
            town.until_ended(f"{case}-1")
        yield town


@pytest.fixture(scope="module")
def after(begun: Begun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Ten minutes of lies, while the stories below are told."""
    with lied_to(tmp_path_factory.mktemp("lies")) as town:
        yield town


@pytest.mark.parametrize("case", LIES)
def test_what_cannot_be_trusted_rolls_nothing_back_and_makes_nothing_good(after: Town, case: str) -> None:
    seen = after.view(case)
    assert (seen["health"], seen["baked"]) == ("inconclusive", 0.0)
    after.until(lambda: LIES[case].says in after.view(case)["rules"][0]["reason"], "the reason")
    assert after.state("v2", case)["good"] == ""
    assert after.incidents(case) == []
    assert after.decisions(case) == []
    assert after.shops[case].running() == "v2"


def test_a_rule_that_says_nothing_or_nothing_that_can_be_told_apart_is_told_once(after: Town) -> None:
    def times(case: str) -> int:
        faults = [text["text"] for one in after.told("rule_fault") for text in one["lines"]]
        return sum(f"rule rule-{case} cannot be judged" in text for text in faults)

    for case in LIES:
        after.until(lambda case=case: times(case) >= 1, f"the fault of {case} is told")  # type: ignore[misc]
    assert {case: times(case) for case in LIES} == dict.fromkeys(LIES, 1)


def test_the_same_daemon_acts_on_what_it_can_trust(after: Town) -> None:
    assert after.running_good("v2", "stays-well")
    assert after.incidents("stays-well") == []
    outcomes = {case: after.incidents(case)[0]["outcome"] for case in TRUTHS[1:]}
    assert outcomes == {"gets-well": "recovered", "stays-sick": "ineffective", "goes-dark": "unverified"}
    assert {case: after.shops[case].running() for case in TRUTHS[1:]} == dict.fromkeys(TRUTHS[1:], "v1")
    for case, outcome in outcomes.items():
        report = after.root / "reports" / f"{case}-1.md"
        after.until(report.exists, f"the report of {case}")
        assert f"# {case}-1: {outcome}" in report.read_text().replace("\\", "")


# -- the real Prometheus, away ------------------------------------------------------------------
@told
def test_nothing_bakes_while_prometheus_is_away(root: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        town = stack.enter_context(Town(root))
        town.receivers = stack.enter_context(receivers())
        town.prometheus = f"http://127.0.0.1:{port}"
        town.write_config(rules=[query_rule()])
        town.start_daemon()
        town.until(lambda: town.told("backend_unreachable"), "people hear of it")
        deadline = time.monotonic() + 3
        wait_until(lambda: time.monotonic() > deadline, "three times the bake time", 10)
        assert (town.view()["baked"], town.state("v1")["good"]) == (0.0, "")
        assert "no answer" in town.view()["rules"][0]["reason"]
        stack.enter_context(prometheus(root / "prometheus", targets=[town.address], every="200ms", port=port))
        town.until_good("v1")


@told
def test_without_prometheus_a_rollback_ends_unverified(root: Path) -> None:
    with ExitStack() as stack:
        town = stack.enter_context(Town(root))
        town.receivers = stack.enter_context(receivers())
        server = stack.enter_context(prometheus(root / "prometheus", targets=[town.address], every="200ms"))
        town.prometheus = server.url
        verify = {"settle": "500ms", "every": "500ms", "passes": 3, "deadline": "6s", "checks": ["health"]}
        town.write_config(rules=[query_rule()], services=[town.service("shop", verify=verify)])
        town.start_daemon()
        town.until_good("v1")
        town.shop.deploy("v2", BAD)
        town.until(lambda: town.shop.running() == "v1", "the rollback")
        server.stop()
        ended = town.until_ended("shop-1")
        assert ended["outcome"] == "unverified", ended
        assert town.state("v1")["good"] == "ran 1s without a trigger and passed its checks"
        assert town.state("v2")["quarantined"] == []
        (message,) = town.until(lambda: town.told("unverified"), "people hear of it")
        assert message["severity"] == "critical"
        assert not message["resolves"]


# -- well is what its users see, not what /health says ------------------------------------------------
@told
def test_a_service_that_is_still_sick_after_its_rollback_never_recovers(root: Path) -> None:
    with ExitStack() as stack:
        town = _shop_with_a_cause(root, stack)
        verify = {"settle": "500ms", "every": "500ms", "passes": 3, "deadline": "8s", "checks": ["health"]}
        town.write_config(rules=[query_rule()], services=[town.service("shop", verify=verify)])
        _sick_whatever_runs(town)


@told
def test_a_query_among_the_checks_sees_it_when_an_alert_triggered(root: Path) -> None:
    with ExitStack() as stack:
        town = _shop_with_a_cause(root, stack)
        query = query_rule()["when"]["query"]
        verify = {"settle": "500ms", "every": "500ms", "passes": 3, "deadline": "8s"}
        checks = ["health", {"query": query, "below": "1%"}]
        town.write_config(rules=[ALERT], services=[town.service("shop", verify={**verify, "checks": checks})])
        _sick_whatever_runs(town, by_alert=True)


def _shop_with_a_cause(root: Path, stack: ExitStack) -> Town:
    town = stack.enter_context(Town(root))
    town.receivers = stack.enter_context(receivers())
    server = stack.enter_context(prometheus(root / "prometheus", targets=[town.address], every="200ms"))
    town.prometheus = server.url
    return town


def _sick_whatever_runs(town: Town, *, by_alert: bool = False) -> None:
    """v2 comes together with an outage of something else; `/health` answers 200 all the time."""
    town.start_daemon()
    town.until_good("v1")
    town.shop.deploy("v2")
    town.until_seen("v2")
    town.shop.cause = BAD
    sick = alert("shop", datetime.now(UTC))
    if by_alert:
        town.post("alerts", webhook(sick))
    ended = town.until_ended("shop-1")
    assert ended["outcome"] == "ineffective", ended
    assert town.shop.running() == "v1"
    records = town.get("incidents/shop-1")["records"]
    rounds = [one["fact"] for one in records if one["kind"] == "Round"]
    assert {result["verdict"] for one in rounds for result in one["results"] if result["name"] == "health"} == {"good"}
    assert "recovered" not in {one["event"] for one in town.messages("webhook")}
    if by_alert:
        town.post("alerts", webhook(alert("shop", datetime.now(UTC), instance="another")))
    town.until(lambda: town.told("ineffective"), "people hear of it")
    paged = [(one["event_action"], one["dedup_key"].partition("/")[2]) for one in town.messages("pagerduty")]
    assert ("trigger", "shop-1") in paged
    assert ("resolve", "shop-1") not in paged
    if by_alert:
        again = town.until_decided("ineffective")
        assert again["escalate"]
        assert "going back did not help" in reason(again, "ineffective")
    assert [one["id"] for one in town.incidents()] == ["shop-1"]


# -- where it goes back to, and what it leaves alone --------------------------------------------------
@told
def test_a_state_that_turned_out_bad_later_is_no_target(root: Path) -> None:
    with ExitStack() as stack:
        town = stack.enter_context(Town(root))
        server = stack.enter_context(prometheus(root / "prometheus", targets=[town.address], every="200ms"))
        town.prometheus = server.url
        town.write_config(rules=[query_rule()])
        town.start_daemon()
        town.until_good("v1")
        town.shop.deploy("v2")
        town.until_good("v2")
        town.shop.cause = BAD
        town.until(lambda: town.shop.running() == "v1", "the rollback of v2, which was good before")
        town.shop.cause = 0
        assert town.until_ended("shop-1")["outcome"] == "recovered"
        town.shop.deploy("v3", BAD)
        assert town.until_ended("shop-2")["outcome"] == "recovered"
        assert town.shop.running() == "v1"
        assert town.incidents()[0]["target"]["key"] == town.state("v1")["key"]
        assert (town.state("v2")["good"], town.state("v2")["quarantined"]) == ("", ["code"])


@told
def test_a_fix_that_came_before_the_late_alert_is_not_rolled_back(root: Path) -> None:
    with receivers() as messages, Town(root, "looked-at", "not-yet") as town:
        town.receivers = messages
        town.write_config(rules=[ALERT])
        town.start_daemon()
        for name in town.shops:
            town.until_good("v1", name)
        town.stop_daemon()
        town.write_config(
            rules=[ALERT],
            daemon=town.daemon(look_every="1h"),
            services=[town.service(n, bake="1h") for n in town.shops],
        )
        town.start_daemon()
        for name in town.shops:
            town.until(lambda name=name: town.view(name)["drilled"], "it was asked whether it is ready, which looks")  # type: ignore[misc]
        onset = {}
        for name, shop in town.shops.items():
            shop.deploy("v2", BAD)
            town.look(name)
            town.until_seen("v2", name)
            onset[name] = datetime.fromisoformat(town.state("v2", name)["since"]) + timedelta(milliseconds=1)
            town.until(  # what was seen makes it ready, so it is asked, and that looks: not to find v3
                lambda name=name: not town.view(name)["unready"],  # type: ignore[misc]
                "it was asked again with v2",
            )
            shop.deploy("v3")
        town.look("looked-at")
        assert [len(town.states(name)) for name in town.shops] == [3, 2]
        for name, shop in town.shops.items():
            town.post("alerts", webhook(alert(name, onset[name])))
            decision = town.until_decided("same_state", name)
            assert (decision["action"], stands(decision)) == ("ask", {"same_state"})
            assert "a fix?" in reason(decision, "same_state")
            assert shop.running() == "v3"
        assert {one["id"]: one["status"] for one in town.incidents()} == {f"{name}-1": "asking" for name in town.shops}
        (message,) = town.until(lambda: town.told("asks"), "people are asked about the first at once")
        assert message["service"] == "looked-at"
        assert "a fix?" in next(line["text"] for line in message["lines"] if line["heading"] == "Asked because")
