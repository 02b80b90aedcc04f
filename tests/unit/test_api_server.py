"""Where it listens: the socket's peers, its mode, stale and taken places."""

import asyncio
import getpass
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd.api import CannotListenError, Server, build_app
from rollbackd.operations import Operations
from tests.fakes.operations import FakeOperations
from tests.fakes.serving import daemon, reveal, serving


def server(path: Path, listen: str = "127.0.0.1:0") -> Server:
    return Server(build_app(cast("Operations", FakeOperations()), daemon(path), reveal), listen, path)


async def test_on_the_socket_the_kernel_names_the_actor(tmp_path: Path) -> None:
    async with serving(tmp_path / "s.sock", tokens=[]) as served:
        async with served.unix.post("/api/v1/resume", json={"reason": "mended"}) as answer:
            assert await answer.json() == {
                "done": "automatic rollbacks go on; the breaker is closed",
                "actor": f"unix:{getpass.getuser()}",
            }
        assert served.operations.orders == [("resume", f"unix:{getpass.getuser()}", "mended")]


_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"POST /api/v1/resume HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
answer = b""
while chunk := s.recv(4096): answer += chunk
print(answer.decode())
"""


@pytest.mark.needs("root")
async def test_another_user_of_the_socket_is_another_actor_and_needs_its_mode(tmp_path: Path) -> None:
    place = Path(await asyncio.to_thread(os.path.realpath, tmp_path))
    for parent in (place, *place.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    async with serving(place / "s.sock") as served:

        async def as_nobody() -> str:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _AS_NOBODY, str(served.socket), stdout=-1, stderr=-1
            )
            out, error = await child.communicate()
            return (out + error).decode()

        assert "PermissionError" in await as_nobody()
        served.socket.chmod(0o666)
        assert '"actor":"unix:nobody"' in await as_nobody()


async def test_the_socket_is_for_its_group_and_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sock"
    group = os.getgroups()[0] if os.getgroups() else os.getgid()

    class Group:
        gr_gid = group

    monkeypatch.setattr("grp.getgrnam", lambda _name: Group)
    async with serving(path):
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, group)
    assert not path.exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with serving(path) as served, served.unix.get("/healthz") as answer:
        assert answer.status == 200


async def test_a_socket_in_use_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with serving(path) as served:
        second = server(path)
        with pytest.raises(CannotListenError, match="another rollbackd listens on"):
            await second.start()
        async with served.unix.get("/healthz") as answer:
            assert answer.status == 200


async def test_a_file_in_the_sockets_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("mine")
    with pytest.raises(CannotListenError, match="is no socket; move it away"):
        await server(path).start()
    assert path.read_text() == "mine"


async def test_a_socket_that_somebody_replaced_is_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with serving(path):
        path.unlink()
        path.write_text("theirs")
    assert path.read_text() == "theirs"


@pytest.mark.parametrize(("path", "what"), [("missing/s.sock", "listen on"), ("file/s.sock", "look at")])
async def test_a_socket_that_cannot_be_made_is_a_sentence(tmp_path: Path, path: str, what: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotListenError, match=rf"daemon\.socket: cannot {what} .*: .+"):
        await server(tmp_path / path).start()


async def test_an_address_in_use_is_a_sentence_and_leaves_no_socket(tmp_path: Path) -> None:
    async with serving(tmp_path / "first.sock") as served:
        path = tmp_path / "second.sock"
        with pytest.raises(CannotListenError, match="something listens there already"):
            await server(path, f"127.0.0.1:{served.server.port}").start()
        assert not path.exists()


async def test_it_can_stop_without_having_started(tmp_path: Path) -> None:
    await server(tmp_path / "s.sock").stop()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}])
async def test_the_socket_needs_no_token_and_minds_none(tmp_path: Path, headers: dict[str, Any]) -> None:
    async with serving(tmp_path / "s.sock") as served, served.unix.get("/api/v1/services", headers=headers) as answer:
        assert answer.status == 200
