"""Routes: who hears of a message, and in whose words. No I/O."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from string import Template

from rollbackd.adapter import Message
from rollbackd.config.models import Notify, Receiver, Route
from rollbackd.notification_events import USERS
from rollbackd.notify.messages import phrases
from rollbackd.notify.messages.envelope import Envelope


def receivers(routes: Sequence[Route], message: Message, everybody: tuple[str, ...]) -> tuple[str, ...]:
    """The receivers of all matching routes together; without routes all receivers."""
    if not routes:
        return everybody
    named = [name for route in routes if _matches(route, message) for name in route.to]
    return tuple(dict.fromkeys(name for name in named if name in everybody))


def _matches(route: Route, message: Message) -> bool:
    when = route.when
    return (
        (not when.priority or message.priority in when.priority)
        and (not when.service or message.service in when.service)
        and (not when.event or message.event in when.event)
    )


def told_of(routes: Sequence[Route], service: str, everybody: tuple[str, ...]) -> tuple[str, ...]:
    """Those who hear of a service at all, whatever of it."""
    if not routes:
        return everybody
    named = {name for route in routes if not route.when.service or service in route.when.service for name in route.to}
    return tuple(name for name in everybody if name in named)


def addressed(notify: Notify, one: Envelope, everybody: tuple[str, ...]) -> tuple[str, ...]:
    """The receivers by routes and by the tiers that the message has reached."""
    routed = receivers(notify.routes, one.message, everybody)
    tier = one.tier if one.since is None else reached(notify, one.message.at - one.since)
    people = [name for one_tier in notify.escalation[: tier + 1] for name in one_tier.to]
    named = dict.fromkeys(name for name in (*routed, *people) if name in everybody)
    return tuple(name for name in named if not one.only_tier or name not in routed)


def reached(notify: Notify, length: timedelta) -> int:
    """The last tier that has heard, so long after the first one did."""
    return max(0, sum(1 for tier in notify.escalation if tier.after <= length) - 1)


def worded(receiver: Receiver | None, message: Message) -> Message | None:
    """The message as a receiver with words of its own hears it; None: it has none for this event, or users need not
    hear of it.
    """
    if receiver is None or not receiver.says:
        return message if receiver is None or receiver.audience == "team" or message.event in USERS else None
    words = receiver.says.get(message.event)
    if words is None:
        return None
    values = {
        "service": message.service,
        "incident": message.incident,
        "priority": message.priority or "",
        "event": message.event,
        "title": message.title,
        "time": phrases.moment(message.at),
    }
    return replace(
        message, title=Template(words).safe_substitute(values), lines=(), labels={}, buttons=(), own_words=True
    )
