"""The redis check against real servers: master, replica, with a password, gone, and ones that only pretend."""

import asyncio
import subprocess
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import Check, CheckPlace
from rollbackd.checks.redis import RedisCheck, RedisSettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import SystemClock
from tests.authority import NEW_KEY
from tests.servers import free_port, redis_server

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("redis")
    with redis_server(directory / "m", "--unixsocket", str(directory / "socket")) as port:
        yield port


async def ask(url: str, known: str = "s3cret-of-redis", **settings: Any) -> CheckResult:
    def reveal(secret: Secret) -> str:
        if not known:
            raise ValueError(f"{secret.env} is not set")
        return known

    place = CheckPlace("cache", "shop", {}, None, SystemClock(), lambda: None, None, reveal)
    return await RedisCheck(RedisSettings(**({"redis": url} | settings)), place).run()


def test_it_follows_the_contract() -> None:
    place = CheckPlace("cache", "shop", {}, None, SystemClock(), lambda: None, None)
    assert isinstance(RedisCheck(RedisSettings(redis="redis://x"), place), Check)


async def test_an_answer_to_ping_is_good(master: int) -> None:
    result = await ask(f"redis://127.0.0.1:{master}/1", below="5s", warn=True)
    assert result.verdict is GOOD
    assert result.reason.startswith("answered PING in ")
    assert result.warn
    assert result.took > timedelta()


async def test_too_slow_is_bad(master: int) -> None:
    result = await ask(f"redis://127.0.0.1:{master}", below="0s")
    assert result.verdict is BAD
    assert result.reason.endswith(", wants less than 0s")


@pytest.mark.parametrize(
    ("role", "verdict", "said"),
    [("master", GOOD, "answered PING as a master"), ("replica", BAD, "is a master, wants a replica")],
)
async def test_a_master_is_a_master(master: int, role: str, verdict: Verdict, said: str) -> None:
    result = await ask(f"redis://127.0.0.1:{master}", role=role)
    assert result.verdict is verdict
    assert said in result.reason


async def test_a_replica_must_be_connected_to_its_master(master: int, tmp_path: Path) -> None:
    with redis_server(tmp_path / "r", "--replicaof", "127.0.0.1", str(master)) as port:
        url = f"redis://127.0.0.1:{port}"
        async with asyncio.timeout(30):
            while (result := await ask(url, role="replica")).verdict is not GOOD:
                assert "its link to the master is: " in result.reason
                await asyncio.sleep(0.1)
        assert "answered PING as a replica" in result.reason
        assert (await ask(url, role="master")).verdict is BAD
    with redis_server(tmp_path / "o", "--replicaof", "127.0.0.1", str(free_port())) as port:
        result = await ask(f"redis://127.0.0.1:{port}", role="replica")
    assert result.verdict is BAD
    assert "its link to the master is: connect" in result.reason


async def test_a_password_that_is_not_taken_is_our_own_trouble(tmp_path: Path) -> None:
    with redis_server(tmp_path / "p", "--requirepass", "s3cret-of-redis") as port:
        secret, url = {"env": "REDIS"}, f"redis://127.0.0.1:{port}"
        right = await ask(url, password={"env": "REDIS"})
        wrong = await ask(url, known="wrong-one", password=secret)
        none = await ask(url)
        unread = await ask(url, known="", password=secret)
    assert right.verdict is GOOD
    assert [each.verdict for each in (wrong, none, unread)] == [UNKNOWN] * 3
    assert "look at `username` and `password`" in wrong.reason
    assert "look at `username` and `password`" in none.reason
    assert unread.reason == "could not ask: REDIS is not set"
    assert "wrong-one" not in wrong.reason


async def test_a_database_that_is_not_there_is_our_own_trouble(master: int) -> None:
    result = await ask(f"redis://127.0.0.1:{master}/99")
    assert result.verdict is UNKNOWN
    assert result.reason == "could not ask: DB index is out of range; correct the database's number"


@pytest.mark.needs("openssl")
async def test_a_certificate_is_verified_and_one_that_nobody_trusts_says_nothing(tmp_path: Path) -> None:
    key, certificate, port = tmp_path / "key", tmp_path / "crt", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", *NEW_KEY, "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate))
    with redis_server(tmp_path / "s", "--tls-port", str(port), "--tls-auth-clients", "no", *files):
        url = f"rediss://127.0.0.1:{port}"
        doubted = await ask(url)
        assert doubted.verdict is UNKNOWN
        assert doubted.reason.endswith("self-signed certificate; give `ca`, the certificates that sign it")
        assert (await ask(url, ca=certificate)).verdict is GOOD
        missing = await ask(url, ca=tmp_path / "none")
        assert missing.verdict is UNKNOWN
        assert missing.reason.endswith("none: no such file; correct `ca`")


async def test_nobody_listening_is_bad_and_an_unknown_host_says_nothing() -> None:
    gone = await ask(f"redis://127.0.0.1:{free_port()}")
    assert (gone.verdict, gone.reason) == (BAD, "connection refused")
    unknown = await ask("redis://nothing.invalid:6379")
    assert unknown.verdict is UNKNOWN
    assert "the name does not resolve" in unknown.reason


@asynccontextmanager
async def pretending(answer: bytes | None, asked: list[bytes]) -> AsyncIterator[str]:
    """A server that says the same to whatever it is asked, nothing with None; without an answer it hangs up."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while answer != b"" and (question := await reader.read(2**12)):
                asked.append(question)
                writer.write(answer or b"")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert len(served) == 1, "the library must not try again by itself"
        await asyncio.gather(*served)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "no answer within 300ms"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading the dataset"),
        (b"-MISCONF Errors writing to the AOF file\r\n", "answered ping with an error: "),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "broken answer: "),
        (b"", "connection "),
    ],
)
async def test_what_is_no_pong_is_bad(answer: bytes | None, said: str) -> None:
    async with pretending(answer, []) as url:
        result = await ask(url, timeout="300ms")
    assert result.verdict is BAD
    assert said in result.reason.lower()


BROKEN = {
    "a number that is none": b":abc\r\n",
    "a number of thousands of digits": b":" + b"9" * 5000 + b"\r\n",
    "a length that is none": b"$abc\r\n",
    "a length below zero": b"$-5\r\n",
    "a length beyond all memory": b"$9999999999\r\n" + b"x" * 2**16,
    "lists in lists": b"*1\r\n" * 20_000,
    "a line without an end": b"+" + b"x" * 2**18,
    "an answer that is too large": b"*2\r\n$16000000\r\n" + b"x" * 16_000_000 + b"\r\n$1000000\r\n",
}


@pytest.mark.parametrize("how", BROKEN)
async def test_what_is_no_answer_of_redis_or_too_large_is_broken_and_fills_no_memory(how: str) -> None:
    tracemalloc.start()
    try:
        async with pretending(BROKEN[how], []) as url:
            result = await ask(url, timeout="20s")
        assert tracemalloc.get_traced_memory()[1] < 128 * 2**20
    finally:
        tracemalloc.stop()
    assert (result.verdict, result.reason[:16]) == (BAD, "broken answer: n") or "larger than 16 MiB" in result.reason


async def test_ping_is_what_is_asked_last() -> None:
    asked: list[bytes] = []
    async with pretending(b"+PONG\r\n" * 3, asked) as url:
        await ask(url)
    assert b"".join(asked).endswith(b"*1\r\n$4\r\nPING\r\n")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"redis": "127.0.0.1:6379"}, "this is no Redis"),
        ({"redis": "redis://"}, "this is no Redis"),
        ({"redis": "redis://x:0"}, "this is no Redis"),
        ({"redis": "unix:run/redis"}, "this is no Redis"),
        ({"redis": "redis://x/cache"}, "is not a database's number"),
        ({"redis": "redis://:hunter2@x"}, "would be shown"),
        ({"redis": "redis://x?password=hunter2"}, "would be shown"),
        ({"redis": "redis://x", "username": "me"}, "`username` alone says nothing; give `password"),
        ({"redis": "redis://x", "below": "20s"}, "`below` is longer than `timeout`"),
        ({"redis": "redis://x", "role": "sentinel"}, "master"),
        ({"redis": "redis://x", "ca": "/x"}, "write the URL with rediss://"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        RedisSettings(**settings)
    assert said in str(error.value)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollbackd.system.redis_client.find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"rollbackd\[redis\]"):
        RedisSettings(redis="redis://x")
