"""Threads that ask Prometheus: a blocking client for one thread at a time, which any other thread can cut off.

prometheus-api-client alone would follow redirects, drop `warnings`, read any length of body, and wait for as long as a
byte comes now and then (the time limit of requests is for each read). Its session is ours, so it does none of that.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.retry import Retry

from rollbackd.signals.query_answers import Unusable, refusal, whole_data
from rollbackd.system.certificates import tls_context
from rollbackd.system.http_client import from_cache
from rollbackd.system.http_connection import DIRECT, HttpConnection

LARGEST_ANSWER = 64 * 2**20
"""Bytes, unpacked; 10,000 series are about two million."""
_LARGEST_REFUSAL = 64 * 2**10
_PIECE = 2**16


class QueryThread:
    """Asks one question at a time."""

    def __init__(self, url: str, timeout: timedelta) -> None:
        self.connection: Callable[[], HttpConnection] = lambda: DIRECT
        """Tells what goes along with a question."""
        self._masked: Callable[[str], str] = str
        self._url = url
        self._cut = _Cut()
        self._trusted: ssl.SSLContext | None = None
        self._session = session = requests.Session()
        session.trust_env = False  # a proxy or .netrc of the environment would decide who answers
        session.stream = True
        session.headers["Cache-Control"] = "no-cache"
        session.hooks["response"].append(self._checked)
        limit = timeout.total_seconds()
        self._limit = limit
        self._connect = PrometheusConnect(url=url, session=session, retry=Retry(0), timeout=limit)
        self._params = {"timeout": f"{max(1, round(limit * 1000))}ms"}

    def instant(self, query: str, at: datetime | None) -> Mapping[str, object]:
        """The `data` of an instant query's answer.

        :raises Unusable: and whatever requests and urllib3 raise.
        """
        params = self._params if at is None else {**self._params, "time": repr(at.timestamp())}
        data: Mapping[str, object] = self._connected().custom_query(query, params=params)
        return data

    def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> Mapping[str, Any]:
        """The `data` of a range query's answer; start and end are rounded to the second.

        :raises Unusable: and whatever requests and urllib3 raise.
        """
        data: Mapping[str, Any] = self._connected().custom_query_range(
            query, start, end, f"{step.total_seconds():.3f}", params=self._params
        )
        return data

    def rules(self) -> Mapping[str, Any]:
        """The `data` of its own rules. :raises Unusable: and whatever requests and urllib3 raise."""
        url = self._connected().url
        without = {"exclude_alerts": "true"}  # what fires could be longer than all rules; older servers do not know it
        answer = self._session.get(f"{url}/api/v1/rules", params=without, timeout=self._limit)
        data: Mapping[str, Any] = answer.json()["data"]["result"]
        return data

    def _connected(self) -> PrometheusConnect:
        """The client, with the secrets and certificates of now.

        :raises Unusable: one cannot be read.
        """
        try:
            connection = self.connection()
            trusted = _trust() if connection.tls is None else tls_context(connection.tls)
        except (ValueError, OSError) as error:
            raise Unusable(f"cannot be asked: {error}") from error
        url = connection.url or self._url
        if trusted is not self._trusted or url != self._connect.url:  # at first, and since certificates changed
            self._trusted, self._connect.url = trusted, url
            name = None if connection.tls is None else connection.tls.server_name or None
            self._session.close()  # connections of before are of no use
            self._session.mount(url, _Adapter(self._cut, trusted, name, alone=connection.tls is not None))
        self._session.headers.update({name: text.encode() for name, text in connection.headers.items()})
        self._session.proxies = dict.fromkeys(("http", "https"), connection.proxy) if connection.proxy else {}
        self._masked = connection.masked
        return self._connect

    def _checked(self, response: requests.Response, *_: object, **__: object) -> requests.Response:
        """Check what prometheus-api-client does not look at: status, type, size, warnings."""
        try:
            if response.is_redirect:
                raise Unusable(
                    f"answered {response.status_code}, a redirect; give its own address in `prometheus: url`"
                )
            if response.status_code != requests.codes.ok:
                raise Unusable(refusal(response.status_code, _body(response, _LARGEST_REFUSAL), self._masked))
            if old := from_cache(response.headers):
                raise Unusable(f"answered {old}; give its own address in `prometheus: url`")
            kind = response.headers.get("Content-Type", "nothing")
            if kind.partition(";")[0].strip().lower() != "application/json":
                raise Unusable(f"answered with {kind[:80]}, not with JSON; is this Prometheus's address?")
            return _Document(whole_data(_body(response, LARGEST_ANSWER)))
        finally:
            response.close()

    def cut(self) -> None:
        """End the request that is under way, from any thread; the connection is of no use afterwards."""
        self._cut.cut()

    def close(self) -> None:
        self._connect.close()
        self._cut.forget()


class _Document(requests.Response):
    """Stands in for a response that was read and checked."""

    def __init__(self, data: Mapping[str, object]) -> None:
        super().__init__()
        self.status_code = requests.codes.ok
        self._data = data

    def json(self, **_: Any) -> Any:
        return {"data": {"result": self._data}}


def _body(response: requests.Response, largest: int) -> bytes:
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > largest:
            raise Unusable(f"the answer ({response.status_code}) is larger than {largest // 2**10} KiB")
    return bytes(body)


class _Cut:
    """Holds on to the newest connection's socket, to end it under whoever reads from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._done = False

    def opened(self, sock: socket.socket) -> socket.socket:
        """Keep a duplicate of the socket, since TLS takes the descriptor away from the one it is given."""
        handle = sock.dup()
        with self._lock:
            previous, self._handle = self._handle, handle
            if self._done:
                _shut(handle)
        if previous is not None:
            previous.close()
        return sock

    def cut(self) -> None:
        with self._lock:
            self._done = True
            if self._handle is not None:
                _shut(self._handle)

    def forget(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = None


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # it may be closed already
        sock.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Connections whose sockets `_Cut` knows; certificates are checked against the system's store as well."""

    def __init__(self, cut: _Cut, trusted: ssl.SSLContext, server_name: str | None, *, alone: bool) -> None:
        """`alone`: nothing is trusted beside what is given here."""
        self._cut = cut
        self._tls = {"ssl_context": trusted, "server_hostname": server_name}
        self._alone = alone
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=Retry(0))

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: object) -> None:
        super().init_poolmanager(connections, maxsize, block, **self._tls, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self._cut.opened)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: object) -> object:
        manager = super().proxy_manager_for(proxy, **self._tls, **proxy_kwargs)
        manager.pool_classes_by_scheme = _pools(self._cut.opened)
        return manager

    def cert_verify(self, conn: object, url: str, verify: object, cert: object) -> None:
        if not self._alone:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]


@cache
def _trust() -> ssl.SSLContext:
    """The certificates, read once for all threads: reading them takes longer than a question."""
    return ssl.create_default_context()


def _pools(opened: Callable[[socket.socket], socket.socket]) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return opened(super()._new_conn())

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return opened(super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def readable(error: BaseException) -> str:
    """The innermost cause that has words: `Connection refused`, not three layers of wrapping."""
    said, seen = "", error
    for _ in range(10):
        inner = getattr(seen, "reason", None) or getattr(seen, "original_error", None) or next(iter(seen.args), None)
        if isinstance(seen, OSError):  # a proxy's refusal has a text and no number
            said = seen.strerror or (inner if isinstance(inner, str) else said)
        if not isinstance(inner, BaseException):
            inner = seen.__cause__ or seen.__context__
        if inner is None or inner is seen:
            break
        seen = inner
    return said or f"{type(error).__name__}: {str(error)[:200]}"
