"""Listens: on TCP, and on a Unix socket whose mode says who is an operator. Never takes a socket that is in use."""

import asyncio
import errno
import grp
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from rollbackd.api.connections import ClientConnections
from rollbackd.config.models import listening
from rollbackd.system import log
from rollbackd.system.descriptors import places

OPERATORS = "rollbackd-operators"
"""The group whose members may connect to the socket, when it exists."""
_QUEUE = 1024
"""Connections that the system keeps for us until we take them; they are no descriptors of ours yet."""
_A_TURN = 8
"""What share of the places may be taken in one turn of the event loop: each is open for three before one is closed."""
_IDLE = 75.0
"""Seconds that a connection without a request is kept."""
_LAST_ANSWERS = 3.0
"""Seconds that requests in hand have at the end; an alert that is cut off was not answered 200 and comes again."""
_LINGERING = 0.5
"""Seconds for which a refused body is read and forgotten: closed at once, the answer would be lost with it."""
_LOG = log.get("web")


class CannotListenError(Exception):
    """It cannot serve, or not safely; the sentence says what to do."""


class Server:
    """One application on a TCP address and a Unix socket."""

    def __init__(self, app: web.Application, listen: str, path: Path) -> None:
        """:raises ValueError: `listen` is not HOST:PORT."""
        self._address = listening(listen)
        self._listen = listen
        self._path = path
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_IDLE,
            shutdown_timeout=_LAST_ANSWERS,
            lingering_time=_LINGERING,
            auto_decompress=False,  # `request_body.py` does, once it is known who sends
        )
        self._listeners: list[asyncio.Server] = []
        self._ours: tuple[int, int] | None = None
        self.port = 0
        """The TCP port that is listened on; chosen by the system when `listen` ends in `:0`."""

    async def start(self) -> None:
        """Begin to answer on both. :raises CannotListenError: on one of them it cannot; then on neither."""
        await self._runner.setup()
        try:
            await self._start_socket()
            await self._start_tcp()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take nothing new, finish the requests in hand, and remove the socket."""
        while self._listeners:
            self._listeners.pop().close()
        await self._runner.cleanup()
        with suppress(FileNotFoundError):
            if self._ours is not None and _identity(self._path) == self._ours:
                self._path.unlink()
        self._ours = None

    async def _start_tcp(self) -> None:
        host, port = self._address
        try:
            await self._listen_on(places().network, host=host, port=port)
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                why = f"something listens there already (ss -ltnp 'sport = :{port}' says what)"
            raise CannotListenError(f"daemon.listen: cannot listen on {self._listen}: {why}") from error
        self.port = self._listeners[-1].sockets[0].getsockname()[1]

    async def _start_socket(self) -> None:
        path = self._path
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(path))
            self._ours = _identity(path)
            _let_operators_in(path)  # before it listens: until then nobody can connect, whatever the umask
            await self._listen_on(places().socket, sock=listener)
        except OSError as error:
            listener.close()
            raise CannotListenError(f"daemon.socket: cannot listen on {path}: {error.strerror or error}") from error

    async def _listen_on(self, most: int, **where: Any) -> None:
        connections = ClientConnections(most, cast("Callable[[], asyncio.Protocol]", self._runner.server))
        listener = await asyncio.get_running_loop().create_server(connections, backlog=max(1, most // _A_TURN), **where)
        self._listeners.append(listener)
        for one in listener.sockets:  # asyncio takes as many in a turn as it lets the system keep: that is set apart
            with socket.socket(fileno=os.dup(one.fileno())) as again:
                again.listen(_QUEUE)


def _remove_stale(path: Path) -> None:
    """Make place for the socket, unless somebody listens there or it is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotListenError(f"daemon.socket: cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise CannotListenError(f"daemon.socket: {path} is there and is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotListenError(f"daemon.socket: {path} is there and does not answer: {error}") from error
        else:
            raise CannotListenError(f"daemon.socket: another rollbackd listens on {path}; stop it first")


def _let_operators_in(path: Path) -> None:
    with suppress(KeyError):
        group = grp.getgrnam(OPERATORS).gr_gid
        try:
            os.chown(path, -1, group)
        except PermissionError:
            _LOG.warning("socket stays with the daemon's own group", socket=str(path), wanted=OPERATORS)
    path.chmod(0o660)


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
