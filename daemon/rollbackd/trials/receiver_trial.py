"""A receiver tried out: a message goes the real way, marked as a test, and what the other side says is passed on.

Whoever keeps troubles open has this one opened and resolved. The resolve lies in the outbox before the opening goes
out, so that a kill between the two leaves nothing open.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import count

from rollbackd.adapter import Message, Notifier
from rollbackd.config.models import Config
from rollbackd.journal import Journal, Outgoing
from rollbackd.model import DAEMON, Priority
from rollbackd.notify.messages import envelope as outbox
from rollbackd.notify.messages.envelope import TESTS, Envelope
from rollbackd.notify.receiver_queue import PATIENCE, handed_over
from rollbackd.system.clock import Clock
from rollbackd.views.shapes import ReceiverTrialView

_LATER = timedelta(minutes=2)
"""When the outbox sends the resolve that a kill kept from being sent at once; longer than both take."""
_CURSOR = "tests"
"""The cursor that goes with it; nobody reads it."""


class ReceiverTrials:
    """Tries receivers. Routes, escalation and a receiver's own words are passed over: it is about the way out."""

    def __init__(
        self, config: Config, notifiers: Mapping[str, Notifier], clock: Clock, journal: Journal | None = None
    ) -> None:
        """:param journal: None where there is no daemon; then a kill may leave a test open."""
        self._kinds = {one.name: one.kind for one in config.notify.receivers}
        self._speaks = config.daemon.called
        self._notifiers = notifiers
        self._clock = clock
        self._journal = journal
        self._numbers = count(1)

    @property
    def names(self) -> tuple[str, ...]:
        """The receivers that can be tried."""
        return tuple(self._notifiers)

    async def send(self, name: str, actor: str = DAEMON) -> ReceiverTrialView:
        """Send a receiver a test; what came of it. It never raises for what the other side does."""
        notifier, began = self._notifiers[name], self._clock.monotonic()
        message = self._message(name, actor)
        over = replace(message, key=f"{message.key}/over", title=f"{message.title}: over", resolves=True)
        keeps_open = bool(getattr(notifier, "keeps_open", False))
        if keeps_open:
            await self._surely(name, over)
        words = list[str]()
        for what, one in (("opened", message), ("resolved", over)) if keeps_open else (("taken", message),):
            error = await handed_over(name, notifier, one, PATIENCE)
            if error is not None:
                words.append(str(error))
                break
            answer = str(getattr(notifier, "said", ""))
            words.append(f"{what}: {answer}" if answer else what)
        if keeps_open and error is None:
            await self._need_not(over.key)
        took = timedelta(seconds=self._clock.monotonic() - began)
        return ReceiverTrialView(name, self._kinds.get(name, ""), error is None, "; ".join(words), message.title, took)

    def _message(self, name: str, actor: str) -> Message:
        now = self._clock.now()
        key = f"{TESTS}{name}/{now.isoformat()}/{next(self._numbers)}"
        lines = (
            ("What", f"a test of the receiver {name}, sent by {actor}; nothing is wrong"),
            ("Do now", "nothing"),
        )
        title = f"TEST: rollbackd reaches {name}; nothing is wrong"
        return Message(key, "test", title, lines, "info", key, now, priority=Priority.P3, source=self._speaks)

    async def _surely(self, name: str, over: Message) -> None:
        """Have the outbox send the end, should we be killed before it is sent. :raises JournalUnavailable:"""
        if self._journal is not None:
            now = self._clock.now()
            body = outbox.encode(Envelope(over, "", only=name))
            await self._journal.enqueue([Outgoing(over.key, name, "", body, now + _LATER, now)], _CURSOR, 0)

    async def _need_not(self, key: str) -> None:
        if self._journal is not None:
            ids = [row.id for row in await self._journal.waiting() if row.key == key]
            await self._journal.delivered(ids, self._clock.now())
