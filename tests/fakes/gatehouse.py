"""A small HTTP service that can be frozen and drained, strict about what it is asked, in a thread of its own."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "Bearer of-the-gate"


class AtTheGate:
    """Its tests get the gate."""

    gate: "Gatehouse"

    @pytest.fixture(autouse=True)
    def _with_gate(self, gate: "Gatehouse") -> None:
        self.gate = gate


class Gatehouse:
    """`PUT` and `DELETE /freeze`, `GET /freeze`; `POST /drain` and `/undrain`, `GET /sessions`."""

    def __init__(self) -> None:
        self.frozen = False
        self.draining = False
        self.sessions: list[int] = [0]
        """What is answered, one after the other; the last for ever."""
        self.requests: list[tuple[str, str, Any, str]] = []
        """Method, path, body, idempotency key."""
        self.status = 0
        """What everything is answered with, when it is not 0."""
        self.drop_after = False
        """The next change is made, and its answer never sent."""
        self.location = ""
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def _any(self) -> None:
                gate._serve(self)

            do_GET = do_PUT = do_DELETE = do_POST = _any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def crossings(self) -> int:
        """Changes that were asked for, and not only looks."""
        return sum(method != "GET" for method, *_ in self.requests)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        assert not body or handler.headers["Content-Type"] == "application/json"
        known = json.loads(body) if body else None
        key = handler.headers.get("Idempotency-Key", "")
        self.requests.append((handler.command, handler.path, known, key))
        answer: Any = None
        status = self.status or (200 if handler.headers.get("Authorization") == TOKEN else 401)
        if status == 200:
            match handler.command, handler.path.partition("?")[0]:
                case "PUT", "/freeze":
                    self.frozen = True
                case "DELETE", "/freeze":
                    self.frozen = False
                case "GET", "/freeze":
                    answer = {"state": {"frozen": self.frozen}}
                case "GET", "/there":
                    status = 200 if self.frozen else 404
                case "POST", "/drain":
                    self.draining = True
                case "POST", "/undrain":
                    self.draining = False
                case "GET", "/sessions":
                    number = self.sessions.pop(0) if len(self.sessions) > 1 else self.sessions[0]
                    answer = {"pools": [{"active": number}]}
                case _:
                    status = 404
        if self.drop_after and handler.command != "GET":
            self.drop_after = False
            handler.close_connection = True
            handler.connection.close()
            return
        said = json.dumps(answer).encode()
        handler.send_response(status)
        if self.location:
            handler.send_header("Location", self.location)
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)
