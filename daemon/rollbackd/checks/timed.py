"""How long an answer took, as a part of the verdict. No I/O."""

from datetime import timedelta

from rollbackd.model import Verdict
from rollbackd.syntax.units import format_duration


def check_below(below: timedelta | None, timeout: timedelta) -> None:
    """:raises ValueError: no answer is waited for long enough to be late."""
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
