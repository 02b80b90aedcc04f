"""The adapter `postgres` on a real PostgreSQL: the contract."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rollbackd.model import Progress, Release
from rollbackd.testing import AdapterContract, World, finish, killed_at, perform, place, planned
from rollbackd_adapters.postgres import PostgresAdapter
from rollbackd_adapters.postgres.catalogue import read_database
from rollbackd_adapters.postgres.settings import PostgresSettings
from tests.servers import Postgres, postgres_server

_NUMBERS = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server("max_prepared_transactions=5") as running:
        yield running


def layer(server: Postgres, path: Path, database: str, user: str = "postgres", **settings: Any) -> Any:
    given = {"adapter": "postgres", "dsn": server.dsn(database, user), "floor": 0, "volumes": [str(path)], **settings}
    return PostgresAdapter(PostgresSettings.model_validate(given), place(path))


class PostgresWorld(World):
    def __init__(self, server: Postgres, path: Path) -> None:
        self.server = server
        self.path = path
        self.name = f"shop{next(_NUMBERS)}"
        path.mkdir(parents=True, exist_ok=True)
        server.sql(f"CREATE DATABASE {self.name}")
        server.sql(
            "CREATE TABLE notes (id serial PRIMARY KEY, text text)",
            "INSERT INTO notes (text) SELECT 'x' FROM generate_series(1, 20)",
            database=self.name,
        )
        self.first = finish(self.adapter().take("first"))
        server.sql("INSERT INTO notes (text) SELECT 'y' FROM generate_series(1, 20)", database=self.name)
        self.prepared = False

    def adapter(self) -> Any:
        return layer(self.server, self.path, self.name, timeout="20s", swap_within="500ms", closed="400ms")

    def present(self) -> str:
        rows = self.server.sql(
            "SELECT d.oid, datname, 'postgres', shobj_description(d.oid, 'pg_database') FROM pg_database d"
            f" WHERE datname = '{self.name}'"
        )
        return read_database(*rows[0]).lineage.id

    def target(self) -> Release:
        return Release(self.first.release)

    def moved_by_somebody(self) -> None:
        other = finish(self.adapter().take("other"))
        finish(self.adapter().restore(other.name, "by hand"))

    def everything(self) -> object:
        return (
            self.server.sql(
                "SELECT d.oid, datname, datacl::text, shobj_description(d.oid, 'pg_database') FROM pg_database d"
                f" WHERE datname LIKE '{self.name}%' ORDER BY 1"
            ),
            self.server.sql("SELECT * FROM notes ORDER BY 1", database=self.name),
            sorted(path.name for path in self.path.iterdir()),
        )

    def break_it(self) -> None:
        (self.path / "scratch/store/first/data/toc.dat").unlink()

    def hang(self) -> None:
        """A prepared transaction keeps the names from changing for ever."""
        self.server.sql("BEGIN; INSERT INTO notes (text) VALUES ('z'); PREPARE TRANSACTION 'stuck'", database=self.name)


class TestPostgres(AdapterContract):
    @pytest.fixture(autouse=True)
    def _served(self, server: Postgres) -> Iterator[None]:
        self.server = server
        yield
        for (name,) in server.sql("SELECT gid FROM pg_prepared_xacts"):
            database = server.sql(f"SELECT database FROM pg_prepared_xacts WHERE gid = '{name}'")[0][0]
            server.sql(f"ROLLBACK PREPARED '{name}'", database=database)
        for (name,) in server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'"):
            server.sql(f'DROP DATABASE "{name}" WITH (FORCE)')

    def make_world(self, path: Path) -> World:
        return PostgresWorld(self.server, path)

    @pytest.mark.parametrize("descending", [False, True], ids=["alone", "with all it started"])
    @pytest.mark.timeout(400)
    def test_killed_at_each_boundary_it_ends_right_in_the_next_life(self, tmp_path: Path, descending: bool) -> None:
        """The contract's own, where each of both looks at every third boundary: a restore has forty, of seconds each.

        Those of our own effects are all in `test_adapters_postgres_swap.py`, under writers.
        """
        for n in count(2 if descending else 1, 3):
            world = self.make_world(tmp_path / str(n))
            change = finish(planned(world.adapter(), world.target()))
            survived = not killed_at(n, lambda w=world, c=change: perform(w.adapter(), c), descending=descending)  # type: ignore[misc]
            assert finish(perform(world.adapter(), change)) is Progress.DONE, f"killed at boundary {n}"
            assert world.present() == change.after.id, f"killed at boundary {n}"
            if survived:
                break
