"""The back end of Career Hero: proposes professions, and with retrieval switched on the sources that it read.

Usage: career.py PORT ENV_FILE INDEX_DIRECTORY FRONT_END. `/` is its page and `/advice` its main flow; `/session` begins
a session, refreshes it and says whose it is; `/kb` has the knowledge base, `/profiles` counts those of the database
`data/career.db` beside the back end. `/health` says what is switched on.
"""

import hmac
import json
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter, deque
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RELEASE: dict[str, Any] = json.loads((Path(__file__).parent / "release.json").read_text())
DATABASE = Path(__file__).parents[1] / "data/career.db"
GUEST = "guest"
MINUTE = 60


class Refused(Exception):  # noqa: N818  # an answer
    """Anything but a 200."""

    def __init__(self, code: int, error: str) -> None:
        super().__init__(error)
        self.code = code


def switches(path: Path) -> dict[str, str]:
    """The env file, one bare `NAME=value` a line."""
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def profiles() -> int:
    """How many there are in the database."""
    with closing(sqlite3.connect(DATABASE)) as database:
        return int(database.execute("SELECT count(*) FROM profiles").fetchone()[0])


class Career(ThreadingHTTPServer):
    """The server with its switches, as they were when it started."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, env: Path, index: Path, front: Path) -> None:
        super().__init__(("127.0.0.1", port), Request)
        given = switches(env)
        self.auth = given["AUTH_MODE"]
        self.key = given["SESSION_KEY"].encode()
        self.retrieval = given["RAG_ENABLED"] == "true"
        self.index = index / f"{given['RAG_INDEX_VERSION']}.json"
        self.kb = given["KB_ENABLED"] == "true"
        self.kb_index = index / f"{given['KB_INDEX_VERSION']}.json"
        self.writes = given["KB_WRITE_MODE"] == "open"
        self.limit = int(given["RATE_LIMIT"])
        self.front = front
        self.notes: deque[tuple[float, str]] = deque(maxlen=1000)
        self.codes: Counter[int] = Counter()
        self.retrieved = [0, 0.0]
        """How often, and seconds."""
        self.lock = threading.Lock()

    # -- what it is asked -------------------------------------------------------------------------
    def health(self) -> dict[str, Any]:
        return {
            "release": RELEASE["release"],
            "contract": RELEASE["contract"],
            "auth": self.auth,
            "retrieval": self.index.stem if self.retrieval else "off",
            "kb": self.kb_index.stem if self.kb else "off",
            "writes": "open" if self.writes else "readonly",
        }

    def page(self) -> str:
        return (self.front / "index.html").read_text().replace("$profession", RELEASE["matches"][0])

    def advice(self) -> dict[str, Any]:
        first = RELEASE["matches"][0]
        return {"profession": first, "sources": self.sources(first), "degraded": not self.retrieval}

    def sources(self, profession: str) -> list[Any]:
        if not self.retrieval:
            return []
        began = time.monotonic()
        time.sleep(RELEASE.get("pause", 0))
        found: list[Any] = json.loads(self.index.read_text())[profession]
        with self.lock:
            self.retrieved = [self.retrieved[0] + 1, self.retrieved[1] + time.monotonic() - began]
        return found

    def known(self) -> dict[str, Any]:
        """Which documents the knowledge base has, each with its chunks."""
        documents = json.loads(self.kb_index.read_text()) if self.kb else {}
        return {"documents": documents, "notes": [text for _, text in self.notes], "degraded": not self.kb}

    def write(self, text: str) -> dict[str, Any]:
        if not self.writes:
            raise Refused(403, "the knowledge base is read only")
        now = time.monotonic()
        with self.lock:
            if sum(now - at < MINUTE for at, _ in self.notes) >= self.limit:
                raise Refused(429, "too many writes a minute")
            self.notes.append((now, text))
        return {"written": text}

    # -- sessions ---------------------------------------------------------------------------------
    def session(self, user: str) -> dict[str, Any]:
        return {"session": GUEST if self.auth == "legacy" else f"{user}.{self.signature(user)}"}

    def signature(self, user: str) -> str:
        return hmac.new(self.key, user.encode(), RELEASE.get("digest", "sha256")).hexdigest()

    def user(self, session: str) -> str:
        """Whose session it is. Legacy knows guests alone; hybrid takes either."""
        user, _, signature = session.removeprefix("Bearer ").rpartition(".")
        if self.auth != "session" and not user:
            return GUEST
        if self.auth == "legacy" or not hmac.compare_digest(signature, self.signature(user)):
            raise Refused(401, "no valid session")
        return user

    def refreshed(self, session: str) -> dict[str, Any]:
        if RELEASE.get("refresh", "works") != "works":
            if self.auth == "session":
                raise Refused(401, "cannot be refreshed")
            return {"session": GUEST}
        return self.session(self.user(session))

    def metrics(self) -> str:
        lines = [f'http_requests_total{{code="{code}"}} {count}' for code, count in sorted(self.codes.items())]
        count, seconds = self.retrieved
        return "\n".join([*lines, f"retrieval_seconds_count {count}", f"retrieval_seconds_sum {seconds}"]) + "\n"


class Request(BaseHTTPRequestHandler):
    """One request."""

    server: Career

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

    def said(self, body: dict[str, Any]) -> Any:
        """What is answered. :raises Refused: something else than a 200."""
        server, session = self.server, self.headers.get("Authorization", "")
        match (self.command, self.path):
            case ("GET", "/"):
                return server.page()
            case ("GET", "/health"):
                return server.health()
            case ("GET", "/metrics"):
                return server.metrics()
            case ("GET", "/advice"):
                return server.advice()
            case ("GET", "/profiles"):
                return {"profiles": profiles()}
            case ("GET", "/kb"):
                return server.known()
            case ("POST", "/kb"):
                return server.write(str(body["text"]))
            case ("POST", "/session"):
                return server.session(str(body["user"]))
            case ("POST", "/session/refresh"):
                return server.refreshed(session)
            case ("GET", "/session"):
                return {"user": server.user(session)}
        raise Refused(404, "nothing here")

    def answer(self, body: dict[str, Any]) -> None:
        try:
            code, said = 200, self.said(body)
        except Refused as error:
            code, said = error.code, {"error": str(error)}
        except Exception as error:  # noqa: BLE001  # whatever fails is this request's failure
            code, said = 500, {"error": f"{type(error).__name__}: {error}"}
        if self.path not in {"/metrics", "/health"}:
            with self.server.lock:
                self.server.codes[code] += 1
        text = (said if isinstance(said, str) else json.dumps(said)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if isinstance(said, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Career(int(sys.argv[1]), *(Path(one) for one in sys.argv[2:5])).serve_forever()
