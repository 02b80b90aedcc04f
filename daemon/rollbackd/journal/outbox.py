"""The outbox and the cursors of who reads the facts, and forgetting what is over."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Table, and_, delete, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql import ColumnElement

from rollbackd.journal.batch import chunks
from rollbackd.journal.contract import Outgoing
from rollbackd.journal.engine import stamp, unstamp
from rollbackd.journal.schema import cursors, inbox, outbox

PRUNED_AT_ONCE = 1000
"""Rows a transaction; writers get their turn between two."""


def enqueue(connection: Connection, rows: Sequence[Outgoing], name: str, cursor: int) -> None:
    values = [
        {
            "key": row.key,
            "receiver": row.receiver,
            "grouped": row.group,
            "body": row.body,
            "not_before": stamp(row.not_before),
            "created": stamp(row.created),
            "attempts": row.attempts,
            "error": row.error,
        }
        for row in rows
    ]
    if values:
        connection.execute(insert(outbox).on_conflict_do_nothing(index_elements=["key"]), values)
    moved = insert(cursors).values(name=name, seq=cursor)
    connection.execute(moved.on_conflict_do_update(index_elements=["name"], set_={"seq": moved.excluded.seq}))


def waiting(connection: Connection) -> list[Outgoing]:
    rows = connection.execute(select(outbox).where(outbox.c.ended.is_(None)).order_by(outbox.c.id))
    return [
        Outgoing(
            key=row.key,
            receiver=row.receiver,
            group=row.grouped,
            body=row.body,
            not_before=unstamp(row.not_before),
            created=unstamp(row.created),
            attempts=row.attempts,
            error=row.error,
            id=row.id,
        )
        for row in rows
    ]


def delivered(connection: Connection, ids: Sequence[int], at: datetime) -> None:
    tried = {"attempts": outbox.c.attempts + 1, "error": "", "ended": stamp(at)}
    for chunk in chunks(ids):
        connection.execute(update(outbox).where(outbox.c.id.in_(chunk)).values(tried))


def postponed(
    connection: Connection, ids: Sequence[int], error: str, not_before: datetime | None, now: datetime
) -> None:
    tried = {"attempts": outbox.c.attempts + 1, "error": error}
    fate = {"ended": stamp(now)} if not_before is None else {"not_before": stamp(not_before)}
    for chunk in chunks(ids):
        connection.execute(update(outbox).where(outbox.c.id.in_(chunk)).values({**tried, **fate}))


def cursor(connection: Connection, name: str) -> int:
    return connection.execute(select(cursors.c.seq).where(cursors.c.name == name)).scalar() or 0


def prune(connection: Connection, before: datetime) -> int:
    """One portion; 0 when there is nothing left to forget."""
    limit = stamp(before)
    return _forget(connection, inbox, and_(inbox.c.handled == 1, inbox.c.seen < limit)) + _forget(
        connection, outbox, outbox.c.ended < limit
    )


def _forget(connection: Connection, table: Table, which: ColumnElement[bool]) -> int:
    portion = select(table.c.id).where(which).limit(PRUNED_AT_ONCE)
    return connection.execute(delete(table).where(table.c.id.in_(portion))).rowcount
