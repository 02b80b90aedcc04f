"""A play of the past finds what the daemon would have done, at the right time, with its findings."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rollbackd import facts
from rollbackd.backtest.play import Played
from rollbackd.model import Action, Outcome
from tests.unit.backtest.past import PastServer, at, configured, played

ERRORS = {"name": "errors", "when": {"query": "errors", "above": "10%", "for": "5m"}}
CHANGES = """
2026-03-01T12:00Z shop v1
2026-03-02T06:00Z shop v2
"""


def between(begin: datetime, end: datetime, value: float, usual: float = 0.01) -> Any:
    return lambda when: value if begin <= when < end else usual


def decided(found: Played) -> list[tuple[str, Action, str]]:
    return [
        (record.at.strftime("%H:%M:%S"), record.fact.decision.action, record.fact.decision.trigger.service)
        for record in found.records
        if isinstance(record.fact, facts.Decided)
    ]


async def test_a_bad_release_is_rolled_back_five_minutes_after_its_errors_began(tmp_path: Path) -> None:
    config = configured(tmp_path, [ERRORS])
    server = PastServer({"errors": {"shop": between(at(6, 10), at(7), 0.5)}})
    found = await played(tmp_path, config, server, CHANGES, 12)
    assert decided(found) == [("06:15:00", Action.ROLL_BACK, "shop")]
    (opened,) = [record for record in found.records if isinstance(record.fact, facts.Decided)]
    decision = opened.fact.decision
    assert decision.target is not None
    assert decision.target.name == "code v1"
    assert {one.guard for one in decision.findings} >= {"change", "common_cause", "cooldown", "fleet_budget"}
    (closed,) = [record.fact for record in found.records if isinstance(record.fact, facts.Closed)]
    assert closed.outcome is Outcome.RECOVERED


async def test_a_play_that_skips_says_the_same_as_one_of_every_poll(tmp_path: Path) -> None:
    config = configured(tmp_path, [ERRORS])
    server = PastServer({"errors": {"shop": between(at(6, 10), at(7), 0.5)}})
    quick = await played(tmp_path, config, server, CHANGES, 12)
    whole = await played(tmp_path, config, server, CHANGES, 12, every_poll=True)
    assert quick == whole
    assert timedelta() == timedelta(0)
