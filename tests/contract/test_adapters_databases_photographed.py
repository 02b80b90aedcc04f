"""What a restore or a downgrade changes is what its plan told: photographs of databases, of those beside them, of what
the server keeps of all, and of the files around.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rollbackd.model import Change, Progress, Release
from rollbackd.testing import finish, perform, planned
from tests.contract.alembic_worlds import PATIENT, Project, schema_layer, standard
from tests.contract.test_adapters_postgres import layer as postgres_layer
from tests.contract.test_adapters_sqlite import layer as sqlite_layer
from tests.photograph import Photograph, differences, photograph
from tests.servers import Postgres, postgres_server

pytestmark = pytest.mark.timeout(600)
STRANGER = 65534
LINEAGE = "rollbackd_lineage"


def around(path: Path, *without: str) -> Photograph:
    """All files of a world but the adapter's scratch and locks."""
    return photograph(path, without=[path / name for name in ("scratch", "locks", *without)])


# -- SQLite -------------------------------------------------------------------------------------
def held(file: Path) -> dict[str, object]:
    """All that a SQLite database holds, and how it is set."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        db.text_factory = bytes
        tables = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()
        names = [name.decode() for kind, name, *_ in tables if kind == b"table"]
        rows = {name: sorted(map(repr, db.execute(f'SELECT * FROM "{name}"'))) for name in names}
        pragmas = ("user_version", "application_id", "auto_vacuum", "encoding", "page_size", "journal_mode")
        told = {name: db.execute(f"PRAGMA {name}").fetchone() for name in pragmas}
        return {**rows, **told, "schema": [one for one in tables if one[1] != LINEAGE.encode()]}


@contextmanager
def somebody_reads(file: Path) -> Iterator[None]:
    """Another process has it open: in this one, each photograph would drop the locks of whoever reads."""
    argv = [sys.executable, "-c", _READS, str(file)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield
        child.stdin.close()


_READS = """
import sqlite3, sys
reader = sqlite3.connect(sys.argv[1])
reader.execute("SELECT count(*) FROM notes").fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.needs("root")
@given(
    mode=st.sampled_from(["wal", "delete", "persist", "truncate"]),
    pragmas=st.sampled_from(
        [
            {},
            {"encoding": "'UTF-16le'", "auto_vacuum": 1},
            {"auto_vacuum": 2, "page_size": 8192},
            {"application_id": 252006673},
        ]
    ),
    owner=st.sampled_from([0, STRANGER]),
    group=st.sampled_from([0, 33]),
    bits=st.sampled_from([0o600, 0o640, 0o664]),
    above=st.sampled_from([0o755, 0o2775, 0o1777]),
    note=st.booleans(),
    read=st.booleans(),
)
@settings(
    max_examples=4,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_sqlite_database(
    tmp_path: Path,
    mode: str,
    pragmas: Mapping[str, object],
    owner: int,
    group: int,
    bits: int,
    above: int,
    note: bool,
    read: bool,
) -> None:
    path = tmp_path / "world"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    file, other = path / "app.db", path / "other.db"
    for one in (file, other):
        with closing(sqlite3.connect(one)) as db, db:
            for name, value in pragmas.items():
                db.execute(f"PRAGMA {name} = {value}")
            db.execute(f"PRAGMA journal_mode = {mode}")
            db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT, raw BLOB)")
            db.execute('CREATE TABLE "odd \'name" (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID')
            db.execute("CREATE VIRTUAL TABLE found USING fts5(words)")
            db.execute("CREATE TRIGGER told AFTER INSERT ON notes BEGIN INSERT INTO found VALUES (new.text); END")
            db.execute("CREATE VIEW many AS SELECT count(*) AS n FROM notes")
            db.execute("INSERT INTO notes (text, raw) VALUES ('\udcff', x'ff00')".replace("\udcff", "a"))
            db.execute("PRAGMA user_version = 7")
    (path / "app.db.bak").write_text("of nobody's business\n")
    (path / "link.db").symlink_to("app.db")
    path.chmod(above)
    os.chown(path, STRANGER, 33)
    os.chown(file, owner, group)
    file.chmod(bits)
    if note:
        os.setxattr(file, "user.note", b"1")
    adapter = sqlite_layer(path)
    first, there = finish(adapter.take("first")), held(file)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("INSERT INTO notes (text) VALUES ('later')")
        db.execute("PRAGMA user_version = 8")
        db.execute("CREATE TABLE later (x)")
    before, here, beside = around(path), held(file), held(other)
    own = {str(path / f"{name}.db{suffix}") for name in ("app", "other") for suffix in ("-wal", "-shm", "-journal")}

    def gone_to(target: str, key: str, wanted: Mapping[str, object]) -> Change:
        seen = around(path)
        change = finish(planned(sqlite_layer(path), Release(target), key))
        finish(sqlite_layer(path).ready())
        assert {*differences(seen, around(path))} <= own
        assert finish(perform(sqlite_layer(path), change)) is Progress.DONE
        found = {at: what for at, what in differences(before, around(path)).items() if at not in own}
        assert {at: {*what} - {"content"} for at, what in found.items()} in ({}, {str(file): set()})
        assert held(file) == wanted
        assert held(other) == beside
        assert any(LINEAGE in risk for risk in change.risks)
        return change

    with somebody_reads(file if read else other):
        gone_to(first.release, "contract-1/0/layer", there)
        (kept,) = [one for one in finish(adapter.snapshots()) if one.why == "before"]
        gone_to(kept.release, "contract-2/0/layer", here)


# -- PostgreSQL ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server("max_prepared_transactions=5") as running:
        yield running


def dumped(server: Postgres, database: str, *without: str) -> list[str]:
    """All that `pg_dump` says of a database, with its data, its owner and its rights; without where numbers stand.

    :param without: tables that are left out.
    """
    left_out = [f"--exclude-table={name}" for name in without]
    argv = ["pg_dump", "--create", "--inserts", *left_out, "-d", server.dsn(database)]
    lines = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout.decode().splitlines()
    passed = ("\\restrict", "\\unrestrict", "--", "SELECT pg_catalog.setval", "COMMENT ON DATABASE")
    return sorted(line for line in lines if line and not line.startswith(passed) and "rollbackd: " not in line)


def of_server(server: Postgres) -> dict[str, object]:
    """What a server keeps of all of its databases, and who may do what; by the question."""
    asked = {
        "roles": "SELECT * FROM pg_authid ORDER BY oid",
        "members": "SELECT * FROM pg_auth_members ORDER BY roleid, member",
        "settings": "SELECT datname, rolname, setconfig FROM pg_db_role_setting LEFT JOIN pg_roles r ON setrole = r.oid"
        " LEFT JOIN pg_database d ON setdatabase = d.oid WHERE datname IS NULL OR datname NOT LIKE 'shop%' ORDER BY 1, 2",
        "tablespaces": "SELECT spcname, spcowner, spcacl::text FROM pg_tablespace ORDER BY 1",
        "configuration": "SELECT name, setting, sourcefile FROM pg_settings WHERE name NOT LIKE '%_lsn' ORDER BY 1",
        "slots": "SELECT slot_name FROM pg_replication_slots",
        "publications": "SELECT * FROM pg_publication",
    }
    return {name: list(map(repr, server.sql(sql))) for name, sql in asked.items()}


def of_databases(server: Postgres) -> dict[str, tuple[object, ...]]:
    """Each database, with what is set of it."""
    rows = server.sql(
        "SELECT datname, d.oid, datdba, encoding, datcollate, datctype, datistemplate, datallowconn, datconnlimit,"
        " dattablespace, ARRAY(SELECT unnest(datacl)::text ORDER BY 1), shobj_description(d.oid, 'pg_database')"
        " FROM pg_database d"
    )
    return {name: tuple(rest) for name, *rest in rows}


def files_of(server: Postgres) -> dict[str, tuple[str, ...]]:
    """What a server is configured by, and who owns what is at the top of its data."""
    tops = ("*.conf", "PG_VERSION", "*.signal")
    seen = {path: photograph(path) for top in tops for path in server.data.glob(top)}
    return {str(path): tuple(map(repr, one.values())) for path, one in seen.items()}


@pytest.fixture
def shop(server: Postgres) -> Iterator[Postgres]:
    """A database of odd settings, and another one."""
    server.sql(
        "CREATE ROLE keeper",
        "CREATE ROLE reader LOGIN PASSWORD 'x' IN ROLE keeper",
        "CREATE DATABASE shop TEMPLATE template0 OWNER keeper LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'UTF8'",
        "CREATE DATABASE shopping OWNER reader",
        "COMMENT ON DATABASE shop IS 'of people'",
        "REVOKE CONNECT ON DATABASE shop FROM PUBLIC",
        "GRANT CONNECT ON DATABASE shop TO reader",
        "ALTER DATABASE shop SET work_mem = '7MB'",
        "ALTER ROLE reader IN DATABASE shop SET statement_timeout = '3s'",
        "ALTER ROLE reader SET search_path = 'x'",
        "ALTER DATABASE shop CONNECTION LIMIT 90",
    )
    for database in ("shop", "shopping"):
        server.sql(
            "CREATE TABLE notes (id serial PRIMARY KEY, text text)",
            "ALTER TABLE notes OWNER TO keeper",
            "GRANT SELECT ON notes TO reader",
            "INSERT INTO notes (text) SELECT 'x' FROM generate_series(1, 20)",
            "CREATE MATERIALIZED VIEW many AS SELECT count(*) FROM notes",
            "SELECT lo_from_bytea(4711, 'picture')",
            database=database,
        )
    yield server
    for (name,) in server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'"):
        server.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    server.sql("DROP ROLE reader", "DROP ROLE keeper")


def test_a_database_of_postgres(shop: Postgres, tmp_path: Path) -> None:
    def made() -> Any:
        return postgres_layer(shop, tmp_path, "shop")

    first, there = finish(made().take("first")), dumped(shop, "shop")
    shop.sql("INSERT INTO notes (text) VALUES ('later')", "CREATE TABLE later (x int)", database="shop")
    here, beside = dumped(shop, "shop"), dumped(shop, "shopping")
    own, of_all, files = of_databases(shop), of_server(shop), files_of(shop)

    def gone_to(target: str, key: str, wanted: list[str]) -> Change:
        before = of_databases(shop)
        change = finish(planned(made(), Release(target), key))
        finish(made().ready())
        assert of_databases(shop) == before
        assert finish(perform(made(), change)) is Progress.DONE
        after = of_databases(shop)
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)} - {"shop"}
        untold = {name for name in changed if not any(name in risk for risk in change.risks)}
        assert not untold, f"{untold} changed, and the plan did not tell it ({change.risks})"
        assert dumped(shop, "shop") == wanted
        assert dumped(shop, "shopping") == beside
        # all that is set of it, but its number and the line about its lineage
        assert after["shop"][1:-1] == own["shop"][1:-1]
        assert str(after["shop"][-1]).splitlines()[0] == "of people"
        assert of_server(shop) == of_all
        assert files_of(shop) == files
        assert {*differences(seen, around(tmp_path))} == set()
        return change

    seen = around(tmp_path)
    change = gone_to(first.release, "contract-1/0/layer", there)
    gone_to(change.before.id, "contract-2/0/layer", here)


# -- alembic ------------------------------------------------------------------------------------
def test_a_schema_in_sqlite(tmp_path: Path) -> None:
    database = tmp_path / "db"
    database.mkdir()
    file = database / "app.db"
    project = Project(tmp_path, f"sqlite:///{file}")
    standard(project)
    project.upgrade()
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("INSERT INTO notes (text, mood) VALUES ('a', 'good'), ('b', NULL)")
        db.execute("CREATE TABLE of_others (x)")
        db.execute("INSERT INTO of_others VALUES (1)")
        db.execute("PRAGMA user_version = 7")
    shutil.rmtree(project.path / "migrations/__pycache__", ignore_errors=True)
    shutil.rmtree(project.path / "migrations/versions/__pycache__", ignore_errors=True)
    os.chown(file, STRANGER, 33)
    file.chmod(0o640)

    def made() -> Any:
        return schema_layer(tmp_path, project, sqlite_layer(database))

    def seen() -> Photograph:
        return photograph(tmp_path, without=[tmp_path / "schema", database / "scratch", database / "locks"])

    before, old = seen(), held(file)
    change = finish(planned(made(), Release("r2")), PATIENT)
    finish(made().ready(), PATIENT)
    assert differences(before, seen()) == {}
    assert finish(perform(made(), change), PATIENT) is Progress.DONE
    assert differences(before, seen()) == {str(file): ("content",)}
    new, said = held(file), "\n".join(change.risks)
    changed = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    assert changed == {"notes", "tags", "alembic_version", "schema"}
    assert {"tags", "notes"} <= {*said.replace(",", " ").split()}
    assert new["of_others"] == old["of_others"]


def test_a_schema_in_postgres(shop: Postgres, tmp_path: Path) -> None:
    project = Project(tmp_path, f"postgresql+psycopg://postgres@/shop?host={shop.socket}&port={shop.port}")
    project.add("r1", None, 'op.create_table("tags", sa.Column("name", sa.String(20)))', 'op.drop_table("tags")')
    project.add("r2", "r1", 'op.add_column("tags", sa.Column("n", sa.Integer))', 'op.drop_column("tags", "n")')
    project.upgrade()
    shop.sql("ALTER TABLE tags OWNER TO keeper", "ALTER TABLE alembic_version OWNER TO keeper", database="shop")
    for cache in (project.path / "migrations").rglob("__pycache__"):
        shutil.rmtree(cache)

    def made() -> Any:
        database = postgres_layer(shop, tmp_path / "db", "shop")
        return schema_layer(tmp_path, project, database, dialect="postgresql+psycopg")

    def of_all() -> tuple[object, ...]:
        files = photograph(project.path)
        return of_server(shop), of_databases(shop), files_of(shop), dumped(shop, "shopping"), files

    def whole() -> tuple[object, ...]:
        return of_all(), dumped(shop, "shop", "tags", "alembic_version")

    before, old = whole(), dumped(shop, "shop")
    change = finish(planned(made(), Release("r1")), PATIENT)
    assert (whole(), dumped(shop, "shop")) == (before, old)
    assert finish(perform(made(), change), PATIENT) is Progress.DONE
    assert whole() == before
    assert dumped(shop, "shop") != old
    assert "tags" in "\n".join(change.risks)
