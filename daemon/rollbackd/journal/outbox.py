"""The outbox and the cursors of who reads the facts, and forgetting what is over."""

from collections.abc import Sequence
from datetime import datetime

from rollbackd.journal.contract import Outgoing, PageTurn
from rollbackd.journal.database import AMONG, JournalConnection, scalar, stamp, storable, unstamp

PRUNED_AT_ONCE = 1000
"""Rows a transaction; writers get their turn between two."""

_COLUMNS = "key, receiver, grouped, body, not_before, created, attempts, error"
_WAITING = f"SELECT {_COLUMNS}, id FROM outbox WHERE ended IS NULL ORDER BY id"
_PAGES = "SELECT thread FROM pages WHERE receiver = ?"
_CLOSED = f"DELETE FROM pages WHERE receiver = ? AND thread {AMONG}"
_MOVED = "INSERT INTO cursors (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq"
_ENDED = f"UPDATE outbox SET attempts = attempts + 1, error = ?, ended = ? WHERE id {AMONG}"
_POSTPONED = f"UPDATE outbox SET attempts = attempts + 1, error = ?, not_before = ? WHERE id {AMONG}"
_OVER = (("inbox", "handled = 1 AND seen < ?"), ("outbox", "ended < ?"))


def enqueue(connection: JournalConnection, rows: Sequence[Outgoing], name: str, cursor: int) -> None:
    values = [
        (
            storable(one.key),
            one.receiver,
            storable(one.group),
            one.body,
            stamp(one.not_before),
            stamp(one.created),
            one.attempts,
            one.error,
        )
        for one in rows
    ]
    connection.insert(f"outbox ({_COLUMNS})", values, "ON CONFLICT (key) DO NOTHING")
    connection.execute(_MOVED, (name, cursor))


def waiting(connection: JournalConnection) -> list[Outgoing]:
    return [
        Outgoing(key, receiver, group, body, unstamp(not_before), unstamp(created), attempts, error, number)
        for key, receiver, group, body, not_before, created, attempts, error, number in connection.execute(_WAITING)
    ]


def pages(connection: JournalConnection, receiver: str) -> frozenset[str]:
    return frozenset(thread for (thread,) in connection.execute(_PAGES, (receiver,)))


def delivered(connection: JournalConnection, ids: Sequence[int], at: datetime, turned: PageTurn | None) -> None:
    connection.execute(_ENDED, ("", stamp(at), connection.listed(ids)))
    if turned is not None:
        opened = [(turned.receiver, storable(thread)) for thread in turned.opened]
        connection.insert("pages (receiver, thread)", opened, "ON CONFLICT (receiver, thread) DO NOTHING")
        connection.execute(_CLOSED, (turned.receiver, connection.listed(turned.closed)))


def postponed(
    connection: JournalConnection, ids: Sequence[int], error: str, not_before: datetime | None, now: datetime
) -> None:
    fate, when = (_ENDED, now) if not_before is None else (_POSTPONED, not_before)
    connection.execute(fate, (_told(error), stamp(when), connection.listed(ids)))


def cursor(connection: JournalConnection, name: str) -> int:
    return scalar(connection, "SELECT seq FROM cursors WHERE name = ?", name) or 0


def prune(connection: JournalConnection, before: datetime) -> int:
    """One portion; 0 when there is nothing left to forget."""
    forgotten = 0
    for table, over in _OVER:
        portion = f"SELECT id FROM {table} WHERE {over} LIMIT {PRUNED_AT_ONCE}"
        forgotten += connection.execute(f"DELETE FROM {table} WHERE id IN ({portion})", (stamp(before),)).rowcount
    return forgotten


def _told(error: str) -> str:
    """What a receiver said may have anything in it, and must not keep a message from being tried again."""
    return error.encode(errors="replace").decode().replace("\0", "?")
