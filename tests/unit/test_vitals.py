"""A part of the daemon that has ended is noticed, however it ended."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from rollbackd.system.tasks import side_by_side
from rollbackd.system.vitals import Vitals


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
