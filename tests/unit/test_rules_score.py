"""The score of errors: what requests add up to, whenever and however often they are looked at."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from math import exp, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rollbackd.model import Verdict
from rollbackd.rules.compare import versions
from rollbackd.rules.conditions import threshold
from rollbackd.rules.samples import Counts, Observation, inconclusive, judge
from rollbackd.rules.score import FRESH, Score, ScoreSpec, advance, count, evidence, judged
from rollbackd.rules.spec import QueryWhen
from rollbackd.rules.tracks import Standing, Track, mixing, renewed, step
from tests.fakes.clock import START

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
POLL = 15 * SECOND
SPEC = ScoreSpec(of="increase(requests[1m])")
WHEN = QueryWhen(query="increase(errors[1m])", score=SPEC)

looks = st.lists(
    st.tuples(st.integers(-300, 900), st.floats(0, 1), st.floats(0, 1e6)), min_size=1, max_size=40
)  # seconds since the last look, share of errors, requests in the window


def counted(errors: float, requests: float = 100.0) -> Counts:
    return errors, requests


def scored(*errors: float, requests: float = 100.0, pace: timedelta = POLL, score: Score = FRESH) -> Score:
    """The score after a look every so often, from where it was."""
    at = (score.at or START - pace) + pace
    for number, one in enumerate(errors):
        score = advance(score, counted(one, requests), MINUTE, SPEC, at + pace * number, POLL)
    return score


def tracked(*looks: tuple[float, float], track: Track | None = None, begin: datetime = START) -> Track:
    """A track after looks, each so many errors of so many requests, every quarter of a minute."""
    track = track or Track()
    for number, (errors, requests) in enumerate(looks):
        at = begin + POLL * number
        seen = Observation(Verdict.BAD, None, "seen", counted=counted(errors, requests))
        track = step(track, WHEN, seen.verdict, seen.reason, at, POLL, seen)
    return track


# -- what a request says ---------------------------------------------------------------------------
def test_an_error_and_another_request_add_what_their_likelihoods_say() -> None:
    spec = ScoreSpec(of="x", good=0.01, bad=0.1)
    assert spec.weights == pytest.approx((log(10), log(0.9 / 0.99)))
    assert exp(evidence(counted(1, 1), spec)) == pytest.approx(10)
    assert evidence(counted(spec.even * 1e6, 1e6), spec) == pytest.approx(0, abs=1e-6)
    assert spec.shares[0] < spec.even < spec.shares[1]


@given(st.floats(0.001, 0.98))
def test_the_shares_lie_around_the_one_that_is_given(around: float) -> None:
    good, bad = ScoreSpec(of="x", around=around).shares
    assert 0 < good < around < bad < 1
    clear = counted(100 * min(1.0, bad), 100)
    assert evidence(clear, ScoreSpec(of="x", around=around)) > 0
    assert evidence(counted(100 * good, 100), ScoreSpec(of="x", around=around)) < 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"good": 0.2, "bad": 0.1}, "`good`, 0.2, is not below `bad`, 0.1"),
        ({"around": "0%"}, "no share of requests"),
        ({"around": "100%"}, "no share of requests"),
        ({"lasting": "10ms"}, "at least 1s"),
        ({"threshold": 0.5}, "greater than or equal to 1"),
    ],
)
def test_a_score_that_cannot_be_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ScoreSpec.model_validate({"of": "x", **given})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"for": "5m"}, "needs no `for`"),
        ({"bad": {"times": 1, "of": 2}}, "needs no `bad`"),
        ({"samples": {"query": "x", "at_least": 1}}, "needs no `samples`"),
        ({"against": {"offset": "1d"}}, "needs no `against`"),
        ({"aggregate": "any"}, "makes no count"),
        ({"query": "increase(errors[2m])"}, "in one window"),
        ({"query": "errors", "score": {"of": "requests"}}, "in one window"),
        ({"above": 1}, "needs one threshold; give above, below, drops_by, rises_by, differs or score"),
    ],
)
def test_what_does_not_go_with_a_score_is_refused(more: dict[str, object], said: str) -> None:
    whole = {"query": "increase(errors[1m])", "score": {"of": "increase(requests[1m])"}, **more}
    with pytest.raises(ValidationError, match=said):
        QueryWhen.model_validate(whole)


def test_the_threshold_is_told() -> None:
    assert threshold(WHEN) == "score 10 (5% or 20% of requests, in 2m30s at the soonest)"


# -- the sum ---------------------------------------------------------------------------------------
def test_clear_errors_take_as_long_as_the_score_wants_whatever_the_traffic() -> None:
    for requests in (100, 1e4, 1e9):
        score, looked = FRESH, 0
        while score.value < SPEC.threshold:
            score = scored(requests * 0.5, requests=requests, score=score)
            looked += 1
        # the first look has a whole window, each other one a quarter of it
        assert MINUTE + POLL * (looked - 1) == SPEC.lasting


def test_little_traffic_takes_longer_and_is_not_silent() -> None:
    score, looked = FRESH, 0
    while score.value < SPEC.threshold:
        score = scored(2, requests=2, score=score)
        looked += 1
    assert SPEC.lasting < MINUTE + POLL * looked < timedelta(minutes=5)


def test_errors_as_in_a_good_service_add_up_to_nothing() -> None:
    assert scored(*[5] * 100).value == 0
    assert scored(*[1, 0, 3, 0] * 50, requests=30).value < SPEC.threshold / 2


def test_what_was_clear_is_forgotten_as_slowly_as_it_came() -> None:
    bad = scored(*[50] * 20)
    assert bad.value == SPEC.threshold
    assert scored(*[0] * 9, score=bad).value > 0
    assert scored(*[0] * 10, score=bad).value == pytest.approx(0, abs=1e-9)


@given(looks)
def test_the_score_is_never_beyond_its_bounds_and_left_nothing_when_it_says_so(
    looked: list[tuple[int, float, float]],
) -> None:
    score, at = FRESH, START
    for passed, share, requests in looked:
        at += SECOND * passed
        before, score = score, advance(score, counted(share * requests, requests), MINUTE, SPEC, at, POLL)
        assert 0 <= score.value <= SPEC.threshold
        assert (score.left is None) is (score.value == 0)
        assert abs(score.value - before.value) <= SPEC.threshold * (MINUTE / SPEC.lasting) + 1e-9 or score.value <= (
            SPEC.threshold * (MINUTE / SPEC.lasting) + 1e-9
        )  # it may have begun anew


@given(looks, st.integers(0, 59))
def test_a_look_that_comes_twice_or_late_adds_nothing(looked: list[tuple[int, float, float]], late: int) -> None:
    score, at = FRESH, START
    for passed, share, requests in looked:
        at += SECOND * abs(passed)
        score = advance(score, counted(share * requests, requests), MINUTE, SPEC, at, POLL)
    for again in (at, at - SECOND * late):
        assert advance(score, counted(100), MINUTE, SPEC, again, POLL) == score


@given(st.integers(1, 4), st.integers(2, 40), st.floats(0, 1), st.floats(0, 1000))
def test_how_often_is_looked_makes_no_difference(often: int, minutes: int, share: float, requests: float) -> None:
    """Of a steady service: a minute looked at once, or in parts, adds the same."""
    pace = MINUTE / often
    fine = scored(*[share * requests] * (minutes * often), requests=requests, pace=pace)
    coarse = scored(*[share * requests] * minutes, requests=requests, pace=MINUTE)
    assert fine.value == pytest.approx(coarse.value, abs=SPEC.threshold * (MINUTE / SPEC.lasting) + 1e-6)


def test_of_a_time_that_nobody_looked_at_nothing_is_known() -> None:
    score = scored(50)
    assert score.at is not None
    most = SPEC.threshold * (MINUTE / SPEC.lasting)
    missed = advance(score, counted(50), MINUTE, SPEC, score.at + 2 * MINUTE, POLL)
    assert missed.value == pytest.approx(2 * most), "the last window, and not the minute before it"
    later = advance(score, counted(50), MINUTE, SPEC, score.at + 3 * MINUTE, POLL)
    assert later.value == pytest.approx(most), "it begins anew"
    slow = advance(score, counted(50), MINUTE, SPEC, score.at + 3 * MINUTE, 2 * MINUTE)
    assert slow.value == pytest.approx(2 * most), "a slow pace is no gap"


def test_a_clock_that_was_set_back_does_not_stop_the_score() -> None:
    score = scored(50, 50)
    assert score.at is not None
    back = advance(score, counted(50), MINUTE, SPEC, score.at - timedelta(hours=1), POLL)
    assert (back.value, back.left) == (score.value, score.left)
    assert scored(50, score=back).value > score.value


def test_it_says_when_it_left_nothing_last() -> None:
    score = scored(0, 0, 50, 50)
    assert score.left == START + 2 * POLL
    assert scored(*[0] * 20, score=score).left is None


# -- one window ------------------------------------------------------------------------------------
def test_one_window_by_itself_is_bad_good_or_says_too_little() -> None:
    assert judged(counted(40), "1m", SPEC).verdict is Verdict.BAD
    assert judged(counted(1), "1m", SPEC).verdict is Verdict.GOOD
    few = judged(counted(0, 2), "1m", SPEC)
    assert (few.verdict, few.awaited, few.reason) == (
        Verdict.INCONCLUSIVE, True, "0 errors of 2 requests in 1m, too few to say",
    )  # fmt: skip


def test_what_was_counted_is_whole_or_nothing() -> None:
    assert count(3.2, 3.0) == (3.0, 3.0)
    assert count(0.0, 0.0) == (0.0, 0.0)
    missing = inconclusive("no data")
    assert count(missing, 1.0) is missing
    assert count(1.0, missing) is missing
    for wrong in (count(-1.0, 3.0), count(0.0, -3.0)):
        assert isinstance(wrong, Observation)
        assert wrong.verdict is Verdict.INCONCLUSIVE
        assert "no counts" in wrong.reason


# -- new instances beside old ones ------------------------------------------------------------------
BY_VERSION = QueryWhen.model_validate(
    {"query": WHEN.query, "score": SPEC.model_dump(), "against": {"peers": {"label": "version"}}}
)


def beside_old(
    new: Sequence[float], asked: Sequence[float], old: Sequence[float], asked_old: Sequence[float]
) -> Observation:
    return versions((new, old), (asked, asked_old), BY_VERSION)


def test_new_instances_are_judged_by_what_the_old_ones_fail() -> None:
    assert beside_old([30, 10], [60, 40], [1], [100]).verdict is Verdict.BAD
    alike = beside_old([15], [100], [15], [100])
    assert alike.verdict is Verdict.GOOD
    assert alike.reason == "15 errors of 100 requests in 1m of the new instances, 15 of 100 of the old ones"
    assert beside_old([4], [100], [0], [100]).verdict is Verdict.GOOD, "more than the old ones, and still good"
    assert beside_old([60], [100], [15], [100]).verdict is Verdict.BAD
    both = beside_old([90], [100], [20], [100])
    assert (both.verdict, both.reason) == (
        Verdict.INCONCLUSIVE, "instances unchanged by version fail 20 of 100 themselves",
    )  # fmt: skip
    assert "against unchanged instances by version" in threshold(BY_VERSION)


def test_what_does_not_serve_side_by_side_is_not_compared() -> None:
    assert beside_old([], [], [1], [100]).reason == "no instance is changed by version"
    assert beside_old([40], [100], [], []).reason.startswith("every request goes to instances changed by version")
    idle = beside_old([40], [100], [0], [0])
    assert idle.awaited is True
    undone = versions(((), (1.0,)), ((), (100.0,)), BY_VERSION, undone=True)
    assert (undone.verdict, undone.reason) == (Verdict.GOOD, "no instance is changed by version any more")
    for wrong in (beside_old([nan], [100], [1], [100]), beside_old([1], [100], [nan], [100])):
        assert (wrong.verdict, wrong.awaited) == (Verdict.INCONCLUSIVE, False)


@given(st.floats(0, 0.2), st.floats(1, 1e6), st.floats(1, 1e6))
def test_what_fails_alike_is_never_evidence(share: float, asked: float, asked_old: float) -> None:
    assert evidence((share * asked, asked, share * asked_old, asked_old), SPEC) <= 0


def test_new_instances_have_not_been_there_for_a_whole_window() -> None:
    first = advance(FRESH, (50.0, 100.0, 1.0, 100.0), MINUTE, SPEC, START, POLL)
    assert first.value == pytest.approx(SPEC.threshold * (POLL / SPEC.lasting))


# -- its track -------------------------------------------------------------------------------------
def test_a_track_is_good_pending_and_bad_and_good_again_only_at_nothing() -> None:
    standings = [tracked(*[(50, 100)] * number).standing for number in range(1, 8)]
    assert standings == [Standing.GOOD, *[Standing.PENDING] * 5, Standing.BAD]
    bad = tracked(*[(50, 100)] * 7)
    assert bad.since == START
    assert bad.reason == "score 10 of 10, seen"
    later = START + POLL * 7
    assert tracked(*[(0, 100)] * 9, track=bad, begin=later).standing is Standing.BAD
    over = tracked(*[(0, 100)] * 11, track=bad, begin=later)
    assert (over.standing, over.since, over.met) == (Standing.GOOD, None, False)


def test_without_requests_a_track_says_nothing_and_forgets_nothing() -> None:
    bad = tracked(*[(50, 100)] * 7)
    idle = tracked(*[(0, 0)] * 40, track=bad, begin=START + POLL * 7)
    assert (idle.standing, idle.met, idle.unsure) == (Standing.INCONCLUSIVE, True, 0)
    assert tracked((50, 100), track=idle, begin=START + POLL * 47).standing is Standing.BAD
    assert tracked((0, 0)).standing is Standing.INCONCLUSIVE


def test_another_state_begins_with_no_evidence_and_trouble_that_goes_on_keeps_its_beginning() -> None:
    bad = tracked(*[(50, 100)] * 7)
    begun = START + POLL * 7
    anew = renewed(bad, begun, left=False)
    assert (anew.scored, anew.scored_at, anew.since, anew.met) == (0, None, START, True)
    assert mixing(anew, MINUTE, begun + 30 * SECOND) == "counts in 30s, what the present state alone has served"
    assert (
        mixing(anew, MINUTE, begun + MINUTE) == mixing(anew, MINUTE, begun - SECOND) == mixing(bad, MINUTE, begun) == ""
    )
    goes_on = tracked((50, 100), track=anew, begin=begun + MINUTE)
    assert (goes_on.standing, goes_on.since) == (Standing.BAD, START)
    ended = tracked((0, 100), track=anew, begin=begun + MINUTE)
    assert (ended.standing, ended.since) == (Standing.GOOD, None)
    assert renewed(bad, begun, left=True).scored == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1000)), max_size=60))
def test_a_track_is_met_once_and_until_its_score_is_gone(looked: list[tuple[float, int]]) -> None:
    track, seen = Track(), []
    for number, (share, requests) in enumerate(looked):
        track = tracked((share * requests, requests), track=track, begin=START + POLL * number)
        seen.append(track)
        assert track.met is False or track.since is not None
    for before, after in pairwise(seen):
        assert after.met or not before.met or after.scored == 0
        assert before.met or not after.met or after.scored == SPEC.threshold


def test_a_window_widens_by_four_up_to_the_widest() -> None:
    samples = {"query": "increase(b[1m])", "at_least": 10, "widest": "15m"}
    when = QueryWhen.model_validate({"query": "rate(a[1m])", "above": 1, "samples": samples})
    assert [(one.query, one.counting) for one in when.wider] == [
        ("rate(a[240s])", "increase(b[240s])"), ("rate(a[900s])", "increase(b[900s])"),
    ]  # fmt: skip
    assert WHEN.wider == ()
    narrow = {"query": "rate(a[30m])", "above": 1, "samples": samples}
    assert QueryWhen.model_validate(narrow).wider == ()
    for query in ("increase(a[1m])", "a"):
        with pytest.raises(ValidationError, match="rates or averages"):
            QueryWhen.model_validate({"query": query, "above": 1, "samples": samples})


# -- what ends trouble --------------------------------------------------------------------------------
CLEARING = {"query": "errors", "above": 0.1, "clear": {"below": 0.05, "for": "1m"}}


def valued(*values: float, when: QueryWhen, pace: timedelta = POLL) -> Track:
    track = Track()
    for number, value in enumerate(values):
        seen = judge([value], when.above, when.below)
        track = step(track, when, seen.verdict, seen.reason, START + pace * number, POLL, seen)
    return track


def test_trouble_ends_only_once_it_is_clear_for_long_enough() -> None:
    when = QueryWhen.model_validate(CLEARING)
    between = valued(0.2, 0.07, 0.07, 0.07, when=when)
    assert (between.standing, between.since) == (Standing.BAD, START)
    assert between.reason == "0.07, not above 0.1, over when below 0.05 for 1m"
    assert valued(0.2, *[0.01] * 4, when=when).standing is Standing.BAD
    assert valued(0.2, *[0.01] * 3, 0.05, *[0.01] * 4, when=when).standing is Standing.BAD
    over = valued(0.2, *[0.01] * 5, when=when)
    assert (over.standing, over.since, over.met) == (Standing.GOOD, None, False)
    assert valued(0.07, when=when).standing is Standing.GOOD, "never met"
    gone = valued(0.2, 0.01, 0.01, when=when, pace=timedelta(hours=1))
    assert gone.standing is Standing.BAD, "nobody looked between"
    at_once = QueryWhen.model_validate({"query": "up", "below": 0.9, "clear": {"above": 0.95}})
    assert valued(0.5, 0.93, when=at_once).standing is Standing.BAD
    assert valued(0.5, 0.96, when=at_once).standing is Standing.GOOD


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"above": 0.1, "clear": {"below": 0.2}}, "over below that"),
        ({"above": 0.1, "clear": {"above": 0.05}}, "over below that"),
        ({"below": 0.9, "clear": {"above": 0.5}}, "over above that"),
        ({"below": 0.9, "clear": {"below": 0.5}}, "over above that"),
        ({"above": 0.1, "clear": {}}, "give one of"),
        ({"above": 0.1, "clear": {"above": 1, "below": 0}}, "give one of"),
        ({"drops_by": 0.1, "against": {"offset": "1d"}, "clear": {"below": 1}}, "ends what a threshold began"),
    ],
)
def test_a_clear_that_cannot_be_is_refused(when: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        QueryWhen.model_validate({"query": "x", **when})
