"""The service of the demonstration: answers `/`, `/health` and `/metrics`; how well, its release says.

Usage: shop.py PORT PIDFILE. It runs from the work tree that is rolled back; SIGHUP executes it anew from there.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RELEASE = json.loads((Path(__file__).parent / "release.json").read_text())
"""`{"release": "v1", "fails_every": 0, "seconds": 0.01}`; of so many requests one fails, each takes so long."""
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Counters:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.codes = {"200": 0, "500": 0}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def take(self) -> bool:
        """Count one request in; whether it is one that fails."""
        with self.lock:
            number = sum(self.codes.values())
            failing = bool(RELEASE["fails_every"]) and number % RELEASE["fails_every"] == 0
            self.codes["500" if failing else "200"] += 1
            return failing

    def ended(self, seconds: float) -> None:
        with self.lock:
            self.seconds += seconds
            self.buckets[next((i for i, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))] += 1

    def text(self) -> str:
        lines = [f'http_requests_total{{code="{code}"}} {count}' for code, count in self.codes.items()]
        total = 0
        for limit, count in zip((*BUCKETS, "+Inf"), self.buckets, strict=True):
            total += count
            lines.append(f'http_request_duration_seconds_bucket{{le="{limit}"}} {total}')
        lines.append(f"http_request_duration_seconds_sum {self.seconds}")
        lines.append(f"http_request_duration_seconds_count {total}")
        return "\n".join(lines) + "\n"


COUNTERS = Counters()


class Shop(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.answer(200, COUNTERS.text())
        elif self.path == "/health":
            self.answer(200, json.dumps({"release": RELEASE["release"]}))
        else:
            started = time.monotonic()
            failing = COUNTERS.take()
            time.sleep(RELEASE["seconds"])
            COUNTERS.ended(time.monotonic() - started)
            self.answer(500 if failing else 200, f"shop {RELEASE['release']}\n")

    def answer(self, code: int, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


class Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main(port: int, pidfile: Path) -> None:
    def restart(*_: object) -> None:
        os.execv(sys.executable, [sys.executable, *sys.argv])

    signal.signal(signal.SIGHUP, restart)
    server = Server(("127.0.0.1", port), Shop)
    pidfile.write_text(str(os.getpid()))
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
