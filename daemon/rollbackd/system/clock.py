"""The clock: the only place that reads the time or sleeps."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

_SLICE = 1.0
"""Seconds; a wait for a point of wall time looks at the clock at least this often, since the clock may be set."""
_LOOK = timedelta(seconds=15)


class Clock(Protocol):
    """Time as the daemon sees it; a test hands in one that runs faster."""

    def now(self) -> datetime:
        """Wall time in UTC, which may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward, at this clock's speed."""
        ...

    async def sleep(self, length: timedelta) -> None:
        """Wait for a length of monotonic time. Polls use it, since a clock that is set back must not stop them."""
        ...

    async def sleep_until(self, when: datetime) -> None:
        """Wait for a point of wall time, also when the clock is set meanwhile."""
        ...


class SystemClock:
    """The real clock, or with `speed` one that runs so many times faster."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._wall = datetime.now(UTC)
        self._started = time.monotonic()

    def now(self) -> datetime:
        if self._speed == 1.0:
            return datetime.now(UTC)
        return self._wall + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return (time.monotonic() - self._started) * self._speed

    async def sleep(self, length: timedelta) -> None:
        await asyncio.sleep(max(0.0, length.total_seconds()) / self._speed)

    async def sleep_until(self, when: datetime) -> None:
        while (left := (when - self.now()).total_seconds()) > 0:  # noqa: ASYNC110  # wall time can be set meanwhile
            await asyncio.sleep(min(left, _SLICE) / self._speed)


class JumpWatch:
    """Notices that wall time and monotonic time drifted apart, because the clock was set or the machine slept."""

    def __init__(self, clock: Clock, tolerance: timedelta = timedelta(seconds=30)) -> None:
        self._clock = clock
        self._tolerance = tolerance
        self._offset = self._now_offset()
        self.last_jump: datetime | None = None
        """The last jump, in wall time as read after it; None when there was none since the start."""
        self._length = timedelta()
        self.astray = ""
        """What another clock says against ours now; empty for nothing."""

    def _now_offset(self) -> timedelta:
        return timedelta(seconds=self._clock.now().timestamp() - self._clock.monotonic())

    def look(self) -> timedelta | None:
        """How far the clock jumped since the last look, or None."""
        offset = self._now_offset()
        jump, self._offset = offset - self._offset, offset
        if abs(jump) <= self._tolerance:
            return None
        self.last_jump, self._length = self._clock.now(), jump
        return jump

    async def run(self, jumped: Callable[[timedelta], Awaitable[None]]) -> None:
        """Look every 15 s, for ever, so that a jump is known when it happens; tell its length, whoever saw it first."""
        told = self.last_jump
        while True:
            await self._clock.sleep(_LOOK)
            self.look()
            if self.last_jump != told:
                told = self.last_jump
                await jumped(self._length)


def surely_ahead(asked: datetime, theirs: datetime, answered: datetime) -> timedelta:
    """By how much a clock is ahead of ours at least, that was read between two readings of ours; negative: behind.

    It is nothing where both may be one clock, however long the answer took.
    """
    return max(theirs - answered, timedelta()) + min(theirs - asked, timedelta())


def boot_microseconds() -> int:
    """CLOCK_MONOTONIC as systemd wants it told."""
    return time.monotonic_ns() // 1000


def boot_seconds() -> float:
    """Seconds since the machine was started; they go on while it is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
