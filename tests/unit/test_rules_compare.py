"""Comparisons: what is written, what they say of a value, of samples and of instances, and when they say nothing."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rollbackd.model import Verdict
from rollbackd.rules.compare import Baseline, finite, instances, middle, sampled, shifted, spans
from rollbackd.rules.compared import Against, Compared, Differs, percent
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import QueryWhen
from tests.unit.builders import at

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
DAY = {"offset": "1d"}


def when(against: Any = DAY, **keys: Any) -> Compared:
    return Compared.model_validate({"against": against, **keys})


def a_day_ago(value: float) -> Baseline:
    return Baseline((value,), " 1d ago")


# -- what is written ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keys", "limit"),
    [
        ({"above": 0.1}, "> 0.1"),
        ({"below": "99%"}, "< 0.99"),
        ({"drops_by": "50%", "against": DAY}, "drops by 50% against 1d ago"),
        ({"rises_by": 1.5, "against": {"before_change": "30m"}}, "rises by 150% against 30m before the change"),
        ({"rises_by": "5%", "against": {"peers": "frontends"}}, "rises by 5% against peers frontends"),
        (
            {"differs": {}, "against": {"peers": {"label": "version"}}},
            "differs by 25% against unchanged instances by version, confidence 99%",
        ),
        (
            {"differs": {"direction": "up", "effect": "40%", "confidence": "99.9%"}, "against": DAY},
            "differs by 40% up against 1d ago, confidence 99.9%",
        ),
        ({"differs": {"direction": "down"}, "against": DAY}, "differs by 25% down against 1d ago, confidence 99%"),
    ],
)
def test_a_condition_says_its_limit(keys: dict[str, Any], limit: str) -> None:
    assert Compared.model_validate(keys).limit == limit


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "a query needs one threshold"),
        ({"above": 1, "rises_by": 1, "against": DAY}, "a query needs one threshold"),
        ({"rises_by": 1}, "`rises_by` needs something to compare with"),
        ({"differs": {}}, "`differs` needs something to compare with"),
        ({"below": 1, "against": DAY}, "`below` compares with nothing"),
        ({"rises_by": 0, "against": DAY}, "0.0 is no rise"),
        ({"drops_by": 0, "against": DAY}, "0.0 is no share"),
        ({"drops_by": 1.1, "against": DAY}, "1.1 is no share"),
        ({"rises_by": 1, "against": {}}, "there is one thing to compare with"),
        ({"rises_by": 1, "against": {"offset": "0"}}, "this is at least 1s"),
        ({"rises_by": 1, "against": DAY, "aggregate": "all"}, '"all" makes no number to compare'),
        ({"rises_by": 1, "against": {"peers": {"label": "v"}}, "aggregate": "max"}, "take `aggregate` away"),
        ({"differs": {"confidence": "40%"}, "against": DAY}, "0.4 is no confidence"),
        ({"differs": {"effect": 0}, "against": DAY}, "0.0 is no rise"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Compared.model_validate(keys)


def test_trouble_is_not_compared_with_itself() -> None:
    given_keys = {"query": "q", "rises_by": 1, "against": {"offset": "5m"}}
    assert QueryWhen.model_validate(given_keys | {"for": "4m"}).for_ == timedelta(minutes=4)
    with pytest.raises(ValidationError, match="compared with itself"):
        QueryWhen.model_validate(given_keys | {"for": "5m"})


def test_what_needs_a_change_is_known() -> None:
    assert when({"before_change": "30m"}, rises_by=1).of_change
    assert when({"peers": {"label": "version"}}, rises_by=1).of_change
    assert not when({"peers": "frontends"}, rises_by=1).of_change
    assert not when(rises_by=1).of_change
    assert not Compared(above=1).of_change
    assert (Compared(above=1).group, Compared(above=1).by_label) == ("", "")


@pytest.mark.parametrize(
    ("share", "said"), [(0.54, "54%"), (0.032, "3.2%"), (12.0, "1200%"), (0.1, "10%"), (0.0001, "0.01%"), (0.0, "0%")]
)
def test_shares_are_said_shortly(share: float, said: str) -> None:
    assert percent(share) == said


# -- drops and rises ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keys", "value", "other", "verdict", "reason"),
    [
        ({"drops_by": "50%"}, 0.12, 0.26, BAD, "0.12, 54% below 0.26 1d ago (drops_by 50%)"),
        ({"drops_by": "50%"}, 0.13, 0.26, BAD, "0.13, 50% below 0.26 1d ago (drops_by 50%)"),
        ({"drops_by": "50%"}, 0.14, 0.26, GOOD, "0.14, 46% below 0.26 1d ago (drops_by 50%)"),
        ({"drops_by": "50%"}, 0.52, 0.26, GOOD, "0.52, 100% above 0.26 1d ago (drops_by 50%)"),
        ({"drops_by": "100%"}, 0.0, 5.0, BAD, "0, 100% below 5 1d ago (drops_by 100%)"),
        ({"rises_by": "50%"}, 0.4, 0.2, BAD, "0.4, 100% above 0.2 1d ago (rises_by 50%)"),
        ({"rises_by": "50%"}, 0.3, 0.2, BAD, "0.3, 50% above 0.2 1d ago (rises_by 50%)"),
        ({"rises_by": "50%"}, 0.29, 0.2, GOOD, "0.29, 45% above 0.2 1d ago (rises_by 50%)"),
        ({"rises_by": "50%"}, 0.2, 0.2, GOOD, "0.2, the same as 0.2 1d ago (rises_by 50%)"),
    ],
)
def test_a_share_against_another_time(
    keys: dict[str, Any], value: float, other: float, verdict: Verdict, reason: str
) -> None:
    assert shifted(value, a_day_ago(other), when(**keys)) == Observation(verdict, value, reason)


@pytest.mark.parametrize(
    ("keys", "value", "other", "verdict"),
    [
        ({"rises_by": 0.5}, 0.3, 0.0, UNKNOWN),
        ({"rises_by": 0.5}, 0.0, 0.0, GOOD),
        ({"rises_by": 0.5}, -1.0, 0.0, GOOD),
        ({"rises_by": 0.5}, 1.0, -1.0, UNKNOWN),
        ({"drops_by": 0.5}, 0.0, 0.0, UNKNOWN),
        ({"drops_by": 0.5}, 0.3, 0.0, GOOD),
        ({"drops_by": 0.5}, -3.0, -1.0, UNKNOWN),
    ],
)
def test_nothing_is_a_share_of_nothing(keys: dict[str, Any], value: float, other: float, verdict: Verdict) -> None:
    seen = shifted(value, a_day_ago(other), when(**keys))
    assert seen.verdict is verdict
    assert ("there is no share" in seen.reason) is (verdict is UNKNOWN)


def test_without_anything_to_compare_with_it_says_so() -> None:
    seen = shifted(0.3, Baseline(missing="1d ago there is no data"), when(rises_by=0.5))
    assert seen == Observation(UNKNOWN, 0.3, "0.3, but 1d ago there is no data")


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.floats(0.01, 1))
def test_a_drop_one_way_is_a_rise_the_other(value: float, other: float, share: float) -> None:
    drop = shifted(value, a_day_ago(other), when(drops_by=share)).verdict
    rise = shifted(value, a_day_ago(other), when(rises_by=share)).verdict
    assert not (drop is BAD and rise is BAD)
    assert (drop is BAD) == (value <= other * (1 - share) or math.isclose(value, other * (1 - share)))
    assert (rise is BAD) == (value >= other * (1 + share) or math.isclose(value, other * (1 + share)))


# -- tests of samples ---------------------------------------------------------------------------
BEFORE = Baseline(tuple(0.30 + 0.001 * (n % 20) for n in range(40)), " before the change")
HIGHER = [0.42 + 0.001 * (n % 20) for n in range(31)]


def test_a_test_shows_its_numbers() -> None:
    seen = sampled(HIGHER, BEFORE, Differs())
    assert seen.verdict is BAD
    assert seen.reason == (
        "p = 6.8e-13, median 0.427 of 31 samples against 0.3095 before the change (40 samples): 38% up"
    )


@pytest.mark.parametrize(
    ("keys", "verdict"),
    [
        ({}, BAD),
        ({"direction": "up"}, BAD),
        ({"direction": "down"}, GOOD),
        ({"effect": "37%"}, BAD),
        ({"effect": "40%"}, GOOD),
        ({"samples": 31}, BAD),
        ({"samples": 32}, UNKNOWN),
    ],
)
def test_it_is_bad_when_it_is_sure_and_far_enough_the_watched_way(keys: dict[str, Any], verdict: Verdict) -> None:
    assert sampled(HIGHER, BEFORE, Differs.model_validate(keys)).verdict is verdict


def test_far_apart_is_not_enough_when_chance_may_have_done_it() -> None:
    scattered = [0.0, 0.9, 0.1, 0.8, 0.5, 0.6, 0.0, 0.7, 0.2, 0.9, 0.45]
    seen = sampled(scattered, BEFORE, Differs())
    assert seen.verdict is GOOD
    assert seen.reason.endswith("62% up")


def test_down_is_seen_too() -> None:
    seen = sampled([value / 2 for value in BEFORE.values], BEFORE, Differs(direction="down"))
    assert seen.verdict is BAD
    assert seen.reason.endswith("50% down")


def test_the_same_is_good() -> None:
    seen = sampled(BEFORE.values, BEFORE, Differs())
    assert (seen.verdict, seen.reason[:5]) == (GOOD, "p = 1")
    assert seen.reason.endswith(": the same")


def test_there_is_no_share_of_a_median_of_nothing() -> None:
    nothing = Baseline((0.0,) * 20, " before the change")
    seen = sampled([0.3] * 20, nothing, Differs())
    assert seen.verdict is UNKNOWN
    assert seen.reason.endswith("it moved, but there is no share of 0")
    assert sampled([0.3] * 20, nothing, Differs(direction="down")).reason.endswith(": up")


def test_few_samples_on_either_side_say_nothing() -> None:
    assert sampled([1.0] * 4, BEFORE, Differs()).reason == "4 samples so far, wants 10"
    seen = sampled(HIGHER, Baseline((1.0,), " before the change"), Differs())
    assert (seen.verdict, seen.reason) == (UNKNOWN, "1 samples before the change to compare with, wants 10")
    assert (
        sampled(HIGHER, Baseline(missing="no change to compare with"), Differs()).reason == "no change to compare with"
    )


@given(st.lists(st.floats(0.1, 10), max_size=30), st.lists(st.floats(0.1, 10), max_size=30))
def test_no_test_condemns_both_ways(after: list[float], before: list[float]) -> None:
    base = Baseline(tuple(before), " before")
    verdicts = [sampled(after, base, Differs.model_validate({"direction": way})).verdict for way in ("up", "down")]
    assert verdicts.count(BAD) <= 1
    assert (sampled(after, base, Differs()).verdict is BAD) == (BAD in verdicts)


# -- instances ----------------------------------------------------------------------------------
BY_VERSION = {"peers": {"label": "version"}}


@pytest.mark.parametrize(
    ("changed", "unchanged", "verdict", "said"),
    [
        ([0.4, 0.5], [0.1, 0.2, 0.3], BAD, "0.45, 125% above 0.2, the median of 3 unchanged by version (rises_by 50%)"),
        ([0.2], [0.2], GOOD, "0.2, the same as 0.2, the median of 1 unchanged by version (rises_by 50%)"),
        ([], [0.2], UNKNOWN, "no instance is changed by version"),
        ([0.2], [], UNKNOWN, "every instance is changed by version: none is left to compare with"),
        ([], [], UNKNOWN, "no data"),
        ([0.2, math.nan], [0.2], UNKNOWN, "no number in 1 of 2 changed instances"),
        ([0.2], [math.nan], UNKNOWN, "0.2, but no unchanged instance by version has a number"),
        ([0.4], [math.nan, 0.2], BAD, "0.4, 100% above 0.2, the median of 1 unchanged by version (rises_by 50%)"),
    ],
)
def test_new_instances_are_compared_with_the_old_ones(
    changed: list[float], unchanged: list[float], verdict: Verdict, said: str
) -> None:
    seen = instances(changed, unchanged, when(BY_VERSION, rises_by=0.5))
    assert (seen.verdict, seen.reason) == (verdict, said)


def test_after_a_rollback_no_new_instance_is_what_there_should_be() -> None:
    seen = instances([], [0.2], when(BY_VERSION, rises_by=0.5), undone=True)
    assert (seen.verdict, seen.reason) == (GOOD, "no instance is changed by version any more")
    assert instances([], [], when(BY_VERSION, rises_by=0.5), undone=True).verdict is UNKNOWN


def test_instances_are_tested_by_all_their_samples() -> None:
    seen = instances([*HIGHER, math.nan], BEFORE.values, when(BY_VERSION, differs={}))
    assert seen.verdict is BAD
    assert "of 31 samples against 0.3095 of instances unchanged by version (40 samples)" in seen.reason


# -- samples and spans --------------------------------------------------------------------------
def test_times_without_a_number_are_no_samples() -> None:
    assert finite([[1.0], [math.nan], [2.0], []], None) == [1.0, 2.0]
    assert finite([[1.0, 3.0], [2.0, math.inf]], "sum") == [4.0]


def test_samples_that_cannot_be_told_apart_are_the_rules_fault() -> None:
    seen = finite([[1.0, 2.0]], None)
    assert isinstance(seen, Observation)
    assert seen.fault


def test_a_median_wants_enough_to_be_one_of() -> None:
    assert middle([3.0, math.nan, 1.0, 2.0], " of 3", 3, "too few") == Baseline((2.0,), " of 3")
    assert middle([3.0, math.nan, 1.0], " of 3", 3, "too few") == Baseline(missing="too few")


def test_few_spans_cover_many_windows() -> None:
    windows = [(at(n), at(n + 30)) for n in (0, 5, 10, 200, 205, 95)]
    found = spans(windows, timedelta(minutes=120))
    assert found == [(at(0), at(40)), (at(95), at(125)), (at(200), at(235))]
    assert spans(windows, timedelta(minutes=125)) == [(at(0), at(125)), (at(200), at(235))]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 60)), max_size=30), st.integers(60, 200))
def test_every_window_lies_in_a_span_and_none_is_too_long(raw: list[tuple[int, int]], longest: int) -> None:
    windows = [(at(begin), at(begin + length)) for begin, length in raw]
    found = spans(windows, timedelta(minutes=longest))
    assert all(any(begin <= window[0] and window[1] <= end for begin, end in found) for window in windows)
    assert all(end - begin <= timedelta(minutes=longest) for begin, end in found)
    assert len(found) <= len(windows)


def test_an_against_is_one_thing() -> None:
    assert Against.model_validate({"peers": "frontends"}).peers == "frontends"
