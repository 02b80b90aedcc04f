"""A journal in memory: for a play of the past, and for tests that must see it without a disk, or broken on command."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from rollbackd.facts import FleetFact, IncidentFact, Record, ServiceFact, SignalHolds
from rollbackd.journal.contract import (
    ANSWERED,
    Arrived,
    AuditReport,
    Conflict,
    Entry,
    JournalUnavailable,
    Member,
    Outgoing,
    PageTurn,
    Receipt,
    Received,
)
from rollbackd.system.clock import Clock

_OF_STREAM: Mapping[str, Any] = {"fleet": FleetFact, "service": ServiceFact, "incident": IncidentFact}


@dataclass
class MemoryJournal:
    """Keeps the contract but for durability. `broken`: nothing can be written; what it holds outlives who uses it."""

    clock: Clock
    records: list[Record] = field(default_factory=list)
    rows: dict[str, Outgoing] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    """Outbox ids that are over, with the error, or empty when delivered."""
    open_pages: set[tuple[str, str]] = field(default_factory=set)
    cursors: dict[str, int] = field(default_factory=dict)
    inbox: dict[str, Arrived] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    broken: bool = False
    subscribers: list[Callable[[Sequence[Record]], None]] = field(default_factory=list)
    trouble: str = ""
    taken: str = ""
    epoch: int = 0
    host: str = ""

    def __post_init__(self) -> None:
        self.news = asyncio.Event()
        self._sorted = 0
        """How many of `records`, which outlive who uses them, are in their streams already."""
        self._streams: dict[str, list[Record]] = {}

    def _stream(self, name: str) -> list[Record]:
        for record in self.records[self._sorted :]:
            self._streams.setdefault(record.stream, []).append(record)
        self._sorted = len(self.records)
        return self._streams.get(name, [])

    def _writable(self) -> None:
        if self.broken:
            raise JournalUnavailable("no space left on device")

    async def append(
        self, *entries: Entry, handled: Sequence[int] = (), urgent: bool = False, heeding: int | None = None
    ) -> tuple[Record, ...]:
        del urgent  # it has no reserve
        self._writable()
        if heeding is not None:
            held = max((one.seq for one in self.records if isinstance(one.fact, SignalHolds)), default=0)
            if heeding < held:
                raise Conflict(f"signal files hold something else since #{held}")
        return self._append(entries, handled)

    def _append(self, entries: Sequence[Entry], handled: Sequence[int] = ()) -> tuple[Record, ...]:
        made: list[Record] = []
        for entry in entries:
            assert isinstance(entry.fact, _OF_STREAM.get(entry.stream.partition(":")[0], object)), entry
            n = len(self._stream(entry.stream)) + sum(1 for one in made if one.stream == entry.stream)
            if entry.follows is not None and entry.follows != n:
                raise Conflict(entry.stream)
            seq = len(self.records) + len(made) + 1
            made.append(Record(seq, entry.stream, n + 1, self.clock.now(), entry.actor, entry.fact))
        self.records += made
        self.done |= set(handled)
        for heard in self.subscribers if made else ():
            heard(made)
        news, self.news = self.news, asyncio.Event()
        news.set()
        return tuple(made)

    async def read(self, stream: str, after: int = 0) -> list[Record]:
        return [record for record in self._stream(stream) if record.n > after]

    async def since(self, seq: int, kinds: Sequence[str] = (), limit: int = 0) -> list[Record]:
        found = [one for one in self.records if one.seq > seq and (not kinds or type(one.fact).__name__ in kinds)]
        return found[:limit] if limit else found

    async def latest(self, kinds: Sequence[str], stream: str = "", limit: int = 50, before: int = 0) -> list[Record]:
        found = [
            one
            for one in self.records
            if type(one.fact).__name__ in kinds and stream in ("", one.stream) and (not before or one.seq < before)
        ]
        return found[::-1][:limit]

    async def hash_of(self, seq: int) -> bytes | None:
        return next((repr(record).encode() for record in self.records if record.seq == seq), None)

    async def changed(self, seq: int, timeout: timedelta) -> int:
        if len(self.records) <= seq:
            waits = [asyncio.ensure_future(self.news.wait()), asyncio.ensure_future(self._sleep(timeout))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return len(self.records)

    async def _sleep(self, length: timedelta) -> bool:
        await self.clock.sleep(length)
        return True

    async def look(self) -> int:
        return len(self.records)

    def subscribe(self, heard: Callable[[Sequence[Record]], None]) -> None:
        self.subscribers.append(heard)

    async def receive(self, items: Sequence[Received]) -> Receipt:
        self._writable()
        new, again = [], []
        for item in items:
            if item.key in self.inbox:
                again.append(item.key)
                continue
            now = self.clock.now()
            self.inbox[item.key] = Arrived(len(self.inbox) + 1, item.key, item.source, now, now, item.body)
            new.append(self.inbox[item.key])
        return Receipt(tuple(new), tuple(again))

    async def unhandled(self, source: str = "") -> list[Arrived]:
        return [row for row in self.inbox.values() if row.id not in self.done and source in {"", row.source}]

    async def answer(self, row: int, body: bytes) -> None:
        (found,) = (one for one in self.inbox.values() if one.id == row)
        self.inbox[found.key] = replace(found, source=ANSWERED, body=body)
        self.done.add(row)

    async def answer_to(self, key: str) -> bytes | None:
        found = self.inbox.get(key)
        return found.body if found is not None and found.source == ANSWERED else None

    async def arrived(self, source: str, since: datetime) -> list[Arrived]:
        return [row for row in self.inbox.values() if row.source == source and row.seen >= since]

    async def handled(self, ids: Sequence[int]) -> None:
        self._writable()
        self.done |= set(ids)

    async def attend(self, host: str, process: str, version: str, configuration: str) -> timedelta:
        del host, process, version, configuration
        return timedelta()

    async def leave(self, host: str, process: str) -> None:
        del host, process

    async def members(self) -> list[Member]:
        return []

    async def prune(self, before: datetime) -> int:
        del before
        return 0

    async def cursor(self, name: str) -> int:
        return self.cursors.get(name, 0)

    async def enqueue(self, rows: Sequence[Outgoing], name: str, cursor: int) -> None:
        self._writable()
        for row in rows:
            if row.key not in self.rows:
                self.rows[row.key] = replace(row, id=len(self.rows) + 1)
        self.cursors[name] = cursor

    async def waiting(self) -> list[Outgoing]:
        return [row for row in self.rows.values() if row.id not in self.ended]

    async def pages(self, receiver: str) -> frozenset[str]:
        return frozenset(thread for name, thread in self.open_pages if name == receiver)

    async def delivered(self, ids: Sequence[int], at: datetime, *facts: Entry, turned: PageTurn | None = None) -> None:
        del at
        self._writable()
        if turned is not None:
            self.open_pages |= {(turned.receiver, thread) for thread in turned.opened}
            self.open_pages -= {(turned.receiver, thread) for thread in turned.closed}
        self.ended |= dict.fromkeys(ids, "")
        self._append(facts)

    async def postponed(self, ids: Sequence[int], error: str, not_before: datetime | None) -> None:
        self._writable()
        for key, row in self.rows.items():
            if row.id in ids:
                tried = replace(row, attempts=row.attempts + 1, error=error)
                self.rows[key] = replace(tried, not_before=not_before) if not_before else tried
                if not_before is None:
                    self.ended[row.id] = error

    async def audit(self) -> AuditReport:
        return AuditReport(len({record.stream for record in self.records}), len(self.records))

    def pulses(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        return {}

    async def close(self) -> None:
        self.broken = True
