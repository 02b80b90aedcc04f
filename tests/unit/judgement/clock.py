"""Virtual time that goes from one sleeper to the next; wall time can be set, as by an NTP client gone wrong."""

import asyncio
import heapq
from datetime import datetime, timedelta
from typing import Any, cast


class LeapingClock:
    """Stands still while anybody has something to do; then leaps to when the next one wakes."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._gone = timedelta()
        self._offset = timedelta()
        self._sleepers: list[tuple[timedelta, int, asyncio.Future[None]]] = []
        self._count = 0

    @property
    def true(self) -> datetime:
        """Time as everybody else's clocks have it, and the situations."""
        return self._start + self._gone

    def now(self) -> datetime:
        return self.true + self._offset

    def monotonic(self) -> float:
        return self._gone.total_seconds()

    async def sleep(self, length: timedelta) -> None:
        if length <= timedelta():
            await asyncio.sleep(0)
            return
        self._count += 1
        awake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._gone + length, self._count, awake))
        await awake

    async def sleep_until(self, when: datetime) -> None:
        while (left := when - self.now()) > timedelta():
            await self.sleep(min(left, timedelta(seconds=1)))

    def set(self, by: timedelta) -> None:
        """Set wall time forward, or back."""
        self._offset += by

    async def go(self, until: datetime) -> None:
        """Let everything happen that happens until then."""
        await idle()
        while self._sleepers and self._start + self._sleepers[0][0] <= until:
            self._gone = max(self._gone, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._gone:
                awake = heapq.heappop(self._sleepers)[2]
                if not awake.done():
                    awake.set_result(None)
            await idle()
        self._gone = max(self._gone, until - self._start)


async def idle() -> None:
    """Until every task waits for something that time, or somebody from outside, must bring; nothing here uses threads."""
    ready = cast("Any", asyncio.get_running_loop())._ready
    while ready:
        await asyncio.sleep(0)
