"""A play of the past finds what the daemon would have done, at the right time, with its findings."""

from datetime import datetime
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


def facts_of(found: Played, kind: type) -> list[Any]:
    return [record for record in found.records if isinstance(record.fact, kind)]


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


FAILED, ALL = "increase(failed[1m])", "increase(all[1m])"
SCORE = {"name": "score", "when": {"query": FAILED, "score": {"of": ALL}}}


async def test_a_score_is_played_poll_by_poll_from_its_first_errors_on(tmp_path: Path) -> None:
    """At 10 in 2m30s at the soonest: it is enough ten polls after the first bad window."""
    config = configured(tmp_path, [SCORE])
    server = PastServer(
        {FAILED: {"shop": between(at(6, 10), at(7), 500, 2)}, ALL: {"shop": between(at(6, 10), at(7), 1000, 1000)}}
    )
    found = await played(tmp_path, config, server, CHANGES, 12)
    assert decided(found) == [("06:12:15", Action.ROLL_BACK, "shop")]
    (opened,) = facts_of(found, facts.Decided)
    assert str(opened.fact.decision.trigger.evidence[0].value).startswith("score 10 of 10, 500 errors of 1000 requests")
    (closed,) = facts_of(found, facts.Closed)
    assert closed.fact.outcome is Outcome.RECOVERED


async def test_the_pack_http_is_played_as_it_is_shipped(tmp_path: Path) -> None:
    config = configured(tmp_path, [{"pack": "http"}])
    found = await played(tmp_path, config, PastServer({}), CHANGES, 2)
    assert decided(found) == []


async def test_a_play_that_skips_says_the_same_as_one_of_every_poll(tmp_path: Path) -> None:
    config = configured(tmp_path, [ERRORS])
    server = PastServer({"errors": {"shop": between(at(6, 10), at(7), 0.5)}})
    quick = await played(tmp_path, config, server, CHANGES, 12)
    whole = await played(tmp_path, config, server, CHANGES, 12, every_poll=True)
    assert quick == whole


async def test_nothing_is_concluded_from_what_was_left_until_people_change_something(tmp_path: Path) -> None:
    config = configured(tmp_path, [ERRORS])
    server = PastServer({"errors": {"shop": between(at(6, 10), at(9), 0.5)}})
    found = await played(tmp_path, config, server, CHANGES + "2026-03-02T09:00Z shop v3\n", 12)
    assert decided(found) == [("06:15:00", Action.ROLL_BACK, "shop")]
    changed = [
        (f"{one.fact.by:%H:%M}", one.fact.state.name, one.fact.incident) for one in facts_of(found, facts.Changed)
    ]
    assert changed == [
        ("00:00", "code v1", ""),
        ("06:00", "code v2", ""),
        ("06:15", "code v1", "shop-1"),
        ("09:00", "code v3", ""),
    ]


async def test_after_trouble_that_nobody_mended_the_play_runs_what_was_recorded_again(tmp_path: Path) -> None:
    config = configured(tmp_path, [ERRORS])
    server = PastServer({"errors": {"shop": between(at(6, 10), at(7), 0.5)}})
    found = await played(tmp_path, config, server, CHANGES, 12)
    assert f"{facts_of(found, facts.Changed)[-1].fact.by:%H:%M}" == "09:00"  # two hours later
    assert facts_of(found, facts.Changed)[-1].fact.state.name == "code v2"


async def test_a_question_that_nobody_answers_passes_with_its_trouble_or_expires(tmp_path: Path) -> None:
    config = configured(tmp_path, [ERRORS], asking={"expires": "30m"})
    sick = {at(4): at(4, 20), at(8): at(9)}  # long after the change
    errors = lambda when: 0.5 if any(begin <= when < end for begin, end in sick.items()) else 0.01  # noqa: E731
    found = await played(tmp_path, config, PastServer({"errors": {"shop": errors}}), "2026-03-02T01:00Z shop v1", 12)
    assert [action for _, action, _ in decided(found)] == [Action.ASK, Action.ASK]
    closed = [(f"{one.at:%H:%M}", one.fact.outcome) for one in facts_of(found, facts.Closed)]
    assert closed == [("04:25", Outcome.PASSED), ("08:35", Outcome.EXPIRED)]


async def test_an_alert_is_heard_when_it_fires(tmp_path: Path) -> None:
    config = configured(tmp_path, [{"name": "page", "when": {"alert": 'alertname="Sick"', "for": "5m"}}])
    server = PastServer({}, [({"alertname": "Sick", "service": "shop"}, at(6, 20), at(6, 50))])
    found = await played(tmp_path, config, server, CHANGES, 12)
    assert decided(found) == [("06:20:00", Action.ROLL_BACK, "shop")]


async def test_a_condition_that_compares_is_asked_as_the_polls_ask_it(tmp_path: Path) -> None:
    offset = {"name": "drop", "when": {"query": "orders", "drops_by": "50%", "against": {"offset": "3h"}, "for": "5m"}}
    before = {
        "name": "slow",
        "when": {"query": "p95", "rises_by": "50%", "against": {"before_change": "30m"}, "for": "2m"},
    }
    config = configured(tmp_path, [offset, before])
    server = PastServer(
        {
            "orders": {"shop": between(at(2), at(2, 30), 10.0, 40.0)},
            "p95": {"shop": between(at(6, 10), at(6, 40), 0.9, 0.2)},
        }
    )
    quick = await played(tmp_path, config, server, CHANGES, 8)
    assert [(when, action) for when, action, _ in decided(quick)] == [
        ("02:05:00", Action.REFUSE),  # only one release is known
        ("06:12:00", Action.ROLL_BACK),
    ]
    assert quick == await played(tmp_path, config, server, CHANGES, 8, every_poll=True)


async def test_trouble_of_all_services_at_once_asks(tmp_path: Path) -> None:
    names = tuple(f"shop-{n}" for n in range(6))
    config = configured(tmp_path, [ERRORS], names)
    server = PastServer({"errors": dict.fromkeys(names, between(at(6, 10), at(7), 0.5))})
    changes = "\n".join(f"2026-03-02T06:00Z {name} v2" for name in names)
    found = await played(tmp_path, config, server, changes, 8)
    assert {action for _, action, _ in decided(found)} == {Action.ASK}
