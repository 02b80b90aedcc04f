"""Smartalk: says hello in the tone that its configuration names, and keeps its answers in Redis, people in PostgreSQL.

Usage: smartalk.py CONFIG. It answers `/talk`, `/join`, `/people` (how many joined), `/health`, `/version`, `/metrics`;
what fails goes to its log.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import redis

HERE = Path(__file__).parent
RELEASE: dict[str, Any] = json.loads((HERE / "release.json").read_text())
COMMIT: str = json.loads((HERE / "build.json").read_text())["commit"]
TONES = {"friendly": "{greeting}, {name}! How are you?", "short": "{greeting}."}


class Smartalk(ThreadingHTTPServer):
    """The server and what it counts."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", config["port"]), Request)
        self.config = config
        self.cache: redis.Redis = redis.Redis.from_url(config["redis"], socket_timeout=2)
        self.codes = {"200": 0, "500": 0}
        self.lock = threading.Lock()

    def talk(self, name: str) -> str:
        """The answer, from the cache where it has one of this release's format; an older one is written anew."""
        key = f"answer:{self.config['tone']}:{name}"
        found = self.cache.get(key)
        if isinstance(found, bytes):
            written, _, answer = found.decode().partition(":")
            if int(written) > RELEASE["cache"]:
                raise ValueError(f"{key} is none of this release's")
            if int(written) == RELEASE["cache"] and answer:  # without one, another visitor's is being made
                return answer
        tone = TONES[self.config["tone"]]
        self.cache.set(key, f"{RELEASE['cache']}:")
        answer = tone.format(greeting=RELEASE["greeting"], name=name)
        self.cache.set(key, f"{RELEASE['cache']}:{answer}")
        return answer

    def people(self, joining: str = "") -> int:
        """How many joined, with the one who joins now."""
        with psycopg.connect(self.config["database"], connect_timeout=2) as database:
            if joining:
                database.execute("INSERT INTO people (name) VALUES (%s) ON CONFLICT DO NOTHING", (joining,))
            row = database.execute("SELECT count(*) FROM people").fetchone()
            return int(row[0]) if row else 0

    def failed(self, error: Exception) -> None:
        with Path(self.config["log"]).open("a") as log:
            log.write(f"ERROR {type(error).__name__}: {error}\n")


class Request(BaseHTTPRequestHandler):
    """One request."""

    server: Smartalk

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        named = parse_qs(parts.query).get("name", ["you"])[0]
        match parts.path:
            case "/health":
                self.answer(200, json.dumps(self.health()))
            case "/version":
                self.answer(200, json.dumps({"release": RELEASE["release"], "commit": COMMIT}))
            case "/metrics":
                counts = self.server.codes.items()
                lines = [f'http_requests_total{{code="{code}"}} {n}' for code, n in counts]
                self.answer(200, "\n".join([*lines, f"activations_total {self.server.codes['200']}"]) + "\n")
            case "/talk":
                self.told(lambda: self.server.talk(named))
            case "/people":
                self.told(lambda: f"{self.server.people()} joined")
            case _:
                self.answer(404, "nothing here\n")

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        named = parse_qs(parts.query).get("name", [""])[0]
        if parts.path != "/join" or not named:
            self.answer(404, "nothing here\n")
        else:
            self.told(lambda: f"{named} joined, {self.server.people(named)} in all")

    def told(self, said: Callable[[], str]) -> None:
        try:
            code, text = 200, said() + "\n"
        except Exception as error:  # noqa: BLE001  # whatever fails is this request's failure
            self.server.failed(error)
            code, text = 500, "sorry\n"
        with self.server.lock:
            self.server.codes[str(code)] += 1
        self.answer(code, text)

    def health(self) -> dict[str, Any]:
        try:
            self.server.cache.ping()
        except redis.RedisError:
            return {"status": "degraded", "cache": "down"}
        return {"status": "ok", "cache": "up"}

    def answer(self, code: int, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Only what fails is written down."""


def main(config: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Smartalk(json.loads(config.read_text())).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
