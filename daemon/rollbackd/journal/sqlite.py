"""What is SQLite's own in this package: connections, its words of SQL, the tables, and what its errors are called.

The SQL of the other modules is what PostgreSQL takes, too, but for the `?` that stands for a value.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from rollbackd.journal.contract import JournalDamaged, JournalRefused, JournalUnavailable

Connection = sqlite3.Connection
Row = tuple[Any, ...]
Mode = Literal["write", "read"]

AMONG = "IN (SELECT value FROM json_each(?))"
"""Takes a list as one value, made by `listed`: the statement stays the same, and stays prepared."""
_CHUNK = 500
"""Rows in one `INSERT`."""
_PRAGMAS = {
    "write": ("synchronous = FULL", "foreign_keys = ON", "journal_size_limit = 67108864"),
    "read": ("query_only = ON",),
}
_BEGIN = {"write": "BEGIN IMMEDIATE", "read": "BEGIN"}
"""A writer takes the lock at once, so that its transaction never has to be redone."""
_UNAVAILABLE = {
    sqlite3.SQLITE_FULL: "its disk is full; free some space",
    sqlite3.SQLITE_IOERR: "its disk reports an error; look at the kernel's log (dmesg)",
    sqlite3.SQLITE_READONLY: "it cannot be written; see to its owner, its mode and how its file system is mounted",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; see to its directory's owner and mode, and to the disk",
    sqlite3.SQLITE_BUSY: "another process holds it locked; end what else has it open",
    sqlite3.SQLITE_LOCKED: "another connection holds it locked; end what else has it open",
    sqlite3.SQLITE_PERM: "permission denied; see to its owner and mode",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}
_NO_ROOM = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,  # a quota that is used up, where it is not ENOSPC
    sqlite3.SQLITE_IOERR_SHMSIZE,
}
_DAMAGED = "stop rollbackd, move it aside and put back the last backup; `rollbackd audit` says what does not fit"


# -- connections --------------------------------------------------------------------------------
def connect(path: Path, mode: Mode, busy: float) -> Connection:
    """Open the file; `busy` is how many seconds to wait for another process's lock."""
    # Never created here: a reader that came after somebody's `rm` would find an empty journal.
    where = f"file:{quote(str(path))}?mode=rw"
    connection = sqlite3.connect(where, uri=True, timeout=busy, isolation_level=None, check_same_thread=False)
    try:
        _set_up(connection, path, mode)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: Connection, path: Path, mode: Mode) -> None:
    if mode == "write" and connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise JournalRefused(f"{path}: its file system cannot hold a write-ahead log; use a local disk")
    for pragma in _PRAGMAS[mode]:
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def transaction(connection: Connection, mode: Mode) -> Iterator[None]:
    """All that is written within is kept, or nothing; all that is read within is of one moment."""
    connection.execute(_BEGIN[mode])
    try:
        yield
        connection.commit()
    except BaseException:
        with suppress(sqlite3.Error):  # it is broken already; whoever opened it opens another
            connection.rollback()
        raise


@contextmanager
def troubles(path: Path) -> Iterator[None]:
    """Call what SQLite raises by the journal's own names; a fault of ours goes through."""
    try:
        yield
    except (sqlite3.InterfaceError, sqlite3.ProgrammingError):
        raise
    except sqlite3.Error as error:
        raise _named(path, error) from error


def _named(path: Path, error: sqlite3.Error) -> JournalUnavailable:
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code is not None and (advice := _UNAVAILABLE.get(code & 0xFF)):
        return JournalUnavailable(f"{path}: {advice} ({name}: {error})", full=code in _NO_ROOM)
    return JournalDamaged(f"{path}: the journal is damaged ({name}: {error}); {_DAMAGED}")


# -- what is said otherwise in another dialect --------------------------------------------------
def listed(values: Iterable[str] | Iterable[int]) -> str:
    """A list as `AMONG` takes it."""
    return json.dumps(list(values))


def insert(connection: Connection, into: str, rows: Sequence[Row], conflict: str = "") -> tuple[int, int]:
    """Put rows into a table; how many were added, and the last one's number.

    By one statement: each one gives the interpreter away, and waits to get it back.
    """
    added = last = 0
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        row = f"({', '.join('?' for _ in chunk[0])})"
        several = ", ".join(row for _ in chunk)
        statement = f"INSERT INTO {into} VALUES {several} {conflict}"
        result = connection.execute(statement, tuple(chain.from_iterable(chunk)))
        added, last = added + result.rowcount, result.lastrowid or 0
    return added, last


def last_number(connection: Connection, table: str) -> int:
    """The highest number a row of the table ever had; the next one is ours, since the transaction holds the lock.

    Numbers so given have no gaps: a number that is missing was deleted by hand, and `audit` says so.
    """
    return scalar(connection, "SELECT seq FROM sqlite_sequence WHERE name = ?", table) or 0


def scalar(connection: Connection, question: str, *values: Any) -> Any:
    """The first column of the first row; None when there is none."""
    row = connection.execute(question, values).fetchone()
    return None if row is None else row[0]


def is_empty(connection: Connection) -> bool:
    """Whether nothing was ever written into it, not even its tables."""
    return not scalar(connection, "SELECT count(*) FROM sqlite_master")


def damages(connection: Connection) -> Iterator[str]:
    """What is wrong with the file itself."""
    for (found,) in connection.execute("PRAGMA quick_check(20)"):
        if found != "ok":
            yield f"the file itself: {found}"


def missing_triggers(connection: Connection) -> list[str]:
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    return [name for name in TRIGGERS if name not in there]


def stamp(when: datetime) -> str:
    """A time as it is stored: UTC with microseconds, of fixed width, so that the text sorts as the time does.

    :raises ValueError: it has no zone, so that nobody can say which time it is.
    """
    if when.tzinfo is None:
        raise ValueError(f"{when} has no zone")
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def unstamp(text: str) -> datetime:
    return datetime.fromisoformat(text)


# -- the tables, and how an older journal comes to have them ------------------------------------
TRIGGERS = ("facts_are_never_changed", "facts_are_never_deleted")

_VERSION_1 = """
CREATE TABLE facts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    n INTEGER NOT NULL,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL,
    UNIQUE (stream, n)
)

CREATE INDEX facts_by_kind ON facts (kind)

CREATE INDEX facts_by_stream_and_kind ON facts (stream, kind)

CREATE TRIGGER facts_are_never_changed BEFORE UPDATE ON facts
BEGIN SELECT RAISE(ABORT, 'a fact is never changed'); END

CREATE TRIGGER facts_are_never_deleted BEFORE DELETE ON facts
BEGIN SELECT RAISE(ABORT, 'a fact is never deleted'); END

CREATE TABLE heads (
    stream TEXT PRIMARY KEY,
    n INTEGER NOT NULL,
    hash BLOB NOT NULL
) WITHOUT ROWID

CREATE TABLE inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    at TEXT NOT NULL,
    seen TEXT NOT NULL,
    body BLOB NOT NULL,
    handled INTEGER NOT NULL
)

CREATE INDEX inbox_by_handled ON inbox (handled, seen)

CREATE INDEX inbox_by_source ON inbox (source, seen)

CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    receiver TEXT NOT NULL,
    grouped TEXT NOT NULL,
    body BLOB NOT NULL,
    not_before TEXT NOT NULL,
    created TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    ended TEXT
)

CREATE INDEX outbox_by_ended ON outbox (ended)

CREATE TABLE cursors (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID
"""
"""Statements with an empty line between them, since a trigger has semicolons of its own.

`heads` has the last fact of each stream: what an intent is compared with, and what shows a tail that was cut off.
`outbox.ended` is when a message was delivered or given up; NULL while it waits.
"""


def _first(connection: Connection) -> None:
    for statement in _VERSION_1.strip().split("\n\n"):
        connection.execute(statement)


Migrations = Mapping[int, Callable[[Connection], None]]


def _second(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE pages (receiver TEXT NOT NULL, thread TEXT NOT NULL, PRIMARY KEY (receiver, thread))"
        " WITHOUT ROWID"
    )


MIGRATIONS: Migrations = {1: _first, 2: _second}
"""What leads to each version of the schema from the one before; 0 is an empty file."""


def migrate(connection: Connection, path: Path, migrations: Migrations = MIGRATIONS) -> None:
    """Bring the schema up to date, in the transaction that the caller holds: all steps or none.

    :raises JournalRefused: a newer version wrote it, or it is no journal at all.
    """
    newest = max(migrations)
    version = scalar(connection, "PRAGMA user_version")
    if version > newest:
        raise too_new(path, f"its schema is version {version}, this one reads up to {newest}")
    if version == 0 and scalar(connection, "SELECT count(*) FROM sqlite_master"):
        raise JournalRefused(f"{path}: is a database of something else, not a journal; name another file")
    for number in range(version + 1, newest + 1):
        migrations[number](connection)
    if version < newest:
        # A pragma takes no parameters; the number is our own.
        connection.execute(f"PRAGMA user_version = {newest:d}")


def too_new(path: Path, why: str) -> JournalRefused:
    return JournalRefused(
        f"{path}: written by a newer version of rollbackd ({why}); "
        "start that version, or put back the journal that was saved before it"
    )
