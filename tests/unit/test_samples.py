"""Judging a query's values: only finite, unambiguous, well founded numbers are evidence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.model import Verdict
from rollbackd.rules.samples import Observation, judge, opposite, own

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("value", "verdict", "reason"),
    [(0.342, BAD, "0.342, above 0.1"), (0.1, GOOD, "0.1, not above 0.1"), (0.0, GOOD, "0, not above 0.1")],
)
def test_above_is_bad_and_equal_is_not_above(value: float, verdict: Verdict, reason: str) -> None:
    assert judge([value], 0.1, None) == Observation(verdict, value, reason)


@pytest.mark.parametrize(
    ("value", "verdict", "reason"), [(0.98, BAD, "0.98, below 0.99"), (0.99, GOOD, "0.99, not below 0.99")]
)
def test_below_is_bad_and_equal_is_not_below(value: float, verdict: Verdict, reason: str) -> None:
    assert judge([value], None, 0.99) == Observation(verdict, value, reason)


def test_a_threshold_of_zero_is_a_threshold() -> None:
    assert judge([1], 0, None).verdict is BAD
    assert judge([-1], None, 0).verdict is BAD


def test_no_data_is_inconclusive() -> None:
    assert judge([], 0.1, None) == Observation(UNKNOWN, None, "no data")


@pytest.mark.parametrize(("value", "name"), [(math.nan, "NaN"), (math.inf, "Inf"), (-math.inf, "-Inf")])
def test_what_is_no_finite_number_is_inconclusive(value: float, name: str) -> None:
    assert judge([value], 0.1, None) == Observation(UNKNOWN, None, f"no number: {name}")


@pytest.mark.parametrize("aggregate", ["any", "all", "max", "min", "sum"])
def test_one_series_that_is_no_number_spoils_them_all(aggregate: str) -> None:
    seen = judge([5, math.nan, 7], 0.1, None, aggregate)
    assert seen == Observation(UNKNOWN, None, "no number: NaN in 1 of 3 series")


def test_several_series_without_aggregate_are_ambiguous_and_the_rules_fault() -> None:
    seen = judge([0.5, 0.6], 0.1, None)
    assert seen.verdict is UNKNOWN
    assert seen.fault
    assert seen.reason.startswith("ambiguous: 2 series for one service")


@pytest.mark.parametrize(
    ("aggregate", "above", "below", "verdict", "value"),
    [
        ("any", 2, None, BAD, 3),
        ("all", 2, None, GOOD, 1),
        ("any", None, 2, BAD, 1),
        ("all", None, 2, GOOD, 3),
        ("max", 2, None, BAD, 3),
        ("max", None, 2, GOOD, 3),
        ("min", 2, None, GOOD, 1),
        ("min", None, 2, BAD, 1),
        ("sum", 4, None, GOOD, 4),
        ("sum", 3.9, None, BAD, 4),
    ],
)
def test_an_aggregate_makes_one_of_several(
    aggregate: str, above: float | None, below: float | None, verdict: Verdict, value: float
) -> None:
    seen = judge([1, 3], above, below, aggregate)
    assert (seen.verdict, seen.value) == (verdict, value)


@given(st.lists(st.floats(-10, 10), min_size=1), st.floats(-10, 10))
def test_any_and_all_mean_what_they_say(values: list[float], threshold: float) -> None:
    assert (judge(values, threshold, None, "any").verdict is BAD) == any(value > threshold for value in values)
    assert (judge(values, threshold, None, "all").verdict is BAD) == all(value > threshold for value in values)
    assert (judge(values, None, threshold, "any").verdict is BAD) == any(value < threshold for value in values)
    assert (judge(values, None, threshold, "all").verdict is BAD) == all(value < threshold for value in values)


@pytest.mark.parametrize("value", [0.0, 0.9])
@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (49, "but on 49 samples only, wants 50"),
        (None, "but it is not known on how many samples it rests, wants 50"),
        (math.nan, "but the number of samples is nan, wants 50"),
        (math.inf, "but the number of samples is inf, wants 50"),
    ],
)
def test_too_few_samples_are_inconclusive_for_bad_as_for_good(value: float, samples: float | None, said: str) -> None:
    assert judge([value], 0.1, None, samples=samples, at_least=50) == Observation(UNKNOWN, value, f"{value:g}, {said}")


def test_enough_samples_are_enough() -> None:
    assert judge([0.2], 0.1, None, samples=50, at_least=50).verdict is BAD
    assert judge([0.2], 0.1, None, samples=0, at_least=None).verdict is BAD


def test_a_judgement_without_threshold_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="needs a threshold"):
        judge([1], None, None)


def test_the_opposite_keeps_what_is_inconclusive() -> None:
    assert opposite(judge([1], 0.5, None)) == Observation(GOOD, 1, "1, above 0.5")
    assert opposite(judge([0], 0.5, None)).verdict is BAD
    assert opposite(judge([], 0.5, None)).verdict is UNKNOWN
    assert opposite(judge([1, 2], 0.5, None)).fault


MATCH = {"service": "checkout", "env": "prod"}


def test_the_series_that_carry_the_services_labels_are_its_own() -> None:
    series = [({**MATCH, "pod": "a"}, 1.0), ({"service": "search", "env": "prod"}, 2.0), ({"pod": "c"}, 3.0)]
    assert own(series, MATCH) == [1.0]


def test_without_any_those_that_contradict_nothing_are() -> None:
    assert own([({}, 1.0)], MATCH) == [1.0]
    assert own([({"service": "checkout"}, 1.0), ({"service": "search"}, 2.0)], MATCH) == [1.0]
    assert own([({}, 1.0), ({"pod": "a"}, 2.0)], MATCH) == [1.0, 2.0]


def test_another_services_series_are_never_its_own() -> None:
    assert own([({"service": "search", "env": "prod"}, 1.0)], MATCH) == []
