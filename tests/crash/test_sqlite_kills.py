"""A restore of a live database, killed at any instant under writers and readers: old or new, and no commit lost."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Progress
from rollbackd.system.clock import SystemClock
from rollbackd.testing import descendants, finish, perform, place, planned
from rollbackd_adapters.sqlite import SqliteAdapter
from rollbackd_adapters.sqlite.settings import SqliteSettings

KILLS = 18
WRITERS, READERS = 4, 4
_PROGRAM = Path(__file__).with_name("sqlite_writer.py")


class Application:
    """A database of two tables that are written together, and those who use it all the while."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path, self.file = path, path / "app.db"
        with closing(sqlite3.connect(self.file)) as db:
            db.execute(f"PRAGMA journal_mode = {mode}")
            for table in ("notes", "pairs"):
                db.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text TEXT)")
                with db:
                    rows = [(f"old-{number}-{'x' * 2000}",) for number in range(1500)]
                    db.executemany(f"INSERT INTO {table} (text) VALUES (?)", rows)
        self.users: list[subprocess.Popen[bytes]] = []

    def layer(self) -> Any:
        given = {"adapter": "sqlite", "file": str(self.file), "room": 0, "lock_within": "20s", "timeout": "1m"}
        return SqliteAdapter(SqliteSettings.model_validate(given), place(self.path))

    @contextmanager
    def used(self) -> Iterator[None]:
        for kind, many in (("write", WRITERS), ("read", READERS)):
            for number in range(many):
                log = self.path / f"{kind}-{number}.log"
                argv = [sys.executable, "-I", str(_PROGRAM), kind, str(self.file), str(log), f"{kind}{number}"]
                self.users.append(subprocess.Popen(argv, stderr=subprocess.PIPE))
        try:
            yield
            assert [one.poll() for one in self.users] == [None] * len(self.users), "a user of it met an error"
        finally:
            for one in self.users:
                one.kill()
            said = [one.communicate()[1] for one in self.users]
            assert not any(said), said

    @property
    def acknowledged(self) -> set[str]:
        return {line for log in self.path.glob("write-*.log") for line in log.read_text().splitlines()}

    def found(self) -> set[str]:
        """What is in the present, or in a copy of what a restore replaced.

        The present comes first: what a killed life began may still replace it, and keeps it before it does.
        """
        names = self._rows(self.file, "")
        for copy in self.path.glob("scratch/store/[!.]*/data.sqlite"):
            names |= self._rows(copy, "?immutable=1")
        return names

    def _rows(self, file: Path, options: str) -> set[str]:
        with closing(sqlite3.connect(f"file:{file}{options}", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.execute("BEGIN")  # of one instant
            both = [{row[0] for row in db.execute(f"SELECT text FROM {table}")} for table in ("notes", "pairs")]
            assert both[0] == both[1], f"{file}: {len(both[0] ^ both[1])} rows are in one table alone"
            return both[0]


def _killed_after(seconds: float, application: Application, change: Change) -> None:
    """A life that applies the change is killed with all that it started, so many seconds after it began."""
    child = os.fork()
    if child == 0:
        try:
            finish(perform(application.layer(), change, retries=3))
        finally:
            os._exit(0)
    time.sleep(seconds)
    for pid in (child, *descendants(child)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.waitpid(child, 0)


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.timeout(300)
def test_a_restore_that_is_killed_again_and_again_loses_no_commit(tmp_path: Path, mode: str) -> None:
    application, chance = Application(tmp_path, mode), Random(7)
    copy = finish(application.layer().take("good"))
    restored = 0
    with application.used():
        for number in range(KILLS):
            release = finish(application.layer().as_of(SystemClock().now()))
            # what a killed life kept and did not replace is the newest copy of the present
            assert release.label == copy.name or release.label.startswith("snapshot-before-")
            change = finish(planned(application.layer(), release, f"kills-{number}/0/db"))
            _killed_after(chance.uniform(0.1, 1.6), application, change)
            before = finish(application.layer().progress(change))
            assert before in {Progress.DONE, Progress.NOT_STARTED, Progress.RUNNING}
            if number % 3 == 0:  # the next life finishes it
                assert _finished(application, change) is Progress.DONE
                restored += 1
    lost = application.acknowledged - application.found()
    assert not lost, f"{len(lost)} of {len(application.acknowledged)} commits are in neither"
    assert len(application.acknowledged) > 100
    assert restored == KILLS // 3


def _finished(application: Application, change: Change) -> Any:
    try:
        return finish(perform(application.layer(), change, retries=5))
    except AdapterError as error:
        raise AssertionError(str(error)) from error
