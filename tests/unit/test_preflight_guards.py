"""Right before the first step, and in verification: is the trouble that triggered still there?"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.decision.preflight_guards import PreflightGuards
from rollbackd.decision.situation import SituationReader
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.execution.preflight import Objection
from rollbackd.journal import Entry
from rollbackd.model import (
    Alert,
    Change,
    Event,
    Outcome,
    Plan,
    Release,
    Request,
    State,
    Verdict,
    incident_stream,
    service_stream,
)
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.state_watcher import StateWatcher
from rollbackd.system.clock import JumpWatch
from tests.fakes.clock import START
from tests.unit.house import DOWN, INCIDENT, FakePrometheus, House, trigger
from tests.unit.test_layers import meet

MINUTE = timedelta(minutes=1)
SICK = {"name": "sick", "when": {"alert": 'alertname="Sick"'}}
SLOW = {"name": "slow", "when": {"query": "rate(latency[5m])", "above": 1}}
SMOKE = {"name": "smoke", "when": {"check": "health", "failures": 1}}
BOTH = {"name": "both", "when": {"all": [SICK["when"], SLOW["when"]]}}
ROSE = {"name": "rose", "when": {"query": "latency", "rises_by": "50%", "against": {"before_change": "30m"}}}
EITHER = {"name": "either", "when": {"any": [SMOKE["when"], SLOW["when"]]}}


GONE = "the trouble went away by itself: no such alert fires"
E2E = {"name": "e2e", "when": {"event": "e2e_failed"}}
CRASHES = {"name": "crashes", "when": {"event": "crashed", "times": 2}}
DEEP = {"name": "deep", "when": {"all": [SICK["when"], {"any": [SLOW["when"], E2E["when"], SMOKE["when"]]}]}}


class Court(House):
    """The house with an open incident, and who is asked about it."""

    def __init__(self, directory: Path) -> None:
        rules = [SICK, SLOW, SMOKE, BOTH, EITHER, E2E, DEEP, ROSE, CRASHES]
        super().__init__(directory, rules=rules, prometheus={"url": "http://127.0.0.1:9090"})
        self.rule_states = RuleStates(self.config, self.read_model.of)
        self.prometheus = FakePrometheus()
        self.stops: tuple[str, ...] = ()
        self.silenced: tuple[str, ...] = ()
        jumps = JumpWatch(self.clock)
        layers = {"shop": self.factory.build(self.service)}
        state_watcher = StateWatcher(self.read_model, layers, self.clock, MINUTE)
        self.situations = SituationReader(
            self.config, self.read_model, self.rule_states, self.clock, jumps, self._stops, layers, state_watcher
        )
        self.recheck = PreflightGuards(
            self.config,
            self.read_model,
            self.rule_states,
            self.clock,
            self.situations,
            self._stops,
            cast("CheckRunner", self.check_runner),
            cast("Prometheus", self.prometheus),
        )

    def _stops(self, service: str, labels: Mapping[str, str], *, silences: bool = True) -> tuple[str, ...]:
        return self.stops + (self.silenced if silences else ())

    async def opened(self, rule: str = "sick", **more: Any) -> None:
        """v1 was good, v2 came, the rule was met, the incident is open."""
        stream = service_stream("shop")
        good = State({"config": Release("v1"), "code": Release("v1")})
        for state, minute in ((good, -60), (self.state, -5)):
            when = START + minute * MINUTE
            await self.read_model.append(Entry(stream, facts.Changed(state, when, when)))
        await self.read_model.append(Entry(stream, facts.MarkedGood(good, "by unix:ann")))
        self.fires()
        await self.open(trigger=trigger(rule=rule, **more))

    def fires(self, starts_at: datetime = START, ends_at: datetime | None = None, **labels: str) -> None:
        alert = Alert("f1", {"alertname": "Sick", "service": "shop", **labels}, {}, starts_at, ends_at)
        self.rule_states.hear(alert, "shop", self.clock.now())

    def says(self, value: float) -> None:
        self.prometheus.values["rate(latency[5m])"] = [({"service": "shop"}, value)]

    async def confirm(self) -> Objection | None:
        return await self.recheck.confirm(await self.incident())

    async def verdicts(self, since: datetime | None = None) -> list[tuple[str, Verdict, bool]]:
        results = await self.recheck.condition(await self.incident(), since)
        return [(result.name, result.verdict, result.warn) for result in results]


@pytest.fixture
async def court(tmp_path: Path) -> Court:
    one = Court(tmp_path)
    await one.opened()
    return one


# -- before the first step ----------------------------------------------------------------------
async def test_for_a_decision_a_layer_says_at_once_what_runs_and_what_it_can_go_back_to(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.read_model.append(Entry(service_stream("shop"), facts.Changed(court.state, START, START)))
    together = asyncio.Barrier(2)
    for method in ("current", "releases"):
        meet(together, court.layers["code"], method)
    async with asyncio.timeout(5):
        given = await court.situations.full(trigger())
    assert given.present == court.state


async def test_trouble_that_is_still_there_is_acted_on(court: Court) -> None:
    assert await court.confirm() is None


async def test_trouble_that_went_away_is_not(court: Court) -> None:
    court.fires(ends_at=START + MINUTE)
    assert await court.confirm() == Objection(Outcome.PASSED, GONE)


async def test_a_person_who_wants_it_is_not_asked_whether_it_went_away(court: Court) -> None:
    court.fires(ends_at=START + MINUTE)
    joined = facts.Joined(trigger(rule="manual", request=Request("shop", "unix:ann")))
    await court.read_model.append(Entry(incident_stream(INCIDENT), joined))
    assert await court.confirm() is None


async def test_a_rule_that_is_gone_and_trouble_that_cannot_be_seen_any_more_end_it(tmp_path: Path) -> None:
    for rule, outcome in (("removed", Outcome.DECLINED), ("slow", Outcome.EXPIRED)):
        court = Court(tmp_path)
        await court.opened(rule)
        court.clock.advance(16 * MINUTE)
        objection = await court.confirm()
        assert objection is not None
        assert objection.outcome is outcome


async def test_the_guards_are_asked_once_more(court: Court) -> None:
    court.clock.advance(20 * MINUTE)
    objection = await court.confirm()
    assert objection == Objection(Outcome.DECLINED, "stale: the trouble began 20m ago, longer than 15m")


async def test_a_target_that_was_quarantined_meanwhile_is_declined(court: Court) -> None:
    await court.read_model.append(Entry(service_stream("shop"), facts.Quarantined({"code": "v1"}, "by unix:ann")))
    assert await court.confirm() == Objection(Outcome.DECLINED, "code of the target was quarantined meanwhile")


async def joined(court: Court, rule: str, **more: Any) -> None:
    """Other trouble joins, and that which triggered goes away."""
    await court.read_model.append(Entry(incident_stream(INCIDENT), facts.Joined(trigger(rule=rule, **more))))
    court.fires(ends_at=court.clock.now())


def met(court: Court, rule: str) -> None:
    found = court.rule_states.rule(rule)
    assert found is not None
    court.rule_states.observe(found, 0, "shop", Verdict.BAD, "2, above 1", court.clock.now())


async def test_trouble_that_joined_keeps_it_going_when_what_triggered_went_away(court: Court) -> None:
    met(court, "slow")
    await joined(court, "slow")
    assert await court.confirm() is None
    court.clock.advance(16 * MINUTE)
    assert await court.confirm() == Objection(Outcome.PASSED, GONE)


async def test_trouble_that_joined_and_is_over_too_keeps_nothing_going(court: Court) -> None:
    court.rule_states.observe(court.config.rules[1], 0, "shop", Verdict.GOOD, "0.5", court.clock.now())
    await joined(court, "slow")
    assert await court.confirm() == Objection(Outcome.PASSED, GONE)


@pytest.mark.parametrize("more", [{"plan": ("other",)}, {"onset": START - 10 * MINUTE}])
async def test_trouble_that_joined_and_would_not_go_back_by_itself_is_decided_on_anew(
    court: Court, more: dict[str, Any]
) -> None:
    """Another plan is its own, or it is older than the change."""
    met(court, "slow")
    await joined(court, "slow", **more)
    assert await court.confirm() == Objection(Outcome.PASSED, GONE)


async def test_trouble_that_joined_long_after_the_change_is_decided_on_anew(court: Court) -> None:
    """No change is to blame for it, as there is for what triggered."""
    court.clock.advance(130 * MINUTE)
    met(court, "slow")
    now = court.clock.now()
    await joined(court, "slow", onset=now, reached=now)
    assert await court.confirm() == Objection(Outcome.PASSED, GONE)


# -- holds --------------------------------------------------------------------------------------
async def test_a_silence_holds_what_has_not_begun_and_a_hold_everything(court: Court) -> None:
    court.silenced = ("silenced in Alertmanager by ann: calm down",)
    assert await court.recheck.held(await court.incident()) == "silenced in Alertmanager by ann: calm down"
    await court.read_model.append(Entry(incident_stream(INCIDENT), facts.Entering("page")))
    assert await court.recheck.held(await court.incident()) == ""
    court.stops = ("HOLD by unix:ann",)
    assert await court.recheck.held(await court.incident()) == "HOLD by unix:ann"


# -- in verification ----------------------------------------------------------------------------
async def test_an_alert_that_still_fires_may_lag_and_its_end_alone_decides_nothing(court: Court) -> None:
    assert await court.verdicts() == [("alert of sick", Verdict.INCONCLUSIVE, False)]
    (result,) = await court.recheck.condition(await court.incident(), None)
    assert result.lags
    court.fires(ends_at=START + MINUTE)
    assert await court.verdicts() == [("alert of sick", Verdict.GOOD, True)]


async def test_the_query_that_triggered_is_asked_again_by_its_own_threshold(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("slow")
    for value, verdict in ((2.0, Verdict.BAD), (0.5, Verdict.GOOD), (float("nan"), Verdict.INCONCLUSIVE)):
        court.says(value)
        assert await court.verdicts() == [("rule slow", verdict, False)]
    court.prometheus.problem["rate(latency[5m])"] = DOWN
    assert await court.verdicts() == [("rule slow", Verdict.INCONCLUSIVE, False)]


async def test_a_sample_that_reaches_back_before_the_last_step_says_nothing(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("slow")
    court.says(0.5)
    assert await court.verdicts(since=court.clock.now() - 4 * MINUTE) == [("rule slow", Verdict.INCONCLUSIVE, False)]
    assert await court.verdicts(since=court.clock.now() - 5 * MINUTE) == [("rule slow", Verdict.GOOD, False)]


async def test_a_rate_is_asked_over_the_time_since_the_last_step_before_its_own_window_has_passed(
    tmp_path: Path,
) -> None:
    court = Court(tmp_path)
    await court.opened("slow")
    court.says(2.0)
    for value, verdict in ((0.5, Verdict.GOOD), (2.0, Verdict.BAD)):
        court.prometheus.values["rate(latency[90s])"] = [({"service": "shop"}, value)]
        since = court.clock.now() - timedelta(seconds=90)
        assert await court.verdicts(since=since) == [("rule slow", verdict, False)]
    assert await court.verdicts(since=court.clock.now() - MINUTE / 2) == [("rule slow", Verdict.INCONCLUSIVE, False)]


async def test_a_check_that_triggered_is_asked_again(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("smoke")
    court.check_runner.verdicts["health"] = Verdict.BAD
    assert await court.verdicts() == [("rule smoke", Verdict.BAD, False)]


async def test_what_joined_meanwhile_counts_too(court: Court) -> None:
    court.says(2)
    await court.read_model.append(Entry(incident_stream(INCIDENT), facts.Joined(trigger(rule="slow"))))
    alert = ("alert of sick", Verdict.INCONCLUSIVE, False)
    assert await court.verdicts() == [alert, ("rule slow", Verdict.BAD, False)]


async def test_of_a_rule_put_together_what_can_be_asked_decides(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("both")
    court.says(0.5)
    assert await court.verdicts() == [("alert of both", Verdict.BAD, True), ("rule both", Verdict.GOOD, False)]
    either = Court(tmp_path)
    await either.opened("either")
    either.says(0.5)
    either.check_runner.verdicts["health"] = Verdict.BAD
    assert await either.verdicts() == [("rule either", Verdict.BAD, False)]


async def test_what_was_reported_before_the_last_step_says_nothing_and_enough_after_it_is_bad(court: Court) -> None:
    def report(key: str) -> None:
        now = court.clock.now()
        court.rule_states.report(Event("crashed", key, now), "shop", now)

    await court.read_model.append(Entry(incident_stream(INCIDENT), facts.Joined(trigger(rule="crashes"))))
    alert = ("alert of sick", Verdict.INCONCLUSIVE, False)
    report("1")
    report("2")
    court.clock.advance(MINUTE)
    since = court.clock.now()
    assert await court.verdicts(since) == [alert, ("events of crashes", Verdict.GOOD, True)]
    court.clock.advance(MINUTE)
    report("3")
    assert await court.verdicts(since) == [alert, ("events of crashes", Verdict.BAD, True)]
    found = await court.recheck.condition(await court.incident(), since)
    assert found[1].reason == "1 came since the last step"
    report("4")
    *_, again = found = await court.recheck.condition(await court.incident(), since)
    assert (again.name, again.verdict, again.warn) == ("rule crashes", Verdict.BAD, False)
    assert again.reason == "crashed was reported again, 2 times within 30m"
    unknown = await court.recheck.condition(await court.incident(), None)
    assert [one.reason for one in unknown[1:]] == ["2 came since the incident was opened"]
    now = court.clock.now()
    court.rule_states.report(Event("crashed", "5", now, firing=False), "shop", now)
    assert await court.verdicts(since) == [alert, ("events of crashes", Verdict.GOOD, True)]


async def test_a_rule_that_asks_what_is_switched_off_is_not_asked(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("smoke")
    court.check_runner.verdicts["health"] = Verdict.BAD
    plan = Plan("degrade", (Change("config", Release("v2"), Release("no-search")),), unasked=("smoke",))
    stream = incident_stream(INCIDENT)
    await court.read_model.append(Entry(stream, facts.Joined(trigger(rule="sick"))))
    await court.read_model.append(Entry(stream, facts.Planned(plan, court.state)))
    assert ("rule smoke", Verdict.BAD, False) in await court.verdicts()
    await court.read_model.append(Entry(stream, facts.ApplyStarted("config")), Entry(stream, facts.Applied("config")))
    court.check_runner.asked.clear()
    alert = ("alert of sick", Verdict.INCONCLUSIVE, False)
    assert await court.verdicts() == [("rule smoke", Verdict.INCONCLUSIVE, True), alert]
    assert court.check_runner.asked == []


async def test_events_that_are_too_old_to_count_are_trouble_that_went_away(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("e2e")
    now = court.clock.now()
    court.rule_states.report(Event("e2e_failed", "1", now), "shop", now)
    assert await court.confirm() is None
    court.clock.advance(31 * MINUTE)
    assert await court.confirm() == Objection(
        Outcome.PASSED, "the trouble went away by itself: no such event within 30m"
    )


async def test_of_nested_groups_what_can_be_asked_decides(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("deep")
    court.says(0.5)
    said = await court.verdicts()
    assert said == [
        ("alert of deep", Verdict.BAD, True),
        ("events of deep", Verdict.GOOD, True),
        ("rule deep", Verdict.GOOD, False),
    ]
    court.check_runner.verdicts["health"] = Verdict.BAD
    assert (await court.verdicts())[-1] == ("rule deep", Verdict.BAD, False)


async def test_a_comparison_that_triggered_is_made_again_with_what_was_before_the_change(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("rose")
    court.clock.advance(10 * MINUTE)
    now = court.clock.now()
    for value, verdict in ((2.0, Verdict.BAD), (0.6, Verdict.GOOD)):
        court.prometheus.values["latency"] = [({"service": "shop"}, value)]
        court.prometheus.past["latency"] = [(START - n * MINUTE, 0.5 if n > 5 else 9.0) for n in range(40)]
        (result,) = await court.recheck.condition(await court.incident(), now - MINUTE)
        assert result.verdict is verdict
        assert "0.5, the median of 30m before the change" in result.reason


async def test_a_comparison_whose_change_is_too_old_to_blame_says_nothing(tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened("rose")
    court.clock.advance(180 * MINUTE)
    (result,) = await court.recheck.condition(await court.incident(), None)
    assert (result.verdict, result.reason) == (
        Verdict.INCONCLUSIVE,
        "there is no change any more to compare with",
    )
