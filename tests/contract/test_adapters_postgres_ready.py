"""What `ready` says of a PostgreSQL database, what the least role can do, and that no password is ever to be seen."""

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.testing import finish, perform, place, planned
from rollbackd_adapters.postgres import PostgresAdapter, catalogue
from rollbackd_adapters.postgres import server as reached
from rollbackd_adapters.postgres.settings import PostgresSettings
from tests.contract.test_adapters_postgres import layer
from tests.contract.test_adapters_postgres_copies import drop_all
from tests.servers import Postgres, postgres_server

PASSWORD = "s3cret:of\\keeper"
HBA = "local all guarded scram-sha-256\nlocal all all trust\nlocal replication all trust\n"


def _documented(role: str) -> list[str]:
    """The statements that the documentation gives a role of least rights."""
    page = (Path(__file__).parents[2] / "docs/adapters.md").read_text()
    (block,) = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    statements = re.sub(r"--.*", "", block).replace("rollbackd", role).split(";")
    return [statement.strip() for statement in statements if statement.strip()]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server("wal_level=logical", "archive_mode=on", "archive_command=true", hba=HBA) as running:
        running.sql("CREATE ROLE app LOGIN", "CREATE ROLE other", *_documented("keeper"))
        escaped = PASSWORD.replace("'", "''")
        running.sql(
            f"CREATE ROLE guarded LOGIN CREATEDB PASSWORD '{escaped}'", "GRANT app, pg_signal_backend TO guarded"
        )
        yield running


@pytest.fixture
def shop(server: Postgres) -> Iterator[Postgres]:
    server.sql("CREATE DATABASE shop OWNER app")
    server.sql(
        "CREATE TABLE users (id serial PRIMARY KEY, name text)",
        "INSERT INTO users (name) SELECT md5(n::text) FROM generate_series(1, 20000) n",
        database="shop",
        user="app",
    )
    yield server
    drop_all(server, "shop")


def said(adapter: Any) -> str:
    return "\n".join(problem.text for problem in finish(adapter.ready()))


def keeper(server: Postgres, path: Path, **settings: Any) -> Any:
    return layer(server, path, "shop", "keeper", **settings)


def test_the_least_role_can_do_all_of_it(shop: Postgres, tmp_path: Path) -> None:
    shop.sql("CREATE EXTENSION citext", database="shop", user="app")
    adapter = keeper(shop, tmp_path)
    first = finish(adapter.take("first"))
    assert said(adapter) == ""
    assert list(finish(adapter.rehearse("first"))) == []
    finish(perform(adapter, finish(planned(adapter, Release(first.release)))))
    assert shop.sql("SELECT count(*) FROM users", database="shop", user="app") == [(20000,)]
    assert shop.sql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'") == [("app",)]


IN_THE_WAY = {
    "CREATE TABLE hidden (id int); ALTER TABLE hidden OWNER TO other": "objects of role other",
    "CREATE TABLE closed (id int)": "public.closed, which ours may not read",
    "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION f()": "event trigger e, which only",
    "SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')": "logical slot decoded",
    "CREATE FUNCTION f(text) RETURNS text LANGUAGE internal AS 'textin'": "function public.f(text) in internal, which only",
    "ALTER ROLE other IN DATABASE shop SET work_mem = '1MB'": "settings of role other, which ours may not set",
    "ALTER DATABASE shop SET log_statement = 'all'": "setting log_statement, which ours may not set",
    "ALTER DATABASE shop CONNECTION LIMIT 3": "the database lets in 3 connections and",
    "ALTER ROLE keeper CONNECTION LIMIT 7": "our role may have 7 connections and",
    "CREATE DATABASE shop_rollbackd_old_original": "shop_rollbackd_old_original is there already",
}
NOT_GIVEN = {
    "REVOKE app FROM keeper": "not a member of the owner; GRANT app TO keeper",
    "REVOKE pg_signal_backend FROM keeper": "GRANT pg_signal_backend TO keeper",
    "ALTER ROLE keeper NOCREATEDB": "ALTER ROLE keeper CREATEDB",
}


@pytest.mark.parametrize("wrong", [IN_THE_WAY, NOT_GIVEN], ids=["in the way", "not given"])
def test_what_is_missing_or_in_the_way_is_named(shop: Postgres, tmp_path: Path, wrong: dict[str, str]) -> None:
    adapter = keeper(shop, tmp_path)
    finish(adapter.take("first"))
    assert said(adapter) == ""
    shop.sql(*wrong, database="shop")
    try:
        told = said(adapter)
        assert [expected for expected in wrong.values() if expected not in told] == []
    finally:
        shop.sql("GRANT app, pg_signal_backend TO keeper", "ALTER ROLE keeper CREATEDB CONNECTION LIMIT -1")
        shop.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def test_rows_that_row_security_hides_are_missed_and_not_left_out(shop: Postgres, tmp_path: Path) -> None:
    shop.sql(
        "CREATE TABLE tenants (id int, who name)", "INSERT INTO tenants VALUES (1, 'x')",
        "ALTER TABLE tenants ENABLE ROW LEVEL SECURITY", "ALTER TABLE tenants FORCE ROW LEVEL SECURITY",
        database="shop", user="app",
    )  # fmt: skip
    adapter = keeper(shop, tmp_path)
    assert "public.tenants, whose row security hides rows" in said(adapter)
    with pytest.raises(AdapterError, match="row-level security") as failed:
        finish(adapter.take("first"))
    assert failed.value.permanent
    assert list(finish(adapter.snapshots())) == []


def test_a_role_or_an_extension_that_a_copy_needs_is_missed(shop: Postgres, tmp_path: Path) -> None:
    shop.sql("CREATE ROLE reader")
    shop.sql("GRANT SELECT ON users TO reader", database="shop")
    adapter = keeper(shop, tmp_path)
    finish(adapter.take("first"))
    shop.sql("REVOKE ALL ON users FROM reader", database="shop")
    shop.sql("DROP ROLE reader")
    manifest = tmp_path / "scratch/store/first/manifest.json"
    manifest.write_text(manifest.read_text().replace('"plpgsql"', '"postgis"'))
    text = said(adapter)
    assert "role reader is gone, and copy first needs it" in text
    assert "extension postgis 1.0 is gone" in text


def test_room_that_is_unknown_or_too_little_is_a_problem(shop: Postgres, tmp_path: Path) -> None:
    adapter = keeper(shop, tmp_path, floor="900000GiB")
    assert "make room there" in said(adapter)
    assert re.search(
        r"the server lets in 117 connections and \d+ are there, a restore needs 132; raise `max_connections`, or",
        said(keeper(shop, tmp_path, jobs=64)),
    )
    settings = PostgresSettings.model_validate({"adapter": "postgres", "dsn": shop.dsn("shop", "guarded"), "floor": 0})
    guarded = PostgresAdapter(settings.model_copy(update={"password": None}), place(tmp_path / "guarded"))
    with pytest.raises(AdapterError, match="password"):
        finish(guarded.current())
    assert "the room at /nowhere/at/all is unknown" in said(keeper(shop, tmp_path, volumes=["/nowhere/at/all"]))
    shop.sql("REVOKE pg_read_all_settings FROM keeper")
    try:
        assert "does not tell our role where its data is" in said(keeper(shop, tmp_path, volumes=[]))
    finally:
        shop.sql("GRANT pg_read_all_settings TO keeper")


@contextmanager
def small(path: Path, size: str) -> Iterator[Path]:
    """A volume of its own."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_volume_of_copies_fails_the_copy_and_leaves_nothing(shop: Postgres, tmp_path: Path) -> None:
    shop.sql(
        "CREATE TABLE noise AS SELECT sha512(n::text::bytea) FROM generate_series(1, 40000) n",
        database="shop",
        user="app",
    )
    with small(tmp_path / "volume", "1m") as volume:
        adapter = keeper(shop, tmp_path, store=str(volume))
        with pytest.raises(AdapterError) as failed:
            finish(adapter.take("first"))
        assert "pg_dump" in str(failed.value)
        assert list(finish(adapter.snapshots())) == []
        assert not [path for path in volume.rglob("*") if path.is_file()]


def test_a_restore_ends_itself_before_a_volume_is_full(shop: Postgres, tmp_path: Path) -> None:
    """What fills it is somebody else, while the restore runs."""
    adapter = keeper(shop, tmp_path)
    first = finish(adapter.take("first"))
    change = finish(planned(adapter, Release(first.release)))
    with small(tmp_path / "volume", "8m") as volume:
        adapter = keeper(shop, tmp_path, volumes=[str(volume)], floor="4MiB")
        adapter._readiness._lacking = lambda *_: []
        (volume / "others").write_bytes(b"x" * 6 * 2**20)
        with pytest.raises(AdapterError, match=r"only 2 MiB are free, so the restore was ended \(`floor`\)") as failed:
            finish(adapter.apply(change))
    assert not failed.value.permanent
    assert shop.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'") == [("shop",)]


def test_no_password_is_in_arguments_files_or_messages(shop: Postgres, tmp_path: Path) -> None:
    given = {"adapter": "postgres", "dsn": shop.dsn("shop", "guarded"), "floor": 0, "volumes": [str(tmp_path)]}
    settings = PostgresSettings.model_validate(given | {"password": {"env": "UNUSED"}})
    where = replace(place(tmp_path), reveal=lambda _secret: PASSWORD)
    adapter: Any = PostgresAdapter(settings, where)
    seen: set[bytes] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        text = (process / name).read_bytes()
                    except OSError:
                        continue
                    if b"pg_dump" in text or b"pg_restore" in text:
                        seen.add(text)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        first = finish(adapter.take("first"))
        finish(perform(adapter, finish(planned(adapter, Release(first.release)))))
    finally:
        ended.set()
        thread.join()
    assert seen, "no program was seen"
    assert not [text for text in seen if PASSWORD.encode() in text or b"s3cret" in text]
    left = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert left == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "scratch/store").rglob("*"))
    wrong = PostgresAdapter(settings, replace(where, reveal=lambda _secret: "s3cret-wrong"))
    with pytest.raises(AdapterError) as refused:
        finish(wrong.current())
    assert "s3cret" not in str(refused.value) + refused.value.evidence


def test_a_projects_own_program_gets_the_password_by_a_file_that_is_gone_afterwards(
    shop: Postgres, tmp_path: Path
) -> None:
    """As migrations do: neither their arguments nor their environment have it."""
    given = {"adapter": "postgres", "dsn": shop.dsn("shop", "guarded"), "password": {"env": "UNUSED"}}
    adapter = PostgresAdapter(
        PostgresSettings.model_validate(given), replace(place(tmp_path), reveal=lambda _secret: PASSWORD)
    )

    async def asked() -> Path:
        async with adapter.opened.reached() as environment:
            argv = ["psql", "--no-psqlrc", "--tuples-only", "--command=SELECT current_user", adapter.opened.url("")]
            done = subprocess.run(
                argv, env={**environment, "PATH": "/usr/bin"}, capture_output=True, text=True, check=True, timeout=60
            )
            assert done.stdout.strip() == "app", "in the owner's role"
            assert "s3cret" not in " ".join([*argv, *environment.values()])
            file = Path(environment["PGPASSFILE"])
            assert file.stat().st_mode & 0o077 == 0
            return file

    assert not finish(asked()).exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("host=/run/postgresql dbname=shop password=s3cret", "a password has no place here"),
        ("postgresql://me:s3cret@db/shop", "a password has no place here"),
        ("host=/run/postgresql", "it does not say which database"),
        ("dbname=shop", "it does not say which database"),
        ("host=/run/postgresql dbname=shop options='-c x=y'", "options cannot be given here"),
        ("host=/run/postgresql dbname", "it cannot be read"),
        ("host=/run/postgresql dbname=postgres", "`maintenance` is the database itself"),
    ],
)
def test_a_connection_string_says_which_database_and_no_password(dsn: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        PostgresSettings.model_validate({"adapter": "postgres", "dsn": dsn})


def test_a_server_that_does_not_answer_holds_nobody_up(
    shop: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = timedelta(milliseconds=300)
    monkeypatch.setattr(reached, "_CONNECT", short)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(shop.socket / ".s.PGSQL.1"))
        silent.listen()
        dsn = f"host={shop.socket} port=1 dbname=shop"
        adapter: Any = PostgresAdapter(
            PostgresSettings.model_validate({"adapter": "postgres", "dsn": dsn}), place(tmp_path)
        )
        with pytest.raises(AdapterError, match="no connection within") as failed:
            finish(adapter.current())
    assert not failed.value.permanent

    async def hanging() -> None:
        async with keeper(shop, tmp_path)._server.connect("postgres", "look", whole=short) as connection:
            await connection.execute("SELECT pg_sleep(10)")

    with pytest.raises(AdapterError, match="no answer within") as failed:
        finish(hanging())
    assert not failed.value.permanent


def test_a_store_that_cannot_be_written_is_an_error_and_no_traceback(shop: Postgres, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AdapterError, match="file") as failed:
        finish(keeper(shop, tmp_path, store=str(tmp_path / "file/store")).take("first"))
    assert not failed.value.permanent


def test_a_server_that_is_too_old_is_refused_with_a_sentence(
    shop: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "OLDEST", 99)
    adapter = keeper(shop, tmp_path)
    for asked in (adapter.ready(), adapter.current(), adapter.take("first")):
        with pytest.raises(AdapterError, match=r"of version \d+; copies and restores need PostgreSQL 99 or") as failed:
            finish(asked)
        assert failed.value.permanent
