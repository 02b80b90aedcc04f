"""Results of checks: a verdict, and how long it took to find. No I/O of its own."""

from collections.abc import Awaitable
from datetime import timedelta

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import format_duration


async def timed(place: CheckPlace, settings: CheckSettings, asked: Awaitable[tuple[Verdict, str]]) -> CheckResult:
    """The result of a question that answers with a verdict and its reason."""
    began = place.clock.monotonic()
    verdict, reason = await asked
    return CheckResult(place.name, verdict, reason, timedelta(seconds=place.clock.monotonic() - began), settings.warn)


def check_below(below: timedelta | None, timeout: timedelta) -> None:
    """The limit must lie within `timeout`. :raises ValueError: no answer could ever be late."""
    if below is not None and below > timeout:
        raise ValueError("`below` is longer than `timeout`; make `timeout` longer")


def in_time(verdict: Verdict, reason: str, took: timedelta, below: timedelta | None) -> tuple[Verdict, str]:
    """A good answer says how long it took, and is bad when that is not less than `below`."""
    if verdict is not Verdict.GOOD:
        return verdict, reason
    reason = f"{reason} in {format_duration(took)}"
    if below is not None and took >= below:
        return Verdict.BAD, f"{reason}, wants less than {format_duration(below)}"
    return verdict, reason
