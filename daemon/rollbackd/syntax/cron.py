"""Cron times: when something on a calendar comes next, by cron's five fields in a time zone, or every so often.

https://man7.org/linux/man-pages/man5/crontab.5.html; APScheduler's trigger does the arithmetic, in UTC: in a zone it
leaves out the first hour of the day after clocks were set forward. No I/O, no clock.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger

from rollbackd.syntax.units import show

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(\*|[a-z0-9]+)(?:-([a-z0-9]+))?(?:/(\d{1,3}))?")
_FIELDS = ("minute", "hour", "day", "month", "day_of_week")
_EXAMPLE = '"0 2 * * *" (minute, hour, day, month, day of the week)'
_SOME_DAY = datetime(2023, 12, 31, tzinfo=UTC)
"""The next leap day comes within two months of it, so what never comes from here never comes."""


@dataclass(frozen=True, slots=True)
class CronTimes:
    """The times of one entry of a calendar: a cron line in a zone, or a distance."""

    cron: str = ""
    every: timedelta | None = None
    zone: str = "UTC"

    def after(self, time: datetime) -> datetime:
        """The first time later than that one.

        A time that is left out when clocks are set forward comes as much later; one that comes twice when they are set
        back counts once, unless it is of every hour.
        """
        if self.every is not None:
            return time + self.every
        zone, time = ZoneInfo(self.zone), time.astimezone(UTC)
        local = time.astimezone(zone)
        # What was left out comes as much later, among what walls show then: those walls begin where clocks were before.
        offsets = (local.utcoffset(), (time - timedelta(days=1)).astimezone(zone).utcoffset())
        walls = self._walls((time + min(offset for offset in offsets if offset is not None)).replace(tzinfo=None))
        listed = (wall.replace(tzinfo=zone).astimezone(UTC) for wall in walls)
        first = next(moment for moment in listed if moment > time)
        shown = first.astimezone(zone).replace(tzinfo=None)
        sooner = (wall.replace(tzinfo=zone).astimezone(UTC) for wall in takewhile(lambda wall: wall <= shown, walls))
        first = min([first, *(moment for moment in sooner if moment > time)])
        offset = first.astimezone(zone).utcoffset() or timedelta()
        if self.cron.split()[1].startswith("*") and (local.fold or offset != local.utcoffset()):
            again = ((wall - offset).replace(tzinfo=UTC) for wall in self._walls((time + offset).replace(tzinfo=None)))
            first = min(first, next(moment for moment in again if moment.astimezone(zone).utcoffset() == offset))
        return first

    def _walls(self, wall: datetime) -> Iterator[datetime]:
        """What a clock on the wall shows at the times after that one; such clocks are never set."""
        while True:
            begin = wall.replace(tzinfo=UTC) + timedelta(microseconds=1)
            found = [trigger.get_next_fire_time(None, begin) for trigger in _triggers(self.cron)]
            wall = min(one for one in found if one is not None).replace(tzinfo=None)
            yield wall

    def after_last(self, last: datetime | None, now: datetime, begun: datetime) -> datetime:
        """The first time after the last run, or after `begun` where none is known.

        A last run that lies ahead counts as none, since the clock was set back since.
        """
        return self.after(last if last is not None and last <= now else begun)


def check_cron(text: str) -> str:
    """A cron line, as written. :raises ValueError: with what to write instead."""
    try:
        triggers = _triggers(text.lower())
        comes = [trigger.get_next_fire_time(None, _SOME_DAY) for trigger in triggers]
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{show(text)} is no cron line; write it like {_EXAMPLE}") from error
    if not any(comes):
        raise ValueError(f"{show(text)} never comes; write it like {_EXAMPLE}")
    return text.lower()


def check_zone(name: str) -> str:
    """A time zone's name. :raises ValueError: with what to write instead."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{show(name)} is no time zone; write one like Europe/Berlin or UTC") from error
    return name


@lru_cache(maxsize=4096)
def _triggers(line: str) -> tuple[CronTrigger, ...]:
    """The triggers of a cron line: two when both a date and a weekday are given, since a day then fits by either."""
    fields = line.split()
    if len(fields) != len(_FIELDS):
        raise ValueError("five fields")
    given = dict(zip(_FIELDS, fields, strict=True))
    given["day_of_week"] = _days(given["day_of_week"])
    either = [{"day": "*"}, {"day_of_week": "*"}] if "*" not in {given["day"], given["day_of_week"]} else [{}]
    return tuple(CronTrigger(**{**given, **change}, second=0, timezone=UTC) for change in either)


def _days(field: str) -> str:
    """Days of the week by name, since APScheduler counts them from Monday and cron from Sunday."""
    if field == "*":
        return field
    found: set[int] = set()
    for part in field.split(","):
        parts = _PART.fullmatch(part)
        if parts is None:
            raise ValueError(part)
        first, last, step = parts.groups()
        begin = 0 if first == "*" else _day(first)
        end = _day(last) if last else 6 if first == "*" or step else begin
        length = (end - begin) % 7 if end - begin != 7 else 6
        if step == "0" or (first == "*" and last):
            raise ValueError(part)
        found |= {(begin + n) % 7 for n in range(0, length + 1, int(step or 1))}
    return ",".join(_DAYS[day] for day in sorted(found))


def _day(text: str) -> int:
    """A day of the week from 0 to 7, where 7 is a Sunday too."""
    if text in _DAYS:
        return _DAYS.index(text)
    number = int(text)
    if number > 7:
        raise ValueError(text)
    return number
