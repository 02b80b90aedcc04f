"""What one transaction writes: the units that waited together, each kept whole or not at all."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.sqlite import insert

from rollbackd.facts import Record, encode
from rollbackd.journal.chain import link
from rollbackd.journal.contract import Arrived, Conflict, Entry, Receipt, Received
from rollbackd.journal.engine import stamp
from rollbackd.journal.schema import facts, heads, inbox, sequences

T = TypeVar("T")
CHUNK = 500
"""Values in one `IN (…)`."""

_LAST_NUMBER = select(sequences.c.seq).where(sequences.c.name == bindparam("table"))
_HEADS = select(heads).where(heads.c.stream.in_(bindparam("streams", expanding=True)))
_ADD_FACTS = facts.insert()
_NEW_HEADS = insert(heads)
_MOVE_HEADS = _NEW_HEADS.on_conflict_do_update(
    index_elements=["stream"], set_={"n": _NEW_HEADS.excluded.n, "hash": _NEW_HEADS.excluded.hash}
)
_KNOWN = select(inbox.c.key, inbox.c.id).where(inbox.c.key.in_(bindparam("keys", expanding=True)))
_ADD_ARRIVED = inbox.insert()
_HANDLED = update(inbox).where(inbox.c.id.in_(bindparam("ids", expanding=True))).values(handled=1)
_SEEN = update(inbox).where(inbox.c.id.in_(bindparam("ids", expanding=True))).values(seen=bindparam("now"))
# Made once: to put a statement together takes longer than to carry it out.

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
    rows: list[dict[str, Any]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    def add(self, unit: Unit) -> tuple[Record, ...] | Conflict:
        """A unit's records, or which intent lost; then nothing of the unit is in the draft."""
        at = stamp(self.at)
        moved: dict[str, _Head] = {}
        records: list[Record] = []
        rows: list[dict[str, Any]] = []
        for line in unit.lines:
            entry = line.entry
            head = moved.get(entry.stream) or self.heads.get(entry.stream, _EMPTY)
            if entry.follows is not None and entry.follows != head.n:
                return Conflict(f"{entry.stream}: {line.kind} was to follow {entry.follows}, but {head.n} is there")
            n, seq = head.n + 1, self.seq + len(rows) + 1
            fields = (seq, entry.stream, n, at, entry.actor, line.kind, line.body)
            moved[entry.stream] = _Head(n, _link(head.hash, *fields))
            row = dict(zip(("seq", "stream", "n", "at", "actor", "kind", "body"), fields, strict=True))
            rows.append({**row, "hash": moved[entry.stream].hash})
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
        connection.execute(_ADD_FACTS, draft.rows)
        moved = [{"stream": name, "n": draft.heads[name].n, "hash": draft.heads[name].hash} for name in draft.touched]
        connection.execute(_MOVE_HEADS, moved)
    return Written(answers, draft.seq)


def _heads_of(connection: Connection, streams: Iterable[str]) -> dict[str, _Head]:
    found: dict[str, _Head] = {}
    for chunk in chunks(list(streams)):
        for stream, n, digest in connection.execute(_HEADS, {"streams": chunk}):
            found[stream] = _Head(n, digest)
    return found


def last_number(connection: Connection, table: str) -> int:
    """The highest number a row of the table ever had; the next one is ours, since the transaction holds the lock.

    Numbers so given have no gaps: a number that is missing was deleted by hand, and `audit` says so.
    """
    return connection.execute(_LAST_NUMBER, {"table": table}).scalar() or 0


# -- inbox --------------------------------------------------------------------------------------
def mark_handled(connection: Connection, ids: Sequence[int]) -> None:
    for chunk in chunks(ids):
        connection.execute(_HANDLED, {"ids": chunk})


def _receive(connection: Connection, deliveries: Sequence[Sequence[Received]], now: datetime) -> list[Receipt]:
    """All deliveries of a batch with one look and one insert; the earlier one has what the later one has again."""
    keys = {item.key for items in deliveries for item in items}
    if not keys:
        return [Receipt((), ()) for _ in deliveries]
    known: set[str] = set()
    seen_again: list[int] = []
    for chunk in chunks(list(keys)):
        for key, number in connection.execute(_KNOWN, {"keys": chunk}):
            known.add(key)
            seen_again.append(number)
    last = last_number(connection, "inbox")
    receipts: list[Receipt] = []
    arrived: list[Arrived] = []
    for items in deliveries:
        before, again = len(arrived), []
        for item in items:
            if item.key in known:
                again.append(item.key)
                continue
            known.add(item.key)
            arrived.append(Arrived(last + len(arrived) + 1, item.key, item.source, now, now, item.body))
        receipts.append(Receipt(tuple(arrived[before:]), tuple(again)))
    at = stamp(now)
    if arrived:
        connection.execute(_ADD_ARRIVED, [_row(item, at) for item in arrived])
    for ids in chunks(seen_again):
        connection.execute(_SEEN, {"ids": ids, "now": at})
    return receipts


def _row(item: Arrived, at: str) -> dict[str, Any]:
    columns = {"id": item.id, "key": item.key, "source": item.source, "body": item.body}
    return {**columns, "at": at, "seen": at, "handled": 0}


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
