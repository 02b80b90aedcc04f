"""Connections without end: the newest gets in, whoever waits longest goes, and what is being answered is answered."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollbackd.api import connections as module
from rollbackd.api import server as server_module
from rollbackd.system.descriptors import Places, places, raise_limit
from tests.fakes.serving import Served, serving
from tests.unit.test_api_intake import alert, until, webhook

PLACES = Places(network=8, socket=4)
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "places", lambda: PLACES)


@asynccontextmanager
async def wires() -> AsyncIterator[list[Wire]]:
    """Connections that are cut at the end."""
    made: list[Wire] = []
    try:
        yield made
    finally:
        for _, writer in made:
            writer.transport.abort()
        await asyncio.sleep(0)


async def connect(served: Served, made: list[Wire], said: str = "") -> Wire:
    wire = await asyncio.open_connection("127.0.0.1", served.server.port)
    made.append(wire)
    wire[1].write(said.encode())
    await asyncio.sleep(0.002)
    return wire


def head(served: Served, length: int) -> str:
    token = served.bearer("source")["Authorization"]
    return (
        f"POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )


async def healthy(served: Served, made: list[Wire]) -> None:
    began = time.monotonic()
    reader, _ = await connect(served, made, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"200"
    assert time.monotonic() - began < 1


async def is_over(wire: Wire) -> bool:
    try:
        async with asyncio.timeout(0.001):
            return await wire[0].read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


KINDS = {
    "idle": "",
    "half a head": "POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\n",
    "half a body": "",
    "answered": "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": "\x16\x03\x01\x02\x00",
    "refused": "POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{",
}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=9, max_size=30), st.integers(0, 3))
async def test_whatever_others_do_who_comes_last_is_served(tmp_path: Path, kinds: list[str], in_hand: int) -> None:
    async with serving(tmp_path / "s.sock") as served, wires() as made:
        served.operations.slow = asyncio.Event()
        body = webhook(alert())
        busy = [await connect(served, made, head(served, len(body)) + body.decode()) for _ in range(in_hand)]
        await until(lambda: served.operations.waiting == in_hand)
        for kind in kinds:
            said = head(served, 1000) + "{" if kind == "half a body" else KINDS[kind]
            await connect(served, made, said)
        await healthy(served, made)
        assert count_open(served) <= PLACES.network
        async with served.unix.get("/healthz") as answer:
            assert answer.status == 200
        served.operations.slow.set()
        for reader, _ in busy:
            assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"200"


def count_open(served: Served) -> int:
    """Connections of the network that the server has."""
    return max(len(one) for one in opened(served))


def opened(served: Served) -> Iterator[module.ClientConnections]:
    return (listener._protocol_factory for listener in served.server._listeners)  # type: ignore[attr-defined]


async def test_with_all_places_at_work_one_more_is_closed_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock") as served, wires() as made:
        served.operations.slow = asyncio.Event()
        body = webhook(alert())
        for _ in range(PLACES.network):
            await connect(served, made, head(served, len(body)) + body.decode())
        await until(lambda: served.operations.waiting == PLACES.network)
        assert await is_over(await connect(served, made))
        served.operations.slow.set()
        for reader, _ in made[:-1]:
            assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"200"


async def test_who_waited_longest_goes_first(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock") as served, wires() as made:
        for _ in range(PLACES.network):
            await connect(served, made)
        made[0][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await made[0][0].readline()).split()[1] == b"200"
        await made[0][0].readuntil(b"}")
        for _ in range(3):
            await connect(served, made)
        assert [await is_over(wire) for wire in made] == [False, True, True, True, *[False] * 7]


async def test_a_head_has_its_time_and_a_connection_that_is_kept_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HEAD", 0.2)
    async with serving(tmp_path / "s.sock") as served, wires() as made:
        kept = await connect(served, made, KINDS["answered"])
        await kept[0].readuntil(b"}")
        slow = await connect(served, made, head(served, 1000))
        late = [await connect(served, made, said) for said in ("", "GET /healthz HTTP/1.1\r\n")]
        dripping = await connect(served, made, "GET / HTTP/1.1\r\nX: ")
        for _ in range(15):
            dripping[1].write(b"x")
            await asyncio.sleep(0.02)
        assert await is_over(dripping)
        assert all([await is_over(wire) for wire in late])
        assert not await is_over(kept)
        assert not await is_over(slow), "its body has a time of its own"
        kept[1].write(b"GET /healthz HTTP/1.1\r\n")
        await asyncio.sleep(0.4)
        assert await is_over(kept), "the next head has its time, too"


async def test_the_socket_has_places_of_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock") as served, wires() as made:
        for _ in range(20):
            made.append(await asyncio.open_unix_connection(str(served.socket)))
        await healthy(served, made)
        async with served.unix.get("/healthz") as answer:
            assert answer.status == 200
        assert [len(one) for one in opened(served)] == [PLACES.socket, 1]


@contextmanager
def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> Iterator[list[tuple[int, int]]]:
    now = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: now.append(limits))
    yield now


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "network", "socket"),
    [
        (1024, 524288, 8192, 512, 128),
        (1024, 1024, 1024, 512, 128),
        (256, 256, 256, 48, 16),
        (64, 64, 64, 24, 8),
        (65536, 65536, 65536, 512, 128),
        (1024, -1, 8192, 512, 128),
        (-1, -1, -1, 512, 128),
    ],
)
def test_the_limit_is_raised_and_places_stay_below_it(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, network: int, socket: int
) -> None:
    with limited(monkeypatch, soft, hard) as now:
        assert raise_limit() == raised
        assert now[-1] == (raised, hard)
        assert places() == Places(network, socket)
