"""How much a trigger weighs for policy: fixed in the rule, or said by a label."""

from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.rules.spec import Rule
from rollbackd.rules.weight import FromLabel, FromQuery, components_of, impact_of, scope_of, users_of

LABELS: tuple[dict[str, str], ...] = (
    {},
    {"impact": " High ", "scope": "all", "parts": "cart, ,search ", "share": "25%"},
    {"impact": "low"},
)


def rule(**more: Any) -> Rule:
    return Rule.model_validate({"name": "r", "when": {"alert": "a=b"}} | more)


def by(name: str) -> FromLabel:
    return FromLabel(label=name)


def test_it_may_be_fixed_in_the_rule() -> None:
    one = rule(impact="high", scope="some", components=["cart", "search"], users="25%")
    assert impact_of(one.impact, LABELS) == "high"
    assert scope_of(one.scope, LABELS) == "some"
    assert components_of(one.components, LABELS) == ("cart", "search")
    assert users_of(one.users, LABELS) == 0.25
    assert rule(components="cart").components == ("cart",)


def test_it_may_be_unsaid() -> None:
    one = rule()
    assert (impact_of(one.impact, LABELS), scope_of(one.scope, LABELS)) == ("", "")
    assert (components_of(one.components, LABELS), users_of(one.users, LABELS)) == ((), None)


def test_a_label_says_it_of_the_first_that_has_one() -> None:
    one = rule(impact={"label": "impact"}, components={"label": "parts"}, users={"label": "share"})
    assert (one.impact, one.components, one.users) == (by("impact"), by("parts"), by("share"))
    assert impact_of(by("impact"), LABELS) == "high"
    assert scope_of(by("scope"), LABELS) == "all"
    assert components_of(by("parts"), LABELS) == ("cart", "search")
    assert users_of(by("share"), LABELS) == 0.25


@pytest.mark.parametrize("labels", [(), ({},), ({"x": ""},), ({"x": "?"},), ({"x": "120%"},)])
def test_a_label_that_makes_no_sense_says_nothing(labels: tuple[dict[str, str], ...]) -> None:
    assert impact_of(by("x"), labels) == ""
    assert users_of(by("x"), labels) is None


def test_a_query_is_left_to_the_decision() -> None:
    assert rule(users={"query": "share"}).users == FromQuery(query="share")
    assert users_of(FromQuery(query="share"), LABELS) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"impact": "huge"}, "'low', 'medium', 'high' or 'critical'"),
        ({"impact": {"lable": "x"}}, "Field required"),
        ({"scope": ""}, "at least 1 character"),
        ({"users": "120%"}, "`users` is a part of all users; write it like 25%"),
        ({"users": {"query": ""}}, "at least 1 character"),
        ({"users": {"label": ""}}, "should match pattern"),
        ({"components": {"query": "x"}}, "no way to say this"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        rule(**given)


def test_it_survives_json() -> None:
    one = rule(impact={"label": "impact"}, scope="all", components=["a"], users={"query": "x"})
    assert Rule.model_validate_json(one.model_dump_json(by_alias=True)) == one
    assert Rule.model_validate(one.model_dump()) == one
