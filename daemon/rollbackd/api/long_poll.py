"""Long polls: bounded in number, and ended at once when the server stops."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from rollbackd.api.problems import ProblemError

MOST_WAITS = 64
_T = TypeVar("_T")


class Waits:
    """The requests that wait for news."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._ended = False

    async def run(self, work: Coroutine[object, None, _T]) -> _T:
        """Do work that may wait. :raises ProblemError: 429 when too many wait, 503 when the server stops."""
        if self._ended:  # its connection was taken just before the server stopped
            work.close()
            raise _stopping()
        if len(self._tasks) >= MOST_WAITS:
            work.close()
            raise ProblemError(429, "too many requests wait for news; ask without `wait`", {"Retry-After": "5"})
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            self._tasks.discard(task)
        if task.cancelled():
            raise _stopping()
        return task.result()

    def end(self) -> None:
        """Answer all of them now, and whoever still comes."""
        self._ended = True
        for task in self._tasks:
            task.cancel()


def _stopping() -> ProblemError:
    return ProblemError(503, "rollbackd stops now; ask again", {"Retry-After": "2"})
