"""Builds the demonstration's world: a git repository with a good and a bad release, servers, traffic, a configuration.

The end-to-end tests tell their stories in the same world.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests import servers
from tests.fakes.slack import PATH as SLACK

HERE = Path(__file__).parent
GOOD = {"release": "v1", "fails_every": 0, "seconds": 0.01}
BAD = {"release": "v2", "fails_every": 3, "seconds": 0.4}
IDENTITY = ("-c", "user.name=Shop", "-c", "user.email=shop@example.com")


def has_servers() -> bool:
    """Whether Prometheus and Alertmanager are installed."""
    return bool(shutil.which("prometheus")) and bool(shutil.which("prometheus-alertmanager"))


@dataclass
class World:
    """Where everything is."""

    root: Path
    port: int
    """Of the shop."""
    http: int
    """Of rollbackd."""
    prometheus: str = ""
    alertmanager: str = ""
    receivers: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def repo(self) -> Path:
        return self.root / "shop"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def shop(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    # -- the shop -------------------------------------------------------------------------------
    def git(self, *arguments: str) -> str:
        """Run git in the shop's repository."""
        done = subprocess.run(
            ["git", *IDENTITY, *arguments], cwd=self.repo, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    def commit(self, release: Mapping[str, Any], tag: str) -> None:
        """A release as a commit with a tag."""
        (self.repo / "release.json").write_text(json.dumps(release) + "\n")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", f"Release {tag}")
        self.git("tag", tag)

    def make_repo(self) -> None:
        """The repository with its first, good release."""
        self.repo.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        for name in ("shop.py", "restart.py"):
            shutil.copy(HERE / name, self.repo / name)
        self.commit(GOOD, "v1")

    def deploy(self, release: Mapping[str, Any], tag: str) -> None:
        """What a team's deploy script does: commit, check out, restart."""
        self.commit(release, tag)
        argv = [sys.executable, "restart.py", str(self.port), str(self.root / "shop.pid")]
        subprocess.run(argv, cwd=self.repo, check=True, capture_output=True, timeout=30)

    def running(self) -> str:
        """The release that answers."""
        return str(self.get(f"{self.shop}/health")["release"])

    def get(self, url: str) -> Any:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)

    # -- rollbackd ------------------------------------------------------------------------------
    def write_config(self, **changes: Any) -> None:
        """The configuration; `changes` replace whole top-level keys."""
        (self.root / "signals").mkdir(mode=0o770, exist_ok=True)
        (self.root / "signals").chmod(0o1770)
        config = {**self._config(), **changes}
        self.config.write_text(yaml.safe_dump({key: value for key, value in config.items() if value}, sort_keys=False))

    def _config(self) -> dict[str, Any]:
        restart = [sys.executable, "restart.py", str(self.port), str(self.root / "shop.pid")]
        verify: list[Any] = ["health", "smoke"]
        return {
            "daemon": {
                "mode": "act",
                "listen": f"127.0.0.1:{self.http}",
                "socket": str(self.root / "rollbackd.sock"),
                "journal": f"sqlite:///{self.root / 'journal.db'}",
                "signals": str(self.root / "signals"),
                "scratch": str(self.root / "layers"),
                "open_on_loopback": True,
                "look_every": "1s",
            },
            "prometheus": {"url": self.prometheus, "poll_every": "1s"} if self.prometheus else None,
            "alertmanager": {"url": self.alertmanager} if self.alertmanager else None,
            "rules": self.rules(),
            "limits": {"common_cause": False},
            "notify": self._notify(),
            "services": [
                {
                    "name": "shop",
                    "match": {"service": "shop"},
                    "priority": "P1",
                    "layers": {"code": {"adapter": "git", "repo": str(self.repo), "then": [restart]}},
                    "bake": "5s",
                    "checks": {
                        "health": {"http": f"{self.shop}/health", "below": "300ms"},
                        "smoke": {"http": f"{self.shop}/", "status": 200, "below": "300ms"},
                    },
                    "verify": {
                        "settle": "1s",
                        "every": "2s",
                        "passes": 3,
                        "deadline": "60s",
                        "watch": "1m",
                        "checks": verify,
                    },
                }
            ],
        }

    def rules(self) -> list[dict[str, Any]]:
        """Prometheus's own error rate and Alertmanager's alert; without them the smoke check."""
        alert = {"name": "shop-alert", "when": {"alert": 'alertname="ShopErrors", severity="critical"'}}
        if not self.prometheus:
            smoke = {"check": "smoke", "failures": 3, "every": "500ms", "after_change": "10m"}
            return [alert, {"name": "smoke-failed", "when": smoke}]
        pack = {"pack": "http", "window": "10s", "lasting": "4s", "latency": "300ms", "min_samples": 20}
        pack |= {"score_window": "10s", "widest": "10s"}
        return [alert, pack]

    def _notify(self) -> dict[str, Any] | None:
        if not self.receivers:
            return None
        (self.root / "slack").write_text(f"{self.receivers}{SLACK}")
        (self.root / "slack").chmod(0o600)
        return {"receivers": [{"name": "room", "slack": {"webhook_url": {"file": str(self.root / "slack")}}}]}

    def start_daemon(self) -> None:
        """`rollbackd run`, its log in a file."""
        argv = [sys.executable, "-m", "rollbackd", "run", "--config", str(self.config)]
        with (self.root / "rollbackd.log").open("ab") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        self.processes["rollbackd"] = process

        def is_up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"rollbackd ended: {(self.root / 'rollbackd.log').read_text()[-2000:]}")
            return servers.answers(f"{self.api}/healthz")

        servers.wait_until(is_up, "rollbackd")

    def stop_daemon(self, *, kill: bool = False) -> None:
        """End it, orderly or not."""
        process = self.processes.pop("rollbackd", None)
        if process is not None and process.poll() is None:
            process.kill() if kill else process.terminate()
            process.wait(timeout=60)

    def command(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """A `rollbackd` command."""
        argv = [sys.executable, "-m", "rollbackd", *arguments, "--config", str(self.config)]
        return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=120)

    def incidents(self) -> list[dict[str, Any]]:
        found = self.get(f"{self.api}/api/v1/incidents")
        return list(found["incidents"])


def alert_rules(lasting: str = "2s") -> dict[str, Any]:
    """Prometheus's rule file: a third of the answers are errors."""
    errors = 'sum by (service) (rate(http_requests_total{code=~"5.."}[10s]))'
    return {
        "groups": [
            {
                "name": "shop",
                "rules": [
                    {
                        "alert": "ShopErrors",
                        "expr": f"{errors} / sum by (service) (rate(http_requests_total[10s])) > 0.1",
                        "for": lasting,
                        "labels": {"severity": "critical"},
                        "annotations": {"summary": "{{ $value | humanizePercentage }} of the answers are errors"},
                    }
                ],
            }
        ]
    }


class Traffic:
    """Visitors: a few threads that ask the shop again and again."""

    def __init__(self, url: str, visitors: int = 6, pause: float = 0.1) -> None:
        self._url = url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(pause,), daemon=True) for _ in range(visitors)]

    def _visit(self, pause: float) -> None:
        while not self._ended.wait(pause):
            with suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(self._url, timeout=5).close()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()


@contextmanager
def shop_world(
    root: Path, *, monitored: bool, receivers: str = "", lasting: str = "2s", alerting: bool = True
) -> Iterator[World]:
    """The whole world but for rollbackd itself, which `start_daemon` starts."""
    world = World(root, servers.free_port(), servers.free_port(), receivers=receivers)
    world.make_repo()
    with ExitStack() as stack:
        argv = [sys.executable, str(world.repo / "shop.py"), str(world.port), str(root / "shop.pid")]
        stack.enter_context(process(world, "shop", argv))
        servers.wait_until(lambda: servers.answers(f"{world.shop}/health"), "the shop")
        traffic = Traffic(world.shop)
        traffic.start()
        stack.callback(traffic.stop)
        stack.callback(world.stop_daemon)
        if monitored:
            webhook = f"{world.api}/api/v1/alerts" if alerting else ""
            alertmanager = stack.enter_context(servers.alertmanager(root / "alertmanager", webhook=webhook))
            rules = alert_rules(lasting) if alerting else None
            prometheus = stack.enter_context(
                servers.prometheus(
                    root / "prometheus",
                    targets=[f"127.0.0.1:{world.port}"],
                    labels={"service": "shop"},
                    rules=rules,
                    alertmanager=alertmanager.address,
                    every="1s",
                )
            )
            world.prometheus, world.alertmanager = prometheus.url, alertmanager.url
        yield world


@contextmanager
def process(world: World, name: str, argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the world, its output in a file, ended by its id."""
    with (world.root / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ})
    try:
        yield started
    finally:
        started.kill()
        started.wait(timeout=10)
