"""Whether a URL answers as it should.

A refused connection, a broken or late answer and an unwanted status are bad: that is what users see. What never
reached the service (its name does not resolve, no route, no descriptor) is inconclusive.
"""

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import AfterValidator, BeforeValidator, model_validator

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import CheckResult, Verdict
from rollbackd.units import Duration, Secret, format_duration, show

_STATUS = re.compile(r"[1-5](?:xx|[0-9]{2})")
_LARGEST = 2**20
"""Bytes of a body that are searched."""
_PIECE = 2**16


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or any(character.isspace() for character in text):
        raise ValueError(f"{show(text)} is not a URL that can be asked; write it like http://127.0.0.1:3000/health")
    return text


def _statuses(value: Any) -> tuple[str, ...]:
    many = value if isinstance(value, (list, tuple)) else (value,)
    texts = tuple(str(one).lower() for one in many)
    for text in texts:
        if _STATUS.fullmatch(text) is None:
            raise ValueError(f"{show(text)} is not a status; write it like 2xx, 204 or [200, 204]")
    if not texts:
        raise ValueError("no status is wanted; write it like 2xx, 204 or [200, 204]")
    return texts


class HttpSettings(CheckSettings):
    """A request is answered as wanted. Certificates are always verified."""

    http: Annotated[str, AfterValidator(_url)]
    method: Literal["GET", "HEAD", "OPTIONS", "POST"] = "GET"
    status: Annotated[tuple[str, ...], BeforeValidator(_statuses)] = ("2xx",)
    """What is wanted: `2xx`, `204`, or a list of such."""
    below: Duration | None = None
    """The whole answer takes less than this."""
    contains: str = ""
    """Text that is in the first MiB of the body, in UTF-8."""
    headers: dict[str, str | Secret] = {}
    follow: bool = False
    """Follow redirects; the last answer counts."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.follow and any(isinstance(value, Secret) for value in self.headers.values()):
            raise ValueError("`follow` could carry a secret header to another host; check the final URL instead")
        if self.contains and self.method == "HEAD":
            raise ValueError("the answer to HEAD has no body to search for `contains`; use GET")
        if self.below is not None and self.below > self.timeout:
            raise ValueError("`below` is longer than `timeout`; make `timeout` longer")
        return self


class Http:
    """Asks once, on a connection of its own."""

    settings_model: ClassVar[type[CheckSettings]] = HttpSettings

    def __init__(self, settings: HttpSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place

    async def run(self, since: datetime | None = None) -> CheckResult:  # noqa: ARG002  # it sees only the present
        clock = self._place.clock
        began = clock.monotonic()
        verdict, reason = await self._asked()
        took = timedelta(seconds=clock.monotonic() - began)
        below = self._settings.below
        if verdict is Verdict.GOOD:
            reason = f"{reason} in {format_duration(took)}"
            if below is not None and took >= below:
                verdict, reason = Verdict.BAD, f"{reason}, wants less than {format_duration(below)}"
        return CheckResult(self._place.name, verdict, reason, took, self._settings.warn)

    async def _asked(self) -> tuple[Verdict, str]:
        settings = self._settings
        try:
            headers = self._headers()
        except ValueError as error:
            return Verdict.INCONCLUSIVE, f"could not ask: {error}"
        try:
            async with asyncio.timeout(settings.timeout.total_seconds()):
                return await self._answer(headers)
        except TimeoutError:
            return Verdict.BAD, f"no answer within {format_duration(settings.timeout)}"
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            return Verdict.BAD, f"TLS failed: {error}"
        except aiohttp.InvalidURL as error:
            return Verdict.INCONCLUSIVE, f"could not ask: {error}"
        except aiohttp.ClientConnectorError as error:
            return unanswered(error.os_error)
        except OSError as error:
            return unanswered(error)
        except aiohttp.ClientError as error:
            return Verdict.BAD, f"broken answer: {str(error) or type(error).__name__}"

    def _headers(self) -> Mapping[str, str]:
        """`Connection: close`, since a connection kept from before a release ends with the old process."""
        plain = {
            name: self._place.reveal(value) if isinstance(value, Secret) else value
            for name, value in self._settings.headers.items()
        }
        if any("\r" in value or "\n" in value or "\0" in value for value in plain.values()):
            raise ValueError("a header's value has a line break in it; write it on one line")
        return {"Connection": "close", "User-Agent": "rollbackd", **plain}

    async def _answer(self, headers: Mapping[str, str]) -> tuple[Verdict, str]:
        settings = self._settings
        session: aiohttp.ClientSession = self._place.http()
        request = session.request(
            settings.method, settings.http, headers=headers, allow_redirects=settings.follow, max_redirects=5
        )
        async with request as response:
            said = f"answered {response.status}"
            if not _wanted(response.status, settings.status):
                return Verdict.BAD, f"{said}, wants {' or '.join(settings.status)}"
            body, whole = await _read(response.content)
        if settings.contains.encode() in body:
            return Verdict.GOOD, said
        if not whole:
            return Verdict.INCONCLUSIVE, f"{said}, but {show(settings.contains)} is not in the first MiB"
        return Verdict.BAD, f"{said} without {show(settings.contains)}"


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
