"""A disk in trouble: callers are told, nothing is kept in part, and it goes on by itself once the disk does."""

import asyncio
import os
import resource
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rollbackd.facts import Applied, Notice
from rollbackd.journal import Entry, Journal, JournalDamaged, JournalUnavailable, Outgoing, Received, open_journal
from rollbackd.journal.reserve import Reserve
from rollbackd.journal.sqlite_journal import SqliteJournal
from rollbackd.system.clock import SystemClock

MIB = 2**20
BIG = Notice("rule_fault", "x" * 20_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    opened = await SqliteJournal.open(f"sqlite:///{path}", SystemClock(), reserve=MIB, busy=0.05)
    yield opened
    await opened.close()


def one(stream: str = "x") -> Entry:
    return Entry(stream, Applied("code"))


async def works(journal: Journal, places: int) -> None:
    """A unit goes through, what was refused left nothing, and the chain is sound."""
    (record,) = await journal.append(one())
    assert record.n == places + 1
    assert (await journal.receive([Received("after", "alert", b"")])).again == ()
    assert (await journal.audit()).broken == ()


@contextmanager
def pragma(text: str) -> Iterator[None]:
    """New connections to SQLite get this."""

    def connected(*args: Any, **settings: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **settings)
        connection.execute(f"PRAGMA {text}")
        return connection

    connect = sqlite3.connect
    with patch.object(sqlite3, "connect", connected):
        yield


# -- full ---------------------------------------------------------------------------------------
async def test_a_full_database_refuses_the_unit_whole_and_works_again_with_room(path: Path) -> None:
    url = f"sqlite:///{path}"
    with pragma("max_page_count = 60"):
        journal = await SqliteJournal.open(url, SystemClock(), reserve=4096)
        with pytest.raises(JournalUnavailable, match="its disk is full; free some space") as caught:
            await journal.append(one("kept"), *(Entry("x", BIG) for _ in range(50)))
        assert caught.value.full
        assert await journal.since(0) == []
        (record,) = await journal.append(one("kept"))
        assert record.n == 1
        with pytest.raises(JournalUnavailable):
            await journal.receive([Received("a", "alert", b"x" * 300_000)])
        assert await journal.unhandled() == []
        with pytest.raises(JournalUnavailable):
            await journal.append(*(Entry("x", BIG) for _ in range(50)), urgent=True)
        with pytest.raises(JournalUnavailable):
            await journal.append(*(Entry("x", BIG) for _ in range(50)))
    (record, *_) = await journal.append(*(Entry("x", BIG) for _ in range(50)))
    assert record.n == 1
    await works(journal, 50)
    await journal.close()


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "rollbackd-test", str(place)], check=True)
    try:
        yield place / "journal.db"
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(journal: Path) -> Path:
    """Leave not a byte."""
    filler = journal.with_name("filler")
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    assert os.statvfs(journal.parent).f_bavail == 0
    return filler


async def until_full(journal: Journal) -> int:
    """SQLite has some room in its files; use it up. How many facts there are in stream x."""
    with suppress(JournalUnavailable):
        while True:
            await journal.append(Entry("x", BIG))
    return len(await journal.read("x"))


@pytest.mark.needs("root", "mount")
async def test_on_a_full_disk_what_is_urgent_is_written_in_the_room_of_the_reserve(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path:
        journal = await SqliteJournal.open(f"sqlite:///{path}", SystemClock(), reserve=MIB)
        reserve = path.with_name("journal.db.reserve")
        assert reserve.stat().st_blocks * 512 >= MIB
        filler = fill(path)
        places = await until_full(journal)
        assert reserve.exists()

        urgent = [journal.append(Entry("urgent", BIG), urgent=True) for _ in range(5)]
        plain = [journal.append(Entry("plain", BIG)) for _ in range(5)]
        results = await asyncio.gather(*urgent, *plain, return_exceptions=True)
        assert not any(isinstance(result, BaseException) for result in results[:5])
        assert all(isinstance(result, JournalUnavailable) for result in results[5:])
        assert not reserve.exists()

        for _ in range(5):
            await journal.append(Entry("urgent", BIG), urgent=True)
        with pytest.raises(JournalUnavailable, match="the rest is kept so that a running rollback can finish; free at"):
            await journal.receive([Received("a", "alert", b"")])
        assert not Reserve(path, MIB).restore()
        assert len(await journal.read("urgent")) == 10
        assert await journal.read("plain") == []

        filler.unlink()
        await works(journal, places)
        assert reserve.stat().st_size == MIB
        await journal.close()


@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("closed", [True, False])
async def test_a_journal_opens_on_a_full_disk(tmp_path: Path, closed: bool) -> None:
    with small_disk(tmp_path / "disk") as path:
        url = f"sqlite:///{path}"
        first = await SqliteJournal.open(url, SystemClock(), reserve=MIB)
        places = len(await first.append(*(Entry("x", BIG) for _ in range(20))))
        if closed:
            await first.close()
        filler = fill(path)
        journal = await SqliteJournal.open(url, SystemClock(), reserve=MIB)
        assert len(await journal.read("x")) == places
        await journal.append(Entry("urgent", BIG), urgent=True)
        filler.unlink()
        await works(journal, places)
        await journal.close()
        await first.close()


@pytest.mark.usefixtures("journal")
async def test_the_reserve_holds_real_bytes_and_comes_and_goes(path: Path) -> None:
    reserve = path.with_name("journal.db.reserve")
    assert reserve.stat().st_size == MIB
    assert len(set(reserve.read_bytes())) == 256
    own = Reserve(path, MIB)
    assert own.release()
    assert not reserve.exists()
    assert not own.release()
    assert own.restore()
    assert reserve.stat().st_size == MIB
    assert sorted(file.name for file in path.parent.iterdir() if "reserve" in file.name) == [reserve.name]


# -- other trouble ------------------------------------------------------------------------------
async def test_a_write_that_the_system_refuses_is_told_and_tried_again_next_time(journal: Journal) -> None:
    await journal.append(one())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(JournalUnavailable, match=r"its disk reports an error; .*SQLITE_IOERR_WRITE"):
            await journal.append(one(), one())
        with pytest.raises(JournalUnavailable):
            await journal.enqueue([Outgoing("k", "r", "", b"", SystemClock().now(), SystemClock().now())], "t", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await journal.waiting() == []
    await works(journal, 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


async def test_a_journal_that_became_read_only_is_told_and_tried_again_next_time(path: Path, journal: Journal) -> None:
    with locked(path), pytest.raises(JournalUnavailable):
        await journal.append(one())  # and the next one connects anew
    with pragma("query_only = ON"):
        with pytest.raises(JournalUnavailable, match="cannot be written; see to its owner, its mode and how its file"):
            await journal.append(one(), one(), handled=[1], urgent=True)
        assert await journal.read("x") == []
    await works(journal, 0)


async def test_another_process_that_holds_it_locked_is_waited_for_and_then_told(path: Path, journal: Journal) -> None:
    with locked(path):
        results = await asyncio.gather(*(journal.append(one()) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, JournalUnavailable) for result in results)
    assert len({id(result) for result in results}) == 20
    assert "another process holds it locked" in str(results[0])
    assert await journal.read("x") == []
    await works(journal, 0)


async def test_a_journal_removed_while_it_runs_is_never_replaced_by_an_empty_one(path: Path, journal: Journal) -> None:
    await journal.append(one())
    aside = path.with_name("aside.db")
    path.rename(aside)
    with pytest.raises(JournalUnavailable, match="was removed while rollbackd runs; put it back, or restart"):
        await journal.append(one())
    with pytest.raises(JournalUnavailable, match="it cannot be opened; see to its directory's owner and mode"):
        await journal.read("x")
    assert not path.exists()
    path.write_bytes(b"")
    with pytest.raises(JournalUnavailable, match="was replaced while rollbackd runs"):
        await journal.append(one())
    aside.rename(path)
    await works(journal, 1)


# -- damage -------------------------------------------------------------------------------------
async def test_a_file_that_is_no_journal_says_what_to_do(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n" * 1000)
    with pytest.raises(JournalDamaged) as caught:
        await open_journal(f"sqlite:///{path}", SystemClock())
    assert str(caught.value) == (
        f"{path}: the journal is damaged (SQLITE_NOTADB: file is not a database); stop rollbackd, move it aside and "
        "put back the last backup; `rollbackd audit` says what does not fit"
    )
    assert path.read_bytes().startswith(b"#!/bin/sh")


async def test_a_torn_page_of_the_tables_list_is_damage_at_the_start(path: Path) -> None:
    await (await open_journal(f"sqlite:///{path}", SystemClock())).close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(2000))
    with pytest.raises(JournalDamaged, match="the journal is damaged"):
        await open_journal(f"sqlite:///{path}", SystemClock())


async def test_torn_pages_of_facts_are_found_by_the_audit(path: Path) -> None:
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    for number in range(200):
        await journal.append(Entry("x", Notice("n", f"{number}" * 400)))
    await journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    journal = await open_journal(f"sqlite:///{path}", SystemClock())
    try:
        broken = (await journal.audit()).broken
    except JournalDamaged as damage:
        broken = (str(damage),)
    await journal.close()
    assert broken


async def test_a_body_that_does_not_read_is_damage_at_its_place(path: Path, journal: Journal) -> None:
    await journal.append(one())
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER facts_are_never_changed; UPDATE facts SET body = '{\"layer\": 7}'")
    connection.close()
    with pytest.raises(JournalDamaged, match=r"x #1 \(Applied\) does not read as what was written; `rollbackd audit`"):
        await journal.read("x")


async def test_damage_of_one_stream_does_not_stop_the_others(path: Path, journal: Journal) -> None:
    await journal.append(one("sick"), one("sick"))
    connection = sqlite3.connect(path)
    connection.executescript("UPDATE heads SET n = 1 WHERE stream = 'sick'")
    connection.close()
    results = await asyncio.gather(
        *(journal.append(one(stream)) for stream in ("a", "sick", "b")), return_exceptions=True
    )
    assert isinstance(results[1], JournalDamaged)
    assert not isinstance(results[0], BaseException)
    assert not isinstance(results[2], BaseException)
