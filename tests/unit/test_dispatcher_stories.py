"""Over all stories: each page that is opened is closed once, by the daemon that opened it, and for nothing else.

Random lives of incidents, refusals and notices, told to a PagerDuty that behaves as documented and is away now and
then, by processes that end after any delivery; two daemons have one integration.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any, ClassVar, cast

import pytest

from rollbackd import facts
from rollbackd.adapter import Message, NotifierSettings
from rollbackd.config.models import Config, Daemon, Notify, Route, RouteWhen
from rollbackd.journal import Entry
from rollbackd.model import FLEET, Outcome, Verdict
from rollbackd.notify import sending_times
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.receivers.pagerduty import event
from rollbackd.notify.sending_times import MANY
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import BAD, asked, opened, planned, refused, round_of, soon, trigger
from tests.fakes.pagerduty import PagerDutyFake

MINUTE = timedelta(minutes=1)
SERVICES = ("checkout", "cart", "search")
ENDS = list(Outcome)
KINDS = ("incident",) * 5 + ("look",) * 5 + ("after",) * 2 + ("refused", "seen", "notice", "away", "restart")
WORDS = ("ask", "deny", "end", "ack", "pause", "park", "enter", "leave", "late", "round")
LENGTH = 80
STORIES = int(os.environ.get("ROLLBACKD_STORIES", "100"))
"""How many are told; a longer run asks for thousands."""
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
    all_ended: list[str] = field(default_factory=list)

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
                self.all_ended.append(running)
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
            for number in range(4):
                await self.write(f"service:{service}", facts.Subsided(f"refused-{number}", "gone"))
        for incident in self.all_ended:
            await self.write(f"incident:{incident}", facts.Left("traffic"), facts.Acknowledged())
        for kind in NOTICES:
            await self.write(FLEET, facts.Notice(kind, "over", over=True))
        await self.look(MINUTE)
        for _ in range(4):  # what rests after failures is tried again; a day passes
            await self.look(timedelta(hours=9))


def some_move(dice: Random) -> tuple[Any, ...]:
    """What happens next; time passes often, since what is told at once is told as one."""
    service, kind = dice.choice(SERVICES), dice.choice(KINDS)
    match kind:
        case "incident":
            return kind, service, dice.choice(WORDS), dice.choice(ENDS)
        case "after":
            return kind, service, dice.choice(["ack", "relapse", "not left", "leave", "good"])
        case "refused":
            return kind, service, dice.randrange(4)
        case "seen":
            return kind, dice.choice([f"service:{service}", FLEET])
        case "notice":
            return kind, dice.choice(NOTICES), dice.random() < 0.5
        case "look":
            return kind, dice.choice([0, 0, 1, 1, 5, 31, 1500])
        case "away":
            return kind, dice.random() < 0.5
        case _:
            return (kind,)


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


async def play(seed: int, patched: pytest.MonkeyPatch) -> PagerDutyFake:
    """One story; in a third of them two services at work are a storm, which is told together."""
    patched.setattr(sending_times, "MANY", 2 if seed % 3 == 0 else MANY)
    dice, fake = Random(seed), PagerDutyFake()  # the same stories each time
    fleets = [Fleet(name, fake, routed=seed % 2 == 0) for name in ("ops-1", "ops-2")]
    for _ in range(LENGTH):
        await move(dice.choice(fleets), some_move(dice))
    for fleet in fleets:
        await fleet.end_all()
    return fake


@pytest.mark.parametrize("first", range(0, STORIES, STORIES // 5))
async def test_every_page_is_closed_once_and_nothing_is_said_of_what_is_not_open(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_pages = 0
    for seed in range(first, first + STORIES // 5):
        fake = await play(seed, monkeypatch)
        assert (fake.open, fake.dropped) == ({}, []), f"story {seed}"
        assert Counter(fake.opened) == Counter(fake.closed), f"story {seed}"
        opened_pages += len(fake.opened)
    assert opened_pages > 5 * STORIES // 5, "the stories have pages"
