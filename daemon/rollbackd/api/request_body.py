"""A body is read whole, within a size and a time, or not at all. It comes packed, and is unfolded by who was let in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from rollbackd.api.problems import ProblemError
from rollbackd.syntax.units import show
from rollbackd.system.unfolding import ENCODINGS, NotPackedError, unfolded

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
READ_WITHIN = 30.0
"""Seconds that a client has to send its body."""


_FIELDS = 100
"""Of a form."""
_TAKEN = {"Accept-Encoding": ", ".join(ENCODINGS)}


def _uncounted(_bytes: int) -> None:
    return


async def read_json(
    request: web.Request, most: int, within: float = READ_WITHIN, count: Callable[[int], None] = _uncounted
) -> bytes:
    """The bytes of a JSON body, unfolded; arguments and errors as those of `read_body`."""
    return await read_body(request, JSON, most, within, count)


async def read_form(request: web.Request, most: int) -> dict[str, str]:
    """The fields of a form; of one that is there twice the last. Raises as `read_body` does."""
    body = await read_body(request, FORM, most)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS))
    except ValueError as error:
        raise ProblemError(400, "this is no form of the page; go back, reload it, and send it again") from error


async def read_body(
    request: web.Request,
    kind: str,
    most: int,
    within: float = READ_WITHIN,
    count: Callable[[int], None] = _uncounted,
) -> bytes:
    """The bytes of a body, unfolded.

    :param kind: the media type that it must have.
    :param most: bytes that it may have, as it comes and unfolded; it is read and unfolded no further.
    :param count: told of each piece's size as it arrives or is unfolded; what it raises ends the reading.
    :raises ProblemError: 408, 413, 415, or 400 when it cannot be unfolded.
    :raises ConnectionError: the client went away.
    """
    if request.content_type != kind:
        what = "JSON" if kind == JSON else "a form"
        raise ProblemError(415, f"send {what} with `Content-Type: {kind}`, not {show(request.content_type)}")
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() or "identity"
    if encoding not in {"identity", *ENCODINGS}:
        said = f"send it plain, or with `Content-Encoding: gzip` or deflate, not {show(encoding)}"
        raise ProblemError(415, said, _TAKEN)
    if (request.content_length or 0) > most:
        raise _too_large(most)
    try:
        if request.content.is_eof() and encoding == "identity":
            body = request.content.read_nowait()  # it came with the head; a timer would cost more than the rest
            count(len(body))
            return body
        async with asyncio.timeout(within):
            pieces = _bounded(_arriving(request), most, count)
            if encoding != "identity":
                pieces = _bounded(unfolded(pieces, encoding), most, count)
            return b"".join([piece async for piece in pieces])
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {within:g}s; send it again") from None
    except NotPackedError as error:
        raise ProblemError(400, f"the body is not {show(encoding)}, as its Content-Encoding says") from error
    except (HttpProcessingError, web.RequestPayloadError) as error:
        raise ProblemError(400, "the body is cut off or badly chunked") from error


async def _arriving(request: web.Request) -> AsyncIterator[bytes]:
    while piece := await request.content.readany():
        yield piece


async def _bounded(pieces: AsyncIterator[bytes], most: int, count: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The pieces, while they are no more than that. :raises ProblemError: 413."""
    size = 0
    async for piece in pieces:
        count(len(piece))
        size += len(piece)
        if size > most:
            raise _too_large(most)
        yield piece


def _too_large(most: int) -> ProblemError:
    return ProblemError(
        413, f"the body is larger than {most} bytes; daemon.max_body sets how large one of alerts may be"
    )
