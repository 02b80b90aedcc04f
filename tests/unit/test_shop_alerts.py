"""The alert rules of the host `blue-green-canary`: what begins a rollback, and what is told of one."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from rollbackd.config.load import load
from tests.metrics_page import metrics, registry

PLACE = Path(__file__).parents[2] / "examples/blue-green-canary"
RULES = {
    group["name"]: group["rules"] for group in yaml.safe_load((PLACE / "alerts/alerts.yaml").read_text())["groups"]
}
TESTED = yaml.safe_load((PLACE / "alerts/alerts_test.yaml").read_text())["tests"]


@pytest.mark.needs("promtool")
def test_each_alert_fires_when_it_says() -> None:
    """B2, B9, B12, B14: each fires above its figure, and neither at it nor before its time."""
    argv = ["promtool", "test", "rules", str(PLACE / "alerts/alerts_test.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", [rule["alert"] for rules in RULES.values() for rule in rules])
def test_each_alert_is_seen_to_fire_and_not_to_fire(alert: str) -> None:
    looks = [look["exp_alerts"] for test in TESTED for look in test["alert_rule_test"] if look["alertname"] == alert]
    assert any(looks)
    assert [] in looks


def test_each_trouble_is_one_that_a_rule_of_the_shop_takes() -> None:
    taken = [str(leaf) for rule in load(PLACE / "config.yaml", look_for=None).config.rules for leaf in rule.leaves]
    lost = [rule["alert"] for rule in RULES["shop-troubles"] if not any(rule["alert"] in text for text in taken)]
    assert lost == []


async def test_what_they_ask_of_rollbackd_is_what_it_tells(tmp_path: Path) -> None:
    known = set(metrics(await registry(tmp_path)))
    asked = {name for rule in RULES["shop-rollbacks"] for name in re.findall(r"\brollbackd_\w+", rule["expr"])}
    assert asked
    assert asked <= known
