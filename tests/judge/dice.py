"""What an incident's particulars are drawn with."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Thing = TypeVar("Thing")


class Dice:
    """Numbers of one seed."""

    def __init__(self, seed: Sequence[int]) -> None:
        self._dice = np.random.default_rng(list(seed))

    def between(self, low: float, high: float) -> float:
        return float(self._dice.uniform(low, high))

    def spread(self, low: float, high: float) -> float:
        """As likely to be near one end as near the other, in their proportions."""
        return float(np.exp(self._dice.uniform(np.log(low), np.log(high))))

    def whole(self, low: int, high: int) -> int:
        """Both ends are possible."""
        return int(self._dice.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self._dice.random() < share)

    def some(self, things: Sequence[Thing], count: int) -> list[Thing]:
        """So many of them, each once."""
        return [things[int(place)] for place in self._dice.permutation(len(things))[:count]]
