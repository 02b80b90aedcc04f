"""Results of checks: a verdict, and how long it took to find. No I/O of its own."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import format_duration

_GOOD_PART = 10
"""One part of so many."""
_NOTABLE = 0.1
"""Seconds."""


async def timed(place: CheckPlace, settings: CheckSettings, asked: Awaitable[tuple[Verdict, str]]) -> CheckResult:
    """The result of a question that answers with a verdict and its reason."""
    began = place.clock.monotonic()
    verdict, reason = await asked
    return CheckResult(place.name, verdict, reason, timedelta(seconds=place.clock.monotonic() - began), settings.warn)


def check_below(below: timedelta | None, timeout: timedelta) -> None:
    """The limit must lie within `timeout`. :raises ValueError: no answer could ever be late."""
    if below is not None and below > timeout:
        raise ValueError("`below` is longer than `timeout`; make `timeout` longer")


def own_share(asked: float, tried: float | None, held_up: Callable[[float], float]) -> float:
    """How many seconds of a check's time were ours: before a connection was tried, and while our event loop was late.

    :param asked: when it began; `tried` when a connection was, both by the event loop's time.
    """
    if tried is None:
        return held_up(asked)
    waited = tried - asked
    return held_up(tried) + (waited if waited >= _NOTABLE else 0.0)


def in_time(
    verdict: Verdict, reason: str, took: timedelta, below: timedelta | None, ours: float = 0.0
) -> tuple[Verdict, str]:
    """A good answer says how long it took, and is bad when that is not less than `below`.

    It is inconclusive when it would have been less without the seconds that were `ours`.
    """
    if verdict is not Verdict.GOOD:
        return verdict, reason
    reason = f"{reason} in {format_duration(took)}"
    if below is None or took < below:
        return verdict, reason
    reason = f"{reason}, wants less than {format_duration(below)}"
    if took - timedelta(seconds=ours) < below:
        return Verdict.INCONCLUSIVE, f"{reason}{_by_us(ours)}"
    return Verdict.BAD, reason


def too_late(reason: str, limit: timedelta, ours: float) -> tuple[Verdict, str]:
    """No answer within the limit is bad, unless a good part of it went by while our own event loop was held up."""
    if ours * _GOOD_PART >= limit.total_seconds():
        return Verdict.INCONCLUSIVE, f"{reason}{_by_us(ours)}"
    return Verdict.BAD, reason


def _by_us(ours: float) -> str:
    return f"; {round(ours * 1000)}ms of that were ours, for looking up its name or a late event loop"
