"""Rules, policy, windows, plans and verification as values."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rollbackd.incident.spec import PlanSpec, VerifySpec
from rollbackd.model import Action, Priority
from rollbackd.policy.spec import (
    DAYS,
    PRIORITIES,
    Among,
    CommonCause,
    Limits,
    PolicyRow,
    PolicyWhen,
    Share,
    Window,
    minutes,
    weekdays,
)
from rollbackd.rules.spec import AlertWhen, AllWhen, AnyWhen, CheckWhen, EventWhen, QueryWhen, Rule
from rollbackd.syntax.units import parse_duration

QUERY = {"query": "up", "below": 1}
ALERT = {"alert": "a=b"}


def _rule(when: Any, **more: Any) -> Rule:
    return Rule.model_validate({"name": "r", "when": when} | more)


# -- rules -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("when", "kind"),
    [
        (ALERT, AlertWhen),
        (QUERY, QueryWhen),
        ({"check": "smoke"}, CheckWhen),
        ({"all": [ALERT, QUERY]}, AllWhen),
        ({"any": [{"check": "smoke"}]}, AnyWhen),
        ({"event": "e2e_failed"}, EventWhen),
        ({"all": [ALERT, {"any": [QUERY, {"all": [{"event": "e"}]}]}]}, AllWhen),
    ],
)
def test_a_condition_is_known_by_its_key_and_survives_json(when: Any, kind: type[Any]) -> None:
    rule = _rule(when)
    assert isinstance(rule.when, kind)
    assert Rule.model_validate(json.loads(rule.model_dump_json(by_alias=True))) == rule
    assert Rule.model_validate(rule.model_dump()) == rule
    assert _rule(rule.when) == rule


def test_a_rules_conditions_are_flat() -> None:
    assert [type(leaf) for leaf in _rule({"all": [ALERT, QUERY]}).leaves] == [AlertWhen, QueryWhen]
    assert [type(leaf) for leaf in _rule({"any": [QUERY]}).leaves] == [QueryWhen]
    assert [type(leaf) for leaf in _rule(ALERT).leaves] == [AlertWhen]
    deep = {"any": [{"all": [QUERY, {"any": [{"event": "e"}]}]}, ALERT]}
    assert [type(leaf) for leaf in _rule(deep).leaves] == [QueryWhen, EventWhen, AlertWhen]


def test_groups_are_nested_five_deep_and_no_deeper() -> None:
    when: Any = ALERT
    for _ in range(5):
        when = {"all": [when]}
    assert _rule(when).leaves == (AlertWhen(alert="a=b"),)
    with pytest.raises(ValidationError, match="nested deeper than 5 levels; make it flatter"):
        _rule({"any": [when]})


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"allert": "a=b"}, "no kind of condition here; write one of alert, query, check, event, all or any"),
        ({"all": [{"al": [ALERT]}]}, "no kind of condition here; write one of alert, query, check, event, all or any"),
        ({"event": "e2e failed"}, "should match pattern"),
        ({"event": "e", "times": 0}, "greater than or equal to 1"),
        ({"event": "e", "times": 101}, "less than or equal to 100"),
        ({"event": "e", "within": "500ms"}, "`within` is between 1s and 1d"),
        ({"event": "e", "within": "25h"}, "`within` is between 1s and 1d"),
        ({"event": "e", "where": "="}, "cannot read the matcher"),
        ("a=b", "no kind of condition here"),
        ({"all": []}, "at least 1 item"),
        ({"alert": "=b"}, "cannot read the matcher"),
        ({"query": "up"}, "give above, below, drops_by, rises_by, differs or score"),
        ({"query": "up", "above": 1, "below": 2}, "give above, below, drops_by, rises_by, differs or score"),
        (QUERY | {"for": "5m", "bad": {"times": 1, "of": 2}}, "give one of them"),
        (QUERY | {"bad": {"times": 3, "of": 2}}, "make `times` at most `of`"),
        ({"check": "smoke", "every": "99ms"}, "`every` is at least 100ms"),
        ({"check": "smoke", "failures": 0}, "greater than or equal to 1"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(when: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _rule(when)


def test_a_rule_cannot_refuse_for_want_of_a_change() -> None:
    assert _rule(ALERT).without_change is Action.ASK
    assert _rule(ALERT, without_change="observe").without_change is Action.OBSERVE
    with pytest.raises(ValidationError, match="write roll_back, ask or observe"):
        _rule(ALERT, without_change="refuse")


def test_a_plan_and_a_service_may_be_one_or_several() -> None:
    assert _rule(ALERT, plan="full", services="checkout").plan == ("full",)
    assert _rule(ALERT, plan=["quick", "full"], services=["a", "b"]).services == ("a", "b")


# -- policy ------------------------------------------------------------------------------------------
def test_what_may_be_one_or_a_list_is_a_list() -> None:
    row = PolicyRow.model_validate({"when": {"priority": "P0", "labels": {"a": "b"}}, "action": "observe"})
    assert row.when.priority == (Priority.P0,)


@pytest.mark.parametrize(
    ("written", "names", "holds"),
    [
        ({}, (), True),
        ({}, ("code",), True),
        (["config", "code"], ("code", "other"), True),
        ("code", ("code",), True),
        (["config"], ("code",), False),
        (["config"], (), False),
        ({"only": ["config", "code"]}, ("code",), True),
        ({"only": ["config"]}, ("code", "config"), False),
        ({"only": ["config"]}, (), False),
        ({"at_least": 2}, ("code", "config"), True),
        ({"at_least": 2}, ("code", "code"), False),
        ({"at_most": 1}, ("code",), True),
        ({"at_most": 1}, ("code", "config"), False),
        ({"any": ["code"], "at_least": 2}, ("code",), False),
    ],
)
def test_a_set_of_names_is_described_by_what_is_in_it(written: object, names: tuple[str, ...], holds: bool) -> None:
    assert Among.model_validate(written).holds(names) is holds


def test_a_share_lies_strictly_between_its_limits() -> None:
    share = Share.model_validate({"above": "10%", "below": "50%"})
    assert [share.holds(value) for value in (0.1, 0.11, 0.49, 0.5)] == [False, True, True, False]
    assert Share(above=0.5).holds(1)
    assert Share(below=0.5).holds(0)
    with pytest.raises(ValidationError, match="give `above`, `below` or both"):
        Share()


def test_a_row_needs_a_look_when_only_the_layers_or_a_query_can_tell() -> None:
    def row(**when: object) -> PolicyWhen:
        return PolicyWhen.model_validate(when)

    assert not row(priority="P0", components=["code"]).needs_a_look
    assert row(layers=["code"]).needs_a_look
    assert row(users={"above": "10%"}).needs_a_look


def test_the_clocks_of_the_priorities_are_those_of_the_runbooks() -> None:
    starts = [PRIORITIES[one].start_within for one in Priority]
    recoveries = [PRIORITIES[one].recover_within for one in Priority]
    confirmations = [PRIORITIES[one].confirm_within for one in Priority]
    assert starts == [parse_duration("5m"), parse_duration("15m"), parse_duration("30m"), parse_duration("60m")]
    assert recoveries == [parse_duration("30m"), parse_duration("2h"), parse_duration("8h"), parse_duration("24h")]
    assert confirmations == [parse_duration("15m"), parse_duration("30m"), parse_duration("1h"), None]


@pytest.mark.parametrize("share", ["101%", -0.1, 5])
def test_a_share_is_a_part(share: object) -> None:
    with pytest.raises(ValidationError, match="`share` is a part of all services"):
        CommonCause.model_validate({"share": share})


def test_the_guard_against_common_causes_can_be_off() -> None:
    limits = Limits.model_validate({"common_cause": False})
    assert limits.common_cause is False
    assert Limits.model_validate_json(limits.model_dump_json()) == limits
    assert Limits.model_validate_json(Limits().model_dump_json()) == Limits()
    with pytest.raises(ValidationError):
        Limits.model_validate({"common_cause": True})


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("mon-fri", {0, 1, 2, 3, 4}),
        ("sat,sun", {5, 6}),
        ("SAT, Sun", {5, 6}),
        ("fri-mon", {4, 5, 6, 0}),
        ("sun-sat", {0, 1, 2, 3, 4, 5, 6}),
        ("wed", {2}),
        ("wed-wed", {2}),
        ("mon,wed-thu", {0, 2, 3}),
    ],
)
def test_days_read_as_people_say_them(text: str, days: set[int]) -> None:
    assert weekdays(text) == days


@pytest.mark.parametrize("text", ["", "monday", "mon-", "-mon", "mon-fry", "mon,,tue", "1-5"])
def test_anything_else_names_no_days(text: str) -> None:
    with pytest.raises(ValueError, match="names no days; write them like mon-fri or sat,sun"):
        weekdays(text)


@given(st.sampled_from(DAYS), st.sampled_from(DAYS))
def test_a_range_of_days_has_both_its_ends(first: str, last: str) -> None:
    days = weekdays(f"{first}-{last}")
    assert {DAYS.index(first), DAYS.index(last)} <= days
    assert len(days) == (DAYS.index(last) - DAYS.index(first)) % 7 + 1


@pytest.mark.parametrize(("text", "number"), [("00:00", 0), ("08:30", 510), ("23:59", 1439), ("24:00", 1440)])
def test_a_time_of_day_is_minutes(text: str, number: int) -> None:
    assert minutes(text) == number


@pytest.mark.parametrize("text", ["", "8:30", "24:01", "08:60", "0830", "08:30:00", "noon!", "08h30"])
def test_anything_else_is_no_time_of_day(text: str) -> None:
    with pytest.raises(ValueError, match='is not a time of day; write it like "08:00"'):
        minutes(text)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ({"zone": "Europe/Atlantis"}, "unknown time zone"),
        ({"zone": "/etc/passwd"}, "unknown time zone"),
        ({"zone": ""}, "unknown time zone"),
        ({"from": "08:00", "to": "08:00"}, "is empty; for the whole day write 00:00 to 24:00"),
        ({"from": "8"}, "not a time of day"),
        ({"days": "weekend"}, "names no days"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(window: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Window.model_validate(window)


def test_a_window_may_go_over_midnight() -> None:
    window = Window.model_validate({"from": "22:00", "to": "06:00", "zone": "Europe/Berlin"})
    assert (window.from_, window.to) == ("22:00", "06:00")
    assert Window() == Window.model_validate({"days": "mon-sun", "from": "00:00", "to": "24:00"})


# -- plans and verification --------------------------------------------------------------------------
def test_a_plan_may_be_a_list_of_steps() -> None:
    plan = PlanSpec.model_validate(["config", {"flags": "no-search"}])
    assert plan == PlanSpec(steps=("config", {"flags": "no-search"}))
    assert plan.layers == ("config", "flags")
    assert PlanSpec.model_validate_json(plan.model_dump_json()) == plan
    assert TypeAdapter(dict[str, PlanSpec]).validate_python({"a": ["x"], "b": {"steps": ["y"]}})["a"].layers == ("x",)


@pytest.mark.parametrize("step", [{}, {"a": "1", "b": "2"}])
def test_a_step_with_a_fixed_release_has_one_layer(step: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="write one layer a step"):
        PlanSpec.model_validate([step])


def test_verification_must_fit_before_its_deadline() -> None:
    VerifySpec(
        checks=("a",), settle=timedelta(minutes=1), every=timedelta(minutes=1), passes=5, deadline=timedelta(minutes=5)
    )
    with pytest.raises(ValidationError, match="do not fit before `deadline`; make it longer"):
        VerifySpec(checks=("a",), every=timedelta(minutes=1), passes=11)


@pytest.mark.parametrize("every", ["0s", "0"])
def test_verification_takes_a_breath_between_two_rounds(every: str) -> None:
    with pytest.raises(ValidationError, match="how long to wait between two rounds"):
        VerifySpec.model_validate({"checks": ["a"], "every": every})


def test_the_schema_knows_both_ways_to_write_a_plan() -> None:
    written = PlanSpec.model_json_schema()
    assert [part.get("type") for part in written["anyOf"]] == ["array", "object"]


def test_only_a_plans_verification_leaves_rules_out() -> None:
    written = {"steps": [{"flags": "off"}], "verify": {"skip_rules": "search", "checks": ["health"]}}
    assert PlanSpec.model_validate(written).unasked == ("search",)
    assert PlanSpec.model_validate({"steps": ["code"], "verify": {"checks": ["health"]}}).unasked == ()
    assert PlanSpec.model_validate(["code"]).unasked == ()
    with pytest.raises(ValidationError):
        VerifySpec.model_validate({"skip_rules": "search", "checks": ["health"]})
