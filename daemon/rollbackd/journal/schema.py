"""The tables, and how an older journal comes to have them. A released migration is never edited, only followed."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, String, Table, Text

from rollbackd.journal.contract import JournalRefused

metadata = MetaData()

facts = Table(
    "facts",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("stream", String, nullable=False),
    Column("n", Integer, nullable=False),
    Column("at", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
"""`at` and every other time is UTC with microseconds, of fixed width, so that the text sorts as the time does."""

heads = Table(
    "heads",
    metadata,
    Column("stream", String, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
"""The last fact of each stream: what an intent is compared with, and what shows a tail that was cut off."""

inbox = Table(
    "inbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False),
    Column("source", String, nullable=False),
    Column("at", String, nullable=False),
    Column("seen", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("handled", Integer, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False),
    Column("receiver", String, nullable=False),
    Column("grouped", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("not_before", String, nullable=False),
    Column("created", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", String, nullable=False),
    Column("ended", String),
)
"""`ended`: when it was delivered or given up; NULL while it waits."""

cursors = Table(
    "cursors",
    metadata,
    Column("name", String, primary_key=True),
    Column("seq", Integer, nullable=False),
)

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
"""Statements with an empty line between them, since a trigger has semicolons of its own."""


def _first(connection: Connection) -> None:
    for statement in _VERSION_1.strip().split("\n\n"):
        connection.exec_driver_sql(statement)


Migrations = Mapping[int, Callable[[Connection], None]]

MIGRATIONS: Migrations = {1: _first}
"""What leads to each version of the schema from the one before; 0 is an empty file."""


def migrate(connection: Connection, path: Path, migrations: Migrations = MIGRATIONS) -> None:
    """Bring the schema up to date, in the transaction that the caller holds: all steps or none.

    :raises JournalRefused: a newer version wrote it, or it is no journal at all.
    """
    newest = max(migrations)
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > newest:
        raise too_new(path, f"its schema is version {version}, this one reads up to {newest}")
    if version == 0 and connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
        raise JournalRefused(f"{path}: is a database of something else, not a journal; name another file")
    for number in range(version + 1, newest + 1):
        migrations[number](connection)
    if version < newest:
        # A pragma takes no parameters; the number is our own.
        connection.exec_driver_sql(f"PRAGMA user_version = {newest:d}")


def too_new(path: Path, why: str) -> JournalRefused:
    return JournalRefused(
        f"{path}: written by a newer version of rollbackd ({why}); "
        "start that version, or put back the journal that was saved before it"
    )
