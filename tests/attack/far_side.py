"""Servers that rollbackd asks, and that answer as nobody should: bombs, trickles, endless bodies, hostile silences."""

import gzip
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BOMB = gzip.compress(b" " * 2**28)
_LINE = b"x" * 2**16
_PATTERN = f"({'|'.join(f'.*a.{{{n}}}' for n in range(1, 60))}|(a+)+)z"
SLOW = "".join(random.Random(1).choices("ab", k=1024))
"""A label that a backtracking engine would look at for ever by that pattern, and a linear one for some ten ms."""


class FarSide(ThreadingHTTPServer):
    """Answers each request in the next bad way. `asked` counts them by what was done."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: Counter[str] = Counter()
        self.turn = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Whoever hangs up is right."""


class _Answer(BaseHTTPRequestHandler):
    server: FarSide

    def do_GET(self) -> None:
        if self.path.startswith("/api/v2/silences"):
            return self._silences()
        ways = (self._bomb, self._trickle, self._endless, self._many_headers, self._nonsense)
        self.server.turn += 1
        way = ways[self.server.turn % len(ways)]
        self.server.asked[way.__name__.strip("_").replace("_", " ")] += 1
        with suppress(OSError):
            way()
        return None

    def do_POST(self) -> None:
        with suppress(OSError):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def _silences(self) -> None:
        """Legal ones. What fires, it answers badly: were it to say that nothing does, each alert would have ended."""
        now = datetime.now(UTC)
        matchers = [{"name": "n", "value": _PATTERN, "isRegex": True, "isEqual": True}]
        matchers.append({"name": "service", "value": "crowd", "isRegex": False, "isEqual": True})
        silence = {
            "id": "1", "matchers": matchers, "startsAt": now.isoformat(), "endsAt": (now + timedelta(1)).isoformat(),
            "createdBy": "x", "comment": "hostile", "status": {"state": "active"}, "updatedAt": now.isoformat(),
        }  # fmt: skip
        body = json.dumps([silence] * 200).encode()
        self.server.asked["silences"] += 1
        with suppress(OSError):
            self._send(body, {"Content-Type": "application/json"})

    def _send(self, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _bomb(self) -> None:
        self._send(_BOMB, {"Content-Encoding": "gzip", "Content-Type": "application/json"})

    def _trickle(self) -> None:
        self._send(b"", {"Content-Type": "text/plain"}, 10_000)
        for _ in range(120):
            self.wfile.write(b"x")
            time.sleep(0.25)

    def _endless(self) -> None:
        self._send(b"", {"Content-Type": "text/plain"}, 2**40)
        while True:
            self.wfile.write(_LINE)

    def _many_headers(self) -> None:
        self._send(b"", {f"X-{number}": "y" * 8000 for number in range(50)})

    def _nonsense(self) -> None:
        self.wfile.write(b"\x00\xff" * 5000)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def far_side() -> Iterator[FarSide]:
    """The far side, until the end of the block."""
    server = FarSide()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
