"""What one transaction writes: the units that waited together, each kept whole or not at all."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rollbackd.facts import Record, SignalHolds, encode, kinds
from rollbackd.journal.chain import link
from rollbackd.journal.contract import ANSWERED, Arrived, Conflict, Entry, Receipt, Received
from rollbackd.journal.database import AMONG, JournalConnection, Row, scalar, stamp, storable

_HEADS = f"SELECT stream, n, hash FROM heads WHERE stream {AMONG}"
_HELD = "SELECT max(seq) FROM facts WHERE kind = ?"
_INBOX = "inbox (key, source, at, seen, body, handled)"
_HANDLED = f"UPDATE inbox SET handled = 1 WHERE id {AMONG}"
_ANSWERED = "UPDATE inbox SET source = ?, body = ?, handled = 1 WHERE id = ?"
_SEEN = f"UPDATE inbox SET seen = ? WHERE key {AMONG}"

Answer = Any
"""A unit's result, or the exception that its caller gets."""


@dataclass(frozen=True, slots=True)
class EncodedEntry:
    """An entry, encoded by its caller, so that a fact that cannot be encoded is its caller's trouble alone."""

    entry: Entry
    kind: str
    body: str

    @classmethod
    def of(cls, entry: Entry) -> "EncodedEntry":
        kind, body = encode(entry.fact)
        storable(entry.stream)
        storable(entry.actor)
        return cls(entry, kind, body.decode())


@dataclass(slots=True, eq=False)
class WriteRequest:
    """One caller's part of a batch."""

    future: asyncio.Future[Any] = field(init=False)
    """Its answer; made when the writer takes it."""
    entries: tuple[EncodedEntry, ...] = ()
    handled: Sequence[int] = ()
    items: Sequence[Received] | None = None
    """A delivery for the inbox."""
    effect: Callable[[JournalConnection, datetime], object] | None = None
    """Anything else, done after the facts; the unit's result is what it returns."""
    urgent: bool = False
    heeding: int | None = None


@dataclass(slots=True)
class BatchResult:
    """What came of a batch: an answer for each unit, in order, and the facts that were written."""

    answers: list[Answer] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


def write(connection: JournalConnection, units: Sequence[WriteRequest], now: datetime) -> BatchResult:
    """Write them all in the transaction that the caller holds. A `Conflict` is an answer; any exception is for all."""
    now = now.astimezone(UTC)
    written = _write_facts(connection, units, now)
    refused = {id(unit) for unit, answer in zip(units, written.answers, strict=True) if isinstance(answer, Conflict)}
    kept = [unit for unit in units if id(unit) not in refused]
    mark_handled(connection, [number for unit in kept for number in unit.handled])
    receipts = iter(_receive(connection, [unit.items for unit in kept if unit.items is not None], now))
    for place, unit in enumerate(units):
        if id(unit) in refused:
            continue
        if unit.items is not None:
            written.answers[place] = next(receipts)
        elif unit.effect is not None:
            written.answers[place] = unit.effect(connection, now)
    return written


# -- facts --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Head:
    n: int
    hash: bytes


_EMPTY = _Head(0, b"")


@dataclass(slots=True)
class _Draft:
    """The facts of a batch while it is put together in memory."""

    at: datetime
    seq: int
    heads: dict[str, _Head]
    held: int
    """The place of the last fact that says what signal files hold."""
    rows: list[Row] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    def add(self, unit: WriteRequest) -> tuple[Record, ...] | Conflict:
        """A unit's records, or which intent lost; then nothing of the unit is in the draft."""
        if unit.heeding is not None and unit.heeding < self.held:
            return Conflict(f"signal files hold something else since #{self.held}")
        at = stamp(self.at)
        moved: dict[str, _Head] = {}
        records: list[Record] = []
        rows: list[Row] = []
        for encoded in unit.entries:
            entry = encoded.entry
            head = moved.get(entry.stream) or self.heads.get(entry.stream, _EMPTY)
            if entry.follows is not None and entry.follows != head.n:
                return Conflict(f"{entry.stream}: {encoded.kind} was to follow {entry.follows}, but {head.n} is there")
            n, seq = head.n + 1, self.seq + len(rows) + 1
            fields = (seq, entry.stream, n, at, entry.actor, encoded.kind, encoded.body)
            moved[entry.stream] = _Head(n, _link(head.hash, *fields))
            rows.append((*fields, moved[entry.stream].hash))
            records.append(Record(seq, entry.stream, n, self.at, entry.actor, entry.fact))
        self.heads.update(moved)
        self.touched.update(moved)
        self.rows += rows
        self.seq += len(rows)
        return tuple(records)


def _link(previous: bytes, seq: int, stream: str, n: int, at: str, actor: str, kind: str, body: str) -> bytes:
    return link(previous, seq, stream.encode(), n, at.encode(), actor.encode(), kind.encode(), body.encode())


def _write_facts(connection: JournalConnection, units: Sequence[WriteRequest], now: datetime) -> BatchResult:
    streams = {encoded.entry.stream for unit in units for encoded in unit.entries}
    if not streams:
        return BatchResult([() for _ in units])
    connection.hold_numbers()
    heeded = any(unit.heeding is not None for unit in units)
    held = scalar(connection, _HELD, *kinds(SignalHolds)) or 0 if heeded else 0
    draft = _Draft(now, connection.last_fact(), _heads_of(connection, streams), held)
    answers: list[Answer] = [draft.add(unit) for unit in units]
    records = [record for answer in answers if not isinstance(answer, Conflict) for record in answer]
    if draft.rows:
        connection.insert("facts", draft.rows)
        moved = [(name, draft.heads[name].n, draft.heads[name].hash) for name in draft.touched]
        connection.insert("heads", moved, "ON CONFLICT (stream) DO UPDATE SET n = excluded.n, hash = excluded.hash")
    return BatchResult(answers, records)


def _heads_of(connection: JournalConnection, streams: Iterable[str]) -> dict[str, _Head]:
    found: dict[str, _Head] = {}
    for stream, n, digest in connection.execute(_HEADS, (connection.listed(streams),)):
        found[stream] = _Head(n, digest)
    return found


# -- inbox --------------------------------------------------------------------------------------
def mark_handled(connection: JournalConnection, ids: Sequence[int]) -> None:
    if ids:
        connection.execute(_HANDLED, (connection.listed(ids),))


def answer(connection: JournalConnection, row: int, body: bytes) -> None:
    """Put what became of a row of the inbox in the place of what it was."""
    connection.execute(_ANSWERED, (ANSWERED, body, row))


def _receive(connection: JournalConnection, deliveries: Sequence[Sequence[Received]], now: datetime) -> list[Receipt]:
    """All deliveries of a batch by one insert; what was there, or came earlier in the batch, is only seen again."""
    items = [item for items in deliveries for item in items]
    at = stamp(now)
    rows = [(storable(item.key), item.source, at, at, item.body, 0) for item in items]
    numbers = connection.insert_new(_INBOX, rows)
    if len(numbers) < len(items):
        again = [item.key for item in items if item.key not in numbers]
        connection.execute(_SEEN, (at, connection.listed(again)))
    return [_receipt(delivery, numbers, now) for delivery in deliveries]


def _receipt(delivery: Sequence[Received], numbers: dict[str, int], now: datetime) -> Receipt:
    """What became of a delivery; it takes the numbers of its new rows."""
    new: list[Arrived] = []
    again: list[str] = []
    for one in delivery:
        number = numbers.pop(one.key, None)
        if number is None:
            again.append(one.key)
        else:
            new.append(Arrived(number, one.key, one.source, now, now, one.body))
    return Receipt(tuple(new), tuple(again))
