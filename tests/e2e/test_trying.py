"""Trying it before it counts, on a real Prometheus and a real Alertmanager: each planted fault is found."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import to_jsonable_python

from rollbackd.config.load import load
from rollbackd.core import live_check
from rollbackd.system.clock import SystemClock
from tests.e2e.toy import TOKEN, Ear, Toy, toy
from tests.fakes.receiving import Fault
from tests.servers import alertmanager, prometheus, sample, webhook_config

pytestmark = [pytest.mark.needs("prometheus", "prometheus-alertmanager"), pytest.mark.timeout(300)]
GOOD = {"name": "errors", "when": {"query": "errors_share", "above": "10%", "for": "5m"}}
FAULTY = (
    {"name": "unparsable", "when": {"query": "rate(errors_share)", "above": "10%"}},
    {"name": "in-percent", "when": {"query": "errors_percent", "above": "10%"}},
    {"name": "misspelt", "when": {"query": "errors_shares", "above": "10%"}},
    {"name": "nobodys", "when": {"query": "sum(errors_share)", "above": "10%"}},
)
SICK = {"name": "sick", "when": {"alert": 'alertname="Sick", severity="critical"'}}
LABELS = {"alertname": "Sick", "service": "shop", "severity": "critical"}


def configure(shop: Toy, prometheus: str, alertmanager: str, *rules: Mapping[str, Any]) -> Path:
    path = shop.configure(rules=[SICK, *rules], prometheus={"url": prometheus, "timeout": "30s", "poll_every": "1h"})
    document = yaml.safe_load(path.read_text())
    document["alertmanager"] = {"url": alertmanager, "timeout": "30s"}
    path.write_text(yaml.safe_dump(document))
    return path


def metrics() -> str:
    now = time.time()
    values = {"errors_share": 0.02, "errors_percent": 34}
    return "".join(
        f"# TYPE {name} gauge\n"
        + "".join(f"{sample(name, {'service': 'shop'})} {value} {now + 60 * n:.0f}\n" for n in range(-4, 16))
        for name, value in values.items()
    )


def wrong(found: Any) -> dict[tuple[str, str], str]:
    """What a live check says is wrong, by part and name."""
    probes = to_jsonable_python(found)["probes"]
    return {(one["part"], one["name"]): one["text"] for one in probes if one["result"] == "wrong"}


async def checked(config: Path) -> dict[tuple[str, str], str]:
    """What is wrong, asked without a daemon."""
    async with live_check(load(config).config, SystemClock(), "unix:ann") as asking:
        return wrong(await asking.run(messages=True, actor="unix:ann"))


def test_each_planted_fault_is_found_and_none_where_all_is_well(tmp_path: Path, ear: Ear) -> None:
    with (
        toy(tmp_path / "shop", told=ear.url) as shop,
        prometheus(tmp_path / "prometheus", samples=metrics(), every="1h") as metered,
        alertmanager(tmp_path / "alertmanager", webhook="http://127.0.0.1:9/elsewhere") as alerts,
    ):
        config = configure(shop, metered.url, alerts.url, GOOD, *FAULTY)
        look, away = shop.root / "look", shop.root / "away"
        look.rename(away)
        ear.fake.faults.append(Fault.GONE)
        found = asyncio.run(checked(config))
        away.rename(look)
        assert found.keys() == {
            ("query", "rule unparsable"),
            ("query", "rule in-percent"),
            ("query", "rule misspelt"),
            ("query", "rule nobodys"),
            ("route", "to us"),
            ("layer", "shop/config"),
            ("layer", "shop/code"),
            ("receiver", "room"),
        }, found
        assert "parse error" in found["query", "rule unparsable"]
        assert "a share above 1: 34" in found["query", "rule in-percent"]
        assert "404" in found["receiver", "room"]

        alerts.config.write_text(json.dumps(webhook_config(f"http://127.0.0.1:{shop.port}/api/v1/alerts", TOKEN)))
        alerts.reload()
        configure(shop, metered.url, alerts.url, GOOD)
        shop.start_with_two_states()
        calls = shop.calls
        well = shop.ask("POST", "check", {})
        assert (well["fine"], well["asked_by"]) == (True, "the daemon"), well
        assert ear.heard("test")[0]["title"].startswith("TEST: ")

        tried = shop.ask("POST", "test-alert", {"labels": LABELS})
        assert tried["triggers"][0]["decision"]["action"] == "roll_back"
        came = shop.ask("POST", "test-alert/through", {"labels": LABELS, "wait": "60s"})
        assert (came["came"], "brought by token:desk" in came["text"]) == (True, True), came

        people = {"route": {"receiver": "people"}, "receivers": [{"name": "people"}]}
        alerts.config.write_text(json.dumps(people))
        alerts.reload()
        lost = shop.ask("POST", "test-alert/through", {"labels": {**LABELS, "again": "yes"}, "wait": "2s"})
        assert (lost["came"], "it did not come within 2s" in lost["text"]) == (False, True)
        assert ("route", "to us") in wrong(shop.ask("POST", "check", {"messages": False}))

        ear.fake.faults.append(Fault.GONE)
        refused = shop.ask("POST", "receivers/room/test", {})
        assert (refused["taken"], "404" in refused["text"]) == (False, True)
        assert shop.ask("GET", "services/shop")["unready"] == []
        assert (shop.incidents(), shop.decisions(), shop.calls) == ([], [], calls), "nothing came of any of it"
