"""The Prometheus client against servers that misbehave: every one of them is a problem in a sentence, in time."""

import asyncio
import gzip
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.signals import prometheus, query_answers, query_threads
from rollbackd.signals.prometheus import Prometheus, QueryAnswer
from rollbackd.signals.query_answers import (
    AlertingRule,
    RangeSeries,
    Series,
    Unusable,
    instant_series,
    one_of_replicas,
    one_range_of_replicas,
    own_rules,
    range_series,
    whole_data,
)
from rollbackd.signals.query_threads import QueryThread
from rollbackd.system.clock import SystemClock
from tests.servers import free_port

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
LIMIT = timedelta(milliseconds=400)
SLACK = 3.0
"""Seconds; a busy machine."""
AT = 1_700_000_000.125


def vector(*series: tuple[dict[str, str], str], **more: Any) -> bytes:
    result = [{"metric": labels, "value": [AT, value]} for labels, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}, **more}).encode()


def response(
    body: bytes, status: str = "200 OK", kind: str = "application/json", more: Mapping[str, str] | None = None
) -> bytes:
    head = {"Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


class Fake:
    """A server that answers each request as its handler says, and counts them."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[str] = []
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head.split(b" ")[1].decode())
                await self.handler(self.requests[-1], writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def asking(
    handler: Handler, limit: timedelta = LIMIT, replica_labels: Sequence[str] = ()
) -> AsyncIterator[tuple[Prometheus, Fake]]:
    fake = Fake(handler)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Prometheus(f"http://127.0.0.1:{port}/", limit, SystemClock(), replica_labels=replica_labels)
    try:
        yield client, fake
    finally:
        await client.close()
        server.close()
        await until(lambda: fake.open == 0, "the connections end")


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


def saying(answer: bytes) -> Handler:
    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return handler


async def forever(_: str, __: asyncio.StreamWriter) -> None:
    """Takes the request and says nothing; the connection stays until the other side ends it."""


NOTES = st.one_of(
    st.text(max_size=60).map("PromQL info: {}".format),
    st.integers(0, 10**6).map("{} more annotations omitted".format),
    st.integers(0, 10**6).map("{} more info annotations omitted".format),
)
DOUBTS = st.one_of(
    st.text(max_size=60).map("PromQL warning: {}".format),
    st.sampled_from(["store a is down", "remote_read: timeout", "3 more warning annotations omitted", "", "info"]),
    st.integers(),
)


@given(st.lists(NOTES, max_size=12), st.lists(DOUBTS, max_size=3), st.randoms())
def test_notes_among_the_warnings_are_no_doubt_and_hide_none(
    notes: list[str], doubts: list[object], random: Random
) -> None:
    warnings = [*notes, *doubts]
    random.shuffle(warnings)
    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}, "warnings": warnings})
    if not doubts:
        assert whole_data(body.encode()) == {"resultType": "vector", "result": []}
        return
    with pytest.raises(Unusable, match="came with warnings") as error:
        whole_data(body.encode())
    assert "PromQL info" not in str(error.value)


async def test_a_vector_becomes_series_with_labels_value_and_time() -> None:
    async with asking(saying(response(vector(({"service": "checkout"}, "0.25"), ({}, "3"))))) as (client, fake):
        answer = await client.instant('up{a="b c"}')
    assert answer.problem == ""
    assert [(series.labels, series.value) for series in answer.series] == [({"service": "checkout"}, 0.25), ({}, 3.0)]
    assert answer.series[0].at == datetime.fromtimestamp(AT, UTC)
    assert fake.requests[0].startswith("/api/v1/query?query=up%7Ba%3D%22b+c%22%7D")
    assert "timeout=400ms" in fake.requests[0]


async def test_a_time_is_passed_on_to_the_millisecond() -> None:
    async with asking(saying(response(vector()))) as (client, fake):
        await client.instant("up", datetime.fromtimestamp(AT, UTC))
    assert f"time={AT!r}" in fake.requests[0]


async def test_an_empty_vector_is_an_answer_without_series() -> None:
    async with asking(saying(response(vector()))) as (client, _):
        assert await client.instant("up") == QueryAnswer()


async def test_a_scalar_is_one_series_without_labels() -> None:
    body = {"status": "success", "data": {"resultType": "scalar", "result": [AT, "7"]}}
    async with asking(saying(response(json.dumps(body).encode()))) as (client, _):
        answer = await client.instant("scalar(x)")
    assert [(series.labels, series.value) for series in answer.series] == [({}, 7.0)]


async def test_what_is_no_finite_number_is_kept_for_the_rules_to_judge() -> None:
    async with asking(saying(response(vector(({}, "NaN"), ({}, "+Inf"), ({}, "-Inf"))))) as (client, _):
        values = [series.value for series in (await client.instant("x")).series]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


async def test_a_range_becomes_points_oldest_first() -> None:
    matrix = {"resultType": "matrix", "result": [{"metric": {"a": "b"}, "values": [[AT, "1"], [AT + 15, "NaN"]]}]}
    body = json.dumps({"status": "success", "data": matrix}).encode()
    start = datetime.fromtimestamp(AT, UTC)
    async with asking(saying(response(body))) as (client, fake):
        answer = await client.range("x", start, start + timedelta(seconds=30), timedelta(seconds=15))
    assert answer.problem == ""
    assert answer.series[0].labels == {"a": "b"}
    assert answer.series[0].points[0] == (start, 1.0)
    assert math.isnan(answer.series[0].points[1][1])
    assert "/api/v1/query_range?" in fake.requests[0]
    assert "step=15.000" in fake.requests[0]


async def test_infos_are_no_problem_and_a_packed_answer_is_read() -> None:
    body = gzip.compress(vector(({}, "1"), infos=["PromQL info: metric might not be a counter"]))
    async with asking(saying(response(body, more={"Content-Encoding": "gzip"}))) as (client, _):
        assert (await client.instant("x")).series[0].value == 1.0


REFUSED = {
    "warnings with data": (
        response(vector(({}, "1"), warnings=["store a is down"])),
        "warnings, so it may be partial: store a",
    ),
    "marked as partial": (response(vector(({}, "1"), isPartial=True)), "the answer is partial"),
    "an error with 200": (response(b'{"status":"error","data":{},"error":"x"}'), "status is error, not success"),
    "a bad query": (
        response(b'{"status":"error","errorType":"bad_data","error":"parse error: unexpected end"}', "400 Bad Request"),
        "answered 400, bad_data: parse error: unexpected end",
    ),
    "unavailable": (response(b"try later", "503 Service Unavailable", "text/plain"), "answered 503"),
    "a server error": (response(b"", "500 Internal Server Error"), "answered 500"),
    "a login page": (response(b"<html>", kind="text/html"), "answered with text/html, not with JSON"),
    "no type": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "answered with nothing, not with JSON"),
    "out of a cache": (
        response(vector(({}, "1")), more={"Age": "60"}),
        "answered from a cache that has had it for 60s",
    ),
    "a redirect": (response(b"", "302 Found", more={"Location": "/elsewhere"}), "answered 302, a redirect"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
    "truncated JSON": (response(vector(({}, "1"))[:-20]), "the answer is no JSON"),
    "a body cut short": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\nConnection: close\r\n\r\n{",
        "no answer",
    ),
    "a list": (response(b"[]"), "has no `data`"),
    "a string result": (
        response(b'{"status":"success","data":{"resultType":"string","result":[1,"a"]}}'),
        "the query's result is a string, not a vector",
    ),
    "a matrix": (
        response(b'{"status":"success","data":{"resultType":"matrix","result":[]}}'),
        "the query's result is a matrix, not a vector",
    ),
    "a native histogram": (
        response(b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{}]}]}}'),
        "something other than numbers (no 'value')",
    ),
    "no number": (response(vector(({}, "many"))), "something other than numbers"),
    "labels that are no text": (
        response(b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":1},"value":[1,"1"]}]}}'),
        "labels that are no text",
    ),
    "a time out of range": (
        response(b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1e300,"1"]}]}}'),
        "something other than numbers",
    ),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no answer"),
    "broken gzip": (response(b"\x1f\x8bxxxx", more={"Content-Encoding": "gzip"}), "no answer"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_no_value_comes_of(name: str) -> None:
    answer, said = REFUSED[name]

    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if b"Content-Length" not in answer or b"Connection: close" in answer:
            await writer.drain()
            writer.close()

    async with asking(handler, timedelta(seconds=5)) as (client, fake):
        got = await client.instant("x")
    assert got.series == ()
    assert said in got.problem
    assert got.problem.startswith("Prometheus at http://127.0.0.1:")
    assert len(fake.requests) == 1, "nothing is tried again, or followed"


async def test_a_range_that_is_a_vector_is_a_problem() -> None:
    async with asking(saying(response(vector()))) as (client, _):
        now = datetime.now(UTC)
        assert "is a vector, not a matrix" in (await client.range("x", now, now, timedelta(seconds=1))).problem


async def test_a_body_beyond_the_bound_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_threads, "LARGEST_ANSWER", 2**20)
    written = 0

    async def endless(_: str, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b" " * 2**16)
            await writer.drain()
            written += 2**16

    async with asking(endless, timedelta(seconds=10)) as (client, _):
        answer = await client.instant("x")
    assert "larger than 1024 KiB" in answer.problem
    assert written < 64 * 2**20


async def test_nobody_there_is_a_problem_that_names_the_cause() -> None:
    client = Prometheus(f"http://user:hunter2@127.0.0.1:{free_port()}", LIMIT, SystemClock())
    answer = await client.instant("x")
    await client.close()
    assert "Connection refused" in answer.problem
    assert "hunter2" not in answer.problem


async def test_a_name_that_does_not_resolve_is_a_problem() -> None:
    client = Prometheus("http://nothing.invalid:9090", timedelta(seconds=20), SystemClock())
    problem = (await client.instant("x")).problem
    await client.close()
    assert "no answer" in problem


async def drip_head(_: str, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 5000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_body(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    for _byte in range(100_000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("handler", [drip_head, drip_body, forever])
async def test_the_time_limit_holds_for_the_whole_answer(handler: Handler) -> None:
    async with asking(handler) as (client, fake):
        began = time.monotonic()
        answer = await client.instant("x")
        took = time.monotonic() - began
        assert "no answer within 400ms" in answer.problem
        assert 0.3 < took < LIMIT.total_seconds() + SLACK
        await until(lambda: fake.open == 0, "the connection is cut, so the thread ends")
        await until(lambda: not asking_threads(), "the thread ends")


async def test_a_connection_on_which_the_thread_gave_up_first_is_closed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(forever) as (client, fake):
        monkeypatch.setattr(client, "_new_thread", lambda: QueryThread(str(client._address), LIMIT / 8))
        assert "no answer within 400ms" in (await client.instant("x")).problem
        await until(lambda: fake.open == 0, "nobody will read from it again")
        await until(lambda: not asking_threads(), "the thread ends")


def asking_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prometheus"]


async def test_after_a_hang_the_same_client_asks_again() -> None:
    answers = [forever, saying(response(vector(({}, "5"))))]

    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        await answers.pop(0)(path, writer)

    async with asking(handler) as (client, _):
        assert (await client.instant("x")).problem
        await until(lambda: not asking_threads(), "the thread ends")
        await asyncio.sleep(0)
        assert (await client.instant("x")).series[0].value == 5.0


class Stuck:
    """A line that cannot be cut, as in a name server that never answers."""

    def __init__(self, url: str, timeout: timedelta) -> None:
        self.release = RELEASE

    def instant(self, query: str, at: datetime | None) -> Mapping[str, Any]:
        self.release.wait(30)
        raise Unusable("released")

    def cut(self) -> None:
        return

    def close(self) -> None:
        return


RELEASE = threading.Event()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    RELEASE.clear()
    monkeypatch.setattr(prometheus, "QueryThread", Stuck)
    return RELEASE


async def test_while_an_ask_hangs_the_same_query_is_answered_at_once(stuck: threading.Event) -> None:
    client = Prometheus("http://x", LIMIT, SystemClock())
    assert "no answer within" in (await client.instant("x")).problem
    began = time.monotonic()
    again = await client.instant("x")
    assert "the previous ask still hangs" in again.problem
    assert time.monotonic() - began < 0.2
    assert "still hangs" in (await client.instant("x", datetime.now(UTC))).problem
    stuck.set()
    await until(lambda: not asking_threads(), "the thread ends")
    await asyncio.sleep(0.01)
    assert "released" in (await client.instant("x")).problem
    await client.close()


async def test_threads_are_bounded_and_a_question_that_gets_none_says_so(stuck: threading.Event) -> None:
    client = Prometheus("http://x", LIMIT, SystemClock())
    asks = [asyncio.create_task(client.instant(f"q{n}")) for n in range(prometheus.THREADS + 5)]
    answers = await asyncio.gather(*asks)
    assert all(answer.problem for answer in answers)
    assert len(asking_threads()) == prometheus.THREADS
    assert "none of 8 threads was free" in (await client.instant("one more")).problem
    stuck.set()
    await client.close()


HANGING = """
import asyncio, socket, sys
from datetime import timedelta
from rollbackd.system.clock import SystemClock
from rollbackd.signals.prometheus import Prometheus

server = socket.create_server(("127.0.0.1", 0))

async def main():
    client = Prometheus(f"http://127.0.0.1:{server.getsockname()[1]}", timedelta(seconds=100), SystemClock())
    asking = asyncio.create_task(client.instant("x"))
    connection = (await asyncio.to_thread(server.accept))[0]
    print("asked", flush=True)
    return connection

connection = asyncio.run(main())
"""


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, timeout=30, check=False)
    assert done.stdout == b"asked\n", done.stderr.decode()


async def test_a_crowd_of_questions_is_asked_in_turn() -> None:
    async with asking(saying(response(vector(({}, "1")))), timedelta(seconds=10)) as (client, fake):
        answers = await asyncio.gather(*(client.instant(f"q{n}") for n in range(60)))
    assert [answer.problem for answer in answers] == [""] * 60
    assert fake.connections <= prometheus.THREADS, "connections are kept and used again"


async def test_the_same_question_at_the_same_time_is_asked_once() -> None:
    gate = asyncio.Event()

    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(response(vector(({}, "1"))))

    async with asking(handler, timedelta(seconds=10)) as (client, fake):
        first = asyncio.create_task(client.instant("x"))
        second = asyncio.create_task(client.instant("x"))
        other = asyncio.create_task(client.instant("x", datetime.fromtimestamp(AT, UTC)))
        await until(lambda: len(fake.requests) == 1, "one request")
        first.cancel()
        gate.set()
        assert (await second).series[0].value == 1.0
        assert (await other).series[0].value == 1.0
        with pytest.raises(asyncio.CancelledError):
            await first
    assert len(fake.requests) == 2


async def test_closing_answers_those_who_wait() -> None:
    async with asking(forever, timedelta(seconds=30)) as (client, fake):
        waiting = asyncio.create_task(client.instant("x"))
        await until(lambda: len(fake.requests) == 1, "asked")
        await client.close()
        assert "closed" in (await waiting).problem
        assert "closed" in (await client.instant("y")).problem
        await until(lambda: not asking_threads(), "the thread ends")


async def test_the_environment_decides_neither_proxy_nor_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    async with asking(saying(response(vector()))) as (client, fake):
        assert (await client.instant("x")).problem == ""
    assert len(fake.requests) == 1


async def test_a_connection_closed_in_between_costs_nothing() -> None:
    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(response(vector(({}, "1"))))
        await writer.drain()
        writer.close()

    async with asking(handler, timedelta(seconds=5)) as (client, fake):
        assert (await client.instant("x")).problem == ""
        await until(lambda: fake.open == 0, "closed")
        assert (await client.instant("x")).problem == ""


def test_ten_thousand_series_are_cheap() -> None:
    body = vector(*(({"service": f"s{n}", "env": "prod"}, str(n / 7)) for n in range(10_000)))
    best = math.inf
    for _ in range(5):
        began = time.process_time()
        assert len(instant_series(whole_data(body))) == 10_000
        best = min(best, time.process_time() - began)
    assert best < 0.3, "of the half second that judging them may cost, a good part"


def test_range_data_must_be_numbers() -> None:
    with pytest.raises(Unusable, match="other than numbers"):
        range_series({"resultType": "matrix", "result": [{"metric": {}, "values": [[1]]}]})


@pytest.mark.parametrize("length", [1e13, float("inf"), float("nan")])
def test_a_rule_of_its_own_that_waits_for_ever_is_reckoned_with(length: float) -> None:
    rule = {"type": "alerting", "name": "A", "query": "up == 0", "labels": {}, "duration": length}
    (found,) = own_rules({"groups": [{"rules": [{**rule, "keepFiringFor": 1e13}]}]}).alerting
    assert datetime.now(UTC) + found.waits > datetime.now(UTC)


def test_its_own_rules_are_read_whole_or_not_at_all() -> None:
    sick = {"type": "alerting", "name": "Sick", "query": "up == 0", "labels": {"severity": "page"}, "alerts": []}
    kept = {"type": "recording", "name": "job:up:sum", "query": "sum(up) by (job)"}
    found = own_rules({"groups": [{"name": "a", "rules": [sick, kept]}, {"name": "b", "rules": []}]})
    assert found.alerting == (AlertingRule("Sick", "up == 0", {"severity": "page"}),)
    assert found.recorded == {"job:up:sum": "sum(up) by (job)"}
    for broken in ({}, {"groups": None}, {"groups": [{"rules": [{"type": "alerting"}]}]}, {"groups": ["x"]}):
        with pytest.raises(Unusable, match="no list of rules"):
            own_rules(broken)


# -- replicas -----------------------------------------------------------------------------------
REPLICA = st.sampled_from(["a", "b", "c"])
NUMBER = st.floats(allow_nan=True)


@given(st.dictionaries(st.tuples(st.sampled_from(["shop", "cart"]), REPLICA), NUMBER), st.randoms())
def test_series_of_replicas_are_one_whatever_their_order(seen: dict[tuple[str, str], float], order: Random) -> None:
    at = datetime.fromtimestamp(AT, UTC)
    series = [Series({"job": job, "replica": one}, value, at) for (job, one), value in seen.items()]
    order.shuffle(series)
    found = {one.labels["job"]: one for one in one_of_replicas(series, ["replica"])}
    assert set(found) == {job for job, _ in seen}
    for job, one in found.items():
        values = [seen[job, name] for name in "abc" if (job, name) in seen]
        numbers = [value for value in values if not math.isnan(value)]
        assert one.labels == {"job": job}
        assert math.isnan(one.value) if not numbers else one.value == numbers[0]
    assert one_of_replicas(series, []) == tuple(series)


@given(st.dictionaries(st.tuples(REPLICA, st.integers(0, 5)), NUMBER), st.randoms())
def test_a_range_of_replicas_has_each_time_once(seen: dict[tuple[str, int], float], order: Random) -> None:
    def at(number: int) -> datetime:
        return datetime.fromtimestamp(AT + number, UTC)

    series = [
        RangeSeries({"replica": name}, tuple((at(t), value) for (who, t), value in sorted(seen.items()) if who == name))
        for name in sorted({who for who, _ in seen})
    ]
    order.shuffle(series)
    found = one_range_of_replicas(series, ["replica"])
    assert len(found) == bool(seen)
    for one in found:
        assert [when for when, _ in one.points] == [at(number) for number in sorted({number for _, number in seen})]
        for when, value in one.points:
            there = [seen[who, t] for who in "abc" for t in range(6) if (who, t) in seen and at(t) == when]
            numbers = [each for each in there if not math.isnan(each)]
            assert math.isnan(value) if not numbers else value == numbers[0]


async def test_what_two_replicas_know_of_one_series_is_one() -> None:
    both = vector(({"job": "shop", "replica": "a"}, "1"), ({"job": "shop", "replica": "b"}, "2"))
    async with asking(saying(response(both)), replica_labels=["replica"]) as (asked, _):
        (one,) = (await asked.instant("up")).series
        assert (one.labels, one.value) == ({"job": "shop"}, 1.0)


# -- long answers -------------------------------------------------------------------------------
LABELS = st.dictionaries(
    st.sampled_from(["metric", "job", 'a"b', "x"]), st.sampled_from(["", '},{"metric":', '\\"metric"', "é", "[]"])
)
WHITE = st.sampled_from([(",", ":"), (", ", ": "), (",\n \t", " : ")])


@given(st.lists(st.tuples(LABELS, NUMBER), min_size=1, max_size=20), WHITE, st.integers(1, 200), st.booleans())
def test_a_long_answer_is_read_in_pieces_and_says_the_same(
    seen: list[tuple[dict[str, str], float]], white: tuple[str, str], piece: int, late: bool
) -> None:
    items = [{"metric": labels, "value": [AT, str(value)]} for labels, value in seen]
    parts: dict[str, Any] = {"status": "success", "data": {"resultType": "vector", "result": items}}
    parts |= {"infos": [{"metric": "of another"}]} if late else {}
    body = json.dumps(parts, separators=white, ensure_ascii=False).encode()
    whole = instant_series(json.loads(body)["data"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_answers, "_PIECE", max(piece, 90))
        read = instant_series(whole_data(body))
    assert [(one.labels, str(one.value)) for one in read] == [(one.labels, str(one.value)) for one in whole]


@pytest.mark.parametrize("broken", [b"1}", b'{"metric":', b'"metric"', b"]", b"{}}"])
def test_a_long_answer_that_is_broken_in_the_middle_is_a_problem(broken: bytes) -> None:
    series = b",".join(b'{"metric":{"n":"%d"},"value":[1,"1"]}' % number for number in range(30_000))
    begin = b'{"status":"success","data":{"resultType":"vector","result":['
    half = series.index(b"},{", len(series) // 2) + 1
    with pytest.raises(Unusable):
        instant_series(whole_data(begin + series[:half] + broken + series[half:] + b"]}}"))


def answer(kind: str, *series: tuple[str, str]) -> bytes:
    """Labels and the rest of each series, put together by hand: to write so much as JSON takes seconds."""
    result = ",".join(f'{{"metric":{{{labels}}},{rest}}}' for labels, rest in series)
    return f'{{"status":"success","data":{{"resultType":"{kind}","result":[{result}]}}}}'.encode()


POINT = f'[{AT},"1"]'
LONG = {
    "100,000 series": lambda: vector(*(({"n": str(number)}, "1") for number in range(100_001))),
    "1,000,000 points": lambda: answer("matrix", *(
        (f'"n":"{number}"', f'"values":[{",".join([POINT] * 100_001)}]') for number in range(10))),
    "no list of series": lambda: answer(
        "vector", (",".join(f'"{number}":"1"' for number in range(1_000_000)), f'"value":{POINT}')),
    "no list of series ": lambda: b'{"status":"success","data":[' + b"1," * 2**23 + b"1]}",
}  # fmt: skip


@pytest.mark.parametrize("what", LONG)
def test_an_answer_beyond_the_bounds_is_a_problem_that_says_so(what: str) -> None:
    def read(body: bytes) -> None:
        data = whole_data(body)
        (instant_series if data["resultType"] == "vector" else range_series)(data)

    body = LONG[what]()
    with pytest.raises(Unusable, match=what.strip()):
        read(body)


def test_no_piece_of_a_long_answer_is_long_in_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def read(text: bytes, **_: Any) -> Any:
        lengths.append(len(text))
        return json.loads(text)

    monkeypatch.setattr(query_answers, "from_json", read)
    assert len(instant_series(whole_data(vector(*(({"n": "x" * 200}, "1") for _ in range(50_000)))))) == 50_000
    assert max(lengths) < 2**19


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html><h1>Bad\n gateway</h1></html>", "answered 502: Bad gateway"),
        (b"no healthy upstream s3cret", "answered 502: no healthy upstream ***"),
        (
            b'{"status":"error","errorType":"bad_data","error":"s3cret is wrong"}',
            "answered 502, bad_data: *** is wrong",
        ),
        (b"\x00\xff", "answered 502: ?\ufffd"),
        (b"", "answered 502"),
    ],
)
def test_a_refusal_shows_the_servers_words_in_a_line_without_secrets(body: bytes, said: str) -> None:
    assert query_answers.refusal(502, body, lambda text: text.replace("s3cret", "***")) == said
