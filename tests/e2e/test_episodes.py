"""One trouble is one incident, whatever brings the news of it and however often; news of another trouble is another.

Alertmanager is told what Prometheus would tell it, so that each moment of these stories is ours to choose.
"""

import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.alerts import ALERT, alert, fire, posting, webhook
from tests.e2e.shop import BAD
from tests.e2e.telling import told
from tests.e2e.town import Town, reason, receivers, send, stands
from tests.servers import Server, alertmanager

TOGETHER = 3
pytestmark = [pytest.mark.needs("git", "prometheus-alertmanager"), pytest.mark.timeout(240)]
HOUR = timedelta(hours=1)


@contextmanager
def town_with_bad_release(root: Path, stack: ExitStack, *, known: bool = False) -> Iterator[tuple[Town, Server]]:
    """A town where v1 is good and v2 runs, and an Alertmanager that posts; `known`: rollbackd asks it, too."""
    town = stack.enter_context(Town(root))
    town.receivers = stack.enter_context(receivers())
    config = posting(f"{town.api}/api/v1/alerts")
    server = stack.enter_context(alertmanager(root / "alertmanager", config))
    town.alertmanager = server.url if known else ""
    town.write_config(rules=[ALERT])
    town.start_daemon()
    town.until_good("v1")
    town.shop.deploy("v2", BAD)
    town.until_seen("v2")
    yield town, server


def _now() -> datetime:
    return datetime.now(UTC)


def _joined(town: Town, incident: str) -> list[str]:
    return [one["text"] for one in town.get(f"incidents/{incident}")["records"] if one["kind"] == "Joined"]


def _kinds(town: Town) -> list[str]:
    return [one["kind"] for one in town.get("incidents/shop-1")["records"]]


def _deliveries(server: Server) -> int:
    """How often an Alertmanager has posted and had its answer, by its own count."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith("alertmanager_notification_latency_seconds_count") and 'integration="webhook"' in line
    )


@told
def test_one_episode_is_one_incident_by_every_way_there_is(root: Path) -> None:
    with ExitStack() as stack:
        town, first = stack.enter_context(town_with_bad_release(root, stack))
        begun = _now()
        fire(first.url, "shop", begun, begun + HOUR)
        assert town.until_ended("shop-1")["outcome"] == "ineffective", "it goes on firing"

        body = webhook(alert("shop", begun))
        duplicate = {"accepted": 0, "duplicates": 1, "unmatched": 0}
        assert [town.post("alerts", body), town.post("alerts", body)] == [duplicate, duplicate]
        assert town.post("alerts", webhook(alert("shop", begun), group='{}/{x="y"}:{a="b"}')) == duplicate
        twice = webhook(alert("shop", begun), alert("shop", begun), alert("unknown", begun))
        assert town.post("alerts", twice) == {"accepted": 0, "duplicates": 2, "unmatched": 1}

        peer = posting(f"{town.api}/api/v1/alerts", group_by=["alertname", "severity"])
        second = stack.enter_context(alertmanager(root / "second", peer))
        fire(second.url, "shop", begun, begun + HOUR)
        town.until(lambda: _deliveries(second) == 1, "the second Alertmanager posts it")

        port = first.port
        first.stop()
        config = posting(f"{town.api}/api/v1/alerts")
        again = stack.enter_context(alertmanager(root / "alertmanager", config, port=port))
        fire(again.url, "shop", begun, begun + HOUR)
        town.until(lambda: _deliveries(again) == 1, "the Alertmanager posts it again after its crash")

        town.stop_daemon(kill=True)
        town.start_daemon()
        assert town.post("alerts", body) == duplicate
        town.signal_daemon(signal.SIGHUP)
        town.until(lambda: town.log.read_text().count('"event": "ready"') == 3, "it has executed itself anew")
        town.until(lambda: town.post("alerts", body) == duplicate, "the same again")

        assert [one["id"] for one in town.incidents()] == ["shop-1"]
        assert [(one["action"], one["incident"]) for one in town.decisions()] == [("roll_back", "shop-1")]
        assert _joined(town, "shop-1") == []
        assert len(town.told("opened")) == 1

        fire(again.url, "shop", begun, _now() - timedelta(milliseconds=1))
        town.until(lambda: town.view()["health"] == "good", "it is resolved")
        town.shop.deploy("v3", BAD)
        town.until_seen("v3")
        later = _now()
        fire(again.url, "shop", later, later + HOUR)
        town.until(lambda: town.shop.running() == "v1", "it goes back again")
        fire(again.url, "shop", later, _now() - timedelta(milliseconds=1))
        assert town.until_ended("shop-2")["outcome"] == "recovered"
        assert [one["id"] for one in town.incidents()] == ["shop-2", "shop-1"]


@told
def test_the_same_news_while_the_incident_is_open_and_over_restarts_joins_nothing(root: Path) -> None:
    """Killed in the middle of verification, the incident goes on; the episode is known to the next process."""
    with ExitStack() as stack:
        town = stack.enter_context(Town(root))
        verify = {"settle": "3s", "every": "500ms", "passes": 3, "deadline": "30s", "checks": ["health"]}
        town.write_config(rules=[ALERT], services=[town.service("shop", verify=verify)])
        town.start_daemon()
        town.until_good("v1")
        town.shop.deploy("v2", BAD)
        town.until_seen("v2")
        body = webhook(alert("shop", _now()))
        assert town.post("alerts", body) == {"accepted": 1, "duplicates": 0, "unmatched": 0}
        town.until(lambda: town.shop.running() == "v1", "the step is done")
        assert town.post("alerts", body)["duplicates"] == 1
        town.stop_daemon(kill=True)
        town.start_daemon()
        assert town.post("alerts", body)["duplicates"] == 1
        town.until(lambda: _kinds(town).count("Adopted") == 2, "it goes on")
        town.signal_daemon(signal.SIGHUP)
        town.until(lambda: town.log.read_text().count('"event": "ready"') == 3, "it has executed itself anew")
        town.until(lambda: town.post("alerts", body)["duplicates"] == 1, "the same again")
        town.until_back(body)
        assert town.until_ended("shop-1")["outcome"] == "recovered"
        assert [one["id"] for one in town.incidents()] == ["shop-1"]
        assert _joined(town, "shop-1") == []
        kinds = _kinds(town)
        assert (kinds.count("ApplyStarted"), kinds.count("Applied"), kinds.count("Adopted")) == (1, 1, 3)


@told
def test_an_alert_that_fires_again_soon_after_the_rollback_may_lag_and_is_charged_to_nobody(root: Path) -> None:
    with Town(root) as town:
        town.write_config(rules=[ALERT])
        town.start_daemon()
        town.until_good("v1")
        town.shop.deploy("v2", BAD)
        town.until_seen("v2")
        begun = _now()
        town.post("alerts", webhook(alert("shop", begun)))
        town.until(lambda: town.shop.running() == "v1", "it goes back")
        resolved = webhook(alert("shop", begun, ends=_now()))
        assert town.post("alerts", resolved) == {"accepted": 1, "duplicates": 0, "unmatched": 0}
        assert town.until_ended("shop-1")["outcome"] == "recovered"
        assert town.post("alerts", resolved)["duplicates"] == 1
        assert town.view()["health"] == "good"
        late = webhook(alert("shop", begun))
        assert town.post("alerts", late)["duplicates"] == 1
        assert town.post("alerts", resolved)["duplicates"] == 1
        assert town.view()["health"] == "good"
        assert town.post("alerts", webhook(alert("shop", _now())))["accepted"] == 1
        town.until(lambda: town.view()["health"] == "inconclusive", "it says nothing yet")
        time.sleep(6)  # episodes that go on are thought about every five seconds
        assert (len(town.decisions()), town.incidents()[0]["outcome"]) == (1, "recovered")


@told
def test_a_silence_holds_and_spends_nothing(root: Path) -> None:
    with ExitStack() as stack:
        town, server = stack.enter_context(town_with_bad_release(root, stack, known=True))
        other = _silence(server, "another")
        ours = _silence(server, "shop")
        town.until(lambda: town.view()["holds"], "the silence is known")
        begun = _now()
        fire(server.url, "shop", begun, begun + HOUR)
        decision = town.until_decided("hold")
        assert (decision["action"], stands(decision)) == ("refuse", {"hold"})
        assert reason(decision, "hold") == "silenced in Alertmanager by ann: we know"
        assert (town.incidents(), town.shop.running()) == ([], "v2")
        _expire(server, ours)
        assert town.until(town.incidents, "it is decided again")
        town.until(lambda: town.shop.running() == "v1", "it goes back")
        fire(server.url, "shop", begun, _now() - timedelta(milliseconds=1))
        assert town.until_ended("shop-1")["outcome"] == "recovered"
        assert town.shop.running() == "v1"
        episodes = [(one["action"], one["incident"]) for one in town.decisions()]
        assert episodes == [("roll_back", "shop-1"), ("refuse", "")]
        _expire(server, other)


def _silence(server: Server, service: str) -> str:
    matchers = [{"name": "service", "value": service, "isRegex": False, "isEqual": True}]
    times = {"startsAt": _now().isoformat(), "endsAt": (_now() + HOUR).isoformat()}
    body = {"matchers": matchers, **times, "createdBy": "ann", "comment": "we know"}
    return str(send(f"{server.url}/api/v2/silences", body)["silenceID"])


def _expire(server: Server, ident: str) -> None:
    request = urllib.request.Request(f"{server.url}/api/v2/silence/{ident}", method="DELETE")
    urllib.request.urlopen(request, timeout=10).close()


@told
def test_a_truncated_group_is_completed_from_alertmanagers_api(root: Path) -> None:
    with ExitStack() as stack:
        town = stack.enter_context(Town(root, "one", "two", "three"))
        config: dict[str, Any] = posting(f"{town.api}/api/v1/alerts", group_by=["alertname"], group_wait="2s")
        config["receivers"][0]["webhook_configs"][0]["max_alerts"] = 1
        server = stack.enter_context(alertmanager(root / "alertmanager", config))
        town.alertmanager = server.url
        town.write_config(rules=[ALERT], daemon=town.daemon(look_every="1h"))
        town.start_daemon()
        for name in town.shops:
            town.until_good("v1", name)
        began = _now()
        for name in town.shops:
            fire(server.url, name, began, began + HOUR)
        fire(server.url, "one", began, began + HOUR, name="AnotherGroup")
        town.until(lambda: all(town.decisions(name) for name in town.shops), "all three are decided")
        assert {len(town.decisions(name)) for name in town.shops} == {1}
        assert _deliveries(server) == 2
