"""The queue of one receiver: its messages in the outbox are sent in order, again after failures, and given up at last.

What was sent is journaled as delivered right after. A kill between the two sends it once more, with the same key.
"""

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from rollbackd.adapter import DeliveryError, Message, Notifier, PartlyDeliveredError
from rollbackd.facts import Notice, Paged, Told
from rollbackd.journal import Entry, Journal, JournalUnavailable, Outgoing, PageTurn, until_written
from rollbackd.model import FLEET
from rollbackd.notification_events import CHANGED
from rollbackd.notify.messages import envelope as outbox
from rollbackd.notify.messages import self_notices
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.troubles import Page
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import until_first

MOST_TOGETHER = 2000
"""How many messages go as one at most; a list of names has room for them."""
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=10)
GIVE_UP = timedelta(hours=24)
UNREACHABLE_AFTER = timedelta(minutes=10)
"""How long a receiver takes nothing until the others are told of it."""
PATIENCE = timedelta(seconds=35)
"""How long a receiver may take for one message, with all its tries."""
JOURNAL_PAUSE = timedelta(seconds=5)
_FARTHEST = timedelta(minutes=30)
"""The longest that any message waits; a receiver that asks for more is tried again before that."""
_LOOK_AGAIN = timedelta(minutes=1)
_LEFT = "left"
"""The cursor that goes with messages for those who did not take the first one; nobody reads it."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

DELIVERED, FAILED, GIVEN_UP = DELIVERIES = ("delivered", "failed", "given_up")
"""What can come of a message that was sent: nothing, a try that failed and is repeated, or the end of trying."""

Sendable = Sequence[tuple[Outgoing, Envelope]]


def _as_it_is(_name: str, message: Message) -> tuple[Message, Notice | None]:
    return message, None


async def no_plot(_incident: str) -> str:
    """Where nothing is measured."""
    return ""


class OutboxReader:
    """Reads what waits in the outbox once for all who ask at the same time: messages often have several receivers."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._reading = asyncio.Lock()
        self._begun = 0
        """How many reads were begun."""
        self._read = 0
        """Which of them the rows are of."""
        self._rows: Sequence[Outgoing] = ()

    async def waiting(self) -> Sequence[Outgoing]:
        """The rows that wait, as of a moment after the call. :raises JournalUnavailable: they cannot be read."""
        before = self._begun
        async with self._reading:
            if self._read <= before:
                await asyncio.sleep(0)  # noqa: TID251  # no time passes: who was woken with us asks, too
                self._begun += 1
                self._rows = await self._journal.waiting()
                self._read = self._begun
            return self._rows


class ReceiverQueue:
    """One receiver: its way out, and how sending has gone."""

    def __init__(
        self,
        name: str,
        notifier: Notifier,
        journal: Journal,
        clock: Clock,
        outbox_reader: OutboxReader,
        patience: timedelta,
        pages: Callable[[], Mapping[str, Page]] = dict,
        words: Callable[[str, Message], tuple[Message, Notice | None]] = _as_it_is,
        plots: Callable[[str], Awaitable[str]] = no_plot,
    ) -> None:
        """:param pages: the open pages about several troubles, by their threads.
        :param words: a message in a receiver's words, and what is to be told of them.
        :param plots: an incident's plot as SVG; empty where there is none.
        """
        self.name = name
        self.waiting = 0
        """How many messages wait for it, as of the last look; not those that wait for others of their group."""
        self.results: Counter[str] = Counter()
        """How often each of `DELIVERIES` came of sending, since the start."""
        self._notifier = notifier
        self.keeps_open = bool(getattr(notifier, "keeps_open", False))
        """Whether it keeps open what it is told, until it is told that it is over."""
        self.keeps_changes = bool(getattr(notifier, "keeps_changes", False))
        """Whether it keeps what changed beside the troubles."""
        self._shows_plots = bool(getattr(notifier, "shows_plots", False))
        self._plots = plots
        self._journal = journal
        self._outbox_reader = outbox_reader
        self._clock = clock
        self._patience = patience
        self._pages = pages
        self._words = words
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._failures = 0
        self._rest_until = _LONG_AGO
        self._failing_since: datetime | None = None
        self._open: frozenset[str] | None = None
        """The threads that it keeps open, once they were read: nobody else opens or closes any."""
        self.announced = False
        """Whether the others were told that it takes nothing, and not yet that it does again."""
        self._log = log.get("notify").bind(receiver=name)

    def recount(self, rows: Sequence[Outgoing], now: datetime) -> None:
        """Count its messages in the outbox."""
        self.waiting = sum(
            1 for row in rows if row.receiver == self.name and (row.attempts or not _later(row.not_before, now))
        )

    def wake(self) -> None:
        """Look at the outbox now: there is something new for the receiver."""
        self._news.set()

    async def serve(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            self._news.clear()
            try:
                wake = await self.deliver()
            except JournalUnavailable as error:
                self._log.error("the outbox cannot be read", error=str(error))
                wake = self._clock.now() + JOURNAL_PAUSE
            await self._until_news(wake)

    async def _until_news(self, wake: datetime | None) -> None:
        if wake is None:
            await self._news.wait()
            return
        length = min(wake - self._clock.now(), _LOOK_AGAIN)  # the clock may be set meanwhile
        await until_first(self._news.wait(), self._clock.sleep(length))

    async def deliver(self, *, early: bool = False) -> datetime | None:
        """Send what is due; returns when to look again, None: when there is news.

        With `early` also what waits for others of its group, but not what failed before and rests.

        :raises JournalUnavailable: the outbox cannot be read.
        """
        async with self._lock:
            while True:
                rows = [row for row in await self._outbox_reader.waiting() if row.receiver == self.name]
                now = self._clock.now()
                self.recount(rows, now)
                if _later(self._rest_until, now):
                    return self._rest_until if rows else None
                if self.keeps_open and len(rows) > 1:
                    rows = await self._without_ended(rows)
                due: list[Outgoing] = []
                resting: list[Outgoing] = []
                for row in rows:
                    waits = _later(row.not_before, now) and not (early and not row.attempts)
                    (resting if waits else due).append(row)
                if await self._send_all(due):
                    return min((row.not_before for row in resting), default=None)

    async def _send_all(self, due: Sequence[Outgoing]) -> bool:
        """Whether nothing of it waits any more."""
        sent = True
        for rows_together in batches(due):
            if _later(self._rest_until, self._clock.now()):
                return False
            sent &= await self._dispatch(rows_together)
            self.waiting = max(0, self.waiting - len(rows_together))
        return sent

    async def send(self, message: Message) -> DeliveryError | None:
        """Hand a message to the receiver; the error when it did not take it."""
        return await handed_over(self.name, self._notifier, message, self._patience)

    async def _dispatch(self, rows: Sequence[Outgoing]) -> bool:
        """Send them as one message; whether none of them waits any more."""
        readable: list[tuple[Outgoing, Envelope]] = []
        for row in rows:
            try:
                readable.append((row, outbox.decode(row.body)))
            except ValueError:
                self._log.error("a message cannot be read and is given up", key=row.key)
                await self._give_up(
                    row, Notice(self_notices.UNDELIVERABLE, f"{self.name}: {row.key} cannot be read"), "unreadable"
                )
        if not readable:
            return True
        opens = any(one.opens for _, one in readable)
        merged = self._on_its_page(outbox.merge([one.message for _, one in readable]), _threads_of(readable))
        message = await self._of_what_is_open(merged, opens=opens)
        if message is None:
            ids = [row.id for row, _ in readable]
            await self._surely(partial(self._journal.delivered, ids, self._clock.now()))
            return True
        said, trouble = self._words(self.name, message)
        if trouble is not None:
            await self._notice(trouble)
        if self._shows_plots and said.incident:
            said = replace(said, plot=await self._plots(said.incident))
        boundary("notify.before")
        error = await self.send(said)
        self.results[FAILED if error is not None else DELIVERED] += 1
        if error is None:
            boundary("notify.sent")
            await self._sent(readable, message)
        elif message.event == CHANGED:  # nobody waits for it, and pages must not wait behind it
            self._log.warning("a change was not told", error=str(error))
            self.results[GIVEN_UP] += len(readable)
            ids = [row.id for row, _ in readable]
            await self._surely(partial(self._journal.postponed, ids, str(error), None))
        elif isinstance(error, PartlyDeliveredError):
            await self._partly_sent(readable, message, error)
        else:
            await self._failed(readable, error)
        _heed_a_stop()
        return error is None

    async def _without_ended(self, rows: Sequence[Outgoing]) -> list[Outgoing]:
        """The rows without those whose trouble has ended by a later one: they would open it anew, for good."""
        about = {row.id: _threads(row) for row in rows}
        ends = {thread: number for number, (_, ended) in about.items() for thread in ended}
        moot = {number for number, (thread, _) in about.items() if ends.get(thread, number) > number}
        if moot:
            await self._surely(partial(self._journal.delivered, tuple(moot), self._clock.now()))
        return [row for row in rows if row.id not in moot]

    def _on_its_page(self, message: Message, threads: Collection[str]) -> Message:
        """What several have come to goes on with the page that has them all, while nobody has seen that page."""
        if message.thread in threads or message.resolves or message.acknowledged:
            return message
        for thread, page in self._pages().items():
            if page.receiver == self.name and page.unseen and page.threads.issuperset(threads):
                return replace(message, thread=thread)
        return message

    async def _of_what_is_open(self, message: Message, *, opens: bool) -> Message | None:
        """The message as whoever keeps troubles open can take it: ends and answers of what is open there alone.

        None when it has nothing to do with any of that, and is not to open anything.
        """
        if not self.keeps_open or message.event == CHANGED:
            return message
        if self._open is None:
            self._open = await self._journal.pages(self.name)
        there = {*self_notices.DIRECT, *self._open}
        named = (*((message.thread,) if message.resolves else ()), *message.settles)
        ends = tuple(thread for thread in named if thread in there or thread.startswith(outbox.TESTS))
        if not message.resolves and (message.thread in there or (opens and not message.acknowledged)):
            return replace(message, settles=ends)
        if not ends:
            return None
        return replace(message, thread=ends[0], settles=ends[1:], resolves=True, acknowledged=False)

    async def _partly_sent(self, rows: Sendable, message: Message, error: PartlyDeliveredError) -> None:
        """Those who took it have it; those who did not are tried on by a message of their own, and hold up nobody."""
        self._log.warning("some did not take a message", error=str(error), left=error.left, lost=error.lost)
        (first, envelope), now = rows[0], self._clock.now()
        created = min(row.created for row, _ in rows)
        if error.lost:
            await self._notice(self_notices.undeliverable(self.name, message, str(error)))
        if error.left and error.left == message.recipients:
            until = now + pause(first.key, first.attempts + 1) if now - created < GIVE_UP else None
            if until is None:
                await self._notice(self_notices.undeliverable(self.name, message, str(error)))
            await self._surely(partial(self._journal.postponed, [first.id], str(error), until))
            return
        if error.left:
            key = f"{message.key}/{','.join(error.left)}"
            of_them = replace(envelope, stream="", group="", message=replace(message, recipients=error.left))
            until = now + pause(key, 1)
            row = Outgoing(key, self.name, "", outbox.encode(of_them), until, created)
            await self._surely(partial(self._journal.enqueue, [row], _LEFT, 0))
        await self._sent(rows, message)

    async def _sent(self, sent: Sendable, message: Message) -> None:
        facts = [
            Entry(one.stream, Told(self.name, one.message.event, row.key))
            for row, one in sent
            if one.stream.startswith("incident:")
        ]
        turned, keeps_open = None, self.keeps_open and message.event != CHANGED
        if keeps_open:
            own = (message.thread,)
            closed = (*(own if message.resolves else ()), *message.settles)
            turned = PageTurn(self.name, () if message.resolves or message.acknowledged else own, closed)
        threads, ends = _threads_of(sent), message.resolves or message.acknowledged
        if keeps_open and not ends and message.thread not in {*threads, *self._pages()}:
            facts.append(Entry(FLEET, Paged(self.name, message.thread, threads)))
        ids = [row.id for row, _ in sent]
        await self._surely(partial(self._journal.delivered, ids, self._clock.now(), *facts, turned=turned))
        if turned is not None and self._open is not None:
            self._open = self._open.union(turned.opened).difference(turned.closed)
        self._failures, self._rest_until, self._failing_since = 0, _LONG_AGO, None
        if self.announced:
            self.announced = False
            await self._notice(self_notices.reachable(self.name))

    async def _failed(self, rows: Sendable, error: DeliveryError) -> None:
        now = self._clock.now()
        self._log.warning("a message was not delivered", error=str(error), permanent=error.permanent, rows=len(rows))
        lost = [(row, one) for row, one in rows if error.permanent or self._is_too_old(row, one, now)]
        kept = [row.id for row, one in rows if not error.permanent and not self._is_too_old(row, one, now)]
        if not error.permanent:
            await self._rest([row for row, _ in rows], error, now)
        if kept:
            await self._surely(partial(self._journal.postponed, kept, str(error), self._rest_until))
        for row, one in lost:
            told = one.message.event not in self_notices.OWN_KINDS
            await self._give_up(
                row, self_notices.undeliverable(self.name, one.message, str(error)) if told else None, str(error)
            )

    def _is_too_old(self, row: Outgoing, one: Envelope, now: datetime) -> bool:
        """Whether a message has waited too long. An end is never too old: the page that it closes is still open."""
        closes = self.keeps_open and (one.message.resolves or bool(one.message.settles))
        return now - row.created >= GIVE_UP and not closes

    async def _give_up(self, row: Outgoing, notice: Notice | None, error: str) -> None:
        """Give a message up. The notice comes first: a kill between the two repeats it, else it would lose it."""
        self.results[GIVEN_UP] += 1
        if notice is not None:
            await self._notice(notice)
        await self._surely(partial(self._journal.postponed, [row.id], error, None))

    async def _rest(self, rows: Sequence[Outgoing], error: DeliveryError, now: datetime) -> None:
        """Leave the receiver alone for a while, longer each time, and tell the others when that goes on."""
        self._failures += 1
        tried = max(row.attempts for row in rows)
        wait = pause(rows[0].key, max(self._failures, tried + 1))
        self._rest_until = now + min(max(wait, error.retry_after or timedelta()), _FARTHEST)
        if self._failing_since is None:
            self._failing_since = min(row.created for row in rows) if tried else now
        if not self.announced and now - self._failing_since >= UNREACHABLE_AFTER:
            self.announced = True
            await self._notice(self_notices.unreachable(self.name, self._failing_since, str(error)))

    async def _notice(self, notice: Notice) -> None:
        await self._surely(partial(self._journal.append, Entry(FLEET, notice)))

    async def _surely(self, write: Callable[[], Awaitable[object]]) -> None:
        """Write it even if the journal cannot be written for a while: what was sent must not be sent again for that."""
        say = partial(self._log.error, "the journal cannot be written")
        await until_written(write, self._clock, JOURNAL_PAUSE, say)


async def handed_over(name: str, notifier: Notifier, message: Message, patience: timedelta) -> DeliveryError | None:
    """Hand a message to a receiver; the error when it did not take it."""
    try:
        async with asyncio.timeout(patience.total_seconds()):
            await notifier.send(message)
    except DeliveryError as error:
        return error
    except TimeoutError:
        return DeliveryError(f"{name} did not answer in time", permanent=False)
    except Exception as error:  # noqa: BLE001  # a notifier's fault must not silence the other messages
        # Only the type is named: the text of an unknown error may hold an address that is a secret.
        return DeliveryError(f"{name} failed with {type(error).__name__}", permanent=False)
    return None


def _threads_of(rows: Sendable) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.message.thread for _, one in rows))


def _later(when: datetime, now: datetime) -> bool:
    """Whether to wait for then. A time farther ahead than any wait is from before the clock was set back."""
    return now < when <= now + _FARTHEST


def _threads(row: Outgoing) -> tuple[str, tuple[str, ...]]:
    """The thread that a row's message goes on with, or none, and those that it ends."""
    try:
        message = outbox.decode(row.body).message
    except ValueError:  # it is given up when its turn comes
        return "", ()
    return ("", (message.thread, *message.settles)) if message.resolves else (message.thread, message.settles)


def batches(due: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """The messages that are sent as one, in order: the oldest first, with its group. One that failed often waits."""
    made: list[list[Outgoing]] = []
    growing: dict[str, list[Outgoing]] = {}
    for row in sorted(due, key=lambda row: (row.attempts > 3, row.id)):
        together = growing.get(row.group, []) if row.group else []
        if not together or len(together) >= MOST_TOGETHER:
            together = growing[row.group] = []
            made.append(together)
        together.append(row)
    return made


def pause(key: str, times: int) -> timedelta:
    """How long to wait after so many failures: 5 s doubled up to 10 min, less up to a quarter, by the key."""
    full = min(FIRST_PAUSE * 2.0 ** min(times - 1, 10), LONGEST_PAUSE)
    return full * (1 - (zlib.crc32(f"{key}/{times}".encode()) % 1000) / 4000)


def _heed_a_stop() -> None:
    """Look whether a stop came at the same instant as a receiver's answer, which may have swallowed it.

    `asyncio.wait_for` of Python 3.11 does that, and so does aiosmtplib; waiting for news would then never end.

    :raises asyncio.CancelledError: this task is being cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
