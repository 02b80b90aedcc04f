"""Everything around the daemon under test: its directory, its configuration, its process, its journal from outside.

The daemon is the real one, `python -m rollbackd run`, with its journal on this disk.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.alerts import ALERT, body, ended, service_name

ROOT = Path(__file__).parents[1]
START_WITHIN = 60.0
_GLANCE = 0.02
_IDLE = 0.1
"""Seconds of processor time in one second."""
_PLUGINS = {"rollbackd.adapters": {"fixed": "bench.fixed:Fixed"}}


class BenchError(Exception):
    """Something did not happen that had to; the sentence says what."""


def wait_until(condition: Callable[[], bool], what: str, limit: float = START_WITHIN, glance: float = _GLANCE) -> None:
    """Look again and again. :raises BenchError: when the limit, in seconds, has passed."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {limit:g} s")
        time.sleep(glance)


def free_port(*taken: int) -> int:
    """One that nobody listens on and that is none of these."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in taken:
            return port


def environment(root: Path) -> dict[str, str]:
    """For every Python that is started: the bench's own adapter is installed there, like anybody's."""
    plugin = distribution(root / "plugin", "rollbackd_bench", _PLUGINS)
    paths = [str(plugin), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def distribution(directory: Path, name: str, entry_points: Mapping[str, Mapping[str, str]]) -> Path:
    """A directory that tells Python, once it is on its path, that a package with these entry points is installed."""
    info = directory / f"{name}-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    lines = [
        line for group, points in entry_points.items() for line in (f"[{group}]", *map(" = ".join, points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    return directory


def serves(port: int, process: subprocess.Popen[str], log: Path) -> bool:
    """Whether a server answers 200 to `/healthz`. :raises BenchError: it has ended."""
    if process.poll() is not None:
        raise BenchError(f"{log.stem} ended: {log.read_text()[-2000:]}")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(port: int, body: bytes) -> dict[str, int]:
    """Deliver alerts, over a connection of its own."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/alerts", body, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return dict(json.load(answer))


def processor_time(process: subprocess.Popen[str]) -> float:
    """Seconds of processor time that it has used, all threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(argv: Sequence[str], root: Path, log: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python process, its errors in a file; it is ended by its id, orderly if it can be."""
    with (root / log).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *argv],
            stdin=more.get("stdin", subprocess.DEVNULL),
            stdout=more.get("stdout", output),
            stderr=output,
            text=True,
            env=environment(root),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass
class Host:
    """Where one daemon lives."""

    root: Path
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "signals").mkdir(parents=True)
        (self.root / "signals").chmod(0o1770)

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def journal(self) -> str:
        return f"sqlite:///{self.root / 'journal.db'}"

    def hold(self) -> None:
        """Nothing is rolled back; all is judged, decided and written down."""
        (self.root / "signals" / "HOLD").touch()

    def write_config(self, services: Sequence[Mapping[str, Any]], **more: Any) -> None:
        """A configuration with one alert rule; `more` adds top-level keys, or replaces them."""
        whole: dict[str, Any] = {
            "daemon": {
                "mode": "act",
                "listen": f"127.0.0.1:{self.port}",
                "socket": str(self.root / "rollbackd.sock"),
                "journal": self.journal,
                "signals": str(self.root / "signals"),
                "scratch": str(self.root / "layers"),
                "open_on_loopback": True,
                "look_every": "1h",
                "log_level": "warning",
            },
            "rules": [{"name": "errors", "when": {"alert": f'alertname="{ALERT}", severity="critical"'}}],
            "limits": {"common_cause": False, "fleet": {"rollbacks": 1_000_000, "per": "1h"}, "concurrent": 4},
            "services": list(services),
        }
        self.config.write_text(json.dumps({**whole, **more}, indent=1))

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[str]]:
        """The daemon from the moment that it serves to its end. :raises BenchError: it does not serve."""
        argv = ["-m", "rollbackd", "run", "--config", str(self.config)]
        with started(argv, self.root, "rollbackd.log") as process:
            wait_until(lambda: self.serves(process), "the daemon")
            yield process

    def serves(self, process: subprocess.Popen[str]) -> bool:
        """Whether `/healthz` answers 200. :raises BenchError: the daemon has ended."""
        return serves(self.port, process, self.root / "rollbackd.log")

    def post(self, body: bytes) -> dict[str, int]:
        """Deliver alerts."""
        return post(self.port, body)

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the journal from outside."""
        where = f"file:{self.root / 'journal.db'}?mode=ro"
        with closing(sqlite3.connect(where, uri=True, timeout=10)) as connection:
            return connection.execute(sql, values).fetchall()

    def count(self, sql: str, *values: Any) -> int:
        return int(self.ask(sql, *values)[0][0])

    def commits(self, service: str, since: datetime, kind: str) -> int:
        """The transactions that had to follow each other, from an alert to this fact of the service's first incident.

        The alert's own is one; of the facts, those of one transaction bear the same time.
        """
        streams = (f"service:{service}", f"incident:{service}-1")
        ((last,),) = self.ask("SELECT max(seq) FROM facts WHERE stream = ? AND kind = ?", streams[1], kind)
        counted = "SELECT count(DISTINCT at) FROM facts WHERE stream IN (?, ?) AND seq <= ? AND at >= ?"
        return 1 + self.count(counted, *streams, last, since.isoformat(timespec="microseconds"))

    def roll_back(self, stream: str, sick: dict[str, Any]) -> None:
        """From an alert to the end of the incident; the alert ends once the step is done."""
        self.post(body([sick]))
        many = "SELECT count(*) FROM facts WHERE stream = ? AND kind = ?"
        wait_until(lambda: self.count(many, stream, "Applied") == 1, f"the step of {stream}")
        self.post(body([ended(sick)]))
        wait_until(lambda: self.count(many, stream, "Closed") == 1, f"the end of {stream}")

    def wait_until_judged(self, limit: float = 120.0) -> None:
        """Until every alert in the inbox has led to a decision, or to nothing. :raises BenchError:"""
        left = "SELECT count(*) FROM inbox WHERE handled = 0"
        wait_until(lambda: not self.count(left), "the judging of all alerts", limit, 0.1)

    def wait_until_idle(self, process: subprocess.Popen[str], limit: float = 120.0) -> None:
        """Until the daemon has looked at all of its services, as it does after a start. :raises BenchError:"""
        used = 0.0

        def idle() -> bool:
            nonlocal used
            before, used = used, processor_time(process)
            return used - before < _IDLE

        wait_until(idle, "the end of what a start brings", limit, 1.0)


def service(number: int, layers: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A service whose rollback is verified by one check that costs nothing."""
    name = service_name(number)
    return {
        "name": name,
        "match": {"service": name, "env": "prod"},
        "layers": dict(layers),
        "checks": {"health": {"command": ["/bin/true"]}},
        "verify": {"settle": "0s", "every": "100ms", "passes": 1, "checks": ["health"]},
        **more,
    }


def fixed_services(count: int, **settings: Any) -> list[dict[str, Any]]:
    """Services whose one layer is the bench's own."""
    return [service(number, {"code": {"adapter": "fixed", **settings}}) for number in range(count)]
