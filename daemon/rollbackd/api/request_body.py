"""A body is read whole, within a size and a time, or not at all."""

import asyncio
from collections.abc import Callable

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from rollbackd.api.problems import ProblemError
from rollbackd.syntax.units import show

JSON = "application/json"
READ_WITHIN = 30.0
"""Seconds that a client has to send its body."""


_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
_TAKEN = {"Accept-Encoding": "gzip, deflate"}


def _uncounted(_bytes: int) -> None:
    return


async def read_json(
    request: web.Request, most: int, within: float = READ_WITHIN, count: Callable[[int], None] = _uncounted
) -> bytes:
    """The bytes of a JSON body, decompressed.

    :param most: bytes that it may have; a compressed one is stopped when it has unfolded to more.
    :param count: told of each chunk's size as it arrives; what it raises ends the reading.
    :raises ProblemError: 408, 413, 415, or 400 when it cannot be decoded.
    :raises ConnectionError: the client went away.
    """
    if request.content_type != JSON:
        raise ProblemError(415, f"send JSON with `Content-Type: {JSON}`, not {show(request.content_type)}")
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if encoding not in _ENCODINGS:
        said = f"send it plain, or with `Content-Encoding: gzip` or deflate, not {show(encoding)}"
        raise ProblemError(415, said, _TAKEN)
    if (request.content_length or 0) > most:
        raise _too_large(most)
    body = b""
    try:
        if request.content.is_eof():  # all of it came with the head; a timer would cost more than the rest of this
            body = request.content.read_nowait()
            count(len(body))
        else:
            body = await _read_all(request, most, within, count)
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {within:g}s; send it again") from None
    except (HttpProcessingError, web.RequestPayloadError) as error:
        what = f"is not {show(encoding)}, as its Content-Encoding says" if encoding else "is cut off or badly chunked"
        raise ProblemError(400, f"the body {what}") from error
    if len(body) > most:
        raise _too_large(most)
    return body


async def _read_all(request: web.Request, most: int, within: float, count: Callable[[int], None]) -> bytes:
    body = bytearray()
    async with asyncio.timeout(within):
        while len(body) <= most and (chunk := await request.content.readany()):
            count(len(chunk))
            body += chunk
    return bytes(body)


def _too_large(most: int) -> ProblemError:
    return ProblemError(
        413, f"the body is larger than {most} bytes; daemon.max_body sets how large one of alerts may be"
    )
