"""A SQLite database of 1 GiB taken back while it is in use, against `sqlite3 FILE ".restore COPY"` of the same.

Ours reads the copy's hash, and keeps what is there, which by hand would be a copy more; both are on disk at the end.
The data do not compress away. In turns; dirty pages are written out before each.
"""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from bench.host import BenchError
from bench.measure import Row, Sizes, middle, span
from rollbackd.testing import finish, place
from rollbackd_adapters.sqlite import SqliteAdapter
from rollbackd_adapters.sqlite.settings import SqliteSettings

MOST = 1.3
"""Of the time that `.restore` takes."""
_ROW = 2**16
_ROUNDS = 3
_LIMIT = timedelta(minutes=10)


def measure(root: Path, sizes: Sizes) -> Row:
    """The row."""
    program = shutil.which("sqlite3")
    if program is None:
        raise BenchError("sqlite3 is missing; `make servers` installs it")
    size = sizes.database // 2
    root.mkdir(parents=True, exist_ok=True)
    file = root / "app.db"
    _make(file, size)
    settings = {"adapter": "sqlite", "file": str(file), "room": 0, "keep": 1}
    layer = SqliteAdapter(SqliteSettings.model_validate(settings), place(root))
    ratios, seconds = [], []
    for number in range(min(sizes.rounds, _ROUNDS)):
        copy = finish(layer.take(f"copy-{number}"), _LIMIT)
        assert list(finish(layer.verify(copy.name), _LIMIT)) == []
        by_hand = root / "scratch/store" / copy.name / "data.sqlite"
        argv = [program, str(file), f".restore {by_hand}"]
        theirs = _timed(lambda argv=argv: subprocess.run(argv, check=True, timeout=600))  # type: ignore[misc]
        ours = _timed(lambda name=copy.name: finish(layer.restore(name, f"bench-{name}"), _LIMIT))  # type: ignore[misc]
        ratios.append(ours / theirs)
        seconds.append((theirs, ours))
        shutil.rmtree(root / "scratch/store")
    theirs, ours = (middle([row[column] for row in seconds]) for column in range(2))
    return Row(
        what=f"a SQLite database of {size // 2**20:,} MiB taken back, what was there kept",
        measured=f"{middle(ratios):.2f}",
        floor=f'1, {theirs:.1f} s of sqlite3 ".restore"',
        rest=f"{ours:.1f} s; rounds {span(ratios, '.2f')}",
        must=f"<= {MOST}",
        ok=middle(ratios) <= MOST,
    )


def _make(file: Path, size: int) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE blobs (id INTEGER PRIMARY KEY, data BLOB)")
        with db:
            rows = ((os.urandom(_ROW),) for _ in range(size // _ROW))
            db.executemany("INSERT INTO blobs (data) VALUES (?)", rows)


def _timed(work: Callable[[], object]) -> float:
    """Seconds of it, begun with nothing left to write."""
    os.sync()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
