"""The dispatcher tells people what the journal says, at least once: facts become messages in the outbox, and are sent.

Messages are made of facts alone, with keys made of the places of those facts, so that a restart repeats nothing and
loses nothing. Each receiver has a worker, so that one that is dead holds up nobody else's messages.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rollbackd.adapter import Message, Notifier
from rollbackd.config.models import Config
from rollbackd.facts import Notice, Record, Subsided
from rollbackd.incident.fold import fold as fold_incident
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, Journal, JournalUnavailable, Outgoing
from rollbackd.model import FLEET, incident_stream, name_in, service_stream
from rollbackd.notification_events import CHANGED
from rollbackd.notify.messages import envelope as outbox
from rollbackd.notify.messages import page_threads, presenter, reminders, self_notices
from rollbackd.notify.messages.arrangement import arranged
from rollbackd.notify.messages.envelope import Envelope
from rollbackd.notify.messages.troubles import Trouble, Troubles, fold, notice_thread
from rollbackd.notify.receiver_queue import JOURNAL_PAUSE, PATIENCE, OutboxReader, ReceiverQueue, no_plot
from rollbackd.notify.routes import addressed, reached, told_of, worded
from rollbackd.notify.sending_times import SendingTimes
from rollbackd.notify.wording import Wording
from rollbackd.rules.tracks import CALM
from rollbackd.state.incidents import KnownIncidents
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import in_turns, side_by_side

CURSOR = "teller"
TROUBLES_CURSOR = "teller.troubles"
"""Where a start begins to fold the troubles. Both names are in journals that were written before, and stay."""
BATCH = 500
"""How many facts are read at once."""
TICK = timedelta(seconds=15)
DIRECT_AGAIN = timedelta(minutes=10)
DIRECT_RETRY = timedelta(seconds=30)


def _always(_service: str, _episode: str) -> bool:
    return True


def _never(_service: str, _episode: str) -> str:
    return ""


class NotificationDispatcher:
    """The root task `teller`, which also sends directly when the journal cannot be written.

    `goes_on(service, episode)` says whether a refused trouble still goes on; a no skips a reminder, and ends nothing.
    `over(service, episode)` is a reason when the trouble is known to have ended; one that lasts ends it, by a fact.
    `deciding()` says how many triggers are being decided on, and `services_deciding()` of how many services.
    `plots(incident)` gives its plot as SVG, or nothing.
    """

    def __init__(
        self,
        journal: Journal,
        config: Config,
        notifiers: Mapping[str, Notifier],
        clock: Clock,
        *,
        goes_on: Callable[[str, str], bool] = _always,
        over: Callable[[str, str], str] = _never,
        deciding: Callable[[], int] = lambda: 0,
        services_deciding: Callable[[], int] = lambda: 0,
        wording: Wording | None = None,
        plots: Callable[[str], Awaitable[str]] = no_plot,
        many: int = 100,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._journal = journal
        self._notify = config.notify
        self._name = config.daemon.called
        self._url = config.daemon.url
        self._by_name = {receiver.name: receiver for receiver in config.notify.receivers}
        self._signals = config.daemon.signals
        self._every = config.daemon.remind_every
        self._clock = clock
        self._goes_on = goes_on
        self._over = over
        self._sending_times = SendingTimes(clock, deciding, services_deciding)
        self._calm: dict[str, float] = {}
        """Since when a refused trouble is gone, by the monotonic clock."""
        self._many = many
        self._outbox_reader = OutboxReader(journal)
        self._boxes = {
            name: ReceiverQueue(
                name,
                notifier,
                journal,
                clock,
                self._outbox_reader,
                patience,
                lambda: self._troubles.pages,
                self._words_for,
                plots,
            )
            for name, notifier in notifiers.items()
        }
        self._wording = wording or Wording(config.notify.receivers)
        self._faulty: set[str] = set()
        """The templates that people were told of."""
        self._pumping = asyncio.Lock()
        self._begun = False
        self._recalled = False
        """Whether the queues know what an earlier process said of their receivers."""
        self._seq = 0
        self._stored = 0
        self._stored_troubles = 0
        self._troubles = Troubles()
        self._incidents = KnownIncidents()
        """As of the last fact that was told, like the troubles; the read model is ahead of that."""
        self._heard = deque[Record](maxlen=BATCH)
        """What this process wrote last, so that it need not be read."""
        journal.subscribe(self._heard.extend)
        self._reminded: dict[str, str] = {}
        """The newest reminder of each trouble that was put into the outbox."""
        self._reached: dict[str, tuple[int, int]] = {}
        """The last tier that hears of a refusal, with the place of the fact that began it."""
        self._told_many = False
        self._direct: dict[str, float] = {}
        self.trouble = ""
        """Why the outbox could not be written last; cleared by whoever finds that it can be written again."""
        self._log = log.get("notify")

    # -- the ways in ----------------------------------------------------------------------------
    async def run(self) -> None:
        """Read facts, remind and send, until cancelled; what is under way then is sent again next time."""
        queues = {f"teller: {box.name}": box.serve() for box in self._boxes.values()}
        await side_by_side({"teller: facts": self._follow(), "teller: reminders": self._tick(), **queues})

    def waiting(self) -> Mapping[str, int]:
        """How many messages wait for each receiver, as of the last look."""
        return {name: box.waiting for name, box in self._boxes.items()}

    def deliveries(self) -> Mapping[str, Counter[str]]:
        """How often each receiver was sent something since the start, by what came of it."""
        return {name: box.results for name, box in self._boxes.items()}

    async def flush(self, timeout: timedelta) -> int:
        """Tell all that can be told now, also messages that wait for others of their group; how many are left waiting.

        It works with or without `run`. A receiver that rests after a failure is left alone.
        """
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self.pump()
                await self.deliver(early=True)
        except TimeoutError:
            self._log.warning("not everything was told in time", waiting=dict(self.waiting()))
        except JournalUnavailable as error:
            self._log.error("the journal cannot be written", error=str(error))
        return sum(self.waiting().values())

    async def deliver(self, *, early: bool = False) -> None:
        """Send what is due now; with `early` also what waits for others. :raises JournalUnavailable: not now."""
        for result in await asyncio.gather(
            *(box.deliver(early=early) for box in self._boxes.values()), return_exceptions=True
        ):
            if isinstance(result, BaseException):
                raise result

    async def tell_directly(self, message: Message) -> tuple[str, ...]:
        """Send to every receiver at once, past the journal; returns the names of those that took it.

        The same event is sent once in ten minutes, or again after 30 s when nobody took it.
        """
        now = self._clock.monotonic()
        if now < self._direct.get(message.event, now):
            return ()
        self._direct[message.event] = now + DIRECT_RETRY.total_seconds()
        signed = self._signed(message)
        boxes = [box for box in self._boxes.values() if worded(self._by_name.get(box.name), signed) is not None]
        errors = await asyncio.gather(*(box.send(self._wording.of(box.name, signed)[0]) for box in boxes))
        took = tuple(box.name for box, error in zip(boxes, errors, strict=True) if error is None)
        if took:
            self._direct[message.event] = now + DIRECT_AGAIN.total_seconds()
        self._log.warning("told directly", event_told=message.event, took=took, errors=[str(e) for e in errors if e])
        return took

    # -- from facts to the outbox ---------------------------------------------------------------
    async def _follow(self) -> None:
        while True:
            try:
                await self.pump()
                await self._journal.changed(self._seq, TICK)
            except JournalUnavailable as error:
                await self._unrecorded(error)
                await self._clock.sleep(JOURNAL_PAUSE)

    async def _unrecorded(self, error: JournalUnavailable) -> None:
        self.trouble = str(error)
        await self.tell_directly(self_notices.unrecorded(self._clock.now(), str(error)))

    async def pump(self) -> int:
        """Make messages of the facts since the last time; returns how many were put into the outbox.

        :raises JournalUnavailable: nothing of the last batch was put; the next call does it again.
        """
        async with self._pumping:
            if not self._begun:
                await self._begin()
            count = 0
            while await self._journal.changed(0, timedelta()) > self._seq and (records := await self._unread()):
                count += await self._pump(records)
            if not self._recalled:
                self._recalled = True
                for box in self._boxes.values():
                    box.announced |= self_notices.unreachable_thread(box.name) in self._troubles.known
            return count

    async def _unread(self) -> Sequence[Record]:
        """The next facts: those that were heard last when no other is between, else they are read."""
        while self._heard and self._heard[0].seq <= self._seq:
            self._heard.popleft()
        if self._heard and self._heard[0].seq == self._seq + 1:
            return tuple(self._heard)
        return await self._journal.since(self._seq, limit=BATCH)

    async def _begin(self) -> None:
        """Fold what was open when the cursor was stored, and drop messages for receivers that are gone."""
        self._stored = await self._journal.cursor(CURSOR)
        self._stored_troubles = seq = min(await self._journal.cursor(TROUBLES_CURSOR), self._stored)
        troubles, incidents = Troubles(), KnownIncidents()
        while seq < self._stored and (records := await self._journal.since(seq, limit=BATCH)):
            for record in records:
                if record.seq <= self._stored:
                    troubles = fold(troubles, record)
                    incidents.apply(record)
            seq = records[-1].seq
        self._troubles, self._incidents, self._seq, self._begun = troubles, incidents, self._stored, True
        await self._recount(drop_unknown=True)

    async def _pump(self, records: Sequence[Record]) -> int:
        troubles, incidents, made = self._troubles, self._incidents.copy(), list[Envelope]()
        async for record in in_turns(records):
            made += await self._words(record, troubles, incidents)
            later = fold(troubles, record)
            made += page_threads.turned(record, troubles, later)
            troubles = later
        rows = await self._rows(made, max(len(self._troubles.busy), len(troubles.busy)))
        seq = records[-1].seq
        if rows or seq >= self._stored + 2 * BATCH:
            await self._journal.enqueue(rows, CURSOR, seq)
            self._stored = seq
        self._troubles, self._incidents, self._seq = troubles, incidents, seq
        self._wake(rows)
        await self._store_troubles()
        return len(rows)

    async def _store_troubles(self) -> None:
        """Move the place from which troubles are folded now and then: a restart need not read the whole journal."""
        oldest = self._troubles.oldest
        start = min(self._stored, oldest - 1 if oldest is not None else self._stored)
        if start >= self._stored_troubles + 2 * BATCH:
            await self._journal.enqueue([], TROUBLES_CURSOR, start)
            self._stored_troubles = start

    async def _words(self, record: Record, troubles: Troubles, incidents: KnownIncidents) -> tuple[Envelope, ...]:
        """What a fact is worth; `incidents` are those before it, and after it when this returns."""
        told = presenter.is_told(record)
        try:
            before = await self._about(record.stream, record.seq, incidents) if told and record.n > 1 else None
            incidents.apply(record)
            after = incidents.of(record.stream)
            return presenter.envelopes(record, before, after, troubles, self._signals) if told else ()
        except JournalUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # a fact that has no words must not silence all that come after it
            self._log.error("no words for a fact", stream=record.stream, n=record.n, error=type(error).__name__)
            return (presenter.wordless(record),) if told else ()

    async def _about(self, stream: str, before: int, incidents: KnownIncidents) -> Incident | None:
        """The incident of a stream as it was before a place; only one that ended long ago is read."""
        if incidents.of(stream) is None and stream == incident_stream(name_in(stream)):
            found = fold_incident(one for one in await self._journal.read(stream) if one.seq < before)
            if found is not None:
                incidents.keep(found)
        return incidents.of(stream)

    async def _rows(self, made: Sequence[Envelope], at_work: int = 0) -> list[Outgoing]:
        """A row of the outbox for each message and receiver."""
        moment, rows = self._sending_times.begin(at_work), []
        async for one in in_turns(made):
            if moment.is_left_out(one):
                continue
            for name in self._receivers(one):
                message = one.message if one.only or one.closes else worded(self._by_name.get(name), one.message)
                if message is None:  # it has no words for this
                    continue
                group, not_before = moment.of(name, one)
                key = f"{one.message.key}/{name}"
                sent = replace(one, message=self._signed(replace(message, key=key)))
                rows.append(Outgoing(key, name, group, outbox.encode(sent), not_before, moment.now))
        return rows

    def _signed(self, message: Message) -> Message:
        """The message with its lines in order, who speaks, and where its page is."""
        place = f"/incidents/{message.incident}" if message.incident else f"/services/{message.service}"
        link = self._url and f"{self._url}{place if message.service else ''}"
        return replace(arranged(message, self._name), source=self._name, link=link)

    def _words_for(self, name: str, message: Message) -> tuple[Message, Notice | None]:
        """A message as a receiver is sent it, and once of each template that it fails."""
        said, trouble = self._wording.of(name, message)
        if trouble is None or trouble.name in self._faulty:
            return said, None
        self._faulty.add(trouble.name)
        notice = self_notices.template_failed(trouble)
        return said, None if notice_thread(notice) in self._troubles.known else notice

    def _receivers(self, one: Envelope) -> tuple[str, ...]:
        """The receivers that routes and tiers name; what is about rollbackd itself, without a route, goes to
        everybody."""
        if one.only:
            return tuple(name for name in self._boxes if name == one.only)
        if one.closes:
            return tuple(name for name, box in self._boxes.items() if box.keeps_open)
        if one.message.event == CHANGED:
            keeping = tuple(name for name, box in self._boxes.items() if box.keeps_changes)
            return told_of(self._notify.routes, one.message.service, keeping)
        names = addressed(self._notify, one, tuple(self._boxes))
        about_itself = one.stream == FLEET and not one.message.service
        if not set(names) - {one.avoid} and (about_itself or one.avoid):
            names = tuple(self._boxes)
        return tuple(name for name in names if name != one.avoid)

    def _wake(self, rows: Sequence[Outgoing]) -> None:
        for name in {row.receiver for row in rows}:
            self._boxes[name].wake()

    # -- again and again ------------------------------------------------------------------------
    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(min(TICK, self._every / 4))
            try:
                await self.settle()
                await self.remind()
                await self._recount()
                await self._watch_the_queue()
            except JournalUnavailable as error:
                await self._unrecorded(error)

    async def remind(self) -> int:
        """Put the reminders that are due into the outbox; returns how many. The same period's has the same key.

        :raises JournalUnavailable: none was put.
        """
        async with self._pumping:
            if not self._begun:
                await self._begin()
            now, made = self._clock.now(), list[Envelope]()
            known = self._troubles.known
            self._reminded = {thread: mark for thread, mark in self._reminded.items() if thread in known}
            self._reached = {thread: tier for thread, tier in self._reached.items() if thread in known}
            async for trouble in in_turns(list(self._troubles.open)):
                if trouble.what != "refused" or self._goes_on(trouble.service, trouble.episode):
                    made += [*self._next_people(trouble, now), *await self._reminder(trouble, now)]
            if not made:
                return 0
            rows = await self._rows(made)
            try:
                await self._journal.enqueue(rows, CURSOR, self._stored)
            except JournalUnavailable:
                self._reminded.clear()
                self._reached.clear()
                raise
            self._wake(rows)
            return len(rows)

    async def settle(self) -> int:
        """Write down which refused troubles ended by themselves; how many. The end of an incident settles its own.

        :raises JournalUnavailable: none was written; the next look does it.
        """
        async with self._pumping:
            if not self._begun:
                await self._begin()
            now, busy = self._clock.monotonic(), self._troubles.busy
            calm, ended = dict[str, float](), list[Entry]()
            async for one in in_turns(list(self._troubles.refusals())):
                why = "" if one.service in busy else self._over(one.service, one.episode)
                if not why:
                    continue
                calm[one.thread] = self._calm.get(one.thread, now)
                if now - calm[one.thread] >= CALM.total_seconds():
                    ended.append(Entry(one.stream, Subsided(one.episode, why)))
            self._calm = calm
            ended += self._let_go()
            if ended:
                await self._journal.append(*ended)
                self._calm.clear()  # the facts are read, and end them, before anybody looks again
            return len(ended)

    def _let_go(self) -> Iterator[Entry]:
        """The end of troubles that nothing else ends."""
        now = self._clock.now()
        for one in self._troubles.known.values():
            if why := one.let_go(now):
                stream = FLEET if one.stream == FLEET else service_stream(one.service)
                yield Entry(stream, Subsided("", why, one.thread))

    async def _reminder(self, trouble: Trouble, now: datetime) -> list[Envelope]:
        due = trouble.mark(now, self._every)
        if not due or trouble.record is None:
            return []
        mark = f"{trouble.record.n}.{due}"
        if self._reminded.get(trouble.thread) == mark:
            return []
        self._reminded[trouble.thread] = mark
        about = await self._about(trouble.stream, self._seq + 1, self._incidents)
        made = reminders.reminder(trouble, about, now, due, self._signals)
        return [made] if made is not None else []

    def _next_people(self, trouble: Trouble, now: datetime) -> list[Envelope]:
        """The messages to the next tiers of a refusal that escalates. By their keys no restart tells them twice."""
        if trouble.escalates is None or trouble.record is None:
            return []
        known = self._reached.get(trouble.thread, (0, 0))
        before = known[0] if known[1] == trouble.record.n else 0
        tier = reached(self._notify, now - trouble.escalates)
        self._reached[trouble.thread] = (max(before, tier), trouble.record.n)
        tiers = self._notify.escalation
        made = [reminders.escalation(trouble, now, one, tiers[one].after) for one in range(before + 1, tier + 1)]
        return [one for one in made if one is not None]

    async def _recount(self, *, drop_unknown: bool = False) -> None:
        rows = await self._outbox_reader.waiting()
        for box in self._boxes.values():
            box.recount(rows, self._clock.now())
        gone = [row for row in rows if row.receiver not in self._boxes]
        if drop_unknown and gone:
            names = ", ".join(sorted({row.receiver for row in gone}))
            self._log.warning("messages wait for receivers that are not configured any more", receivers=names)
            for row in gone:
                await self._journal.append(Entry(FLEET, self._lost(row)))
                await self._journal.postponed([row.id], "not configured any more", None)

    def _lost(self, row: Outgoing) -> Notice:
        error = "it is not configured any more"
        try:
            return self_notices.undeliverable(row.receiver, outbox.decode(row.body).message, error)
        except ValueError:
            return Notice(self_notices.UNDELIVERABLE, f"{row.receiver} did not get {row.key}: {error}")

    async def _watch_the_queue(self) -> None:
        """Say once that too many messages wait, and once that they do not any more."""
        counts = self.waiting()
        total = sum(counts.values())
        if total > self._many and not self._told_many:
            self._told_many = True
            await self._journal.append(Entry(FLEET, self_notices.waiting(counts)))
        elif total <= self._many // 2 and self._told_many:
            self._told_many = False
            await self._journal.append(Entry(FLEET, self_notices.waiting(counts, over=True)))
