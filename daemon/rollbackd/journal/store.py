"""The journal as its callers see it: every method puts work on another thread and waits for the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from rollbackd.facts import Record
from rollbackd.journal import outbox, reading
from rollbackd.journal.audit import audit
from rollbackd.journal.batch import EncodedEntry, WriteRequest, answer, mark_handled
from rollbackd.journal.contract import (
    Arrived,
    AuditReport,
    Entry,
    JournalUnavailable,
    Member,
    Outgoing,
    PageTurn,
    Receipt,
    Received,
)
from rollbackd.journal.database import JournalConnection, JournalDatabase
from rollbackd.journal.reserve import Reserve
from rollbackd.journal.writer import Errand, Writer
from rollbackd.system.clock import Clock
from rollbackd.system.vitals import stir

T = TypeVar("T")

_READERS = 3
"""Threads that read, so that a long answer does not hold up a short one."""


class StoredJournal:
    """See `rollbackd.journal.Journal`. Made by `open` of its kind, in the event loop that uses it."""

    def __init__(self, database: JournalDatabase, clock: Clock, reserve: Reserve | None = None) -> None:
        self._database = database
        self._clock = clock
        self._newest = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._subscribers: list[Callable[[Sequence[Record]], None]] = []
        self._closed = False
        self._writer = Writer(database, clock, reserve, self._moved)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="journal-reader")

    async def prepare(self, work: Callable[[], int]) -> None:
        """Do on the writer's thread what comes before all else, and know the newest fact's place."""
        try:
            self._newest = await self._errand(work)
        except BaseException:
            await self.close()
            raise
        self._database.opened()

    @property
    def trouble(self) -> str:
        return ""

    @property
    def taken(self) -> str:
        return ""

    @property
    def epoch(self) -> int:
        return 0

    @property
    def host(self) -> str:
        return ""

    # -- facts
    async def append(
        self, *entries: Entry, handled: Sequence[int] = (), urgent: bool = False, heeding: int | None = None
    ) -> tuple[Record, ...]:
        encoded = tuple(map(EncodedEntry.of, entries))
        unit = WriteRequest(encoded, handled, urgent=urgent, heeding=heeding)
        records: tuple[Record, ...] = await self._writer.submit(unit)
        return records

    async def read(self, stream: str, after: int = 0) -> list[Record]:
        return await self._ask(reading.read, self._database.name, stream, after)

    async def since(self, seq: int, kinds: Sequence[str] = (), limit: int = 0) -> list[Record]:
        return await self._ask(reading.since, self._database.name, seq, kinds, limit)

    async def latest(self, kinds: Sequence[str], stream: str = "", limit: int = 50, before: int = 0) -> list[Record]:
        return await self._ask(reading.latest, self._database.name, kinds, stream, limit, before)

    async def hash_of(self, seq: int) -> bytes | None:
        return await self._ask(reading.hash_of, seq)

    async def changed(self, seq: int, timeout: timedelta) -> int:
        if self._newest > seq or self._closed:
            return self._newest
        over = asyncio.ensure_future(self._clock.sleep(timeout))
        try:
            while self._newest <= seq and not over.done() and not self._closed:
                moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.add(moved)
                await asyncio.wait({moved, over}, return_when=asyncio.FIRST_COMPLETED)
                self._waiters.discard(moved)
        finally:
            over.cancel()
        return self._newest

    async def look(self) -> int:
        return self._newest

    def subscribe(self, heard: Callable[[Sequence[Record]], None]) -> None:
        self._subscribers.append(heard)

    def _moved(self, records: Sequence[Record]) -> None:
        self._newest = max(self._newest, records[-1].seq)
        self._wake()
        for heard in self._subscribers:
            heard(records)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- inbox
    async def receive(self, items: Sequence[Received]) -> Receipt:
        receipt: Receipt = await self._writer.submit(WriteRequest(items=items))
        return receipt

    async def unhandled(self, source: str = "") -> list[Arrived]:
        return await self._ask(reading.unhandled, source)

    async def arrived(self, source: str, since: datetime) -> list[Arrived]:
        return await self._ask(reading.arrived, source, since)

    async def handled(self, ids: Sequence[int]) -> None:
        await self._effect(lambda connection, _now: mark_handled(connection, ids))

    async def answer(self, row: int, body: bytes) -> None:
        await self._effect(lambda connection, _now: answer(connection, row, body))

    async def answer_to(self, key: str) -> bytes | None:
        return await self._ask(reading.answer_to, key)

    async def attend(self, host: str, process: str, version: str, configuration: str) -> timedelta:
        del host, process, version, configuration
        return timedelta()

    async def leave(self, host: str, process: str) -> None:
        del host, process

    async def members(self) -> list[Member]:
        return []

    async def prune(self, before: datetime) -> int:
        forgotten = 0
        while portion := await self._effect(lambda connection, _now: outbox.prune(connection, before)):
            forgotten += portion
        return forgotten

    # -- outbox
    async def cursor(self, name: str) -> int:
        return await self._ask(outbox.cursor, name)

    async def enqueue(self, rows: Sequence[Outgoing], name: str, cursor: int) -> None:
        await self._effect(lambda connection, _now: outbox.enqueue(connection, rows, name, cursor))

    async def waiting(self) -> list[Outgoing]:
        return await self._ask(outbox.waiting)

    async def pages(self, receiver: str) -> frozenset[str]:
        return await self._ask(outbox.pages, receiver)

    async def delivered(self, ids: Sequence[int], at: datetime, *facts: Entry, turned: PageTurn | None = None) -> None:
        encoded = tuple(map(EncodedEntry.of, facts))
        await self._effect(lambda connection, _now: outbox.delivered(connection, ids, at, turned), encoded)

    async def postponed(self, ids: Sequence[int], error: str, not_before: datetime | None) -> None:
        await self._effect(lambda connection, now: outbox.postponed(connection, ids, error, not_before, now))

    # -- care
    async def audit(self) -> AuditReport:
        """On a thread of its own: it takes as long as the journal is big."""
        return await asyncio.to_thread(self._database.read, audit)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake()
        await asyncio.to_thread(self._readers.shutdown)
        self._database.close()
        # Last, since the last connection takes the write-ahead log into the file.
        await self._writer.close()

    # -- how work gets to the threads
    async def _effect(
        self, effect: Callable[[JournalConnection, datetime], T], encoded: tuple[EncodedEntry, ...] = ()
    ) -> T:
        answer: T = await self._writer.submit(WriteRequest(encoded, effect=effect))
        return answer

    def pulses(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        readers = partial(stir, self._readers, _READERS)
        return {"the journal's writer": lambda: self._errand(lambda: None), "the journal's readers": readers}

    async def _errand(self, run: Callable[[], T]) -> T:
        answer: T = await self._writer.submit(Errand(run))
        return answer

    async def _ask(self, question: Callable[..., T], *arguments: object) -> T:
        """:raises JournalUnavailable: it cannot be read now."""
        if self._closed:
            raise JournalUnavailable(f"{self._database.name}: the journal is closed; rollbackd is stopping")
        asked = partial(self._database.read, question, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._readers, asked)
