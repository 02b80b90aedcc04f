"""Tasks that somebody waits for: whoever began one sees it end, also when cancelled himself."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_TURN = 0.02
"""Seconds of work on many things before other work has its turn."""


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel them, and wait until each has ended, however it does."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def side_by_side(works: Mapping[str, Coroutine[Any, Any, Any]]) -> None:
    """Do several things for ever, each in a task of its name; all are ended when one is over, or we are.

    :raises RuntimeError: one was cancelled or came to its end, which none is to; else as that one did.
    """
    tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
    try:
        over, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in over:
        if task.cancelled() or task.exception() is None:
            raise RuntimeError(f"{task.get_name()} {'was cancelled' if task.cancelled() else 'came to an end'}")
        task.result()


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Them all, one after the other; other work has its turn every few milliseconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _TURN
    for item in items:
        yield item
        if loop.time() >= until:
            await asyncio.sleep(0)  # noqa: TID251  # no time passes
            until = loop.time() + _TURN


async def until_first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of them is over, such as a sleep or an event; the others are given up. Raises as that did."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        over, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in over:
        task.result()
