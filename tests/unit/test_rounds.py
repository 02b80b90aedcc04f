"""Work that comes round for many things by one task."""

import asyncio
import itertools
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rollbackd.system.rounds import Recurring, Rounds, Work
from tests.fakes.clock import START
from tests.unit.judgement.clock import LeapingClock

SECOND = timedelta(seconds=1)
_LENGTHS = st.integers(1, 90).map(lambda tenths: timedelta(milliseconds=100 * tenths))


def begin(name: str, work: Work) -> asyncio.Task[Any]:
    return asyncio.create_task(_do(work), name=name)


async def _do(work: Work) -> None:
    await work()


@given(things=st.lists(st.tuples(_LENGTHS, _LENGTHS, _LENGTHS), min_size=1, max_size=8))
def test_each_comes_round_as_often_as_it_says_and_never_twice_at_once(things: list[tuple[timedelta, ...]]) -> None:
    asyncio.run(_round(things))


async def _round(things: list[tuple[timedelta, ...]]) -> None:
    clock = LeapingClock(START)
    begun: dict[int, list[float]] = {number: [] for number in range(len(things))}
    at_work: set[int] = set()
    start = clock.monotonic()

    def turn(number: int) -> Recurring:
        every, first, takes = things[number]

        async def work() -> None:
            assert number not in at_work
            at_work.add(number)
            begun[number].append(clock.monotonic() - start)
            await clock.sleep(takes)
            at_work.discard(number)

        return Recurring(f"thing {number}", every, work, first)

    running = asyncio.create_task(Rounds(map(turn, begun), clock, begin).run())
    await clock.go(clock.true + 60 * SECOND)
    running.cancel()
    await asyncio.wait([running])
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("thing")]
    for number, (every, first, takes) in enumerate(things):
        times = begun[number]
        assert abs(times[0] - first.total_seconds()) < 0.001
        gaps = [after - before for before, after in itertools.pairwise(times)]
        longest = every * (1 + -(-takes // every))
        assert all(every.total_seconds() - 0.001 <= gap <= longest.total_seconds() + 0.001 for gap in gaps), gaps
        assert times[-1] >= 60 - longest.total_seconds() - 0.001


async def test_nothing_that_comes_round_ends_at_once() -> None:
    await Rounds((), LeapingClock(START), begin).run()
