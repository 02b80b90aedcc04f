"""How far back a query looks: never less than the truth, since a look to before the last step proves nothing."""

from datetime import timedelta

import pytest

from rollbackd.rules.reach import reach
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
    ],
)
def test_a_query_looks_back_as_far_as_its_text_says(query: str, back: timedelta) -> None:
    assert reach(query) == back
