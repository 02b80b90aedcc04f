"""Who took a message is remembered: each recipient gets each mail once, and one that takes none holds up nobody."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbackd import facts
from rollbackd.adapter import DeliveryError, Message, NotifierSettings, PartlyDeliveredError
from rollbackd.config.models import Config
from rollbackd.journal import Entry, Journal, open_journal
from rollbackd.model import FLEET, Outcome
from rollbackd.notify.dispatcher import NotificationDispatcher
from rollbackd.notify.messages import self_notices
from rollbackd.notify.receiver_queue import GIVE_UP
from tests.fakes.clock import ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.notifications import Recorder, opened

MINUTE = timedelta(minutes=1)
EVERYBODY = ("ann", "bob", "full")


@dataclass
class Mailboxes:
    """Several recipients; each answers its next mails as told, then takes them."""

    settings_model: ClassVar[type[NotifierSettings]] = NotifierSettings
    answers: dict[str, list[int]]
    took: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By recipient and title."""

    async def send(self, message: Message) -> None:
        refused: dict[str, int] = {}
        wanted = message.recipients or tuple(self.answers)
        for name in wanted:
            code = self.answers[name].pop(0) if self.answers[name] else 250
            if code == 250:
                self.took[name, message.title] += 1
            else:
                refused[name] = code
        if not refused:
            return
        left = [name for name, code in refused.items() if code < 500]
        if set(refused) >= set(self.answers):
            raise DeliveryError("nobody", permanent=not left)
        raise PartlyDeliveredError(
            f"no mail for {refused}", left=left, lost=[one for one in refused if one not in left]
        )


async def tell(journal: Journal, clock: ManualClock, boxes: Mailboxes, rounds: int, restart: bool) -> Recorder:
    """Two incidents' openings, a minute apart; time goes on, each round in a new process when `restart`."""
    other = Recorder()

    def made() -> NotificationDispatcher:
        return NotificationDispatcher(journal, Config(), {"leads": boxes, "room": other}, clock)

    dispatcher = made()
    for name in ("checkout-3", "cart-4"):
        service = name.partition("-")[0]
        await journal.append(Entry(f"incident:{name}", opened(service)))
        await turn(dispatcher, clock, MINUTE)
    for _ in range(rounds):
        dispatcher = made() if restart else dispatcher
        await turn(dispatcher, clock, 10 * MINUTE)
    return other


async def turn(dispatcher: NotificationDispatcher, clock: ManualClock, length: timedelta) -> None:
    clock.advance(length)
    for work in (dispatcher.pump, dispatcher.deliver, dispatcher.pump, dispatcher.deliver):
        await work()


def titled(boxes: Mailboxes, word: str) -> dict[str, int]:
    return {name: times for (name, title), times in boxes.took.items() if word in title and "reminder" not in title}


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(EVERYBODY), st.lists(st.sampled_from([250, 452, 451]), max_size=4)), st.booleans()
)
def test_each_recipient_takes_each_message_once(answers: dict[str, list[int]], restart: bool) -> None:
    async def work() -> Mailboxes:
        clock = ManualClock()
        boxes = Mailboxes({name: list(answers.get(name, [])) for name in EVERYBODY})
        await tell(MemoryJournal(clock), clock, boxes, 12, restart)
        return boxes

    boxes = asyncio.run(work())
    for shop in ("checkout", "cart"):
        assert titled(boxes, f"{shop} rolling back") == dict.fromkeys(EVERYBODY, 1)


@pytest.mark.parametrize("stored", ["memory", "sqlite"])
async def test_one_full_mailbox_delays_no_one_else_s_next_mail(stored: str) -> None:
    clock = ManualClock()
    boxes = Mailboxes({"ann": [], "full": [452] * 1000, "bob": []})
    with tempfile.TemporaryDirectory() as place:
        journal: Journal = MemoryJournal(clock)
        if stored == "sqlite":
            journal = await open_journal(f"sqlite:///{Path(place)}/journal.db", clock)
        other = await tell(journal, clock, boxes, 0, restart=False)
        for shop in ("checkout", "cart"):
            assert titled(boxes, f"{shop} rolling back") == {"ann": 1, "bob": 1}, "at once"
        dispatcher = NotificationDispatcher(journal, Config(), {"leads": boxes, "room": other}, clock)
        clock.advance(GIVE_UP)
        for _ in range(3):
            await turn(dispatcher, clock, MINUTE)
        assert {row.receiver for row in await journal.waiting()} <= {"leads"}
        given_up = [one for one in other.messages if one.event == self_notices.UNDELIVERABLE]
        assert given_up
        assert all("full" in str(one.lines) for one in given_up)
        await journal.close()


async def test_a_recipient_that_there_is_not_is_told_of_and_the_others_have_it() -> None:
    clock = ManualClock()
    boxes = Mailboxes({"ann": [], "gone": [550, 550]})
    other = await tell(MemoryJournal(clock), clock, boxes, 3, restart=False)
    assert titled(boxes, "checkout rolling back") == {"ann": 1}, boxes.took
    assert "gone" in dict(next(one for one in other.messages if one.event == "undeliverable").lines)["What"]


# -- what is resolved was triggered -------------------------------------------------------------
class OnCall(Recorder):
    """Keeps open what it is told; takes nothing while `refuses`."""

    def __init__(self) -> None:
        super().__init__(keeps_open=True)


@pytest.mark.parametrize("how", ["given up", "not there then", "taken", "taken by an earlier version"])
async def test_no_end_is_told_of_what_was_never_told(how: str) -> None:
    clock = ManualClock()
    journal, oncall, room = MemoryJournal(clock), OnCall(), Recorder()
    both: Mapping[str, Any] = {"oncall": oncall, "room": room}
    if how == "given up":
        oncall.always = DeliveryError("answered 400: invalid event", permanent=True)
    receivers = {"room": room} if how == "not there then" else both
    dispatcher = NotificationDispatcher(journal, Config(), receivers, clock)
    await journal.append(Entry("incident:checkout-3", opened()))
    await turn(dispatcher, clock, MINUTE)
    if how == "taken by an earlier version":  # its rows in the outbox were forgotten long ago
        journal.rows = {key: replace(row, body=b"") for key, row in journal.rows.items()}
    oncall.always = None
    dispatcher = NotificationDispatcher(journal, Config(), both, clock)
    await journal.append(Entry("incident:checkout-3", facts.Closed(Outcome.RECOVERED, "well")))
    await turn(dispatcher, clock, MINUTE)
    assert [one.thread for one in oncall.messages if one.resolves] == (["checkout-3"] if "taken" in how else [])
    assert room.events.count("recovered") == 1
    assert not [row for row in await journal.waiting() if row.receiver == "oncall"]


async def test_a_notice_that_is_over_is_resolved_where_it_was_told() -> None:
    clock = ManualClock()
    journal, oncall = MemoryJournal(clock), OnCall()
    for number, over in enumerate((True, False, True)):
        dispatcher = NotificationDispatcher(journal, Config(), {"oncall": oncall}, clock)
        await journal.append(Entry(FLEET, facts.Notice("audit", f"text {number}", over=over)))
        await turn(dispatcher, clock, 2 * MINUTE)
    assert [one.resolves for one in oncall.messages] == [False, True]
