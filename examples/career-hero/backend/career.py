"""The back end of Career Hero: proposes professions, and with retrieval switched on the sources that it read.

Usage: career.py PORT ENV_FILE INDEX_DIRECTORY. `/advice` is its main flow; `/health` says what is switched on.
"""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RELEASE: dict[str, Any] = json.loads((Path(__file__).parent / "release.json").read_text())


def switches(path: Path) -> dict[str, str]:
    """The env file, one bare `NAME=value` a line."""
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


class Career(ThreadingHTTPServer):
    """The server with its switches, as they were when it started."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, env: Path, index: Path) -> None:
        super().__init__(("127.0.0.1", port), Request)
        given = switches(env)
        self.retrieval = given["RAG_ENABLED"] == "true"
        self.index = index / f"{given['RAG_INDEX_VERSION']}.json"

    def health(self) -> dict[str, Any]:
        retrieval = self.index.stem if self.retrieval else "off"
        return {"release": RELEASE["release"], "contract": RELEASE["contract"], "retrieval": retrieval}

    def advice(self) -> dict[str, Any]:
        first = RELEASE["matches"][0]
        sources = json.loads(self.index.read_text())[first] if self.retrieval else []
        return {"profession": first, "sources": sources, "degraded": not self.retrieval}


class Request(BaseHTTPRequestHandler):
    """One request."""

    server: Career

    def do_GET(self) -> None:
        try:
            code, said = 200, self.server.advice() if self.path == "/advice" else self.server.health()
        except Exception as error:  # noqa: BLE001  # whatever fails is this request's failure
            code, said = 500, {"error": f"{type(error).__name__}: {error}"}
        body = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Career(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).serve_forever()
