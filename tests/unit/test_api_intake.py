"""Alerts over HTTP: hostile bodies, slow and vanishing clients, a busy or full daemon."""

import asyncio
import gzip
import io
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from rollbackd.api import intake as intake_module
from rollbackd.api.intake import BIG, IntakeHandlers
from rollbackd.api.problems import as_problems
from rollbackd.operations import Operations
from tests.fakes.operations import FakeOperations
from tests.fakes.serving import Served, serving

LIMIT = 1024 * 1024


def alert(number: int = 0, /, **labels: str) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {"alertname": "HighErrorRate", "service": "checkout", "number": str(number), **labels},
        "annotations": {"summary": "too many errors"},
        "startsAt": "2026-03-01T12:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": f"{number:016x}",
    }


def webhook(*alerts: dict[str, Any], **more: Any) -> bytes:
    return json.dumps(
        {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "r", "alerts": alerts, **more}
    ).encode()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock", max_body=LIMIT) as served:
        yield served


async def post(served: Served, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    given = {**served.bearer("source"), "Content-Type": "application/json", **headers}
    data = io.BytesIO(body) if isinstance(body, bytes) else body
    async with served.tcp.post(served.url + "/api/v1/alerts", data=data, headers=given) as answer:
        content: dict[str, Any] = await answer.json(content_type=None)
        assert answer.status == 200 or answer.content_type == "application/problem+json"
        return answer.status, content


async def test_it_says_what_became_of_each_alert(served: Served) -> None:
    body = webhook(alert(1), alert(2), alert(2), alert(3, service="unknown"))
    assert await post(served, body) == (200, {"accepted": 3, "duplicates": 0, "unmatched": 1})
    assert await post(served, body) == (200, {"accepted": 0, "duplicates": 3, "unmatched": 1})
    assert served.operations.orders[0] == ("receive", 4, "token:alertmanager")


async def test_a_truncated_group_is_completed_after_it_is_stored(served: Served) -> None:
    await post(served, webhook(alert()))
    await post(served, webhook(alert(), truncatedAlerts=7))
    assert [one.truncated for one in served.operations.completed] == [7]


async def test_what_cannot_be_stored_is_a_503_that_may_be_sent_again(served: Served) -> None:
    served.operations.failing = True
    status, answer = await post(served, webhook(alert()))
    assert status == 503
    assert "disk full" in answer["detail"]
    served.operations.failing = False
    assert (await post(served, webhook(alert())))[1]["accepted"] == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"{}", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000,
        b'{"version":"3","alerts":[]}', b'{"version":"4","alerts":{}}', b'{"version":"4","alerts":[1]}',
        webhook(alert() | {"labels": {"a": 1}}), webhook(alert() | {"labels": "x"}),
        webhook(alert() | {"startsAt": "yesterday"}), webhook(alert() | {"status": "maybe"}),
    ],
    ids=lambda body: body[:30].decode(errors="replace"),
)  # fmt: skip
async def test_a_body_that_is_no_webhook_is_a_400_with_its_reason(served: Served, body: bytes) -> None:
    status, answer = await post(served, body)
    assert status == 400
    assert answer["detail"]
    assert len(answer["detail"]) < 1000
    assert served.operations.orders == []


async def test_one_damaged_alert_is_told_and_the_others_are_taken(served: Served) -> None:
    body = webhook(alert(1), alert(2) | {"startsAt": "yesterday"}, alert(3))
    for _ in range(3):
        status, answer = await post(served, body)
        assert (status, answer["damaged"], answer["unmatched"]) == (200, 1, 0)
        assert answer["why"][0].startswith("alerts[1].startsAt: ")
    ((actor, text),) = served.operations.told
    assert actor == "token:alertmanager"
    assert text.startswith("1 of the alerts that token:alertmanager sent cannot be read: alerts[1].startsAt")
    assert await post(served, webhook(alert(4))) == (200, {"accepted": 1, "duplicates": 0, "unmatched": 0})
    await post(served, body)
    assert len(served.operations.told) == 2


async def test_a_sender_that_is_refused_again_and_again_is_told_once_until_it_is_heard(served: Served) -> None:
    wrong = webhook(alert(), version="3")
    for _ in range(10):
        assert (await post(served, wrong))[0] == 400
    ((actor, text),) = served.operations.told
    assert (actor, "was refused 3 times in a row: this has payload version '3'" in text) == ("token:alertmanager", True)
    assert (await post(served, webhook(alert(), version="1")))[0] == 200
    for _ in range(3):
        await post(served, b"{")
    assert len(served.operations.told) == 2


@pytest.mark.parametrize("encoding", ["zstd", "br", "compress", "gzip, gzip", "zstd, gzip", "x"])
async def test_an_encoding_that_is_not_known_is_a_415_that_says_which_are(served: Served, encoding: str) -> None:
    headers = {**served.bearer("source"), "Content-Type": "application/json", "Content-Encoding": encoding}
    body = io.BytesIO(webhook(alert()))
    async with served.tcp.post(served.url + "/api/v1/alerts", data=body, headers=headers, compress=False) as answer:
        assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "gzip, deflate")
        assert "with `Content-Encoding: gzip` or deflate, not" in (await answer.json(content_type=None))["detail"]


async def test_labels_are_text_of_any_kind_and_length(served: Served) -> None:
    odd = {"long": "x" * (LIMIT - 2000), "markup": "[red]", "control": "\u001b[2J\r\n", "none": "\u0000"}
    status, answer = await post(served, webhook(alert(**odd)))
    assert (status, answer["accepted"]) == (200, 1)
    assert served.operations.received[0].labels["markup"] == "[red]"


async def test_ten_thousand_alerts_come_in_at_once_while_health_answers(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock") as served:
        body = webhook(*(alert(number) for number in range(10_000)))
        assert len(body) > BIG
        posting = asyncio.ensure_future(post(served, body))
        async with served.tcp.get(served.url + "/healthz") as answer:
            assert answer.status == 200
        assert await posting == (200, {"accepted": 10_000, "duplicates": 0, "unmatched": 0})


async def test_too_large_a_body_is_refused_before_it_is_read(served: Served) -> None:
    status, answer = await post(served, b" " * (LIMIT + 1))
    assert (status, served.operations.orders) == (413, [])
    assert f"larger than {LIMIT} bytes" in answer["detail"]


async def test_too_large_a_body_without_a_length_is_refused_when_it_gets_there(served: Served) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 2**16 + 1):
            yield b" " * 2**16

    assert (await post(served, pieces()))[0] == 413


async def test_a_compressed_body_is_read_and_a_bomb_is_not(served: Served) -> None:
    assert (await post(served, gzip.compress(webhook(alert())), **{"Content-Encoding": "gzip"}))[0] == 200
    bomb = zlib.compress(b" " * (64 * LIMIT), 9)
    assert len(bomb) < LIMIT
    assert (await post(served, bomb, **{"Content-Encoding": "deflate"}))[0] == 413


@pytest.mark.parametrize("path", ["/api/v1/alerts", "/api/v1/signals", "/api/v1/changes", "/nowhere"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_nothing_is_unfolded_for_who_is_not_let_in(served: Served, path: str, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(2**27)) * (8 if encoding == "gzip" else 1)
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    began, came = time.process_time(), time.monotonic()
    async with served.tcp.post(served.url + path, data=io.BytesIO(bomb), headers=headers, compress=False) as answer:
        assert answer.status in {401, 404}
    assert time.process_time() - began < 0.25
    assert time.monotonic() - came < 5


async def test_a_bomb_of_who_is_let_in_holds_up_nobody(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 2**27) * 4
    async with serving(tmp_path / "s.sock") as served:
        worst = 0.0
        posting = [asyncio.ensure_future(post(served, bomb, **{"Content-Encoding": "gzip"})) for _ in range(8)]
        while not all(one.done() for one in posting):
            began = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - began)
        assert {status for status, _ in map(asyncio.Future.result, posting)} <= {413, 503}
        assert worst < 0.25


async def test_what_is_not_compressed_as_it_says_is_a_400(served: Served) -> None:
    status, answer = await post(served, b"not gzip at all" * 100, **{"Content-Encoding": "gzip"})
    assert (status, answer["detail"]) == (400, 'the body is not "gzip", as its Content-Encoding says')


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_only_json_is_taken(served: Served, content_type: str) -> None:
    status, answer = await post(served, webhook(alert()), **{"Content-Type": content_type})
    assert status == 415
    assert "Content-Type: application/json" in answer["detail"]


@asynccontextmanager
async def raw(served: Served, head: str, body: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A client that sends these bytes and, at the end, is gone without a goodbye."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    token = served.bearer("source")["Authorization"]
    request = f"POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n{head}\r\n"
    writer.write(request.encode() + body)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.transport.abort()


async def test_a_client_that_vanishes_midway_leaves_nothing_behind(served: Served) -> None:
    whole = webhook(alert())
    async with raw(served, f"Content-Length: {len(whole)}\r\n", whole[:20]):
        pass
    assert (await post(served, whole))[0] == 200
    assert [order[:2] for order in served.operations.orders] == [("receive", 1)]


async def test_a_client_that_vanishes_after_its_body_is_still_stored(served: Served) -> None:
    served.operations.slow = asyncio.Event()
    whole = webhook(alert())
    async with raw(served, f"Content-Length: {len(whole)}\r\n", whole):
        await until(lambda: served.operations.waiting == 1)
    served.operations.slow.set()
    await until(lambda: bool(served.operations.received))


async def test_a_broken_chunk_is_refused(served: Served) -> None:
    async with raw(served, "Transfer-Encoding: chunked\r\n", b'5\r\n{"ver\r\nzz\r\n') as reader:
        assert (await reader.readline()).split()[1] == b"400"
    assert served.operations.orders == []


def bare(
    operations: FakeOperations, max_body: int, read_within: float = 30
) -> tuple[IntakeHandlers, TestClient[web.Request, web.Application]]:
    intake = IntakeHandlers(cast("Operations", operations), max_body, read_within)
    app = web.Application(middlewares=[as_problems])

    async def alerts(request: web.Request) -> web.Response:
        return await intake.alerts(request, "token:a")

    app.router.add_post("/", alerts)
    return intake, TestClient(TestServer(app))


async def test_a_client_too_slow_to_send_its_body_is_told_so() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    never = asyncio.Event()
    _, client = bare(FakeOperations(), LIMIT, read_within=0.05)
    async with client, client.post("/", data=slowly(), headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 408
        assert (await answer.json(content_type=None))["detail"] == "the body did not arrive within 0.05s; send it again"
    never.set()


async def test_too_many_bytes_at_once_are_put_off_and_room_comes_back() -> None:
    operations = FakeOperations()
    operations.slow = asyncio.Event()
    body = webhook(alert())
    intake, client = bare(operations, max_body=len(body))
    headers = {"Content-Type": "application/json"}
    async with client:
        two = [asyncio.ensure_future(client.post("/", data=body, headers=headers)) for _ in range(2)]
        await until(lambda: intake.in_flight == (2, 2 * len(body)))
        third = await client.post("/", data=body, headers=headers)
        assert (third.status, third.headers["Retry-After"]) == (503, "1")
        operations.slow.set()
        assert [(await one).status for one in two] == [200, 200]
        assert (await client.post("/", data=body, headers=headers)).status == 200
    assert intake.in_flight == (0, 0)


async def test_too_many_requests_at_once_are_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MOST_REQUESTS", 1)
    operations = FakeOperations()
    operations.slow = asyncio.Event()
    intake, client = bare(operations, LIMIT)
    headers = {"Content-Type": "application/json"}
    async with client:
        first = asyncio.ensure_future(client.post("/", data=webhook(alert()), headers=headers))
        await until(lambda: intake.in_flight[0] == 1)
        assert (await client.post("/", data=webhook(alert()), headers=headers)).status == 503
        operations.slow.set()
        assert (await first).status == 200
