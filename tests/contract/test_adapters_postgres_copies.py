"""Copies of PostgreSQL databases that are damaged, of another database, or refused; and an odd one that comes back equal."""

import asyncio
import gzip
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import DataLoss, Progress, Release
from rollbackd.testing import finish, perform, planned
from rollbackd_adapters.postgres.catalogue import read_database
from tests.contract.test_adapters_postgres import layer
from tests.servers import Postgres, postgres_server

ODD = 'we"ird shop é'


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server("max_prepared_transactions=5") as running:
        yield running


@pytest.fixture
def shop(server: Postgres) -> Iterator[Postgres]:
    """A small database `shop`."""
    server.sql("CREATE DATABASE shop")
    server.sql(
        "CREATE TABLE orders (id bigserial PRIMARY KEY, what text, at timestamptz DEFAULT now())",
        "CREATE TABLE users (id int PRIMARY KEY, name text)",
        "INSERT INTO orders (what) SELECT md5(n::text) FROM generate_series(1, 3000) n",
        r"INSERT INTO users SELECT n, E'line\none\\.\n\\.' || n FROM generate_series(1, 100) n",
        database="shop",
    )
    yield server
    drop_all(server, "shop")


def drop_all(server: Postgres, name: str) -> None:
    for (one,) in server.sql("SELECT datname FROM pg_database"):
        if one.startswith(name):
            server.sql('DROP DATABASE "{}" WITH (FORCE)'.format(one.replace('"', '""')))


def data_of(path: Path, name: str) -> Path:
    return path / "scratch/store" / name / "data"


def largest(path: Path, name: str) -> Path:
    return max(data_of(path, name).glob("*.dat.gz"), key=lambda file: file.stat().st_size)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6)])


def cut_neatly(file: Path) -> None:
    """As if it had been written so: whole by itself, with the end mark, and fewer rows."""
    lines = gzip.decompress(file.read_bytes()).split(b"\n")
    file.write_bytes(gzip.compress(b"\n".join([*lines[: len(lines) * 6 // 10], b"\\.", b"", b"", b""])))


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def emptied_neatly(file: Path) -> None:
    file.write_bytes(gzip.compress(b"\\.\n\n\n"))


def gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("harm", [cut, cut_neatly, emptied, emptied_neatly, gone])
def test_a_harmed_copy_is_found_and_not_put_in_place(shop: Postgres, tmp_path: Path, harm: Any) -> None:
    adapter = layer(shop, tmp_path, "shop")
    finish(adapter.take("first"))
    assert list(finish(adapter.verify("first"))) == []
    harm(largest(tmp_path, "first"))
    found = finish(adapter.verify("first"))
    assert found
    with pytest.raises(AdapterError, match="copy first is damaged") as failed:
        finish(adapter.restore("first", "by hand"))
    assert failed.value.permanent
    assert shop.sql("SELECT count(*) FROM orders", database="shop") == [(3000,)]
    names = [row[0] for row in shop.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'")]
    assert names == ["shop"], "what was being restored is left"
    assert not next(one for one in finish(adapter.snapshots()) if one.name == "first").restorable


def test_even_with_a_forged_manifest_an_emptied_file_is_not_put_in_place(shop: Postgres, tmp_path: Path) -> None:
    """What the restored database has is counted, whatever was said of the files."""
    adapter = layer(shop, tmp_path, "shop")
    finish(adapter.take("first"))
    file = largest(tmp_path, "first")
    emptied_neatly(file)
    manifest = data_of(tmp_path, "first").parent / "manifest.json"
    given = json.loads(manifest.read_text())
    given["facts"]["tables"].pop(file.name)
    for table in given["facts"]["rows"]:
        table["dumped"] = False
    given["facts"]["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(given))
    assert list(finish(adapter.verify("first"))) == []
    with pytest.raises(AdapterError, match=r"public\.orders has 0 rows, 3000 were copied"):
        finish(adapter.restore("first", "by hand"))
    assert shop.sql("SELECT count(*) FROM orders", database="shop") == [(3000,)]


def test_a_manifest_that_says_too_little_is_damaged(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop")
    finish(adapter.take("first"))
    manifest = data_of(tmp_path, "first").parent / "manifest.json"
    given = json.loads(manifest.read_text())
    del given["facts"]["rights"]
    manifest.write_text(json.dumps(given))
    for asked in (adapter.verify("first"), adapter.restore("first", "by hand"), adapter.rehearse("first")):
        with pytest.raises(AdapterError, match="manifest is damaged, it has no rights") as failed:
            finish(asked)
        assert failed.value.permanent
    assert not next(iter(finish(adapter.snapshots()))).restorable
    assert [one.id for one in finish(adapter.releases())] == ["original"]


def test_a_dump_of_another_database_is_not_taken_for_the_copy(shop: Postgres, tmp_path: Path) -> None:
    shop.sql("CREATE DATABASE shop_other TEMPLATE shop")
    shop.sql("UPDATE users SET name = 'of others'", database="shop_other")
    other = layer(shop, tmp_path / "other", "shop_other")
    finish(other.take("first"))
    adapter = layer(shop, tmp_path, "shop")
    finish(adapter.take("first"))
    shutil.rmtree(data_of(tmp_path, "first"))
    shutil.copytree(data_of(tmp_path / "other", "first"), data_of(tmp_path, "first"))
    assert finish(adapter.verify("first"))
    with pytest.raises(AdapterError, match="damaged"):
        finish(adapter.restore("first", "by hand"))


def test_a_copy_that_fails_gives_way_to_the_next_older_one_within_max_loss(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop", max_loss="1h")
    finish(adapter.take("older"))
    shop.sql("DELETE FROM orders WHERE id > 2000", database="shop")
    newer = finish(adapter.take("newer"))
    change = finish(planned(adapter, finish(adapter.as_of(newer.created))))
    cut(largest(tmp_path, "newer"))
    finish(perform(adapter, change))
    assert shop.sql("SELECT count(*) FROM orders", database="shop") == [(3000,)]
    assert "newer" in finish(adapter.note(change.key))
    assert "older one" in finish(adapter.note(change.key))
    found = {one.path: one.lines for one in finish(adapter.lost())}
    assert found == {"public.orders": ("rows 2000, the copy has 3000; `loss` has no column for it",)}


def test_what_the_server_lacks_is_no_fault_of_a_copy(shop: Postgres, tmp_path: Path) -> None:
    """Else every copy would be put aside, one after the other, for a role that is gone."""
    adapter = layer(shop, tmp_path, "shop", max_loss="1h")
    shop.sql("CREATE ROLE passing")
    shop.sql("ALTER TABLE users OWNER TO passing", database="shop")
    finish(adapter.take("older"))
    newer = finish(adapter.take("newer"))
    shop.sql("ALTER TABLE users OWNER TO postgres", database="shop")
    shop.sql("DROP ROLE passing")
    change = finish(planned(adapter, finish(adapter.as_of(newer.created))))
    with pytest.raises(AdapterError, match='role "passing" does not exist') as failed:
        finish(perform(adapter, change))
    assert failed.value.permanent
    assert [one.restorable for one in finish(adapter.snapshots()) if one.why != "before"] == [True, True]
    assert [row[0] for row in shop.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'")] == ["shop"]


def test_an_older_copy_that_loses_more_than_max_loss_is_not_taken_unasked(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop", max_loss="0s")
    finish(adapter.take("older"))
    newer = finish(adapter.take("newer"))
    change = finish(planned(adapter, finish(adapter.as_of(newer.created))))
    assert change.loss == DataLoss(newer.created, timedelta())
    cut(largest(tmp_path, "newer"))
    with pytest.raises(AdapterError, match="damaged"):
        finish(perform(adapter, change))
    assert finish(adapter.current()).id == "original"
    assert finish(adapter.as_of(newer.created)).label == "older"


def test_a_database_that_was_replaced_is_a_release_and_comes_back(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop")
    first = finish(adapter.take("first"))
    shop.sql("INSERT INTO users VALUES (1000, 'late')", database="shop")
    oid = shop.sql("SELECT oid FROM pg_database WHERE datname = 'shop'")
    finish(adapter.restore("first", "by hand"))
    assert shop.sql("SELECT count(*) FROM users", database="shop") == [(100,)]
    assert finish(adapter.current()).id == first.release
    old = next(one for one in finish(adapter.releases()) if one.id == "original")
    change = finish(planned(adapter, old))
    finish(perform(adapter, change))
    assert shop.sql("SELECT count(*) FROM users", database="shop") == [(101,)]
    assert shop.sql("SELECT oid FROM pg_database WHERE datname = 'shop'") == oid
    again = finish(adapter.plan(next(one for one in finish(adapter.releases()) if one.label == "first")))
    assert again.after.id == f"{first.release}.2", "an id that a database has already"


def test_numbers_are_not_given_twice_and_the_planner_knows_its_tables(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop")
    finish(adapter.take("first"))
    shop.sql("INSERT INTO orders (what) SELECT 'x' FROM generate_series(1, 5000)", database="shop")
    finish(adapter.restore("first", "by hand"))
    assert shop.sql("INSERT INTO orders (what) VALUES ('y') RETURNING id", database="shop")[0][0] > 8000
    assert shop.sql("SELECT reltuples FROM pg_class WHERE relname = 'orders'", database="shop") == [(3000.0,)]


def test_what_the_configuration_asks_of_a_restored_database(shop: Postgres, tmp_path: Path) -> None:
    integrity = [{"sql": "SELECT count(*) FROM users", "above": 100}]
    adapter = layer(shop, tmp_path, "shop", integrity=integrity)
    finish(adapter.take("first"))
    with pytest.raises(AdapterError, match=r"gives 100, wants more than 100") as failed:
        finish(adapter.restore("first", "by hand"))
    assert failed.value.permanent
    adapter = layer(shop, tmp_path, "shop", after_restore=["UPDATE users SET name = 'told'"], rows=0.5)
    finish(adapter.take("second"))
    finish(adapter.restore("second", "by hand 2"))
    assert shop.sql("SELECT DISTINCT name FROM users", database="shop") == [("told",)]


def test_a_copy_with_far_fewer_rows_than_the_present_is_not_put_in_place(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop", rows=0.9)
    finish(adapter.take("first"))
    shop.sql("INSERT INTO orders (what) SELECT 'x' FROM generate_series(1, 5000)", database="shop")
    with pytest.raises(AdapterError, match=r"it has 3100 rows and must have 7290 at least"):
        finish(adapter.restore("first", "by hand"))


def test_a_copy_is_found_by_the_heads_of_its_migrations_however_the_database_sorts(
    server: Postgres, tmp_path: Path
) -> None:
    server.sql("CREATE DATABASE shop TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")
    server.sql(
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('ae10'), ('Be20')",
        "CREATE SCHEMA archive",
        "CREATE TABLE archive.alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO archive.alembic_version VALUES ('ce30')",
        "CREATE SCHEMA aside",
        "CREATE TABLE aside.alembic_version (something_else int)",
        database="shop",
    )
    try:
        adapter = layer(server, tmp_path, "shop")
        finish(adapter.take("first"))
        heads = finish(adapter.opened.heads("alembic_version"))
        assert heads == ("Be20", "ae10")
        assert adapter.has_revision(heads).name == "first"
        server.sql("UPDATE alembic_version SET version_num = 'ae20' WHERE version_num = 'ae10'", database="shop")
        finish(adapter.restore("first", "by hand"))
        carried = {
            release.id: finish(adapter.heads_of(release.id, "alembic_version"))
            for release in finish(adapter.releases())
        }
        assert carried["original"] == ("Be20", "ae20"), "what was replaced is asked itself"
        assert carried[adapter._copy("first").id] == heads
        assert finish(adapter.heads_of("0123456789ab", "alembic_version")) is None
    finally:
        drop_all(server, "shop")


def test_a_rehearsal_leaves_nothing_and_touches_nothing(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop", store=str(tmp_path / "copies"))
    finish(adapter.take("first"))
    shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
    shop.sql("CREATE DATABASE shop_rollbackd_try")  # what a kill left
    before = shop.sql("SELECT oid FROM pg_database WHERE datname = 'shop'")
    assert list(finish(adapter.rehearse("first"))) == []
    assert shop.sql("SELECT oid FROM pg_database WHERE datname LIKE 'shop%'") == before


def test_the_schema_alone_is_kept_and_is_no_copy_to_go_back_to(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop")
    finish(adapter.take("first"))
    one = finish(adapter.take_schema("schedule"))
    assert (one.kind, one.restorable, one.release) == ("schema", False, "")
    (file,) = (tmp_path / "scratch/store").rglob(f"{one.name}/schema.sql")
    assert "CREATE TABLE public.orders" in file.read_text()
    assert "COPY public.orders" not in file.read_text(), "no row of it"
    assert {(each.name, each.kind) for each in finish(adapter.snapshots())} == {("first", ""), (one.name, "schema")}
    assert [each.label for each in finish(adapter.releases())[1:]] == ["first"]
    assert list(finish(adapter.verify(one.name))) == []
    with pytest.raises(AdapterError, match="is of the schema alone: it has no rows to go back to") as refused:
        finish(adapter.restore(one.name, "by hand"))
    assert refused.value.permanent
    for _ in range(2):
        finish(adapter.take_schema("schedule"))
    assert list(finish(adapter.prune_schemas(2))) == [one.name]
    assert "first" in {each.name for each in finish(adapter.snapshots())}
    damaged = finish(adapter.take_schema("schedule"))
    (file,) = (tmp_path / "scratch/store").rglob(f"{damaged.name}/schema.sql")
    file.write_bytes(file.read_bytes()[:200])
    assert "was changed" in finish(adapter.verify(damaged.name))[0].text


def test_a_copy_gives_way_to_who_waits_for_its_locks(shop: Postgres, tmp_path: Path) -> None:
    """A slow program holds the dump up, while somebody wants to ALTER a table."""
    import psycopg

    slow = tmp_path / "programs"
    slow.mkdir()
    for name in ("pg_dump", "pg_restore"):
        real = next(iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))))
        wait = ""
        if name == "pg_dump":
            wait = (
                'case "$*" in *--format=directory*) psql "$2x" >/dev/null 2>&1; '
                f"psql '{shop.dsn('shop')} application_name='\"$TAG\" -c 'BEGIN; LOCK orders IN ACCESS SHARE MODE; SELECT pg_sleep(60)';; esac\n"
            )
        (slow / name).write_text(
            f'#!/bin/sh\nTAG=$(echo "$*" | sed "s/.*application_name=\\([^ ]*\\).*/\\1/")\n{wait}exec {real} "$@"\n'
        )
        (slow / name).chmod(0o755)
    adapter = layer(shop, tmp_path, "shop", programs=str(slow))

    async def both() -> None:
        taking = asyncio.ensure_future(adapter.take("first"))
        async with await psycopg.AsyncConnection.connect(shop.dsn("shop"), autocommit=True) as other:
            while not shop.sql(
                "SELECT FROM pg_locks l JOIN pg_class c ON c.oid = relation WHERE relname = 'orders' AND granted",
                database="shop",
            ):
                await asyncio.sleep(0.05)
            await other.execute("SET statement_timeout = '20s'")
            await other.execute("ALTER TABLE orders ADD COLUMN more int")
        await taking

    with pytest.raises(AdapterError, match="it gave way") as gave:
        finish(both())
    assert not gave.value.permanent
    assert list(finish(adapter.snapshots())) == []


def test_a_table_that_somebody_holds_fails_the_copy_and_the_restore_in_time(shop: Postgres, tmp_path: Path) -> None:
    import psycopg

    adapter = layer(shop, tmp_path, "shop", lock_within="300ms")
    first = finish(adapter.take("first"))
    change = finish(planned(adapter, Release(first.release)))
    with psycopg.connect(shop.dsn("shop")) as holder:
        holder.execute("LOCK TABLE orders")
        with pytest.raises(AdapterError, match="lock timeout") as held:
            finish(adapter.take("second"))
        assert not held.value.permanent
        with pytest.raises(AdapterError, match=r"what is there could not be copied first: .*lock timeout") as held:
            finish(adapter.apply(change))
        assert not held.value.permanent
        holder.execute("DELETE FROM orders WHERE id > 2000")
    assert shop.sql("SELECT count(*) FROM orders", database="shop") == [(2000,)]
    assert shop.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'") == [("shop",)]
    assert [one.name for one in finish(adapter.snapshots())] == ["first"]
    assert finish(perform(adapter, change)) is Progress.DONE
    assert shop.sql("SELECT count(*) FROM orders", database="shop") == [(3000,)]


def schema(server: Postgres, database: str) -> list[str]:
    """All that `pg_dump` says of a database, with its data, its owner and its rights; no order, no random words."""
    argv = ["pg_dump", "--create", "--inserts", "-d", server.dsn(database)]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=60)
    lines = done.stdout.decode().splitlines()
    return sorted(line for line in lines if line and not line.startswith(("\\restrict", "\\unrestrict", "--")))


def test_an_odd_database_comes_back_equal(server: Postgres, tmp_path: Path) -> None:
    quoted = '"' + ODD.replace('"', '""') + '"'
    server.sql(
        'CREATE ROLE "o\'wner"',
        "CREATE ROLE reader LOGIN",
        f"CREATE DATABASE {quoted} TEMPLATE template0 OWNER \"o'wner\" LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'UTF8'",
        f"COMMENT ON DATABASE {quoted} IS 'of people'",
        f"REVOKE CONNECT ON DATABASE {quoted} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {quoted} TO reader WITH GRANT OPTION",
        f"ALTER DATABASE {quoted} SET search_path = 'a b', public, pg_catalog",
        f"ALTER DATABASE {quoted} SET work_mem = '7MB'",
        f"ALTER ROLE reader IN DATABASE {quoted} SET statement_timeout = '3s'",
        f"ALTER DATABASE {quoted} CONNECTION LIMIT 90",
    )
    server.sql(
        'CREATE SCHEMA "a b" AUTHORIZATION "o\'wner"',
        'CREATE TABLE "a b"."Tab""le" (id int GENERATED ALWAYS AS IDENTITY, "väl\n" text, g int GENERATED ALWAYS AS (1) STORED)',
        'INSERT INTO "a b"."Tab""le" ("väl\n") SELECT E\'\\\\.\\n\\t\' || n FROM generate_series(1, 50) n',
        'CREATE MATERIALIZED VIEW "a b".m AS SELECT count(*) FROM "a b"."Tab""le"',
        "CREATE TABLE public.tenants (id int PRIMARY KEY, owner name DEFAULT current_user)",
        "ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE public.tenants FORCE ROW LEVEL SECURITY",
        "CREATE POLICY own ON public.tenants USING (owner = current_user)",
        "INSERT INTO public.tenants SELECT n, 'nobody' FROM generate_series(1, 5) n",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader",
        "CREATE FUNCTION public.told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.told()",
        "CREATE TABLE public.parts (id int, at date) PARTITION BY RANGE (at)",
        "CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
        "INSERT INTO public.parts VALUES (1, '2026-02-01')",
        "CREATE UNLOGGED TABLE public.passing (id int)",
        "INSERT INTO public.passing VALUES (1)",
        "CREATE SEQUENCE public.down INCREMENT -1 MAXVALUE 100 MINVALUE -1000000",
        "SELECT nextval('public.down') FROM generate_series(1, 10)",
        "SELECT lo_from_bytea(4711, decode(repeat('00ff', 5000), 'hex'))",
        "SELECT lo_from_bytea(4712, '')",
        "COMMENT ON LARGE OBJECT 4711 IS 'a picture'",
        "CREATE TABLE public.empty ()",
        database=ODD,
    )
    before = schema(server, ODD)
    adapter = layer(server, tmp_path, ODD)
    finish(adapter.take("first"))
    finish(adapter.restore("first", "by hand"))
    after = schema(server, ODD)
    sequences = ("SELECT pg_catalog.setval",)
    mark = "rollbackd: "
    assert [
        line
        for line in after
        if not line.startswith(sequences) and mark not in line and "COMMENT ON DATABASE" not in line
    ] == [line for line in before if not line.startswith(sequences) and "COMMENT ON DATABASE" not in line]
    comment = server.sql(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'we\"ird shop é'"
    )[0][0]
    assert comment.startswith("of people\nrollbackd: ")
    assert server.sql("SELECT datcollate, datconnlimit FROM pg_database WHERE datname = 'we\"ird shop é'") == [
        ("C", 90)
    ]
    assert server.sql("SELECT md5(lo_get(4711))", database=ODD) == [
        server.sql("SELECT md5(decode(repeat('00ff', 5000), 'hex'))")[0]
    ]
    assert server.sql("SELECT nextval('public.down')", database=ODD)[0][0] < 90
    assert server.sql('SELECT count FROM "a b".m', database=ODD) == [(50,)]
    drop_all(server, 'we"ird')


def test_what_a_restore_left_behind_is_counted_and_written_to_files(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop", loss={"orders": "at"})
    finish(adapter.take("first"))
    shop.sql(
        "INSERT INTO orders (what, at) VALUES ('late', now() + interval '1 s'), ('la\"te', now() + interval '2 s')",
        "INSERT INTO users VALUES (1000, 'late')",
        database="shop",
    )
    finish(adapter.restore("first", "by hand"))
    found = {one.path: one.lines for one in finish(adapter.lost())}
    assert found == {
        "public.orders": ("rows 2 newer than the copy",),
        "public.users": ("rows 101, the copy has 100; `loss` has no column for it",),
    }
    lines = next(one.lines for one in finish(adapter.lost(export=True)) if one.path == "public.orders")
    file = Path(lines[1].removeprefix("written to "))
    assert file.read_text().splitlines()[1:] == [line for line in file.read_text().splitlines()[1:] if "la" in line]
    assert len(file.read_text().splitlines()) == 3
    assert file.stat().st_mode & 0o777 == 0o600
    shop.sql("DROP DATABASE shop_rollbackd_old_original")
    with pytest.raises(AdapterError, match="is not there any more"):
        finish(adapter.lost())


def test_old_databases_are_dropped_when_their_time_is_over(shop: Postgres, tmp_path: Path) -> None:
    adapter = layer(shop, tmp_path, "shop")
    finish(adapter.take("first"))
    finish(adapter.restore("first", "by hand"))
    assert finish(adapter.prune()) == []
    short = layer(shop, tmp_path, "shop", keep_old="1ms")
    assert "shop_rollbackd_old_original" not in finish(short.prune({"original"}))
    shop.sql("CREATE DATABASE shop_rollbackd_try")
    oid = shop.sql("SELECT oid FROM pg_database WHERE datname = 'shop_rollbackd_try'")[0][0]
    left = read_database(oid, "shop_rollbackd_try", "postgres", "").remark.replace("'", "''")
    shop.sql(f"COMMENT ON DATABASE shop_rollbackd_try IS '{left}'")  # as a killed rehearsal leaves it
    assert {"shop_rollbackd_old_original", "shop_rollbackd_try"} <= {*finish(short.prune())}
    assert [row[0] for row in shop.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'")] == ["shop"]


def test_an_exported_copy_is_taken_in_elsewhere_and_restored(shop: Postgres, tmp_path: Path) -> None:
    adapter, file = layer(shop, tmp_path, "shop"), tmp_path / "shop.tar"
    first = finish(adapter.take("first"))
    finish(adapter.export_to("first", str(file)))
    assert file.stat().st_mode & 0o777 == 0o600
    shop.sql("TRUNCATE users", database="shop")
    other = layer(shop, tmp_path / "other", "shop")
    taken = finish(other.import_from(str(file)))
    assert (taken.release, taken.created, taken.why) == (first.release, first.created, "import")
    assert finish(other.import_from(str(file))).name == taken.name, "it is the same copy"
    finish(other.restore(taken.name, "by hand"))
    assert shop.sql("SELECT count(*) FROM users", database="shop") == [(100,)]


def test_an_export_that_is_damaged_anywhere_is_refused_and_nothing_of_it_kept(shop: Postgres, tmp_path: Path) -> None:
    adapter, file = layer(shop, tmp_path, "shop"), tmp_path / "shop.tar"
    finish(adapter.take("first"))
    finish(adapter.export_to("first", str(file)))
    whole = file.read_bytes()
    other = layer(shop, tmp_path / "other", "shop")
    for position in range(10, len(whole), len(whole) // 12):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(AdapterError, match=r"shop\.tar") as refused:
            finish(other.import_from(str(file)))
        assert refused.value.permanent
    for part in (b"", whole[: len(whole) // 2], whole + b"more", b"SELECT 1;"):
        file.write_bytes(part)
        with pytest.raises(AdapterError, match=r"shop\.tar"):
            finish(other.import_from(str(file)))
    file.write_bytes(whole)
    with pytest.raises(AdapterError, match="larger than `largest`"):
        finish(layer(shop, tmp_path / "other", "shop", largest=1000).import_from(str(file)))
    assert finish(other.snapshots()) == []
    assert not list((tmp_path / "other/scratch/store").glob("*"))
