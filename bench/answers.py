"""A stand-in for Prometheus, in a process of its own: the same recorded answer to every query, at the present time.

A query that counts requests alone is told of nearly one for each service.
"""

import json
import sys
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from bench.alerts import service_name

REQUESTS = "sum by (service, env) (increase(requests_total[1m]))"


def recorded(series: int) -> bytes:
    """What Prometheus answers to `sum by (service, env) (…) / sum by (service, env) (…)`; one in a hundred is sick."""
    return _answer(
        "0.34" if number % 100 == 0 else f"0.00{number % 97 + 1:02}8264462809917" for number in range(series)
    )


def _answer(values: Iterable[str]) -> bytes:
    at = round(time.time(), 3)
    result = [
        {"metric": {"service": service_name(number), "env": "prod"}, "value": [at, value]}
        for number, value in enumerate(values)
    ]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = b""
    requests = b""

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query).get("query", [""])[0]
        answer = self.requests if asked == REQUESTS else self.answer
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815  # the base class looks for this name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its base class names it so
        """Nothing is logged."""


def main() -> None:
    """Serve on the port that is the first argument, an answer of as many series as the second says."""
    series = int(sys.argv[2])
    _Handler.answer, _Handler.requests = recorded(series), _answer(["0.9"] * series)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()


if __name__ == "__main__":
    main()
