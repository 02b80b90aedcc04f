"""The demonstration's story on real servers: a bad release, one incident, recovered, explained, told.

Once with the query rule alone, once with the webhook alone, and the demonstration itself as people run it.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from examples.demo.world import BAD, World, shop_world
from tests.e2e.alerts import query_rule
from tests.e2e.telling import told
from tests.e2e.town import ROOT, receivers
from tests.servers import get_json, wait_until

TOGETHER = 3
pytestmark = [pytest.mark.needs("git", "prometheus", "prometheus-alertmanager"), pytest.mark.timeout(240)]
GIVEN = 90.0
"""Seconds for the demonstration, from its start to its exit."""


@contextmanager
def rolled_back(root: Path, *, alerting: bool, **config: Any) -> Iterator[World]:
    """The shop after its bad release, rolled back and verified; what must be so whatever found it is asserted."""
    with receivers() as messages, shop_world(root, monitored=True, receivers=messages, alerting=alerting) as world:
        world.write_config(**config)
        world.start_daemon()
        wait_until(lambda: bool(_shop(world)["present"] and _shop(world)["present"]["good"]), "v1 is good", 60)
        world.deploy(BAD, "v2")
        assert world.running() == "v2"
        wait_until(lambda: any(one["outcome"] for one in world.incidents()), "the incident's end", 80)
        assert [(one["id"], one["outcome"]) for one in world.incidents()] == [("shop-1", "recovered")]
        assert world.running() == "v1"
        v1, v2, _ = reversed(world.get(f"{world.api}/api/v1/states?service=shop")["states"])
        assert v1["good"] == "verified after shop-1"
        assert (v2["good"], v2["quarantined"]) == ("", ["code"])
        wait_until(lambda: "shop recovered" in _slack(world), "the last message")
        told_in_order = [_slack(world).find(text) for text in ("shop rolling back", "shop recovered")]
        assert -1 < told_in_order[0] < told_in_order[1]
        yield world


def _shop(world: World) -> dict[str, Any]:
    with suppress(OSError):
        return dict(world.get(f"{world.api}/api/v1/services/shop"))
    return {"present": None}


def _slack(world: World) -> str:
    """All that Slack was told, a line each; nothing of it was malformed."""
    found = get_json(f"{world.receivers}/messages")["slack"]
    assert found["wrong"] == []
    return "\n".join(one["text"] for one in found["taken"])


def _said(world: World, *arguments: str) -> str:
    done = world.command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _plot(world: World) -> Any:
    return world.get(f"{world.api}/api/v1/incidents/shop-1")["plot"]


def _measured(world: World) -> tuple[str, float, str]:
    """What was asked, and what is bad of it; it was well, got bad, and was measured up to the end."""
    ended = lambda: (found := _plot(world)) is not None and found["marks"][-1]["kind"] == "end"  # noqa: E731
    wait_until(ended, "what was measured up to the end", 30)
    plot = _plot(world)
    assert [one["kind"] for one in plot["marks"]] == ["change", "onset", "decision", "rollback", "end"]
    known = [value for _, value in plot["points"] if value is not None]
    assert known[0] < 0.1 < max(known) <= 1
    assert len(plot["points"]) <= 300
    return plot["query"], plot["threshold"], plot["limit"]


@told
def test_the_query_rule_alone_finds_it(root: Path) -> None:
    rule = query_rule(window="10s", lasting="4s")
    with rolled_back(root, alerting=False, rules=[rule]) as world:
        for text in (_said(world, "incidents", "shop-1"), _said(world, "decisions", "shop")):
            assert "shop: roll_back (errors, P1)" in text
            assert rule["when"]["query"] in text
            assert re.search(r"\b0\.\d+, above 0\.1 \(> 0\.1 for 4s\): sum by", text)
        assert "shop-1: closed, recovered, P1, rule errors" in _said(world, "incidents", "shop-1")
        assert "alert " not in _said(world, "decisions")
        assert _measured(world) == (rule["when"]["query"], 0.1, "> 0.1")


@told
def test_the_webhook_alone_finds_it(root: Path) -> None:
    alert = {"name": "shop-alert", "when": {"alert": 'alertname="ShopErrors", severity="critical"'}}
    with rolled_back(root, alerting=True, rules=[alert], prometheus=None, alertmanager=None) as world:
        incident, decisions = _said(world, "incidents", "shop-1"), _said(world, "decisions", "shop")
        for text in (incident, decisions):
            assert 'alert ShopErrors {alertname="ShopErrors", service="shop", severity="critical"}' in text
            assert "% of the answers are errors" in text
            assert "shop: roll_back (shop-alert, P1)" in text
        assert "rule shop-alert" in incident
        assert _plot(world) is None, "no Prometheus is asked"


@told
def test_the_demonstration_tells_it_in_time(root: Path) -> None:
    began = time.monotonic()
    argv = [sys.executable, str(ROOT / "examples/demo/run.py"), str(root / "demo")]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=150)
    took = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Rolled back and verified: the shop runs v1 again" in done.stdout
    assert "to slack:" in done.stdout
    assert done.stderr == ""
    assert took < GIVEN
