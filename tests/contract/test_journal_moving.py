"""A journal is moved from one database into another, either way, and goes on there as if nothing had been."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rollbackd.cli import journal_commands
from rollbackd.facts import Adopted, Applied, Moved, Notice, Told, kinds
from rollbackd.journal import Entry, JournalRefused, Outgoing, PageTurn, Received, moving, open_journal
from rollbackd.journal.database import JournalConnection
from rollbackd.journal.offline import audit_journal, database_of, records_of
from rollbackd.system.clock import SystemClock
from tests.postgres_journal import LOCAL, journal_server, new_journal
from tests.servers import Postgres

CLOCK = SystemClock()
NOON = datetime(2031, 5, 4, 12, tzinfo=UTC)
NOWHERE = Path("/nonexistent/config.yaml")
TABLES = {
    "facts": "seq, stream, n, at, actor, kind, body, hash FROM facts WHERE kind != 'Moved' ORDER BY seq",
    "heads": "stream, n, hash FROM heads WHERE stream != 'fleet' ORDER BY stream",
    "inbox": "key, source, at, seen, body, handled FROM inbox ORDER BY id",
    "outbox": "key, receiver, grouped, body, not_before, created, attempts, error, ended FROM outbox ORDER BY id",
    "pages": "receiver, thread FROM pages ORDER BY receiver, thread",
    "cursors": "name, seq FROM cursors WHERE name != 'epoch' ORDER BY name",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with journal_server() as running:
        yield running


def file(tmp_path: Path, name: str = "journal") -> str:
    return f"sqlite:///{tmp_path}/{name}.db"


async def filled(url: str) -> None:
    journal = await open_journal(url, CLOCK, LOCAL)
    for number in range(1200):
        await journal.append(Entry(f"service:{number % 7}", Applied(f"fünf 🛑 {number} \0")), Entry("x", Applied("y")))
    kept = await journal.receive([Received("b", "alert", b"\0\xff"), Received("a", "file", b"{}")])
    await journal.append(Entry("fleet", Notice("clock", "it jumped")), handled=[kept.new[0].id])
    rows = [Outgoing(key, "room", "", b"\xff\0", NOON, NOON) for key in ("m2", "m1", "m3")]
    await journal.enqueue(rows, "teller", 17)
    ids = [row.id for row in await journal.waiting()]
    await journal.delivered(
        ids[:1], NOON, Entry("x", Told("room", "opened", "m2")), turned=PageTurn("room", ("t", "u"))
    )
    await journal.postponed(ids[1:2], "503", NOON)
    await journal.close()


def _rows(connection: JournalConnection, asked: str) -> list[Any]:
    return connection.execute(f"SELECT {asked}").fetchall()


def dumped(url: str) -> dict[str, list[Any]]:
    database = database_of(url, LOCAL)
    try:
        return {name: database.read(_rows, asked) for name, asked in TABLES.items()}
    finally:
        database.close()


async def move(source: str, target: str) -> int:
    return await journal_commands._move(NOWHERE, source, target)


async def test_moved_there_and_back_it_is_the_same_to_the_byte(server: Postgres, tmp_path: Path) -> None:
    old, there, back = file(tmp_path), new_journal(server), file(tmp_path, "back")
    await filled(old)
    before = dumped(old)
    assert len(before["facts"]) == 2402
    assert await move(old, there) == 2402
    assert dumped(there) == before
    journal = await open_journal(there, CLOCK, LOCAL)
    (record,) = await journal.append(Entry("x", Adopted("p"), follows=1201))
    assert record.seq == 2403
    (arrived,) = await journal.unhandled()
    assert (arrived.key, arrived.body) == ("a", b"{}")
    assert (await journal.receive([Received("b", "alert", b""), Received("c", "alert", b"")])).again == ("b",)
    await journal.close()
    on_the_way = dumped(there)
    assert await move(there, back) == 2403
    assert dumped(back) == on_the_way
    assert audit_journal(back).broken == ()
    journal = await open_journal(back, CLOCK)
    elsewhere = await journal.cursor("epoch")
    assert elsewhere > 0, "the move drove the one that it left, and no later epoch is below that"
    assert [record.fact for record in await journal.latest(("Adopted",))] == [Adopted("p")]
    await journal.close()


async def test_nothing_starts_on_the_old_one_any_more_and_its_last_fact_says_why(
    server: Postgres, tmp_path: Path
) -> None:
    first, second = file(tmp_path), new_journal(server)
    await (await open_journal(first, CLOCK)).close()
    await move(first, second)
    with pytest.raises(JournalRefused, match=r"was moved to postgresql://.* at .*; name that as daemon\.journal"):
        await open_journal(first, CLOCK)
    await move(second, file(tmp_path, "third"))
    with pytest.raises(JournalRefused, match=r"third\.db at .*; name that as daemon.journal"):
        await open_journal(second, CLOCK, LOCAL)
    assert audit_journal(first).broken == audit_journal(second, access=LOCAL).broken == ()
    (last,) = records_of(second, kinds(Moved), access=LOCAL)
    assert last.actor.startswith("unix:")
    assert last.fact == Moved(f"{tmp_path}/third.db")


@pytest.mark.parametrize("to", ["sqlite", "postgres"])
async def test_what_was_cut_off_leaves_nothing_and_is_done_again(server: Postgres, tmp_path: Path, to: str) -> None:
    old, new = file(tmp_path), new_journal(server) if to == "postgres" else file(tmp_path, "new")
    await filled(old)
    await (await open_journal(new, CLOCK, LOCAL)).close()
    before = dumped(old)
    inserted = moving._portions

    def cut(*given: Any) -> Iterator[Any]:
        yield next(inserted(*given))
        raise KeyboardInterrupt

    with patch.object(moving, "_portions", cut), pytest.raises(KeyboardInterrupt):
        moving.copy(database_of(old, LOCAL), database_of(new, LOCAL))
    assert dumped(new)["facts"] == []
    assert moving.copy(database_of(old, LOCAL), database_of(new, LOCAL)) == 2402
    assert dumped(new) == before, "all is there, and the old one does not say so yet"
    journal = await open_journal(old, CLOCK)
    await journal.append(Entry("x", Applied("meanwhile")))
    await journal.close()
    assert await move(old, new) == 2403
    assert audit_journal(new, access=LOCAL).broken == ()


async def test_a_journal_with_facts_of_its_own_is_not_written_over(server: Postgres, tmp_path: Path) -> None:
    old, new = file(tmp_path), new_journal(server)
    for url in (old, new):
        journal = await open_journal(url, CLOCK, LOCAL)
        await journal.append(Entry("x", Applied(url[:6])))
        await journal.close()
    before = dumped(new)
    with pytest.raises(JournalRefused, match="has facts of its own; name a journal that is empty"):
        await move(old, new)
    assert dumped(new) == before
    with pytest.raises(JournalRefused, match="both are the same journal"):
        await move(old, old)
