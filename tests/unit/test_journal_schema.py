"""Older journals are brought up to date or left as they are; newer and foreign ones are refused with a sentence."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from rollbackd.facts import Applied
from rollbackd.journal import Entry, JournalRefused, JournalUnavailable, Received, open_journal, sqlite
from rollbackd.journal.database import JournalConnection
from rollbackd.journal.sqlite_journal import SqliteJournal
from rollbackd.system.clock import SystemClock

VERSION_1 = """
CREATE TABLE facts (seq INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, n INTEGER NOT NULL, at TEXT NOT NULL,
    actor TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL, UNIQUE (stream, n));
CREATE INDEX facts_by_kind ON facts (kind);
CREATE INDEX facts_by_stream_and_kind ON facts (stream, kind);
CREATE TRIGGER facts_are_never_changed BEFORE UPDATE ON facts
BEGIN SELECT RAISE(ABORT, 'a fact is never changed'); END;
CREATE TRIGGER facts_are_never_deleted BEFORE DELETE ON facts
BEGIN SELECT RAISE(ABORT, 'a fact is never deleted'); END;
CREATE TABLE heads (stream TEXT PRIMARY KEY, n INTEGER NOT NULL, hash BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE inbox (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
    at TEXT NOT NULL, seen TEXT NOT NULL, body BLOB NOT NULL, handled INTEGER NOT NULL);
CREATE INDEX inbox_by_handled ON inbox (handled, seen);
CREATE INDEX inbox_by_source ON inbox (source, seen);
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, receiver TEXT NOT NULL,
    grouped TEXT NOT NULL, body BLOB NOT NULL, not_before TEXT NOT NULL, created TEXT NOT NULL,
    attempts INTEGER NOT NULL, error TEXT NOT NULL, ended TEXT);
CREATE INDEX outbox_by_ended ON outbox (ended);
CREATE TABLE cursors (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO facts VALUES (1, 'service:checkout', 1, '2031-05-04T12:00:00.000000+00:00', 'daemon', 'Applied',
    '{"layer":"code"}', x'793676B821F469B58C662CB2E6A3A846696F86C9EE4E5DC3D46D474CF018C2F6');
INSERT INTO heads SELECT stream, n, hash FROM facts;
INSERT INTO inbox VALUES (1, 'k', 'alert', '2031-05-04T12:00:00.000000+00:00', '2031-05-04T12:00:00.000000+00:00',
    x'7B7D', 0);
INSERT INTO cursors VALUES ('teller', 1);
PRAGMA user_version = 1;
"""
"""A journal as version 1 wrote it, byte for byte; never to be edited."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def run(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(number)


def _second(connection: JournalConnection) -> None:
    connection.execute("ALTER TABLE inbox ADD COLUMN peer TEXT NOT NULL DEFAULT ''")


def _third(connection: JournalConnection) -> None:
    connection.execute("UPDATE inbox SET peer = source")


def _broken(connection: JournalConnection) -> None:
    connection.execute("DROP TABLE cursors")
    raise RuntimeError("no further")


async def test_a_journal_of_version_1_is_read_audited_and_written_on(path: Path) -> None:
    run(path, VERSION_1)
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    (record,) = await journal.since(0)
    assert (record.stream, record.n, record.fact) == ("service:checkout", 1, Applied("code"))
    assert [item.key for item in await journal.unhandled()] == ["k"]
    assert await journal.cursor("teller") == 1
    (added,) = await journal.append(Entry("service:checkout", Applied("code"), follows=1))
    assert (added.seq, added.n) == (2, 2)
    assert (await journal.audit()).broken == ()
    await journal.close()


def migrated(path: Path, migrations: sqlite.Migrations) -> None:
    with closing(sqlite.connect(path, "write", 1)) as connection, sqlite.transaction(connection, "write"):
        sqlite.migrate(connection, path, migrations)


def test_all_steps_after_version_1_are_taken_in_order_and_once(path: Path) -> None:
    run(path, VERSION_1)
    for _ in range(2):
        migrated(path, {1: _broken, 2: _second, 3: _third})
    assert version(path) == 3
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT key, peer FROM inbox").fetchall() == [("k", "alert")]
    connection.close()


async def test_a_step_that_fails_leaves_the_journal_as_it_was(path: Path) -> None:
    run(path, VERSION_1)
    with pytest.raises(RuntimeError, match="no further"):
        migrated(path, {1: _broken, 2: _second, 3: _broken})
    assert version(path) == 1
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    assert await journal.cursor("teller") == 1
    await journal.receive([Received("new", "alert", b"")])
    await journal.close()


async def test_a_newer_schema_is_refused_and_not_touched(path: Path) -> None:
    run(path, VERSION_1 + "PRAGMA user_version = 9;")
    with pytest.raises(JournalRefused) as caught:
        await open_journal(f"sqlite:///{path}", SystemClock())
    assert str(caught.value) == (
        f"{path}: written by a newer version of rollbackd (its schema is version 9, this one reads up to 2); "
        "start that version, or put back the journal that was saved before it"
    )
    assert version(path) == 9


async def test_a_fact_of_an_unknown_kind_is_refused_at_the_start(path: Path) -> None:
    run(path, VERSION_1 + "INSERT INTO facts VALUES (2, 'fleet', 1, '', 'daemon', 'Telepathy', '{}', x'');")
    with pytest.raises(JournalRefused, match=r"newer version of rollbackd \(it has facts of kind Telepathy\)"):
        await open_journal(f"sqlite:///{path}", SystemClock())


async def test_a_fact_of_an_unknown_kind_that_comes_later_is_refused_when_it_is_read(path: Path) -> None:
    run(path, VERSION_1)
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    run(path, "INSERT INTO facts VALUES (2, 'fleet', 1, '2031-05-04', 'daemon', 'Telepathy', '{}', x'');")
    with pytest.raises(JournalRefused, match="fleet #1 is of kind Telepathy"):
        await journal.since(0)
    await journal.close()


async def test_a_database_of_something_else_is_refused(path: Path) -> None:
    run(path, "CREATE TABLE songs (name TEXT);")
    with pytest.raises(JournalRefused, match="is a database of something else, not a journal; name another file"):
        await open_journal(f"sqlite:///{path}", SystemClock())


async def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.touch()
    await (await open_journal(f"sqlite:///{path}", SystemClock())).close()
    assert version(path) == max(sqlite.MIGRATIONS)


def columns(path: Path) -> dict[str, list[tuple[str, str, bool, bool]]]:
    """Of each table: each column's name, type, whether it may be empty, whether it is of the key."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return {
            table: [
                (name, kind, not full, bool(key))
                for _, name, kind, full, _, key in connection.execute(f"PRAGMA table_info({table})")
            ]
            for (table,) in tables
        }


async def test_a_new_journal_has_the_tables_of_an_older_one_that_was_brought_up_to_date(
    path: Path, tmp_path: Path
) -> None:
    await (await open_journal(f"sqlite:///{path}", SystemClock())).close()
    older = tmp_path / "older.db"
    run(older, VERSION_1)
    await (await open_journal(f"sqlite:///{older}", SystemClock())).close()
    there, before = columns(path), columns(older)
    assert there == before
    for table in ("facts", "heads", "inbox", "outbox", "cursors", "pages"):
        assert {name for name, _, empty, key in there[table] if empty and not key} <= {"ended"}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "sqlite:///relative.db",
            'daemon.journal: "sqlite:///relative.db" is not a journal; write it like sqlite:////',
        ),
        ("/var/lib/journal.db", 'daemon.journal: "/var/lib/journal.db" is not a journal'),
        ("mysql://u:secret@db/x", 'daemon.journal: "mysql://…" is not a journal'),
        ("postgresql://u:secret@db/x", "daemon.journal: has a password in it; give `journal_password`, or a .pgpass"),
        (
            "sqlite:////no/such/place/journal.db",
            "/no/such/place/journal.db: there is no directory /no/such/place; make",
        ),
        ("sqlite:////tmp", "/tmp: is a directory; name the file of the journal in it"),
    ],
)
async def test_a_url_that_names_no_journal_is_refused_with_what_to_write(url: str, sentence: str) -> None:
    with pytest.raises(JournalRefused) as caught:
        await open_journal(url, SystemClock())
    assert str(caught.value).startswith(sentence)
    assert "secret" not in str(caught.value)


async def test_all_files_are_closed_to_others(path: Path) -> None:
    journal = await SqliteJournal.open(f"sqlite:///{path}", SystemClock(), reserve=4096)
    await journal.append(Entry("x", Applied("x")))
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    await journal.close()
    assert modes == dict.fromkeys((f"journal.db{end}" for end in ("", "-wal", "-shm", ".reserve", ".newest")), "0o600")


async def test_before_its_tables_are_changed_it_is_saved_and_the_way_back_is_named(path: Path) -> None:
    run(path, VERSION_1)
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    await journal.append(Entry("service:checkout", Applied("code"), follows=1))
    await journal.close()
    saved = path.with_name("journal.db.version-1")
    assert version(saved) == 1
    assert oct(saved.stat().st_mode & 0o777) == "0o600"
    with closing(sqlite3.connect(saved)) as connection:
        assert connection.execute("SELECT count(*) FROM facts").fetchone() == (1,)
    before = saved.read_bytes()
    await (await open_journal(f"sqlite:///{path}", SystemClock())).close()
    assert saved.read_bytes() == before, "once, and not again"

    run(path, "PRAGMA user_version = 9;")
    with pytest.raises(JournalRefused) as caught:
        await open_journal(f"sqlite:///{path}", SystemClock())
    way = f"rm -f {path}-wal {path}-shm && mv {saved} {path}"
    assert str(caught.value).endswith(f"put back the journal that was saved before it, without what came since: {way}")
    subprocess.run(["sh", "-c", way], check=True)
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    assert len(await journal.since(0)) == 1
    assert (await journal.audit()).broken == ()
    await journal.close()


async def test_a_journal_that_cannot_be_saved_is_not_changed(path: Path) -> None:
    run(path, VERSION_1)
    path.with_name("journal.db.version-1.part").mkdir()
    with pytest.raises(JournalUnavailable, match=r"cannot be saved as .*journal\.db\.version-1 before it is changed"):
        await open_journal(f"sqlite:///{path}", SystemClock())
    assert version(path) == 1


async def test_a_new_journal_leaves_no_copy(path: Path) -> None:
    await (await open_journal(f"sqlite:///{path}", SystemClock())).close()
    assert [*path.parent.glob("*.version-*")] == []
