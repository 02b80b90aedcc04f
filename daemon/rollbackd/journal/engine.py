"""Connections to SQLite, and what its troubles are called outside."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from rollbackd.journal.contract import JournalDamaged, JournalRefused, JournalUnavailable

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


def engine(path: Path, mode: Literal["write", "read"], busy: float) -> Engine:
    """One that opens its transactions itself: a writer's takes the lock at once, so that it never has to be redone.

    `busy` is how many seconds to wait for another process's lock.
    """
    # Never created here: a reader that came after somebody's `rm` would find an empty journal.
    where = f"file:{quote(str(path))}?mode=rw"
    made = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(where, uri=True, timeout=busy, check_same_thread=False),
        poolclass=NullPool if mode == "write" else QueuePool,
    )
    pragmas: tuple[str, ...] = (
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA journal_size_limit = 67108864",
    )
    begin = "BEGIN IMMEDIATE"
    if mode == "read":
        pragmas, begin = ("PRAGMA query_only = ON",), "BEGIN"

    @event.listens_for(made, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own idea of transactions would leave DDL outside
        cursor = connection.cursor()
        if mode == "write" and cursor.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise JournalRefused(f"{path}: its file system cannot hold a write-ahead log; use a local disk")
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(made, "begin")
    def _began(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return made


@contextmanager
def troubles(path: Path) -> Iterator[None]:
    """Call what SQLite raises by the journal's own names; what is no trouble of the database goes through."""
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(found, sqlite3.Error):
            raise
        raise _named(path, found) from error


def _named(path: Path, error: sqlite3.Error) -> Exception:
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code is not None and (advice := _UNAVAILABLE.get(code & 0xFF)):
        return JournalUnavailable(f"{path}: {advice} ({name}: {error})", full=code in _NO_ROOM)
    if isinstance(error, sqlite3.InterfaceError | sqlite3.ProgrammingError):
        return error
    return JournalDamaged(f"{path}: the journal is damaged ({name}: {error}); {_DAMAGED}")


def stamp(when: datetime) -> str:
    """A time as it is stored.

    :raises ValueError: it has no zone, so that nobody can say which time it is.
    """
    if when.tzinfo is None:
        raise ValueError(f"{when} has no zone")
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def unstamp(text: str) -> datetime:
    return datetime.fromisoformat(text)
