"""A condition over time: what starts a run of trouble, what keeps it, what ends it, and when it is met."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.model import Verdict
from rollbackd.rules.spec import BadOf, CheckWhen, QueryWhen
from rollbackd.rules.tracks import LONGEST_GAP, Standing, Track, reaching_back, step
from tests.unit.builders import at, minutes, seconds

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
POLL = seconds(15)
FOR_5M = QueryWhen(query="errors", above=0.1, for_=minutes(5))
AT_ONCE = QueryWhen(query="errors", above=0.1)
FOUR_OF_SIX = QueryWhen(query="errors", above=0.1, bad=BadOf(times=4, of=6))
THRICE = CheckWhen(check="smoke", failures=3)


def seen(when: QueryWhen | CheckWhen, *looks: tuple[float, Verdict], every: timedelta = POLL) -> Track:
    """The track after these looks, at so many minutes."""
    track = Track()
    for minute, verdict in looks:
        track = step(track, when, verdict, f"{verdict} at {minute}", at(minute), every)
    return track


def polled(when: QueryWhen | CheckWhen, verdicts: str, every: timedelta = POLL, start: Track | None = None) -> Track:
    """A letter a poll: g, b or i (inconclusive)."""
    track = start or Track()
    for n, letter in enumerate(verdicts):
        verdict = {"g": GOOD, "b": BAD, "i": UNKNOWN}[letter]
        track = step(track, when, verdict, letter, at(0) + every * n, every)
    return track


def test_what_was_never_looked_at_is_inconclusive() -> None:
    assert Track().standing is Standing.INCONCLUSIVE
    assert Track().reason == "not looked at yet"


def test_good_is_good() -> None:
    track = seen(FOR_5M, (0, GOOD))
    assert (track.standing, track.since, track.met) == (Standing.GOOD, None, False)


def test_without_for_one_bad_look_is_enough() -> None:
    track = seen(AT_ONCE, (3, BAD))
    assert (track.standing, track.since, track.met) == (Standing.BAD, at(3), True)


@pytest.mark.parametrize(("last", "standing"), [(4.99, Standing.PENDING), (5, Standing.BAD), (5.01, Standing.BAD)])
def test_for_is_met_when_it_was_bad_exactly_that_long(last: float, standing: Standing) -> None:
    track = seen(FOR_5M, (0, BAD), (1, BAD), (2, BAD), (3, BAD), (4, BAD), (last, BAD))
    assert track.standing is standing
    assert track.since == at(0)


def test_one_good_look_ends_a_run() -> None:
    track = seen(FOR_5M, (0, BAD), (4, BAD), (4.5, GOOD), (5, BAD))
    assert (track.standing, track.since) == (Standing.PENDING, at(5))


def test_an_inconclusive_look_starts_nothing() -> None:
    track = seen(FOR_5M, (0, UNKNOWN), (4, BAD), (5, BAD))
    assert (track.standing, track.since) == (Standing.PENDING, at(4))
    assert seen(AT_ONCE, (0, UNKNOWN)).standing is Standing.INCONCLUSIVE


def test_an_inconclusive_look_does_not_end_a_run_that_is_pending() -> None:
    track = seen(FOR_5M, (0, BAD), (2, UNKNOWN))
    assert (track.standing, track.since) == (Standing.PENDING, at(0))
    assert seen(FOR_5M, (0, BAD), (2, UNKNOWN), (4, BAD), (5, BAD)).standing is Standing.BAD


def test_an_inconclusive_look_meets_nothing_however_long_it_was_bad() -> None:
    assert seen(FOR_5M, (0, BAD), (2, BAD), (4, BAD), (6, UNKNOWN)).standing is Standing.PENDING


def test_what_is_met_is_inconclusive_while_nothing_is_known_and_keeps_its_beginning() -> None:
    track = seen(AT_ONCE, (0, BAD), (1, UNKNOWN))
    assert (track.standing, track.since) == (Standing.INCONCLUSIVE, at(0))
    assert seen(AT_ONCE, (0, BAD), (1, UNKNOWN), (2, BAD)).since == at(0)


@pytest.mark.parametrize(("silent", "since"), [(5, 0), (5.01, 5.01)])
def test_a_gap_longer_than_for_begins_again(silent: float, since: float) -> None:
    assert seen(FOR_5M, (0, BAD), (silent, BAD)).since == at(since)


def test_inconclusive_looks_do_not_bridge_a_gap() -> None:
    track = seen(FOR_5M, (0, BAD), (2, UNKNOWN), (4, UNKNOWN), (5.5, BAD))
    assert (track.standing, track.since) == (Standing.PENDING, at(5.5))


def test_a_gap_does_not_end_what_was_met() -> None:
    track = seen(FOR_5M, (0, BAD), (5, BAD), (60, BAD))
    assert (track.standing, track.since) == (Standing.BAD, at(0))


def test_a_for_shorter_than_the_time_between_polls_can_still_be_met() -> None:
    short = QueryWhen(query="errors", above=0.1, for_=seconds(10))
    assert polled(short, "b").standing is Standing.PENDING
    assert polled(short, "bb").standing is Standing.BAD


def test_a_clock_set_back_begins_what_is_pending_anew_and_ends_nothing_that_is_met() -> None:
    pending = seen(FOR_5M, (60, BAD), (63, BAD), (0, BAD))
    assert (pending.standing, pending.since) == (Standing.PENDING, at(0))
    met = seen(FOR_5M, (60, BAD), (65, BAD), (0, BAD))
    assert (met.standing, met.since) == (Standing.BAD, at(60))


def test_every_look_says_what_it_saw() -> None:
    assert seen(FOR_5M, (0, BAD), (1, UNKNOWN)).reason == "inconclusive at 1"


# -- so many of so many ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("verdicts", "standing"),
    [
        ("bbb", Standing.PENDING),
        ("bbbb", Standing.BAD),
        ("bgbgbb", Standing.BAD),
        ("bggbbb", Standing.BAD),
        ("bgggbbb", Standing.PENDING),  # the first is forgotten
        ("bbiiiiiibb", Standing.BAD),  # inconclusive polls are no polls
        ("bbbbg", Standing.BAD),  # still four of the last six
        ("bbbbggg", Standing.PENDING),
        ("bbbbgggggg", Standing.GOOD),
    ],
)
def test_so_many_bad_polls_of_the_last_so_many(verdicts: str, standing: Standing) -> None:
    assert polled(FOUR_OF_SIX, verdicts).standing is standing


def test_a_run_that_is_met_keeps_its_beginning_while_it_goes_on() -> None:
    track = polled(FOUR_OF_SIX, "bbbbbbbbbb")
    assert track.since == at(0)


def test_a_run_that_was_over_begins_anew() -> None:
    track = polled(FOUR_OF_SIX, "bbbb" + "gggggg" + "bbbb")
    assert (track.since, track.met) == (at(0) + POLL * 10, True)


def test_a_check_is_met_by_failures_in_a_row_only() -> None:
    assert polled(THRICE, "bbb").standing is Standing.BAD
    assert polled(THRICE, "bbgbb").standing is Standing.PENDING
    assert polled(THRICE, "bbgbb").since == at(0) + POLL * 3
    assert polled(THRICE, "bbibibg").standing is Standing.GOOD
    assert polled(THRICE, "bibib").standing is Standing.BAD


@pytest.mark.parametrize(("gap", "standing"), [(0, Standing.BAD), (1, Standing.PENDING)])
def test_what_was_seen_before_a_long_gap_says_nothing_about_now(gap: float, standing: Standing) -> None:
    track = polled(THRICE, "bb")
    late = at(0) + POLL + LONGEST_GAP + seconds(gap)
    assert step(track, THRICE, BAD, "b", late, POLL).standing is standing


@pytest.mark.parametrize(("gap", "standing"), [(0, Standing.BAD), (1, Standing.PENDING)])
def test_polls_before_a_long_gap_do_not_count_either(gap: float, standing: Standing) -> None:
    late = at(0) + POLL * 2 + LONGEST_GAP + seconds(gap)
    assert step(polled(FOUR_OF_SIX, "bbb"), FOUR_OF_SIX, BAD, "b", late, POLL).standing is standing


def test_a_check_asked_twice_an_hour_is_met_by_its_failures_too() -> None:
    rarely = CheckWhen(check="smoke", failures=3, every=minutes(30))
    assert polled(rarely, "bbb", every=minutes(30)).standing is Standing.BAD


# -- whatever comes -------------------------------------------------------------------------------
LOOKS = st.lists(st.tuples(st.integers(1, 600), st.sampled_from(list(Verdict))), max_size=40)
WHENS = st.sampled_from([FOR_5M, AT_ONCE, FOUR_OF_SIX, THRICE])


def _times(looks: list[tuple[int, Verdict]]) -> list[tuple[datetime, Verdict]]:
    found = []
    now = at(0)
    for pause, verdict in looks:
        now += seconds(pause)
        found.append((now, verdict))
    return found


@given(WHENS, LOOKS)
def test_nothing_is_met_that_was_never_seen_bad(when: QueryWhen | CheckWhen, looks: list[tuple[int, Verdict]]) -> None:
    track = Track()
    bads = set()
    for now, verdict in _times(looks):
        track = step(track, when, verdict, "", now, POLL)
        bads |= {now} if verdict is BAD else set()
        assert track.since is None or track.since in bads
        assert not track.met or track.since is not None


@given(WHENS, LOOKS, LOOKS)
def test_inconclusive_looks_change_nothing_that_is_remembered(
    when: QueryWhen | CheckWhen, looks: list[tuple[int, Verdict]], more: list[tuple[int, Verdict]]
) -> None:
    """A track with the inconclusive looks taken out remembers the same."""
    with_all, without = Track(), Track()
    for now, verdict in _times(looks + more):
        with_all = step(with_all, when, verdict, "", now, POLL)
        if verdict is not UNKNOWN:
            without = step(without, when, verdict, "", now, POLL)
    assert (with_all.since, with_all.met, with_all.recent) == (without.since, without.met, without.recent)


@pytest.mark.parametrize(
    ("now", "back", "said"), [(10, 5, ""), (9, 5, "looks 5m back, to before the present state ran")]
)
def test_what_looks_back_to_before_the_present_state_says_nothing_of_it(now: int, back: int, said: str) -> None:
    began = Track(begun=at(5), clean=at(5))
    assert reaching_back(began, minutes(back), at(now)) == said
    assert reaching_back(Track(), minutes(back), at(now)) == "", "nothing changed that it knows of"
