"""Asks the daemon over its Unix socket. Answers are JSON values, or one of the two exceptions here."""

import errno
import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

_CHUNK = 2**20
PATIENCE = 300.0
"""Seconds; a plan asks every layer several times, each of which may take a minute not to answer."""
QUICK = 30.0
"""Seconds for what asks no layer: whoever wants a hold while the daemon hangs must hear of the file soon."""


class UnreachableError(Exception):
    """The daemon does not answer.

    `sent`: the order had gone out, so that it may have been taken. `forbidden`: it is there, and not for this user.
    """

    def __init__(self, path: Path, why: str, *, sent: bool = False, forbidden: bool = False) -> None:
        super().__init__(why)
        self.path = path
        self.sent = sent
        self.forbidden = forbidden


class AnswerError(Exception):
    """The daemon answered with a problem; `problem` is its JSON."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"answered {status}"))
        self.status = status
        self.problem = problem


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """The daemon, as its API answers on a socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unanswered = False
        """An order has gone out, and no answer has come back."""

    def get(self, *parts: str, patience: float = QUICK, **query: object) -> Any:
        """Read something: `get("incidents", "checkout-1", after=3)`.

        :raises UnreachableError: no answer.
        :raises AnswerError: another answer than the one that was asked for.
        """
        return self._ask("GET", _target(parts, query), None, patience)

    def send(self, method: str, *parts: str, body: Mapping[str, Any] | None = None, patience: float = PATIENCE) -> Any:
        """Give an order; raises like `get`."""
        return self._ask(method, _target(parts, {}), json.dumps(body or {}).encode(), patience)

    def download(self, *parts: str, sink: Callable[[bytes], object], patience: float, **query: object) -> int:
        """Read a file in pieces; how many bytes. Raises like `get`."""
        with self._asked("GET", _target(parts, query), None, {}, patience) as answer:
            if answer.status != 200:
                _understood(self.path, answer.status, answer.read())
            size = 0
            while chunk := answer.read(_CHUNK):
                sink(chunk)
                size += len(chunk)
            if answer.length:
                raise UnreachableError(self.path, f"it was cut off, {answer.length} bytes before its end")
        return size

    def upload(self, *parts: str, source: BinaryIO, patience: float, **query: object) -> Any:
        """Send a file; raises like `get`."""
        size = os.fstat(source.fileno()).st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._asked("PUT", _target(parts, query), source, headers, patience) as answer:
            return _understood(self.path, answer.status, answer.read())

    @contextmanager
    def _asked(
        self, method: str, target: str, body: BinaryIO | None, headers: Mapping[str, str], patience: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self.path, patience)
        try:
            self._connect(connection)
            try:
                with suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it has read all
                    connection.request(method, target, body, dict(headers))
                yield connection.getresponse()
            except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
                raise UnreachableError(self.path, _why(error), sent=body is not None) from error
        finally:
            connection.close()

    def _ask(self, method: str, target: str, body: bytes | None, patience: float) -> Any:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection = _Connection(self.path, patience)
        try:
            self._connect(connection)
            self.unanswered = body is not None
            try:
                connection.request(method, target, body, headers)
                answer = connection.getresponse()
                status, content = answer.status, answer.read()
                self.unanswered = False
            except (OSError, http.client.HTTPException) as error:
                raise UnreachableError(self.path, _why(error), sent=body is not None) from error
        finally:
            connection.close()
        return _understood(self.path, status, content)

    def _connect(self, connection: _Connection) -> None:
        try:
            connection.connect()
        except OSError as error:
            forbidden = error.errno in {errno.EACCES, errno.EPERM}
            raise UnreachableError(self.path, _why(error), forbidden=forbidden) from error


def _target(parts: tuple[str, ...], query: Mapping[str, object]) -> str:
    asked = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in query.items()}
    return "/api/v1/" + "/".join(quote(part, safe="") for part in parts) + (f"?{urlencode(asked)}" if asked else "")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _understood(path: Path, status: int, content: bytes) -> Any:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UnreachableError(path, f"what answers there is not rollbackd (status {status})") from error
    if 200 <= status < 300:
        return value
    raise AnswerError(status, value if isinstance(value, dict) else {})
