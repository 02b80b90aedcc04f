"""What happened is written once the journal takes it; only the journal's trouble is waited for."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from rollbackd.journal import Conflict, JournalUnavailable, until_written
from tests.fakes.clock import ManualClock

PAUSE = timedelta(seconds=5)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def noting(said: list[str]) -> Callable[..., None]:
    def say(*, error: str) -> None:
        said.append(error)

    return say


async def test_it_is_tried_again_after_each_pause_and_returns_what_came_of_it() -> None:
    clock, troubles, said = ManualClock(), ["disk full", "disk full still"], list[str]()

    async def work() -> str:
        if troubles:
            raise JournalUnavailable(troubles.pop(0))
        return "written"

    trying = asyncio.create_task(until_written(work, clock, PAUSE, noting(said)))
    await settle()
    assert said == ["disk full"]
    clock.advance(PAUSE / 2)
    await settle()
    assert (said, trying.done()) == (["disk full"], False)
    clock.advance(PAUSE)
    await settle()
    assert said == ["disk full", "disk full still"]
    clock.advance(PAUSE)
    assert await trying == "written"


async def test_what_is_no_trouble_of_the_journal_goes_through_at_once() -> None:
    said: list[str] = []

    async def work() -> None:
        raise Conflict("another fact came first")

    with pytest.raises(Conflict, match="another fact came first"):
        await until_written(work, ManualClock(), PAUSE, noting(said))
    assert said == []
