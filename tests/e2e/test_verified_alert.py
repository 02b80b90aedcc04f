"""Recovered means that what triggered is over: a real alert of a real Prometheus, by a real Alertmanager."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.alerts import posting
from tests.e2e.shop import BAD
from tests.e2e.town import Town
from tests.servers import alertmanager, get_json, prometheus

pytestmark = [pytest.mark.needs("git", "prometheus", "prometheus-alertmanager"), pytest.mark.timeout(300)]
RULE = {"name": "critical", "when": {"alert": 'severity="critical"'}}


def town_that_alerts(root: Path, stack: ExitStack, window: str, deadline: str, lasting: str = "0s") -> Town:
    """A shop whose only check is shallow, and an alert about its errors over that window."""
    town = stack.enter_context(Town(root))
    errors = f'sum by (service) (rate(http_requests_total{{code="500"}}[{window}]))'
    total = f"sum by (service) (rate(http_requests_total[{window}]))"
    expression = f"{errors} / {total} > 0.1"
    sick = {"alert": "ShopErrors", "expr": expression, "for": lasting, "labels": {"severity": "critical"}}
    posted = f"{town.api}/api/v1/alerts"
    told = stack.enter_context(alertmanager(root / "alertmanager", posting(posted)))
    town.alertmanager = told.url
    server = stack.enter_context(
        prometheus(
            root / "prometheus",
            targets=[town.address],
            rules={"groups": [{"name": "shop", "rules": [sick]}]},
            alertmanager=told.address,
        )
    )
    town.prometheus = server.url
    verify = {"settle": "500ms", "every": "500ms", "passes": 3, "deadline": deadline, "checks": ["health"]}
    town.write_config(rules=[RULE], services=[town.service("shop", verify={**verify, "watch": "1m"})])
    town.start_daemon()
    town.until_good("v1")
    return town


def fires(town: Town) -> bool:
    """Whether Alertmanager lists the alert."""
    return bool(get_json(f"{town.alertmanager}/api/v2/alerts"))


def verifying(town: Town) -> dict[str, Any] | None:
    found = dict(town.get("incidents/shop-1")["incident"])
    return found if found["status"] == "verifying" else None


def test_while_the_alert_fires_nothing_is_recovered_and_at_the_deadline_it_did_not_help(tmp_path: Path) -> None:
    with ExitStack() as stack:
        town = town_that_alerts(tmp_path, stack, "5s", "8s")
        town.shop.deploy("v2")
        town.until_seen("v2")
        town.shop.cause = BAD  # a broken dependency: every release fails, and the shallow check says that all is well
        ended = town.until_ended("shop-1")
        assert ended["outcome"] == "ineffective", ended
        assert "alert of critical" in ended["reason"]
        assert fires(town)
        assert town.shop.running() == "v1"


def test_it_is_recovered_when_the_alert_has_ended(tmp_path: Path) -> None:
    with ExitStack() as stack:
        town = town_that_alerts(tmp_path, stack, "10s", "40s")
        town.shop.deploy("v2", BAD)
        town.until(lambda: verifying(town), "it is verified")
        begun = time.monotonic()
        while fires(town):
            assert town.get("incidents/shop-1")["incident"]["outcome"] == ""
            time.sleep(0.2)
        ended = town.until_ended("shop-1")
        assert (ended["outcome"], town.shop.running()) == ("recovered", "v1")
        assert time.monotonic() - begun > 2, "the window held errors of the release that was left for a while"
        time.sleep(6)
        assert [one["outcome"] for one in town.incidents()] == ["recovered"]
        assert town.view()["mode"] == "act"


def test_a_long_window_need_not_be_waited_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        town = town_that_alerts(tmp_path, stack, "30m", "2m", "15s")
        town.shop.deploy("v2", 1.0)
        ended = town.until_ended("shop-1", 180)
        assert (ended["outcome"], town.shop.running()) == ("recovered", "v1"), ended
        assert fires(town), "its own window is far from over"
        said = " ".join(town.command("check", str(town.config)).stdout.split())
        assert "note: shop: the alert ShopErrors may fire for 30m15s after its cause is gone" in said
