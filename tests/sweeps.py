"""Which boundaries a test of kills goes to, where all of them take longer than a run may: `ROLLBACKD_SWEEP`.

Unset, those that the test chose; `1`, all of them; `2/4`, the second quarter of all, so that each part ends within the
test's limit, also on a busy machine. Tests that end within it anyway take every value for `1`.
"""

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def swept(every: Sequence[T], chosen: Iterable[T]) -> list[T]:
    """The part of all that is asked for, or what was chosen."""
    asked = os.environ.get("ROLLBACKD_SWEEP")
    if not asked:
        return list(chosen)
    part, _, parts = asked.partition("/")
    number, of = int(part), int(parts or 1)
    if not 1 <= number <= of:
        raise ValueError(f"ROLLBACKD_SWEEP={asked} is no part of a whole; write 1 for all, or such as 2/4")
    return list(every[len(every) * (number - 1) // of : len(every) * number // of])
