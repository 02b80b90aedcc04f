"""Work that comes round: the same for each of many things, every so often, without a lasting task for each of them.

A task that only sleeps takes about 3 KiB; for thousands of services that is the larger part of the memory.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

Work = Callable[[], Awaitable[object]]
Begin = Callable[[str, Work], asyncio.Task[object]]
"""Begins a named task that does the work once, and sees to its failures."""


@dataclass(frozen=True, slots=True)
class Recurring:
    """What recurs for one thing."""

    name: str
    every: timedelta
    work: Work
    first: timedelta = timedelta()
    """How long to wait before the first time."""


class Rounds:
    """Begins each turn when it is due. One that is still at work then is passed over until it is due again."""

    def __init__(self, turns: Iterable[Recurring], clock: Clock, begin: Begin) -> None:
        self._turns = tuple(turns)
        self._clock = clock
        self._begin = begin
        self._at_work: dict[int, asyncio.Task[object]] = {}

    async def run(self) -> None:
        """Go round for ever."""
        now = self._clock.monotonic()
        due = [(now + turn.first.total_seconds(), number) for number, turn in enumerate(self._turns)]
        heapq.heapify(due)
        try:
            while due:
                now = self._clock.monotonic()
                wait = timedelta(seconds=due[0][0] - now)
                if wait > timedelta():
                    await self._clock.sleep(wait)
                    continue
                number = due[0][1]
                heapq.heapreplace(due, (now + self._turns[number].every.total_seconds(), number))
                if number not in self._at_work:
                    self._take(number)
        finally:
            await end(tuple(self._at_work.values()))

    def _take(self, number: int) -> None:
        turn = self._turns[number]
        task = self._at_work[number] = self._begin(turn.name, turn.work)
        task.add_done_callback(lambda _: self._at_work.pop(number, None))
