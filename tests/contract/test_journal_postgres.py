"""What a journal on PostgreSQL promises beyond the others: roles, doubt, standbys, and one driver at a time."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from rollbackd.cli.commands import app
from rollbackd.config.models import Config
from rollbackd.core import live_check
from rollbackd.facts import Adopted, Applied, ApplyStarted, Held, Notice, Parked, Unheld, encode, kinds
from rollbackd.incident.fold import fold
from rollbackd.journal import (
    Access,
    Conflict,
    Entry,
    Journal,
    JournalDamaged,
    JournalInUse,
    JournalRefused,
    JournalTaken,
    JournalUnavailable,
    Received,
    Unwritten,
    UnwrittenResult,
    driving,
    open_journal,
    write_unwritten,
)
from rollbackd.journal.database import JournalConnection
from rollbackd.journal.lease import Lease
from rollbackd.journal.postgres import PostgresServer
from rollbackd.journal.unwritten import LostFacts
from rollbackd.model import incident_stream
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import SystemClock
from rollbackd.system.tasks import end
from tests.postgres_journal import LOCAL, ROLE, journal_server, new_journal, prepare, url_of
from tests.servers import Postgres, pgbouncer, postgres_server, wait_until
from tests.unit.builders import Story

CLOCK = SystemClock()
INCIDENT = "checkout-1"
STREAM = incident_stream(INCIDENT)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with journal_server() as running:
        yield running


@pytest.fixture
def url(server: Postgres) -> str:
    return new_journal(server)


@asynccontextmanager
async def opened(url: str, access: Access = LOCAL, lease: Lease | None = None) -> AsyncIterator[Journal]:
    journal = await open_journal(url, CLOCK, access, lease)
    try:
        yield journal
    finally:
        await journal.close()


def database(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def one(text: str = "x", stream: str = "x") -> Entry:
    return Entry(stream, Applied(text))


# -- numbers ------------------------------------------------------------------------------------
async def test_a_reader_by_number_sees_every_fact_of_writers_who_race(url: str) -> None:
    """Takes the lock of `hold_numbers`: without it two writers give one number."""
    seen: list[int] = []
    async with opened(url) as reader, opened(url) as a, opened(url) as b, opened(url) as c:

        async def write(journal: Journal, name: str) -> None:
            for number in range(60):
                await journal.append(one(str(number), name), one(str(number), "shared"))

        async def read(writers: asyncio.Future[Any]) -> None:
            while True:
                over = writers.done()
                seen.extend(record.seq for record in await reader.since(seen[-1] if seen else 0))
                if over:
                    return

        writers = asyncio.gather(write(a, "a"), write(b, "b"), write(c, "c"))
        await asyncio.gather(writers, read(writers))
        assert seen == list(range(1, 361))
        assert (await reader.audit()).broken == ()


# -- who may what -------------------------------------------------------------------------------
async def test_the_daemons_role_can_add_facts_and_change_none_and_the_owner_neither(server: Postgres, url: str) -> None:
    async with opened(url) as journal:
        await journal.append(one())
        for statement in (
            "UPDATE facts SET actor = 'me'",
            "DELETE FROM facts",
            "TRUNCATE facts",
            "UPDATE newest SET seq = 0",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                server.sql(statement, database=database(url), user=ROLE)
            if "facts" in statement:
                with pytest.raises(psycopg.errors.RaiseException, match="never changed and never deleted"):
                    server.sql(statement, database=database(url))
        assert (await journal.audit()).broken == ()


async def test_what_an_owner_edits_by_force_is_found(server: Postgres, url: str) -> None:
    async with opened(url) as journal:
        for number in range(3):
            await journal.append(one(str(number)))
        server.sql(
            "ALTER TABLE facts DISABLE TRIGGER facts_are_never_changed",
            "ALTER TABLE facts DISABLE TRIGGER facts_are_never_deleted",
            """UPDATE facts SET body = '{"layer":"y"}' WHERE seq = 2""",
            "DELETE FROM facts WHERE seq = 3",
            database=database(url),
        )
        broken = (await journal.audit()).broken
    assert broken[0].startswith("x: #2 (Applied of ")
    assert broken[1:] == (
        "x: #3 at its end is missing",
        "of all streams, #3 is missing",
        "the trigger facts_are_never_changed is missing: somebody has opened the journal to edit it",
        "the trigger facts_are_never_deleted is missing: somebody has opened the journal to edit it",
    )


async def test_a_role_that_may_change_facts_is_refused_and_so_is_a_database_without_tables(server: Postgres) -> None:
    url = new_journal(server)
    with pytest.raises(JournalRefused, match="this role may change and delete facts; connect as one that may not"):
        await open_journal(url_of(server, database(url), "postgres"), CLOCK, LOCAL)
    with pytest.raises(
        JournalRefused, match="there is no journal yet; as a role that may make tables: rollbackd journal"
    ):
        await open_journal(url_of(server, "postgres"), CLOCK, LOCAL)
    server.sql("UPDATE schema_version SET version = 9", database=database(url))
    with pytest.raises(JournalRefused, match="written by a newer version of rollbackd"):
        await open_journal(url, CLOCK, LOCAL)


async def test_a_database_of_another_encoding_is_refused(server: Postgres) -> None:
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(JournalRefused, match="its encoding is LATIN1; make a database with ENCODING 'UTF8'"):
        await open_journal(url_of(server, "latin"), CLOCK, LOCAL)


async def test_a_pooler_is_refused(server: Postgres, url: str) -> None:
    users = f"host={server.socket}"
    with pgbouncer(server, database(url)) as console:
        port = console.partition("port=")[2].partition(" ")[0]
        through = f"postgresql://app@/{database(url)}?{users}&port={port}"
        server.sql("CREATE ROLE app LOGIN")
        with pytest.raises(JournalRefused, match="a pooler stands between"):
            await open_journal(through, CLOCK, LOCAL)


async def test_a_password_comes_by_reference_and_is_in_no_sentence(tmp_path: Path) -> None:
    with postgres_server(hba="local all postgres trust\nlocal all all scram-sha-256\n") as server:
        prepare(server)
        server.sql(f"ALTER ROLE {ROLE} PASSWORD 'hunter22'")
        url = new_journal(server)
        async with opened(url, Access(tmp_path, lambda: "hunter22", replicated=False)) as journal:
            await journal.append(one())
        with pytest.raises(JournalUnavailable, match="password authentication failed") as caught:
            await open_journal(url, CLOCK, Access(tmp_path, lambda: "hunter23", replicated=False))
        assert "hunter" not in str(caught.value)
    with pytest.raises(JournalRefused, match="has a password in it; give `journal_password`") as refused:
        await open_journal("postgresql://rollbackd:hunter22@db/x", CLOCK, LOCAL)
    assert "hunter" not in str(refused.value)


# -- connections that break ---------------------------------------------------------------------
def end_sessions(server: Postgres, url: str) -> None:
    server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database(url)}'")


async def test_sessions_that_the_server_ended_are_made_anew_and_nobody_notices(server: Postgres, url: str) -> None:
    async with opened(url) as journal:
        for number in range(1, 4):
            (record,) = await journal.append(one())
            assert record.seq == number
            assert len(await journal.since(0)) == number
            end_sessions(server, url)


async def test_a_server_that_is_away_is_told_and_it_goes_on_by_itself(url: str) -> None:
    with journal_server() as own:
        url = new_journal(own)
        async with opened(url) as journal:
            await journal.append(one())
            own.crash()
            with pytest.raises(JournalUnavailable):
                await journal.append(one())
            with pytest.raises(JournalUnavailable):
                await journal.read("x")
            own.start()
            (record,) = await journal.append(one())
            assert record.n == 2
            assert (await journal.audit()).broken == ()


async def test_a_server_that_became_read_only_is_left_and_is_no_damage(url: str) -> None:
    """SQLSTATE 25006: a primary of before answers questions, and takes nothing."""
    server = PostgresServer(url, LOCAL)

    def work(connection: JournalConnection) -> None:
        if len(tried) == 1:
            connection.execute("SET TRANSACTION READ ONLY")
        connection.execute("INSERT INTO cursors (name, seq) VALUES ('x', 1)")

    tried = [server.writer()]
    with pytest.raises(JournalUnavailable, match="is read only; another server is the primary now") as refused:
        await asyncio.to_thread(server.write, work)
    assert not isinstance(refused.value, JournalDamaged)
    tried.append(server.writer())
    assert tried[0] is not tried[1], "the next one may be to another server"
    await asyncio.to_thread(server.write, work)
    server.disconnect()


class Line:
    """A way to a server on a socket, that is cut in the next COMMIT, before the server has it or after it answered."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.server = server
        self.cut = ""
        self.cuts = 0
        directory.chmod(0o755)
        self.directory = directory
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / f".s.PGSQL.{server.port}"))
        self.listener.listen()
        self.sockets = [self.listener]
        self.threads: list[threading.Thread] = []
        self._begin(self._serve)

    def _begin(self, work: Callable[..., None], *given: Any) -> None:
        self.threads.append(threading.Thread(target=work, args=given, daemon=True))
        self.threads[-1].start()

    def close(self) -> None:
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(20)
        for one in self.sockets:
            one.close()

    def url(self, url: str) -> str:
        return url.replace(f"host={self.server.socket}", f"host={self.directory}")

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                there = socket.socket(socket.AF_UNIX)
                self.sockets += [client, there]
                there.connect(str(self.server.socket / f".s.PGSQL.{self.server.port}"))
                answered = threading.Event()
                for work in (self._up, self._down):
                    self._begin(work, client, there, answered)

    def _up(self, client: socket.socket, there: socket.socket, answered: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.cut and b"COMMIT\0" in data:
                    how, self.cut = self.cut, ""
                    self.cuts += 1
                    if how == "after":
                        answered.clear()
                        there.sendall(data)
                        assert answered.wait(20)
                    for end in (client, there):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                there.sendall(data)
        with suppress(OSError):
            there.shutdown(socket.SHUT_RDWR)

    def _down(self, client: socket.socket, there: socket.socket, answered: threading.Event) -> None:
        with suppress(OSError):
            while data := there.recv(65536):
                swallowed = self.cuts and not answered.is_set() and b"COMMIT\0" in data
                answered.set()
                if not swallowed:
                    client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_is_looked_up_and_never_written_twice(
    server: Postgres, url: str, tmp_path: Path, how: str
) -> None:
    line = Line(server, tmp_path)
    async with opened(line.url(url)) as journal:
        heard: list[int] = []
        journal.subscribe(lambda records: heard.extend(record.seq for record in records))
        await journal.append(one("first"))
        line.cut = how
        receipt, written = await asyncio.gather(
            journal.receive([Received("a", "alert", b"{}")]),
            asyncio.gather(*(journal.append(Entry("race", Adopted(str(n)), follows=n)) for n in range(5))),
        )
        assert line.cuts == 1
        assert [item.key for item in receipt.new] == ["a"], "whoever brought it hears that it is new"
        assert [record.seq for (record,) in written] == [2, 3, 4, 5, 6] == heard[1:]
        assert [record.n for record in await journal.read("race")] == [1, 2, 3, 4, 5]
        assert [item.key for item in await journal.unhandled()] == ["a"]
        assert (await journal.audit()).broken == ()
    line.close()


async def test_facts_that_are_missing_on_a_new_connection_are_not_written_over(
    server: Postgres, url: str, tmp_path: Path
) -> None:
    access = Access(tmp_path, replicated=False)
    async with opened(url, access) as journal:
        for number in range(3):
            await journal.append(one(str(number), f"x{number}"))
        lost = ["DISABLE TRIGGER USER", "ENABLE TRIGGER USER"]
        disabled, enabled = (f"ALTER TABLE facts {how}" for how in lost)
        back = ["DELETE FROM facts WHERE seq > 1", "UPDATE newest SET seq = 1", "DELETE FROM heads"]
        back += ["INSERT INTO heads SELECT stream, n, hash FROM facts"]
        server.sql(disabled, *back, enabled, database=database(url))
        end_sessions(server, url)
        for work in (journal.append(one("late")), journal.receive([Received("a", "alert", b"{}")]), journal.read("x1")):
            with pytest.raises(JournalTaken, match=r"lost what was written last of x1, x2; rollbackd ends"):
                await work
    async with opened(url, access) as journal:
        (record,) = await journal.append(one("started anew"))
        assert (record.seq, (await journal.audit()).broken) == (2, ())


# -- a standby ----------------------------------------------------------------------------------
async def test_replicated_waits_for_a_standby_and_without_one_nothing_is_said_to_be_written(tmp_path: Path) -> None:
    with journal_server() as primary:
        url = new_journal(primary)
        with pytest.raises(JournalUnavailable, match="waits for no standby") as refused:
            async with opened(url, Access()) as journal:
                await journal.append(one())
        assert "durability: local" in str(refused.value)
        with postgres_server(standby_of=primary) as standby:
            primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'replica'", "SELECT pg_reload_conf()")
            wait_until(
                lambda: primary.sql("SELECT sync_state FROM pg_stat_replication") == [("sync",)], "the standby is there"
            )
            async with opened(url, Access()) as journal:
                await journal.append(one("1"))
                standby.crash()
                waiting = asyncio.create_task(journal.append(one("2")))
                in_commit = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                await asyncio.to_thread(wait_until, lambda: bool(primary.sql(in_commit)), "it waits for the standby")
                with pytest.raises(JournalUnavailable, match="what was written is not at a standby"):
                    await journal.receive([Received("late", "alert", b"{}")])
                assert not waiting.done(), "whether it is written is not known"
                standby.start()
                (record,) = await waiting
                assert record.n == 2
                assert [record.n for record in await journal.read("x")] == [1, 2]
                (record,) = await journal.append(one("3"))
                assert (record.n, (await journal.audit()).broken) == (3, ())


async def test_the_server_that_takes_writes_is_used_also_after_a_failover() -> None:
    with journal_server() as primary, postgres_server(standby_of=primary) as standby:
        url = new_journal(primary)
        name = url.partition("@/")[2].partition("?")[0]
        both = f"?host={standby.socket},{primary.socket}&port={standby.port},{primary.port}"
        async with opened(f"postgresql://{ROLE}@/{name}{both}") as journal:
            await journal.append(one("1"))
            await asyncio.to_thread(caught_up, primary, standby)
            primary.crash()
            with pytest.raises(JournalUnavailable):
                await journal.append(one("2"))
            assert standby.sql("SELECT pg_promote(true, 60)") == [(True,)]
            (record,) = await journal.append(one("2"))
            assert record.n == 2
            assert [record.n for record in await journal.read("x")] == [1, 2]


async def test_what_an_asynchronous_standby_lost_parks_its_incidents_holds_its_services_and_is_told(
    tmp_path: Path,
) -> None:
    told = [record.fact for record in Story().planned("code").told]
    access = Access(tmp_path, replicated=False)
    with journal_server() as primary, postgres_server(standby_of=primary) as standby:
        name = database(new_journal(primary))
        both = f"?host={standby.socket},{primary.socket}&port={standby.port},{primary.port}"
        url = f"postgresql://{ROLE}@/{name}{both}"
        async with driving(url, access, CLOCK, "boot/1", "ops-1") as first, opened(url, access, first) as journal:
            await journal.append(*(Entry(STREAM, fact) for fact in (*told, Adopted("boot/1", "ops-1"))))
            await journal.append(one("kept", "service:basket"))
            await asyncio.to_thread(caught_up, primary, standby)
            standby.crash()
            assert first is not None
            first.stay()
        async with driving(url, access, CLOCK, "boot/1", "ops-1") as last:
            assert last is not None
            async with opened(url, access, last) as journal:
                await journal.append(Entry(STREAM, ApplyStarted("code")), Entry("service:shelf", Unheld()))
                primary.crash()
                standby.start()
                assert standby.sql("SELECT pg_promote(true, 60)") == [(True,)]
                async with asyncio.timeout(60):
                    while not journal.taken:
                        with suppress(JournalUnavailable):
                            await journal.append(one("more", "service:shelf"))
                        await CLOCK.sleep(timedelta(milliseconds=50))
                assert (
                    "(timeline 1 to 2) lost what was written last of incident:checkout-1, service:shelf"
                    in journal.taken
                )
                await asyncio.to_thread(last._thread.join, 20)
                assert not last._thread.is_alive(), "the daemon ends with it"
        unwritten = Unwritten.beside(url, access)
        async with driving(url, access, CLOCK, "boot/2", "ops-1") as after, opened(url, access, after) as journal:
            assert after is not None
            assert after.epoch > last.epoch, "above every one ever seen, though the last one was lost, too"
            for _ in range(2):  # as one that is killed before it forgets
                await write_unwritten(journal, unwritten)
                unwritten.keep_loss(LostFacts(("incident:checkout-1", "service:shelf"), last.taken.partition(";")[0]))
            incident = fold(await journal.read(STREAM))
            assert incident is not None
            assert incident.parked == "facts of it were lost in a failover; look at what runs"
            held = [record.stream for record in await journal.latest(kinds(Held))]
            assert sorted(held) == ["service:checkout", "service:shelf"]
            (notice,) = await journal.latest(kinds(Notice))
            assert notice.fact.kind == "facts_lost"
            assert "look at what runs, then `rollbackd resume` each service" in notice.fact.text
            assert (await journal.audit()).broken == ()
            primary.start()
            back = f"postgresql://{ROLE}@/{name}?host={primary.socket}&port={primary.port}"
            after.server._url = back
            end_sessions(standby, url)
            with pytest.raises(JournalUnavailable, match="a primary of before a failover"):
                await journal.append(one("to the old one"))


def caught_up(primary: Postgres, standby: Postgres) -> None:
    at = primary.sql("SELECT pg_current_wal_lsn()::text")[0][0]
    there = f"SELECT pg_last_wal_replay_lsn() >= '{at}'"
    wait_until(lambda: standby.sql(there) == [(True,)], "the standby has it")


# -- one driver ---------------------------------------------------------------------------------
def lease(url: str, process: str, host: str, member: str = "") -> Lease:
    return Lease(PostgresServer(url, LOCAL), process, host, member)


async def test_a_second_daemon_is_refused_while_the_first_one_lives(url: str) -> None:
    async with driving(url, LOCAL, CLOCK, "boot/1", "ops-1") as first:
        assert first is not None
        assert first.trouble == ""
        with pytest.raises(JournalInUse, match=r"journal is driven by ops-1, process 1; ask that one, or end it first"):
            async with driving(url, LOCAL, CLOCK, "boot/2", "ops-2"):
                raise AssertionError("it drives, too")
    async with driving(url, LOCAL, CLOCK, "boot/2", "ops-2") as second:
        assert second is not None
        assert second.epoch == first.epoch + 1, "given back, it is taken at once"


async def test_one_that_froze_loses_to_who_took_over_and_writes_nothing_any_more(url: str) -> None:
    frozen, other = lease(url, "boot/1", "ops-1", "desk"), lease(url, "boot/2", "ops-2", "desk")
    assert await asyncio.to_thread(frozen.look) == ""
    async with opened(url, LOCAL, frozen) as journal:
        await journal.append(one())
        await journal.attend("desk", "boot/1", "1.0", "c1")
        started = CLOCK.monotonic()
        while holder := await asyncio.to_thread(other.look):
            assert holder == "ops-1, process 1"
            assert (other.alive, other.named) == (False, False)
            await CLOCK.sleep(timedelta(milliseconds=100))
        assert CLOCK.monotonic() - started >= 5
        assert "is not known" in journal.trouble
        assert journal.host == "ops-1"
        for work in (journal.append(one()), journal.receive([Received("a", "alert", b"{}")])):
            with pytest.raises(JournalUnavailable, match="another daemon drives it now; this one ends"):
                await work
        frozen.keep()
        await asyncio.to_thread(frozen._thread.join, 20)
        assert not frozen._thread.is_alive(), "the daemon ends with it"
        assert "ops-2 drives it now" in journal.trouble
        async with opened(url, LOCAL, other) as theirs:
            with pytest.raises(JournalTaken, match="another daemon is called desk now; this one ends"):
                async with opened(url) as ours:
                    await ours.attend("desk", "boot/1", "1.0", "c1")
            await theirs.attend("desk", "boot/2", "1.0", "c1")
            (record,) = await theirs.append(one())
            assert record.n == 2
            with pytest.raises(Conflict):
                await theirs.append(Entry("x", Adopted("late"), follows=1))


async def test_a_second_process_of_one_name_is_refused_while_the_first_one_lives(url: str) -> None:
    async def stand_by(_holder: str, _trouble: JournalUnavailable | None) -> None:
        raise AssertionError("it stands by, too")

    async def attends(journal: Journal) -> None:
        while True:
            await journal.attend("ops-1", "boot/1", "1.0", "c1")
            await CLOCK.sleep(timedelta(milliseconds=200))

    async with driving(url, LOCAL, CLOCK, "boot/1", "desk on ops-1"), opened(url) as journal:
        await journal.attend("ops-1", "boot/1", "1.0", "c1")
        living = asyncio.create_task(attends(journal))
        said = r"another daemon is called ops-1 and lives, as process 1 on its host; give each its own `daemon\.host`"
        with pytest.raises(JournalInUse, match=said):
            async with driving(url, LOCAL, CLOCK, "boot/2", "desk on ops-1", stand_by, "ops-1"):
                raise AssertionError("it drives, too")
        await end((living,))
        await journal.leave("ops-1", "boot/1")
        (member,) = await journal.members()
        assert (member.process, member.drives) == ("", False)
        with pytest.raises(AssertionError, match="it stands by, too"):
            async with driving(url, LOCAL, CLOCK, "boot/2", "desk on ops-1", stand_by, "ops-1"):
                pass


async def test_a_lease_outlives_a_server_that_was_away(url: str) -> None:
    with journal_server() as own:
        url = new_journal(own)
        async with driving(url, LOCAL, CLOCK, "boot/1", "ops-1") as mine:
            assert mine is not None
            own.crash()
            async with asyncio.timeout(30):
                while not mine.trouble:
                    await CLOCK.sleep(timedelta(milliseconds=50))
            own.start()
            async with asyncio.timeout(30):
                while mine.trouble:
                    await CLOCK.sleep(timedelta(milliseconds=50))
            async with opened(url, LOCAL, mine) as journal:
                await journal.append(one())


async def test_who_executes_itself_anew_gets_it_back_at_once_and_another_one_does_not(url: str) -> None:
    async with driving(url, LOCAL, CLOCK, "boot/1", "ops-1") as before:
        assert before is not None
        before.stay()
    assert await asyncio.to_thread(lease(url, "boot/2", "ops-2").look) != ""
    async with driving(url, LOCAL, CLOCK, "boot/1", "ops-1") as after:
        assert after is not None
        assert after.epoch == before.epoch + 1


# -- what was done on a host and is not written yet ----------------------------------------------
@dataclass
class _Two:
    """An incident whose step host a began, and two hosts' ways to its journal."""

    url: str
    kept: Unwritten
    result: UnwrittenResult


@pytest.fixture
async def begun(url: str, tmp_path: Path) -> _Two:
    told = [record.fact for record in Story().planned("code").told]
    async with opened(url) as journal:
        *_, intent = await journal.append(
            *(Entry(STREAM, fact) for fact in (*told, Adopted("boot/1", "a"), ApplyStarted("code")))
        )
    kept = Unwritten.beside(url, Access(tmp_path))
    kind, body = encode(Applied("code"))
    result = UnwrittenResult(STREAM, "apply", "code", intent.at, "a", CLOCK.now(), kind, body.decode())
    assert kept.keep(result)
    return _Two(url, kept, result)


async def written(two: _Two) -> list[str]:
    async with opened(two.url) as journal:
        assert two.kept.results() == []
        assert (await journal.audit()).broken == ()
        return [type(record.fact).__name__ for record in await journal.read(STREAM)][-3:]


async def test_what_was_done_is_written_by_the_next_life_and_once(begun: _Two) -> None:
    async with opened(begun.url) as journal:
        await write_unwritten(journal, begun.kept)
        begun.kept.keep(begun.result)  # as one that is killed before it forgets
        await write_unwritten(journal, begun.kept)
    assert await written(begun) == ["Adopted", "ApplyStarted", "Applied"]


async def test_a_driver_hears_of_what_a_host_that_lost_writes_and_decides_again(begun: _Two) -> None:
    async with opened(begun.url) as theirs, opened(begun.url) as journal:
        read_model = ReadModel(theirs)
        await read_model.open()
        known = await read_model.incident(INCIDENT)
        assert known is not None
        assert known.flight is not None
        await write_unwritten(journal, begun.kept)
        adoption = Adopted("boot/2", "b")
        with pytest.raises(Conflict):
            await read_model.append(Entry(STREAM, adoption, follows=known.n))
        known = await read_model.incident(INCIDENT)
        assert known is not None
        assert (known.flight, known.done) == (None, ("code",)), "it waits for nothing, and does nothing again"
        await read_model.append(Entry(STREAM, adoption, follows=known.n))
    assert await written(begun) == ["ApplyStarted", "Applied", "Adopted"]


async def test_what_comes_after_another_host_has_taken_over_is_kept_as_late(begun: _Two) -> None:
    async with opened(begun.url) as theirs, opened(begun.url) as journal:
        await theirs.append(Entry(STREAM, Adopted("boot/2", "b")), Entry(STREAM, Parked("it may still run there")))
        for _ in range(2):
            begun.kept.keep(begun.result)
            await write_unwritten(journal, begun.kept)
        incident = fold(await theirs.read(STREAM))
    assert incident is not None
    assert incident.parked
    assert incident.done == ()
    assert await written(begun) == ["Adopted", "Parked", "ReportedLate"]


# -- what asks it from outside ------------------------------------------------------------------
async def test_check_live_says_what_stands_against_it(server: Postgres, url: str, tmp_path: Path) -> None:
    async def probed(text: str, durability: str) -> list[tuple[str, str]]:
        config = Config.model_validate({"daemon": {"mode": "act", "journal": text, "durability": durability}})
        async with live_check(config, CLOCK, "me") as check:
            return [(one.result, one.text) for one in await check._journal()]

    assert await probed(url, "local") == [("ok", "it answers, and would be used")]
    ((result, said),) = await probed(url, "replicated")
    assert result == "wrong"
    assert "the primary waits for no standby" in said
    ((result, said),) = await probed(url_of(server, "postgres"), "local")
    assert "there is no journal yet" in said
    assert await probed(f"sqlite:///{tmp_path}/journal.db", "local") == []


def test_commands_make_it_move_it_and_audit_it(server: Postgres, tmp_path: Path) -> None:
    server.sql("CREATE DATABASE fresh")
    url, admin, old = url_of(server, "fresh"), url_of(server, "fresh", "postgres"), f"sqlite:///{tmp_path}/journal.db"

    async def fill() -> None:
        async with opened(old) as journal:
            await journal.append(one())

    def rollbackd(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["--config", str(tmp_path / "none.yaml"), *arguments])
        return done.exit_code, done.output

    asyncio.run(fill())
    code, said = rollbackd("journal", "move", old, url)
    assert (code, "there is no journal yet" in said or "tables" in said) == (1, True)
    assert rollbackd("journal", "migrate", admin, "--role", ROLE)[0] == 0
    assert rollbackd("journal", "migrate", admin, "--role", ROLE) == (
        0,
        f"postgresql://{server.socket}/fresh: version 1\n",
    )
    code, said = rollbackd("journal", "move", old, url)
    assert (code, said.startswith("1 facts are in postgresql://")) == (0, True)
    assert rollbackd("audit", "--journal", url) == (0, "1 facts in 1 streams: all fit\n")
    code, said = rollbackd("journal", "move", old, url)
    assert (code, "was moved to postgresql://" in said) == (1, True)
