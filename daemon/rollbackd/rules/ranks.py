"""Whether two sets of samples have one distribution: the rank test of Mann and Whitney (1947). No I/O.

https://en.wikipedia.org/wiki/Mann%E2%80%93Whitney_U_test
Exact for small samples without ties; else by the normal distribution, corrected for ties and for continuity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_EXACT = 400
"""Up to so many pairs every arrangement is counted."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The test's outcome."""

    u: float
    """In how many pairs the first side's sample is the larger; a tie is half a pair."""
    p: float
    """How likely chance alone sets them at least so far apart, either way; 0 to 1."""


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> Ranked:
    """The two-sided test.

    :param first: finite numbers, at least one; so is `second`.
    """
    everything = sorted([*first, *second])
    ranks, ties = _ranks(everything)
    pairs = len(first) * len(second)
    u = sum(ranks[value] for value in first) - len(first) * (len(first) + 1) / 2
    larger = max(u, pairs - u)
    if not ties and pairs <= _EXACT:
        return Ranked(u, min(1.0, 2 * _at_least(int(larger), len(first), len(second))))
    n = len(everything)
    variance = pairs / 12 * ((n + 1) - sum(tie**3 - tie for tie in ties) / (n * (n - 1)))
    if variance <= 0:  # all are equal
        return Ranked(u, 1.0)
    z = (larger - pairs / 2 - 0.5) / math.sqrt(variance)
    return Ranked(u, min(1.0, math.erfc(z / math.sqrt(2))))


def _ranks(ordered: Sequence[float]) -> tuple[dict[float, float], list[int]]:
    """Each value's rank, from 1, equal ones sharing the middle of theirs; and how many share one, where any do."""
    ranks: dict[float, float] = {}
    ties = []
    place = 0
    while place < len(ordered):
        end = place + 1
        while end < len(ordered) and ordered[end] == ordered[place]:
            end += 1
        ranks[ordered[place]] = (place + 1 + end) / 2
        if end - place > 1:
            ties.append(end - place)
        place = end
    return ranks, ties


def _at_least(u: int, m: int, n: int) -> float:
    """How many of all arrangements of m and n samples have this U or more, as a share."""
    ways = _arrangements(min(m, n), max(m, n))
    return sum(ways[u:]) / sum(ways)


@lru_cache(maxsize=256)
def _arrangements(m: int, n: int) -> tuple[int, ...]:
    """In how many ways m and n samples can be arranged, by their U from 0 to m * n.

    These are the coefficients of Gauss's binomial: the product of (1 - q^(n+i)) / (1 - q^i) for i from 1 to m.
    """
    ways = [0] * (m * n + 1)
    ways[0] = 1
    for i in range(1, m + 1):
        for place in range(m * n, n + i - 1, -1):
            ways[place] -= ways[place - n - i]
        for place in range(i, m * n + 1):
            ways[place] += ways[place - i]
    return tuple(ways)
