"""The adapter `alembic` with PostgreSQL: downgrades are rehearsed beside, and what they make is the owner's."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import finish, killed_at, lives, perform, planned
from tests.contract.alembic_worlds import PATIENT, Project, schema_layer, standard
from tests.contract.test_adapters_postgres import layer
from tests.servers import Postgres, postgres_server, wait_until
from tests.sweeps import swept

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        yield running


def test_a_schema_goes_back_in_the_owners_role_and_tells_what_is_lost(server: Postgres, tmp_path: Path) -> None:
    server.sql('CREATE ROLE "shop owner"', 'CREATE DATABASE shop OWNER "shop owner"')
    project = Project(tmp_path, f"postgresql+psycopg://postgres@/shop?host={server.socket}&port={server.port}")
    project.add("r1", None, 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))', "")
    project.add(
        "r2", "r1",
        'op.create_table("tags", sa.Column("name", sa.String(20)))\n'
        'op.execute("INSERT INTO tags VALUES (\'a\'), (\'b\')")\n'
        'op.execute("ALTER TABLE notes OWNER TO \\"shop owner\\"; ALTER TABLE tags OWNER TO \\"shop owner\\"")\n'
        'op.execute("ALTER TABLE alembic_version OWNER TO \\"shop owner\\"")',
        'op.rename_table("tags", "labels")\nop.create_table("back", sa.Column("id", sa.Integer))\n'
        'op.drop_table("notes")\nop.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))',
    )  # fmt: skip
    project.upgrade()
    server.sql("INSERT INTO notes VALUES (1), (2), (3)", database="shop")
    database = layer(server, tmp_path / "db", "shop")
    schema: Any = schema_layer(tmp_path, project, database, dialect="postgresql+psycopg")
    assert finish(schema.current(), PATIENT) == Release("r2")
    change = finish(planned(schema, Release("r1")), PATIENT)
    said = "\n".join(change.risks)
    assert not change.reversible
    assert "3 of 3 rows of notes go" in said
    assert "table tags goes" not in said
    assert "adds table back" in said
    assert finish(perform(schema, change), PATIENT) is Progress.DONE
    owners = server.sql("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'", database="shop")
    assert {name for name, _ in owners} == {"notes", "labels", "back", "alembic_version"}
    assert {owner for _, owner in owners} == {"shop owner"}
    assert server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'") == [("shop",)]
    assert [one.why for one in finish(database.snapshots(), PATIENT)] == ["before"]
    assert finish(schema.unfit(Release("r2")), PATIENT) == ("table tags is called labels now",)


# -- kills ------------------------------------------------------------------------------------------
class Shop:
    """A database at r3 of three migrations, made of one whose way back was planned once already."""

    def __init__(self, server: Postgres, path: Path, name: str) -> None:
        self.server, self.path, self.name = server, path, name

    def adapter(self) -> Any:
        database = layer(self.server, self.path / "db", self.name)
        return schema_layer(self.path, Project.at(self.path), database, dialect="postgresql+psycopg")

    def again(self, path: Path, name: str) -> "Shop":
        """The same, as another one."""
        shutil.copytree(self.path, path, ignore=shutil.ignore_patterns("locks"))
        self.server.sql(f"CREATE DATABASE {name} TEMPLATE {self.name}")
        return Shop(self.server, path, name)

    def change(self) -> Change:
        return finish(planned(self.adapter(), Release("r2")), PATIENT)

    def is_whole(self) -> None:
        """At r2, by one downgrade, and nothing is left beside it."""
        sql = self.server.sql
        assert sql("SELECT version_num FROM alembic_version", database=self.name) == [("r2",)]
        done = sql("SELECT count(*) FROM notes WHERE text = 'r3 is taken back'", database=self.name)
        assert done == [(1,)], "it was taken back once"
        assert sql("SELECT to_regclass('tags')", database=self.name) == [(None,)]
        assert sql(f"SELECT datname FROM pg_database WHERE datname LIKE '{self.name}%'") == [(self.name,)]


@pytest.fixture(scope="module")
def shop(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all tests, which is not to be changed."""
    path = tmp_path_factory.mktemp("shop")
    server.sql("CREATE DATABASE killed")
    project = Project(path, f"postgresql+psycopg://postgres@/killed?host={server.socket}&port={server.port}")
    standard(project)
    project.upgrade()
    server.sql("INSERT INTO notes (text) VALUES ('a'), ('b')", database="killed")
    first = Shop(server, path, "killed")
    first.change()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lives, "PATIENCE", PATIENT)
        yield first
    for (name,) in server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'killed%'"):
        server.sql(f"DROP DATABASE {name} WITH (FORCE)")


def test_killed_at_each_boundary_the_next_life_ends_it_right(shop: Shop, tmp_path: Path) -> None:
    """At three boundaries, since one has fifty, of seconds each: tests/sweeps.py has all, in both ways."""
    whole = shop.again(tmp_path / "whole", "killed_whole")
    change = whole.change()
    passed: list[str] = []
    boundary.hook = passed.append
    try:
        finish(perform(whole.adapter(), change), PATIENT)
    finally:
        boundary.hook = lambda _name: None
    whole.is_whole()
    moving = passed.index("process.spawned", passed.index("alembic.rehearsed"))
    chosen = [(passed.index("alembic.kept"), False), (moving, True), (passed.index("alembic.moved"), False)]
    every = [(n, descending) for n in range(len(passed)) for descending in (False, True)]
    for n, descending in swept(every, chosen):
        one = shop.again(tmp_path / f"{n}{descending}", f"killed_{n}_{descending}".lower())
        change = one.change()
        assert killed_at(n + 1, lambda w=one, c=change: perform(w.adapter(), c), descending=descending), passed[n]  # type: ignore[misc]
        assert finish(perform(one.adapter(), change), PATIENT) is Progress.DONE, passed[n]
        one.is_whole()


SLOW = "op.execute('SELECT pg_sleep(2)')"


def test_a_server_that_crashes_under_a_migration_on_the_copy_costs_another_try(shop: Shop, tmp_path: Path) -> None:
    shop = shop.again(tmp_path / "crashed", "killed_crashed")
    file = Project.at(shop.path).path / "migrations/versions/r3.py"
    file.write_text(f"{file.read_text()}    {SLOW}\n")
    change, passed = shop.change(), list[str]()

    def crash() -> None:
        running = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(2)' AND state = 'active'"
        wait_until(lambda: bool(shop.server.sql(running)), "the migration")
        shop.server.crash()
        shop.server.start()
        passed.append("crashed")

    def hook(name: str) -> None:
        passed.append(name)
        if name == "process.spawned" and "alembic.proved" in passed and "crash" not in passed:
            passed.append("crash")
            threading.Thread(target=crash).start()

    boundary.hook = hook
    try:
        with pytest.raises(AdapterError) as failed:
            finish(shop.adapter().apply(change), PATIENT)
        assert not failed.value.permanent
        wait_until(lambda: "crashed" in passed, "the server's next start")
        assert finish(perform(shop.adapter(), change, retries=3), PATIENT) is Progress.DONE
    finally:
        boundary.hook = lambda _name: None
    shop.is_whole()


def test_a_server_that_is_down_while_a_way_is_tried_says_nothing_of_the_way(shop: Shop, tmp_path: Path) -> None:
    """Who connects then gets an error without a code."""
    shop = shop.again(tmp_path / "down", "killed_down")
    kept = list(shop.path.rglob("rehearsals/*.json"))
    assert len(kept) == 1
    kept[0].unlink()
    passed = list[str]()

    def hook(name: str) -> None:
        if name == "alembic.proved" or passed:
            passed.append(name)
        if name == "process.before" and passed.count(name) == 2:
            shop.server.crash()
        if name == "process.ended" and shop.server.process is None:
            shop.server.start()

    boundary.hook = hook
    try:
        with pytest.raises(AdapterError, match="went away") as failed:
            shop.change()
    finally:
        boundary.hook = lambda _name: None
    assert not failed.value.permanent, "it counts as no way back"
    assert not kept[0].exists(), "and it is believed for minutes"
