"""The two routes of snapshots that carry a file.

A file comes and goes as the bytes of a request: nobody at the other end chooses a path on this host.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from aiohttp import hdrs, web
from pydantic import ValidationError

from rollbackd.api.answers import written
from rollbackd.api.problems import ProblemError, invalid
from rollbackd.operations import Operations
from rollbackd.operations.parameters import FileQuery
from rollbackd.snapshots.views import TakenView

OCTETS = "application/octet-stream"
FILES = "/api/v1/services/{name}/snapshots/file"
_STALLED = 60.0
"""Seconds without a byte after which whoever sends is given up."""
_LEFT = 256 * 2**20
"""Bytes that must stay free where a file is put that comes in."""
_CHUNK = 2**20


class SnapshotFiles:
    """Export and import."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def export(self, request: web.Request, _actor: str) -> web.StreamResponse:
        """Send a snapshot as one file."""
        query, service = _query(request), request.match_info["name"]
        if not query.snapshot:
            raise ProblemError(400, "say which: snapshot=NAME")
        layer = self._operations.snapshot_layer(service, query.layer)
        async with self._operations.snapshot_manager.exported(service, layer, query.snapshot) as file:
            answer = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"})
            answer.content_type = OCTETS
            answer.content_length = (await asyncio.to_thread(file.stat)).st_size
            await answer.prepare(request)
            async for chunk in _chunks(file):
                await answer.write(chunk)
            await answer.write_eof()
            return answer

    async def take_in(self, request: web.Request, actor: str) -> web.StreamResponse:
        """Take in a file that an export gave, here or elsewhere."""
        if request.content_type != OCTETS:
            raise ProblemError(415, f"send the file with `Content-Type: {OCTETS}`")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise ProblemError(415, "send the file as it is, without Content-Encoding", {"Accept-Encoding": "identity"})
        query, service = _query(request), request.match_info["name"]
        layer = self._operations.snapshot_layer(service, query.layer)
        async with self._operations.snapshot_manager.place_for_file() as file:
            await _receive(request, file)
            taken = await self._operations.snapshot_manager.take_in(service, layer, file, actor)
        headers = {hdrs.CACHE_CONTROL: "no-store"}
        return web.Response(body=written(TakenView).dump_json(taken), content_type="application/json", headers=headers)


def _query(request: web.Request) -> FileQuery:
    try:
        return FileQuery.model_validate(dict(request.query))
    except ValidationError as error:
        raise invalid(error) from error


async def _receive(request: web.Request, file: Path) -> None:
    """Write a body into a file, as long as there is room.

    :raises ProblemError: it stalls, or there is no room. ConnectionError: whoever sends went away.
    """
    sink = await asyncio.to_thread(_opened, file)
    try:
        while True:
            async with asyncio.timeout(_STALLED):
                chunk = await request.content.readany()
            if not chunk:
                break
            await asyncio.to_thread(_write, sink, chunk, file)
    except TimeoutError as error:
        raise ProblemError(408, f"nothing came for {_STALLED:g}s; send it again") from error
    finally:
        await asyncio.to_thread(sink.close)


def _opened(file: Path) -> BinaryIO:
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _write(sink: BinaryIO, chunk: bytes, file: Path) -> None:
    if shutil.disk_usage(file.parent).free < _LEFT + len(chunk):
        raise ProblemError(507, f"less than {_LEFT // 2**20} MiB would be free in {file.parents[1]}; make room")
    try:
        sink.write(chunk)
    except OSError as error:
        raise ProblemError(507, f"{file.parents[1]}: {error.strerror}; make room") from error


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    source = await asyncio.to_thread(file.open, "rb")
    try:
        while chunk := await asyncio.to_thread(source.read, _CHUNK):
            yield chunk
    finally:
        await asyncio.to_thread(source.close)
