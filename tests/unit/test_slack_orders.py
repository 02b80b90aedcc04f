"""Clicks in Slack as orders: with whose rights, how often, and what is recorded of those that do nothing."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from rollbackd.adapter import AnswerButton, DeliveryError
from rollbackd.config.models import Config, Person
from rollbackd.journal import Received
from rollbackd.notify.receivers.slack import Slack
from rollbackd.notify.receivers.slack_clicks import block
from rollbackd.operations import IncidentAnswer, Operations, OrderRefused
from rollbackd.operations.slack_orders import SOURCE, ClickRefusedError, SlackOrders
from rollbackd.state.read_model import ReadModel
from tests.fakes.clock import START, ManualClock
from tests.fakes.slack import SlackApiFake
from tests.unit.house import HookedJournal

ANN, EVE = "U0000ANN1", "U0000EVE1"
PEOPLE = {"ann": Person(slack=ANN, role="operator"), "eve": Person(slack=EVE)}


@dataclass
class Desk:
    """The operations; each order is refused, or fails, when the test says so."""

    orders: list[tuple[Any, ...]] = field(default_factory=list)
    trouble: Exception | None = None

    async def _order(self, *given: Any) -> None:
        self.orders.append(given)
        if self.trouble is not None:
            raise self.trouble

    async def approve(self, incident: str, actor: str, reason: str, seen: datetime) -> IncidentAnswer:
        await self._order("approve", incident, actor, seen)
        return IncidentAnswer(incident, "one of tech")

    async def deny(self, incident: str, actor: str, reason: str, seen: datetime) -> IncidentAnswer:
        await self._order("deny", incident, actor, seen)
        return IncidentAnswer(incident)

    async def abort(self, incident: str, actor: str) -> None:
        await self._order("abort", incident, actor)

    async def acknowledge(self, incident: str, actor: str) -> None:
        await self._order("acknowledge", incident, actor)


@dataclass
class Room:
    """A channel whose app is known by one signature."""

    channel: str = SlackApiFake.CHANNEL
    whispers: list[tuple[str, str]] = field(default_factory=list)
    unreadable: bool = False

    def is_signed(self, _timestamp: str, _body: bytes, signature: str) -> bool:
        if self.unreadable:
            raise DeliveryError("slack: the secret cannot be read", permanent=False)
        return signature == "right"

    async def whisper(self, user: str, text: str) -> None:
        self.whispers.append((user, text))


class Office:
    """Orders on a journal in memory."""

    def __init__(self, people: dict[str, Person] = PEOPLE, journal: HookedJournal | None = None) -> None:
        self.clock = ManualClock()
        self.journal = journal or HookedJournal(self.clock)
        self.desk, self.room = Desk(), Room()
        self.orders = SlackOrders(
            Config(people=people), ReadModel(cast("Any", self.journal)), self.clock,
            cast("Operations", self.desk), {"room": cast("Slack", self.room)},
        )  # fmt: skip
        self.clicks = 0

    def click(self, order: Any, user: str = ANN, asked: datetime | None = START) -> str:
        """A new click, as Slack tells of it."""
        self.clicks += 1
        post = {
            "ts": "1700000000.000001",
            "blocks": [block(AnswerButton(order, "shop-1", "rollbackd x", "It is so.", asked))],
        }
        return json.dumps(SlackApiFake().click(post, order.capitalize(), user, 1700000000 + self.clicks))

    async def take(self, payload: str) -> None:
        await self.orders.take(payload, [cast("Slack", self.room)])

    async def settle(self) -> list[tuple[str, str]]:
        await self.orders.settle()
        await asyncio.gather(*self.orders._telling)
        return self.room.whispers


async def test_each_order_is_given_as_the_person_about_the_question_that_was_shown_and_answered() -> None:
    office = Office()
    for order in ("approve", "deny", "abort", "acknowledge"):
        await office.take(office.click(order))
    assert await office.settle() == [
        (ANN, "you approved shop-1; missing: one of tech"), (ANN, "you denied shop-1"),
        (ANN, "shop-1 stops before its next step"), (ANN, "you acknowledged shop-1"),
    ]  # fmt: skip
    assert office.desk.orders == [
        ("approve", "shop-1", "slack:ann", START), ("deny", "shop-1", "slack:ann", START),
        ("abort", "shop-1", "slack:ann"), ("acknowledge", "shop-1", "slack:ann"),
    ]  # fmt: skip
    await office.settle()
    assert len(office.desk.orders) == 4, "what was carried out is not carried out again"


async def test_an_order_that_is_refused_says_so_and_one_that_fails_keeps_no_other_waiting() -> None:
    office = Office()
    await office.take(office.click("approve"))
    office.desk.trouble = OrderRefused("shop-1 asks nothing any more")
    assert await office.settle() == [(ANN, "nothing was done: shop-1 asks nothing any more")]
    office.desk.trouble = RuntimeError("a fault of ours")
    await office.take(office.click("abort"))
    await office.journal.receive([Received("odd", SOURCE, b"of another version")])
    with capture_logs() as said:
        await office.settle()
    assert [one["event"] for one in said] == ["a click failed", "a click failed"]
    assert await office.journal.unhandled() == []


async def test_who_lost_the_right_meanwhile_orders_nothing() -> None:
    before = Office()
    await before.take(before.click("approve"))
    after = Office({"ann": Person(slack=ANN)}, before.journal)
    ((user, text),) = await after.settle()
    assert user == ANN
    assert text.startswith("nothing was done: ann may read, and gives no orders from Slack")
    assert (after.desk.orders, dict(after.orders.counts)) == ([], {"viewer": 1})
    assert await after.journal.unhandled() == []


async def test_what_is_refused_is_all_counted_and_logged_ten_times_a_minute() -> None:
    office = Office()
    with capture_logs() as said:
        for _ in range(15):
            with pytest.raises(ClickRefusedError):
                await office.take(office.click("approve", EVE))
        assert len(said) == 10
        office.clock.advance(timedelta(minutes=1))
        with pytest.raises(ClickRefusedError):
            await office.take("{}")
        assert (said[-1]["why"], len(said)) == ("unreadable", 11)
    assert dict(office.orders.counts) == {"viewer": 15, "unreadable": 1}
    assert await office.journal.unhandled() == []


async def test_a_secret_that_cannot_be_read_lets_nobody_in() -> None:
    office = Office()
    stamp = str(int(office.clock.now().timestamp()))
    office.room.unreadable = True
    with pytest.raises(ClickRefusedError, match="not signed"):
        await office.orders.posted(stamp, "right", b"payload={}")
    office.room.unreadable = False
    with pytest.raises(ClickRefusedError, match="no click"):
        await office.orders.posted(stamp, "right", b"payload={}")
    assert dict(office.orders.counts) == {"forged": 1, "unreadable": 1}
