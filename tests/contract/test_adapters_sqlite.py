"""The adapter `sqlite` on real databases, with writers and readers in processes of their own."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from rollbackd.model import Release
from rollbackd.testing import AdapterContract, World, finish, place
from rollbackd_adapters.copies import ORIGIN
from rollbackd_adapters.sqlite import SqliteAdapter
from rollbackd_adapters.sqlite.settings import SqliteSettings


def layer(path: Path, **settings: Any) -> Any:
    given = {"adapter": "sqlite", "file": str(path / "app.db"), "room": 0, **settings}
    return SqliteAdapter(SqliteSettings.model_validate(given), place(path))


def made(path: Path, rows: int = 20, mode: str = "wal", page: int = 4096) -> Path:
    """A database of so many rows."""
    file = path / "app.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA page_size = {page}")
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        fill(db, rows)
    return file


def fill(db: sqlite3.Connection, rows: int) -> None:
    with db:
        db.executemany("INSERT INTO notes (text) VALUES (?)", [("x" * 400,)] * rows)


def count(file: Path) -> int:
    with closing(sqlite3.connect(file)) as db:
        return int(db.execute("SELECT count(*) FROM notes").fetchone()[0])


class SqliteWorld(World):
    def __init__(self, path: Path, mode: str = "wal") -> None:
        self.path = path
        self.file = made(path, mode=mode)
        self.first = finish(self.adapter().take("first"))
        with closing(sqlite3.connect(self.file)) as db:
            fill(db, 20)
        self.reader: sqlite3.Connection | None = None

    def adapter(self) -> Any:
        return layer(self.path, lock_within="500ms", timeout="20s")

    def present(self) -> str:
        with closing(sqlite3.connect(self.file)) as db:
            views = db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'rollbackd_lineage'").fetchone()[0]
            return str(db.execute("SELECT id FROM rollbackd_lineage").fetchone()[0]) if views else ORIGIN

    def target(self) -> Release:
        return Release(self.first.release)

    def moved_by_somebody(self) -> None:
        other = finish(self.adapter().take("other"))
        finish(self.adapter().restore(other.name, "by hand"))

    def everything(self) -> object:
        return self.present(), self.file.read_bytes(), sorted(path.name for path in self.path.iterdir())

    def break_it(self) -> None:
        (self.path / "scratch/store/first/data.sqlite").unlink()

    def hang(self) -> None:
        """Somebody writes and does not end it."""
        self.reader = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        self.reader.execute("BEGIN IMMEDIATE")

    def __del__(self) -> None:
        if self.reader is not None:
            self.reader.close()


class TestSqlite(AdapterContract):
    def make_world(self, path: Path) -> World:
        path.mkdir(parents=True, exist_ok=True)
        return SqliteWorld(path)


class TestSqliteInRollbackMode(AdapterContract):
    def make_world(self, path: Path) -> World:
        path.mkdir(parents=True, exist_ok=True)
        return SqliteWorld(path, mode="delete")
