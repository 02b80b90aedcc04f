"""The HTTP client: what bounds every request, what a failure is, and which refusals are worth another try.

Notifiers, checks, adapters and Alertmanager ask through it, and each says in its own words what came of it. A redirect
is not followed unless the caller wants it: it would hand the secrets of a request to somebody else.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import hdrs

from rollbackd.syntax.units import format_duration
from rollbackd.system.certificates import CertificateTrouble, tls_context
from rollbackd.system.http_connection import DIRECT, HttpConnection, overlaid
from rollbackd.system.unfolding import ENCODINGS, NotPackedError, unfolded

_USUAL = {str(hdrs.ACCEPT_ENCODING): ", ".join(ENCODINGS), str(hdrs.CACHE_CONTROL): "no-cache"}
"""How an answer may be packed, and that it is to be of now, where the caller does not say."""
_STALE = 5
"""Seconds."""
Session = aiohttp.ClientSession
Response = aiohttp.ClientResponse
MOVED = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 423, 425, 429})
"""Refusals that pass by themselves: a time limit, a lock, a request that came too early, a rate limit."""
_PROXY_REFUSES = 407
_LONGEST = timedelta(minutes=1)
_LONGEST_REST = timedelta(hours=1)
_PIECE = 2**16
_WORDS = 2048
"""How many bytes of a refusal are looked at."""


class HttpFailure(Enum):
    """Why there is no answer."""

    LATE = auto()
    UNTRIED = auto()
    """The time was over before a connection was tried: looking up its name took it, or waiting for a free one."""
    UNTRUSTED = auto()
    UNPREPARED = auto()
    """A certificate of ours cannot be read."""
    BY_PROXY = auto()
    """The proxy failed or refused: that says nothing of who is behind it."""
    NO_URL = auto()
    UNSENDABLE = auto()
    UNRESOLVED = auto()
    UNREACHED = auto()
    NOT_HTTP = auto()
    BROKEN_OFF = auto()


class HttpError(Exception):
    """There is no answer, or half of one. The text says what failed, without the URL that aiohttp's own texts carry."""

    def __init__(self, failure: HttpFailure, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.failure = failure
        self.cause = cause
        self.transient = failure not in {HttpFailure.NO_URL, HttpFailure.UNSENDABLE}
        """Whether the same request may be answered later."""


class _BrokenOff(aiohttp.ClientError):
    """The connection ended before the answer did; the text says how."""


class Attempt:
    """How far a request came. The far side's time begins when a connection is tried, not when its name is looked up."""

    def __init__(self, limit: timedelta = _LONGEST) -> None:
        self.tried: float | None = None
        """By the loop's time; None while nothing was tried."""
        self.resolving = False
        self.numeric = False
        """Its host is an address, which nobody looks up."""
        self.through = False
        """There is a connection, through the proxy where there is one."""
        self._limit = limit
        self._scope: asyncio.Timeout | None = None

    def within(self, scope: asyncio.Timeout, limit: timedelta) -> None:
        """The time limit that begins anew with the try."""
        self._scope, self._limit = scope, limit

    def is_tried(self) -> None:
        self.resolving = False
        if self.tried is None:
            now = asyncio.get_running_loop().time()
            self.tried = now
            if self._scope is not None and not self._scope.expired():
                self._scope.reschedule(now + self._limit.total_seconds())


def _trace() -> aiohttp.TraceConfig:
    """Tells each request's `Attempt`, which goes along with it, how far it came."""

    def attempt_of(context: Any) -> Attempt:
        found = getattr(context, "trace_request_ctx", None)
        return found if isinstance(found, Attempt) else Attempt()

    async def begins(_session: Session, context: Any, _params: object) -> None:
        attempt = attempt_of(context)
        if attempt.numeric:
            attempt.is_tried()

    async def resolves(_session: Session, context: Any, _params: object) -> None:
        attempt_of(context).resolving = True

    async def tried(_session: Session, context: Any, _params: object) -> None:
        attempt_of(context).is_tried()

    async def through(_session: Session, context: Any, _params: object) -> None:
        attempt = attempt_of(context)
        attempt.through = True
        attempt.is_tried()

    async def elsewhere(_session: Session, context: Any, _params: object) -> None:
        attempt = attempt_of(context)
        attempt.tried, attempt.numeric, attempt.through = None, False, False

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(begins)
    trace.on_dns_resolvehost_start.append(resolves)
    trace.on_dns_resolvehost_end.append(tried)
    trace.on_dns_cache_hit.append(tried)
    trace.on_connection_create_end.append(through)
    trace.on_connection_reuseconn.append(through)
    trace.on_request_headers_sent.append(tried)
    trace.on_request_redirect.append(elsewhere)
    trace.freeze()
    return trace


_TRACE = _trace()


class HttpSession:
    """The daemon's one HTTP client session, made when it is first needed."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def __call__(self) -> Session:
        if self._session is None or self._session.closed:
            # Without aiohttp's cache of names, so that each request knows what it waits for: `system/name_lookup.py`
            # asks once for all that want to know the same.
            connector = aiohttp.TCPConnector(use_dns_cache=False)
            limit = aiohttp.ClientTimeout(total=_LONGEST.total_seconds())
            self._session = aiohttp.ClientSession(connector=connector, timeout=limit)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def lone_session() -> Session:
    """A session that makes a connection for each request, keeps no cookies, and never sends anything twice."""
    connector, jar = aiohttp.TCPConnector(force_close=True, use_dns_cache=False), aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=connector, cookie_jar=jar, middlewares=(_once,))


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Response:
    """Keep aiohttp from sending a PUT or DELETE again by itself, since the first one may have been done."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # never sent
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        words = error.strerror if isinstance(error, OSError) else ""
        raise _BrokenOff((words or "the server closed the connection").lower()) from error


@asynccontextmanager
async def http_answer(
    session: Session,
    method: str,
    url: str,
    *,
    limit: timedelta = _LONGEST,
    connect: timedelta | None = None,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    body: bytes | None = None,
    redirects: int = 0,
    attempt: Attempt | None = None,
    connection: HttpConnection = DIRECT,
) -> AsyncIterator[Response]:
    """Send a request once; its answer, whatever the status, to be read by `body_of` or `words_of` within the block.

    :param limit: until a connection is tried, and then once more for all the rest, reading included.
    :param connect: for the connection alone.
    :param headers: they win over those of the connection.
    :param redirects: how many are followed, to whichever host; none with what is for this server alone.
    :param attempt: is told how far it came.
    :raises HttpError: there is none, or it ends too early.
    """
    whole = limit.total_seconds()
    timeout = session.timeout if connect is None else aiohttp.ClientTimeout(whole, connect.total_seconds())
    attempt = attempt or Attempt()
    attempt.numeric = _is_numeric(connection.proxy or url)
    redirects = 0 if connection.confidential else redirects
    if _TRACE not in session.trace_configs:
        session.trace_configs.append(_TRACE)
    try:
        async with asyncio.timeout(whole) as scope:
            attempt.within(scope, limit)
            sent = session.request(
                method,
                url,
                params=params,
                headers=overlaid(overlaid(_USUAL, connection.headers), headers or {}),
                data=None if body is None else io.BytesIO(body),
                auto_decompress=False,
                timeout=timeout,
                allow_redirects=redirects > 0,
                max_redirects=redirects,
                trace_request_ctx=attempt,
                proxy=connection.proxy or None,
                **await _encryption(connection),
            )
            async with sent as answer:
                if connection.proxy and answer.status == _PROXY_REFUSES:
                    about = (answer.request_info, answer.history)
                    raise aiohttp.ClientHttpProxyError(*about, status=answer.status, message=answer.reason or "")
                yield answer
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _failed(error, limit, attempt, by_proxy=bool(connection.proxy) and not attempt.through) from error


async def _encryption(connection: HttpConnection) -> dict[str, Any]:
    """How it is encrypted: aiohttp's default where nothing is said. Files are read on a thread."""
    if connection.tls is None:
        return {}
    context = connection.trusted or await asyncio.to_thread(tls_context, connection.tls)
    return {"ssl": context, "server_hostname": connection.tls.server_name or None}


def _is_numeric(url: str) -> bool:
    with suppress(ValueError):
        ip_address((urlsplit(url).hostname or "").partition("%")[0])
        return True
    return False


def _failed(error: Exception, limit: timedelta, attempt: Attempt, *, by_proxy: bool) -> HttpError:
    match error:
        case CertificateTrouble():
            return HttpError(HttpFailure.UNPREPARED, str(error), error)
        case aiohttp.ClientHttpProxyError():
            return HttpError(HttpFailure.BY_PROXY, f"its proxy refused: {error.status} {error.message}".strip(), error)
        case TimeoutError() if by_proxy:
            text = f"no connection through its proxy within {format_duration(limit)}"
            return HttpError(HttpFailure.BY_PROXY, text, error)
        case aiohttp.ClientConnectorError() if by_proxy and not isinstance(error, aiohttp.ClientSSLError):
            words = error.os_error.strerror or str(error.os_error)
            return HttpError(HttpFailure.BY_PROXY, f"its proxy cannot be reached: {words.lower()}", error)
        case TimeoutError() if attempt.tried is None:
            what = "its name did not resolve" if attempt.resolving else "no connection was free"
            return HttpError(HttpFailure.UNTRIED, f"{what} within {format_duration(limit)}", error)
        case TimeoutError():
            return HttpError(HttpFailure.LATE, f"no answer within {format_duration(limit)}", error)
        case aiohttp.ClientSSLError():  # an invalid certificate is a ValueError too
            return HttpError(HttpFailure.UNTRUSTED, "TLS failed; is its certificate valid for this name?", error)
        case ValueError():
            failure = HttpFailure.NO_URL if isinstance(error, aiohttp.InvalidURL) else HttpFailure.UNSENDABLE
            return HttpError(failure, "cannot be asked; correct the URL and its headers", error)
        case aiohttp.ClientConnectorDNSError():
            return HttpError(HttpFailure.UNRESOLVED, "its name does not resolve", error)
        case aiohttp.ClientConnectorError():
            words = error.os_error.strerror or str(error.os_error)
            return HttpError(HttpFailure.UNREACHED, f"cannot be reached: {words.lower()}", error)
        case aiohttp.ClientResponseError():
            return HttpError(HttpFailure.NOT_HTTP, "the answer is not HTTP", error)
    words = str(error) if isinstance(error, _BrokenOff) else "less came than was announced"
    return HttpError(HttpFailure.BROKEN_OFF, f"the answer broke off: {words}", error)


async def body_of(answer: Response, largest: int, *, to_the_end: bool = False) -> tuple[bytes, bool]:
    """The beginning of the answer's body, unpacked: `largest` bytes and a piece at most, and whether that is all of it.

    :param to_the_end: wait for the rest as well, without keeping or unpacking it.
    :raises HttpError: from the block of `http_answer`, when it is packed otherwise than it says.
    """
    body, whole = bytearray(), True
    try:
        async for piece in _unpacked(answer):
            body += piece
            if len(body) > largest:
                whole = False
                break
    except NotPackedError as error:
        raise _BrokenOff(str(error)) from error
    if to_the_end:
        while await answer.content.readany():
            pass
    return bytes(body), whole


async def lines_of(answer: Response, longest: int) -> AsyncIterator[bytes]:
    """The lines of the answer's body as they come, unpacked.

    :raises HttpError: from the block of `http_answer`, when one is longer than so many bytes and a piece, or it is
        packed otherwise than it says.
    """
    line = bytearray()
    try:
        async for piece in _unpacked(answer):
            begun, *others = piece.split(b"\n")
            line += begun
            for other in others:
                yield bytes(line)
                line = bytearray(other)
            if len(line) > longest:
                raise _BrokenOff(f"a line is longer than {longest // 2**20} MiB")
    except NotPackedError as error:
        raise _BrokenOff(str(error)) from error
    if line:
        yield bytes(line)


def _unpacked(answer: Response) -> AsyncIterator[bytes]:
    """Its body in pieces. :raises NotPackedError: as it is iterated."""
    pieces = answer.content.iter_chunked(_PIECE)
    encoding = answer.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if encoding in {"", "identity"}:
        return pieces
    if encoding not in ENCODINGS:
        raise NotPackedError(f"it is packed as {encoding[:20]}, which was not asked for")
    return unfolded(pieces, encoding)


async def words_of(answer: Response, secrets: Sequence[str] = ()) -> str:
    """The beginning of what a refusal says, without the secrets that it may repeat."""
    said = ""
    with suppress(NotPackedError):
        async for piece in _unpacked(answer):
            said = piece[:_WORDS].decode(errors="replace")
            break
    for secret in filter(None, secrets):
        said = said.replace(secret, "***")
    return said


def is_transient(status: int) -> bool:
    """Whether the same request may be answered better later: after a time limit, a lock, a rate limit, a failure."""
    return status >= 500 or status in _TRANSIENT


def from_cache(headers: Mapping[str, str]) -> str:
    """For how long a cache has had an answer, where that no longer speaks of now (`Age`, RFC 9111); else empty."""
    text = headers.get("Age", "").strip()
    old = text.isascii() and text.isdigit() and len(text) < 10 and int(text) > _STALE
    return f"from a cache that has had it for {text}s" if old else ""


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """What `Retry-After` asks for, at most an hour; a date is read against the answer's own `Date`."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), _LONGEST_REST)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["Date"])
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return min(max(wait, timedelta()), _LONGEST_REST)


def onward(url: str, answer: Response) -> str:
    """Where a redirect leads on the same host; empty when it is none, or leads elsewhere or nowhere."""
    if answer.status not in MOVED:
        return ""
    try:
        there = urljoin(url, answer.headers.get("Location", ""))
        return there if _origin(there) == _origin(url) else ""
    except ValueError:
        return ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
