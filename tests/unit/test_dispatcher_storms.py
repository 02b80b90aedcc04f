"""Many services that go back at once: what is alike is one message, and one page; few are told each by itself."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Outcome
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.sending_times import DECIDED_IN, GATHER, MANY, TOGETHER
from rollbackd.system import tasks
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import Recorder, opened, planned, soon

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
FIVE = tuple(f"s{number}" for number in range(5))


class World:
    """A journal that outlives the dispatchers on it; whoever is on call keeps open what it is told, the room does not."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.room, self.oncall = Recorder(), Recorder(keeps_open=True)
        self.deciding = 0
        self.services = len(FIVE)

    def dispatcher(self, **given: Any) -> NotificationDispatcher:
        """A new process."""
        receivers = {"room": self.room, "oncall": self.oncall}
        counted: dict[str, Any] = {
            "deciding": lambda: self.deciding,
            "services_deciding": lambda: min(self.deciding, self.services),
        }
        return NotificationDispatcher(self.journal, Config(), receivers, self.clock, **counted, **given)

    async def write(self, names: Sequence[str], *given: Any) -> None:
        for name in names:
            made = (opened(name) if one is opened else one for one in given)
            await self.journal.append(*(Entry(f"incident:{name}-1", one) for one in made))

    async def wait(self, dispatcher: NotificationDispatcher, length: timedelta = timedelta()) -> None:
        """Let time pass, and do what `run` does then."""
        self.clock.advance(length)
        for work in (dispatcher.pump, dispatcher.deliver, dispatcher.pump, dispatcher.deliver):
            await work()

    def told(self, recorder: Recorder) -> list[tuple[str, int]]:
        """The events, and how many troubles each message is about."""
        return [(one.event, one.count) for one in recorder.messages]

    async def paged(self) -> list[facts.Paged]:
        return [one.fact for one in await self.journal.read(FLEET) if isinstance(one.fact, facts.Paged)]


@pytest.fixture
def world() -> World:
    return World()


async def test_few_are_told_at_once_and_each_by_itself(world: World) -> None:
    dispatcher = world.dispatcher()
    for name in FIVE[: MANY - 1]:
        world.deciding = 1
        await world.write([name], opened, planned(), facts.ApplyStarted("code"))
        await world.wait(dispatcher)
    assert world.told(world.room) == [("opened", 1), ("started", 1)] * (MANY - 1)
    await world.write(FIVE[: MANY - 1], facts.Closed(Outcome.RECOVERED, "well"))
    await world.wait(dispatcher)
    assert [one.service for one in world.room.messages if one.resolves] == list(FIVE[: MANY - 1])
    assert await world.paged() == []


async def test_many_alerts_of_one_service_are_no_storm(world: World) -> None:
    world.deciding, world.services = 50, 1
    await world.write(["s0"], opened, planned(), facts.ApplyStarted("code"))
    await world.wait(world.dispatcher())
    assert world.told(world.room) == [("opened", 1), ("started", 1)]


async def test_many_are_one_message_when_they_begin_and_one_when_they_are_well(world: World) -> None:
    dispatcher = world.dispatcher()
    world.deciding = len(FIVE)
    for name in FIVE:
        await world.write([name], opened)
        await world.wait(dispatcher, SECOND / 2)
        world.deciding -= 1
    assert world.room.messages == []
    await world.write(FIVE, planned(), facts.ApplyStarted("code"))
    await world.wait(dispatcher, GATHER + DECIDED_IN * len(FIVE))
    assert world.told(world.room) == [("opened", 5)]
    (first,) = world.room.messages
    assert first.title == "5 × rolling back: s0, s1, s2, s3, s4"
    assert first.services == FIVE
    assert first.lines[0] == ("Do now", f"on {first.source}: `rollbackd hold --all --reason WHY` stops all of them")
    for name in FIVE:
        await world.write([name], facts.Closed(Outcome.RECOVERED, "well"))
        await world.wait(dispatcher, 10 * SECOND)
    assert world.told(world.room) == [("opened", 5)]
    assert [one.thread for one in world.oncall.messages if one.resolves] == [world.oncall.messages[0].thread]
    await world.wait(world.dispatcher(), TOGETHER)
    assert world.told(world.room) == [("opened", 5), ("recovered", 5)]
    assert len(world.oncall.messages) == 2, "one page, which is closed with the last of them and not again"


async def test_bad_ends_of_many_are_one_message_within_seconds_and_are_told_apart_from_good_ones(world: World) -> None:
    await world.write(FIVE, opened)
    dispatcher = world.dispatcher()
    await world.wait(dispatcher)
    await world.wait(dispatcher, GATHER)
    await world.write(FIVE[:3], facts.Closed(Outcome.FAILED, "npm exited 1"))
    await world.write(FIVE[3:], facts.Closed(Outcome.RECOVERED, "well"))
    await world.wait(dispatcher)
    await world.wait(dispatcher, GATHER)
    assert world.told(world.room) == [("opened", 5), ("failed", 3)]
    await world.wait(dispatcher, TOGETHER)
    assert world.told(world.room) == [("opened", 5), ("failed", 3), ("recovered", 2)]
    assert not world.room.messages[1].resolves
    assert world.room.messages[2].resolves
    opened_page, failed_page = (one.thread for one in await world.paged())
    for name in FIVE[:3]:
        await world.write([name], facts.Acknowledged())
        await self_healed(world, name)
    await world.wait(world.dispatcher(), MINUTE)
    resolved = [one.thread for one in world.oncall.messages if one.resolves]
    assert sorted(resolved) == sorted([opened_page, failed_page])


async def self_healed(world: World, name: str) -> None:
    """A later rollback of it recovers."""
    await world.journal.append(
        Entry(f"incident:{name}-2", opened(name)), Entry(f"incident:{name}-2", facts.Closed(Outcome.RECOVERED, "well"))
    )


async def test_what_becomes_of_them_is_told_on_their_page_until_somebody_has_seen_it(world: World) -> None:
    late = facts.ClockPassed("recover_within", 30 * MINUTE, "out of time")
    await world.write(FIVE, opened)
    await world.wait(world.dispatcher())
    await world.wait(world.dispatcher(), GATHER)
    (page,) = world.oncall.messages
    await world.write(FIVE[1:], late)
    await world.wait(world.dispatcher(), MINUTE)
    assert world.told(world.oncall) == [("opened", 5), ("clock_passed", 4)]
    assert {one.thread for one in world.oncall.messages} == {page.thread}
    assert [one.incidents for one in await world.paged()] == [tuple(f"{name}-1" for name in FIVE)]
    await world.write(FIVE, facts.Acknowledged())
    await world.wait(world.dispatcher(), MINUTE)
    await world.write(FIVE, late)
    await world.wait(world.dispatcher(), 2 * MINUTE)
    assert world.oncall.messages[-1].event == "clock_passed"
    assert world.oncall.messages[-1].thread != page.thread, "an acknowledged page wakes nobody"
    await world.write(FIVE, facts.Closed(Outcome.RECOVERED, "well"))
    await world.wait(world.dispatcher(), 2 * MINUTE)
    assert len({one.thread for one in world.oncall.messages if one.resolves}) == 2


async def test_after_a_start_what_was_written_meanwhile_is_one_message(world: World) -> None:
    await world.write(FIVE, opened, planned(), facts.ApplyStarted("code"))
    await world.wait(world.dispatcher())
    await world.wait(world.dispatcher(), GATHER)
    assert world.told(world.room) == [("opened", 5)]


async def test_messages_that_wait_for_each_other_are_not_too_many(world: World) -> None:
    dispatcher = world.dispatcher(many=3)
    world.deciding = 5
    await world.write(FIVE, opened)
    await dispatcher.pump()
    for _ in range(2):
        await dispatcher._recount()
        await dispatcher._watch_the_queue()
    assert dispatcher.waiting() == {"room": 0, "oncall": 0}
    assert await world.journal.read(FLEET) == []
    world.room.always = soon()
    await world.wait(dispatcher, MINUTE)
    assert dispatcher.waiting() == {"room": 5, "oncall": 0}
    await dispatcher._watch_the_queue()
    assert [one.fact.kind for one in await world.journal.read(FLEET) if isinstance(one.fact, facts.Notice)] == [
        "messages_waiting"
    ]


async def test_words_for_hundreds_at_once_leave_turns_to_other_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_TURN", 0.0)  # each item's time is over at once, however fast the machine is
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    await world.write([f"s{number}" for number in range(400)], opened)
    dispatcher, beside = world.dispatcher(), asyncio.create_task(other())
    await dispatcher.pump()
    beside.cancel()
    assert turns >= 800
    assert len(await world.journal.waiting()) == 800
