"""When something on a calendar comes next."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from rollbackd.syntax.cron import CronTimes, check_cron, check_zone

MONDAY = datetime(2026, 3, 2, 10, tzinfo=UTC)


def nexts(times: CronTimes, start: datetime, count: int) -> list[str]:
    found = []
    for _ in range(count):
        start = times.after(start)
        found.append(f"{start:%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("line", "comes"),
    [
        ("0 2 * * *", "03 02:00"),
        ("*/15 8-18 * * 1-5", "02 10:15"),
        ("0 3 * * 0", "08 03:00"),
        ("0 3 * * 7", "08 03:00"),
        ("0 3 * * 5-7", "06 03:00"),
        ("0 3 * * fri-mon", "06 03:00"),
        ("0 3 * * SUN-tue", "03 03:00"),
        ("0 3 * * 2/2", "03 03:00"),
        ("0 4 1 * *", "01 04:00"),
    ],
)
def test_a_line_means_what_crontab_says(line: str, comes: str) -> None:
    assert nexts(CronTimes(check_cron(line)), MONDAY, 1) == [comes]


def test_a_day_by_date_or_by_name_when_both_are_given() -> None:
    assert nexts(CronTimes("0 0 13 * 5"), MONDAY, 3) == ["06 00:00", "13 00:00", "20 00:00"]


def test_a_distance_counts_from_the_time_before() -> None:
    assert CronTimes(every=timedelta(hours=6)).after(MONDAY) == MONDAY + timedelta(hours=6)


def test_an_hour_that_comes_twice_counts_once_and_one_that_does_not_come_is_made_up_for() -> None:
    nightly = CronTimes("30 2 * * *", zone="Europe/Berlin")
    assert nexts(nightly, datetime(2026, 10, 23, 12, tzinfo=UTC), 3) == ["24 00:30", "25 00:30", "26 01:30"]
    assert nexts(nightly, datetime(2026, 3, 27, 12, tzinfo=UTC), 3) == ["28 01:30", "29 01:30", "30 00:30"]
    half_hourly = CronTimes("*/30 * * * *", zone="Europe/Berlin")
    assert nexts(half_hourly, datetime(2026, 10, 25, 0, tzinfo=UTC), 3) == ["25 00:30", "25 01:00", "25 01:30"]


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "America/New_York", "America/Havana", "Africa/Cairo", "Australia/Sydney", "Australia/Lord_Howe",
     "Asia/Beirut", "Atlantic/Azores", "Pacific/Auckland"],
)  # fmt: skip
@pytest.mark.parametrize("line", ["0 0 * * *", "30 0 * * *", "30 2 * * *", "0 23 * * *", "15 0 * * sun-mon"])
def test_each_day_has_its_time_also_where_clocks_are_set(line: str, zone: str) -> None:
    there, times, found = ZoneInfo(zone), CronTimes(check_cron(line), zone=zone), list[date]()
    time = datetime(2025, 12, 31, 23, 59, tzinfo=there)
    while (time := times.after(time).astimezone(there)).year == 2026:
        found.append(time.date())
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
    assert found == [day for day in days if "sun" not in line or day.weekday() in {6, 0}]


@pytest.mark.parametrize(
    "line",
    ["", "0 2 * *", "@daily", "61 * * * *", "0 0 0 * *", "0 0 * * 8", "0 0 * * foo", "0 0 * * 1/0", "0 0 * * 1-2-3",
     "0 0 31 2 *", "0 0 * * *-3"],
)  # fmt: skip
def test_what_is_no_line_or_never_comes_is_refused_with_what_to_write(line: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        check_cron(line)


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", ""])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="write one like Europe/Berlin"):
        check_zone(name)
