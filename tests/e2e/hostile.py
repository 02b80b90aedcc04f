"""A Prometheus that answers each question in a way that must not be trusted. The question says how: `case="nan"`."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_CASE = re.compile(r'case="([a-z-]+)"')
Series = tuple[Mapping[str, str], str]
Answer = Callable[["Asked"], None]
"""Writes what it likes."""


class Asked(BaseHTTPRequestHandler):
    """One question."""

    server: "Liar"

    def do_GET(self) -> None:
        self._take(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._take(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def _take(self, parameters: str) -> None:
        query = parse_qs(parameters).get("query", [""])[0]
        found = _CASE.search(query)
        self.case = found[1] if found else ""
        self.about_samples = query.startswith("samples")
        if "query_range" in self.path:
            return self.whole({"resultType": "matrix", "result": []})
        self.server.asked[self.case] += 1
        return self.server.answer_of(self.case)(self)

    def series(self, *values: str) -> dict[str, Any]:
        """A vector for the service that is named as the case: one series a value."""
        return {
            "resultType": "vector",
            "result": [
                {"metric": {"service": self.case, "instance": str(place)}, "value": [time.time(), value]}
                for place, value in enumerate(values)
            ],
        }

    def whole(self, data: Mapping[str, Any], **more: Any) -> None:
        self.send(200, json.dumps({"status": "success", "data": data, **more}).encode())

    def send(self, status: int, body: bytes) -> None:
        self.start(status, len(body))
        self.wfile.write(body)

    def start(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        return


class Liar(ThreadingHTTPServer):
    """Answers truly until `turn` is called for a case; it ends with the `with` block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.asked: Counter[str] = Counter()
        self.ended = threading.Event()
        self._answers: dict[str, Answer] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def turn(self, case: str, answer: Answer) -> None:
        self._answers[case] = answer

    def answer_of(self, case: str) -> Answer:
        return self._answers.get(case, says("0"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


# -- answers ------------------------------------------------------------------------------------
def says(*values: str) -> Answer:
    """So many series of one service; always enough samples."""

    def answer(asked: Asked) -> None:
        asked.whole(asked.series(*(("1000",) if asked.about_samples else values)))

    return answer


def warns(value: str) -> Answer:
    """A value made of a part of the data, with Prometheus's own warning."""

    def answer(asked: Asked) -> None:
        asked.whole(asked.series(value), warnings=["remote_read: connection refused"])

    return answer


def drips(value: str) -> Answer:
    """The whole answer, a byte every 50 ms: each read succeeds, and it never ends in time."""

    def answer(asked: Asked) -> None:
        body = json.dumps({"status": "success", "data": asked.series(value)}).encode()
        asked.start(200, len(body))
        for byte in body:
            if asked.server.ended.wait(0.05):
                return
            asked.wfile.write(bytes([byte]))
            asked.wfile.flush()

    return answer


def hangs(asked: Asked) -> None:
    """Nothing at all."""
    asked.server.ended.wait(120)


def half(value: str) -> Answer:
    """The value is answered, the number of samples is not."""

    def answer(asked: Asked) -> None:
        if asked.about_samples:
            asked.send(503, b'{"status":"error","errorType":"timeout","error":"query timed out"}')
        else:
            asked.whole(asked.series(value))

    return answer


def by_turns(first: Answer, then: Answer, what: Callable[[], bool]) -> Answer:
    """One answer while something holds, afterwards the other."""

    def answer(asked: Asked) -> None:
        (first if what() else then)(asked)

    return answer
