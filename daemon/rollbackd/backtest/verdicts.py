"""What a condition says at every poll of a chunk, found without judging each of them. No I/O.

Of a condition with a threshold that is its verdict; of one that keeps a score, whether what was counted can raise it.

A month has millions of polls at which nothing is near a threshold: there the least and the largest number suffice.
"""

import re
from array import array
from collections.abc import Iterable, Sequence
from math import inf, isfinite
from typing import TypeAlias

from rollbackd.model import Verdict
from rollbackd.rules.samples import Observation
from rollbackd.rules.score import ScoreSpec, evidence
from rollbackd.rules.spec import QueryWhen
from rollbackd.signals.query_answers import MISSING
from rollbackd.signals.query_conditions import by_itself

Column: TypeAlias = "array[float]"
"""What a series had at each poll of a chunk."""
GOOD, BAD, UNSURE, IDLE = 0, 1, 2, 3
"""`IDLE` is of a score: nothing was asked of the service, which says nothing of it, and is an answer all the same."""
_CODES = {Verdict.GOOD: GOOD, Verdict.BAD: BAD, Verdict.INCONCLUSIVE: UNSURE}
_RUNS = re.compile(rb"\x00+|\x01+|\x02+|\x03+")


def values_at(columns: Iterable[Column], place: int) -> list[float]:
    """What the series of a service had at a poll; those without a point are left out."""
    return [column[place] for column in columns if column[place] != MISSING]


def observed(leaf: QueryWhen, columns: Sequence[Column], counted: Sequence[Column], place: int) -> Observation:
    """What the condition says at a poll.

    :param columns: the series of one service.
    :param counted: those that say how many samples they rest on.
    """
    return by_itself(leaf, values_at(columns, place), values_at(counted, place) or None)


def codes(leaf: QueryWhen, columns: Sequence[Column], counted: Sequence[Column], count: int) -> bytes:
    """The verdict at each of `count` polls: the same as `observed` gives. Of a score, `BAD` where it can rise."""
    if not columns:
        return bytes((UNSURE,)) * count
    if leaf.score is not None:
        return _of_score(leaf, leaf.score, columns, counted, count)
    if len(columns) > 1 or len(counted) > 1:
        return bytes(_CODES[observed(leaf, columns, counted, place).verdict] for place in range(count))
    found = _of_one(leaf, columns[0])
    if leaf.samples is None:
        return found
    if not counted:
        return bytes((UNSURE,)) * count
    wants = leaf.samples.at_least
    if isfinite(sum(counted[0])) and min(counted[0]) >= wants:
        return found
    return bytes(code if wants <= many < inf else UNSURE for code, many in zip(found, counted[0], strict=True))


def _of_one(leaf: QueryWhen, column: Column) -> bytes:
    above, below = leaf.above, leaf.below
    plain = isfinite(sum(column))  # neither a gap nor NaN nor Inf among them
    if above is not None:
        if plain and max(column) <= above:
            return bytes(len(column))
        return bytes([(BAD if value > above else GOOD) if -inf < value < inf else UNSURE for value in column])
    assert below is not None
    if plain and min(column) >= below:
        return bytes(len(column))
    return bytes([(BAD if value < below else GOOD) if -inf < value < inf else UNSURE for value in column])


def _of_score(
    leaf: QueryWhen, score: ScoreSpec, columns: Sequence[Column], counted: Sequence[Column], count: int
) -> bytes:
    if not counted:
        return bytes((UNSURE,)) * count
    if len(columns) > 1 or len(counted) > 1:
        seen = (observed(leaf, columns, counted, place).counted for place in range(count))
        return bytes(
            UNSURE if one is None else IDLE if not one[1] else BAD if evidence(one, score) > 0 else GOOD for one in seen
        )
    error, other = score.weights
    return bytes(
        [
            UNSURE
            if not (0 <= errors < inf and 0 <= requests < inf)
            else IDLE
            if not requests
            else BAD
            if min(errors, requests) * error + max(requests - errors, 0.0) * other > 0
            else GOOD
            for errors, requests in zip(columns[0], counted[0], strict=True)
        ]
    )


def runs(found: bytes) -> tuple[list[int], bytes]:
    """Where each run of equal verdicts begins, and which verdict it is of."""
    starts = [each.start() for each in _RUNS.finditer(found)]
    return starts, bytes(found[place] for place in starts)
