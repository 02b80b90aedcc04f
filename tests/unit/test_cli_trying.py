"""`test-alert`, `check --live`, `notify test`, `report` and `events`, as people and scripts read them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rollbackd.cli import alert_trial_command, live_report, report_commands
from rollbackd.cli.command_frame import Session, StopError, UsageError
from tests.fakes.serving import Served, serving

CHECKOUT = "alertname=HighErrorRate,service=checkout"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock") as served:
        yield served


async def ran(
    served: Served, command: Callable[..., int | None], *given: Any, as_json: bool = False, **more: Any
) -> Any:
    session = Session(json=as_json, socket=served.socket)
    return await asyncio.to_thread(lambda: command(session, *given, **more))


async def test_an_alert_that_is_tried(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ran(served, alert_trial_command.try_alert, CHECKOUT) is None
    out = capsys.readouterr().out
    assert out.startswith("alertname=HighErrorRate, service=checkout: checkout\n")
    for said in (
        "high-error-rate  yes   met",
        "plan    default",
        "room   refused",
        "nothing was written, done or told",
    ):
        assert said in out, out
    assert served.operations.orders == []
    assert await ran(served, alert_trial_command.try_alert, "alertname=X,service=other") == 1
    assert "no service has these labels" in capsys.readouterr().out


async def test_through_alertmanager(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ran(served, alert_trial_command.try_alert, CHECKOUT, through=True, as_json=True) is None
    assert json.loads(capsys.readouterr().out)["passage"]["came"] is True
    (order,) = served.operations.orders
    assert order[:2] == ("try_passage", {"alertname": "HighErrorRate", "service": "checkout"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"alert": None}, "give one alert"),
        ({"alert": "alertname=~X"}, "an alert has values, not comparisons"),
        ({"alert": "alertname"}, "cannot read the matcher"),
        ({"alert": CHECKOUT, "at": "noon"}, '"noon" is not a time'),
        ({"alert": CHECKOUT, "at": "2026-03-02T03:00:00"}, "says no offset"),
        ({"alert": CHECKOUT, "at": "2026-03-02T03:00:00Z", "through": True}, "--through is for one alert, now"),
    ],
)
def test_wrong_words_are_told_before_anything_is_asked(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        alert_trial_command.try_alert(Session(socket=tmp_path / "nobody"), **given)


async def test_a_file_of_cases(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        f"cases:\n- {{name: right, alert: '{CHECKOUT}', expect: {{service: checkout, action: refuse, hears: room}}}}\n"
        f"- {{name: wrong, alert: '{CHECKOUT}', expect: {{action: roll_back}}}}\n"
    )
    assert await ran(served, alert_trial_command.try_alert, cases=cases) == 1
    out = capsys.readouterr().out
    assert "wrong  differs      action: refuse, expected roll_back" in out, out
    assert "1 of 2 cases are as expected" in out
    cases.write_text("cases: []\n")
    with pytest.raises(StopError, match=r"cases\.yaml:1:1"):
        await ran(served, alert_trial_command.try_alert, cases=cases)


async def test_a_live_check_tells_first_what_is_wrong(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(session: Session) -> int | None:
        return live_report.by_daemon(session, messages=False)

    assert await ran(served, asked) == 1
    out = capsys.readouterr().out
    assert out.index("rule a") < out.index("checkout/code")
    assert "asked by the daemon: 1 of 2 are wrong" in out
    assert [order[0] for order in served.operations.orders] == ["check_live"]
    assert served.operations.orders[0][2] is False


def test_without_a_daemon_the_command_asks_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert live_report.by_daemon(Session(socket=tmp_path / "nobody"), messages=True) is None
    assert "this command asks by itself" in capsys.readouterr().err


async def test_a_receiver_that_is_tried(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert await ran(served, live_report.send_test, "room") is None
    assert "room (slack): taken" in capsys.readouterr().out
    assert await ran(served, live_report.send_test, "oncall") == 1
    assert "invalid routing key" in capsys.readouterr().out


async def test_reports_and_events(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.operations.ask()
    assert await ran(served, report_commands.of_incident, "checkout-2") is None
    assert capsys.readouterr().out.startswith("# checkout-2: asking\n")
    assert await ran(served, report_commands.of_month, "2026-03", html=True) is None
    assert "<h1>Rollbacks in 2026-03</h1>" in capsys.readouterr().out
    assert await ran(served, report_commands.events, after=1) is None
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [2, 3]
    assert await ran(served, report_commands.events, schema=True) is None
    assert json.loads(capsys.readouterr().out)["title"] == "EventView"
