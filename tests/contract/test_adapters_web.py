"""An adapter's requests: bounded, never led elsewhere, never repeated by themselves."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Release
from rollbackd.system.spawner import Spawner
from rollbackd.testing import finish, place
from rollbackd_adapters import web

LIMIT = timedelta(seconds=5)


class _Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, bytes]]

    def log_message(self, *_: Any) -> None:
        pass

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, body))
        name = self.path.partition("?")[0]
        if name == "/hangs":
            threading.Event().wait(2)
        onward = {"/moved": "/here?x=1", "/round": "/round", "/nowhere": "http://[no"}
        self.send_response(302 if name in onward else 200)
        self.send_header("Location", onward.get(name, ""))
        said = b"x" * (web.LARGEST + 1) if name == "/endless" else b"no json"
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        try:
            self.wfile.write(said)
        except OSError:
            return

    do_GET = do_PUT = do_POST = _any


@pytest.fixture
def url() -> Iterator[str]:
    _Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def asked(path: Path, where: str, limit: timedelta = LIMIT, **words: str) -> web.HttpReply:
    return finish(web.ask(web.Question(url=where), place(path), words, limit))


def test_a_redirect_on_the_same_host_is_followed_for_a_question_only(tmp_path: Path, url: str) -> None:
    assert asked(tmp_path, f"{url}/moved").ok
    assert [path for _, path, _ in _Handler.seen] == ["/moved", "/here?x=1"]
    answer = finish(web.call(web.Call(url=f"{url}/moved"), place(tmp_path), {}, LIMIT))
    with pytest.raises(AdapterError, match="answered 302; a redirect is not followed") as refused:
        web.accepted(answer, place(tmp_path))
    assert refused.value.permanent
    with pytest.raises(AdapterError, match="more than 3 redirects"):
        asked(tmp_path, f"{url}/round")


def test_an_answer_without_end_and_one_that_never_comes_are_ended(tmp_path: Path, url: str) -> None:
    with pytest.raises(AdapterError, match="longer than 1 MiB") as failed:
        asked(tmp_path, f"{url}/endless")
    assert not failed.value.permanent
    with pytest.raises(AdapterError, match=r"/hangs: no answer within 200ms") as failed:
        asked(tmp_path, f"{url}/hangs", timedelta(milliseconds=200))
    assert not failed.value.permanent
    with pytest.raises(AdapterError, match="is not JSON"):
        asked(tmp_path, url).json()


def test_what_a_call_is_told_at_length_does_not_hide_that_it_was_done(tmp_path: Path, url: str) -> None:
    answer = finish(web.call(web.Call(url=f"{url}/endless"), place(tmp_path), {}, LIMIT))
    assert (answer.status, len(answer.body)) == (200, web.LARGEST)


def test_a_redirect_to_nowhere_is_an_answer_that_is_refused(tmp_path: Path, url: str) -> None:
    assert asked(tmp_path, f"{url}/nowhere").status == 302


def test_what_comes_back_is_quoted_without_our_secrets_and_only_then_cut(tmp_path: Path) -> None:
    clean = Spawner(tmp_path / "locks", secrets=["s3cret-of-the-web"]).clean
    for padding in range(0, 80, 7):
        body = b"x" * padding + b"s3cret-of-the-web and so on, and on and on"
        with pytest.raises(AdapterError, match="is not JSON") as failed:
            web.HttpReply(200, body, "GET http://h/", clean).json()
        assert "s3cret" not in str(failed.value)
    with pytest.raises(AdapterError, match="is not JSON"):
        web.HttpReply(200, b"[" * 100_000, "GET http://h/").json()


def test_words_are_values_and_nothing_else(tmp_path: Path, url: str) -> None:
    change = Change("code", Release("a/b"), Release('x", "y": "?&#'), key="shop-1/0/code")
    words = web.words_of(place(tmp_path, service="shop"), change=change)
    call = web.Call(
        url=f"{url}/go/{{before}}?to={{after}}", method="PUT", body={"{service}": ["{after}", 1, None, "{key}"]}
    )
    finish(web.call(call, place(tmp_path), words, LIMIT))
    ((_, path, body),) = _Handler.seen
    parts = urlsplit(path)
    assert (parts.path, parse_qs(parts.query), parts.fragment) == ("/go/a%2Fb", {"to": [change.after.id]}, "")
    assert body == b'{"shop": ["x\\", \\"y\\": \\"?&#", 1, null, "shop-1/0/code"]}'
    with pytest.raises(AdapterError, match=r'\{service\} is "\.\.", which cannot be part of a URL') as refused:
        asked(tmp_path, f"{url}/{{service}}/x", service="..")
    assert refused.value.permanent


def test_who_cannot_be_reached_is_named_without_what_the_query_says(tmp_path: Path) -> None:
    async def free_port() -> int:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return port

    port = asyncio.run(free_port())
    with pytest.raises(AdapterError) as failed:
        asked(tmp_path, f"http://127.0.0.1:{port}/x?token=hush")
    assert str(failed.value).startswith(f"GET http://127.0.0.1:{port}/x: cannot be reached")
    assert "hush" not in str(failed.value)
    assert not failed.value.permanent
