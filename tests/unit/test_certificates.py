"""Certificates: what cannot be used is told, what changes is read again, and no file is read on the event loop."""

import asyncio
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rollbackd.signals.prometheus import Prometheus
from rollbackd.syntax.connections import ConnectionSettings, Tls
from rollbackd.syntax.units import Secret
from rollbackd.system import http_client
from rollbackd.system.certificates import CertificateTrouble, tls_context, try_tls
from rollbackd.system.clock import SystemClock
from rollbackd.system.http_client import HttpError, HttpFailure, HttpSession, body_of, http_answer
from rollbackd.system.http_connection import connection_of, connection_to
from tests.authority import Authority
from tests.fakes.smtp import make_certificate

pytestmark = pytest.mark.needs("openssl")

LIMIT = timedelta(seconds=5)
ANSWER = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'


def hidden(secret: Secret) -> str:
    raise ValueError(f"no secrets here: {secret}")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Tower:
    """A server that speaks TLS, and remembers who came."""

    def __init__(self) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.came: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert") or {}
        self.came += [value for part in shown.get("subject", ()) for name, value in part if name == "commonName"]
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + ANSWER)
        writer.close()


@asynccontextmanager
async def tower(signed: tuple[Path, Path], clients: Authority | None = None) -> AsyncIterator[Tower]:
    one = Tower()
    one.context.load_cert_chain(*signed)
    if clients is not None:
        one.context.load_verify_locations(clients.certificate)
        one.context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=one.context)
    one.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()


class Callers:
    """Both clients that we have, each made once."""

    def __init__(self, **tls: str) -> None:
        self.settings = ConnectionSettings.model_validate({"tls": tls})
        self.session = HttpSession()
        self.asking: dict[str, Prometheus] = {}

    async def ask(self, url: str) -> tuple[str, str]:
        """What went wrong with each."""
        said = ""
        try:
            connection = connection_of(self.settings, hidden)
            async with http_answer(self.session(), "GET", url, limit=LIMIT, connection=connection) as answer:
                assert (await body_of(answer, 1000))[0] == ANSWER
        except HttpError as failed:
            said = f"{failed} {failed.cause}"
        with_it = partial(connection_to, settings=self.settings, reveal=hidden)
        client = self.asking.setdefault(url, Prometheus(url, LIMIT, SystemClock(), with_it))
        return said, (await client.instant("up")).problem

    async def close(self) -> None:
        await self.session.close()
        for client in self.asking.values():
            await client.close()


async def test_what_is_trusted_and_who_asks_change_with_their_files(tmp_path: Path) -> None:
    """As a rotation does: new files in the place of the old ones, and nobody restarts."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    ca, cert, key = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(authority: Authority, name: str) -> None:
        signed = authority.signed(name)
        for path, text in zip((ca, cert, key), (authority.certificate, *signed), strict=True):
            fresh = path.with_suffix(".new")
            fresh.touch(0o600)
            fresh.write_bytes(text.read_bytes())
            fresh.rename(path)

    put(old, "first")
    callers = Callers(ca=str(ca), cert=str(cert), key=str(key))
    async with (
        tower(old.signed("old-server", "IP:127.0.0.1"), old) as before,
        tower(new.signed("new-server", "IP:127.0.0.1"), new) as after,
    ):
        assert await callers.ask(before.url) == ("", "")
        assert all(await callers.ask(after.url))
        put(new, "second")
        assert await callers.ask(after.url) == ("", "")
        assert all(await callers.ask(before.url))
        assert (set(before.came), set(after.came)) == ({"first"}, {"second"})
        put(new, "third")
        assert await callers.ask(after.url) == ("", "")
        assert set(after.came) == {"second", "third"}
    await callers.close()


async def test_while_a_rotation_is_half_done_what_was_there_before_is_used(
    authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = authority.signed("us"), authority.signed("us-anew")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(first[0].read_bytes())
    key.touch(0o600)
    key.write_bytes(first[1].read_bytes())
    callers = Callers(ca=str(authority.certificate), cert=str(cert), key=str(key))
    async with tower(authority.signed("server", "IP:127.0.0.1"), authority) as one:
        assert await callers.ask(one.url) == ("", "")
        cert.write_bytes(second[0].read_bytes())
        for _ in range(3):
            assert await callers.ask(one.url) == ("", "")
        assert set(one.came) == {"us"}
        assert capsys.readouterr().out.count("changed certificates cannot be used") == 1
        key.write_bytes(second[1].read_bytes())
        assert await callers.ask(one.url) == ("", "")
        assert set(one.came) == {"us", "us-anew"}
        key.unlink()
        assert await callers.ask(one.url) == ("", "")
    await callers.close()


@pytest.mark.parametrize("trusted", ["own", "other", "system's"])
async def test_ones_own_authority_is_trusted_alone(
    authority: Authority, tmp_path: Path, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not beside the system's, nor those that a library brings along."""
    monkeypatch.setattr("rollbackd.system.certificates._kept", {})  # what an earlier test had of the system's
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(authority.certificate))
    signed = authority.signed("alone", "IP:127.0.0.1")
    given = {"own": {"ca": str(authority.certificate)}, "other": {"ca": str(Authority(tmp_path).certificate)}}
    callers = Callers(**given.get(trusted, {"server_name": "127.0.0.1"}))
    async with tower(signed) as one:
        for said in await callers.ask(one.url):
            assert ("certificate" in said.lower()) is (trusted == "other")
    await callers.close()


async def test_a_certificate_that_signed_itself_is_its_own_authority(tmp_path: Path) -> None:
    signed = make_certificate(tmp_path)
    callers = Callers(ca=str(signed[0]))
    async with tower(signed) as one:
        assert await callers.ask(one.url) == ("", "")
    await callers.close()


def _garbage(path: Path) -> None:
    path.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**25)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda _: None, "cannot be read: no such file or directory; "),
    "directory": (lambda path: path.mkdir(), "is not a regular file; "),
    "pipe": (os.mkfifo, "is not a regular file; "),
    "empty": (lambda path: path.touch(), "; is it whole, in PEM"),
    "garbage": (_garbage, "; is it whole, in PEM"),
    "binary": (lambda path: path.write_bytes(os.urandom(3000)), "; is it whole, in PEM"),
    "large": (_large, "is larger than certificates are; "),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_what_cannot_be_used_is_named_with_what_to_do(
    authority: Authority, tmp_path: Path, which: str, how: str
) -> None:
    cert, key = authority.signed("us")
    given = {"ca": str(authority.certificate), "cert": str(cert), "key": str(key), which: str(tmp_path / "spoilt")}
    spoil, said = SPOILT[how]
    spoil(tmp_path / "spoilt")
    (tmp_path / "spoilt").chmod(0o600) if (tmp_path / "spoilt").is_file() else None
    for use in (try_tls, tls_context):
        with pytest.raises(CertificateTrouble) as trouble:
            use(Tls.model_validate(given))
        assert str(tmp_path / "spoilt") in str(trouble.value)
        assert said in str(trouble.value)


def test_a_key_is_closed_to_others_has_no_passphrase_and_fits(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.signed("us")
    _, locked = authority.signed("locked", passphrase="sesame")
    _, other = authority.signed("other")
    opened = tmp_path / "open.key"
    opened.write_bytes(key.read_bytes())
    opened.chmod(0o644)
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    both.chmod(0o600)
    for given, said in (
        ({"cert": cert, "key": opened}, "has a key and can be read by everybody on this host; chmod o-rwx it"),
        ({"cert": cert, "key": locked}, "the key has a passphrase; write it without one"),
        ({"cert": cert, "key": other}, "are no certificate and its key (key values mismatch); "),
        ({"cert": cert}, "can be read by everybody"),
        ({"key": key}, "`key` belongs to a certificate"),
    ):
        with pytest.raises(ValueError) as trouble:
            try_tls(Tls.model_validate({name: str(path) for name, path in given.items()}))
        assert said in str(trouble.value)
        assert "sesame" not in str(trouble.value)
    try_tls(Tls(cert=str(both)))


async def test_a_file_that_is_slow_to_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    on: list[int] = []

    def slow(_: Any) -> ssl.SSLContext:
        on.append(threading.get_ident())
        time.sleep(0.5)
        raise CertificateTrouble("/nowhere cannot be read; name a file that is there")

    monkeypatch.setattr(http_client, "tls_context", slow)
    session = HttpSession()
    connection = connection_of(ConnectionSettings.model_validate({"tls": {"ca": "/nowhere"}}), hidden)
    with pytest.raises(HttpError) as failed:
        async with http_answer(session(), "GET", "https://127.0.0.1:1", limit=LIMIT, connection=connection):
            pass
    assert (failed.value.failure, failed.value.transient) == (HttpFailure.UNPREPARED, True)
    assert str(failed.value) == "/nowhere cannot be read; name a file that is there"
    assert on != [threading.get_ident()]
    await session.close()
