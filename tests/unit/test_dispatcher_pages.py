"""What a receiver that keeps open what it is told hears of the end: of pages about several, and of refusals."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.config.models import Config, Notify, Route, RouteWhen, Tier
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Action, Outcome
from rollbackd.notify.dispatcher import TICK, NotificationDispatcher
from rollbackd.notify.messages.troubles import PAGE_ENDS
from rollbackd.rules.tracks import CALM
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import BAD, GOOD, Recorder, asked, opened, refused, soon, trigger

MINUTE = timedelta(minutes=1)
SHOPS = ("checkout", "cart", "search")


class World:
    """A journal that outlives the tellers on it; whoever is on call keeps open what it is told, the room does not."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.room, self.oncall, self.leads = Recorder(), Recorder(keeps_open=True), Recorder()
        self.over: Callable[[str, str], str] = lambda _service, _episode: ""
        self.notify = Notify()

    def dispatcher(self) -> NotificationDispatcher:
        """A new process."""
        receivers = {"room": self.room, "oncall": self.oncall, "leads": self.leads}
        return NotificationDispatcher(
            self.journal,
            Config(notify=self.notify),
            receivers,
            self.clock,
            over=lambda service, episode: self.over(service, episode),  # noqa: PLW0108  # a test replaces it
        )

    async def write(self, stream: str, *given: Any, actor: str = "daemon") -> None:
        await self.journal.append(*(Entry(stream, fact, actor) for fact in given))

    async def facts(self, stream: str, kind: type) -> list[Any]:
        return [record.fact for record in await self.journal.read(stream) if isinstance(record.fact, kind)]

    async def ask(self) -> NotificationDispatcher:
        """Questions about all shops at once."""
        dispatcher = self.dispatcher()
        for name in SHOPS:
            await self.write(f"incident:{name}-3", asked(name))
        await self.wait(dispatcher)
        return dispatcher

    async def wait(self, dispatcher: NotificationDispatcher, length: timedelta = timedelta()) -> None:
        """Let time pass, and do what `run` does then."""
        self.clock.advance(length)
        for work in (
            dispatcher.pump,
            dispatcher.settle,
            dispatcher.pump,
            dispatcher.remind,
            dispatcher.deliver,
            dispatcher.pump,
            dispatcher.deliver,
        ):
            await work()

    async def pass_by(self, length: timedelta) -> None:
        """Time goes on as in the daemon: a look now and then, each by a process that has it all from the journal."""
        dispatcher = self.dispatcher()
        for _ in range(int(length / TICK) + 1):
            await self.wait(dispatcher, TICK)

    def acknowledged(self) -> list[str]:
        return [one.thread for one in self.oncall.messages if one.acknowledged]

    def resolved(self) -> list[str]:
        return [thread for one in self.oncall.messages if one.resolves for thread in (one.thread, *one.settles)]


@pytest.fixture
def world() -> World:
    return World()


# -- pages about several ------------------------------------------------------------------------
async def test_a_page_about_several_is_acknowledged_once_all_of_them_are(world: World) -> None:
    await world.ask()
    (page,) = world.oncall.messages
    for name in SHOPS:
        assert page.thread not in world.acknowledged()
        await world.write(f"incident:{name}-3", facts.Acknowledged(), actor="unix:ann")
        await world.wait(world.dispatcher())  # a new process each time
    assert world.acknowledged() == [page.thread], "none of them was paged alone"
    assert [one.thread for one in world.room.messages if one.acknowledged] == ["checkout-3", "cart-3", "search-3"]
    await world.write("incident:cart-3", facts.Acknowledged(), actor="unix:bob")
    await world.wait(world.dispatcher())
    assert world.acknowledged().count(page.thread) == 1
    assert page.thread not in world.resolved()


async def test_what_has_ended_need_not_be_acknowledged_for_the_others_to_be_enough(world: World) -> None:
    dispatcher = await world.ask()
    (page,) = world.oncall.messages
    for name in SHOPS[:2]:
        await world.write(f"incident:{name}-3", facts.Acknowledged())
    await world.wait(dispatcher)
    assert page.thread not in world.acknowledged()
    await world.write("incident:search-3", facts.Closed(Outcome.EXPIRED, "nobody answered"))
    await world.wait(dispatcher)
    assert world.acknowledged()[-1] == page.thread
    for name in SHOPS[:2]:
        await world.write(f"incident:{name}-3", facts.Closed(Outcome.DECLINED, "no"))
    await world.wait(dispatcher)
    assert world.resolved() == [page.thread]


async def test_a_page_that_goes_out_when_all_of_it_was_seen_is_acknowledged_at_once(world: World) -> None:
    world.oncall.always = soon()
    dispatcher = await world.ask()
    for name in SHOPS:
        await world.write(f"incident:{name}-3", facts.Acknowledged())
    await world.wait(dispatcher)
    world.oncall.always = None
    await world.wait(dispatcher, MINUTE)
    page = next(one for one in world.oncall.messages if one.event == "asks")
    assert world.acknowledged()[-1] == page.thread


async def test_what_was_seen_before_time_was_over_does_not_silence_the_new_page(world: World) -> None:
    dispatcher = await world.ask()
    for name in SHOPS:
        await world.write(f"incident:{name}-3", facts.Acknowledged())
    await world.wait(dispatcher)
    known = len(world.acknowledged())
    for name in SHOPS:
        await world.write(f"incident:{name}-3", facts.ClockPassed("recover_within", 30 * MINUTE, "out of time"))
    await world.wait(dispatcher, 2 * MINUTE)
    assert len(await world.facts(FLEET, facts.Paged)) == 2
    assert len(world.acknowledged()) == known


# -- refusals -----------------------------------------------------------------------------------
async def test_a_refusal_whose_trouble_ends_by_itself_is_resolved_when_it_stays_away(world: World) -> None:
    await world.write("service:checkout", refused())
    await world.wait(world.dispatcher())
    (page,) = world.oncall.messages
    world.over = lambda _service, episode: "0.2%, not above 10%" if episode == "episode-checkout" else ""
    await world.pass_by(CALM - MINUTE)
    assert world.resolved() == []
    await world.pass_by(CALM + MINUTE)
    assert world.resolved() == [page.thread]
    last = world.room.messages[-1]
    assert (last.event, last.thread, last.severity) == ("passed", page.thread, "info")
    assert "0.2%, not above 10%" in dict(last.lines)["What"]
    ended = await world.facts("service:checkout", facts.Subsided)
    assert ended == [facts.Subsided("episode-checkout", "0.2%, not above 10%")]
    await world.pass_by(90 * MINUTE)
    assert world.resolved() == [page.thread], "once, and no reminder comes after it"
    assert "reminder" not in world.room.events


async def test_trouble_that_comes_and_goes_is_not_over(world: World) -> None:
    await world.write("service:checkout", refused())
    dispatcher = world.dispatcher()
    for look in range(60):
        world.over = lambda _service, _episode, gone=look % 10 != 0: "gone" if gone else ""  # type: ignore[misc]
        await world.wait(dispatcher, CALM / 9)
    assert world.resolved() == []


async def test_an_acknowledged_refusal_is_resolved_too_and_only_who_heard_of_it_hears_that(world: World) -> None:
    world.notify = Notify(
        routes=(Route(to=("room",)),), escalation=(Tier(to=("oncall",)), Tier(after=30 * MINUTE, to=("leads",)))
    )
    await world.write("service:checkout", refused())
    await world.wait(world.dispatcher())
    (page,) = world.oncall.messages
    await world.write("service:checkout", facts.NoticeAcknowledged(), actor="unix:ann")
    await world.pass_by(60 * MINUTE)
    assert world.oncall.events == ["refused", "acknowledged"]
    world.over = lambda _service, _episode: "gone"
    await world.pass_by(CALM + MINUTE)
    assert world.oncall.events == ["refused", "acknowledged", "passed"]
    assert world.leads.events == []
    assert world.resolved() == [page.thread]


async def test_an_incident_at_work_settles_the_refusals_of_its_service_itself(world: World) -> None:
    await world.write("service:checkout", refused())
    await world.wait(world.dispatcher())
    other = replace(opened().decision, trigger=trigger(episode="another"))
    await world.write("incident:checkout-3", replace(opened(), decision=other))
    world.over = lambda _service, _episode: "gone"
    await world.pass_by(CALM + MINUTE)
    assert world.resolved() == []
    await world.write("incident:checkout-3", facts.Closed(Outcome.RECOVERED, "well"))
    await world.pass_by(CALM + MINUTE)
    assert set(world.resolved()) == {"checkout-3", "refused/checkout/episode-checkout"}, "of another it never heard"
    assert world.room.events.count("passed") == 0


async def test_the_state_that_runs_turning_out_good_resolves_what_was_refused_about_it(world: World) -> None:
    await world.write("service:checkout", refused())
    await world.wait(world.dispatcher())
    (page,) = world.oncall.messages
    await world.write("service:checkout", facts.MarkedGood(BAD, "marked by unix:ann"), actor="unix:ann")
    await world.wait(world.dispatcher())
    assert world.resolved() == [page.thread]
    assert "marked by unix:ann" in dict(world.oncall.messages[-1].lines)["What"]


async def test_refusals_told_together_are_one_page_that_ends_with_the_last_of_them(world: World) -> None:
    for name in SHOPS:
        await world.write(f"service:{name}", refused(name))
    await world.wait(world.dispatcher())
    (page,) = world.oncall.messages
    threads = tuple(f"refused/{name}/episode-{name}" for name in SHOPS)
    assert await world.facts(FLEET, facts.Paged) == [facts.Paged("oncall", page.thread, threads)]
    for name in SHOPS[1:]:
        await world.write(f"service:{name}", facts.NoticeAcknowledged())
    await world.wait(world.dispatcher())
    assert world.acknowledged() == []
    await world.write("service:checkout", facts.Subsided("episode-checkout", "gone"))
    await world.wait(world.dispatcher())
    assert (world.acknowledged(), world.resolved()) == ([page.thread], [])
    for name in SHOPS[1:]:
        await world.write(f"service:{name}", facts.Subsided(f"episode-{name}", "gone"))
    await world.wait(world.dispatcher(), 2 * MINUTE)
    assert world.resolved() == [page.thread]


async def test_a_refusal_that_became_an_incident_ends_with_it_however_that_ends(world: World) -> None:
    await world.write("service:checkout", refused())
    await world.wait(world.dispatcher())
    await world.write("incident:checkout-3", opened(), facts.Closed(Outcome.FAILED, "npm exited 1"))
    await world.wait(world.dispatcher())
    assert world.resolved() == ["refused/checkout/episode-checkout"]
    assert world.oncall.events[-1] == "failed"


# -- what has ended badly, and notices ----------------------------------------------------------
async def test_a_bad_end_is_acknowledged_and_open_until_the_service_is_known_to_be_well(world: World) -> None:
    await world.write("incident:checkout-3", opened())
    await world.wait(world.dispatcher())
    await world.write("incident:checkout-3", facts.Closed(Outcome.FAILED, "npm exited 1"))
    await world.wait(world.dispatcher(), MINUTE)
    await world.write("incident:checkout-3", facts.Acknowledged(), actor="unix:ann")
    await world.wait(world.dispatcher(), MINUTE)
    assert world.oncall.events == ["opened", "failed", "acknowledged"]
    assert (world.acknowledged(), world.resolved()) == (["checkout-3"], [])
    await world.write("service:checkout", facts.MarkedGood(BAD, "it baked"))
    await world.wait(world.dispatcher())
    assert world.resolved() == ["checkout-3"]


async def test_a_bad_end_that_was_acknowledged_stays_open_no_longer_than_a_day(world: World) -> None:
    await world.write("incident:checkout-3", opened(), facts.Closed(Outcome.FAILED, "npm exited 1"))
    await world.wait(world.dispatcher())
    await world.wait(world.dispatcher(), 2 * PAGE_ENDS)
    assert world.resolved() == [], "nobody has seen it"
    await world.write("incident:checkout-3", facts.Acknowledged(), actor="unix:ann")
    await world.wait(world.dispatcher(), PAGE_ENDS - MINUTE)
    assert world.resolved() == []
    await world.wait(world.dispatcher(), 2 * MINUTE)
    assert world.resolved() == ["checkout-3"]


@pytest.mark.parametrize("outcome", [Outcome.ABORTED, Outcome.SUPERSEDED, Outcome.RECOVERED, Outcome.PASSED])
async def test_what_needs_nobody_any_more_is_closed_also_where_no_route_tells_its_end(
    world: World, outcome: Outcome
) -> None:
    world.notify = Notify(routes=(Route(to=("oncall",), when=RouteWhen(event=("opened", "acknowledged"))),))
    await world.write("incident:checkout-3", opened())
    await world.wait(world.dispatcher())
    await world.write("incident:checkout-3", facts.Closed(outcome, "so it is"))
    await world.wait(world.dispatcher())
    assert world.resolved() == ["checkout-3"]
    await world.write("incident:checkout-3", facts.Acknowledged(), actor="unix:ann")
    await world.wait(world.dispatcher())
    assert [one.event for one in world.oncall.messages] == ["opened", "passed"], "a late word opens nothing"
    assert world.room.messages == []


async def test_a_notice_of_a_moment_is_closed_by_its_acknowledgement_or_after_a_day(world: World) -> None:
    for end in ("seen", "a day"):
        await world.write(FLEET, facts.Notice("clock", "it jumped by 3m"))
        await world.wait(world.dispatcher(), 2 * MINUTE)
        before = len(world.resolved())
        if end == "seen":
            await world.write(FLEET, facts.NoticeAcknowledged(), actor="unix:ann")
        await world.wait(world.dispatcher(), 2 * MINUTE if end == "seen" else PAGE_ENDS)
        assert world.resolved()[before:] == ["notice/clock"]
    assert world.oncall.events.count("clock") == 2


async def test_a_notice_that_goes_on_is_only_acknowledged_by_an_acknowledgement(world: World) -> None:
    await world.write(FLEET, facts.Notice("backend_unreachable", "no answer"))
    await world.write("service:checkout", refused())
    await world.wait(world.dispatcher())
    await world.write(FLEET, facts.NoticeAcknowledged(), actor="unix:ann")
    await world.wait(world.dispatcher(), 2 * PAGE_ENDS)
    assert world.acknowledged() == ["notice/backend_unreachable"], "and nobody has seen the refusal"
    assert world.resolved() == []
    await world.write(FLEET, facts.Notice("backend_unreachable", "it answers", over=True))
    await world.wait(world.dispatcher())
    assert world.resolved() == ["notice/backend_unreachable"]


async def test_what_is_only_observed_or_a_slip_wakes_nobody(world: World) -> None:
    seen = refused().decision
    await world.write("service:checkout", facts.Decided(replace(seen, action=Action.OBSERVE, escalate=False)))
    await world.write(FLEET, facts.Notice("override", "ROLBACK.checkout by unix:ann was rejected"))
    await world.wait(world.dispatcher(), MINUTE)
    assert world.oncall.messages == []
    assert world.room.events == ["observed", "override"]


# -- what changed -------------------------------------------------------------------------------
async def test_a_deployment_and_a_rollback_are_told_where_changes_are_kept_and_hold_up_no_page(world: World) -> None:
    world.oncall.keeps_changes = True
    first = facts.Changed(GOOD, START, START)
    deployed = facts.Changed(BAD, START, START + MINUTE)
    back = facts.Changed(GOOD, START + MINUTE, START + 2 * MINUTE, "checkout-3")
    await world.write("service:checkout", first, deployed, back)
    await world.wait(world.dispatcher())
    assert [(one.event, one.title, one.incident) for one in world.oncall.messages] == [
        ("changed", f"checkout changed to {BAD.name}", ""),
        ("changed", f"checkout rolled back to {GOOD.name} by checkout-3", "checkout-3"),
    ]
    assert world.room.messages == world.leads.messages == []
    await world.write("service:checkout", facts.MarkedGood(GOOD, "it baked"))
    await world.wait(world.dispatcher())
    assert len(world.oncall.messages) == 2, "it opened no page that something would have to close"

    world.notify = Notify(routes=(Route(to=("oncall",), when=RouteWhen(service=("cart",), event=("failed",))),))
    world.oncall.answers.append(soon())
    await world.write("service:checkout", replace(deployed, by=START + 3 * MINUTE))
    await world.write("service:cart", replace(deployed, by=START + 3 * MINUTE))
    await world.wait(world.dispatcher())
    assert world.oncall.tried[-1].service == "cart", "of checkout it hears nothing"
    await world.write("incident:cart-3", opened("cart"), facts.Closed(Outcome.FAILED, "npm exited 1"))
    await world.wait(world.dispatcher())
    assert world.oncall.events[2:] == ["failed"], "and not the change once more"
    assert await world.journal.waiting() == []
