"""A PostgreSQL of the bench's own, as durable as a real one, and what a person does there by hand with its programs."""

import base64
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.host import BenchError, free_port, wait_until
from bench.leftovers import apart

JOBS, LEVEL = 2, 6
"""What the adapter has by default."""
TABLES = 8
_TEXT = 216
_BATCH = 20_000
_LIMIT = 3600
_OPTIONS = (
    "listen_addresses=",
    "shared_buffers=256MB",
    "maintenance_work_mem=128MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=1h",
    "max_connections=120",
    "client_min_messages=warning",
)
_ALONE = ("archive_mode=off", "hot_standby=off", "fsync=off", "full_page_writes=off", "autovacuum=off")
"""What the adapter gives a scratch cluster, too."""


def programs() -> Path:
    """The directory of the newest server's programs. :raises BenchError: there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found or shutil.which("pgbackrest") is None:
        raise BenchError("postgresql or pgbackrest is missing; `make servers` installs both")
    return found[-1].parent


@dataclass
class BenchServer:
    """A running server, whose superuser is `postgres`, and who works there by hand."""

    directory: Path
    """Where it lies, with its socket; other users may come there."""
    port: int
    programs: Path
    who: Sequence[str]
    """What starts a program as the server's user."""

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"host={self.directory} port={self.port} dbname={database} user={user}"

    def sql(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Do each statement by itself; the rows of the last one."""
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def settle(self) -> None:
        """Leave nothing to be written by whoever is measured next."""
        self.sql("CHECKPOINT")
        os.sync()

    def fill(self, database: str, size: int) -> None:
        """A database of so many bytes, which do not compress away: two thirds are left of them."""
        self.sql(f"CREATE DATABASE {database}")
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            for table in range(TABLES):
                name = f"part{table}"
                connection.execute(f"CREATE TABLE {name} (id bigint, at timestamptz, text text)".encode())
                # a row's head, its key in the index and what it holds
                rows = max(1, size // TABLES // (_TEXT + 84))
                with connection.cursor().copy(f"COPY {name} FROM STDIN".encode()) as copy:
                    for first in range(0, rows, _BATCH):
                        copy.write(_lines(first, min(_BATCH, rows - first)))
                connection.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)".encode())
            connection.execute(b"VACUUM ANALYZE")

    def size(self, database: str) -> int:
        return int(self.sql(f"SELECT pg_database_size('{database}')")[0][0])

    # -- by hand --------------------------------------------------------------------------------
    def run(self, *argv: str | Path, served: bool = False) -> None:
        """A program, by its name where it is the server's own.

        :param served: as the server's user.
        :raises BenchError: it failed.
        """
        own = self.programs / argv[0]
        words = [*(self.who if served else ()), str(own if own.is_file() else argv[0]), *map(str, argv[1:])]
        done = subprocess.run(words, check=False, capture_output=True, timeout=_LIMIT, cwd="/")
        if done.returncode:
            raise BenchError(f"{argv[0]}: {(done.stderr or done.stdout).decode(errors='replace').strip()[-500:]}")

    def dump(self, database: str, into: Path, *, dsn: str = "") -> None:
        how = ["--format=directory", f"--jobs={JOBS}", f"--compress={LEVEL}", f"--file={into}"]
        self.run("pg_dump", *how, dsn or self.dsn(database))

    def read(self, dump: Path) -> None:
        """What tells a good dump from a damaged one: each file's hash, and each table's rows and their end."""
        files = sorted(path for path in dump.iterdir() if path.suffix == ".gz")
        with ThreadPoolExecutor(JOBS) as pool:
            list(pool.map(self._read, files))

    def _read(self, file: Path) -> None:
        self.run("sha256sum", file)
        with subprocess.Popen(["gzip", "-dc", str(file)], stdout=subprocess.PIPE) as plain:
            subprocess.run(["wc", "-l"], stdin=plain.stdout, check=True, stdout=subprocess.DEVNULL, timeout=_LIMIT)
        if plain.returncode:
            raise BenchError(f"{file} cannot be decompressed")

    def restore(self, dump: Path, database: str) -> None:
        """Read a dump, restore it into a new database, and compare that one's schema and counts."""
        self.read(dump)
        self.run("createdb", f"--host={self.directory}", f"--port={self.port}", "--username=postgres", database)
        self.run("pg_restore", "--exit-on-error", f"--jobs={JOBS}", f"--dbname={self.dsn(database)}", dump)
        self.run("pg_dump", "--schema-only", f"--file={dump.parent / 'schema.sql'}", self.dsn(database))
        counts = [f"--command=SELECT count(*) FROM part{table}" for table in range(TABLES)]
        self.run("psql", "--no-psqlrc", "--quiet", "--command=ANALYZE", *counts, self.dsn(database))

    # -- points in time -------------------------------------------------------------------------
    @property
    def pgbackrest(self) -> dict[str, str]:
        """The adapter's settings of that name."""
        user = "postgres" if self.who else ""
        given = {"stanza": "main", "config": str(self.directory / "pgbackrest.conf"), "run_as": user}
        return given | {"scratch": str(self.directory / "scratch")}

    def back_up(self) -> None:
        """From now on there is a repository, with one backup and all that is written."""
        repository = self.directory / "repository"
        lines = ["[global]", f"repo1-path={repository}", "compress-level=1", "start-fast=y", f"process-max={JOBS}"]
        lines += ["archive-timeout=600"]  # all that was written before is archived first, a segment a time
        lines += [f"{name}-path={self.directory / name}" for name in ("log", "lock", "spool")]
        lines += ["[main]", f"pg1-path={self.data}", f"pg1-port={self.port}", f"pg1-socket-path={self.directory}", ""]
        config = self.directory / "pgbackrest.conf"
        config.write_text("\n".join(lines))
        for path in (repository, self.directory / "scratch"):
            path.mkdir()
            self.give(path)
        push = f"pgbackrest --config={config} --stanza=main archive-push %p"
        common = (f"--config={config}", "--stanza=main")
        self.run("pgbackrest", *common, "stanza-create", served=True)
        self.sql(f"ALTER SYSTEM SET archive_command = '{push}'", "SELECT pg_reload_conf()")
        self.run("pgbackrest", *common, "--type=full", "backup", served=True)

    def wait_until_archived(self) -> None:
        """Until the repository has all that was written so far."""
        ((wanted,),) = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        seen = f"SELECT coalesce(left(last_archived_wal, 24) >= '{wanted}', false) FROM pg_stat_archiver"
        wait_until(lambda: bool(self.sql(seen)[0][0]), "the archiving of WAL", glance=0.2)

    def give(self, path: Path) -> None:
        if self.who:
            shutil.chown(path, "postgres", "postgres")

    def recover(self, mark: str, database: str, into: Path) -> None:
        """Dump a database as it was at a restore point, out of a second server that is gone afterwards."""
        own, port = self.directory / "by-hand", free_port(self.port)
        own.mkdir(mode=0o700)
        self.give(own)
        goal = ["--type=name", f"--target={mark}", "--target-action=promote", "--archive-mode=off"]
        common = [f"--config={self.directory / 'pgbackrest.conf'}", "--stanza=main", f"--pg1-path={own}"]
        try:
            self.run("pgbackrest", *common, f"--process-max={JOBS}", *goal, "restore", served=True)
            options = " ".join(f"-c {one}" for one in (*_ALONE, f"port={port}"))
            argv = ["pg_ctl", f"--pgdata={own}", "--wait", "--timeout=3000", f"--log={own / 'log.txt'}"]
            sockets = f"-c unix_socket_directories={self.directory} -c listen_addresses="
            self.run(*argv, f"--options={options} {sockets}", "start", served=True)
            try:
                dsn = f"host={self.directory} port={port} dbname={database} user=postgres"
                wait_until(lambda: _serves(dsn), "the end of recovery", _LIMIT)  # pg_ctl does not wait for that
                self.dump(database, into, dsn=dsn)
            finally:
                self.run("pg_ctl", f"--pgdata={own}", "--mode=immediate", "stop", served=True)
        finally:
            shutil.rmtree(own)


def _lines(first: int, rows: int) -> bytes:
    """So many rows as COPY takes them."""
    text = base64.b64encode(os.urandom(_TEXT * 3 // 4 * rows)).decode()
    at = time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime())
    return "".join(f"{first + n}\t{at}\t{text[n * _TEXT : (n + 1) * _TEXT]}\n" for n in range(rows)).encode()


@contextmanager
def served(root: Path, *options: str) -> Iterator[BenchServer]:
    """A server from its start to its end; nothing of it is left, also after a kill.

    :param root: where the row puts everything.
    :param options: of the server, `name=value`.
    """
    found = programs()
    root_user = os.geteuid() == 0
    who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root_user else []
    with apart(root) as directory:
        server = BenchServer(directory, free_port(), found, who)
        server.give(directory)
        server.run("initdb", "-D", server.data, "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", served=True)
        options = (*_OPTIONS, *options, f"unix_socket_directories={directory}", f"port={server.port}")
        argv = [*who, str(found / "postgres"), "-D", str(server.data)]
        argv += [part for one in options for part in ("-c", one)]
        with (directory / "server.log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")
        try:
            wait_until(lambda: _started(server, process), "the start of PostgreSQL", glance=0.1)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=60)


def _serves(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn):
            return True
    except psycopg.OperationalError:
        return False


def _started(server: BenchServer, process: subprocess.Popen[bytes]) -> bool:
    """:raises BenchError: it has ended."""
    if process.poll() is not None:
        raise BenchError(f"PostgreSQL ended: {(server.directory / 'server.log').read_text(errors='replace')[-500:]}")
    return _serves(server.dsn())
