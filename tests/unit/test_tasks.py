"""Tasks that somebody waits for: none is left behind."""

import asyncio
import time

import pytest

from rollbackd.system.tasks import end, in_turns, until_first


class Trail:
    """What a task went through."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = False

    async def work(self) -> None:
        try:
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(3):  # what a task still does when it is cancelled
                await asyncio.sleep(0)
            self.ended = True


async def test_what_is_ended_has_ended_when_that_returns() -> None:
    trails = [Trail(), Trail()]
    tasks = {asyncio.create_task(trail.work()) for trail in trails}
    for task in tasks:
        task.add_done_callback(tasks.discard)  # as their owners do
    for trail in trails:
        await trail.begun.wait()
    await end(tasks)
    assert all(trail.ended for trail in trails)
    assert not tasks


async def test_how_a_task_ends_disturbs_nobody() -> None:
    async def fails() -> None:
        raise RuntimeError("broken")

    failed = asyncio.create_task(fails())
    await asyncio.wait({failed})
    await end((failed,))
    await end(())


async def test_the_first_that_is_over_ends_the_wait_and_the_others_are_given_up() -> None:
    news, trail = asyncio.Event(), Trail()
    waiting = asyncio.create_task(until_first(news.wait(), trail.work()))
    await trail.begun.wait()
    assert not waiting.done()
    news.set()
    await waiting
    assert trail.ended


async def test_what_the_first_raises_is_raised() -> None:
    async def fails() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await until_first(asyncio.Event().wait(), fails())


async def test_who_is_cancelled_while_he_waits_leaves_nothing_behind() -> None:
    trails = [Trail(), Trail()]
    waiting = asyncio.create_task(until_first(*(trail.work() for trail in trails)))
    for trail in trails:
        await trail.begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(trail.ended for trail in trails)


async def test_many_things_are_worked_on_in_turns() -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    seen = []
    async for number in in_turns(range(20)):
        seen.append(number)
        time.sleep(0.01)
    beside.cancel()
    assert seen == list(range(20))
    assert others >= 5
