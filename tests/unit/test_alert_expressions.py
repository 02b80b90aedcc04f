"""An alert's own expression, asked over the time since a rollback's last step."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.model import Verdict
from rollbackd.signals.alert_expressions import lags, outlasting
from rollbackd.signals.query_answers import AlertingRule, RulesAnswer
from tests.fakes.clock import START
from tests.unit.test_preflight_guards import MINUTE, Court

EXPRESSION = "rate(errors[5m]) > 0.1"
SHORT = "rate(errors[120s]) > bool 0.1"
WHOLE = "rate(errors[5m]) > bool 0.1"
SICK = AlertingRule("Sick", EXPRESSION, {"severity": "critical", "team": "{{ $labels.team }}"})


@pytest.fixture
async def court(tmp_path: Path) -> Court:
    one = Court(tmp_path)
    await one.opened()
    one.fires(severity="critical", team="web")
    one.prometheus.own = RulesAnswer((SICK,))
    return one


async def said(court: Court, after: timedelta = 2 * MINUTE) -> tuple[Verdict, bool, bool]:
    (result,) = await court.recheck.condition(await court.incident(), court.clock.now() - after)
    return result.verdict, result.warn, result.lags


LAGS = (Verdict.INCONCLUSIVE, False, True)


async def test_the_expression_says_sooner_than_the_alert_whether_it_is_over(court: Court) -> None:
    assert await said(court) == LAGS
    court.prometheus.values[SHORT] = [({"service": "shop"}, 0.0), ({"service": "bank"}, 1.0)]
    assert await said(court) == (Verdict.GOOD, False, False)
    court.prometheus.values[SHORT] = [({"service": "shop", "path": "/"}, 0.0), ({"service": "shop"}, 1.0)]
    assert await said(court) == (Verdict.BAD, False, False)
    court.prometheus.values[SHORT] = [({"service": "bank"}, 0.0)]
    assert await said(court) == LAGS


async def test_a_window_that_begins_after_the_step_is_asked_as_it_is(court: Court) -> None:
    court.prometheus.values[WHOLE] = [({"service": "shop"}, 0.0)]
    assert await said(court, 5 * MINUTE) == (Verdict.GOOD, False, False)
    assert SHORT not in court.prometheus.asked


async def test_right_after_the_step_nothing_is_asked(court: Court) -> None:
    assert await said(court, MINUTE / 2) == LAGS
    assert not court.prometheus.asked


@pytest.mark.parametrize(
    "rules",
    [
        (),
        (AlertingRule("Other", EXPRESSION, {}),),
        (AlertingRule("Sick", EXPRESSION, {"severity": "warning"}),),
        (SICK, AlertingRule("Sick", "up == 0", {})),
        (AlertingRule("Sick", "increase(errors[5m]) > 10", {}),),
        (AlertingRule("Sick", "a > 1 and b > 2", {}),),
        (AlertingRule("Sick", "job:errors:rate5m > 1", {}),),
    ],
)
async def test_what_cannot_be_asked_so_is_waited_for(court: Court, rules: tuple[AlertingRule, ...]) -> None:
    court.prometheus.own = RulesAnswer(rules, {"job:errors:rate5m": "rate(errors[5m])"})
    assert await said(court) == LAGS
    court.prometheus.own = RulesAnswer(problem="no answer")
    assert await said(court) == LAGS


async def test_a_recorded_metric_looks_back_as_far_as_what_it_is_made_of(court: Court) -> None:
    recorded = {"job:errors:rate5m": "job:errors:sum / 2", "job:errors:sum": "rate(errors[5m])", "own": "own"}
    court.prometheus.own = RulesAnswer((AlertingRule("Sick", "job:errors:rate5m + own > 1", {}),), recorded)
    court.prometheus.values["job:errors:rate5m + own > bool 1"] = [({"service": "shop"}, 0.0)]
    assert await said(court, 4 * MINUTE) == LAGS
    assert await said(court, 5 * MINUTE) == (Verdict.GOOD, False, False)


async def test_recorded_metrics_that_are_made_of_all_others_are_worked_out_at_once() -> None:
    names = [f"job:m{number}:rate5m" for number in range(60)]
    recorded = {name: " + ".join(f"rate({other}[1m])" for other in names) for name in names}
    answer = RulesAnswer((AlertingRule("Sick", names[0], {}, waits=MINUTE),), recorded)
    began = time.process_time()
    assert (await lags(answer))["Sick"] >= 2 * MINUTE
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("rule", "late"),
    [
        pytest.param(AlertingRule("Sick", "rate(errors[5m]) > 0.1", {}, waits=6 * MINUTE), True, id="window and for"),
        pytest.param(AlertingRule("Sick", "rate(errors[5m]) > 0.1", {}), False, id="just in time"),
        pytest.param(AlertingRule("Other", "rate(errors[1h]) > 0.1", {}), False, id="an alert that nobody asks for"),
        pytest.param(AlertingRule("Sick", "job:errors > 0.1", {"team": "{{ $x }}"}), True, id="a recorded metric"),
    ],
)
async def test_an_alert_that_may_outlast_the_verification_is_told_by_check(
    court: Court, rule: AlertingRule, late: bool
) -> None:
    answer = RulesAnswer((rule,), {"job:errors": "rate(errors[11m])"})
    found = await outlasting(court.config, answer)
    assert [text.partition(":")[0] for text in found] == (["shop"] if late else [])
    assert not late or "the alert Sick may fire for 11m after its cause is gone" in found[0]


async def test_an_alert_that_ended_is_not_asked_about(court: Court) -> None:
    court.fires(ends_at=START + MINUTE)
    assert await said(court) == (Verdict.GOOD, True, False)
    assert not court.prometheus.asked
