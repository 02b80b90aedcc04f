"""Listens: on TCP, and on a Unix socket whose mode says who is an operator. Never takes a socket that is in use."""

import errno
import grp
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from rollbackd.config.models import listening
from rollbackd.system import log

OPERATORS = "rollbackd-operators"
"""The group whose members may connect to the socket, when it exists."""
_BACKLOG = 1024
_IDLE = 75.0
"""Seconds that a connection without a request is kept."""
_LAST_ANSWERS = 3.0
"""Seconds that requests in hand have at the end; an alert that is cut off was not answered 200 and comes again."""
_LINGERING = 0.5
"""Seconds for which a refused body is read and forgotten: closed at once, the answer would be lost with it."""
_LOG = log.get("web")


class _ToOurLog(logging.Handler):
    """Brings what aiohttp has to say, such as a client that does not speak HTTP, into our log as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        _LOG.warning(record.getMessage(), error=repr(error) if error else "")


def _aiohttps_log() -> logging.Logger:
    logger = logging.getLogger("rollbackd.web")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(_ToOurLog())
    return logger


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
            logger=_aiohttps_log(),
            handle_signals=False,
            keepalive_timeout=_IDLE,
            shutdown_timeout=_LAST_ANSWERS,
            lingering_time=_LINGERING,
            auto_decompress=False,  # `request_body.py` does, once it is known who sends
        )
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
        await self._runner.cleanup()
        with suppress(FileNotFoundError):
            if self._ours is not None and _identity(self._path) == self._ours:
                self._path.unlink()
        self._ours = None

    async def _start_tcp(self) -> None:
        host, port = self._address
        try:
            await web.TCPSite(self._runner, host, port, backlog=_BACKLOG).start()
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                why = f"something listens there already (ss -ltnp 'sport = :{port}' says what)"
            raise CannotListenError(f"daemon.listen: cannot listen on {self._listen}: {why}") from error
        self.port = next(address[1] for address in self._runner.addresses if isinstance(address, tuple))

    async def _start_socket(self) -> None:
        path = self._path
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(path))
            self._ours = _identity(path)
            _let_operators_in(path)  # before it listens: until then nobody can connect, whatever the umask
            await web.SockSite(self._runner, listener, backlog=_BACKLOG).start()
        except OSError as error:
            listener.close()
            raise CannotListenError(f"daemon.socket: cannot listen on {path}: {error.strerror or error}") from error


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
