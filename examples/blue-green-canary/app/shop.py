"""All pods of the shop, as small as can be: `shop.py IP IMAGE`. The image's name says what it is, and how it serves.

`api:TAG` is the back end, `front:TAG` the front end, `orders:TAG` keeps the orders. Words in the tag: `5xx` fails every
second time, `slow` takes its time, `crashing` ends at once, `tiring` says three times that it is well and then no more,
`contract2` speaks the next version of the contract, and still answers by the one before it.
"""

import json
import os
import socket
import sys
import threading
import time
import urllib.request
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 8080
NAME, _, TAG = sys.argv[2].rpartition("/")[2].partition(":")
CONTRACT = 2 if "contract2" in TAG else 1
SECONDS = float(os.environ.get("SLOW_SECONDS", "3")) if "slow" in TAG else 0
READY = {"/health", "/contract"}


def sessions() -> None:
    """Ask the store of sessions whether it is there. :raises OSError: it is not."""
    host, _, port = os.environ["REDIS"].rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=1)) as redis:
        redis.settimeout(1)
        redis.sendall(b"PING\r\n")
        if not redis.recv(64).startswith(b"+PONG"):
            raise OSError("the store of sessions does not answer")


def asked(path: str) -> str:
    """What the back end answers. :raises OSError: it does not."""
    with urllib.request.urlopen(os.environ["BACK_END"] + path, timeout=5) as answer:
        return str(answer.read().decode())


class Pod(BaseHTTPRequestHandler):
    """One request."""

    asked = count = 0
    lock = threading.Lock()
    """Of the database's connection."""
    database: Any = None

    def do_GET(self) -> None:
        self.served()

    def do_POST(self) -> None:
        self.served()

    def served(self) -> None:
        if self.path in READY:
            return self.tried(getattr(self, self.path.removeprefix("/")))
        Pod.count += 1
        time.sleep(SECONDS)
        if "5xx" in TAG and Pod.count % 2:
            return self.failed("this release does that")
        return self.tried(getattr(self, NAME))

    def tried(self, answer: Any) -> None:
        try:
            self.answered(200, answer())
        except OSError as error:
            self.failed(str(error))

    # -- what it says ---------------------------------------------------------------------------
    def health(self) -> str:
        Pod.asked += 1
        if "tiring" in TAG and Pod.asked > 3:
            raise OSError("tired")
        return json.dumps({"status": "ok", "release": TAG})

    def contract(self) -> str:
        """Which version it speaks; the front end asks the other side, too."""
        back = json.loads(asked("/contract"))["speaks"] if NAME == "front" else CONTRACT
        return json.dumps({"speaks": CONTRACT, "back": back, "agree": back == CONTRACT})

    def api(self) -> str:
        sessions()
        return f"shoes, by contract {' and '.join(map(str, range(1, CONTRACT + 1)))}"

    def front(self) -> str:
        page = asked("/shoes")
        if str(CONTRACT) not in page.rpartition("contract ")[2].split(" and "):
            raise OSError("the back end speaks another contract")
        return f"The shop has {page}"

    def orders(self) -> str:
        """The number of the order, by POST; else how many there are."""
        import psycopg

        with Pod.lock:
            try:
                if Pod.database is None:
                    Pod.database = psycopg.connect(os.environ["DATABASE"], autocommit=True, connect_timeout=2)
                wanted = "SELECT count(*) FROM orders"
                if self.command == "POST":
                    wanted = "INSERT INTO orders (net, customer) VALUES (100, 'ann@customers.example') RETURNING id"
                return str(Pod.database.execute(wanted).fetchone()[0])
            except psycopg.Error as error:
                Pod.database = None
                raise OSError(f"the database: {error}") from error

    # -- answering ------------------------------------------------------------------------------
    def failed(self, why: str) -> None:
        print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), "ERROR", NAME, TAG, " ".join(why.split()), flush=True)
        self.answered(500, why)

    def answered(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Only errors are logged."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    if "crashing" in TAG:
        raise SystemExit(f"{sys.argv[2]} cannot start")
    Server((sys.argv[1], PORT), Pod).serve_forever()
