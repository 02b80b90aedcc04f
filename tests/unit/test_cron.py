"""When something on a calendar comes next."""

from bisect import bisect
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo, available_timezones

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


LINES = (
    "0 0 * * *", "30 0 * * *", "0 1 * * *", "30 1 * * *", "0 2 * * *", "15 2 * * *", "30 2 * * *", "0 3 * * *",
    "15,30 2 * * *", "0,40 2 * * *", "0 2,3 * * *", "30 1,2 * * *", "*/20 1-3 * * *", "*/7 2-4 * * *",
    "45 23,0 * * *", "*/15 * * * *", "0 * * * *", "0 */2 * * *", "10 */3 * * 0", "0 0-5/3 * * *", "0 23 * * *",
    "5 0 1 * *",
)  # fmt: skip
AROUND, WIDEST, MINUTE = timedelta(hours=5), timedelta(hours=3), timedelta(minutes=1)


def is_after(day: datetime, zone: ZoneInfo, before: timedelta | None, minute: int) -> bool:
    """Whether clocks were set by that minute of a day."""
    return (day + minute * MINUTE).astimezone(zone).utcoffset() != before


def settings_of_clocks() -> dict[str, tuple[str, datetime]]:
    """Each different way in which clocks are set in 2026 and 2027, with a zone that does so, and when."""
    found = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(731)]
        offsets = [day.astimezone(zone).utcoffset() for day in days]
        for day, before, after in zip(days, offsets, offsets[1:], strict=False):
            if before != after:
                when = day + MINUTE * bisect(range(24 * 60), x=0, key=partial(is_after, day, zone, before))
                found[f"{before} {after} {when.astimezone(zone):%H:%M}"] = (name, when)
    return found


def numbers(field: str, highest: int) -> set[int]:
    """What a field of `LINES` allows."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("0", "-", str(highest)) if span == "*" else span.partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def minutes(zone: ZoneInfo, when: datetime) -> Iterator[tuple[datetime, datetime, datetime]]:
    """Each minute that a wall's clock can show around that time; when it is first, and when again, if it comes twice."""
    wall = (when - AROUND - WIDEST).astimezone(zone).replace(tzinfo=None)
    for _ in range(2 * (AROUND + WIDEST) // MINUTE):
        first, again = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        yield wall, first, again if again.astimezone(zone).replace(tzinfo=None) == wall else first
        wall += MINUTE


def test_no_run_is_lost_or_too_many_however_clocks_are_set() -> None:
    """Against every minute that a clock on the wall can show, in all zones of two years."""
    wrong = []
    ways = settings_of_clocks()
    assert len(ways) > 20
    for name, when in ways.values():
        begin, end = when - AROUND, when + AROUND
        known = list(minutes(ZoneInfo(name), when))
        for line in LINES:
            minute, hour, day, month, weekday = line.split()
            at, hours, days = numbers(minute, 59), numbers(hour, 23), numbers(day, 31)
            months, weekdays = numbers(month, 12), numbers(weekday, 6)
            right = {
                moment
                for wall, *moments in known
                if wall.minute in at and wall.hour in hours and wall.day in days
                if wall.month in months and wall.isoweekday() % 7 in weekdays
                for moment in moments[: 2 if hour.startswith("*") else 1]
                if begin < moment < end
            }
            times, found, time = CronTimes(line, zone=name), set[datetime](), begin
            while (time := times.after(time)) < end:
                found.add(time)
            wrong += [f"{line} in {name}: {time}" for time in found ^ right]
    assert wrong == []


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
