"""How far back a query looks: never less than the truth, since a look to before the last step proves nothing."""

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollbackd.rules.reach import against_number, as_truth, metrics, over, reach, recent, widened, within
from tests.unit.builders import minutes, seconds


@pytest.mark.parametrize(
    ("query", "back"),
    [
        ("up", timedelta()),
        ("", timedelta()),
        ("rate(http_requests_total[5m])", minutes(5)),
        ("rate(a[5m]) / rate(b[1h30m])", minutes(90)),
        ("rate(a[ 5m ])", minutes(5)),
        ("up offset 1h", minutes(60)),
        ("up OFFSET 1h", minutes(60)),
        ("rate(a[5m] offset 1h)", minutes(65)),
        ("rate(a[5m]) / rate(a[5m] offset 1d)", minutes(5 + 24 * 60)),
        ("a offset 1d / b offset 1h", minutes(24 * 60)),
        ("max_over_time(rate(a[5m])[1h:])", minutes(65)),
        ("max_over_time(rate(a[5m])[1h:30s])", minutes(65)),
        ("max_over_time((max_over_time(a[10m:1m]))[1h:5m])", minutes(70)),
        ("max_over_time(rate(a[5m] offset 1h)[30m:] offset 2h)", minutes(5 + 60 + 30 + 120)),
        ('rate(a{path="x[1h]"}[5m])', minutes(5)),
        ("rate(a{path='x[1h]'}[5m])", minutes(5)),
        ("rate(a{path=`x[1h]`}[5m])", minutes(5)),
        (r'rate(a{path="\"[1h]"}[5m])', minutes(5)),
        ("rate(a[5m]) # don't look\n / rate(b[1h]) # it's long", minutes(60)),
        ('rate(a{path="#"}[5m])', minutes(5)),
        ("rate(a[1y])", timedelta(days=365)),
        ("rate(a[1y2w])", timedelta(days=379)),
        ("rate(a[300])", seconds(300)),
        ("rate(a[1.5])", seconds(1.5)),
        ("rate(a[soon])", timedelta()),
        ("up offset -5m", timedelta()),
        ("rate(a[99999999999999999])", timedelta()),
        ("rate(a[99999999999y])", timedelta()),
        (f"rate(a[{'9' * 5000}y])", timedelta()),
        ("max_over_time(max_over_time(a[90y])[90y:])", timedelta(days=100 * 366)),
    ],
)
def test_a_query_looks_back_as_far_as_its_text_says(query: str, back: timedelta) -> None:
    assert reach(query) == back


@pytest.mark.parametrize(
    ("query", "shorter"),
    [
        ("rate(e[5m]) / rate(r[10m]) > 0.1", "rate(e[120s]) / rate(r[120s]) > 0.1"),
        ("rate(e[1m]) > 0.1", "rate(e[1m]) > 0.1"),
        (
            "histogram_quantile(0.99, sum(rate(b[5m])) by (le)) > 2",
            "histogram_quantile(0.99, sum(rate(b[120s])) by (le)) > 2",
        ),
        ("quantile_over_time(0.9, x[1h]) > 2", "quantile_over_time(0.9, x[120s]) > 2"),
        ('rate(e{path="[5m]"}[5m]) > 1', 'rate(e{path="[5m]"}[120s]) > 1'),
        ("up == 0", "up == 0"),
        ("increase(e[5m]) > 10", None),
        ("count_over_time(e[5m]) > 10", None),
        ("changes(e[5m]) > 10", None),
        ("rate(e[5m] offset 1d) > 1", None),
        ("rate(e[5m] @ end()) > 1", None),
        ("max_over_time(rate(e[5m])[10m:1m]) > 1", None),
    ],
)
def test_an_expression_is_asked_over_a_shorter_time_only_where_it_measures_the_same(
    query: str, shorter: str | None
) -> None:
    assert within(query, minutes(2)) == shorter
    if shorter is not None:
        assert reach(shorter) <= minutes(2)


@pytest.mark.parametrize(
    ("query", "truth"),
    [
        ("a > 1", "a > bool 1"),
        ("a>1", "a> bool 1"),
        ("((a > 1))", "a > bool 1"),
        ("a >= bool 1", "a >= bool 1"),
        ("sum(a) by (x) / sum(b) by (x) != 0", "sum(a) by (x) / sum(b) by (x) != bool 0"),
        ('a{x!="y", z=~"w>v"} < on (x) group_left b', 'a{x!="y", z=~"w>v"} < bool on (x) group_left b'),
        ("sum(a > 1) == 3", "sum(a > 1) == bool 3"),
        ("a", None),
        ("absent(a)", None),
        ("a > 1 and b > 2", None),
        ("(a > 1) or (b > 2)", None),
        ("a > 1 unless b", None),
        ("1 < a < 3", None),
        ("", None),
    ],
)
def test_a_single_comparison_can_say_that_it_is_not_met(query: str, truth: str | None) -> None:
    assert as_truth(query) == truth


@pytest.mark.parametrize(
    ("query", "sides"),
    [
        ("sum(rate(a[5m])) / sum(rate(b[5m])) > 0.1", ("sum(rate(a[5m])) / sum(rate(b[5m]))", ">", 0.1)),
        ("(a <= bool 5)", ("a", "<=", 5.0)),
        ("a < -1.5e-3 # few", ("a", "<", -0.0015)),
        ("a > .5", ("a", ">", 0.5)),
        ("0.1 < a", None),
        ("a > 2 * 3", None),
        ("a > b", None),
        ("a > 5m", None),
        ("a", None),
    ],
)
def test_what_is_compared_with_a_number_can_be_measured_beside_it(
    query: str, sides: tuple[str, str, float] | None
) -> None:
    assert against_number(query) == sides


@example("rate(a[5m]")
@example("sum(rate(a[5m])")
@example("rate(a[5m]) / (b")
@given(st.text(alphabet="ab()[]{}<>=!~\"'`#5m1 ,:@+-and" + "orunless", max_size=40))
def test_whatever_the_text_is_there_is_an_answer(query: str) -> None:
    within(query, minutes(2))
    as_truth(query)
    against_number(query)
    metrics(query)


def test_a_measure_can_be_asked_over_a_longer_time_and_a_count_only_where_that_is_wanted() -> None:
    share = 'sum(rate(a{x="[1m]"}[1m])) / sum(rate(b[1m]))'
    assert widened(share, minutes(4)) == 'sum(rate(a{x="[1m]"}[240s])) / sum(rate(b[240s]))'
    assert widened("sum(increase(a[1m]))", minutes(4)) is None
    assert over("sum(increase(a[1m]))", minutes(4)) == "sum(increase(a[240s]))"
    for looks_otherwise in ("rate(a[1m] offset 1h)", "max_over_time(rate(a[1m])[5m:])", "rate(a[1m] @ 0)"):
        assert widened(looks_otherwise, minutes(4)) is over(looks_otherwise, minutes(4)) is None
    assert widened("a", minutes(4)) is None


def test_a_range_that_no_function_is_about_is_not_shortened() -> None:
    assert within("a[10m]", minutes(1)) is None


def test_what_was_lately_is_asked_by_shorter_ranges_and_not_of_less_than_a_minute() -> None:
    assert recent("up", seconds(59)) is None
    assert recent("up", minutes(1)) == "up"
    assert recent("rate(errors_total[5m])", minutes(1)) == within("rate(errors_total[5m])", minutes(1))
    assert recent("rate(errors_total[1m])", minutes(1)) == "rate(errors_total[1m])"
