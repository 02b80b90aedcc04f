"""Tasks that somebody waits for: whoever began one sees it end, also when cancelled himself."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel them, and wait until each has ended, however it does."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def until_first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of them is over, such as a sleep or an event; the others are given up. Raises as that did."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        over, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in over:
        task.result()
