"""A town of small shops for the end-to-end stories, with rollbackd beside it.

Each shop is a real git repository that is rolled back. The shops themselves live in this process: how well each
serves, and the metrics that Prometheus scrapes, follow at every moment from the release in its work tree.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from tests import forks
from tests.e2e.shop import Shop
from tests.fakes.pagerduty import PATH as PAGERDUTY
from tests.fakes.slack import PATH as SLACK
from tests.fakes.webhook import PATH as WEBHOOK
from tests.servers import answers, free_port, wait_until

ROOT = Path(__file__).parents[2]
UNLIMITED: Mapping[str, Any] = {
    "common_cause": False,
    "cooldown": "0s",
    "per_service": {"rollbacks": 50, "per": "1h"},
    "fleet": {"rollbacks": 50, "per": "1h"},
    "breaker": {"failures": 50},
    "concurrent": 10,
}
"""The limits are not what these stories are about."""
T = TypeVar("T")


class Town:
    """All shops, rollbackd, and where everything is."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root = root
        self.shops = {name: Shop(name, root / "repos" / name) for name in names or ("shop",)}
        self.http = free_port()
        self.prometheus = ""
        self.alertmanager = ""
        self.receivers = ""
        self.speed = 1.0
        self._process: forks.Fork | None = None
        self._lock = threading.Lock()
        self._server = self._make_server()

    @property
    def shop(self) -> Shop:
        return next(iter(self.shops.values()))

    # -- the shops ------------------------------------------------------------------------------
    @property
    def address(self) -> str:
        """Of the shops: `/health/<shop>` and `/metrics`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def _make_server(self) -> ThreadingHTTPServer:
        town = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    return self.answer(200, town.metrics())
                shop = town.shops[self.path.rpartition("/")[2]]
                return self.answer(200, json.dumps({"release": shop.running()}))

            def answer(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        return server

    def metrics(self) -> str:
        lines = []
        with self._lock:
            for shop in self.shops.values():
                shop.count()
                for code, count in (("200", shop.served), ("500", shop.failed)):
                    lines.append(f'http_requests_total{{service="{shop.name}",code="{code}"}} {count}\n')
        return "".join(lines)

    # -- rollbackd ------------------------------------------------------------------------------
    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def log(self) -> Path:
        return self.root / "rollbackd.log"

    def service(self, name: str, **changes: Any) -> dict[str, Any]:
        """A service's configuration; `changes` replace whole keys."""
        usual = {
            "name": name,
            "match": {"service": name},
            "priority": "P1",
            "layers": {"code": {"adapter": "git", "repo": str(self.shops[name].repo)}},
            "bake": "1s",
            "checks": {"health": {"http": f"http://{self.address}/health/{name}"}},
            "verify": {
                "settle": "500ms",
                "every": "500ms",
                "passes": 3,
                "deadline": "20s",
                "watch": "1m",
                "checks": ["health"],
            },
        }
        return {**usual, **changes}

    def write_config(self, **changes: Any) -> None:
        """The configuration; `changes` replace whole top-level keys, None leaves one out."""
        signals = self.root / "signals"
        signals.mkdir(exist_ok=True)
        signals.chmod(0o1770)
        config: dict[str, Any] = {
            "daemon": self.daemon(),
            "prometheus": {"url": self.prometheus, "poll_every": "250ms", "timeout": "2s"} if self.prometheus else None,
            "alertmanager": {"url": self.alertmanager} if self.alertmanager else None,
            "rules": [],
            "limits": UNLIMITED,
            "notify": self._notify(),
            "services": [self.service(name) for name in self.shops],
            **changes,
        }
        self.config.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))

    def daemon(self, **changes: Any) -> dict[str, Any]:
        """The configuration's `daemon`; `changes` replace keys."""
        usual = {
            "mode": "act",
            "listen": f"127.0.0.1:{self.http}",
            "socket": str(self.root / "socket"),
            "journal": f"sqlite:///{self.root / 'journal.db'}",
            "signals": str(self.root / "signals"),
            "scratch": str(self.root / "layers"),
            "open_on_loopback": True,
            "look_every": "500ms",
        }
        return {**usual, **changes}

    def _notify(self) -> dict[str, Any] | None:
        if not self.receivers:
            return None
        secrets = {"slack": f"{self.receivers}{SLACK}", "pagerduty": "0123456789abcdef0123456789abcdef"}
        for name, text in secrets.items():
            (self.root / name).write_text(text)
            (self.root / name).chmod(0o600)
        url = f"{self.receivers}{PAGERDUTY}"
        return {
            "receivers": [
                {"name": "room", "slack": {"webhook_url": {"file": str(self.root / "slack")}}},
                {"name": "oncall", "pagerduty": {"routing_key": {"file": str(self.root / "pagerduty")}, "url": url}},
                {"name": "program", "webhook": {"url": f"{self.receivers}{WEBHOOK}"}},
            ]
        }

    def start_daemon(self) -> None:
        """`rollbackd run`, at the town's speed."""
        module, given = "rollbackd", ["run", "--config", str(self.config)]
        if self.speed != 1:
            module, given = "tests.e2e.launch", [*given[1:], "--speed", str(self.speed)]
        with self.log.open("ab") as log:
            self._process = forks.start(module, given, log.fileno(), log.fileno())
        wait_until(self._is_up, "rollbackd", 60)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"rollbackd ended: {self.tail()}"
        return answers(f"{self.api}/healthz")

    def stop_daemon(self, *, kill: bool = False) -> None:
        """End it, orderly or not; again is harmless."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill() if kill else process.terminate()
            process.wait(timeout=60)

    def signal_daemon(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def tail(self) -> str:
        """The end of rollbackd's log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `rollbackd` command, its output as bytes became text."""
        return forks.run("rollbackd", [*arguments, "--config", str(self.config)])

    # -- asking and waiting ---------------------------------------------------------------------
    def get(self, path: str) -> Any:
        """What the API answers: `get("incidents")`."""
        with urllib.request.urlopen(f"{self.api}/api/v1/{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return send(f"{self.api}/api/v1/{path}", body)

    def incidents(self, service: str = "") -> list[dict[str, Any]]:
        """Newest first."""
        return list(self.get(f"incidents?service={service}" if service else "incidents")["incidents"])

    def decisions(self, service: str = "") -> list[dict[str, Any]]:
        """Newest first."""
        return list(self.get(f"decisions?service={service}" if service else "decisions")["decisions"])

    def states(self, service: str = "shop") -> list[dict[str, Any]]:
        """Newest first."""
        return list(self.get(f"states?service={service}")["states"])

    def state(self, tag: str, service: str = "shop") -> dict[str, Any]:
        """The newest spell of a release."""
        found = [one for one in self.states(service) if one["releases"]["code"].startswith(f"{tag} ")]
        assert found, f"{tag} was not seen"
        return found[0]

    def view(self, service: str = "shop") -> dict[str, Any]:
        return dict(self.get(f"services/{service}"))

    def look(self, service: str = "shop") -> None:
        """Have rollbackd look at the layers now, as a person does who asks for the plan."""
        self.post(f"services/{service}/plan", {})

    def messages(self, receiver: str) -> list[Any]:
        """What a receiver took; fails when it was sent anything that the real one would refuse."""
        with urllib.request.urlopen(f"{self.receivers}/messages", timeout=10) as answer:
            found = json.load(answer)
        assert [wrong for one in found.values() for wrong in one["wrong"]] == []
        return list(found[receiver]["taken"])

    def told(self, event: str) -> list[Any]:
        """The messages of an event, as a program is told."""
        return [one for one in self.messages("webhook") if one["event"] == event]

    def until(self, condition: Callable[[], T | None], what: str, limit: float = 40) -> T:
        """Wait for a condition and give what it gave."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            with suppress(OSError, AssertionError):
                if found := condition():
                    return found
            time.sleep(0.1)
        raise AssertionError(f"not within {limit:g}s: {what}\n{self.tail()}")

    def until_good(self, tag: str, service: str = "shop", limit: float = 90) -> None:
        """Until the release runs and is good."""
        self.until(lambda: self.running_good(tag, service), f"{tag} of {service} is good", limit)

    def running_good(self, tag: str, service: str = "shop") -> bool:
        present = self.view(service)["present"]
        return bool(present and present["good"] and present["releases"]["code"].startswith(f"{tag} "))

    def until_seen(self, tag: str, service: str = "shop") -> dict[str, Any]:
        """Until rollbackd has seen the release run; its spell."""
        return self.until(lambda: self.state(tag, service), f"{tag} of {service} is seen")

    def until_ended(self, incident: str, limit: float = 120) -> dict[str, Any]:
        """Until it is closed; its view."""

        def ended() -> dict[str, Any] | None:
            found = dict(self.get(f"incidents/{incident}")["incident"])
            return found if found["outcome"] else None

        return self.until(ended, f"the end of {incident}", limit)

    def until_back(self, body: Mapping[str, Any], tag: str = "v1") -> None:
        """Until that release runs again; then the alerts of a notification have ended, as Alertmanager says."""
        self.until(lambda: self.shop.running() == tag, f"{tag} runs")
        now = datetime.now(UTC).isoformat()
        ended = [{**one, "status": "resolved", "endsAt": now} for one in body["alerts"]]
        self.post("alerts", {**body, "alerts": ended})

    def until_decided(self, against: str, service: str = "shop", limit: float = 40) -> dict[str, Any]:
        """Until there is a decision that a guard stands against."""

        def decided() -> dict[str, Any] | None:
            return next((one for one in self.decisions(service) if against in stands(one)), None)

        return self.until(decided, f"a decision against which {against} stands", limit)

    # -- its life -------------------------------------------------------------------------------
    def __enter__(self) -> Self:
        for shop in self.shops.values():
            shop.deploy("v1")
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_daemon()
        self._server.shutdown()
        self._server.server_close()


def stands(decision: Mapping[str, Any]) -> set[str]:
    """The guards that stand against it."""
    return {finding["guard"] for finding in decision["findings"] if finding["against"]}


def reason(decision: Mapping[str, Any], guard: str) -> str:
    """What a guard found."""
    return next(str(finding["reason"]) for finding in decision["findings"] if finding["guard"] == guard)


def send(url: str, body: Any) -> Any:
    """POST JSON; the answer's JSON, None when it is empty. A refusal is an AssertionError with its text."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"{url} answered {error.code}: {error.read().decode()[:500]}") from error
    return json.loads(text) if text else None


@contextmanager
def receivers() -> Iterator[str]:
    """Slack, PagerDuty and a program, as one process of their own; gives its URL."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.fakes.receivers", "--port", str(port)]
    process = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/messages"), "the receivers")
        yield url
    finally:
        process.kill()
        process.wait(timeout=10)
