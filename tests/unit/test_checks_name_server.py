"""A name server that is silent, or our own loop or pool that is late, rolls nothing back: time limits know whose it was."""

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollbackd.adapter import CheckPlace
from rollbackd.checks.command import CommandCheck, CommandSettings
from rollbackd.checks.http import HttpCheck, HttpSettings
from rollbackd.checks.redis import RedisCheck, RedisSettings
from rollbackd.checks.serves import ServesCheck, ServesSettings
from rollbackd.checks.sql import SqlCheck, SqlSettings
from rollbackd.checks.tcp import TcpCheck, TcpSettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.system.clock import SystemClock
from rollbackd.system.http_client import HttpSession
from rollbackd.system.loop_lag import LoopLag
from rollbackd.system.name_lookup import EventLoop
from rollbackd.system.spawner import Spawner
from tests.fakes.pages import saying, serving
from tests.servers import postgres_server

UNKNOWN, BAD, GOOD = Verdict.INCONCLUSIVE, Verdict.BAD, Verdict.GOOD
KINDS = ("http", "serves", "tcp", "redis", "sql")
NO_NAMES = {"query": "its Prometheus is the daemon's own connection", "command": "a program", "log": "a file or a unit"}
"""The other kinds, and what they ask instead of a host."""


def test_every_kind_of_check_is_here() -> None:
    assert {one.name for one in entry_points(group="rollbackd.checks")} == {*KINDS, *NO_NAMES}


class NameServer:
    """Stands in for the system's resolver: `*.silent` is never answered, `*.gone` fails, `*.slow` takes a while."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.asked: list[str] = []
        self.delay = 0.3

    def __call__(self, host: Any, port: Any, *more: Any, **named: Any) -> Any:
        self.asked.append(str(host))
        if str(host).endswith(".silent"):
            self.ends.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")
        if str(host).endswith(".gone"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if str(host).endswith(".slow"):
            time.sleep(self.delay)
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", int(port or 0)))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.ends.set()


def on_our_loop(work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await work()

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(run())


async def ask(kind: str, host: str, port: int, http: Any, held_up: Any = lambda _: 0.0, **settings: Any) -> CheckResult:
    async def releases(_: str) -> Any:
        raise AssertionError("it was answered")

    given: dict[str, Any] = {"timeout": "400ms", **settings}
    place = CheckPlace("health", "shop", {}, Spawner(), SystemClock(), http, None, releases=releases, held_up=held_up)
    match kind:
        case "http":
            return await HttpCheck(HttpSettings(http=f"http://{host}:{port}/", **given), place).run()
        case "serves":
            serves = ServesSettings(serves=f"http://{host}:{port}/", layer="code", text=True, **given)
            return await ServesCheck(serves, place).run()
        case "tcp":
            return await TcpCheck(TcpSettings(tcp=f"{host}:{port}", **given), place).run()
        case "sql":
            dsn = f"postgresql://u@{host}:{port}/x"
            return await SqlCheck(SqlSettings(**{"sql": "select 1", "dsn": dsn, **given}), place).run()
    return await RedisCheck(RedisSettings(redis=f"redis://{host}:{port}/0", **given), place).run()


def listening() -> socket.socket:
    """Takes connections, and says nothing."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


def answer(server: socket.socket, after: float, said: bytes) -> None:
    """To one connection."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(5)
        connection.recv(4096)
        time.sleep(after)
        connection.sendall(said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("others", [0, 40])
def test_a_name_that_does_not_resolve_in_time_is_inconclusive(names: NameServer, kind: str, others: int) -> None:
    async def work() -> list[CheckResult]:
        http = HttpSession()
        many = [ask(kind, f"s{number}.silent", 80, http) for number in range(others)]
        found = await asyncio.gather(ask(kind, "shop.silent", 80, http), ask(kind, "shop.silent", 80, http), *many)
        await http.close()
        return found

    found = on_our_loop(work)
    assert {one.verdict for one in found} == {UNKNOWN}
    assert "its name did not resolve within 400ms" in found[0].reason
    assert len(names.asked) == 1 + others, "the same name is asked once"


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_fails_to_resolve_is_inconclusive(names: NameServer, kind: str) -> None:
    async def work() -> CheckResult:
        http = HttpSession()
        found = await ask(kind, "shop.gone", 80, http)
        await http.close()
        return found

    found = on_our_loop(work)
    assert (found.verdict, "temporary failure in name resolution" in found.reason) == (UNKNOWN, True), found.reason


@pytest.mark.parametrize("lost", ["db.silent", "db.gone"])
def test_one_of_several_hosts_that_does_not_resolve_costs_the_others_nothing(names: NameServer, lost: str) -> None:
    with postgres_server() as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there, refused = (str(server.socket), server.port), ("127.0.0.1", closed.getsockname()[1])
        for (host, port), verdict in ((there, GOOD), (refused, UNKNOWN)):
            dsn = f"{server.dsn()} host={lost},{host} port={server.port},{port}"
            found = on_our_loop(partial(ask, "sql", "", 0, None, dsn=dsn, timeout="2s"))
            assert found.verdict is verdict, found.reason
    assert names.asked.count(lost) == 2


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_names_that_are_not_answered_hold_up_no_other_name_and_no_file(names: NameServer, kind: str) -> None:
    async def work() -> tuple[CheckResult, float]:
        http = HttpSession()
        async with serving(saying()) as url:
            port = int(url.rpartition(":")[2])
            asked = [
                asyncio.create_task(ask(kind, f"s{number}.silent", 80, http, timeout="5s")) for number in range(50)
            ]
            await asyncio.sleep(0.1)
            begun = time.monotonic()
            await asyncio.to_thread(time.sleep, 0)
            took = time.monotonic() - begun
            found = await ask(kind, "shop.well", port, http)
            names.ends.set()
            await asyncio.gather(*asked)
            await http.close()
        return found, took

    found, took = on_our_loop(work)
    assert found.verdict is GOOD, found.reason
    assert took < 0.3


def test_too_many_names_are_refused_and_the_check_says_so(names: NameServer) -> None:
    async def work() -> list[CheckResult]:
        http = HttpSession()
        found = await asyncio.gather(*(ask("http", f"s{number}.silent", 80, http) for number in range(80)))
        await http.close()
        return found

    found = on_our_loop(work)
    assert {one.verdict for one in found} == {UNKNOWN}
    assert sum("being looked up already" in one.reason for one in found) == 16
    assert threading.active_count() < 80


def test_after_a_slow_lookup_the_service_has_all_of_its_time(names: NameServer) -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    async def work() -> CheckResult:
        http = HttpSession()
        with listening() as server:
            answering = threading.Thread(target=answer, args=(server, 0.2, said))
            answering.start()
            found = await ask("http", "shop.slow", server.getsockname()[1], http)
            await asyncio.to_thread(answering.join)
        await http.close()
        return found

    found = on_our_loop(work)
    assert found.verdict is GOOD, found.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "shop.well", "shop.slow"])
@pytest.mark.parametrize("kind", ["http", "serves", "redis", "sql"])
def test_a_service_that_hangs_is_bad_however_its_name_was_found(names: NameServer, kind: str, host: str) -> None:
    async def work() -> CheckResult:
        http = HttpSession()
        with listening() as server:
            found = await ask(kind, host, server.getsockname()[1], http)
        await http.close()
        return found

    found = on_our_loop(work)
    assert (found.verdict, found.reason) == (BAD, "no answer within 400ms")


def test_an_answer_that_a_lookup_made_late_is_not_too_slow(names: NameServer) -> None:
    async def work() -> CheckResult:
        http = HttpSession()
        async with serving(saying()) as url:
            found = await ask("http", "shop.slow", int(url.rpartition(":")[2]), http, below="250ms")
        await http.close()
        return found

    found = on_our_loop(work)
    assert found.verdict is UNKNOWN, found.reason
    assert "of that were ours" in found.reason


async def test_a_request_that_waits_for_a_free_connection_is_inconclusive() -> None:
    connector = aiohttp.TCPConnector(limit=1)
    with listening() as server:
        async with aiohttp.ClientSession(connector=connector) as session:
            port = server.getsockname()[1]
            first = asyncio.create_task(ask("http", "127.0.0.1", port, lambda: session, timeout="1s"))
            await asyncio.sleep(0.1)
            second = await ask("http", "127.0.0.1", port, lambda: session)
            assert (second.verdict, second.reason) == (UNKNOWN, "could not ask: no connection was free within 400ms")
            assert (await first).verdict is BAD


@pytest.mark.parametrize("kind", ["http", "redis", "sql"])
@pytest.mark.parametrize(("held", "verdict"), [(0.3, UNKNOWN), (0.0, BAD)])
async def test_a_check_that_our_own_loop_held_up_is_inconclusive(kind: str, held: float, verdict: Verdict) -> None:
    lag, http = LoopLag(), HttpSession()
    lag.watch()
    asyncio.get_running_loop().call_later(0.2, time.sleep, held)
    with listening() as server:
        found = await ask(kind, "127.0.0.1", server.getsockname()[1], http, lag.held_up)
    await http.close()
    assert found.verdict is verdict, found.reason
    assert lag.worst >= held - 0.1


@pytest.mark.parametrize("limits", [{"timeout": "2s"}, {"timeout": "10s", "within": "2s"}])
async def test_a_file_that_our_own_loop_asked_late_is_inconclusive(tmp_path: Path, limits: dict[str, str]) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as database:
        database.execute("CREATE TABLE notes (text TEXT)")
    lag = LoopLag()
    lag.watch()
    asyncio.get_running_loop().call_later(0.02, time.sleep, 2.1)
    where = {"dsn": "", "sql": "SELECT count(*) FROM notes", "file": tmp_path / "app.db"}
    found = await ask("sql", "", 0, None, lag.held_up, **where, **limits)
    assert (found.verdict, "of that were ours" in found.reason) == (UNKNOWN, True), found.reason


@pytest.mark.parametrize(("held", "verdict"), [(0.3, UNKNOWN), (0.0, BAD)])
async def test_a_program_that_our_own_loop_held_up_is_inconclusive(held: float, verdict: Verdict) -> None:
    place = CheckPlace("x", "shop", {}, Spawner(), SystemClock(), lambda: None, None, held_up=lambda _: held)
    settings = CommandSettings(command=("sleep", "60"), timeout="400ms", timed_out="bad")
    found = await CommandCheck(settings, place).run()
    assert found.verdict is verdict, found.reason
