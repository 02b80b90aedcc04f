"""Databases of PostgreSQL as people have them: what they come back as, whatever is in them and whatever they are called."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.testing import finish, perform, planned
from tests.contract.test_adapters_postgres import layer
from tests.servers import Postgres, postgres_server, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server("wal_level=logical") as running:
        running.sql("CREATE ROLE app LOGIN", "CREATE ROLE keeper LOGIN CREATEDB")
        running.sql("GRANT app, pg_signal_backend, pg_read_all_settings TO keeper")
        yield running


def keeper(server: Postgres, path: Path, name: str, **settings: Any) -> Any:
    return layer(server, path, name, "keeper", **settings)


def databases(server: Postgres) -> set[str]:
    """All but the server's own."""
    return {row[0] for row in server.sql("SELECT datname FROM pg_database")} - {"postgres", "template0", "template1"}


def test_what_the_server_prints_otherwise_the_second_time_and_what_was_stale_is_no_harm(
    server: Postgres, tmp_path: Path
) -> None:
    """Else no copy of such a database could ever be restored."""
    server.sql("CREATE DATABASE odd OWNER app IS_TEMPLATE true")
    server.sql(
        "CREATE DOMAIN mood AS varchar(9) CHECK (VALUE IN ('good', 'bad'))",
        "CREATE TABLE orders (id int, status varchar(20) CHECK (status IN ('new', 'sent')), mood mood)",
        "CREATE INDEX open ON orders (id) WHERE status NOT IN ('sent', 'lost')",
        "CREATE VIEW sent AS SELECT id FROM orders WHERE status IN ('sent', 'lost')",
        "INSERT INTO orders VALUES (1, 'new', 'good')",
        "CREATE MATERIALIZED VIEW totals AS SELECT id FROM orders",
        "CREATE MATERIALIZED VIEW later AS SELECT id FROM orders WITH NO DATA",
        "INSERT INTO orders VALUES (2, 'sent', 'bad')",
        "CREATE SEQUENCE small AS smallint",
        "SELECT setval('small', 32000)",
        database="odd",
        user="app",
    )
    server.sql("ALTER DATABASE odd SET default_transaction_read_only = on")
    adapter = keeper(server, tmp_path, "odd")
    finish(adapter.take("first"))
    assert list(finish(adapter.rehearse("first"))) == []
    finish(adapter.restore("first", "by hand"))
    assert server.sql("SELECT id FROM totals ORDER BY id", database="odd") == [(1,), (2,)], "made anew"
    assert finish(adapter.lost()) == []
    kept = "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase WHERE datname = 'odd'"
    assert server.sql(kept) == [(["default_transaction_read_only=on"],)]
    assert server.sql("SELECT datistemplate FROM pg_database WHERE datname = 'odd'") == [(True,)]
    ((last,),) = server.sql("SELECT last_value FROM small", database="odd")
    assert 32000 < last < 32767, "it is not used up by what is left out"
    finish(keeper(server, tmp_path, "odd", keep_old="1ms").prune())
    assert databases(server) == {"odd"}
    server.sql("ALTER DATABASE odd IS_TEMPLATE false", "DROP DATABASE odd")


@pytest.mark.parametrize("name", ["my.shop", "z" * 39, "new\nline' é\"" * 4])
def test_whatever_it_is_called_what_was_replaced_is_found_again(server: Postgres, tmp_path: Path, name: str) -> None:
    quoted = name.replace('"', '""')
    server.sql(f'CREATE DATABASE "{quoted}" OWNER app')
    server.sql("CREATE TABLE notes AS SELECT 1 AS id", database=name, user="app")
    adapter = keeper(server, tmp_path, name)
    first = finish(adapter.take("first"))
    server.sql("INSERT INTO notes VALUES (2)", database=name, user="app")
    for key in ("one", "two"):
        finish(adapter.restore("first", key))
    for goal, rows in (("original", 2), (first.release, 1)):
        change = finish(planned(adapter, Release(goal), f"{goal}/0/layer"))
        assert finish(perform(adapter, change)) is Progress.DONE
        assert server.sql("SELECT count(*) FROM notes", database=name) == [(rows,)]
    finish(keeper(server, tmp_path, name, keep_old="1ms").prune())
    assert databases(server) == {name}
    server.sql(f'DROP DATABASE "{quoted}"')


def test_bytes_of_no_encoding_come_back(server: Postgres, tmp_path: Path) -> None:
    server.sql("CREATE DATABASE raw OWNER app TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    text = "chr(255) || chr(10) || '\\.'"
    server.sql(f"CREATE TABLE notes AS SELECT 1 AS id, {text} AS text", database="raw", user="app")
    with pytest.raises(AdapterError, match="newest text of notes is no text in UTF-8; name another column") as failed:
        finish(keeper(server, tmp_path, "raw", loss={"notes": "text"}).take("first"))
    assert failed.value.permanent
    adapter = keeper(server, tmp_path, "raw", loss={"notes": "id"})
    finish(adapter.take("first"))
    server.sql("INSERT INTO notes VALUES (2, chr(254))", database="raw", user="app")
    finish(adapter.restore("first", "by hand"))
    assert server.sql(f"SELECT text = {text} FROM notes", database="raw", user="app") == [(True,)]
    (lost,) = finish(adapter.lost(export=True))
    assert Path(lost.lines[-1].removeprefix("written to ")).read_bytes() == b"id,text\n2,\xfe\n"
    server.sql("DROP DATABASE raw", "DROP DATABASE raw_rollbackd_old_original")


def test_a_subscription_stays_with_what_is_replaced(server: Postgres, tmp_path: Path) -> None:
    """Two of one name would take the same changes; and a database that has one cannot be dropped."""
    server.sql("CREATE DATABASE sender", "CREATE DATABASE taker")
    notes = "CREATE TABLE notes (id int PRIMARY KEY)"
    server.sql(notes, "CREATE PUBLICATION all_notes FOR TABLE notes", database="sender")
    server.sql("SELECT pg_create_logical_replication_slot('mine', 'pgoutput')", database="sender")
    sender = server.dsn("sender").replace("'", "")
    server.sql(
        notes,
        f"CREATE SUBSCRIPTION mine CONNECTION '{sender}' PUBLICATION all_notes WITH (create_slot = false)",
        database="taker",
    )
    try:
        adapter = layer(server, tmp_path, "taker", allow=["subscriptions"])
        finish(adapter.take("first"))
        (schema,) = tmp_path.rglob("first/schema.sql")
        assert "SUBSCRIPTION" not in schema.read_text(), "its password would be in it"
        assert list(finish(adapter.rehearse("first"))) == []
        assert databases(server) == {"sender", "taker"}, "the rehearsal left something"
        finish(adapter.restore("first", "by hand"))
        where = "SELECT datname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid"
        assert server.sql(where) == [("taker_rollbackd_old_original",)]
    finally:
        for (name,) in server.sql("SELECT datname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid"):
            server.sql(
                "ALTER SUBSCRIPTION mine DISABLE",
                "ALTER SUBSCRIPTION mine SET (slot_name = NONE)",
                "DROP SUBSCRIPTION mine",
                database=name,
            )
        wait_until(lambda: not server.sql("SELECT FROM pg_replication_slots WHERE active"), "the slot's end")
        server.sql("SELECT pg_drop_replication_slot('mine')")
        for name in databases(server):
            server.sql(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_room_on_the_volume_of_a_tablespace_counts(server: Postgres, tmp_path: Path) -> None:
    elsewhere = server.socket / "elsewhere"
    elsewhere.mkdir()
    if os.geteuid() == 0:
        shutil.chown(elsewhere, "postgres", "postgres")
    server.sql(f"CREATE TABLESPACE elsewhere OWNER app LOCATION '{elsewhere}'", "CREATE DATABASE far OWNER app")
    server.sql("CREATE TABLE notes (id int) TABLESPACE elsewhere", database="far", user="app")
    adapter = keeper(server, tmp_path, "far", volumes=[])
    assert elsewhere in finish(adapter._readiness.watched())
    server.sql("DROP DATABASE far", "DROP TABLESPACE elsewhere")
