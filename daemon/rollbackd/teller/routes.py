"""Who hears of a message. No I/O."""

from collections.abc import Sequence

from rollbackd.adapter import Message
from rollbackd.config.models import Route


def receivers(routes: Sequence[Route], message: Message, everybody: tuple[str, ...]) -> tuple[str, ...]:
    """Who hears of it: all matching routes together; without routes everybody."""
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
