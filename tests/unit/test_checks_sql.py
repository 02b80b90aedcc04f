"""The check of one value, asked of real databases: SQLite, and a PostgreSQL of its own."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import Check, CheckPlace
from rollbackd.checks.sql import SqlCheck, SqlSettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from tests.servers import free_port, postgres_server

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
COUNT = "SELECT count(*) FROM users"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE users (name TEXT)")
        db.executemany("INSERT INTO users VALUES (?)", [("ann",), ("bob",)])
        db.commit()
    return path


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A server of its own, with two users in a table; its `dsn`."""
    with postgres_server() as server:
        server.sql("create table users as select 'ann' name union select 'bob'")
        yield server.dsn()


async def ask(**settings: Any) -> CheckResult:
    place = CheckPlace("users", "shop", {}, Spawner(), SystemClock(), lambda: None, None)
    return await SqlCheck(SqlSettings.model_validate({"sql": COUNT, **settings}), place).run()


def test_it_follows_the_contract(file: Path) -> None:
    place = CheckPlace("users", "shop", {}, Spawner(), SystemClock(), lambda: None, None)
    assert isinstance(SqlCheck(SqlSettings(sql=COUNT, file=file), place), Check)


@pytest.mark.parametrize("server", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("bounds", "verdict", "said"),
    [
        ({}, GOOD, "answered 2 in"),
        ({"above": 0}, GOOD, "answered 2 in"),
        ({"above": 2}, BAD, "answered 2, wants more than 2"),
        ({"below": 3}, GOOD, "answered 2 in"),
        ({"below": 2}, BAD, "answered 2, wants less than 2"),
        ({"between": [2, 4]}, GOOD, "answered 2 in"),
        ({"between": [3, 4]}, BAD, "answered 2, wants 3 to 4"),
        ({"sql": "SELECT name FROM users", "above": 0}, UNKNOWN, "which is no number"),
        ({"sql": "SELECT name FROM users WHERE name = 'eve'"}, UNKNOWN, "no row of one value"),
        ({"sql": "SELECT nonsense FROM users"}, UNKNOWN, "could not ask"),
        ({"sql": "DELETE FROM users"}, UNKNOWN, "could not ask"),
        ({"within": "0s"}, BAD, "wants less than 0s"),
    ],
)
async def test_what_it_answers_is_judged(
    server: str, bounds: dict[str, Any], verdict: Verdict, said: str, file: Path, request: pytest.FixtureRequest
) -> None:
    where = {"file": str(file)} if server == "sqlite" else {"dsn": request.getfixturevalue("postgres")}
    result = await ask(**where, **bounds)
    assert (result.verdict, said in result.reason) == (verdict, True), result.reason
    assert (await ask(**where, above=1)).verdict is GOOD, "nothing was written"


async def test_who_is_not_there_or_broken_is_told_apart(file: Path, tmp_path: Path) -> None:
    gone = await ask(dsn=f"host=127.0.0.1 port={free_port()} dbname=x connect_timeout=2")
    assert gone.verdict is BAD, gone.reason
    missing = await ask(file=str(tmp_path / "none.db"))
    assert missing.verdict is UNKNOWN
    file.write_bytes(b"no database" * 1000)
    broken = await ask(file=str(file))
    assert broken.verdict is BAD
    assert "not a database" in broken.reason


async def test_a_query_that_does_not_end_is_ended(file: Path, postgres: str) -> None:
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
    for where in ({"file": str(file)}, {"dsn": postgres}):
        result = await ask(**where, sql=endless, timeout="1s")
        assert result.verdict is not GOOD, result.reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "which database"),
        ({"file": "/x", "dsn": "dbname=x"}, "which database"),
        ({"file": "x"}, "whole path"),
        ({"file": "/x", "password": {"env": "P"}}, "SQLite has no passwords"),
        ({"dsn": "dbname=x password=y"}, "would be shown"),
        ({"dsn": "postgresql://ann:secret@db/x"}, "would be shown"),
        ({"file": "/x", "between": [2, 1]}, "larger value first"),
        ({"file": "/x", "above": 2, "below": 1}, "no value is above"),
        ({"file": "/x", "above": float("inf")}, "finite"),
        ({"file": "/x", "within": "1m"}, "longer than `timeout`"),
    ],
)
def test_settings_that_cannot_be_right_say_why(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SqlSettings.model_validate({"sql": COUNT, **given})
