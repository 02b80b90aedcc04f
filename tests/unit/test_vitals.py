"""A part of the daemon that has ended is noticed, however it ended."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, cast

import pytest

from rollbackd.system import vitals as module
from rollbackd.system.clock import SystemClock
from rollbackd.system.tasks import end, side_by_side
from rollbackd.system.vitals import Vitals, stir


async def waits() -> None:
    await asyncio.Event().wait()


async def comes_to_an_end() -> None:
    return


async def fails() -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("work", "cancel", "why"),
    [
        (waits, True, "the task judge was cancelled"),
        (comes_to_an_end, False, "the task judge came to an end"),
        (fails, False, "the task judge ended: RuntimeError: broken"),
    ],
)
async def test_a_task_that_is_over_is_a_death(work: Callable[[], Awaitable[None]], cancel: bool, why: str) -> None:
    vitals, heard = Vitals(), list[str]()
    vitals.on_death = heard.append
    task = asyncio.ensure_future(work())
    assert isinstance(task, asyncio.Task)
    task.set_name("judge")
    vitals.watch_task(task)
    await asyncio.sleep(0)
    assert vitals.problems == () or not cancel
    if cancel:
        task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert heard == [why]
    assert vitals.problems == (f"{why}; rollbackd ends, to be started anew",)


async def test_a_task_that_may_end_is_none() -> None:
    vitals = Vitals()
    task = asyncio.create_task(comes_to_an_end())
    vitals.watch_task(task, ends=True)
    await task
    await asyncio.sleep(0)
    assert vitals.problems == ()


async def test_what_is_started_again_is_a_problem_until_it_works() -> None:
    vitals = Vitals()
    vitals.fails("judge", "RuntimeError: broken")
    assert vitals.problems == ("judge failed and is started again: RuntimeError: broken",)
    vitals.works("judge")
    assert not vitals.problems


@pytest.mark.parametrize(
    ("name", "lasting", "of_journal"),
    [
        ("journal-writer", True, True),
        ("journal-reader_0", True, True),
        ("asyncio_3", True, False),
        ("files", False, False),
    ],
)
def test_a_lasting_thread_that_has_ended_is_a_death(name: str, lasting: bool, of_journal: bool) -> None:
    vitals, end = Vitals(), threading.Event()
    thread = threading.Thread(target=end.wait, name=name)
    thread.start()
    vitals.look_at_threads()
    assert not vitals.death
    end.set()
    thread.join()
    vitals.look_at_threads()
    assert vitals.death == (f"the thread {name} has ended" if lasting else "")
    assert vitals.journal_died is of_journal


@pytest.mark.parametrize(("work", "said"), [(fails, "broken"), (comes_to_an_end, "one came to an end")])
async def test_what_goes_on_side_by_side_ends_together(work: Callable[[], Awaitable[None]], said: str) -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await waits()
        finally:
            ended.set()

    with pytest.raises(RuntimeError, match=said):
        await side_by_side({"other": other(), "one": work()})  # type: ignore[dict-item]
    assert ended.is_set()


async def test_one_of_several_that_is_cancelled_ends_all() -> None:
    both = asyncio.create_task(side_by_side({"other": waits(), "one": waits()}))
    await asyncio.sleep(0)
    next(task for task in asyncio.all_tasks() if task.get_name() == "one").cancel()
    with pytest.raises(RuntimeError, match="one was cancelled"):
        await both


async def test_what_does_not_answer_is_a_problem_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANGS", 0.1)
    monkeypatch.setattr(module, "_LOOK", timedelta(seconds=0.02))
    vitals, free, asked = Vitals(), asyncio.Event(), 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await free.wait()
        if asked > 1:
            raise RuntimeError("it cannot be written")

    def problems() -> tuple[str, ...]:
        return vitals.problems

    vitals.watch_pulse("the writer", ask)
    watching = asyncio.create_task(vitals.watch_threads(SystemClock()))
    async with asyncio.timeout(10):
        while not problems():
            await asyncio.sleep(0.01)
        assert problems() == ("the writer did not answer for 0s",)
        assert (asked, vitals.death) == (1, ""), "nobody is asked twice at once"
        free.set()
        while problems():
            await asyncio.sleep(0.01)
    await end([watching])


class Deadly:
    """Work that ends the thread that takes it."""

    def run(self) -> None:
        raise SystemExit


async def test_a_thread_that_dies_with_its_next_work_is_known_to_be_dead_once_its_pool_is_stirred() -> None:
    with ThreadPoolExecutor(3, thread_name_prefix="journal-reader-of-this-test") as pool:
        together = threading.Barrier(3)  # one that starts later could take the work unseen
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, together.wait) for _ in range(3)))
        vitals = Vitals()
        vitals.look_at_threads()
        pool._work_queue.put(cast("Any", Deadly()))
        asking = asyncio.create_task(stir(pool, 3))
        async with asyncio.timeout(60):
            while not vitals.death:
                await asyncio.sleep(0.01)
                if asking.done():
                    asking = asyncio.create_task(stir(pool, 3))
                vitals.look_at_threads()
        await end([asking])
    assert vitals.death.startswith("the thread journal-reader-of-this-test")
