"""How late the event loop is: what a check waited for us is not held against the service."""

import asyncio
from collections import deque
from itertools import takewhile

_EVERY = 0.05
"""Seconds between two looks."""
_KEPT = round(60 / _EVERY)
"""Looks of a minute."""
_LONG = 0.1
"""Seconds; shorter lags are the ordinary work of a turn."""


class LoopLag:
    """Looks at the loop by a timer of its own, without a task that could end."""

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=_KEPT)
        self._long: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        """When each long one ended, by the loop's time, and how long it was."""
        self._due = 0.0

    def watch(self) -> None:
        """Begin, on the running loop, for ever."""
        self._loop = asyncio.get_running_loop()
        self._plan()

    def _plan(self) -> None:
        self._due = self._loop.time() + _EVERY
        self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        lag = max(0.0, now - self._due)
        self._lags.append(lag)
        if lag >= _LONG:
            self._long.append((now, lag))
        self._plan()

    @property
    def worst(self) -> float:
        """Seconds, of the last minute."""
        return max(self._lags, default=0.0)

    def held_up(self, since: float) -> float:
        """How many seconds long lags took since then, by the loop's time; one that has just ended too."""
        if not self._due:
            return 0.0
        now = self._loop.time()
        recent = takewhile(lambda one: one[0] > since, reversed(self._long))
        found = sum(min(lag, ended - since) for ended, lag in recent)
        late = min(now - self._due, now - since)
        return found + (late if late >= _LONG else 0.0)
