"""Events that count together. No I/O.

A run is the time in which a condition is met without a break: it begins with the event that makes enough of them, is
named by the first of those that count, and goes on for as long as enough of them are young enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rollbackd.model import Event
from rollbackd.rules.matchers import all_match, parse_matchers
from rollbackd.rules.spec import EventWhen


@dataclass(frozen=True, slots=True)
class EventRun:
    """A time in which a condition is met without a break."""

    first: Event
    """The first of the events that counted when it was met; it names the run, whatever is forgotten later."""
    until: datetime
    """When it is over, unless more is reported."""


def fits(when: EventWhen, event: Event) -> bool:
    """Whether the condition asks for the event."""
    return event.name == when.event and (not when.where or all_match(parse_matchers(when.where), event.labels))


def counting(when: EventWhen, events: Sequence[Event]) -> list[Event]:
    """The events that the condition asks for and that were not resolved since; `events` are in the order of time."""
    asked = [event for event in events if fits(when, event)]
    over = max((event.at for event in asked if not event.firing), default=None)
    return asked if over is None else [event for event in asked if event.at > over]


def young(when: EventWhen, events: Sequence[Event], now: datetime) -> list[Event]:
    """The events that are young enough to count."""
    return [event for event in events if now - event.at < when.within]


def step(
    run: EventRun | None, when: EventWhen, events: Sequence[Event], heard: Event, now: datetime
) -> EventRun | None:
    """The run after an event was heard, which is among `events`.

    A run that goes on keeps its name: also when its first events are forgotten, or an earlier one comes late. One that
    was resolved is another when it begins again.
    """
    if not fits(when, heard):
        return run
    if run is not None and not heard.firing and run.first.at <= heard.at:
        run = None
    latest = _latest(when, counting(when, events))
    if latest is None:
        return None
    began, first, until = latest
    if run is not None and began <= run.until:
        first = run.first
    return EventRun(first, until) if now < until else None


def met(when: EventWhen, events: Sequence[Event], now: datetime) -> EventRun | None:
    """The run that these events make by themselves, whatever came before them."""
    latest = _latest(when, counting(when, events))
    return EventRun(latest[1], latest[2]) if latest is not None and now < latest[2] else None


def _latest(when: EventWhen, counted: Sequence[Event]) -> tuple[datetime, Event, datetime] | None:
    """Of the last run of these events: when it began, its first event, and when it ends."""
    latest: tuple[datetime, Event, datetime] | None = None
    for first, last in zip(counted, counted[when.times - 1 :], strict=False):
        until = first.at + when.within
        if until <= last.at:
            continue
        if latest is not None and last.at <= latest[2]:
            latest = (latest[0], latest[1], until)
        else:
            latest = (last.at, first, until)
    return latest
