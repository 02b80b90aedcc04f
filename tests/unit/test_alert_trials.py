"""Alerts tried before one counts: what is said is what would be done, and nothing is written."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_jsonable_python

from rollbackd.config.alert_cases import AlertCase, labels_of, read
from rollbackd.config.load import ConfigErrors
from rollbackd.model import Alert
from rollbackd.rules.matchers import parse_matchers
from rollbackd.signals.alertmanager_webhook import fingerprint_of
from tests.unit.test_operations import House, opened

SICK = {"alertname": "Sick", "service": "shop", "severity": "critical"}
RULES = [
    {"name": "sick", "when": {"alert": 'alertname="Sick", severity="critical"'}},
    {"name": "both", "when": {"all": [{"alert": 'alertname="Sick"'}, {"event": "broken"}]}},
]
NIGHTS = [{"days": "mon-fri", "from": "08:00", "to": "20:00", "zone": "UTC"}]
NOTIFY = {
    "receivers": [
        {"name": "room", "webhook": {"url": "http://127.0.0.1:1/room"}},
        {"name": "leads", "webhook": {"url": "http://127.0.0.1:1/leads"}},
        {"name": "users", "webhook": {"url": "http://127.0.0.1:1/users"}, "says": {"recovered": "well again"}},
    ],
    "routes": [{"to": ["room", "users"]}],
    "escalation": [{"after": "30m", "to": ["leads"]}],
}


async def house_with(tmp_path: Path, **more: Any) -> House:
    return await opened(tmp_path, (), rules=RULES, notify=NOTIFY, **more)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    one = await house_with(tmp_path)
    yield one
    await one.stage.down()


async def test_what_is_said_is_what_is_then_decided_done_and_told(house: House) -> None:
    known = len(house.stage.journal.records)
    tried = await house.get(house.operations.try_alert(SICK))
    assert (tried.service, tried.why) == ("shop", "")
    assert [(one.rule, one.asks) for one in tried.rules] == [("sick", True), ("both", True)]
    assert tried.rules[1].reason.startswith("not met yet")
    (found,) = tried.triggers
    assert (found.decision.action, found.decision.rule, found.plan) == ("roll_back", "sick", "default")
    assert [(step.layer, step.before, step.after) for step in found.steps] == [("code", "v2", "v1")]
    assert [(one.receiver, one.event) for one in found.heard] == [("room", "opened"), ("leads", "escalated")]
    assert len(house.stage.journal.records) == known, "nothing is written"
    assert (await house.service()).health == "good", "and no rule has heard of it"

    alert = Alert(fingerprint_of(SICK), SICK, {}, house.now, None)
    await house.get(house.operations.receive([alert], "token:alertmanager"))
    await house.pass_(timedelta(seconds=1))
    (real,) = await house.operations.decisions("shop")
    assert (real.action, real.rule, real.target) == ("roll_back", "sick", found.decision.target)
    against = [(one.guard, one.against) for one in found.decision.findings]
    assert [(one.guard, one.against) for one in real.findings] == against


@pytest.mark.parametrize(
    ("change", "service", "why"),
    [
        ({"service": "shp"}, "", 'shop, the nearest, needs service="shop"'),
        ({"severity": "warning"}, "shop", "no rule of shop is met by this alert alone"),
        ({"alertname": "Other"}, "shop", "no rule asks for this alert of shop"),
    ],
)
async def test_a_wrong_match_is_named(house: House, change: dict[str, str], service: str, why: str) -> None:
    tried = await house.get(house.operations.try_alert({**SICK, **change}))
    assert (tried.service, tried.triggers) == (service, ())
    assert why in tried.why
    if "severity" in change:
        (sick, _) = tried.rules
        assert sick.reason == 'it wants severity="critical": it is "warning"'


async def test_an_alert_without_a_label_says_so(house: House) -> None:
    tried = await house.get(house.operations.try_alert({"alertname": "Sick", "service": "shop"}))
    assert tried.rules[0].reason == 'it wants severity="critical": the alert has no such label'


async def test_at_another_time_another_guard_stands_against_it(tmp_path: Path) -> None:
    house = await house_with(tmp_path, windows=NIGHTS)
    start = house.now.replace(hour=0, minute=0, second=0, microsecond=0)
    night = start + timedelta(days=(7 - start.weekday()) % 7 + 7, hours=3)
    tried = await house.get(house.operations.try_alert(SICK, night))
    (found,) = tried.triggers
    against = {one.guard for one in found.decision.findings if one.against}
    assert "window" in against
    assert found.decision.at == night
    day = await house.get(house.operations.try_alert(SICK, night + timedelta(hours=7)))
    assert "window" not in {one.guard for one in day.triggers[0].decision.findings if one.against}
    await house.stage.down()


async def test_a_case_says_each_difference(house: House) -> None:
    found = to_jsonable_python(await house.get(house.operations.try_alert(SICK)))
    right = {"service": "shop", "rules": ["sick"], "action": "roll_back", "plan": "default", "against": [],
             "hears": ["room"], "silent": ["users"], "priority": found["triggers"][0]["decision"]["priority"]}  # fmt: skip
    assert AlertCase.model_validate({"name": "a", "alert": SICK, "expect": right}).differences(found) == []
    wrong = {"service": "desk", "rules": [], "action": "ask", "plan": ["a", "b"], "against": ["windows"],
             "hears": ["users"], "silent": ["room"], "priority": "P0"}  # fmt: skip
    told = AlertCase.model_validate({"name": "a", "alert": SICK, "expect": wrong}).differences(found)
    assert sorted(text.partition(":")[0] for text in told) == sorted(wrong)
    assert "action: roll_back, expected ask" in told


def test_faults_of_a_file_are_told_at_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text("cases:\n  - name: a\n    alert: alertname=~Sick\n    expect: {akshun: ask}\n")
    with pytest.raises(ConfigErrors) as caught:
        read(path)
    text = str(caught.value)
    assert f'{path}:3:5: alertname=~"Sick": an alert has values, not comparisons; write alertname=VALUE' in text
    assert f'{path}:4:14: unknown key "akshun"' in text


@settings(max_examples=60)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=20), min_size=1, max_size=5))
def test_labels_are_read_as_they_are_written(labels: dict[str, str]) -> None:
    text = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
    read_back = {one.name: one.value for one in parse_matchers(text)}
    assert labels_of(text) == read_back
