"""A stand-in for Prometheus, in a process of its own: the same recorded answer to every query, at the present time."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.alerts import service_name


def recorded(series: int) -> bytes:
    """What Prometheus answers to `sum by (service, env) (…) / sum by (service, env) (…)`; one in a hundred is sick."""
    at = round(time.time(), 3)
    result = [
        {
            "metric": {"service": service_name(number), "env": "prod"},
            "value": [at, "0.34" if number % 100 == 0 else f"0.00{number % 97 + 1:02}8264462809917"],
        }
        for number in range(series)
    ]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    do_POST = do_GET  # noqa: N815  # the base class looks for this name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its base class names it so
        """Nothing is logged."""


def main() -> None:
    """Serve on the port that is the first argument, an answer of as many series as the second says."""
    _Handler.answer = recorded(int(sys.argv[2]))
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()


if __name__ == "__main__":
    main()
