"""The questions asked of the journal: each one is a function of a connection and sees one moment of it."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from pydantic import ValidationError

from rollbackd.facts import KINDS, Moved, Record, decode, kinds
from rollbackd.journal.contract import ANSWERED, Arrived, JournalRefused
from rollbackd.journal.database import AMONG, JournalConnection, Row, scalar, stamp, too_new, unreadable, unstamp

_FACTS = "SELECT seq, stream, n, at, actor, kind, body FROM facts"
# First the numbers, from the index, then the rows in that order: asked at once, SQLite sorts whole bodies.
_OF_KINDS = f"AND seq IN (SELECT seq FROM facts WHERE kind {AMONG} AND seq > ?)"
_ALL = 2**62
"""Facts."""
_PORTION = 1000
"""Facts."""
_INBOX = "SELECT id, key, source, at, seen, body FROM inbox"


def read(connection: JournalConnection, name: str, stream: str, after: int) -> list[Record]:
    return _records(connection, name, f"{_FACTS} WHERE stream = ? AND n > ? ORDER BY n", stream, after)


def since(connection: JournalConnection, name: str, seq: int, kinds: Sequence[str], limit: int) -> list[Record]:
    some, values = (_OF_KINDS, [connection.listed(kinds), seq]) if kinds else ("", [])
    asked = f"{_FACTS} WHERE seq > ? {some} ORDER BY seq LIMIT ?"
    return _records(connection, name, asked, seq, *values, limit or _ALL)


def until(connection: JournalConnection, name: str, seq: int) -> Iterator[Record]:
    """The facts up to a place, in portions: a journal may be larger than memory."""
    after = 0
    while portion := _records(
        connection, name, f"{_FACTS} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", after, seq, _PORTION
    ):
        yield from portion
        after = portion[-1].seq


def latest(
    connection: JournalConnection, name: str, kinds: Sequence[str], stream: str, limit: int, before: int
) -> list[Record]:
    """Each kind by its own index, then the newest of all: SQLite itself would sort every fact of these kinds."""
    found: list[Record] = []
    asked_for: dict[str, str | int] = {"AND stream = ?": stream, "AND seq < ?": before}
    some = " ".join(condition for condition, value in asked_for.items() if value)
    values = [value for value in asked_for.values() if value]
    for kind in set(kinds):
        asked = f"{_FACTS} WHERE kind = ? {some} ORDER BY seq DESC LIMIT ?"
        found += _records(connection, name, asked, kind, *values, limit)
    return sorted(found, key=lambda record: record.seq, reverse=True)[:limit]


def hash_of(connection: JournalConnection, seq: int) -> bytes | None:
    found: bytes | None = scalar(connection, "SELECT hash FROM facts WHERE seq = ?", seq)
    return found


def unhandled(connection: JournalConnection, source: str) -> list[Arrived]:
    some, values = ("AND source = ?", (source,)) if source else ("", ())
    return _arrived(connection.execute(f"{_INBOX} WHERE handled = 0 {some} ORDER BY id", values))


def answer_to(connection: JournalConnection, key: str) -> bytes | None:
    found: bytes | None = scalar(connection, "SELECT body FROM inbox WHERE key = ? AND source = ?", key, ANSWERED)
    return found


def arrived(connection: JournalConnection, source: str, since: datetime) -> list[Arrived]:
    return _arrived(connection.execute(f"{_INBOX} WHERE source = ? AND seen >= ? ORDER BY id", (source, stamp(since))))


def refuse_foreign(connection: JournalConnection, name: str) -> None:
    """:raises JournalRefused: there are facts that this version cannot read, or it goes on elsewhere."""
    unknown = {kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM facts")} - KINDS
    if unknown:
        raise too_new(name, f"it has facts of kind {', '.join(sorted(unknown))}")
    for record in since(connection, name, connection.last_fact() - 1, kinds(Moved), 1):
        raise JournalRefused(
            f"{name}: was moved to {record.fact.to} at {stamp(record.at)}; name that as daemon.journal"
        )


def _records(connection: JournalConnection, name: str, asked: str, *values: object) -> list[Record]:
    return [_record(name, row) for row in connection.execute(asked, values)]


def _record(name: str, row: Row) -> Record:
    seq, stream, n, at, actor, kind, body = row
    try:
        return Record(seq, stream, n, unstamp(at), actor, decode(kind, body))
    except KeyError as error:
        raise too_new(name, f"{stream} #{n} is of kind {kind}") from error
    except (ValidationError, ValueError, TypeError) as error:
        raise unreadable(name, stream, n, kind) from error


def _arrived(rows: Iterable[Row]) -> list[Arrived]:
    return [
        Arrived(number, key, source, unstamp(at), unstamp(seen), body) for number, key, source, at, seen, body in rows
    ]
