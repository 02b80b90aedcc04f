"""File work that blocks, in a thread, and to its end."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE = 30.0
"""Seconds; a thread that takes longer after we were cancelled hangs in a dead file system."""


async def in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    """The result of blocking work, done in a thread. Cancellation waits for the thread first, which nothing can stop.

    So a lock that is held around it is not let go of while the thread still writes. What only reads needs no more than
    `asyncio.to_thread`.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_seen)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=_PATIENCE)
        raise


def _seen(task: asyncio.Future[_T]) -> None:
    """Take note of the result, so that asyncio does not log it as lost: the cancellation is what counts."""
    if not task.cancelled():
        task.exception()
