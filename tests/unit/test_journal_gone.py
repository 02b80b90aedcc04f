"""An empty journal where there was one is trouble, not a first start."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rollbackd import facts
from rollbackd.journal import Entry, JournalDamaged, open_journal
from rollbackd.journal.place import Mark
from rollbackd.model import FLEET
from tests.fakes.clock import ManualClock

NOTE = Entry(FLEET, facts.Notice("clock", "it jumped"))


async def life(path: Path, *entries: Entry) -> int:
    """Open it, write, close it; how many facts it has."""
    journal = await open_journal(f"sqlite:///{path}", ManualClock())
    try:
        if entries:
            await journal.append(*entries)
        return len(await journal.since(0))
    finally:
        await journal.close()


def empty(path: Path, how: str) -> None:
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    match how:
        case "removed":
            path.unlink()
        case "no bytes":
            path.write_bytes(b"")
        case "no tables":
            path.unlink()
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA user_version = 0")
                connection.execute("VACUUM")
        case "another one's beginning":
            shutil.copy(path.with_name("fresh.db"), path)


@pytest.mark.parametrize(
    ("how", "by"),
    [
        *((how, "this version") for how in ("removed", "no bytes", "no tables", "another one's beginning")),
        # Of another one's beginning nobody can tell: an earlier version left no word of how far it had come.
        *((how, "an earlier version") for how in ("removed", "no bytes", "no tables")),
    ],
)
async def test_an_empty_journal_where_there_was_one_is_damaged_at_every_start(
    tmp_path: Path, how: str, by: str
) -> None:
    path = tmp_path / "journal.db"
    await life(tmp_path / "fresh.db")
    await life(path, NOTE)
    await life(path)
    mark = Mark(path).path
    if by == "an earlier version":
        mark.unlink()
    empty(path, how)
    for _ in range(2):
        with pytest.raises(JournalDamaged, match="is empty, and there was one here; put back the last backup"):
            await life(path)


async def test_a_backup_that_is_put_back_is_taken_and_what_it_lacks_is_no_trouble(tmp_path: Path) -> None:
    path, backup = tmp_path / "journal.db", tmp_path / "backup.db"
    await life(path, NOTE)
    shutil.copy(path, backup)
    await life(path, NOTE)
    await life(path)
    empty(path, "removed")
    shutil.copy(backup, path)
    assert await life(path) == 1


async def test_who_wants_to_begin_anew_removes_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await life(path, NOTE)
    await life(path)
    for file in tmp_path.glob("journal.db*"):
        file.unlink()
    assert await life(path) == 0


@pytest.mark.parametrize("left", ["nothing", "a file without a byte", "tables and the mark"])
async def test_a_first_start_that_was_cut_off_is_none(tmp_path: Path, left: str) -> None:
    path = tmp_path / "journal.db"
    if left == "a file without a byte":
        path.touch()
    elif left == "tables and the mark":
        await life(path)
    assert await life(path, NOTE) == 1
    assert await life(path) == 1
