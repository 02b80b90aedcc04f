"""Checks of the kinds http, tcp and command, against real sockets and real programs."""

import asyncio
import errno
import os
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from rollbackd.adapter import Check, CheckPlace
from rollbackd.checks.command import CommandCheck, CommandSettings
from rollbackd.checks.http import HttpCheck, HttpSettings
from rollbackd.checks.tcp import TcpCheck, TcpSettings
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from tests.fakes.pages import saying, serving
from tests.servers import free_port

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE


@dataclass
class SteppingClock:
    """Each look at it is `step` later than the one before."""

    step: timedelta
    looks: int = field(default=0)

    def monotonic(self) -> float:
        self.looks += 1
        return self.looks * self.step.total_seconds()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, length: timedelta) -> None:
        raise AssertionError(length)

    async def sleep_until(self, when: datetime) -> None:
        raise AssertionError(when)


def place(
    http: Callable[[], Any] = lambda: None, clock: Any = None, reveal: Callable[[Secret], str] | None = None
) -> CheckPlace:
    more: dict[str, Any] = {} if reveal is None else {"reveal": reveal}
    return CheckPlace("health", "checkout", {}, Spawner(), clock or SystemClock(), http, None, **more)


async def ask(
    url: str, clock: Any = None, reveal: Callable[[Secret], str] | None = None, **settings: Any
) -> CheckResult:
    async with aiohttp.ClientSession() as session:
        check = HttpCheck(HttpSettings(http=url, **settings), place(lambda: session, clock, reveal))
        return await check.run()


# -- http ---------------------------------------------------------------------------------------
def test_all_kinds_follow_the_contract() -> None:
    assert isinstance(HttpCheck(HttpSettings(http="http://x"), place()), Check)
    assert isinstance(TcpCheck(TcpSettings(tcp="x:1"), place()), Check)
    assert isinstance(CommandCheck(CommandSettings(command=("true",)), place()), Check)


async def test_a_wanted_answer_is_good_and_says_what_was_seen() -> None:
    async with serving(saying()) as url:
        result = await ask(url)
    assert result.verdict is GOOD
    assert result.reason.startswith("answered 200 in ")
    assert result.name == "health"


@pytest.mark.parametrize(
    ("status", "wanted", "verdict"),
    [
        (204, "2xx", GOOD),
        (500, "2xx", BAD),
        (503, "2xx", BAD),
        (404, "2xx", BAD),
        (404, 404, GOOD),
        (200, [204, "3xx"], BAD),
        (302, [204, "3xx"], GOOD),
        (302, "2xx", BAD),
    ],
)
async def test_the_status_decides(status: int, wanted: Any, verdict: Verdict) -> None:
    async with serving(saying(status, "" if status == 204 else "x", Location="/")) as url:
        result = await ask(url, status=wanted)
    assert result.verdict is verdict
    assert f"answered {status}" in result.reason


async def test_an_unwanted_status_says_what_is_wanted() -> None:
    async with serving(saying(500)) as url:
        assert (await ask(url, status=["2xx", 404])).reason == "answered 500, wants 2xx or 404"


@pytest.mark.parametrize(("contains", "verdict"), [("is well", GOOD), ("is ill", BAD), ("", GOOD)])
async def test_the_text_decides(contains: str, verdict: Verdict) -> None:
    async with serving(saying(text="all is wéll, all is well")) as url:
        assert (await ask(url, contains=contains)).verdict is verdict


async def test_text_that_is_not_in_the_part_that_was_read_is_inconclusive() -> None:
    async with serving(saying(text="x" * (2**20 + 2**18) + "needle")) as url:
        result = await ask(url, contains="needle")
    assert result.verdict is UNKNOWN
    assert result.reason == 'answered 200, but "needle" is not in the first MiB'


async def test_an_endless_body_is_not_read_to_its_end() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 2**16)

    async with serving(endless) as url:
        assert (await ask(url)).verdict is GOOD
        assert (await ask(url, contains="y")).verdict is UNKNOWN


@pytest.mark.parametrize(("took", "verdict"), [(499, GOOD), (500, BAD), (700, BAD)])
async def test_too_slow_is_bad(took: int, verdict: Verdict) -> None:
    async with serving(saying()) as url:
        result = await ask(url, SteppingClock(timedelta(milliseconds=took)), below="500ms")
    assert result.verdict is verdict
    assert result.took == timedelta(milliseconds=took)
    assert result.reason.startswith(f"answered 200 in {took}ms")


async def test_no_answer_in_time_is_bad() -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(hang) as url:
        result = await ask(url, timeout="100ms")
    assert (result.verdict, result.reason) == (BAD, "no answer within 100ms")


async def test_a_dripping_answer_is_no_answer_in_time() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.01)

    async with serving(drip) as url:
        assert (await ask(url, timeout="200ms")).reason == "no answer within 200ms"


async def test_nobody_listening_is_bad() -> None:
    result = await ask(f"http://127.0.0.1:{free_port()}")
    assert (result.verdict, result.reason) == (BAD, "connection refused")


async def test_a_name_that_does_not_resolve_is_inconclusive() -> None:
    result = await ask("http://nothing.invalid/")
    assert result.verdict is UNKNOWN
    assert "the name does not resolve" in result.reason


async def raw(answer: bytes) -> tuple[asyncio.Server, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**12)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"])
async def test_a_broken_answer_is_bad(answer: bytes) -> None:
    server, url = await raw(answer)
    async with server:
        assert (await ask(url)).verdict is BAD


async def test_tls_with_a_server_that_speaks_none_is_bad() -> None:
    server, url = await raw(b"no\r\n\r\n")
    async with server:
        result = await ask(url.replace("http://", "https://"), timeout="2s")
    assert result.verdict is BAD


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize(
    ("age", "stale"),
    [("6", True), (" 600 ", True), ("5", False), ("0", False), ("-7", False), ("١٢٣", False), ("9" * 5000, False)],
)
async def test_an_answer_that_a_cache_has_had_for_a_while_says_nothing_of_now(
    status: int, age: str, stale: bool
) -> None:
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["Cache-Control"])
        return web.Response(status=status, headers={"Age": age})

    async with serving(handler) as url:
        result = await ask(url)
    assert asked == ["no-cache"]
    assert result.verdict is (UNKNOWN if stale else GOOD if status == 200 else BAD)
    said = f"answered {status} from a cache that has had it for {age.strip()}s; ask what is behind it"
    assert (result.reason == said) is stale


async def test_redirects_are_followed_only_when_asked_and_not_for_ever() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/loop":
            raise web.HTTPFound("/loop")
        if request.path == "/there":
            return web.Response(text="here")
        raise web.HTTPFound("/there")

    async with serving(handler) as url:
        assert (await ask(url)).reason == "answered 302, wants 2xx"
        assert (await ask(url, follow=True, contains="here")).verdict is GOOD
        assert (await ask(url + "/loop", follow=True)).verdict is BAD


async def test_headers_are_sent_and_secrets_are_read_when_used() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.extend((request.headers["Authorization"], request.headers["X-Plain"], request.headers["Connection"]))
        return web.Response()

    headers = {"Authorization": {"env": "TOKEN"}, "X-Plain": "yes"}
    async with serving(handler) as url:
        result = await ask(url, reveal=lambda secret: f"Bearer {secret.env}", headers=headers)
    assert result.verdict is GOOD
    assert seen == ["Bearer TOKEN", "yes", "close"]


async def test_a_secret_that_cannot_be_read_is_inconclusive() -> None:
    async with serving(saying()) as url:
        result = await ask(url, headers={"Authorization": {"env": "TOKEN"}})
        assert (result.verdict, result.reason) == (UNKNOWN, "could not ask: secrets cannot be read here")
        result = await ask(url, reveal=lambda _: "a\r\nX-Evil: 1", headers={"Authorization": {"env": "TOKEN"}})
    assert result.verdict is UNKNOWN
    assert "Evil" not in result.reason


async def test_a_warning_is_marked_as_one() -> None:
    async with serving(saying(500)) as url:
        assert (await ask(url, warn=True)).warn


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"http": "localhost:80"}, "is not a URL that can be asked"),
        ({"http": "ftp://x/"}, "is not a URL that can be asked"),
        ({"http": "http://x:99999/"}, "is not a URL that can be asked"),
        ({"http": "http:///x"}, "is not a URL that can be asked"),
        ({"http": "http://x/", "status": "20x"}, "is not a status"),
        ({"http": "http://x/", "status": []}, "no status is wanted"),
        ({"http": "http://x/", "method": "DELETE"}, "GET"),
        ({"http": "http://x/", "method": "HEAD", "contains": "x"}, "no body to search"),
        ({"http": "http://x/", "method": "HEAD", "json": {"a": 1}}, "to search for `json`"),
        ({"http": "http://x/", "json": {"a..b": 1}}, "is not a path in JSON"),
        ({"http": "http://x/", "json": {"a": [1]}}, "json"),
        ({"http": "http://x/", "follow": True, "headers": {"A": {"env": "B"}}}, "to another host"),
        ({"http": "http://x/", "below": "20s"}, "`below` is longer than `timeout`"),
        ({"http": "http://x/", "verify": False}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        HttpSettings(**settings)
    assert said in str(error.value)


# -- values of a JSON document ------------------------------------------------------------------
STATUS = '{"status": "ok", "checks": {"db": "up", "lag": 1.0, "ready": true}, "nodes": [{"id": 1}, {"id": null}]}'


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ({"status": "ok", "checks.db": "up", "checks.ready": True, "nodes[1].id": None, "checks.lag": 1}, ""),
        ({"status": "ok", "checks.db": "down"}, 'checks.db is "up", wants "down"'),
        ({"checks.queue": "up"}, '"checks" has no "queue"'),
        ({"nodes[2].id": 1}, '"nodes" has no [2]: it has 2 items'),
        ({"checks.ready": 1}, "checks.ready is true, wants 1"),
        ({"nodes[0].id": True}, "nodes[0].id is 1, wants true"),
        ({"nodes[0].id": "1"}, 'nodes[0].id is 1, wants "1"'),
        ({"nodes": "x"}, 'nodes is [{"id": 1}, {"id": null}], wants "x"'),
    ],
)
async def test_values_of_a_json_document_decide(wanted: dict[str, Any], other: str) -> None:
    async with serving(saying(text=STATUS)) as url:
        result = await ask(url, json=wanted)
    assert result.verdict is (BAD if other else GOOD)
    assert result.reason == f"answered 200, but {other}" if other else result.reason.startswith("answered 200 in ")


@pytest.mark.parametrize("text", ["<html>all is well</html>", "", '{"status": "ok"', "[" * 100_000])
async def test_a_body_that_is_not_json_is_bad(text: str) -> None:
    async with serving(saying(text=text)) as url:
        result = await ask(url, json={"status": "ok"})
    assert (result.verdict, result.reason) == (BAD, "answered 200 with a body that is not JSON")


async def test_json_that_is_too_long_to_be_read_is_inconclusive() -> None:
    async with serving(saying(text=f'{{"status": "ok", "rest": "{"x" * (2**20 + 2**18)}"}}')) as url:
        assert (await ask(url, json={"status": "ok"})).verdict is UNKNOWN


async def test_what_is_found_in_json_is_shown_cut_and_without_secrets() -> None:
    async with serving(saying(text='{"a": "' + "x" * 500 + '", "b": "password=hunter2\u001b[2J"}')) as url:
        long = await ask(url, json={"a": "y"})
        secret = await ask(url, json={"b": "y"})
    assert len(long.reason) < 120
    assert "hunter2" not in secret.reason
    assert "\x1b" not in secret.reason


def test_json_is_written_as_json_also_into_an_incident() -> None:
    settings = HttpSettings.model_validate({"http": "http://x/", "json": {"a.b": True}})
    written = settings.model_dump(mode="json", by_alias=True)
    assert written["json"] == {"a.b": True}
    assert HttpSettings.model_validate(written) == settings


# -- tcp ----------------------------------------------------------------------------------------
async def connect(address: str, **settings: Any) -> CheckResult:
    return await TcpCheck(TcpSettings(tcp=address, **settings), place()).run()


async def test_a_port_that_listens_is_good() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        result = await connect(address)
    assert (result.verdict, result.reason) == (GOOD, f"{address}: connected")


async def test_a_port_where_nobody_listens_is_bad() -> None:
    address = f"127.0.0.1:{free_port()}"
    result = await connect(address)
    assert (result.verdict, result.reason) == (BAD, f"{address}: connection refused")


async def test_an_unknown_host_is_inconclusive() -> None:
    result = await connect("nothing.invalid:80")
    assert result.verdict is UNKNOWN


async def test_a_connection_that_takes_too_long_is_bad() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:  # the queue of a server that accepts nobody is soon full
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            result = await connect(f"127.0.0.1:{port}", timeout="200ms")
        finally:
            for filler in fillers:
                filler.close()
    assert (result.verdict, result.reason) == (BAD, f"127.0.0.1:{port}: no connection within 200ms")


@pytest.mark.parametrize(
    "address", ["", "x", "x:", ":80", "x:0", "x:65536", "x:http", "::1:80", "http://x:80", "a b:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="is not an address"):
        TcpSettings(tcp=address)


def test_an_address_in_brackets_is_one() -> None:
    assert TcpSettings(tcp="[::1]:80").tcp == "[::1]:80"


# -- what a failed connection says --------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), BAD),
        (ConnectionResetError(errno.ECONNRESET, "x"), BAD),
        (ConnectionResetError("without a number"), BAD),
        (OSError(errno.ETIMEDOUT, "x"), BAD),
        (OSError("Multiple exceptions: [Errno 111] a ('::1', 1), [Errno 111] b ('127.0.0.1', 1)"), BAD),
        (OSError("Multiple exceptions: [Errno 111] a ('::1', 1), [Errno 101] b ('127.0.0.1', 1)"), UNKNOWN),
        (OSError(errno.ENETUNREACH, "x"), UNKNOWN),
        (OSError(errno.EHOSTUNREACH, "x"), UNKNOWN),
        (OSError(errno.EMFILE, "x"), UNKNOWN),
        (OSError("something"), UNKNOWN),
        (socket.gaierror(socket.EAI_AGAIN, "x"), UNKNOWN),
        (ssl.SSLError(1, "x"), UNKNOWN),
    ],
)
def test_only_the_services_own_refusal_is_bad(error: OSError, verdict: Verdict) -> None:
    assert unanswered(error)[0] is verdict


# -- command ------------------------------------------------------------------------------------
async def run(*argv: str, **settings: Any) -> CheckResult:
    return await CommandCheck(CommandSettings(command=argv, **settings), place()).run()


async def python(code: str, **settings: Any) -> CheckResult:
    return await run(sys.executable, "-c", code, **settings)


async def test_exit_0_is_good_and_shows_the_last_line() -> None:
    result = await python("print('12 passed'); print()")
    assert (result.verdict, result.reason) == (GOOD, "exit 0: 12 passed")


async def test_more_of_the_last_lines_are_told_where_that_is_asked() -> None:
    result = await python("print('a\\n\\n  b' + 'x' * 300 + '\\nc')", lines=2)
    assert result.reason == f"exit 0: b{'x' * 199} / c"


async def test_another_exit_is_bad() -> None:
    result = await python("import sys; sys.exit('2 failed')")
    assert (result.verdict, result.reason) == (BAD, "exit 1: 2 failed")


@pytest.mark.parametrize(("settings", "verdict"), [({}, UNKNOWN), ({"timed_out": "bad"}, BAD)])
async def test_one_that_hangs_says_nothing_unless_the_settings_say_so(
    settings: dict[str, str], verdict: Verdict
) -> None:
    result = await python("import time; time.sleep(60)", timeout="500ms", **settings)
    assert (result.verdict, result.reason) == (verdict, "did not end within 500ms")


async def test_one_that_cannot_be_started_is_inconclusive() -> None:
    result = await run("/nowhere/at/all")
    assert result.verdict is UNKNOWN
    assert result.reason.startswith("could not be run: ")


@pytest.mark.parametrize("code", [126, 127])
async def test_one_whose_own_program_cannot_be_started_is_inconclusive(code: int) -> None:
    assert (await python(f"raise SystemExit({code})")).verdict is UNKNOWN


async def test_one_that_was_killed_is_inconclusive() -> None:
    result = await python("import os; os.kill(os.getpid(), 9)")
    assert (result.verdict, result.reason) == (UNKNOWN, "was killed by signal 9")


async def test_it_runs_where_it_is_told_to(tmp_path: Path) -> None:
    result = await python("import os; print(os.getcwd())", cwd=tmp_path)
    assert result.reason == f"exit 0: {os.path.realpath(tmp_path)}"


async def test_arguments_reach_the_program_untouched() -> None:
    result = await run(sys.executable, "-c", "import sys; print(sys.argv[1:])", "$(reboot)", "; ls", "", "*")
    assert result.reason == "exit 0: ['$(reboot)', '; ls', '', '*']"


@pytest.mark.parametrize("command", [(), ("",), ("a\0b",), "true"])
def test_what_is_no_argument_vector_is_refused(command: Any) -> None:
    with pytest.raises(ValidationError):
        CommandSettings(command=command)
