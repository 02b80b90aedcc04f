"""What one transaction writes: the units that waited together, each kept whole or not at all."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import Connection, Table

from rollbackd.facts import Record, encode
from rollbackd.journal.chain import link
from rollbackd.journal.contract import Arrived, Conflict, Entry, Receipt, Received
from rollbackd.journal.engine import stamp
from rollbackd.journal.schema import facts, heads, inbox

T = TypeVar("T")
CHUNK = 500
"""Values in one `IN (…)`, rows in one `INSERT`."""

# As text, with lists as one JSON value: to put a statement together would take longer than to carry it out.
_LAST_NUMBER = "SELECT seq FROM sqlite_sequence WHERE name = ?"
_HEADS = "SELECT stream, n, hash FROM heads WHERE stream IN (SELECT value FROM json_each(?))"
_NUMBERS = "SELECT key, id FROM inbox WHERE key IN (SELECT value FROM json_each(?))"
_HANDLED = "UPDATE inbox SET handled = 1 WHERE id IN (SELECT value FROM json_each(?))"
_SEEN = "UPDATE inbox SET seen = ? WHERE id IN (SELECT value FROM json_each(?))"

Row = tuple[Any, ...]
Answer = Any
"""A unit's result, or the exception that its caller gets."""


@dataclass(frozen=True, slots=True)
class Line:
    """An entry, encoded by its caller, so that a fact that cannot be encoded is its caller's trouble alone."""

    entry: Entry
    kind: str
    body: str

    @classmethod
    def of(cls, entry: Entry) -> "Line":
        kind, body = encode(entry.fact)
        return cls(entry, kind, body.decode())


@dataclass(slots=True, eq=False)
class Unit:
    """One caller's part of a batch."""

    future: asyncio.Future[Any]
    lines: tuple[Line, ...] = ()
    handled: Sequence[int] = ()
    items: Sequence[Received] | None = None
    """A delivery for the inbox."""
    effect: Callable[[Connection, datetime], Any] | None = None
    """Anything else, done after the facts; the unit's result is what it returns."""
    urgent: bool = False


@dataclass(slots=True)
class Written:
    """What came of a batch: an answer for each unit, in order, and the newest fact's place."""

    answers: list[Answer] = field(default_factory=list)
    seq: int = 0


def write(connection: Connection, units: Sequence[Unit], now: datetime) -> Written:
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
    rows: list[Row] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    def add(self, unit: Unit) -> tuple[Record, ...] | Conflict:
        """A unit's records, or which intent lost; then nothing of the unit is in the draft."""
        at = stamp(self.at)
        moved: dict[str, _Head] = {}
        records: list[Record] = []
        rows: list[Row] = []
        for line in unit.lines:
            entry = line.entry
            head = moved.get(entry.stream) or self.heads.get(entry.stream, _EMPTY)
            if entry.follows is not None and entry.follows != head.n:
                return Conflict(f"{entry.stream}: {line.kind} was to follow {entry.follows}, but {head.n} is there")
            n, seq = head.n + 1, self.seq + len(rows) + 1
            fields = (seq, entry.stream, n, at, entry.actor, line.kind, line.body)
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


def _write_facts(connection: Connection, units: Sequence[Unit], now: datetime) -> Written:
    streams = {line.entry.stream for unit in units for line in unit.lines}
    if not streams:
        return Written([() for _ in units])
    draft = _Draft(now, last_number(connection, "facts"), _heads_of(connection, streams))
    answers: list[Answer] = [draft.add(unit) for unit in units]
    if draft.rows:
        _insert(connection, facts, draft.rows)
        moved = [(name, draft.heads[name].n, draft.heads[name].hash) for name in draft.touched]
        _insert(connection, heads, moved, "ON CONFLICT (stream) DO UPDATE SET n = excluded.n, hash = excluded.hash")
    return Written(answers, draft.seq)


def _heads_of(connection: Connection, streams: Iterable[str]) -> dict[str, _Head]:
    found: dict[str, _Head] = {}
    for stream, n, digest in connection.exec_driver_sql(_HEADS, (json.dumps(list(streams)),)):
        found[stream] = _Head(n, digest)
    return found


def last_number(connection: Connection, table: str) -> int:
    """The highest number a row of the table ever had; the next one is ours, since the transaction holds the lock.

    Numbers so given have no gaps: a number that is missing was deleted by hand, and `audit` says so.
    """
    return connection.exec_driver_sql(_LAST_NUMBER, (table,)).scalar() or 0


# -- inbox --------------------------------------------------------------------------------------
def mark_handled(connection: Connection, ids: Sequence[int]) -> None:
    if ids:
        connection.exec_driver_sql(_HANDLED, (json.dumps(ids),))


def _receive(connection: Connection, deliveries: Sequence[Sequence[Received]], now: datetime) -> list[Receipt]:
    """All deliveries of a batch by one insert; what was there, or came earlier in the batch, is only seen again."""
    items = [item for items in deliveries for item in items]
    at = stamp(now)
    rows = [(None, item.key, item.source, at, at, item.body, 0) for item in items]
    added, last = _insert(connection, inbox, rows, "ON CONFLICT (key) DO NOTHING")
    if added == len(items):
        numbers = dict(zip((item.key for item in items), range(last - added + 1, last + 1), strict=True))
    else:
        numbers = _new_among(connection, items, added, at)
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


def _new_among(connection: Connection, items: Sequence[Received], added: int, at: str) -> dict[str, int]:
    """The rows that were added, by key; those that were there before are seen now. New numbers are the highest."""
    keys = json.dumps([item.key for item in items])
    found = sorted(connection.exec_driver_sql(_NUMBERS, (keys,)), key=lambda row: row.id)
    known, new = found[: len(found) - added], found[len(found) - added :]
    if known:
        connection.exec_driver_sql(_SEEN, (at, json.dumps([row.id for row in known])))
    return {row.key: row.id for row in new}


def _insert(connection: Connection, table: Table, rows: Sequence[Row], conflict: str = "") -> tuple[int, int]:
    """Rows of all columns, in the table's order; how many were added, and the last one's number.

    By one statement: each one gives the interpreter away, and waits to get it back.
    """
    added = last = 0
    row = f"({', '.join('?' for _ in table.columns)})"
    for chunk in chunks(rows):
        several = ", ".join(row for _ in chunk)
        statement = f"INSERT INTO {table.name} VALUES {several} {conflict}"  # noqa: S608  # names of our own
        result = connection.exec_driver_sql(statement, tuple(chain.from_iterable(chunk)))
        added, last = added + result.rowcount, result.lastrowid
    return added, last


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
