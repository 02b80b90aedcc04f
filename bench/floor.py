"""What nothing can be faster than, measured in the same run: one durable commit, one answer of a bare handler."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from bench.alerts import alert, body
from bench.host import free_port, post, serves, started, wait_until
from bench.measure import middle

_TIMES = 200
_BODY = "x" * 700
"""As long as a fact often is."""


def commits(directory: Path, rows: int = 1, times: int = _TIMES) -> float:
    """Seconds of one commit of so many rows that is on disk when it returns, as the journal's are; the median."""
    with closing(sqlite3.connect(directory / "floor.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number INTEGER PRIMARY KEY, body TEXT)")
        return middle([_commit(connection, rows) for _ in range(times)])


def _commit(connection: sqlite3.Connection, rows: int) -> float:
    begun = time.perf_counter()
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO kept (body) VALUES (?)", [(_BODY,)] * rows)
    connection.execute("COMMIT")
    return time.perf_counter() - begun


def answers(root: Path, times: int = _TIMES) -> float:
    """Seconds of a POST of one alert to a bare handler, over a connection of its own as the rows post; the median."""
    port = free_port()
    with started(["-m", "bench.bare", str(port)], root, "bare.log") as bare:
        wait_until(lambda: serves(port, bare, root / "bare.log"), "the bare handler")
        took = []
        for number in range(times):
            content = body([alert(number, number)])
            begun = time.perf_counter()
            post(port, content)
            took.append(time.perf_counter() - begun)
    return middle(took)


def parsed(content: bytes) -> float:
    """Seconds of parsing this as JSON; the median of three."""
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        json.loads(content)
        took.append(time.perf_counter() - begun)
    return middle(took)
