"""One HTTP request to a receiver: seconds-long retries, and errors that never show an address or a secret."""

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from rollbackd.adapter import DeliveryError
from rollbackd.notify.messages import plain_text
from rollbackd.syntax.units import Secret

LIMIT = 30.0
"""Seconds that one message may take, with all its tries."""
_ONE_TRY = aiohttp.ClientTimeout(total=9, connect=5)
_TRIES = 3
_TRANSIENT = frozenset({408, 423, 425, 429})
_LONGEST_REST = timedelta(hours=1)
_READ = 2048
"""Bytes of an answer that are looked at."""


class _AgainSoonError(DeliveryError):
    """Worth another try in the same second: the connection or the server failed, and nothing asked us to wait."""


async def post(
    http: Callable[[], Any],
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    who: str,
    secrets: Sequence[str] = (),
) -> None:
    """Post JSON; any 2xx is delivered. `who` stands for the receiver in errors, which never name the address.

    :raises DeliveryError: permanent for an answer that the same request will get again.
    """
    retrying = AsyncRetrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(multiplier=0.25, max=1),
        retry=retry_if_exception_type(_AgainSoonError),
        reraise=True,
    )
    try:
        async with asyncio.timeout(LIMIT):
            async for attempt in retrying:
                with attempt:
                    await _once(http(), url, body, headers, who, secrets)
    except TimeoutError as error:
        raise DeliveryError(f"{who} did not answer in time", permanent=False) from error


async def _once(
    session: aiohttp.ClientSession,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    who: str,
    secrets: Sequence[str],
) -> None:
    sent = {"Content-Type": "application/json", **headers}
    try:
        # A redirect is not followed: it would hand the secret in the address to somebody else.
        async with session.post(
            url, data=io.BytesIO(body), headers=sent, timeout=_ONE_TRY, allow_redirects=False
        ) as answer:
            status, rest = answer.status, retry_after(answer.headers)
            said = "" if 200 <= status < 300 else (await answer.content.read(_READ)).decode(errors="replace")
    except TimeoutError as error:
        raise DeliveryError(f"{who} did not answer in time", permanent=False) from error
    except aiohttp.InvalidURL:
        raise DeliveryError(f"{who} has an address that is no URL", permanent=True) from None
    except (aiohttp.ClientError, OSError) as error:
        raise _AgainSoonError(f"{who} cannot be reached: {_reason(error)}", permanent=False) from None
    if 200 <= status < 300:
        return
    text = (
        f"{who} answered {status}: {plain_text.fit(masked(said, secrets), 200)}" if said else f"{who} answered {status}"
    )
    if status >= 500 and rest is None:
        raise _AgainSoonError(text, permanent=False)
    raise DeliveryError(text, permanent=not (status >= 500 or status in _TRANSIENT), retry_after=rest)


def revealed(reveal: Callable[[Secret], str], secret: Secret, who: str) -> str:
    """The secret itself. :raises DeliveryError: it cannot be read; transient, since a file may be put right."""
    try:
        return reveal(secret)
    except (ValueError, OSError) as error:
        raise DeliveryError(f"{who}: {plain_text.fit(str(error), 200)}", permanent=False) from None


def masked(text: str, secrets: Sequence[str]) -> str:
    """The text without secrets, for an answer that repeats what it was sent."""
    for secret in secrets:
        text = text.replace(secret, "***") if secret else text
    return text


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


def _reason(error: Exception) -> str:
    """What failed, without the address that aiohttp's own texts carry."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    return (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
