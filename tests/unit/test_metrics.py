"""What is scraped, what docs/metrics.md says of it, and the alerts and the dashboard that are made of it."""

import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from rollbackd.model import Verdict
from tests.metrics_page import ALERTS, DASHBOARD, PAGE, ROOT, alerts, metrics, page, registry
from tests.unit.test_operations import BROKEN, MINUTE, House, opened

TESTS = ALERTS.with_name("alerts_test.yaml")
_METRIC = re.compile(r"\brollbackd_\w+")
_NUMBER = re.compile(r"(?<![\w.\[])\d+(?![\w.\]])")


@pytest.fixture
async def found(tmp_path: Path) -> CollectorRegistry:
    return await registry(tmp_path)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    one = await opened(tmp_path, (), rules=[BROKEN, {"name": "errors", "when": {"query": "errors", "above": "10%"}}])
    yield one
    await one.stage.down()


def value(house: House, name: str, **labels: str) -> float | None:
    return house.operations.registry.get_sample_value(name, labels)


async def test_the_page_is_what_the_metrics_say(found: CollectorRegistry) -> None:
    assert PAGE.read_text() == page(found), "write it anew: python -m tests.metrics_page"


async def test_what_is_scraped_is_what_is(house: House) -> None:
    assert value(house, "rollbackd_service_acts", service="shop") == 1
    assert value(house, "rollbackd_held") == value(house, "rollbackd_breaker_open") == 0
    assert value(house, "rollbackd_backend_up", backend="prometheus") == 1
    assert value(house, "rollbackd_backend_up", backend="alertmanager") == 1
    assert value(house, "rollbackd_last_webhook_timestamp_seconds") is None
    assert value(house, "rollbackd_decisions_total", action="roll_back") == 0
    await house.get(house.operations.hold("*", "unix:ann", "", None))
    assert value(house, "rollbackd_held") == value(house, "rollbackd_service_held", service="shop") == 1
    await house.get(house.operations.unhold("*", "unix:ann"))
    house.stage.world.prometheus.down = True
    await house.event("broken")
    await house.pass_(20 * MINUTE)
    assert value(house, "rollbackd_backend_up", backend="prometheus") == 0
    assert value(house, "rollbackd_held") == 0
    assert value(house, "rollbackd_decisions_total", action="roll_back") == 1
    polled = value(house, "rollbackd_last_poll_timestamp_seconds")
    assert polled is not None
    assert house.now.timestamp() - polled < 60
    await house.stage.down()
    await house.stage.up()
    assert value(house, "rollbackd_decisions_total", action="roll_back") == 1, "it is counted from the journal"


async def test_what_alerts_wait_for_is_there_before_it_happens(tmp_path: Path) -> None:
    """A series that begins at 1 never increases, and the first rollback that fails would be nobody's alert."""
    house = await opened(tmp_path, ())
    for outcome in ("failed", "ineffective", "unverified", "recovered"):
        assert value(house, "rollbackd_rollbacks_ended_total", service="shop", outcome=outcome) == 0
    await house.stage.down()


async def test_the_breaker_is_a_metric(tmp_path: Path) -> None:
    house = await opened(tmp_path, (), limits={"breaker": {"failures": 1}})
    house.stage.world.checks["shop", "health"] = (Verdict.BAD, "")
    await house.event("broken")
    await house.pass_(timedelta(hours=1))
    assert value(house, "rollbackd_breaker_open") == 1
    await house.stage.down()


# -- alerts -----------------------------------------------------------------------------------------
def promtool(*tests: Path) -> subprocess.CompletedProcess[str]:
    argv = ["promtool", "test", "rules", *map(str, tests)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def apart(place: Path, rules: Iterable[Mapping[str, Any]]) -> Iterator[Path]:
    """A file of tests for each alert: one that waits for a day does not have all others judged for that day."""
    whole = yaml.safe_load(TESTS.read_text())
    for rule in rules:
        alone, tests = place / f"{rule['alert']}.json", place / f"{rule['alert']}_test.json"
        alone.write_text(json.dumps({"groups": [{"name": "alone", "rules": [rule]}]}))
        its = (
            (test, [one for one in test["alert_rule_test"] if one["alertname"] == rule["alert"]])
            for test in whole["tests"]
        )
        own = [{**test, "alert_rule_test": asked} for test, asked in its if asked]
        tests.write_text(json.dumps({**whole, "rule_files": [alone.name], "tests": own}))
        yield tests


CHANGES: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "threshold": lambda one: {"expr": re.sub(r"(== |> )(\d+)", lambda at: f"{at[1]}{int(at[2]) + 7}", one["expr"])},
    "metric": lambda one: {"expr": re.sub(r"\b(rollbackd_|up\b)", r"another_\1", one["expr"])},
    "for": lambda one: {"for": "40d"} if "for" in one else {},
    "summary": lambda one: {"annotations": {**one["annotations"], "summary": "Something is wrong."}},
}


@pytest.mark.needs("promtool")
def test_every_alert_fires_when_it_should_and_not_before() -> None:
    ended = promtool(TESTS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tried = yaml.safe_load(TESTS.read_text())["tests"]
    asked = {one["alertname"] for test in tried for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert asked == {one["alert"] for one in alerts()}


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("what", CHANGES)
def test_no_part_of_an_alert_changes_unnoticed(tmp_path: Path, what: str) -> None:
    rules = yaml.safe_load(ALERTS.read_text())
    touched = set()
    for one in rules["groups"][0]["rules"]:
        before = dict(one)
        one.update(CHANGES[what](one))
        touched |= {one["alert"]} if one != before else set()
    assert len(touched) > 9
    ended = promtool(*apart(tmp_path, rules["groups"][0]["rules"]))
    assert set(re.findall(r"alertname: (\w+)", ended.stdout + ended.stderr)) >= touched


async def test_alerts_and_dashboard_ask_for_metrics_that_there_are(found: CollectorRegistry) -> None:
    names = metrics(found).keys()
    texts = {one["alert"]: one["expr"] for one in alerts()} | dict(enumerate(expressions()))
    asked = {name for text in texts.values() for name in _METRIC.findall(text)}
    assert asked <= names
    assert names - asked <= {"rollbackd_build_info", "rollbackd_clocks_passed_total", "rollbackd_escalations_total", "rollbackd_questions_total", "rollbackd_rollbacks_total", "rollbackd_rule_score_ratio", "rollbackd_slack_requests_total"}  # fmt: skip


def test_every_runbook_is_there() -> None:
    for one in alerts():
        file, _, anchor = one["annotations"]["runbook"].partition("#")
        heads = re.findall(r"^## (.*)$", (ROOT / file).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, one["alert"]


def expressions() -> list[str]:
    """Those of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_its_datasource() -> None:
    board = json.loads(DASHBOARD.read_text())
    used = {json.dumps(one["datasource"]) for panel in board["panels"] for one in (panel, *panel["targets"])}
    assert used == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "instance"]
    assert all("$instance" in expression for expression in expressions())
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in board["panels"]]
    assert len(set(places)) == len(places)
