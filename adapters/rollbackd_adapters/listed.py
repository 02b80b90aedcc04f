"""Lists of releases as somebody else tells them: one strange item never hides the others. No I/O."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.model import Release

MOST = 10_000
"""Items of a list that are read, the first ones."""
_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)

T = TypeVar("T")


class Listed(NamedTuple):
    """What a list has."""

    releases: list[Release]
    """In its order, each once."""
    passed_over: str = ""
    """A sentence about what is no release, for people; empty when all are."""


def listed(items: Iterable[T], read: Callable[[T], Release]) -> Listed:
    """The releases among the items. What `read` refuses is passed over, and so is what is told a second time.

    :raises AdapterError: there are items, and none is a release: that is not a list of releases.
    """
    found: dict[str, Release] = {}
    refused: list[AdapterError] = []
    left = iter(items)
    for item in islice(left, MOST):
        try:
            release = read(item)
        except AdapterError as error:
            refused.append(error)
        else:
            found.setdefault(release.id, release)
    if refused and not found:
        raise refused[0]
    said = [f"{len(refused)} of the releases are passed over: {refused[0]}"] if refused else []
    said += [f"only the newest {MOST} releases are read"] if next(left, None) is not None else []
    return Listed(list(found.values()), "; ".join(said))


def time_at(seconds: float) -> datetime | None:
    """A time of the system's clock; None when no calendar has it."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (OverflowError, OSError, ValueError):
        return None


def time_told(value: object) -> datetime:
    """A time as a program writes it, with UTC where it says no zone. :raises ValueError: it is none."""
    try:
        found = _TIME.validate_python(value)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValidationError, OverflowError) as error:
        raise ValueError("no time") from error
