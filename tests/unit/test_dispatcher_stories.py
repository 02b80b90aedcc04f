"""Over all stories: each page that is opened is closed once, by the daemon that opened it, and for nothing else.

Random lives of incidents, refusals and notices, told to a PagerDuty that behaves as documented and is away now and
then, by processes that end after any delivery; two daemons have one integration.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd import facts
from rollbackd.adapter import Message, NotifierSettings
from rollbackd.config.models import Config, Daemon, Notify, Route, RouteWhen
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Outcome, Verdict
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.receivers.pagerduty import event
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import BAD, asked, opened, planned, refused, round_of, soon, trigger
from tests.fakes.pagerduty import PagerDutyFake

MINUTE = timedelta(minutes=1)
SERVICES = ("checkout", "cart", "search")
ENDS = list(Outcome)
NOTICES = ("backend_unreachable", "clock", "override", "internal", "receiver_unreachable")


@dataclass
class OnCall:
    """PagerDuty behind the notifier's own words; while `away` it takes nothing."""

    fake: PagerDutyFake
    settings_model: ClassVar[type[NotifierSettings]] = NotifierSettings
    away: bool = False
    keeps_open: bool = True
    taken: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> None:
        if self.away:
            raise soon()
        for one in (message, *(replace(message, thread=thread, resolves=True) for thread in message.settles)):
            self.fake.success(event(one, "0" * 32))
        self.taken.append(message)


@dataclass
class Fleet:
    """One daemon, its journal and its services; each service has one incident at a time."""

    name: str
    fake: PagerDutyFake
    routed: bool
    """Whether routes keep the ends from PagerDuty."""
    clock: ManualClock = field(default_factory=ManualClock)
    numbers: Counter[str] = field(default_factory=Counter)
    running: dict[str, str] = field(default_factory=dict)
    """Service to its incident that is open."""
    ended: dict[str, str] = field(default_factory=dict)
    """Service to its incident that ended last."""

    def __post_init__(self) -> None:
        self.journal = MemoryJournal(self.clock)
        self.oncall = OnCall(self.fake)
        self.start()

    def start(self) -> None:
        """A new process."""
        bad = ("opened", "asks", "refused", "failed", "reminder", "parked", "not_left", "backend_unreachable", "clock")
        routes = (Route(to=("oncall",), when=RouteWhen(event=bad)),) if self.routed else ()
        config = Config(daemon=Daemon(name=self.name), notify=Notify(routes=routes))
        self.dispatcher = NotificationDispatcher(self.journal, config, {"oncall": cast("Any", self.oncall)}, self.clock)

    async def write(self, stream: str, *given: Any) -> None:
        await self.journal.append(*(Entry(stream, fact) for fact in given))

    async def of_incident(self, service: str, what: str, outcome: Outcome) -> None:
        """One more fact of the service's incident, or its beginning."""
        if (running := self.running.get(service)) is None:
            self.numbers[service] += 1
            self.running[service] = incident = f"{service}-{self.numbers[service]}"
            first = asked(service) if what in ("ask", "deny") else opened(service)
            episode = trigger(service, episode=f"episode-{self.numbers[service]}")
            await self.write(f"incident:{incident}", replace(first, decision=replace(first.decision, trigger=episode)))
            return
        stream = f"incident:{running}"
        match what:
            case "end" | "deny":
                if what == "deny":
                    await self.write(stream, facts.Denied(""))
                await self.write(stream, facts.Closed(Outcome.DECLINED if what == "deny" else outcome, "so it is"))
                self.ended[service] = self.running.pop(service)
            case "ack":
                await self.write(stream, facts.Acknowledged())
            case "pause":
                await self.write(stream, facts.Paused("held"))
            case "park":
                await self.write(stream, facts.Parked("it contradicts itself"))
            case "enter":
                await self.write(stream, planned(), facts.Entering("traffic"), facts.Entered("traffic"))
            case "leave":
                await self.write(stream, facts.Leaving("traffic"), facts.Left("traffic"))
            case "late":
                await self.write(
                    stream, facts.ClockPassed("start_within", 15 * MINUTE, "late"), facts.Escalated(1, "late")
                )
            case _:
                await self.write(stream, round_of(Verdict.BAD))

    async def after_its_end(self, service: str, what: str) -> None:
        """What people and the world do when the last incident has ended."""
        incident = self.ended.get(service)
        if incident is None:
            return
        stream = f"incident:{incident}"
        match what:
            case "relapse" if service not in self.running:
                await self.write(stream, facts.Relapsed(trigger(service)))
            case "not left":
                await self.write(stream, facts.LeaveFailed("traffic", "no such unit", permanent=True))
            case "leave":
                await self.write(stream, facts.Left("traffic"))
            case "good":
                await self.write(f"service:{service}", facts.MarkedGood(BAD, "it baked"))
            case _:
                await self.write(stream, facts.Acknowledged())

    async def look(self, length: timedelta) -> None:
        """Time passes, and the daemon does all that it does now and then."""
        self.clock.advance(length)
        work = self.dispatcher
        for step in (work.pump, work.settle, work.pump, work.remind, work.deliver, work.pump, work.deliver):
            await step()

    async def end_all(self) -> None:
        """Everything ends in one way or another, and PagerDuty is there."""
        self.oncall.away = False
        for service in SERVICES:
            if service in self.running:
                await self.of_incident(service, "end", Outcome.FAILED)
            await self.after_its_end(service, "leave")
            if service in self.ended:
                await self.write(f"incident:{self.ended[service]}", facts.Acknowledged())
            for number in range(4):
                await self.write(f"service:{service}", facts.Subsided(f"refused-{number}", "gone"))
        for kind in NOTICES:
            await self.write(FLEET, facts.Notice(kind, "over", over=True))
        await self.look(MINUTE)
        for _ in range(4):  # what rests after failures is tried again; a day passes
            await self.look(timedelta(hours=9))


MOVES = st.one_of(
    st.tuples(
        st.just("incident"), st.sampled_from(SERVICES),
        st.sampled_from(["ask", "deny", "end", "ack", "pause", "park", "enter", "leave", "late", "round"]),
        st.sampled_from(ENDS),
    ),
    st.tuples(
        st.just("after"), st.sampled_from(SERVICES), st.sampled_from(["ack", "relapse", "not left", "leave", "good"])
    ),
    st.tuples(st.just("refused"), st.sampled_from(SERVICES), st.integers(0, 3)),
    st.tuples(st.just("seen"), st.sampled_from([*(f"service:{name}" for name in SERVICES), FLEET])),
    st.tuples(st.just("notice"), st.sampled_from(NOTICES), st.booleans()),
    st.tuples(st.just("look"), st.sampled_from([0, 1, 5, 31, 1500])),
    st.tuples(st.just("look"), st.sampled_from([0, 1])),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("restart")),
)  # fmt: skip


async def move(fleet: Fleet, what: tuple[Any, ...]) -> None:
    match what:
        case ("incident", service, word, outcome):
            await fleet.of_incident(service, word, outcome)
        case ("after", service, word):
            await fleet.after_its_end(service, word)
        case ("refused", service, number):
            about = trigger(service, episode=f"refused-{number}")
            await fleet.write(f"service:{service}", refused(service, trigger=about))
        case ("seen", stream):
            await fleet.write(stream, facts.NoticeAcknowledged())
        case ("notice", kind, over):
            await fleet.write(FLEET, facts.Notice(kind, "words", over=over))
        case ("look", minutes):
            await fleet.look(minutes * MINUTE)
        case ("away", away):
            fleet.oncall.away = away
        case _:
            fleet.start()


async def play(story: list[tuple[int, tuple[Any, ...]]], routed: bool) -> PagerDutyFake:
    fake = PagerDutyFake()
    fleets = [Fleet("ops-1", fake, routed), Fleet("ops-2", fake, routed)]
    for which, what in story:
        await move(fleets[which], what)
    for fleet in fleets:
        await fleet.end_all()
    return fake


@settings(deadline=None, max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 1), MOVES), min_size=40, max_size=80), st.booleans())
def test_every_page_is_closed_once_and_nothing_is_said_of_what_is_not_open(
    story: list[tuple[int, tuple[Any, ...]]], routed: bool
) -> None:
    fake = asyncio.run(play(story, routed))
    assert fake.open == {}
    assert fake.dropped == []
    assert Counter(fake.opened) == Counter(fake.closed)
