"""Clocks that run, jump and stand still; and all that waits for a point of time when wall time is set back."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.journal import Outgoing
from rollbackd.model import FLEET, Verdict
from rollbackd.notify.messages.envelope import Envelope, encode
from rollbackd.notify.receiver_queue import OutboxReader, ReceiverQueue
from rollbackd.rules.spec import QueryWhen
from rollbackd.rules.tracks import Standing, Track, step
from rollbackd.system.clock import JumpWatch, SystemClock, surely_ahead
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class SetClock(ManualClock):
    """Wall time can be set without monotonic time."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = timedelta()

    def now(self) -> datetime:
        return super().now() + self.shift


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- the real one -------------------------------------------------------------------------------
async def test_a_faster_clock_goes_as_many_times_as_far() -> None:
    clock = SystemClock(speed=1000)
    wall, own = clock.now(), clock.monotonic()
    await clock.sleep(timedelta(seconds=20))
    assert clock.monotonic() - own >= 20
    assert clock.now() - wall >= timedelta(seconds=20)
    await clock.sleep_until(clock.now() + timedelta(seconds=20))
    assert clock.monotonic() - own >= 40
    assert clock.now() - wall < HOUR


async def test_the_clock_of_production_is_the_systems() -> None:
    clock = SystemClock()
    assert abs(clock.now() - datetime.now(UTC)) < MINUTE
    assert clock.now().tzinfo is UTC


async def test_a_time_that_has_passed_is_not_waited_for() -> None:
    clock = SystemClock()
    async with asyncio.timeout(5):
        await clock.sleep_until(clock.now() - HOUR)
        await clock.sleep(-HOUR)


async def test_who_waits_for_a_time_sees_that_the_clock_was_set_forward() -> None:
    class Ahead(SystemClock):
        shift = timedelta()

        def now(self) -> datetime:
            return super().now() + self.shift

    clock = Ahead(speed=100)
    waiting = asyncio.create_task(clock.sleep_until(clock.now() + 24 * HOUR))
    await asyncio.sleep(0)
    clock.shift = 25 * HOUR
    async with asyncio.timeout(5):
        await waiting


# -- the clock of somebody else -----------------------------------------------------------------
@given(
    st.timedeltas(timedelta(days=-9), timedelta(days=9)),
    st.timedeltas(timedelta(), timedelta(days=1)),
    st.timedeltas(timedelta(), timedelta(days=1)),
)
def test_another_clock_is_never_said_to_be_further_off_than_it_is(
    ahead: timedelta, before: timedelta, after: timedelta
) -> None:
    said = surely_ahead(START, START + before + ahead, START + before + after)
    least, most = ahead - after, ahead + before
    assert least <= said <= most, "as far as anybody can know"
    assert timedelta() <= said <= ahead or ahead <= said <= timedelta()


# -- jumps --------------------------------------------------------------------------------------
@pytest.mark.parametrize("shift", [HOUR, -HOUR, 31 * SECOND])
def test_a_jump_is_seen_once_with_its_length(shift: timedelta) -> None:
    clock = SetClock()
    watch = JumpWatch(clock)
    clock.advance(HOUR)
    assert watch.look() is None
    clock.shift = shift
    assert watch.look() == shift
    assert watch.last_jump == START + HOUR + shift
    assert watch.look() is None


def test_what_a_time_server_corrects_is_no_jump() -> None:
    clock = SetClock()
    watch = JumpWatch(clock)
    for second in range(60):
        clock.shift = second * SECOND / 10
        assert watch.look() is None
    assert watch.last_jump is None


async def test_a_jump_is_told_once_also_when_somebody_else_saw_it_first() -> None:
    clock = SetClock()
    watch = JumpWatch(clock)
    told: list[timedelta] = []

    async def jumped(length: timedelta) -> None:
        told.append(length)

    running = asyncio.create_task(watch.run(jumped))
    await settle()
    clock.shift = -HOUR
    assert watch.look() == -HOUR
    for _ in range(5):
        clock.advance(timedelta(seconds=15))
        await settle()
    assert told == [-HOUR]
    clock.shift = HOUR
    clock.advance(timedelta(seconds=15))
    await settle()
    assert told == [-HOUR, 2 * HOUR]
    running.cancel()


# -- set back -----------------------------------------------------------------------------------
WHEN = QueryWhen.model_validate({"query": "up", "above": 1, "for": "5m"})


def bad(track: Track, at: datetime) -> Track:
    return step(track, WHEN, Verdict.BAD, "2", at)


def test_what_is_pending_begins_again_when_the_clock_is_set_back() -> None:
    track = bad(bad(Track(), START), START + 4 * MINUTE)
    track = bad(track, START - HOUR)
    assert (track.since, track.standing) == (START - HOUR, Standing.PENDING)
    assert bad(track, START - HOUR + 5 * MINUTE).standing is Standing.BAD


def test_what_was_met_stays_the_same_episode_when_the_clock_is_set_back() -> None:
    track = bad(bad(Track(), START), START + 5 * MINUTE)
    assert track.met
    track = bad(track, START - HOUR)
    assert (track.since, track.met) == (START, True)


class Deaf:
    """A receiver that fails as often as it is told to."""

    settings_model: ClassVar[type[NotifierSettings]] = NotifierSettings

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.heard: list[str] = []

    async def send(self, message: Message) -> None:
        if self.failures:
            self.failures -= 1
            raise DeliveryError("not now", permanent=False)
        self.heard.append(message.key)


def waiting(clock: SetClock, key: str, in_: timedelta = timedelta()) -> Outgoing:
    message = Message(key, "opened", "title", (("What", "it"),), "info", "thread", clock.now())
    return Outgoing(key, "room", "", encode(Envelope(message, FLEET)), clock.now() + in_, clock.now())


async def test_a_message_that_waits_for_others_alike_does_not_wait_an_hour_more() -> None:
    clock = SetClock()
    journal = MemoryJournal(clock)
    receiver: Any = Deaf(0)
    box = ReceiverQueue("room", receiver, journal, clock, OutboxReader(journal), SECOND * 35)
    await journal.enqueue([waiting(clock, "a", MINUTE)], "teller", 0)
    serving = asyncio.create_task(box.serve())
    await settle()
    assert receiver.heard == []
    clock.shift = -HOUR
    clock.advance(MINUTE)
    await settle()
    assert receiver.heard == ["a"]
    serving.cancel()


async def test_a_receiver_that_rests_does_not_rest_an_hour_more() -> None:
    clock = SetClock()
    journal = MemoryJournal(clock)
    receiver: Any = Deaf(1)
    box = ReceiverQueue("room", receiver, journal, clock, OutboxReader(journal), SECOND * 35)
    await journal.enqueue([waiting(clock, "a")], "teller", 0)
    serving = asyncio.create_task(box.serve())
    await settle()
    assert receiver.failures == 0
    clock.shift = -HOUR
    clock.advance(MINUTE)
    await settle()
    assert receiver.heard == ["a"]
    serving.cancel()
