"""Conditions put together: what a rule says of a service, since when, and on what evidence."""

from datetime import datetime
from typing import Any

import pytest

from rollbackd.model import Alert, Evidence, Verdict
from rollbackd.rules.conditions import (
    Condition,
    alert_evidence,
    combine,
    needing_news,
    of_alerts,
    of_track,
    threshold,
    together,
    worst,
)
from rollbackd.rules.spec import BadOf, CheckWhen, QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track
from tests.unit.builders import at, minutes

GOOD, UNKNOWN, PENDING, BAD = Standing.GOOD, Standing.INCONCLUSIVE, Standing.PENDING, Standing.BAD
QUERY = {"query": " errors\n", "above": 0.1, "for": "5m"}
CHECK = {"check": "smoke"}
ALERT = {"alert": 'alertname="HighErrorRate"'}


def rule(when: dict[str, Any]) -> Rule:
    return Rule.model_validate({"name": "errors", "when": when})


def alert(starts: datetime, **annotations: str) -> Alert:
    labels = {"severity": "page", "alertname": "HighErrorRate"}
    return Alert("f1", labels, annotations, starts, None, "http://prometheus.example/graph")


def saying(standing: Standing, since: float | None = None, reason: str = "so") -> Condition:
    began = None if since is None else at(since)
    evidence = (Evidence(f"source since {since}", "1", "", at(9)),) if standing is BAD else ()
    return Condition(standing, began, reason, evidence)


# -- one condition --------------------------------------------------------------------------------
def test_a_met_query_gives_itself_its_value_and_its_threshold_as_evidence() -> None:
    when = QueryWhen.model_validate(QUERY)
    track = Track(at(0), at(5), met=True, verdict=Verdict.BAD, reason="0.342, above 0.1")
    expected = Evidence("errors", "0.342, above 0.1", "> 0.1 for 5m", at(6))
    assert of_track(when, track, at(6)) == Condition(BAD, at(0), "0.342, above 0.1", (expected,))


def test_a_met_check_gives_its_name_as_evidence() -> None:
    track = Track(at(0), at(5), met=True, verdict=Verdict.BAD, reason="exit 1")
    expected = Evidence("check smoke", "exit 1", "3 failures in a row", at(6))
    assert of_track(CheckWhen.model_validate(CHECK), track, at(6)).evidence == (expected,)


def test_what_is_pending_has_no_evidence_yet() -> None:
    track = Track(at(0), at(1), met=False, verdict=Verdict.BAD, reason="0.3")
    assert of_track(QueryWhen.model_validate(QUERY), track, at(1)) == Condition(PENDING, at(0), "0.3")


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (QueryWhen(query="q", above=0.1, for_=minutes(5)), "> 0.1 for 5m"),
        (QueryWhen(query="q", below=0.99), "< 0.99"),
        (QueryWhen(query="q", above=0), "> 0"),
        (QueryWhen(query="q", above=2, bad=BadOf(times=4, of=6)), "> 2 in 4 of 6 polls"),
        (CheckWhen(check="smoke", failures=2), "2 failures in a row"),
    ],
)
def test_a_threshold_is_read_as_it_was_written(when: QueryWhen | CheckWhen, text: str) -> None:
    assert threshold(when) == text


# -- alerts ---------------------------------------------------------------------------------------
def test_no_alert_is_good() -> None:
    assert of_alerts([], at(0), None) == Condition(GOOD, None, "no such alert fires")


def test_alerts_that_fire_are_bad_since_the_first_of_them_began() -> None:
    said = of_alerts([(alert(at(3)), at(3)), (alert(at(1)), at(3))], at(500), None)
    assert (said.standing, said.since, said.reason) == (BAD, at(1), "2 firing")
    assert said.evidence == (alert_evidence(alert(at(3)), at(500)), alert_evidence(alert(at(1)), at(500)))


@pytest.mark.parametrize(("now", "standing"), [(15, BAD), (15.01, UNKNOWN)])
def test_an_alert_without_news_is_inconclusive_where_it_can_go_stale(now: float, standing: Standing) -> None:
    assert of_alerts([(alert(at(0)), at(0))], at(now), minutes(15)).standing is standing


def test_an_alert_without_news_does_not_date_one_that_is_alive() -> None:
    said = of_alerts([(alert(at(-60)), at(-30)), (alert(at(1)), at(2))], at(3), minutes(15))
    assert (said.standing, said.since, said.reason) == (BAD, at(1), "1 firing")


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({"summary": "errors at 34%", "description": "long"}, "errors at 34%"),
        ({"description": "long"}, "long"),
        ({}, "firing"),
    ],
)
def test_an_alert_is_evidence_in_its_own_words(annotations: dict[str, str], said: str) -> None:
    source = 'alert HighErrorRate {alertname="HighErrorRate", severity="page"}'
    expected = Evidence(source, said, "", at(2), "http://prometheus.example/graph")
    assert alert_evidence(alert(at(0), **annotations), at(2)) == expected


def test_an_alert_without_a_name_is_evidence_too() -> None:
    nameless = Alert("f", {}, {}, at(0), None)
    assert alert_evidence(nameless, at(0)).source == "alert ? {}"


@pytest.mark.parametrize(
    ("when", "needing"),
    [
        (ALERT, set()),
        ({"any": [ALERT, QUERY]}, set()),
        ({"all": [QUERY, CHECK]}, set()),
        ({"all": [QUERY, ALERT]}, {1}),
        ({"any": [ALERT, {"all": [CHECK, ALERT]}]}, {2}),
        ({"all": [QUERY, {"any": [CHECK, {"any": [ALERT]}]}, ALERT]}, {2, 3}),
    ],
)
def test_only_an_alert_anywhere_inside_all_goes_stale(when: dict[str, Any], needing: set[int]) -> None:
    assert needing_news(rule(when)) == needing


def test_an_alert_began_before_it_fired_by_how_long_its_rule_waits() -> None:
    assert of_alerts([(alert(at(3)), at(3))], at(4), None, minutes(5)).since == at(-2)


# -- several --------------------------------------------------------------------------------------
def test_a_single_condition_is_the_rules_own() -> None:
    part = saying(BAD, 1)
    assert combine(rule(QUERY), [part]) is part
    assert combine(rule({"all": [QUERY]}), [part]) is part


@pytest.mark.parametrize(
    ("first", "second", "standing"),
    [
        (BAD, BAD, BAD),
        (BAD, PENDING, PENDING),
        (BAD, UNKNOWN, UNKNOWN),
        (PENDING, UNKNOWN, UNKNOWN),
        (UNKNOWN, UNKNOWN, UNKNOWN),
        (BAD, GOOD, GOOD),
        (UNKNOWN, GOOD, GOOD),
        (PENDING, GOOD, GOOD),
    ],
)
def test_all_is_as_bad_as_the_mildest_of_them(first: Standing, second: Standing, standing: Standing) -> None:
    both = rule({"all": [QUERY, ALERT]})
    for parts in ([saying(first, 1), saying(second, 2)], [saying(second, 2), saying(first, 1)]):
        assert combine(both, parts).standing is standing


@pytest.mark.parametrize(
    ("first", "second", "standing"),
    [
        (BAD, GOOD, BAD),
        (BAD, UNKNOWN, BAD),
        (PENDING, UNKNOWN, PENDING),
        (UNKNOWN, GOOD, UNKNOWN),
        (GOOD, GOOD, GOOD),
    ],
)
def test_any_is_as_bad_as_the_worst_of_them(first: Standing, second: Standing, standing: Standing) -> None:
    either = rule({"any": [QUERY, ALERT]})
    for parts in ([saying(first, 1), saying(second, 2)], [saying(second, 2), saying(first, 1)]):
        assert combine(either, parts).standing is standing


def test_all_began_when_the_last_of_them_did_and_any_when_the_first_did() -> None:
    parts = [saying(BAD, 1, "one"), saying(BAD, 2, "two")]
    both, either = combine(rule({"all": [QUERY, ALERT]}), parts), combine(rule({"any": [QUERY, ALERT]}), parts)
    assert (both.since, either.since) == (at(2), at(1))
    assert both.reason == either.reason == "one; two"
    assert both.evidence == either.evidence == (*parts[0].evidence, *parts[1].evidence)


def test_only_what_is_bad_is_evidence_for_any() -> None:
    said = combine(rule({"any": [QUERY, ALERT]}), [saying(GOOD), saying(BAD, 2)])
    assert said.evidence == saying(BAD, 2).evidence


def test_what_is_not_bad_has_neither_a_beginning_nor_evidence() -> None:
    said = combine(rule({"all": [QUERY, ALERT]}), [saying(BAD, 1), saying(PENDING, 2)])
    assert (said.since, said.evidence) == (None, ())


def test_the_worst_of_nothing_is_good() -> None:
    assert worst([]) is GOOD
    assert worst([GOOD, PENDING, UNKNOWN]) is PENDING


# -- groups in groups -----------------------------------------------------------------------------
DEEP = {"all": [ALERT, {"any": [QUERY, {"all": [CHECK, {"event": "e2e_failed"}]}]}]}


@pytest.mark.parametrize(
    ("standings", "standing"),
    [
        ((BAD, BAD, GOOD, GOOD), BAD),
        ((BAD, GOOD, BAD, BAD), BAD),
        ((BAD, GOOD, BAD, PENDING), PENDING),
        ((BAD, GOOD, BAD, GOOD), GOOD),
        ((GOOD, BAD, BAD, BAD), GOOD),
        ((BAD, UNKNOWN, BAD, GOOD), UNKNOWN),
    ],
)
def test_groups_are_nested_to_any_depth(standings: tuple[Standing, ...], standing: Standing) -> None:
    parts = [saying(one, n) for n, one in enumerate(standings)]
    assert combine(rule(DEEP), parts).standing is standing


def test_a_nested_group_has_its_own_beginning_evidence_and_brackets() -> None:
    parts = [saying(BAD, 1, "a"), saying(GOOD, reason="b"), saying(BAD, 3, "c"), saying(BAD, 2, "d")]
    found = combine(rule(DEEP), parts)
    assert (found.since, found.reason) == (at(3), "a; (b; (c; d))")
    assert found.evidence == (*parts[0].evidence, *parts[2].evidence, *parts[3].evidence)


def test_what_is_good_in_a_nested_group_is_no_evidence() -> None:
    parts = [saying(BAD, 1), saying(BAD, 2), saying(BAD, 3), saying(GOOD)]
    assert combine(rule(DEEP), parts).evidence == (*parts[0].evidence, *parts[1].evidence)


def test_the_labels_of_what_is_bad_are_kept() -> None:
    first, second = Condition(BAD, at(1), "a", (), ({"a": "1"},)), Condition(BAD, at(2), "b", (), ({"b": "2"},))
    assert combine(rule({"all": [ALERT, QUERY]}), [first, second]).labels == ({"a": "1"}, {"b": "2"})
    assert of_alerts([(alert(at(3)), at(3))], at(4), None).labels == (alert(at(3)).labels,)


GOOD_, BAD_, UNKNOWN_ = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("when", "verdicts", "verdict"),
    [
        (QUERY, [BAD_], BAD_),
        (ALERT, [None], None),
        ({"all": [QUERY, CHECK]}, [BAD_, GOOD_], GOOD_),
        ({"all": [QUERY, CHECK]}, [BAD_, UNKNOWN_], UNKNOWN_),
        ({"all": [QUERY, ALERT]}, [BAD_, None], BAD_),
        ({"any": [QUERY, CHECK]}, [BAD_, GOOD_], BAD_),
        ({"any": [QUERY, CHECK]}, [UNKNOWN_, GOOD_], UNKNOWN_),
        ({"any": [ALERT, ALERT]}, [None, None], None),
        (DEEP, [None, GOOD_, BAD_, None], BAD_),
        (DEEP, [None, GOOD_, GOOD_, None], GOOD_),
    ],
)
def test_what_was_looked_at_again_decides_together(
    when: dict[str, Any], verdicts: list[Verdict | None], verdict: Verdict | None
) -> None:
    assert together(rule(when), verdicts) is verdict
