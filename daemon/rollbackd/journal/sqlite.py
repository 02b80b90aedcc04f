"""What is SQLite's own in this package: connections, its words of SQL, the tables, and what its errors are called."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from rollbackd.journal.contract import JournalDamaged, JournalRefused, JournalUnavailable
from rollbackd.journal.database import AMONG, Doubt, JournalConnection, JournalDatabase, Mode, Row, scalar, too_new
from rollbackd.journal.place import create
from rollbackd.system.boundary import boundary
from rollbackd.system.supervisor import sync_directory

T = TypeVar("T")
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
class SqliteConnection(sqlite3.Connection):
    """See `JournalConnection`."""

    def listed(self, values: Iterable[str] | Iterable[int], /) -> str:
        return json.dumps(list(values))

    def insert(self, into: str, rows: Sequence[Row], conflict: str = "") -> None:
        self._insert(into, rows, conflict)

    def _insert(self, into: str, rows: Sequence[Row], conflict: str) -> tuple[int, int]:
        """How many were added, and the last one's number. Each statement gives the interpreter away and waits for it
        to come back.
        """
        added = last = 0
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            row = f"({', '.join('?' for _ in chunk[0])})"
            several = ", ".join(row for _ in chunk)
            result = self.execute(f"INSERT INTO {into} VALUES {several} {conflict}", tuple(chain.from_iterable(chunk)))
            added, last = added + result.rowcount, result.lastrowid or 0
        return added, last

    def insert_new(self, into: str, rows: Sequence[Row]) -> dict[str, int]:
        """New numbers are the highest, one after the other."""
        added, last = self._insert(into, rows, "ON CONFLICT (key) DO NOTHING")
        if added == len(rows):
            return dict(zip((row[0] for row in rows), range(last - added + 1, last + 1), strict=True))
        asked = f"SELECT key, id FROM {into.partition(' ')[0]} WHERE key {AMONG} ORDER BY id"
        found: list[tuple[str, int]] = self.execute(asked, (self.listed(row[0] for row in rows),)).fetchall()
        return dict(found[len(found) - added :])

    def hold_numbers(self) -> None:
        """The transaction holds the lock that gives them."""

    def last_fact(self) -> int:
        return scalar(self, "SELECT seq FROM sqlite_sequence WHERE name = 'facts'") or 0

    def stored_facts(self) -> Iterator[Row]:
        """As blobs: a text that was made invalid must become a sentence, not an error of the driver."""
        return iter(self.execute(_STORED))

    def damages(self) -> Iterator[str]:
        for (found,) in self.execute("PRAGMA quick_check(20)"):
            if found != "ok":
                yield f"the file itself: {found}"

    def triggers(self) -> set[str]:
        return {name for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}


_STORED = """
    SELECT seq, n, CAST(stream AS BLOB), CAST(at AS BLOB), CAST(actor AS BLOB), CAST(kind AS BLOB),
        CAST(body AS BLOB), CAST(hash AS BLOB)
    FROM facts ORDER BY facts.stream, n
"""


def connect(path: Path, mode: Mode, busy: float) -> SqliteConnection:
    """Open the file; `busy` is how many seconds to wait for another process's lock."""
    # Never created here: a reader that came after somebody's `rm` would find an empty journal.
    where = f"file:{quote(str(path))}?mode=rw"
    connection = sqlite3.connect(
        where, uri=True, timeout=busy, isolation_level=None, check_same_thread=False, factory=SqliteConnection
    )
    try:
        _set_up(connection, path, mode)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: SqliteConnection, path: Path, mode: Mode) -> None:
    if mode == "write" and connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise JournalRefused(f"{path}: its file system cannot hold a write-ahead log; use a local disk")
    for pragma in _PRAGMAS[mode]:
        connection.execute(f"PRAGMA {pragma}")


@contextmanager
def transaction(connection: JournalConnection, mode: Mode) -> Iterator[None]:
    """All that is written within is kept, or nothing; all that is read within is of one moment."""
    connection.execute(_BEGIN[mode])
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # it is broken already; whoever opened it opens another
            connection.execute("ROLLBACK")
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


class JournalFile(JournalDatabase):
    """A journal in a file. A removed one is never replaced by an empty one."""

    def __init__(self, path: Path, busy: float) -> None:
        super().__init__(str(path))
        self.path = path
        self.busy = busy
        self._inode = 0
        """The number of the file that was opened first."""

    def connect(self, mode: Mode) -> JournalConnection:
        return connect(self.path, mode, self.busy)

    def transaction(self, connection: JournalConnection, mode: Mode) -> AbstractContextManager[None]:
        return transaction(connection, mode)

    def troubles(self) -> AbstractContextManager[None]:
        return troubles(self.path)

    def settle(self, doubt: Doubt) -> bool:
        raise AssertionError(f"a COMMIT of SQLite says what became of it: {doubt}")

    def writer(self) -> JournalConnection:
        inode = self._found()
        if self._inode and inode != self._inode:
            raise JournalUnavailable(
                f"{self.path}: was {'replaced' if inode else 'removed'} while rollbackd runs; put it back, or restart "
                "rollbackd to go on with what is there now"
            )
        connection = super().writer()
        self._inode = inode
        return connection

    def _found(self) -> int:
        """The file's number, or 0 when it cannot be seen."""
        try:
            return self.path.stat().st_ino
        except OSError:
            return 0


def is_empty(connection: JournalConnection) -> bool:
    """Whether nothing was ever written into it, not even its tables."""
    return not scalar(connection, "SELECT count(*) FROM sqlite_master")


# -- the tables, and how an older journal comes to have them ------------------------------------
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


def _first(connection: JournalConnection) -> None:
    for statement in _VERSION_1.strip().split("\n\n"):
        connection.execute(statement)


Migrations = Mapping[int, Callable[[JournalConnection], None]]


def _second(connection: JournalConnection) -> None:
    connection.execute(
        "CREATE TABLE pages (receiver TEXT NOT NULL, thread TEXT NOT NULL, PRIMARY KEY (receiver, thread))"
        " WITHOUT ROWID"
    )


MIGRATIONS: Migrations = {1: _first, 2: _second}
"""What leads to each version of the schema from the one before; 0 is an empty file."""


def migrate(connection: JournalConnection, path: Path, migrations: Migrations = MIGRATIONS) -> None:
    """Bring the schema up to date, in the transaction that the caller holds: all steps or none.

    :raises JournalRefused: a newer version wrote it, or it is no journal at all.
    """
    newest = max(migrations)
    version = scalar(connection, "PRAGMA user_version")
    if version > newest:
        raise schema_too_new(path, version, newest)
    if version == 0 and scalar(connection, "SELECT count(*) FROM sqlite_master"):
        raise JournalRefused(f"{path}: is a database of something else, not a journal; name another file")
    for number in range(version + 1, newest + 1):
        migrations[number](connection)
    if version < newest:
        # A pragma takes no parameters; the number is our own.
        connection.execute(f"PRAGMA user_version = {newest:d}")


def schema_too_new(path: Path, version: int, newest: int) -> JournalRefused:
    """A newer version wrote it; with how to put back what `save_before_migration` saved."""
    saved = [path.with_name(f"{path.name}.version-{number}") for number in sorted(MIGRATIONS, reverse=True)]
    there = next((copy for copy in saved if copy.exists()), None)
    way = "" if there is None else f", without what came since: rm -f {path}-wal {path}-shm && mv {there} {path}"
    return too_new(str(path), f"its schema is version {version}, this one reads up to {newest}", way)


def save_before_migration(path: Path, busy: float) -> None:
    """Copy a journal of an earlier version aside, whole and on disk, so that there is a way back to that version.

    :raises sqlite3.Error: JournalUnavailable: it cannot be copied, and must not be changed.
    """
    with closing(connect(path, "read", busy)) as connection:
        version = scalar(connection, "PRAGMA user_version")
        if not 0 < version < max(MIGRATIONS):
            return
        copy = path.with_name(f"{path.name}.version-{version}")
        try:
            _copy(connection, copy)
        except OSError as error:
            why = f"cannot be saved as {copy} before it is changed: {error.strerror}; see to the directory"
            raise JournalUnavailable(f"{path}: {why}, or start the version before") from error


def _copy(connection: SqliteConnection, copy: Path) -> None:
    beside = copy.with_name(f"{copy.name}.part")
    beside.unlink(missing_ok=True)
    create(beside)
    with closing(sqlite3.connect(beside)) as target:
        connection.backup(target)
    boundary("journal.saved")
    beside.replace(copy)
    sync_directory(copy.parent)
