"""The questions asked of the journal: each one is a function of a connection and sees one moment of it."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollbackd.facts import KINDS, Record, decode
from rollbackd.journal.contract import Arrived, JournalDamaged
from rollbackd.journal.sqlite import AMONG, Connection, Row, listed, scalar, stamp, too_new, unstamp

_FACTS = "SELECT seq, stream, n, at, actor, kind, body FROM facts"
# First the numbers, from the index, then the rows in that order: asked at once, SQLite sorts whole bodies.
_OF_KINDS = f"AND seq IN (SELECT seq FROM facts WHERE kind {AMONG} AND seq > ?)"
_ALL = 2**62
"""Facts."""
_INBOX = "SELECT id, key, source, at, seen, body FROM inbox"


def read(connection: Connection, path: Path, stream: str, after: int) -> list[Record]:
    return _records(connection, path, f"{_FACTS} WHERE stream = ? AND n > ? ORDER BY n", stream, after)


def since(connection: Connection, path: Path, seq: int, kinds: Sequence[str], limit: int) -> list[Record]:
    some, values = (_OF_KINDS, [listed(kinds), seq]) if kinds else ("", [])
    asked = f"{_FACTS} WHERE seq > ? {some} ORDER BY seq LIMIT ?"
    return _records(connection, path, asked, seq, *values, limit or _ALL)


def until(connection: Connection, path: Path, seq: int) -> Iterator[Record]:
    """The facts up to a place, one by one: a journal may be larger than memory."""
    return (_record(path, row) for row in connection.execute(f"{_FACTS} WHERE seq <= ? ORDER BY seq", (seq,)))


def latest(connection: Connection, path: Path, kinds: Sequence[str], stream: str, limit: int) -> list[Record]:
    """Each kind by its own index, then the newest of all: SQLite itself would sort every fact of these kinds."""
    found: list[Record] = []
    some, values = ("AND stream = ?", [stream]) if stream else ("", [])
    for kind in set(kinds):
        asked = f"{_FACTS} WHERE kind = ? {some} ORDER BY seq DESC LIMIT ?"
        found += _records(connection, path, asked, kind, *values, limit)
    return sorted(found, key=lambda record: record.seq, reverse=True)[:limit]


def hash_of(connection: Connection, seq: int) -> bytes | None:
    found: bytes | None = scalar(connection, "SELECT hash FROM facts WHERE seq = ?", seq)
    return found


def unhandled(connection: Connection, source: str) -> list[Arrived]:
    some, values = ("AND source = ?", (source,)) if source else ("", ())
    return _arrived(connection.execute(f"{_INBOX} WHERE handled = 0 {some} ORDER BY id", values))


def arrived(connection: Connection, source: str, since: datetime) -> list[Arrived]:
    return _arrived(connection.execute(f"{_INBOX} WHERE source = ? AND seen >= ? ORDER BY id", (source, stamp(since))))


def refuse_unknown_kinds(connection: Connection, path: Path) -> None:
    """:raises JournalRefused: there are facts that this version cannot read."""
    unknown = {kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM facts")} - KINDS
    if unknown:
        raise too_new(path, f"it has facts of kind {', '.join(sorted(unknown))}")


def _records(connection: Connection, path: Path, asked: str, *values: Any) -> list[Record]:
    return [_record(path, row) for row in connection.execute(asked, values)]


def _record(path: Path, row: Row) -> Record:
    seq, stream, n, at, actor, kind, body = row
    try:
        return Record(seq, stream, n, unstamp(at), actor, decode(kind, body))
    except KeyError as error:
        raise too_new(path, f"{stream} #{n} is of kind {kind}") from error
    except (ValidationError, ValueError, TypeError) as error:
        raise JournalDamaged(
            f"{path}: {stream} #{n} ({kind}) does not read as what was written; `rollbackd audit` says what else"
        ) from error


def _arrived(rows: Iterable[Row]) -> list[Arrived]:
    return [
        Arrived(number, key, source, unstamp(at), unstamp(seen), body) for number, key, source, at, seen, body in rows
    ]
