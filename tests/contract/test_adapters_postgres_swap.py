"""Putting a PostgreSQL database in place, under clients that write and connect again, and with what stands in the way.

A writer keeps each commit that was acknowledged in a file of its own; at the end each is in the present or the old one.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Progress, Release
from rollbackd.system import boundary as boundaries
from rollbackd.testing import descendants, finish, killed_at, perform, planned
from tests.contract.test_adapters_postgres import layer
from tests.contract.test_adapters_postgres_copies import drop_all
from tests.servers import Postgres, postgres_server

CLIENTS = 50
PATIENT = timedelta(minutes=2)
WRITER = """
import sys, threading, time, psycopg
dsn, clients, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
stop = threading.Event()
def client(number):
    n = 0
    with open(f"{path}/{number}", "a", buffering=1) as file:
        while not stop.is_set():
            try:
                with psycopg.connect(dsn, autocommit=True, connect_timeout=20) as connection:
                    while not stop.is_set():
                        n += 1
                        connection.execute("INSERT INTO commits VALUES (%s)", (number * 10_000_000 + n,))
                        file.write(f"{number * 10_000_000 + n} {time.time()}\\n")
                        time.sleep(0.01)
            except psycopg.Error as error:
                with open(f"{path}/errors", "a") as errors:
                    errors.write(f"{error.sqlstate} {str(error).splitlines()[0] if str(error) else ''}\\n")
threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
for thread in threads: thread.start()
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server("max_prepared_transactions=5") as running:
        yield running


@pytest.fixture
def shop(server: Postgres) -> Iterator[Postgres]:
    """A database `shop` whose owner is the application's role, and a role of ours with the least rights."""
    server.sql("CREATE ROLE app LOGIN", "CREATE ROLE keeper LOGIN CREATEDB", "GRANT app, pg_signal_backend TO keeper")
    server.sql("CREATE DATABASE shop OWNER app")
    server.sql("CREATE TABLE commits (n bigint PRIMARY KEY)", database="shop", user="app")
    server.sql("INSERT INTO commits SELECT -n FROM generate_series(1, 1000) n", database="shop", user="app")
    yield server
    for (name,) in server.sql("SELECT gid FROM pg_prepared_xacts"):
        server.sql(f"ROLLBACK PREPARED '{name}'", database="shop")
    drop_all(server, "shop")
    server.sql("DROP ROLE keeper", "DROP ROLE app")


@contextmanager
def writing(server: Postgres, path: Path, clients: int) -> Iterator[Path]:
    path.mkdir()
    argv = [sys.executable, "-c", WRITER, server.dsn("shop", "app"), str(clients), str(path)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while sum(1 for file in path.glob("[0-9]*") if file.stat().st_size) < clients:
            assert time.monotonic() < deadline, "the writers did not begin"
            time.sleep(0.05)
        yield path
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)


def acknowledged(path: Path) -> dict[int, float]:
    lines = [line.split() for file in path.glob("[0-9]*") for line in file.read_text().splitlines()]
    return {int(number): float(at) for number, at in lines}


def commits(server: Postgres, database: str) -> set[int]:
    return {row[0] for row in server.sql("SELECT n FROM commits WHERE n > 0", database=database)}


def databases(server: Postgres) -> list[str]:
    return [row[0] for row in server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%' ORDER BY 1")]


def keeper(server: Postgres, path: Path, **settings: Any) -> Any:
    return layer(server, path, "shop", "keeper", **settings)


def test_under_clients_that_connect_again_no_acknowledged_commit_is_lost(shop: Postgres, tmp_path: Path) -> None:
    adapter = keeper(shop, tmp_path)
    first = finish(adapter.take("first"))
    change = finish(planned(adapter, Release(first.release)))
    with writing(shop, tmp_path / "acknowledged", CLIENTS) as path:
        finish(perform(adapter, change, retries=3))
        time.sleep(1)
    old, new, told = commits(shop, "shop_rollbackd_old_original"), commits(shop, "shop"), acknowledged(path)
    assert told.keys() <= old | new
    assert not old & new, "both took the same commit"
    assert new, "nobody came in afterwards"
    closed = min(told[n] for n in new if n in told) - max(told[n] for n in old if n in told)
    assert closed < 3, f"nobody was served for {closed:.2f} s"
    codes = {line.split()[0] for line in (path / "errors").read_text().splitlines()}
    assert codes <= {"57P01", "None"}, "clients are told that they were ended, or that it does not exist, once"


def test_what_may_not_be_ended_is_seen_before_a_try_is_made(shop: Postgres, tmp_path: Path) -> None:
    adapter = keeper(shop, tmp_path, swap_within="1s", closed="500ms")
    first = finish(adapter.take("first"))
    change = finish(planned(adapter, Release(first.release)))
    with psycopg.connect(shop.dsn("shop"), autocommit=True) as root, psycopg.connect(shop.dsn("shop", "app")) as app:
        app.execute("SELECT 1")
        assert [one for one in finish(adapter.ready()) if "session" in one.text and "postgres" in one.text]
        with pytest.raises(AdapterError, match=r"session \d+ of postgres, which we may not end; the present") as failed:
            finish(adapter.apply(change))
        assert not failed.value.permanent
        assert app.execute("SELECT 1").fetchone() == (1,), "a client was ended for nothing"
        assert root.execute("SELECT 1").fetchone() == (1,)
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    finish(perform(adapter, change))
    assert finish(adapter.progress(change)) is Progress.DONE


def test_a_prepared_transaction_is_named_and_stops_it(shop: Postgres, tmp_path: Path) -> None:
    adapter = keeper(shop, tmp_path, swap_within="1s", closed="500ms")
    first = finish(adapter.take("first"))
    change = finish(planned(adapter, Release(first.release)))
    shop.sql("BEGIN; INSERT INTO commits VALUES (5); PREPARE TRANSACTION 'half'", database="shop", user="app")
    assert any("half" in one.text for one in finish(adapter.ready()))
    with pytest.raises(AdapterError, match="half"):
        finish(adapter.apply(change))
    shop.sql("COMMIT PREPARED 'half'", database="shop", user="app")
    finish(perform(adapter, change))
    assert commits(shop, "shop_rollbackd_old_original") == {5}


@pytest.mark.timeout(600)
def test_killed_at_each_effect_under_writers_every_commit_is_in_one_of_them(shop: Postgres, tmp_path: Path) -> None:
    """In one world: after each kill the next life finishes it, and then the present is taken back."""
    first = finish(keeper(shop, tmp_path).take("first"))
    replaced = f"shop_rollbackd_old_{first.release}"
    seen: set[int] = set()
    with writing(shop, tmp_path / "acknowledged", 5) as path:
        for name in BOUNDARIES:
            change = finish(planned(keeper(shop, tmp_path), Release(first.release), f"{name}/0/layer"))
            life = partial(perform, keeper(shop, tmp_path), change)
            assert killed_before(name, life), f"it never came to {name}"
            assert finish(perform(keeper(shop, tmp_path), change, retries=3)) is Progress.DONE, f"killed at {name}"
            assert databases(shop) == ["shop", "shop_rollbackd_old_original"], f"killed at {name}"
            back = finish(planned(keeper(shop, tmp_path), Release("original"), f"{name}/1/layer"))
            assert finish(perform(keeper(shop, tmp_path), back, retries=3)) is Progress.DONE
            seen |= commits(shop, replaced)
            shop.sql(f'DROP DATABASE "{replaced}" WITH (FORCE)')
    lost = acknowledged(path).keys() - commits(shop, "shop") - seen
    assert not lost


async def meeting(name: str, life: Awaitable[object], does: Callable[[], object], times: int = 0) -> object:
    """Something that happens when a life comes to a boundary, where it was as often before."""
    before = boundaries.hook
    met: list[str] = []

    def hook(passed: str) -> None:
        if passed == name:
            met.append(passed)
            if len(met) == times + 1:
                does()

    boundaries.hook = hook
    try:
        return await life
    finally:
        boundaries.hook = before
        assert len(met) > times, f"it never came to {name}"


def test_a_tool_that_is_killed_and_a_connection_that_is_cut_cost_another_try(shop: Postgres, tmp_path: Path) -> None:
    adapter = keeper(shop, tmp_path)
    shop.sql(
        "CREATE TABLE slow (id int CHECK (pg_sleep(0.3) IS NOT NULL))",
        "INSERT INTO slow VALUES (1), (2)",
        database="shop",
        user="app",
    )
    first = finish(adapter.take("first"))
    change = finish(planned(adapter, Release(first.release)))

    def kill_tools() -> None:
        for process in descendants(os.getpid()):
            with suppress(OSError):
                if b"rollbackd_adapters" in Path(f"/proc/{process}/cmdline").read_bytes():
                    os.kill(process, signal.SIGKILL)

    with pytest.raises(AdapterError, match=r"pg_dump|pg_restore|reading") as failed:
        finish(meeting("process.spawned", adapter.apply(change), kill_tools))
    assert not failed.value.permanent

    def cut(of: str = "") -> None:
        whose = f"application_name LIKE 'rollbackd-%{of}'"
        shop.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {whose}")

    with pytest.raises(AdapterError, match=r"invalid snapshot identifier|terminating connection") as failed:
        finish(meeting("process.before", adapter.take("second"), partial(cut, "-copy"), DATA_DUMPED))
    assert not failed.value.permanent, "the snapshot went with its session"
    for name in (
        "postgres.snapshot",
        "postgres.swapping",
        "postgres.renaming",
        "postgres.renamed",
    ):
        with pytest.raises(AdapterError) as failed:
            finish(meeting(name, adapter.apply(change), cut))
        assert not failed.value.permanent, name
        assert finish(adapter.progress(change)) is Progress.NOT_STARTED, name
    finish(perform(adapter, change))
    assert databases(shop) == ["shop", "shop_rollbackd_old_original"]


def passed(life: Coroutine[Any, Any, object]) -> list[str]:
    """The boundaries that a life comes to."""
    before, names = boundaries.hook, list[str]()
    boundaries.hook = names.append
    try:
        finish(life, PATIENT)
    finally:
        boundaries.hook = before
    return names


def ended_at(life: Coroutine[Any, Any, object], *names: str) -> list[tuple[str, int]]:
    """Where the server is ended, by name and how often a life was there before: at these alone, since each costs a
    restore; ROLLBACKD_SWEEP=1 has all that a life comes to.
    """
    if not os.environ.get("ROLLBACKD_SWEEP"):
        life.close()
        return [(name, 0) for name in names]
    found = passed(life)
    return [(name, found[:n].count(name)) for n, name in enumerate(found)]


def strike(server: Postgres, adapter: Any, name: str, times: int, n: int, life: Coroutine[Any, Any, object]) -> None:
    """End the server when a life comes to a boundary: as `kill -9` does, or by its own immediate shutdown. It serves
    again at once, or only after the life has failed.
    """

    def end() -> None:
        server.kill() if n % 2 else server.crash()
        if n % 4 < 2:
            server.start()

    failures = list[AdapterError]()
    lives = (meeting(name, life, end, times), adapter.current())
    for one in lives:
        try:
            finish(one, PATIENT)
        except AdapterError as error:
            failures.append(error)
    if server.process is None:
        server.start()
    assert not [error for error in failures if error.permanent], (
        f"an older copy would be taken for it ({name}, {times})"
    )


@pytest.mark.timeout(1800)
def test_a_server_that_ends_under_a_copy_leaves_a_whole_one_or_none(shop: Postgres, tmp_path: Path) -> None:
    adapter = keeper(shop, tmp_path)
    ends = ended_at(adapter.take("first"), "postgres.snapshot", "postgres.kept")
    for n, at in enumerate(ends):
        strike(shop, adapter, *at, n, adapter.take(f"copy-{n}"))
        for copy in finish(adapter.snapshots()):
            assert list(finish(adapter.verify(copy.name))) == [], at
    assert finish(adapter.take("last")).restorable


@pytest.mark.timeout(3600)
def test_a_server_that_ends_under_a_restore_has_the_present_or_the_copy_whole(shop: Postgres, tmp_path: Path) -> None:
    """Its crash empties unlogged tables, also those that were just restored and counted."""
    shop.sql("CREATE UNLOGGED TABLE visits AS SELECT 1 AS n", database="shop", user="app")
    adapter, numbers = keeper(shop, tmp_path), count()
    first = finish(adapter.take("first"))
    shop.sql("INSERT INTO commits VALUES (5)", database="shop", user="app")

    def change(goal: str) -> Change:
        return finish(planned(adapter, Release(goal), f"{next(numbers)}/0/layer"))

    def back() -> None:
        finish(perform(adapter, change("original"), retries=3), PATIENT)
        shop.sql(f"DROP DATABASE shop_rollbackd_old_{first.release}")

    going = change(first.release)
    ends = ended_at(adapter.apply(going), *ENDS)
    for n, at in enumerate(ends):
        if finish(adapter.progress(going)) is Progress.DONE:
            back()
        going = change(first.release)
        strike(shop, adapter, *at, n, adapter.apply(going))
        swapped = finish(adapter.progress(going)) is Progress.DONE
        assert shop.sql("SELECT count(*) FROM commits", database="shop") == [(1000 if swapped else 1001,)], at
        assert finish(perform(adapter, going, retries=3), PATIENT) is Progress.DONE, at
        assert databases(shop) == ["shop", "shop_rollbackd_old_original"], at
        assert (commits(shop, "shop"), commits(shop, "shop_rollbackd_old_original")) == (set(), {5}), at
        if SWAPPED not in ends[: n + 1]:
            assert shop.sql("SELECT n FROM visits", database="shop") == [(1,)], f"it was put in place emptied ({at})"
    assert {copy.name: copy.restorable for copy in finish(adapter.snapshots())}["first"], "it was taken for damaged"


def test_a_standby_has_replayed_it_before_the_step_is_done(tmp_path: Path) -> None:
    with postgres_server() as primary, postgres_server(standby_of=primary) as standby:
        primary.sql("CREATE DATABASE shop")
        primary.sql("CREATE TABLE commits (n bigint)", database="shop")
        adapter = layer(primary, tmp_path, "shop", wait_for=["replica"], swap_within="2s")
        first = finish(adapter.take("first"))
        change = finish(planned(adapter, Release(first.release)))
        standby.sql("SELECT pg_wal_replay_pause()")
        with pytest.raises(AdapterError, match="replica did not replay it") as failed:
            finish(adapter.apply(change))
        assert not failed.value.permanent
        assert finish(adapter.progress(change)) is Progress.NOT_STARTED
        standby.sql("SELECT pg_wal_replay_resume()")
        finish(perform(adapter, change))
        assert databases(standby) == databases(primary) == ["shop", "shop_rollbackd_old_original"]
        wrong = layer(standby, tmp_path / "wrong", "shop")
        assert any("standby" in one.text for one in finish(wrong.ready()))


DATA_DUMPED = 2
"""How many programs a copy starts before it dumps the rows."""
SWAPPED = ("postgres.swapped", 0)
"""From here on the database serves, and what is unlogged is lost by a crash as ever."""
ENDS = (
    "postgres.created",
    "postgres.restored",
    "postgres.analyzed",
    "postgres.checked",
    "postgres.checked",
    "postgres.renamed",
)
BOUNDARIES = (
    "postgres.snapshot",
    "postgres.created",
    "process.spawned",
    "postgres.restored",
    "postgres.analyzed",
    "postgres.checked",
    "postgres.swapping",
    "postgres.renaming",
    "postgres.renamed",
    "postgres.swapped",
)


def killed_before(name: str, life: Callable[[], Awaitable[object]]) -> bool:
    """Run in a process of its own that is killed, alone, when it comes to a boundary; False when it never did."""

    async def told() -> None:
        before = boundaries.hook

        def hook(passed: str) -> None:
            if passed == name:
                before("here")

        boundaries.hook = hook
        await life()

    return killed_at(1, told, descending=False)


def test_a_server_that_is_no_primary_any_more_is_not_written_to_and_it_goes_on_once_it_is(tmp_path: Path) -> None:
    with postgres_server() as server:
        server.sql("CREATE ROLE app LOGIN", "CREATE DATABASE shop OWNER app")
        server.sql("CREATE TABLE commits AS SELECT 1 AS n", database="shop", user="app")
        adapter = layer(server, tmp_path, "shop")
        first = finish(adapter.take("first"))
        change = finish(planned(adapter, Release(first.release)))

        def demote() -> None:
            server.crash()
            (server.data / "standby.signal").touch()
            server.start()

        with pytest.raises(AdapterError) as failed:
            finish(meeting("postgres.restored", adapter.apply(change), demote))
        assert not failed.value.permanent
        with pytest.raises(AdapterError, match="this server is a standby"):
            finish(adapter.apply(change))
        assert any("this server is a standby" in one.text for one in finish(adapter.ready()))
        assert server.sql("SELECT count(*) FROM commits", database="shop") == [(1,)]
        server.sql("SELECT pg_promote()")
        assert finish(perform(adapter, change, retries=3)) is Progress.DONE
        assert databases(server) == ["shop", "shop_rollbackd_old_original"]
