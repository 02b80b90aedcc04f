"""The questions asked of the journal: each one is a function of a connection and sees one moment of it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, Select, select

from rollbackd.facts import KINDS, Record, decode
from rollbackd.journal.contract import Arrived, JournalDamaged
from rollbackd.journal.engine import stamp, unstamp
from rollbackd.journal.schema import facts, inbox, too_new

_COLUMNS = (facts.c.seq, facts.c.stream, facts.c.n, facts.c.at, facts.c.actor, facts.c.kind, facts.c.body)


def read(connection: Connection, path: Path, stream: str, after: int) -> list[Record]:
    asked = select(*_COLUMNS).where(facts.c.stream == stream, facts.c.n > after).order_by(facts.c.n)
    return _records(connection, path, asked)


def since(connection: Connection, path: Path, seq: int, kinds: Sequence[str], limit: int) -> list[Record]:
    asked = select(*_COLUMNS).where(facts.c.seq > seq).order_by(facts.c.seq)
    if kinds:
        # First the numbers, from the index, then the rows in that order: asked at once, SQLite sorts whole bodies.
        wanted = select(facts.c.seq).where(facts.c.kind.in_(list(kinds)), facts.c.seq > seq)
        asked = asked.where(facts.c.seq.in_(wanted))
    return _records(connection, path, asked.limit(limit) if limit else asked)


def latest(connection: Connection, path: Path, kinds: Sequence[str], stream: str, limit: int) -> list[Record]:
    """Each kind by its own index, then the newest of all: SQLite itself would sort every fact of these kinds."""
    found: list[Record] = []
    for kind in set(kinds):
        asked = select(*_COLUMNS).where(facts.c.kind == kind)
        if stream:
            asked = asked.where(facts.c.stream == stream)
        found += _records(connection, path, asked.order_by(facts.c.seq.desc()).limit(limit))
    return sorted(found, key=lambda record: record.seq, reverse=True)[:limit]


def unhandled(connection: Connection) -> list[Arrived]:
    return _arrived(connection.execute(select(inbox).where(inbox.c.handled == 0).order_by(inbox.c.id)))


def arrived(connection: Connection, source: str, since: datetime) -> list[Arrived]:
    asked = select(inbox).where(inbox.c.source == source, inbox.c.seen >= stamp(since))
    return _arrived(connection.execute(asked.order_by(inbox.c.id)))


def refuse_unknown_kinds(connection: Connection, path: Path) -> None:
    """:raises JournalRefused: there are facts that this version cannot read."""
    unknown = set(connection.execute(select(facts.c.kind).distinct()).scalars()) - KINDS
    if unknown:
        raise too_new(path, f"it has facts of kind {', '.join(sorted(unknown))}")


def _records(connection: Connection, path: Path, asked: Select[Any]) -> list[Record]:
    return [_record(path, row) for row in connection.execute(asked)]


def _record(path: Path, row: Sequence[Any]) -> Record:
    seq, stream, n, at, actor, kind, body = row
    try:
        return Record(seq, stream, n, unstamp(at), actor, decode(kind, body))
    except KeyError as error:
        raise too_new(path, f"{stream} #{n} is of kind {kind}") from error
    except (ValidationError, ValueError, TypeError) as error:
        raise JournalDamaged(
            f"{path}: {stream} #{n} ({kind}) does not read as what was written; `rollbackd audit` says what else"
        ) from error


def _arrived(rows: Iterable[Row[Any]]) -> list[Arrived]:
    return [Arrived(row.id, row.key, row.source, unstamp(row.at), unstamp(row.seen), row.body) for row in rows]
