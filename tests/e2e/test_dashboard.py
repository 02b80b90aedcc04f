"""Every panel of the dashboard shows something, on a Prometheus that scrapes a real daemon which has rolled back."""

import json
import urllib.parse
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.alerts import ALERT, alert, query_rule, webhook
from tests.e2e.shop import BAD
from tests.e2e.telling import told
from tests.e2e.town import Town, receivers
from tests.metrics_page import DASHBOARD
from tests.servers import Server, prometheus

pytestmark = [pytest.mark.needs("git", "prometheus"), pytest.mark.timeout(240)]


def expressions() -> list[str]:
    """Those of the panels, as Grafana fills them in."""
    written = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    return [one.replace("$instance", ".*").replace("$__rate_interval", "1m") for one in written]


def shows(server: Server, expression: str) -> bool:
    url = f"{server.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bool(json.load(answer)["data"]["result"])


@told
def test_every_panel_of_the_dashboard_shows_something(root: Path) -> None:
    with ExitStack() as stack:
        town = stack.enter_context(Town(root))
        town.receivers = stack.enter_context(receivers())
        targets = [town.address, f"127.0.0.1:{town.http}"]
        server = stack.enter_context(prometheus(root / "prometheus", targets=targets, every="500ms"))
        town.prometheus = server.url
        town.write_config(rules=[query_rule(), ALERT], schedules=[{"snapshot": "shop/code", "every": "1h"}])
        town.start_daemon()
        town.until_good("v1")
        town.post("alerts", webhook(alert("shop", datetime.now(UTC), datetime.now(UTC))))
        town.shop.deploy("v2", BAD)
        assert town.until_ended("shop-1")["outcome"] == "recovered"
        for one in expressions():
            town.until(lambda one=one: shows(server, one), one, 60)  # type: ignore[misc]
