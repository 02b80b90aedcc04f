"""Real servers for tests: Prometheus, Alertmanager and something for Prometheus to scrape.

Each listens on 127.0.0.1, is waited for until it is ready, and is ended by its process id.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from rollbackd.testing import descendants

READY_WITHIN = 90.0
"""Seconds; a shared machine can be slow to start a server, and a notice may wait a minute for others of its kind."""


def program(*names: str) -> str:
    """The path of the first that is installed; the test is skipped when none is."""
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip(f"missing: {names[0]} (make servers)")


_given: set[int] = set()
_PORTS = range(12_000, 32_000)
"""Below those that the system gives to clients: a port that nobody has yet is not taken by a connection meanwhile."""


def free_port() -> int:
    """A port that nobody listens on, and that this process was not given before."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def wait_until(condition: Callable[[], bool], what: str, limit: float = READY_WITHIN) -> None:
    """Look again and again until it holds; fail when the limit has passed."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit:g}s")
        time.sleep(0.05)


def remove(directory: Path) -> None:
    """Remove what a server had, though what was killed with it may still write there for a moment."""

    def is_gone() -> bool:
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    wait_until(is_gone, f"{directory} is removed")


def answers(url: str) -> bool:
    """Whether it answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


@dataclass
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    directory: Path
    config: Path = field(default_factory=Path)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def stop(self) -> None:
        """End it as a crash would, with what it has started; `stop` again is harmless."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def reload(self) -> None:
        """Have it read its configuration again."""
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running(argv: Sequence[str], url: str, ready: str, directory: Path) -> Iterator[Server]:
    """A server from its start to its end."""
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=directory, start_new_session=True
        )
    server = Server(url, process, log, directory)

    def is_ready() -> bool:
        assert process.poll() is None, f"{argv[0]} ended: {log.read_text(errors='replace')[-2000:]}"
        return answers(url + ready)

    try:
        wait_until(is_ready, argv[0])
        yield server
    finally:
        server.stop()


@contextmanager
def prometheus(
    directory: Path,
    *,
    targets: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    rules: Mapping[str, Any] | None = None,
    alertmanager: str = "",
    every: str = "200ms",
    port: int = 0,
    samples: str = "",
) -> Iterator[Server]:
    """A Prometheus.

    :param targets: `HOST:PORT` of what it scrapes, all under the job `test`.
    :param labels: what all of their series carry.
    :param rules: a rule file's content, `{"groups": […]}`.
    :param alertmanager: `HOST:PORT` of where its alerts go.
    :param every: how often it scrapes and evaluates.
    :param samples: history to begin with, in the OpenMetrics text format with times.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "data"
    if samples:
        backfill(directory, data, samples)
    static = {"targets": list(targets), "labels": dict(labels or {})}
    config: dict[str, Any] = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "scrape_configs": [{"job_name": "test", "static_configs": [static]}],
    }
    if rules is not None:
        (directory / "rules.yml").write_text(json.dumps(rules))
        config["rule_files"] = ["rules.yml"]
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config))
    url = f"http://127.0.0.1:{port or free_port()}"
    argv = [
        program("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--log.level=warn",
    ]
    with running(argv, url, "/-/ready", directory) as server:
        server.config = file
        yield server


def backfill(directory: Path, data: Path, samples: str) -> None:
    """Make blocks of samples, before the server starts."""
    text = directory / "samples.txt"
    text.write_text(samples if samples.endswith("# EOF\n") else samples + "# EOF\n")
    argv = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")


@contextmanager
def alertmanager(
    directory: Path, config: Mapping[str, Any] | None = None, *, webhook: str = "", token: str = "", port: int = 0
) -> Iterator[Server]:
    """An Alertmanager.

    :param config: its configuration; without it, all alerts go to `webhook` by `service`, as fast as it can.
    :param token: what it authenticates with at the webhook.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "alertmanager.yml"
    file.write_text(json.dumps(config if config is not None else webhook_config(webhook, token)))
    url = f"http://127.0.0.1:{port or free_port()}"
    argv = [
        program("prometheus-alertmanager", "alertmanager"),
        f"--config.file={file}",
        f"--storage.path={directory / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]
    with running(argv, url, "/-/ready", directory) as server:
        server.config = file
        yield server


def webhook_config(url: str, token: str = "") -> dict[str, Any]:
    """Everything goes to one webhook, or to nobody when there is none."""
    webhook: dict[str, Any] = {"url": url, "send_resolved": True}
    if token:
        webhook["http_config"] = {"authorization": {"type": "Bearer", "credentials": token}}
    return {
        "route": {
            "receiver": "rollbackd",
            "group_by": ["service"],
            "group_wait": "100ms",
            "group_interval": "1s",
            "repeat_interval": "1h",
        },
        "receivers": [{"name": "rollbackd", **({"webhook_configs": [webhook]} if url else {})}],
    }


@contextmanager
def redis_server(directory: Path, *options: str, port: int = 0) -> Iterator[int]:
    """A Redis without persistence; yields its port. It is ready when it listens."""
    directory.mkdir()
    port = port or free_port()
    log = directory / "log"
    fixed = ["--bind", "127.0.0.1", "--save", "", "--dir", str(directory), "--logfile", str(log)]
    fixed += ["--repl-diskless-sync-delay", "0"]
    process = subprocess.Popen([program("redis-server"), "--port", str(port), *fixed, *options])

    def ready() -> bool:
        assert process.poll() is None, "it ended"
        return log.exists() and "eady to accept connections" in log.read_text()

    try:
        wait_until(ready, "redis-server")
        yield port
    finally:
        process.kill()
        process.wait(timeout=10)


class Exporter:
    """A service's metrics, as a test sets them; `with Exporter() as it: it.set("up_to_me", 1, service="checkout")`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def set(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._values[name, tuple(sorted(labels.items()))] = value

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Count up, from nothing when it is new."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def text(self) -> str:
        with self._lock:
            values = list(self._values.items())
        return "".join(f"{sample(name, dict(labels))} {value!r}\n" for (name, labels), value in values)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


def sample(name: str, labels: Mapping[str, str]) -> str:
    """`name{label="value"}`, as both exposition formats write it."""
    text = ",".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in labels.items())
    return f"{name}{{{text}}}"


def _is_there(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@dataclass
class Postgres:
    """A running PostgreSQL, whose superuser is `postgres`."""

    socket: Path
    """The directory of its socket."""
    port: int
    data: Path
    argv: Sequence[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again after a crash; it accepts connections when this returns."""
        log = self.socket / "log"
        with log.open("wb") as output:
            self.process = process = subprocess.Popen(
                self.argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True
            )

        def ready() -> bool:
            assert process.poll() is None, f"postgres ended: {log.read_text(errors='replace')[-2000:]}"
            return "ready to accept" in log.read_text(errors="replace")

        wait_until(ready, "postgres")

    def crash(self) -> None:
        """End it at once: it recovers from its WAL when it is started again."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)
        self.process = None

    def kill(self) -> None:
        """End its first process as `kill -9` does; those that it has started end by themselves."""
        assert self.process is not None
        started = descendants(self.process.pid)
        self.process.kill()
        self.process.wait(timeout=10)
        self.process = None
        wait_until(lambda: not any(map(_is_there, started)), "the end of what it has started")

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        name = database.replace("\\", r"\\").replace("'", r"\'")
        return f"host={self.socket} port={self.port} dbname='{name}' user={user}"

    def sql(self, *statements: str, database: str = "postgres", user: str = "postgres") -> Any:
        """Do each statement by itself; the rows of the last one."""
        import psycopg

        with psycopg.connect(self.dsn(database, user), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def run(self, file: Path) -> None:
        """What `psql -f` does with a file, as the superuser. :raises AssertionError: it failed."""
        how = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        argv = [program("psql"), *how, f"--dbname={self.dsn()}", f"--file={file}"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd="/")
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres_server(
    *options: str,
    standby_of: Postgres | None = None,
    hba: str = "local all all trust\nlocal replication all trust\n",
    data: Path | None = None,
    wal: Path | None = None,
) -> Iterator[Postgres]:
    """A PostgreSQL on a socket alone, in a short directory of its own; it keeps nothing safe from a power cut.

    :param options: of the server, `name=value`.
    :param standby_of: it replicates this one, as the standby `replica`.
    :param hba: who may connect, and how.
    :param data: where its data is to be; a directory that is not there yet.
    :param wal: where its WAL is to be; an empty directory of the server's user.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("missing: postgresql (make servers)")
    programs = found[-1].parent
    root = os.geteuid() == 0
    who = [program("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    if root:
        shutil.chown(directory, "postgres", "postgres")
    directory.chmod(0o755)  # the socket is for everybody
    data, port = data or directory / "data", free_port()
    if standby_of is None:
        making = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C.UTF-8"]
        making += [f"--waldir={wal}"] if wal is not None else []
    else:
        source = standby_of.dsn() + " application_name=replica"
        making = [programs / "pg_basebackup", "-D", data, "-d", source, "-R", "--no-sync", "--checkpoint=fast"]
    done = subprocess.run([*who, *map(str, making)], capture_output=True, check=False, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    (data / "pg_hba.conf").write_text(hba)
    fixed = ["fsync=off", "listen_addresses=", f"unix_socket_directories={directory}", f"port={port}"]
    fixed += ["shared_buffers=32MB", "max_connections=120", "max_wal_size=256MB", "autovacuum_naptime=1d"]
    argv = [*who, str(programs / "postgres"), "-D", str(data)]
    argv += [part for one in (*fixed, *options) for part in ("-c", one)]
    server = Postgres(directory, port, data, argv)
    try:
        server.start()
        yield server
    finally:
        server.crash()
        remove(directory)


@contextmanager
def pgbouncer(server: Postgres, *databases: str) -> Iterator[str]:
    """A PgBouncer before a server, on a socket alone; yields the connection string of its admin console."""
    path = program("pgbouncer", "/usr/sbin/pgbouncer")
    port = free_port()
    directory = server.socket / f"pgbouncer-{port}"
    directory.mkdir()
    lines = [f"{name} = host={server.socket} port={server.port} dbname={name}" for name in databases]
    users = directory / "users"
    users.write_text('"postgres" ""\n"app" ""\n"boss" ""\n')
    config = directory / "pgbouncer.ini"
    config.write_text(
        "[databases]\n" + "\n".join(lines) + "\n[pgbouncer]\n"
        f"listen_port = {port}\nlisten_addr =\nunix_socket_dir = {server.socket}\nauth_type = trust\n"
        f"auth_file = {users}\nadmin_users = boss\npool_mode = transaction\nmax_client_conn = 200\n"
        f"default_pool_size = 30\nserver_login_retry = 1\nlogfile = {directory / 'log'}\n"
    )
    argv = [path, "-q", str(config)]
    if os.geteuid() == 0:
        for one in (directory, users, config):
            shutil.chown(one, "postgres", "postgres")
        argv = [program("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups", *argv]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    socket_file = server.socket / f".s.PGSQL.{port}"

    def ready() -> bool:
        assert process.poll() is None, "pgbouncer ended"
        return socket_file.exists()

    try:
        wait_until(ready, "pgbouncer")
        yield f"host={server.socket} port={port} dbname=pgbouncer user=boss"
    finally:
        process.kill()
        process.wait(timeout=10)
        socket_file.unlink(missing_ok=True)


@dataclass(frozen=True)
class ArchivedPostgres:
    """A PostgreSQL whose WAL goes to a repository of pgBackRest's, which has one backup."""

    server: Postgres
    config: Path
    repository: Path
    scratch: Path
    """A directory for scratch clusters, which is the server's user's."""

    @property
    def settings(self) -> dict[str, str]:
        """`pgbackrest` of adapter `postgres`."""
        user = "postgres" if os.geteuid() == 0 else ""
        return {"stanza": "main", "config": str(self.config), "run_as": user, "scratch": str(self.scratch)}

    def pgbackrest(self, command: str, *arguments: str) -> None:
        """Have it do something. :raises AssertionError: it failed."""
        who = self.server.argv[: self.server.argv.index("-D") - 1]
        argv = [*who, program("pgbackrest"), f"--config={self.config}", "--stanza=main", command, *arguments]
        done = subprocess.run(argv, capture_output=True, check=False, timeout=60, cwd="/")
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def segments(self) -> list[Path]:
        """The files of WAL in the repository."""
        return sorted(self.repository.glob("archive/main/*/*/*-*"))


@contextmanager
def archived_postgres(*options: str) -> Iterator[ArchivedPostgres]:
    """A PostgreSQL with a repository of pgBackRest's. :param options: of the server, `name=value`."""
    path = program("pgbackrest")
    with postgres_server("archive_mode=on", *options) as server:
        own = server.socket / "pgbackrest"
        archived = ArchivedPostgres(server, own / "config", own / "repository", own / "scratch")
        for one in (own, archived.repository, archived.scratch):
            one.mkdir()
        lines = [f"{name}-path={own / name}" for name in ("log", "lock", "spool")]
        lines += [f"repo1-path={archived.repository}", "repo1-retention-full=9", "start-fast=y", "compress-level=1"]
        stanza = [f"pg1-path={server.data}", f"pg1-port={server.port}", f"pg1-socket-path={server.socket}"]
        archived.config.write_text("\n".join(["[global]", *lines, "[main]", *stanza, ""]))
        if os.geteuid() == 0:
            for one in (own, archived.repository, archived.scratch):
                shutil.chown(one, "postgres", "postgres")
        archived.pgbackrest("stanza-create")
        command = f"{path} --config={archived.config} --stanza=main archive-push %p"
        server.sql(f"ALTER SYSTEM SET archive_command = '{command}'", "SELECT pg_reload_conf()")
        archived.pgbackrest("backup", "--type=full")
        yield archived
