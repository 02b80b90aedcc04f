"""The clock of a play: it stands still until the play sets it."""

import asyncio
from datetime import datetime, timedelta


class PlayClock:
    """Time as whoever is played sees it; nobody waits for any of it."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._now = start

    def set(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    async def sleep(self, length: timedelta) -> None:
        del length
        await asyncio.sleep(0)  # noqa: TID251  # this is a clock: a turn for the others, and no time

    async def sleep_until(self, when: datetime) -> None:
        await self.sleep(when - self._now)
