"""The workstation's manager: starts sessions, each a container, with what the configuration and the repository say.

Usage: workstation.py HOST:PORT PLACES, the latter being places.json. It answers `/try` (what a session would begin
with), `/sessions` (POST starts one), `/health`, `/version` and `/metrics`.
"""

import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODELS = {"small", "large"}


class ClosedError(Exception):
    """No new sessions are taken."""


class Manager(ThreadingHTTPServer):
    """The server and what it counts."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, places: dict[str, str]) -> None:
        host, _, port = address.rpartition(":")
        super().__init__((host, int(port)), Request)
        self.places = {name: Path(path) for name, path in places.items()}
        self.asked = self.failed = 0
        self.lock = threading.Lock()

    def prepared(self) -> dict[str, Any]:
        """What a session begins with. :raises Exception: something that it needs is missing or damaged."""
        settings = json.loads((self.places["config"] / "settings.json").read_text())
        desired = json.loads((self.places["applied"] / "workstation.json").read_text())
        secrets = self.places["config"] / ".env"
        if secrets.stat().st_mode & 0o077:
            raise ValueError(f"{secrets} is open to others")
        if desired["model"] not in MODELS:
            raise ValueError(f"there is no model {desired['model']}")
        return {"model": desired["model"], "language": settings["language"], "start": settings["start"]}

    def start(self) -> str:
        """A session; the container's id."""
        argv = self.prepared()["start"]
        if self.places["closed"].exists():
            raise ClosedError
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    def applied(self) -> str:
        """The commit that the reconciler applied last."""
        return self.places["revision"].read_text().strip()


class Request(BaseHTTPRequestHandler):
    """One request."""

    server: Manager

    def do_GET(self) -> None:
        match self.path:
            case "/try":
                self.attempt(lambda: {key: text for key, text in self.server.prepared().items() if key != "start"})
            case "/health":
                self.answer(200, {"status": "ok"})
            case "/version":
                self.answer(200, {"applied": self.server.applied()})
            case "/metrics":
                lines = f"requests_total {self.server.asked}\nerrors_total {self.server.failed}\n"
                self.answer(200, lines)
            case _:
                self.answer(404, {})

    def do_POST(self) -> None:
        self.attempt(lambda: {"session": self.server.start()})

    def attempt(self, what: Any) -> None:
        error = ""
        try:
            code, body = 200, what()
        except ClosedError:
            code, body = 503, {"error": "no new sessions now"}
        except Exception as found:  # noqa: BLE001  # whatever fails is this request's failure
            code, error = 500, f"{type(found).__name__}: {found}"
            body = {"error": error}
        with self.server.lock:
            self.server.asked += 1
            self.server.failed += bool(error)
        self.answer(code, body)

    def answer(self, code: int, body: Any) -> None:
        text = (body if isinstance(body, str) else json.dumps(body) + "\n").encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main(address: str, places: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Manager(address, json.loads(places.read_text())).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
