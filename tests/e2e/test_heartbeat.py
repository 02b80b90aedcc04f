"""A dead man's switch outside of the host hears every minute that all is well, and nothing while it is not."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

from tests.e2e.ops_host import body
from tests.e2e.toy import toy
from tests.servers import wait_until

SPEED = 60
"""A minute is a second."""


@contextmanager
def switch() -> Iterator[tuple[str, list[float]]]:
    """Its address, and when it was called; it refuses every other call, which changes nothing."""
    called: list[float] = []

    class Request(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            called.append(time.monotonic())
            self.send_response(200 if len(called) % 2 else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/ping", called
        server.shutdown()
        thread.join(timeout=10)


def test_it_is_called_every_minute_while_all_is_well_and_not_while_it_is_not(tmp_path: Path) -> None:
    with switch() as (url, called), toy(tmp_path / "shop", daemon={"heartbeat": url, "look_every": "30s"}) as shop:
        shop.start("--speed", str(SPEED))

        def ready() -> bool:
            return body(f"http://127.0.0.1:{shop.port}/readyz", **shop.headers)[0] == 200

        wait_until(lambda: len(called) >= 4, "it is called")
        between = [later - earlier for earlier, later in pairwise(called)]
        assert min(between) > 0.5, "once a minute"
        look = shop.root / "look"
        look.rename(look.with_name("gone"))
        wait_until(lambda: not ready(), "a layer cannot be looked at")
        known, began = len(called), time.monotonic()
        wait_until(lambda: time.monotonic() - began > 3, "three minutes go by")
        assert len(called) <= known + 1, "one may have been under way"
        look.with_name("gone").rename(look)
        wait_until(ready, "it can again")
        wait_until(lambda: len(called) > known + 1, "and is called again")
        assert "the heartbeat was refused" in shop.log
        shop.stop(kill=True)
