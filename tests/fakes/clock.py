"""A clock that stands still until a test moves it."""

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


class ManualClock:
    """Wall and monotonic time go together; who sleeps wakes when they are moved far enough."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._now = start
        self._set = timedelta()
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._set - self._start).total_seconds()

    async def sleep(self, length: timedelta) -> None:
        await self.sleep_until(self._now + length)

    async def sleep_until(self, when: datetime) -> None:
        while self._now < when:
            await self._moved.wait()

    def advance(self, length: timedelta) -> None:
        """Move it, and wake all who sleep to look."""
        self._now += length
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def jump(self, length: timedelta) -> None:
        """Somebody sets the wall time; no time passes."""
        self._set += length
        self.advance(length)
