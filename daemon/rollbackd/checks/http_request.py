"""One HTTP request of a check: on a connection of its own, bounded in time and size, a failure told as a verdict.

A refused connection, a broken or late answer and an unwanted status are bad: that is what users see. What never
reached the service (its name does not resolve, no route, no descriptor) is inconclusive.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import aiohttp

from rollbackd.adapter import CheckPlace
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import Verdict
from rollbackd.syntax.addresses import is_url
from rollbackd.syntax.units import Secret, format_duration, show
from rollbackd.system.redaction import one_line

_LARGEST = 2**20
"""Bytes of a body that are read."""
_PIECE = 2**16


class NoAnswer(Exception):  # noqa: N818  # a finding, not a fault of ours
    """The lack of an answer to look into, with the verdict that follows from it."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer with a wanted status."""

    status: int
    headers: Mapping[str, str]
    """Looked up whatever the case of their names."""
    body: bytes
    """The first MiB of it."""
    whole: bool
    """That is all of it."""

    @property
    def said(self) -> str:
        return f"answered {self.status}"

    def document(self) -> object:
        """The body as JSON. :raises NoAnswer: it is none, or only its beginning was read."""
        if not self.whole:
            raise NoAnswer(Verdict.INCONCLUSIVE, f"{self.said} with more than a MiB, which is not read as JSON")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise NoAnswer(Verdict.BAD, f"{self.said} with a body that is not JSON") from None


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that a check sends."""

    url: str
    headers: Mapping[str, str | Secret]
    timeout: timedelta
    method: str = "GET"
    status: tuple[str, ...] = ("2xx",)
    follow: bool = False

    async def answered(self, place: CheckPlace) -> HttpAnswer:
        """Send it once. :raises NoAnswer: with what that says about the service."""
        try:
            headers = _revealed(self.headers, place)
            async with asyncio.timeout(self.timeout.total_seconds()):
                return await self._answer(headers, place.http())
        except TimeoutError as error:
            raise NoAnswer(Verdict.BAD, f"no answer within {format_duration(self.timeout)}") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            raise NoAnswer(Verdict.BAD, f"TLS failed: {error}") from error
        except ValueError as error:  # after those of TLS, which are ValueErrors too
            raise NoAnswer(Verdict.INCONCLUSIVE, f"could not ask: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise NoAnswer(*unanswered(error.os_error)) from error
        except OSError as error:
            raise NoAnswer(*unanswered(error)) from error
        except aiohttp.ClientError as error:
            raise NoAnswer(Verdict.BAD, f"broken answer: {one_line(str(error)) or type(error).__name__}") from error

    async def _answer(self, headers: Mapping[str, str], session: aiohttp.ClientSession) -> HttpAnswer:
        request = session.request(self.method, self.url, headers=headers, allow_redirects=self.follow, max_redirects=5)
        async with request as response:
            if not _wanted(response.status, self.status):
                reason = f"answered {response.status}, wants {' or '.join(self.status)}"
                raise NoAnswer(Verdict.BAD, reason)
            body, whole = await _read(response.content)
            return HttpAnswer(response.status, response.headers, body, whole)


def url(text: str) -> str:
    """A URL that can be asked. :raises ValueError: for anything else, with what to write."""
    if not is_url(text):
        raise ValueError(f"{show(text)} is not a URL that can be asked; write it like http://127.0.0.1:3000/health")
    return text


def _revealed(headers: Mapping[str, str | Secret], place: CheckPlace) -> Mapping[str, str]:
    """The headers to send; with `Connection: close`, since a connection that is kept would end with the old process."""
    plain = {name: place.reveal(value) if isinstance(value, Secret) else value for name, value in headers.items()}
    if any("\r" in value or "\n" in value or "\0" in value for value in plain.values()):
        raise ValueError("a header's value has a line break in it; write it on one line")
    return {"Connection": "close", "User-Agent": "rollbackd", **plain}


def _wanted(status: int, wanted: tuple[str, ...]) -> bool:
    return str(status) in wanted or f"{status // 100}xx" in wanted


async def _read(content: aiohttp.StreamReader) -> tuple[bytes, bool]:
    """The body's beginning, and whether that is all of it."""
    body = bytearray()
    async for piece in content.iter_chunked(_PIECE):
        body += piece
        if len(body) > _LARGEST:
            return bytes(body), False
    return bytes(body), True
