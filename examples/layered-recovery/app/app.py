"""The platform: orders in PostgreSQL, logins and sessions. Its configuration lies beside it, not in the repository.

Usage: app.py DIRECTORY DEFAULTS. DIRECTORY has `.env` and `.limits/api/max`, DEFAULTS environment variables. What fails
is written to the log that `.env` names.
"""

import hmac
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).parent
RELEASE: dict[str, Any] = json.loads((HERE / "release.json").read_text())
COMMIT: str = json.loads((HERE / "build.json").read_text())["commit"]


class Answer(Exception):  # noqa: N818  # an answer
    """Anything but a 200."""

    def __init__(self, code: int, error: str) -> None:
        super().__init__(error)
        self.code = code


def variables(path: Path) -> dict[str, str]:
    """A file of environment variables, one bare `NAME=value` a line."""
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


class Platform(ThreadingHTTPServer):
    """The server, with its configuration as it was at the start."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, directory: Path, defaults: Path) -> None:
        env = variables(directory / ".env") | variables(defaults)
        super().__init__(("127.0.0.1", int(env["PORT"])), Request)
        self.key = env["SESSION_KEY"].encode()
        self.password = env["PROBE_PASSWORD"]
        self.workers = int(env["WORKERS"])
        self.log = Path(env["ERROR_LOG"])
        self.most = int((directory / ".limits/api/max").read_text())
        self.database = env["DATABASE_URL"]

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.database, connect_timeout=5, autocommit=True) as database:
            yield database

    def signature(self, user: str) -> str:
        return hmac.new(self.key, user.encode(), RELEASE["digest"]).hexdigest()

    def failed(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S%z} ERROR {text}\n")

    # -- what it is asked -------------------------------------------------------------------------
    def status(self) -> dict[str, Any]:
        """Whether what it rests on is there."""
        connection, integrity = "failed", "not known"
        try:
            with self.connected() as database:
                connection = "ok"
                wrong = sum(number for (number,) in database.execute("SELECT count(*) FROM orders WHERE net < 0"))
                integrity = f"{wrong} orders below 0" if wrong else "ok"
        except psycopg.Error as error:
            integrity = str(error).partition("\n")[0]
        services = {"api": "up" if self.most > 0 else "refuses all", "workers": "up" if self.workers > 0 else "down"}
        return {"services": services, "database": {"connection": connection, "integrity": integrity}}

    def login(self, given: dict[str, Any]) -> dict[str, Any]:
        if not hmac.compare_digest(str(given["password"]), self.password):
            raise Answer(403, "wrong password")
        return {"session": f"{given['user']}.{self.signature(given['user'])}"}

    def user(self, session: str) -> str:
        user, _, signature = session.removeprefix("Bearer ").rpartition(".")
        if not hmac.compare_digest(signature, self.signature(user)):
            raise Answer(401, "no valid session")
        return user

    def orders(self) -> dict[str, Any]:
        if self.most < 1:
            raise Answer(429, "too many requests")
        with self.connected() as database:
            rows = database.execute("SELECT id, net FROM orders ORDER BY id DESC LIMIT %s", (self.most,)).fetchall()
        return {"orders": [{"id": number, "gross": net + net * RELEASE["tax"] // 100} for number, net in rows]}

    def order(self, given: dict[str, Any]) -> dict[str, Any]:
        with self.connected() as database:
            placed = database.execute("INSERT INTO orders (net) VALUES (%s) RETURNING id", (int(given["net"]),))
            return {"id": next(number for (number,) in placed)}


class Request(BaseHTTPRequestHandler):
    """One request."""

    server: Platform

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def said(self, body: Any) -> Any:
        """What is answered. :raises Answer: something else than a 200."""
        match (self.command, self.path):
            case ("GET", "/health"):
                return {"status": "ok", "release": RELEASE["release"]}
            case ("GET", "/version"):
                return {"commit": COMMIT}
            case ("GET", "/status"):
                return self.server.status()
            case ("POST", "/login"):
                return self.server.login(body)
        user = self.server.user(self.headers.get("Authorization", "")) if self.path != "/api/orders" else ""
        match (self.command, self.path):
            case ("GET", "/api/me"):
                return {"user": user}
            case ("GET", "/api/orders"):
                return self.server.orders()
            case ("POST", "/api/order"):
                return self.server.order(body)
        raise Answer(404, "nothing here")

    def answer(self, body: Any) -> None:
        try:
            code, said = 200, self.said(body)
        except Answer as error:
            code, said = error.code, {"error": str(error)}
        except Exception as error:  # noqa: BLE001  # whatever fails is this request's failure
            code, said = 500, {"error": "sorry"}
            with self.server.log.open("a") as log:
                log.write(
                    f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S%z} ERROR {self.path}: {type(error).__name__}: {error}\n"
                )
        text = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        """Only what fails is written down."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Platform(Path(sys.argv[1]), Path(sys.argv[2])).serve_forever()
