"""The adapter `pgbouncer` on a real PgBouncer before a real PostgreSQL."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rollbackd.testing import KEY, BracketContract, BracketWorld, finish, place
from rollbackd_adapters.pgbouncer import PgbouncerAdapter, PgbouncerSettings
from tests.servers import Postgres, pgbouncer, postgres_server


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        running.sql("CREATE ROLE app LOGIN", "CREATE DATABASE shop OWNER app")
        yield running


@pytest.fixture(scope="module")
def console(server: Postgres) -> Iterator[str]:
    with pgbouncer(server, "shop") as dsn:
        yield dsn


def layer(console: str, path: Path, **settings: Any) -> PgbouncerAdapter:
    given = {"adapter": "pgbouncer", "dsn": console, "database": "shop", "pause_within": "500ms", **settings}
    return PgbouncerAdapter(PgbouncerSettings.model_validate(given), place(path))


def client(console: str) -> Any:
    return psycopg.connect(console.replace("dbname=pgbouncer user=boss", "dbname=shop user=app"), connect_timeout=20)


class PgbouncerWorld(BracketWorld):
    def __init__(self, console: str, path: Path) -> None:
        self.console = console
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        finish(self.adapter().leave(KEY))

    def adapter(self) -> PgbouncerAdapter:
        return layer(self.console, self.path)

    def inside(self) -> bool:
        with psycopg.connect(self.console, autocommit=True) as connection:
            cursor = connection.execute("SHOW DATABASES")
            names = [column.name for column in cursor.description or ()]
            return any(row[names.index("paused")] for row in cursor if row[0] == "shop")


class TestPgbouncer(BracketContract):
    @pytest.fixture(autouse=True)
    def _served(self, console: str) -> None:
        self.console = console

    def make_world(self, path: Path) -> BracketWorld:
        return PgbouncerWorld(self.console, path)


def test_a_transaction_that_does_not_end_is_ended_and_who_comes_waits(console: str, tmp_path: Path) -> None:
    adapter = layer(console, tmp_path)
    answers: list[Any] = []
    with client(console) as stuck:
        stuck.execute("SELECT 1")  # a transaction that stays open
        finish(adapter.enter(KEY))
        with pytest.raises(psycopg.OperationalError):
            stuck.execute("SELECT 1")

    def come() -> None:
        with client(console) as late:
            answers.append(late.execute("SELECT 2").fetchone())

    thread = threading.Thread(target=come)
    thread.start()
    thread.join(timeout=0.3)
    assert answers == []
    finish(adapter.leave(KEY))
    thread.join(timeout=20)
    assert answers == [(2,)]


def test_ready_says_what_it_does_not_know(console: str, tmp_path: Path) -> None:
    assert list(finish(layer(console, tmp_path).ready())) == []
    (found,) = finish(layer(console, tmp_path, database="other").ready())
    assert "has no database other" in found.text
    (found,) = finish(layer(console.replace("port=", "port=1"), tmp_path).ready())
    assert "PgBouncer" in found.text
