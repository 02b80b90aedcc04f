"""Events that count together: runs, what resolves them, and the names that they keep."""

from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.model import Event, Evidence
from rollbackd.rules.conditions import Condition, of_events
from rollbackd.rules.events import EventRun, counting, fits, step, young
from rollbackd.rules.spec import EventWhen
from rollbackd.rules.tracks import Standing
from tests.unit.builders import at, minutes

TWICE = EventWhen(event="e2e_failed", times=2, within=minutes(30))
ONCE = EventWhen(event="e2e_failed")
SUITE = EventWhen(event="e2e_failed", times=2, where='suite="checkout"')


def event(when: float, key: str = "", name: str = "e2e_failed", text: str = "", **labels: str) -> Event:
    return Event(name, key or f"{when:g}", at(when), labels=labels, text=text)


def over(when: float, **labels: str) -> Event:
    return Event("e2e_failed", f"over {when:g}", at(when), firing=False, labels=labels)


def hear(when: EventWhen, *told: Event, kept: timedelta | None = None) -> EventRun | None:
    """Each as it happens; with `kept` what is older is forgotten."""
    run, events = None, list[Event]()
    for one in told:
        events = sorted([*events, one], key=lambda each: each.at)
        now = max(each.at for each in events)
        if kept is not None:
            events = [each for each in events if now - each.at < kept]
        run = step(run, when, events, one, now)
    return run


def test_an_event_is_asked_for_by_its_name_and_its_labels() -> None:
    assert fits(TWICE, event(0))
    assert not fits(TWICE, event(0, name="other"))
    assert fits(SUITE, event(0, suite="checkout"))
    assert not fits(SUITE, event(0, suite="search"))
    assert not fits(SUITE, event(0))


def test_enough_of_them_in_time_make_a_run_from_the_first() -> None:
    assert hear(TWICE, event(0)) is None
    assert hear(TWICE, event(0), event(10)) == EventRun(event(0), at(30))
    assert hear(ONCE, event(0)) == EventRun(event(0), at(30))


def test_those_that_are_too_far_apart_make_none() -> None:
    assert hear(TWICE, event(0), event(30)) is None
    assert hear(TWICE, event(0), event(29.99)) == EventRun(event(0), at(30))


def test_a_run_keeps_its_name_for_as_long_as_enough_of_them_are_young_enough() -> None:
    assert hear(TWICE, *(event(when) for when in range(0, 200, 10))) == EventRun(event(0), at(210))
    assert hear(TWICE, *(event(when) for when in (0, 10, 40, 50))) == EventRun(event(40), at(70))


def test_one_right_when_the_first_gets_too_old_goes_on() -> None:
    assert hear(TWICE, event(0), event(10), event(30)) == EventRun(event(0), at(40))


def test_a_run_is_found_in_what_is_remembered_as_it_was_when_it_was_heard() -> None:
    told = [event(0), event(10), event(30)]
    assert step(None, TWICE, told, told[-1], at(30)) == EventRun(event(0), at(40))
    told = [event(0), event(30, "a"), event(30, "b")]
    assert step(None, TWICE, told, told[-1], at(30)) == EventRun(event(30, "a"), at(60))


def test_a_run_keeps_its_name_when_its_first_events_are_forgotten() -> None:
    told = [event(when) for when in range(0, 200, 10)]
    assert hear(TWICE, *told, kept=minutes(30)) == EventRun(event(0), at(210))


def test_a_run_keeps_its_name_when_an_earlier_event_comes_late() -> None:
    assert hear(TWICE, event(10), event(20), event(5)) == EventRun(event(10), at(40))


def test_what_another_condition_asks_for_changes_nothing() -> None:
    run = EventRun(event(0), at(30))
    assert step(run, SUITE, [event(0), event(1, suite="search")], event(1, suite="search"), at(1)) is run


def test_what_is_resolved_is_over_and_another_when_it_begins_again() -> None:
    assert hear(TWICE, event(0), event(10), over(11)) is None
    assert hear(TWICE, event(0), event(10), over(11), event(12)) is None
    assert hear(TWICE, event(0), event(10), over(11), event(12), event(13)) == EventRun(event(12), at(42))


def test_the_end_of_something_else_ends_nothing() -> None:
    told = (event(0, suite="checkout"), event(1, suite="checkout"))
    assert hear(SUITE, *told, over(2, suite="search")) == EventRun(told[0], at(30))
    assert hear(SUITE, *told, over(2, suite="checkout")) is None


def test_an_end_that_comes_late_ends_what_was_before_it() -> None:
    assert hear(TWICE, event(0), event(10), event(12), over(-1)) == EventRun(event(0), at(40))
    assert hear(TWICE, event(0), event(10), event(12), over(5)) == EventRun(event(10), at(40))


def test_news_of_long_ago_makes_no_run_now() -> None:
    told = [event(0), event(1)]
    assert step(None, TWICE, told, told[1], at(40)) is None


def test_what_counts_is_young_and_not_resolved() -> None:
    told = [event(0), over(0), event(5), event(20)]
    assert counting(TWICE, told) == [event(5), event(20)]
    assert young(TWICE, counting(TWICE, told), at(35)) == [event(20)]


@given(st.lists(st.integers(0, 600), min_size=1, max_size=30, unique=True), st.integers(1, 4))
def test_a_run_goes_on_exactly_while_enough_of_them_are_young(times: list[int], needed: int) -> None:
    """By definition, minute for minute; and whatever is forgotten, its name and its end are the same."""
    when = EventWhen(event="e2e_failed", times=needed, within=minutes(30))
    told = [event(one) for one in sorted(times)]
    run = hear(when, *told)

    def enough(at_: int) -> bool:
        return len([one for one in times if at_ - 30 < one <= at_]) >= needed

    last = max(times)
    assert (run is not None) is enough(last)
    if run is not None:
        assert run.until == max(at(minute) for minute in range(last, last + 31) if enough(minute)) + minutes(1)
        begun = next(minute for minute in range(last, -2, -1) if not enough(minute)) + 1
        assert run.first.at == at(min(one for one in times if begun - 30 < one <= begun))
    assert hear(when, *told, kept=minutes(30)) == run


# -- what a condition says ------------------------------------------------------------------------
def said(when: EventWhen, told: Iterable[Event], now: float) -> Condition:
    events = list(told)
    return of_events(when, hear(when, *events), events, at(now))


def test_no_event_is_good() -> None:
    assert said(TWICE, [], 0) == Condition(Standing.GOOD, None, "no such event within 30m")
    assert said(TWICE, [event(0)], 30) == Condition(Standing.GOOD, None, "no such event within 30m")


def test_too_few_are_pending() -> None:
    assert said(TWICE, [event(3)], 10) == Condition(Standing.PENDING, at(3), "1 of 2 within 30m")


def test_enough_are_bad_with_each_as_evidence() -> None:
    found = said(TWICE, [event(3, text="cart is empty", suite="a"), event(5)], 10)
    assert (found.standing, found.since, found.reason) == (Standing.BAD, at(3), "2 within 30m")
    assert found.evidence == (
        Evidence('event e2e_failed {suite="a"}', "cart is empty", "2 times within 30m", at(3)),
        Evidence("event e2e_failed", "reported", "2 times within 30m", at(5)),
    )
    assert found.labels == ({}, {"suite": "a"})
    assert said(ONCE, [event(3)], 4).evidence[0].threshold == ""


def test_only_the_newest_of_many_are_evidence() -> None:
    found = said(ONCE, [event(when) for when in range(25)], 25)
    assert found.reason == "25 within 30m"
    assert [one.at for one in found.evidence] == [at(when) for when in range(15, 25)]


@pytest.mark.parametrize(("now", "standing"), [(29.9, Standing.BAD), (30, Standing.PENDING), (35, Standing.GOOD)])
def test_it_is_bad_until_fewer_remain(now: float, standing: Standing) -> None:
    assert said(TWICE, [event(0), event(5)], now).standing is standing
