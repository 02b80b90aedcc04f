"""The client that notifiers, checks, adapters and Alertmanager ask with: its bounds, and what a failure is."""

import asyncio
import gzip
import ssl
import time
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from rollbackd.system.http_client import (
    HttpError,
    HttpFailure,
    HttpSession,
    body_of,
    http_answer,
    is_transient,
    lines_of,
    lone_session,
    words_of,
)
from tests.fakes.pages import Handler, serving
from tests.fakes.smtp import make_certificate
from tests.servers import free_port

LIMIT = timedelta(seconds=5)


async def saying_much(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"x" * 300_000)


async def hanging(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def cut_short(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"[")
    assert request.transport is not None
    request.transport.close()
    return response


async def failure(url: str, limit: timedelta = LIMIT, headers: dict[str, str] | None = None) -> HttpError:
    async with lone_session() as session:
        with pytest.raises(HttpError) as failed:
            async with http_answer(session, "GET", url, limit=limit, headers=headers) as answer:
                await body_of(answer, 1000)
    assert failed.value.cause is failed.value.__cause__
    return failed.value


@pytest.mark.parametrize(("largest", "whole"), [(300_000, True), (299_999, False), (1000, False)])
async def test_a_body_is_read_to_its_bound_and_a_piece_at_most(largest: int, whole: bool) -> None:
    async with serving(saying_much) as url, lone_session() as session, http_answer(session, "GET", url) as answer:
        body, all_of_it = await body_of(answer, largest)
    assert all_of_it is whole
    assert (len(body) == 300_000) if whole else (largest < len(body) <= largest + 2**16)


async def test_what_is_awaited_to_the_end_is_not_kept() -> None:
    async with serving(saying_much) as url, lone_session() as session, http_answer(session, "GET", url) as answer:
        body, whole = await body_of(answer, 1000, to_the_end=True)
        assert answer.content.at_eof()
    assert not whole
    assert 1000 < len(body) <= 1000 + 2**16


def packed(body: bytes, encoding: str) -> Handler:
    """An answer that is packed, whether somebody asked for that or not."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Encoding": encoding})

    return handler


@pytest.mark.parametrize("to_the_end", [False, True])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
async def test_what_unfolds_is_counted_unfolded(encoding: str, to_the_end: bool) -> None:
    pack = zlib.compress if encoding == "deflate" else gzip.compress
    small = serving(packed(pack(b"all is well"), encoding))
    async with small as url, lone_session() as session, http_answer(session, "GET", url) as answer:
        assert await body_of(answer, 100, to_the_end=to_the_end) == (b"all is well", True)
    bomb = pack(bytes(2**27)) * 4
    async with serving(packed(bomb, encoding)) as url, lone_session() as session:
        async with http_answer(session, "GET", url) as answer:
            began = time.process_time()
            body, whole = await body_of(answer, 1000, to_the_end=to_the_end)
            assert time.process_time() - began < 0.25
        assert (whole, 1000 < len(body) <= 1000 + 2**18) == (False, True)
        async with http_answer(session, "GET", url) as answer:
            assert len(await words_of(answer)) == 2048


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x" * 500])
async def test_what_is_packed_otherwise_than_asked_or_said_is_broken_off(encoding: str) -> None:
    async with serving(packed(b"\xffplain", encoding)) as url, lone_session() as session:
        failed = await failure(url)
        assert failed.failure is HttpFailure.BROKEN_OFF
        assert len(str(failed)) < 200
        async with http_answer(session, "GET", url) as answer:
            assert await words_of(answer) == ""


async def lines(body: bytes, encoding: str = "", longest: int = 100_000) -> list[bytes]:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Encoding": encoding} if encoding else None)

    async with serving(handler) as url, lone_session() as session, http_answer(session, "GET", url) as answer:
        return [line async for line in lines_of(answer, longest)]


async def test_lines_are_told_apart_wherever_the_pieces_end() -> None:
    said = [b"x" * 90_000, b"", b"y" * 70_000, b"the last one has no end"]
    assert await lines(b"\n".join(said)) == said
    assert await lines(gzip.compress(b"\n".join(said)), "gzip") == said


async def test_a_line_without_an_end_is_given_up() -> None:
    with pytest.raises(HttpError, match="the answer broke off: a line is longer than 1 MiB"):
        await lines(b"x" * 3 * 2**20, longest=2**20)
    with pytest.raises(HttpError, match="the answer broke off: it is packed as br"):
        await lines(b"x", "br")


@pytest.mark.parametrize("name", ["Accept-Encoding", "accept-encoding"])
async def test_who_asks_may_want_another_encoding(name: str) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(text=str(request.headers.getall("Accept-Encoding")))

    async with serving(echo) as url, lone_session() as session:
        async with http_answer(session, "GET", url) as answer:
            assert await words_of(answer) == "['gzip, deflate']"
        async with http_answer(session, "GET", url, headers={name: "identity"}) as answer:
            assert await words_of(answer) == "['identity']"


@pytest.mark.parametrize("handler", [hanging, dripping])
async def test_the_limit_is_for_all_of_the_answer(handler: Handler) -> None:
    async with serving(handler) as url:
        failed = await failure(url, timedelta(milliseconds=200))
    assert (failed.failure, str(failed), failed.transient) == (HttpFailure.LATE, "no answer within 200ms", True)


async def test_what_ends_early_is_broken_off() -> None:
    async with serving(cut_short) as url:
        failed = await failure(url)
    assert failed.failure is HttpFailure.BROKEN_OFF
    assert str(failed) == "the answer broke off: less came than was announced"


async def test_who_does_not_listen_is_not_reached_and_the_query_is_not_said() -> None:
    failed = await failure(f"http://127.0.0.1:{free_port()}/?token=hush")
    assert failed.failure is HttpFailure.UNREACHED
    assert str(failed).startswith("cannot be reached: ")
    assert "hush" not in str(failed)


async def test_what_is_no_http_and_a_certificate_of_nobody_are_told_apart(tmp_path: Path) -> None:
    async def mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"what?\r\n\r\n")
        writer.close()

    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    for scheme, tls, expected in (("http", None, HttpFailure.NOT_HTTP), ("https", context, HttpFailure.UNTRUSTED)):
        server = await asyncio.start_server(mumble, "127.0.0.1", 0, ssl=tls)
        failed = await failure(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        server.close()
        assert (failed.failure, failed.transient) == (expected, True)


@pytest.mark.parametrize(
    ("url", "headers", "expected"),
    [
        ("http://[", {}, HttpFailure.NO_URL),
        ("http://ann:secret@127.0.0.1:1/", {"Authorization": "Bearer x"}, HttpFailure.UNSENDABLE),
        ("http://127.0.0.1:1/", {"X-Fleet": "eu\r\nX-Other: 1"}, HttpFailure.UNSENDABLE),
    ],
)
async def test_only_what_cannot_be_sent_is_no_use_to_try_again(
    url: str, headers: dict[str, str], expected: HttpFailure
) -> None:
    async with serving(saying_much) as served:
        failed = await failure(url.replace("http://127.0.0.1:1", served), headers=headers)
    assert (failed.failure, failed.transient) == (expected, False)


async def test_a_redirect_is_an_answer_unless_it_is_to_be_followed() -> None:
    async def moved(request: web.Request) -> web.StreamResponse:
        there = request.path == "/there"
        return web.Response(text="here") if there else web.Response(status=302, headers={"Location": "/there"})

    async with serving(moved) as url, lone_session() as session:
        async with http_answer(session, "GET", url) as answer:
            assert answer.status == 302
        async with http_answer(session, "GET", url, redirects=5) as answer:
            assert (answer.status, await words_of(answer, ["he", ""])) == (200, "***re")


async def test_a_session_is_made_when_it_is_needed_and_again_after_its_end() -> None:
    session = HttpSession()
    await session.close()
    first = session()
    assert session() is first
    await session.close()
    second = session()
    assert second is not first
    await session.close()


def test_refusals_that_pass_are_these() -> None:
    assert [status for status in range(100, 600) if is_transient(status)] == [408, 423, 425, 429, *range(500, 600)]
