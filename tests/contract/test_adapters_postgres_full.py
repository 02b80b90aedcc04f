"""The volumes of a live PostgreSQL's data and of its WAL fill up while a copy is restored beside it."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.testing import finish, perform, planned
from tests.contract.test_adapters_postgres import layer
from tests.servers import Postgres, postgres_server, wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.needs("root")]
MIB = 2**20


@contextmanager
def volume(size: int) -> Iterator[Path]:
    """A volume of its own, which the server's user owns."""
    path = Path(tempfile.mkdtemp(prefix="pg-"))
    given = f"size={size},uid=postgres,mode=755"
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", given, "tmpfs", path], check=False, capture_output=True)
    if mount.returncode:
        pytest.skip("mounting needs more rights")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
        path.rmdir()


def free(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


class Writer:
    """Writes orders for as long as it can, and keeps which of them were acknowledged."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._ended = threading.Event()
        self.acknowledged: list[int] = []
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: len(self.acknowledged) > 5, "it writes")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def _write(self) -> None:
        import psycopg

        number = 0
        while not self._ended.wait(0.01):
            try:
                with psycopg.connect(self._server.dsn("shop"), autocommit=True, connect_timeout=5) as connection:
                    while not self._ended.wait(0.01):
                        number += 1
                        connection.execute("INSERT INTO orders VALUES (%s)", (number,))
                        self.acknowledged.append(number)
            except psycopg.Error:
                continue


class Full:
    """A shop whose copy needs more room than is left on one of the server's volumes."""

    def __init__(self, server: Postgres, place: Path, filling: Path) -> None:
        self.server, self.place, self.filling = server, place, filling
        server.sql("CREATE DATABASE shop")
        server.sql(
            "CREATE TABLE orders (id int)",
            "CREATE TABLE noise (bytes bytea)",
            "ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL",
            "INSERT INTO noise SELECT string_agg(sha512((n * 1000 + m)::text::bytea), '')"
            " FROM generate_series(1, 400) n, generate_series(1, 1000) m GROUP BY n",
            "CHECKPOINT",
            database="shop",
        )
        self.adapter: Any = layer(server, place, "shop", timeout="2m")
        self.first = finish(self.adapter.take("first"))

    def restore(self, left: int, floor: str) -> str:
        """Restore it with no more than this left on the volume; what the failure says.

        Nobody knew before: somebody else fills it just then.
        """
        change = finish(planned(self.adapter, Release(self.first.release)))
        filled: Any = layer(self.server, self.place, "shop", timeout="2m", floor=floor, volumes=[str(self.filling)])
        filled._readiness._lacking = lambda *_: []
        ballast = self.filling / "others"
        with ballast.open("wb") as file:
            for _ in range((free(self.filling) - left) // MIB):
                file.write(b"\0" * MIB)
        try:
            with pytest.raises(AdapterError) as failed:
                finish(filled.apply(change))
        finally:
            ballast.unlink()
        assert not failed.value.permanent
        return str(failed.value)

    def there(self, database: str = "shop") -> set[int]:
        return {number for (number,) in self.server.sql("SELECT id FROM orders", database=database)}

    def databases(self) -> list[str]:
        rows = self.server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%' ORDER BY 1")
        return [name for (name,) in rows]

    def succeeds_with_room(self, acknowledged: list[int]) -> None:
        """The present is whole, and once there is room the copy is put in its place."""
        assert self.there() >= {*acknowledged}, "the present has each acknowledged commit"
        change = finish(planned(self.adapter, Release(self.first.release)))
        assert finish(perform(self.adapter, change)) is Progress.DONE
        assert self.server.sql("SELECT count(*) FROM noise", database="shop") == [(400,)]
        assert self.databases() == ["shop", "shop_rollbackd_old_original"]
        assert self.there("shop_rollbackd_old_original") >= {*acknowledged}


def test_a_data_volume_that_fills_up_fails_the_restore_and_the_present_serves(tmp_path: Path) -> None:
    with volume(160 * MIB) as data, postgres_server(data=data / "data") as server:
        full = Full(server, tmp_path, data)
        with Writer(server) as writer:
            said = full.restore(left=20 * MIB, floor="0B")
            assert "No space left on device" in said
            assert full.databases() == ["shop"], "what was half there is gone"
            seen = len(writer.acknowledged)
            wait_until(lambda: len(writer.acknowledged) > seen, "it goes on writing")
        full.succeeds_with_room(writer.acknowledged)


@pytest.mark.parametrize("floor", ["60MiB", "0B"])
def test_a_wal_volume_that_fills_up_takes_no_commit_with_it(tmp_path: Path, floor: str) -> None:
    """Above the floor the restore ends itself, and the server does not notice; without one the server panics."""
    with volume(256 * MIB) as wal, postgres_server("wal_recycle=off", wal=made(wal / "wal")) as server:
        full = Full(server, tmp_path, wal)
        server.sql("SELECT pg_create_physical_replication_slot('far', true)")  # which keeps all WAL from now on
        with Writer(server) as writer:
            said = full.restore(left=72 * MIB if floor != "0B" else 24 * MIB, floor=floor)
            assert ("so the restore was ended (`floor`)" in said) == (floor != "0B"), said
            assert ("PANIC" in (server.socket / "log").read_text()) == (floor == "0B")
            seen = len(writer.acknowledged)

            def goes_on() -> bool:
                if server.process is None or server.process.poll() is not None:  # it did not get up by itself
                    server.start()
                return len(writer.acknowledged) > seen

            wait_until(goes_on, "it goes on writing", 120)
        server.sql("SELECT pg_drop_replication_slot('far')", "CHECKPOINT")
        full.succeeds_with_room(writer.acknowledged)


def made(path: Path) -> Path:
    """An empty directory of the server's user."""
    path.mkdir(mode=0o700)
    shutil.chown(path, "postgres", "postgres")
    return path
