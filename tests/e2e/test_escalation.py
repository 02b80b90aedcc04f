"""A question that nobody answers in time: clocks pass, more people are told, once each, also over a kill."""

import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.toy import Ear, Toy, listening, toy
from tests.servers import wait_until


def notified(url: str) -> dict[str, Any]:
    """Three receivers of one ear; their names end the keys of what it hears."""
    return {
        "receivers": [
            *({"name": name, "webhook": {"url": url}} for name in ("room", "oncall", "leads")),
            {"name": "users", "webhook": {"url": url}, "says": {"recovered": "$service works again."}},
        ],
        "routes": [{"to": ["room", "users"]}],
        "escalation": [{"to": ["oncall"]}, {"after": "1h", "to": ["leads"]}],
    }


def heard(ear: Ear, name: str) -> list[str]:
    """The events that a receiver heard, in order."""
    return [one["event"] for one in ear.fake.once if one["key"].endswith(f"/{name}")]


def clocks(shop: Toy) -> list[str]:
    """What was passed, as the journal says."""
    return [one["fact"]["clock"] for one in shop.records("shop-1") if one["kind"] == "ClockPassed"]


def metrics(shop: Toy) -> dict[str, float]:
    request = urllib.request.Request(f"http://127.0.0.1:{shop.port}/metrics", headers=shop.headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(rollbackd_\S+) ([0-9.e+]+)$", text, re.MULTILINE)}


@pytest.mark.timeout(120)
def test_a_question_that_waits_too_long_tells_the_next_people_and_ends_with_an_answer(tmp_path: Path) -> None:
    with (
        listening() as ear,
        toy(
            tmp_path / "shop",
            told=ear.url,
            notify=notified(ear.url),
            policy=[{"action": "ask"}],
            priorities={"P1": {"start_within": "2s", "recover_within": "1h"}},
            targets={"steps": {"command": "100ms"}},
        ) as shop,
    ):
        shop.start_with_two_states()
        shop.touch("wait.code")
        shop.alert()
        wait_until(lambda: "asks" in heard(ear, "oncall"), "the first people are asked")
        wait_until(lambda: "escalated" in heard(ear, "leads"), "the next people are told")
        shop.reboot()
        found = metrics(shop)
        assert found['rollbackd_questions_open{service="shop"}'] == 1
        assert found['rollbackd_rollbacks_open{service="shop"}'] == 0
        shop.ask("POST", "incidents/shop-1/approve", {"reason": "the errors are ours"})
        wait_until(lambda: "target:code" in clocks(shop), "a step that takes too long is noticed")
        shop.remove("wait.code")
        assert shop.until_closed("shop-1")["outcome"] == "recovered"
        for receiver in ("leads", "room", "users"):
            wait_until(lambda to=receiver: "recovered" in heard(ear, to), f"the end is told to {receiver}")  # type: ignore[misc]
        passed = clocks(shop)
        assert len(passed) == len(set(passed))
        assert "over_target" in heard(ear, "leads")
        assert shop.kinds("shop-1").count("Escalated") == 2
        found = metrics(shop)
        assert found['rollbackd_clocks_passed_total{clock="start_within"}'] == 1
        assert found['rollbackd_clocks_passed_total{clock="target:code"}'] == 1
        assert found['rollbackd_escalations_total{tier="1"}'] == 1
        assert found['rollbackd_rollbacks_total{service="shop"}'] == 1
        assert heard(ear, "oncall").count("asks") == 1
        assert heard(ear, "leads")[:1] == ["escalated"]
        assert {"risen", "started", "recovered"} <= set(heard(ear, "room")) & set(heard(ear, "leads"))
        assert heard(ear, "users") == ["recovered"]
        assert [one["title"] for one in ear.heard("recovered") if not one["lines"]] == ["shop works again."]
        assert "Traceback" not in shop.log
