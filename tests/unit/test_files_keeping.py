"""Retention: the newest, one a day, one a week, and what must not go."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rollbackd_adapters.files.keeping import dropped
from rollbackd_adapters.files.settings import Keep
from rollbackd_adapters.files.store import Head

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


def head(name: str, age: timedelta, why: str = "auto", release: str = "") -> Head:
    return Head(name, release or name, NOW - age, why, 1, 1, "rules", (), "digest")


def keep(last: int = 1, daily: int = 0, weekly: int = 0, saved: str = "0s") -> Keep:
    return Keep.model_validate({"last": last, "daily": daily, "weekly": weekly, "saved": saved})


def hourly(count: int) -> list[Head]:
    return [head(f"h{hour}", timedelta(hours=hour)) for hour in range(count)]


def kept(heads: list[Head], rules: Keep, spare: set[str] | None = None) -> list[str]:
    gone = dropped(heads, rules, spare or set(), NOW)
    return [one.name for one in heads if one.name not in gone]


def test_the_newest_are_kept_and_the_oldest_go_first() -> None:
    assert dropped(hourly(4), keep(last=2), set(), NOW) == ["h3", "h2"]


def test_the_newest_of_each_day_is_kept() -> None:
    assert kept(hourly(24 * 4), keep(daily=3)) == ["h0", "h11", "h35"]


def test_the_newest_of_each_week_is_kept() -> None:
    days = [head(f"d{day}", timedelta(days=day)) for day in range(30)]
    assert kept(days, keep(weekly=3)) == ["d0", "d1", "d8"], "the second of March 2026 is a Monday"


def test_days_without_any_do_not_use_up_the_count() -> None:
    heads = [head("a", timedelta()), head("b", timedelta(days=100)), head("c", timedelta(days=200))]
    assert kept(heads, keep(daily=2)) == ["a", "b"]


def test_what_a_restore_replaced_stays_while_it_is_young() -> None:
    heads = [
        head("new", timedelta()),
        head("young", timedelta(days=6), "before"),
        head("old", timedelta(days=8), "before"),
    ]
    assert kept(heads, keep(saved="7d")) == ["new", "young"]


def test_what_is_spared_stays_by_its_newest_snapshot() -> None:
    heads = [head("new", timedelta()), head("a2", timedelta(1), release="a"), head("a1", timedelta(2), release="a")]
    assert kept(heads, keep(), {"a"}) == ["new", "a2"]
    assert kept(heads, keep(), {"a1"}) == ["new", "a1"]


@given(st.lists(st.integers(0, 400), max_size=40, unique=True), st.integers(1, 5), st.integers(0, 5), st.integers(0, 5))
def test_no_more_is_kept_than_was_asked_and_never_nothing(ages: list[int], last: int, daily: int, weekly: int) -> None:
    heads = [head(str(age), timedelta(days=age)) for age in sorted(ages)]
    left = kept(heads, keep(last, daily, weekly))
    assert min(last, len(heads)) <= len(left) <= last + daily + weekly
    assert left[:1] == [one.name for one in heads[:1]]
    again = [one for one in heads if one.name in left]
    assert kept(again, keep(last, daily, weekly)) == left, "pruning twice drops nothing more"
