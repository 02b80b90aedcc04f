"""Who hears of what: routes, tiers of people, a receiver's own words; questions by the thousand. In virtual time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.adapter import NotifierSettings
from rollbackd.config.models import Config, Notify, Receiver, Route, RouteWhen, Tier
from rollbackd.incident.clocks import AT_ONCE
from rollbackd.journal import Entry
from rollbackd.model import Action, Finding, Outcome, Priority
from rollbackd.notify.dispatcher import NotificationDispatcher
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import Recorder, asked, decision, opened, planned, question, refused, trigger

MINUTE = timedelta(minutes=1)
TIERS = (Tier(to=("oncall",)), Tier(after=30 * MINUTE, to=("leads",)), Tier(after=120 * MINUTE, to=("cto", "leads")))
NAMES = ("room", "oncall", "leads", "cto")


class World:
    """A journal that outlives the tellers on it, and four receivers of whom routes name the first."""

    def __init__(self, tiers: Sequence[Tier] = TIERS, routes: Sequence[Route] = (Route(to=("room",)),)) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.heard = {name: Recorder() for name in NAMES}
        self.says: Mapping[str, Mapping[str, str]] = {}
        self.tiers, self.routes = tuple(tiers), tuple(routes)

    def dispatcher(self, **given: Any) -> NotificationDispatcher:
        """A new process."""
        receivers = tuple(
            Receiver(name=name, kind="x", settings=NotifierSettings(), says=dict(self.says.get(name, {})))
            for name in NAMES
        )
        config = Config(notify=Notify(receivers=receivers, routes=self.routes, escalation=self.tiers))
        return NotificationDispatcher(self.journal, config, self.heard, self.clock, **given)

    async def write(self, *given: Any, stream: str = "incident:checkout-3", actor: str = "daemon") -> None:
        await self.journal.append(*(Entry(stream, fact, actor) for fact in given))

    async def wait(self, dispatcher: NotificationDispatcher, length: timedelta = timedelta()) -> None:
        """Let time pass, and do what `run` does then."""
        self.clock.advance(length)
        for work in (dispatcher.pump, dispatcher.remind, dispatcher.deliver, dispatcher.pump, dispatcher.deliver):
            await work()

    def events(self) -> dict[str, list[str]]:
        """What each heard, without those who heard nothing."""
        return {name: one.events for name, one in self.heard.items() if one.events}


@pytest.fixture
def world() -> World:
    return World()


# -- incidents ----------------------------------------------------------------------------------
async def test_whom_it_was_escalated_to_hears_that_and_all_that_follows(world: World) -> None:
    dispatcher = world.dispatcher()
    await world.write(opened(), planned(), facts.ApplyStarted("code"))
    await world.write(facts.Escalated(1, "the rollback of checkout did not start within 15m"))
    await world.write(facts.Closed(Outcome.RECOVERED, "well"))
    await world.wait(dispatcher, MINUTE)
    assert world.events() == {
        "room": ["opened", "started", "escalated", "recovered"],
        "oncall": ["escalated", "recovered"],
        "leads": ["escalated", "recovered"],
    }
    assert world.heard["oncall"].messages[-1].resolves


async def test_the_first_people_hear_the_opening_itself_unless_routes_told_them(world: World) -> None:
    world.routes = (Route(to=("room",)), Route(to=("oncall",), when=RouteWhen(priority=(Priority.P0,))))
    dispatcher = world.dispatcher()
    await world.write(opened(), facts.Escalated(0, AT_ONCE))
    urgent = opened(trigger=trigger(priority=Priority.P0))
    await world.write(urgent, facts.Escalated(0, AT_ONCE), stream="incident:checkout-4")
    await world.write(asked("cart"), facts.Escalated(0, AT_ONCE), stream="incident:cart-1")
    await world.wait(dispatcher, MINUTE)
    assert world.events() == {"room": ["opened", "opened", "asks"], "oncall": ["opened", "opened", "asks"]}
    assert [one.incident for one in world.heard["oncall"].messages] == ["checkout-3", "checkout-4", "cart-1"]


async def test_a_priority_that_rises_is_routed_by_what_it_is_now(world: World) -> None:
    world.routes = (Route(to=("cto",), when=RouteWhen(priority=(Priority.P0,))),)
    await world.write(replace(opened(), plans=("config", "default")), planned())
    await world.write(facts.PlanEnded("config", Outcome.INEFFECTIVE), facts.Closed(Outcome.FAILED, "no"))
    await world.wait(world.dispatcher())
    assert world.events() == {"cto": ["plan_ended", "failed"]}


async def test_a_kill_after_each_fact_tells_nobody_twice(world: World) -> None:
    for fact in (asked(), facts.Escalated(0, AT_ONCE), facts.ClockPassed("start_within", 15 * MINUTE, "late"),
                 facts.Escalated(1, "late")):  # fmt: skip
        await world.write(fact)
        for _ in range(2):
            await world.wait(world.dispatcher(), 2 * MINUTE)
    assert world.events() == {
        "room": ["asks", "clock_passed", "escalated"],
        "oncall": ["asks", "clock_passed", "escalated"],
        "leads": ["escalated"],
    }


# -- refusals without an incident ---------------------------------------------------------------
async def test_a_refusal_that_escalates_tells_the_first_at_once_and_the_next_by_time_until_it_is_seen(
    world: World,
) -> None:
    dispatcher = world.dispatcher()
    await world.write(refused(), stream="service:checkout")
    await world.wait(dispatcher)
    assert world.events() == {"room": ["refused"], "oncall": ["refused"]}
    await world.wait(dispatcher, 31 * MINUTE)
    assert sorted(world.heard["leads"].events) == ["escalated", "reminder"]
    world.clock.advance(MINUTE)
    assert await dispatcher.remind() == 0, "nothing is put into the outbox again and again"
    dispatcher = world.dispatcher()
    for _ in range(3):
        await world.wait(dispatcher, MINUTE)
    assert sorted(world.heard["leads"].events) == ["escalated", "reminder"], "a restart tells it once"
    assert "cto" not in world.events()
    await world.write(facts.NoticeAcknowledged(), stream="service:checkout", actor="unix:ann")
    await world.wait(dispatcher, 5 * MINUTE)
    assert world.heard["leads"].events[-1] == "acknowledged"
    await world.wait(dispatcher, 300 * MINUTE)
    assert "cto" not in world.events()


async def test_what_was_slept_through_is_told_to_each_tier_once(world: World) -> None:
    await world.write(refused(), stream="service:checkout")
    for _ in range(3):
        await world.wait(world.dispatcher(), 121 * MINUTE)
    escalated = {name: events.count("escalated") for name, events in world.events().items()}
    assert escalated == {"room": 2, "oncall": 2, "leads": 2, "cto": 1}
    keys = [one.key for one in world.heard["leads"].messages if one.event == "escalated"]
    assert len(keys) == len(set(keys)) == 2


async def test_a_refusal_that_goes_on_no_more_or_does_not_escalate_stays_with_the_routes(world: World) -> None:
    dispatcher = world.dispatcher(goes_on=lambda _service, _episode: False)
    await world.write(refused(), stream="service:checkout")
    mild = decision("cart", Finding("window", Action.ASK, "outside the allowed windows"), action=Action.REFUSE)
    await world.write(facts.Decided(mild), stream="service:cart")
    await world.wait(dispatcher)
    await world.wait(dispatcher, 200 * MINUTE)
    assert world.events() == {"room": ["refused", "refused"], "oncall": ["refused"]}


async def test_the_same_episode_refused_for_another_reason_begins_anew(world: World) -> None:
    dispatcher = world.dispatcher()
    await world.write(refused(), stream="service:checkout")
    await world.wait(dispatcher, 31 * MINUTE)
    await world.wait(dispatcher, 40 * MINUTE)
    assert world.heard["leads"].events.count("escalated") == 1
    await world.write(refused(guard="breaker"), stream="service:checkout")
    await world.wait(dispatcher, MINUTE)
    assert world.heard["leads"].events.count("escalated") == 1
    await world.wait(dispatcher, 31 * MINUTE)
    assert world.heard["leads"].events.count("escalated") == 2


# -- questions ----------------------------------------------------------------------------------
async def test_questions_asked_alike_within_a_minute_are_one_message_with_the_list(world: World) -> None:
    dispatcher = world.dispatcher()
    for name in ("checkout", "cart", "pay"):
        await world.write(asked(name), stream=f"incident:{name}-1")
        await world.wait(dispatcher, timedelta(seconds=10))
    await world.wait(dispatcher, timedelta(seconds=40))
    titles = [message.title for message in world.heard["room"].messages]
    assert titles == [
        "checkout approval pending: v42 -> v41",
        "2 × approval pending, alike: cart, pay",
    ]


async def test_a_storm_of_questions_is_one_message_and_so_is_its_end(world: World) -> None:
    dispatcher = world.dispatcher()
    for n in range(120):
        stream = f"incident:s{n}-1"
        await world.write(asked(f"s{n}"), facts.Examined(()), facts.Escalated(0, AT_ONCE), stream=stream)
    await world.wait(dispatcher, MINUTE)
    assert {name: len(one.messages) for name, one in world.heard.items()} == {
        "room": 1, "oncall": 1, "leads": 0, "cto": 0,
    }  # fmt: skip
    for n in range(120):
        await world.write(facts.Closed(Outcome.EXPIRED, "nobody answered in 30m"), stream=f"incident:s{n}-1")
    await world.wait(dispatcher, 2 * MINUTE)
    assert world.events() == {"room": ["asks", "expired"], "oncall": ["asks", "expired"]}


async def test_a_question_is_reminded_of_and_a_last_time_shortly_before_its_end(world: World) -> None:
    dispatcher = world.dispatcher()
    await world.write(asked(question=question(expires=world.clock.now() + 100 * MINUTE)))
    for _ in range(100):
        await world.wait(dispatcher, MINUTE)
        if len(world.heard["room"].events) == 3:
            dispatcher = world.dispatcher()
    titles = [one.title for one in world.heard["room"].messages if one.event == "reminder"]
    usual = "Reminder: checkout approval pending: v42 -> v41"
    assert titles == [usual, usual, f"{usual}, only 20m are left"]


# -- a receiver's own words ---------------------------------------------------------------------
async def test_a_receiver_with_words_of_its_own_hears_those_and_nothing_else(world: World) -> None:
    world.says = {
        "room": {"opened": "$service has trouble since $time, we are on it.", "recovered": "$service is well: $$0."}
    }
    dispatcher = world.dispatcher()
    await world.write(opened(), planned(), facts.ApplyStarted("code"), facts.Closed(Outcome.RECOVERED, "well"))
    await world.wait(dispatcher, MINUTE)
    assert [(one.event, one.title, one.lines) for one in world.heard["room"].messages] == [
        ("opened", "checkout has trouble since 2026-03-02 10:00:00 UTC, we are on it.", ()),
        ("recovered", "checkout is well: $0.", ()),
    ]
