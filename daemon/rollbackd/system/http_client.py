"""The HTTP client: what bounds every request, what a failure is, and which refusals are worth another try.

Notifiers, checks, adapters and Alertmanager ask through it, and each says in its own words what came of it. A redirect
is not followed unless the caller wants it: it would hand the secrets of a request to somebody else.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from urllib.parse import urljoin, urlsplit

import aiohttp

from rollbackd.syntax.units import format_duration

Session = aiohttp.ClientSession
Response = aiohttp.ClientResponse
MOVED = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 423, 425, 429})
"""Refusals that pass by themselves: a time limit, a lock, a request that came too early, a rate limit."""
_LONGEST = timedelta(minutes=1)
_LONGEST_REST = timedelta(hours=1)
_PIECE = 2**16
_WORDS = 2048
"""How many bytes of a refusal are looked at."""


class HttpFailure(Enum):
    """Why there is no answer."""

    LATE = auto()
    UNTRUSTED = auto()
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


class HttpSession:
    """The daemon's one HTTP client session, made when it is first needed."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def __call__(self) -> Session:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LONGEST.total_seconds()))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def lone_session() -> Session:
    """A session that makes a connection for each request, keeps no cookies, and never sends anything twice."""
    connector, jar = aiohttp.TCPConnector(force_close=True), aiohttp.DummyCookieJar()
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
) -> AsyncIterator[Response]:
    """Send a request once; its answer, whatever the status, to be read by `body_of` or `words_of` within the block.

    :param limit: for all of it, reading included.
    :param connect: for the connection alone.
    :param redirects: how many are followed, to whichever host.
    :raises HttpError: there is none, or it ends too early.
    """
    whole = limit.total_seconds()
    timeout = session.timeout if connect is None else aiohttp.ClientTimeout(whole, connect.total_seconds())
    sent = session.request(
        method,
        url,
        params=params,
        headers=headers,
        data=None if body is None else io.BytesIO(body),
        timeout=timeout,
        allow_redirects=redirects > 0,
        max_redirects=redirects,
    )
    try:
        async with asyncio.timeout(whole), sent as answer:
            yield answer
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _failed(error, limit) from error


def _failed(error: Exception, limit: timedelta) -> HttpError:
    match error:
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

    :param to_the_end: wait for the rest as well, without keeping it.
    """
    body, whole = bytearray(), True
    async for piece in answer.content.iter_chunked(_PIECE):
        if whole:
            body += piece
            whole = len(body) <= largest
        if not (whole or to_the_end):
            break
    return bytes(body), whole


async def words_of(answer: Response, secrets: Sequence[str] = ()) -> str:
    """The beginning of what a refusal says, without the secrets that it may repeat."""
    said = (await answer.content.read(_WORDS)).decode(errors="replace")
    for secret in filter(None, secrets):
        said = said.replace(secret, "***")
    return said


def is_transient(status: int) -> bool:
    """Whether the same request may be answered better later: after a time limit, a lock, a rate limit, a failure."""
    return status >= 500 or status in _TRANSIENT


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


def breaks_line(value: str) -> bool:
    """Whether it cannot be a header's value, since that ends with the line."""
    return any(character in value for character in "\r\n\0")


def without_password(url: str) -> str:
    """The address as messages show it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
