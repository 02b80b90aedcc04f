"""The way from facts to people: durable, at least once, again until it is acknowledged. On both journals."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.adapter import Message
from rollbackd.config.models import Config, Notify, Route, RouteWhen
from rollbackd.journal import Entry, Journal, Outgoing, open_journal
from rollbackd.model import FLEET, Outcome, Priority
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.messages import presenter, self_notices
from rollbackd.notify.receiver_queue import GIVE_UP, LONGEST_PAUSE, batches, pause
from rollbackd.notify.sending_times import GATHER, TOGETHER
from rollbackd.system import boundary
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import Recorder, asked, never, opened, planned, refused, soon, trigger

INCIDENT = "incident:checkout-3"
MINUTE = timedelta(minutes=1)
HALF_AN_HOUR = timedelta(minutes=30)


class Killed(BaseException):
    """The process is gone."""


class World:
    """A journal that outlives the tellers on it, and two receivers."""

    def __init__(self, journal: Journal, clock: ManualClock) -> None:
        self.journal = journal
        self.clock = clock
        self.room = Recorder()
        self.oncall = Recorder()
        self.routes: tuple[Route, ...] = ()

    def dispatcher(self, receivers: Mapping[str, Recorder] | None = None, **given: Any) -> NotificationDispatcher:
        """A new process."""
        notifiers = {"room": self.room, "oncall": self.oncall} if receivers is None else receivers
        config = Config(notify=Notify(routes=self.routes))
        return NotificationDispatcher(self.journal, config, notifiers, self.clock, **given)

    async def write(self, *given: Any, stream: str = INCIDENT) -> None:
        await self.journal.append(*(Entry(stream, fact) for fact in given))

    async def facts(self, kind: type, stream: str = INCIDENT) -> list[Any]:
        return [record.fact for record in await self.journal.read(stream) if isinstance(record.fact, kind)]

    async def notices(self) -> list[str]:
        return [notice.kind for notice in await self.facts(facts.Notice, FLEET)]

    async def wait(self, dispatcher: NotificationDispatcher, length: timedelta) -> None:
        """Let time pass, and do what `run` does then."""
        self.clock.advance(length)
        await round_of(dispatcher)


async def round_of(dispatcher: NotificationDispatcher) -> None:
    """What `run` does, once and in order."""
    await dispatcher.pump()
    await dispatcher.remind()
    await dispatcher.deliver()
    await dispatcher.pump()
    await dispatcher.deliver()


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock = ManualClock()
    if request.param == "memory":
        yield World(MemoryJournal(clock), clock)
        return
    journal = await open_journal(f"sqlite:///{tmp_path}/journal.db", clock)
    yield World(journal, clock)
    await journal.close()


@pytest.fixture
def broken() -> World:
    """A world whose journal can be broken."""
    clock = ManualClock()
    return World(MemoryJournal(clock), clock)


# -- told once ----------------------------------------------------------------------------------
async def test_a_fact_is_told_to_everybody_with_a_key_of_its_place_and_journaled_as_told(world: World) -> None:
    dispatcher = world.dispatcher()
    await world.write(opened())
    await round_of(dispatcher)
    assert [message.key for message in world.room.messages] == ["incident:checkout-3/1/room"]
    assert [message.key for message in world.oncall.messages] == ["incident:checkout-3/1/oncall"]
    told = await world.facts(facts.Told)
    assert {(one.receiver, one.event, one.key) for one in told} == {
        ("room", "opened", "incident:checkout-3/1/room"),
        ("oncall", "opened", "incident:checkout-3/1/oncall"),
    }
    await round_of(dispatcher)
    assert len(world.room.tried) == 1
    assert len(await world.facts(facts.Told)) == 2


async def test_a_restart_repeats_nothing(world: World) -> None:
    await world.write(opened(), planned(), facts.ApplyStarted("code"))
    await round_of(world.dispatcher())
    await round_of(world.dispatcher())
    assert world.room.events == ["opened", "started"]


async def test_a_kill_at_any_boundary_loses_nothing_and_journals_each_telling_once(world: World) -> None:
    left = 0

    def kill(name: str) -> None:
        nonlocal left
        if name.startswith("notify."):
            left -= 1
            if left == 0:
                raise Killed

    for place in range(1, 100):
        left, stream = place, f"incident:checkout-{place}"
        before = len(world.room.messages)
        begun = (opened(), planned(), facts.ApplyStarted("code"), facts.Closed(Outcome.RECOVERED, "well"))
        await world.write(*begun, stream=stream)
        boundary.hook = kill
        try:
            await round_of(world.dispatcher({"room": world.room}))
        except Killed:
            await round_of(world.dispatcher({"room": world.room}))
        told = [one.key for one in await world.facts(facts.Told, stream)]
        assert told == [f"{stream}/{n}/room" for n in (1, 3, 4)]
        # What was sent twice has the same key, so that a receiver can tell.
        assert {message.key for message in world.room.messages[before:]} == set(told)
        if left > 0:
            break
    assert place == 7, "three messages, two boundaries each"


async def test_a_kill_between_sending_and_journaling_sends_again_with_the_same_key(world: World) -> None:
    def kill(name: str) -> None:
        if name == "notify.sent":
            raise Killed

    await world.write(opened())
    boundary.hook = kill
    with pytest.raises(Killed):
        await round_of(world.dispatcher({"room": world.room}))
    boundary.hook = lambda _name: None
    await round_of(world.dispatcher({"room": world.room}))
    first, second = world.room.messages
    assert first == second


async def test_facts_that_are_written_while_it_runs_are_told(world: World) -> None:
    dispatcher = world.dispatcher()
    running = asyncio.create_task(dispatcher.run())
    await world.write(opened())
    await world.room.until(1)
    await world.write(facts.Closed(Outcome.RECOVERED, "well"))
    await world.oncall.until(2)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert world.oncall.events == ["opened", "recovered"]


# -- to whom ------------------------------------------------------------------------------------
async def test_every_route_that_matches_is_used_and_nobody_is_told_twice(world: World) -> None:
    world.routes = (
        Route(to=("room",)),
        Route(to=("room", "oncall"), when=RouteWhen(priority=(Priority.P0,), service=("checkout",))),
        Route(to=("oncall",), when=RouteWhen(event=("recovered",))),
    )
    await world.write(opened(), facts.Closed(Outcome.RECOVERED, "well"))
    await world.write(opened(trigger=trigger(priority=Priority.P0)), stream="incident:checkout-4")
    await round_of(world.dispatcher())
    assert world.room.events == ["opened", "recovered", "opened"]
    assert [(message.event, message.incident) for message in world.oncall.messages] == [
        ("recovered", "checkout-3"),
        ("opened", "checkout-4"),
    ]


async def test_what_is_about_rollbackd_itself_reaches_everybody_when_no_route_takes_it(world: World) -> None:
    world.routes = (Route(to=("oncall",), when=RouteWhen(priority=(Priority.P0,))),)
    await world.write(facts.Notice("backend_unreachable", "prometheus does not answer"), stream=FLEET)
    await world.write(facts.Notice("quarantined_release", "v42 is back", "checkout"), stream=FLEET)
    await round_of(world.dispatcher())
    assert world.room.events == world.oncall.events == ["backend_unreachable"]


# -- receivers that fail ------------------------------------------------------------------------
async def test_a_receiver_that_hangs_holds_up_nobody_else(world: World) -> None:
    world.room.hang = True
    running = asyncio.create_task(world.dispatcher().run())
    await world.write(opened(), facts.Closed(Outcome.RECOVERED, "well"))
    await world.oncall.until(2)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(world.room.tried) == 1


async def test_a_stop_is_heeded_though_a_library_swallows_it(world: World) -> None:
    class Deaf(Recorder):
        """As `asyncio.wait_for` of Python 3.11: the answer comes at the instant of the cancelling, and wins."""

        async def send(self, message: Message) -> None:
            reached.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await super().send(message)

    reached = asyncio.Event()
    await world.write(opened())
    running = asyncio.create_task(world.dispatcher({"room": Deaf()}).run())
    await reached.wait()
    running.cancel()
    _, left = await asyncio.wait({running}, timeout=10)
    assert not left
    assert [one.receiver for one in await world.facts(facts.Told)] == ["room"], "and what was sent is known as sent"


async def test_a_receiver_that_does_not_answer_is_left_after_a_while(world: World) -> None:
    world.room.hang = True
    dispatcher = world.dispatcher({"room": world.room}, patience=timedelta(milliseconds=20))
    await world.write(opened())
    await round_of(dispatcher)
    (row,) = await world.journal.waiting()
    assert (row.attempts, row.error) == (1, "room did not answer in time")


async def test_failures_are_retried_with_growing_pauses_across_restarts(world: World) -> None:
    world.room.always = soon()
    await world.write(opened())
    for tries in range(1, 6):
        await round_of(world.dispatcher({"room": world.room}))
        (row,) = await world.journal.waiting()
        assert row.attempts == tries
        wait = row.not_before - world.clock.now()
        assert pause(row.key, tries) == wait
        assert timedelta(seconds=5 * 2 ** (tries - 1) * 0.75) <= wait <= timedelta(seconds=5 * 2 ** (tries - 1))
        await round_of(world.dispatcher({"room": world.room}))
        assert len(world.room.tried) == tries, "not before its time"
        world.clock.advance(wait)
    world.room.always = None
    await round_of(world.dispatcher({"room": world.room}))
    assert world.room.events == ["opened"]
    assert await world.journal.waiting() == []


async def test_what_a_receiver_asks_for_is_honoured(world: World) -> None:
    world.room.answers.append(soon(timedelta(minutes=7)))
    await world.write(opened())
    dispatcher = world.dispatcher({"room": world.room})
    await round_of(dispatcher)
    await world.wait(dispatcher, timedelta(minutes=6, seconds=59))
    assert len(world.room.tried) == 1
    await world.wait(dispatcher, timedelta(seconds=1))
    assert world.room.events == ["opened"]


async def test_messages_keep_their_order_over_a_short_failure(world: World) -> None:
    world.room.answers.append(soon())
    dispatcher = world.dispatcher({"room": world.room})
    await world.write(opened())
    await round_of(dispatcher)
    await world.write(facts.Closed(Outcome.RECOVERED, "well"))
    await round_of(dispatcher)
    await world.wait(dispatcher, timedelta(seconds=5))
    assert world.room.events == ["opened", "recovered"]


async def test_after_a_day_it_is_given_up_and_its_words_go_to_the_others(world: World) -> None:
    world.room.always = soon()
    dispatcher = world.dispatcher()
    await world.write(opened())
    await round_of(dispatcher)
    await world.wait(dispatcher, GIVE_UP)
    assert await world.notices() == [self_notices.UNREACHABLE, self_notices.UNDELIVERABLE]
    (message,) = [one for one in world.oncall.messages if one.event == self_notices.UNDELIVERABLE]
    assert "checkout rolling back" in dict(message.lines)["message"]
    assert self_notices.UNDELIVERABLE not in [one.event for one in world.room.tried]


async def test_a_permanent_failure_is_given_up_at_once_and_its_words_go_to_the_others(world: World) -> None:
    world.room.always = never()
    dispatcher = world.dispatcher()
    await world.write(opened())
    await round_of(dispatcher)
    assert len(world.room.tried) == 1
    assert world.oncall.events == ["opened", self_notices.UNDELIVERABLE]
    assert "404: no_service" in dict(world.oncall.messages[1].lines)["What"]
    assert await world.journal.waiting() == []


async def test_when_all_fail_for_good_notices_do_not_breed_notices(world: World) -> None:
    world.room.always = world.oncall.always = never()
    dispatcher = world.dispatcher()
    await world.write(opened())
    for _ in range(5):
        await world.wait(dispatcher, MINUTE)
    assert await world.notices() == [self_notices.UNDELIVERABLE, self_notices.UNDELIVERABLE]
    assert await world.journal.waiting() == []


async def test_a_receiver_that_takes_nothing_for_long_is_announced_once_and_when_it_is_back(world: World) -> None:
    world.room.always = soon()
    dispatcher = world.dispatcher()
    await world.write(opened())
    for _ in range(30):
        await world.wait(dispatcher, MINUTE)
    assert await world.notices() == [self_notices.UNREACHABLE]
    world.room.always = None
    await world.wait(dispatcher, LONGEST_PAUSE)
    assert world.oncall.events == ["opened", self_notices.UNREACHABLE, self_notices.UNREACHABLE]
    assert [one.resolves for one in world.oncall.messages] == [False, False, True]
    assert self_notices.UNREACHABLE not in world.room.events


async def test_the_text_of_an_unknown_error_is_never_repeated(world: World) -> None:
    world.room.always = RuntimeError("https://hooks.example/services/s3cr3t")
    await world.write(opened())
    await round_of(world.dispatcher({"room": world.room}))
    (row,) = await world.journal.waiting()
    assert row.error == "room failed with RuntimeError"


async def test_messages_for_a_receiver_that_is_gone_go_to_the_others(world: World) -> None:
    world.room.always = soon()
    await world.write(opened())
    await round_of(world.dispatcher())
    await round_of(world.dispatcher({"oncall": world.oncall}))
    assert world.oncall.events == ["opened", self_notices.UNDELIVERABLE]
    assert await world.journal.waiting() == []


async def test_too_many_waiting_messages_are_announced_once_and_when_it_is_over(world: World) -> None:
    world.room.always = soon()
    dispatcher = world.dispatcher(many=3)
    for n in range(5):
        await world.write(opened(), stream=f"incident:s-{n}")
    await round_of(dispatcher)
    for _ in range(3):
        await dispatcher._watch_the_queue()
    assert await world.notices() == [self_notices.WAITING]
    assert dispatcher.waiting() == {"room": 5, "oncall": 0}
    world.room.always = None
    await world.wait(dispatcher, LONGEST_PAUSE)
    await dispatcher._watch_the_queue()
    assert await world.notices() == [self_notices.WAITING, self_notices.WAITING]


# -- alike --------------------------------------------------------------------------------------
async def test_the_first_goes_at_once_and_those_alike_within_a_minute_go_as_one(world: World) -> None:
    dispatcher = world.dispatcher({"room": world.room})
    for name in ("checkout", "cart", "pay"):
        await world.write(refused(name), stream=f"service:{name}")
        await world.wait(dispatcher, timedelta(seconds=10))
    assert [message.service for message in world.room.messages] == ["checkout"]
    await world.wait(dispatcher, timedelta(seconds=40))
    assert [message.title for message in world.room.messages[1:]] == ["2 × need a person, decided alike: cart, pay"]
    assert await world.journal.waiting() == []


async def test_those_decided_at_once_go_as_one_at_once(world: World) -> None:
    for name in ("checkout", "cart", "pay"):
        await world.write(refused(name), stream=f"service:{name}")
    await world.write(refused("ads", guard="breaker"), stream="service:ads")
    await round_of(world.dispatcher({"room": world.room}))
    assert [message.service for message in world.room.messages] == ["", "ads"]
    assert world.room.messages[0].title.startswith("3 × need a person")


async def test_a_storm_that_is_still_being_decided_on_is_one_message_for_each_receiver(world: World) -> None:
    under_way = 3
    dispatcher = world.dispatcher(deciding=lambda: under_way)
    for name in ("checkout", "cart", "pay"):
        await world.write(refused(name), stream=f"service:{name}")
        await world.wait(dispatcher, timedelta(seconds=1))
        under_way -= 1
    assert (world.room.messages, world.oncall.messages) == ([], [])
    await world.wait(dispatcher, GATHER)
    for one in (world.room, world.oncall):
        assert [message.title for message in one.messages] == ["3 × need a person, decided alike: checkout, cart, pay"]
    await world.write(refused("ads"), stream="service:ads")
    await world.wait(dispatcher, timedelta(seconds=1))
    assert len(world.room.messages) == 1, "what comes after it waits for the end of its minute"
    await world.wait(dispatcher, TOGETHER)
    assert world.room.messages[-1].service == "ads"


async def test_a_plot_goes_to_who_shows_it_with_what_is_about_one_incident(world: World) -> None:
    async def plots(incident: str) -> str:
        return f"<svg>{incident}</svg>"

    world.room.shows_plots = True
    await world.write(facts.Notice("override", "somebody stopped it", "checkout"), stream=FLEET)
    await world.write(opened())
    dispatcher = world.dispatcher(plots=plots)
    await round_of(dispatcher)
    assert [one.plot for one in world.room.messages] == ["", "<svg>checkout-3</svg>"]
    assert [one.plot for one in world.oncall.messages] == ["", ""]


SHOPS = ("checkout", "cart", "pay")
ALL = tuple(f"{name}-3" for name in SHOPS)


async def ask(world: World) -> NotificationDispatcher:
    """Three questions at once; whoever is on call keeps open what it is told."""
    world.oncall.keeps_open = True
    for name in SHOPS:
        await world.write(asked(name), stream=f"incident:{name}-3")
    dispatcher = world.dispatcher()
    await round_of(dispatcher)
    return dispatcher


def resolved(recorder: Recorder) -> list[str]:
    return [one.thread for one in recorder.messages if one.resolves]


async def test_a_page_about_several_is_resolved_with_the_end_of_the_last_of_them(world: World) -> None:
    await ask(world)
    (page,) = world.oncall.messages
    assert await world.facts(facts.Paged, FLEET) == [facts.Paged("oncall", page.thread, ALL)]
    for name, outcome in zip(SHOPS, (Outcome.RECOVERED, Outcome.FAILED, Outcome.DECLINED), strict=True):
        assert page.thread not in resolved(world.oncall)
        await world.write(facts.Closed(outcome, "so it is"), stream=f"incident:{name}-3")
        await round_of(world.dispatcher())  # a new process each time
    assert resolved(world.oncall) == [page.thread], "of none alone, since none was told alone but the failure"
    assert resolved(world.room) == ["checkout-3"], "it keeps nothing open"
    await world.write(facts.Acknowledged(), stream="incident:cart-3")
    await round_of(world.dispatcher())
    assert resolved(world.oncall).count(page.thread) == 1


@pytest.mark.parametrize("ended", [2, 3])
async def test_nobody_is_woken_for_what_is_over_before_the_page_could_go_out(world: World, ended: int) -> None:
    world.oncall.always = soon()
    dispatcher = await ask(world)
    for name in SHOPS[:ended]:
        await world.write(facts.Closed(Outcome.ABORTED, "no"), stream=f"incident:{name}-3")
    await round_of(dispatcher)
    world.oncall.always = None
    await world.wait(dispatcher, MINUTE)
    assert [(one.event, one.incident) for one in world.oncall.messages] == [("asks", name) for name in ALL[ended:]]
    assert world.room.events.count("aborted") == ended, "who keeps nothing open hears all of it"


async def test_a_flush_tells_at_once_what_waits_for_others_and_says_what_is_left(world: World) -> None:
    world.oncall.always = soon()
    dispatcher = world.dispatcher()
    await round_of(dispatcher)
    for name in ("checkout", "cart"):
        await world.write(refused(name), stream=f"service:{name}")
        await dispatcher.pump()
    assert await dispatcher.flush(timedelta(seconds=5)) == 2
    assert len(world.room.messages) == 1
    assert len(world.oncall.tried) == 1


async def test_a_flush_ends_in_time(broken: World) -> None:
    broken.room.hang = True
    await broken.write(opened())
    assert await broken.dispatcher().flush(timedelta(milliseconds=200)) == 1
    assert broken.oncall.events == ["opened"]


# -- reminders ----------------------------------------------------------------------------------
async def failed(world: World) -> None:
    await world.write(opened(), planned(), facts.Entering("traffic"), facts.Closed(Outcome.FAILED, "npm exited 1"))


async def test_a_trouble_is_reminded_of_each_period_until_somebody_acknowledges_it(world: World) -> None:
    dispatcher = world.dispatcher({"room": world.room})
    await failed(world)
    await round_of(dispatcher)
    for _ in range(4):
        await world.wait(dispatcher, HALF_AN_HOUR / 2)
    assert world.room.events == ["opened", "started", "failed", "reminder", "reminder"]
    assert "traffic" in dict(world.room.messages[-1].lines)["Still entered"]
    await world.write(facts.Acknowledged())
    for _ in range(4):
        await world.wait(dispatcher, HALF_AN_HOUR)
    assert world.room.events[5:] == ["acknowledged"]


async def test_a_reminder_is_never_doubled_by_a_restart_nor_made_up_for_a_time_that_was_slept_through(
    world: World,
) -> None:
    await failed(world)
    await round_of(world.dispatcher({"room": world.room}))
    world.clock.advance(HALF_AN_HOUR * 5)
    for _ in range(3):
        await round_of(world.dispatcher({"room": world.room}))
    assert [message.key for message in world.room.messages[3:]] == ["checkout-3/reminder/4.5/room"]


async def test_a_refusal_is_reminded_of_until_it_is_acknowledged_on_its_service(world: World) -> None:
    going_on = {"checkout": True}
    dispatcher = world.dispatcher({"room": world.room}, goes_on=lambda service, _episode: going_on[service])
    await world.write(refused(), stream="service:checkout")
    await round_of(dispatcher)
    await world.wait(dispatcher, HALF_AN_HOUR)
    going_on["checkout"] = False
    await world.wait(dispatcher, HALF_AN_HOUR)
    going_on["checkout"] = True
    await world.wait(dispatcher, HALF_AN_HOUR)
    assert world.room.events == ["refused", "reminder", "reminder"]
    assert world.room.messages[2].key.endswith("/1.3/room")
    await world.write(facts.NoticeAcknowledged(), stream="service:checkout")
    await world.wait(dispatcher, HALF_AN_HOUR)
    assert world.room.events == ["refused", "reminder", "reminder", "acknowledged"]


async def test_a_backend_that_stays_away_is_reminded_of_until_it_is_over(world: World) -> None:
    dispatcher = world.dispatcher({"room": world.room})
    await world.write(facts.Notice("backend_unreachable", "prometheus does not answer"), stream=FLEET)
    await round_of(dispatcher)
    await world.wait(dispatcher, HALF_AN_HOUR)
    await world.write(facts.Notice("backend_unreachable", "prometheus answers", over=True), stream=FLEET)
    await world.wait(dispatcher, HALF_AN_HOUR)
    assert world.room.events == ["backend_unreachable", "reminder", "backend_unreachable"]


async def test_reminders_that_a_dead_receiver_missed_come_as_one(world: World) -> None:
    dispatcher = world.dispatcher({"room": world.room})
    await failed(world)
    await round_of(dispatcher)
    world.room.always = soon()
    for _ in range(4):
        await world.wait(dispatcher, HALF_AN_HOUR)
    world.room.always = None
    for _ in range(2):
        await world.wait(dispatcher, LONGEST_PAUSE)
    assert world.room.events.count("reminder") == 1
    assert len(await world.facts(facts.Told)) == 3 + 4


async def test_a_restart_after_many_facts_knows_old_troubles_and_need_not_read_all(world: World) -> None:
    quiet = facts.Notice("quarantined_release", "v42", "checkout", over=True)
    await world.write(*[quiet] * 1200, stream=FLEET)
    await failed(world)
    await world.write(*[facts.Adopted("boot/1")] * 1200)
    dispatcher = world.dispatcher({})
    await dispatcher.pump()
    assert 1000 <= await world.journal.cursor("teller.troubles") <= 1200
    world.clock.advance(HALF_AN_HOUR)
    await round_of(world.dispatcher({"room": world.room}))
    assert world.room.events == ["reminder"]


# -- a journal that cannot be written -----------------------------------------------------------
async def test_what_was_sent_is_not_sent_again_because_the_journal_was_full_for_a_while(broken: World) -> None:
    journal = broken.journal
    assert isinstance(journal, MemoryJournal)
    broken.room.during = lambda: setattr(journal, "broken", True)
    dispatcher = broken.dispatcher({"room": broken.room})
    await broken.write(opened())
    running = asyncio.create_task(dispatcher.run())
    await broken.room.until(1)
    broken.room.during = lambda: None
    journal.broken = False
    async with asyncio.timeout(10):
        while await journal.waiting():
            broken.clock.advance(timedelta(seconds=5))
            await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert broken.room.events.count("opened") == 1


async def test_a_full_journal_is_told_directly_and_what_was_not_written_comes_later(broken: World) -> None:
    journal = broken.journal
    assert isinstance(journal, MemoryJournal)
    await broken.write(opened())
    journal.broken = True
    running = asyncio.create_task(broken.dispatcher().run())
    await broken.room.until(1)
    assert broken.room.events == ["journal"]
    journal.broken = False
    async with asyncio.timeout(10):
        while len(broken.room.messages) < 2:
            broken.clock.advance(timedelta(seconds=5))
            await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert broken.room.events == ["journal", "opened"]


async def test_the_same_is_told_directly_once_in_ten_minutes_or_sooner_when_nobody_took_it(broken: World) -> None:
    dispatcher = broken.dispatcher()
    message = self_notices.unrecorded(START, "no space left on device")
    broken.room.always = broken.oncall.always = soon()
    assert await dispatcher.tell_directly(message) == ()
    broken.room.always = None
    assert await dispatcher.tell_directly(message) == ()
    broken.clock.advance(timedelta(seconds=30))
    assert await dispatcher.tell_directly(message) == ("room",)
    broken.clock.advance(timedelta(minutes=9))
    assert await dispatcher.tell_directly(message) == ()
    broken.clock.advance(MINUTE)
    assert await dispatcher.tell_directly(message) == ("room",)


# -- what must not silence the rest -------------------------------------------------------------
async def test_a_fact_without_words_is_told_poorly_and_the_next_is_told_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speechless(told: Any, fact: Any) -> Any:
        raise LookupError("no words")

    monkeypatch.setitem(presenter._MAKERS, facts.Opened, speechless)
    await world.write(opened(), facts.Closed(Outcome.RECOVERED, "well"))
    await round_of(world.dispatcher({"room": world.room}))
    assert world.room.events == ["unreadable", "recovered"]


async def test_a_row_that_cannot_be_read_is_given_up_and_the_next_is_sent(world: World) -> None:
    row = Outgoing("odd", "room", "", b"{}", START, START)
    await world.journal.enqueue([row], "teller", 0)
    await world.write(opened())
    dispatcher = world.dispatcher()
    await round_of(dispatcher)
    assert world.room.events == world.oncall.events == ["opened", self_notices.UNDELIVERABLE]


# -- pure ---------------------------------------------------------------------------------------
def row(number: int, group: str = "", attempts: int = 0) -> Outgoing:
    return Outgoing(f"k{number}", "room", group, b"", START, START, attempts, "", number)


def test_a_message_that_failed_often_lets_the_others_by() -> None:
    assert batches([row(1, attempts=4), row(2), row(3)]) == [[row(2)], [row(3)], [row(1, attempts=4)]]
    assert batches([row(1, attempts=3), row(2)]) == [[row(1, attempts=3)], [row(2)]]


def test_a_group_is_sent_whole_but_not_without_end() -> None:
    assert batches([row(1, "g"), row(2), row(3, "g"), row(4, "h")]) == [
        [row(1, "g"), row(3, "g")],
        [row(2)],
        [row(4, "h")],
    ]
    assert [len(one) for one in batches([row(n, "g") for n in range(4100)])] == [2000, 2000, 100]


def test_pauses_grow_to_ten_minutes_and_differ_by_key() -> None:
    for times in range(1, 100):
        assert timedelta(seconds=3.75) <= pause("k", times) <= LONGEST_PAUSE
    assert pause("k", 99) >= LONGEST_PAUSE * 0.75
    assert len({pause(f"k{n}", 5) for n in range(20)}) > 10
