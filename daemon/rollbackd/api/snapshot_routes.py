"""The routes of snapshots: values in and out as everywhere, and the two that carry a file.

A file comes and goes as the bytes of a request: nobody at the other end chooses a path on this host.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from aiohttp import hdrs, web
from pydantic import Field, TypeAdapter, ValidationError

from rollbackd.api.authorization import Gate
from rollbackd.api.bodies import NoBody, NoQuery, Reference, RequestFields
from rollbackd.api.problems import ProblemError, invalid
from rollbackd.api.routes import ApiCall, ApiRoute
from rollbackd.config.models import NAME
from rollbackd.operations import Operations
from rollbackd.snapshots.views import DifferenceView, KeptView, RestoredView, TakenView

OCTETS = "application/octet-stream"
FILES = "/api/v1/services/{name}/snapshots/file"
_STALLED = 60.0
"""Seconds without a byte after which whoever sends is given up."""
_LEFT = 256 * 2**20
"""Bytes that must stay free where a file is put that comes in."""
_CHUNK = 2**20
_TAKEN: TypeAdapter[TakenView] = TypeAdapter(TakenView)
_LAYER = r"^([a-z0-9][a-z0-9._-]{0,62})?$"
assert NAME.strip("^$") in _LAYER

Layer = Annotated[str, Field(pattern=_LAYER)]
"""Empty: the only one of the service that keeps snapshots."""


# -- what comes in and goes out -----------------------------------------------------------------
class KeptQuery(RequestFields):
    service: str = ""
    """Only of this service."""
    layer: Layer = ""
    """Only this layer."""
    brief: bool = False
    """Only which layers there are; none of them is asked."""


class FileQuery(RequestFields):
    layer: Layer = ""
    snapshot: Reference = ""
    """Which is wanted; a file that comes in says its own name."""


class LayerBody(RequestFields):
    layer: Layer = ""


class TakeBody(LayerBody):
    name: Reference = ""
    """What it is to be called; empty: by why and when it is taken."""


class VerifyBody(LayerBody):
    snapshot: Reference
    rehearse: bool = False
    """Also restore it into a scratch place, and compare."""


class DiffBody(LayerBody):
    older: Reference
    newer: Reference = ""
    """Empty: what is there now."""


class RestoreBody(LayerBody):
    snapshot: Reference = ""
    """Empty: the best that there is: good states first, then the newest that is older than what is there, each read."""
    only: tuple[Reference, ...] = Field(default=(), max_length=20)
    """Parts that the layer can restore separately; empty: all."""
    over_hold: bool = False
    """Also while the service is held."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """A layer that keeps snapshots."""

    service: str
    layer: str


@dataclass(frozen=True, slots=True)
class Snapshots:
    layers: tuple[KeptView | Keeping, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    differences: tuple[DifferenceView, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    dropped: tuple[str, ...]


# -- one call of the desk each ------------------------------------------------------------------
async def snapshots(call: ApiCall[KeptQuery, NoBody]) -> Snapshots:
    """Layers that keep snapshots, each with them, newest first."""
    if call.query.brief:
        found = await call.operations.kept(call.query.service)
        return Snapshots(tuple(Keeping(*each) for each in found if call.query.layer in {"", each[1]}))
    return Snapshots(tuple(await call.operations.snapshots(call.query.service, call.query.layer)))


async def take(call: ApiCall[NoQuery, TakeBody]) -> TakenView:
    """Take a snapshot of a layer, read it, and send it to where the calendar sends them."""
    return await call.operations.take_snapshot(call.name, call.body.layer, call.body.name, call.actor)


async def verify(call: ApiCall[NoQuery, VerifyBody]) -> TakenView:
    """Read all of a snapshot and compare every hash."""
    body = call.body
    return await call.operations.verify_snapshot(call.name, body.layer, body.snapshot, call.actor, body.rehearse)


async def diff(call: ApiCall[NoQuery, DiffBody]) -> Differences:
    """What differs between two snapshots, or between one and what is there now; secrets are masked."""
    body = call.body
    return Differences(tuple(await call.operations.diff_snapshots(call.name, body.layer, body.older, body.newer)))


async def restore(call: ApiCall[NoQuery, RestoreBody]) -> RestoredView:
    """Take a layer to a snapshot; what is there is saved first."""
    body = call.body
    return await call.operations.restore_snapshot(
        call.name, body.layer, body.snapshot, body.only, call.actor, body.over_hold
    )


async def prune(call: ApiCall[NoQuery, LayerBody]) -> Dropped:
    """Drop the snapshots that nothing keeps."""
    return Dropped(await call.operations.prune_snapshots(call.name, call.body.layer, call.actor))


_OF = "/api/v1/services/{name}/snapshots"
SNAPSHOT_ROUTES = (
    ApiRoute("GET", "/api/v1/snapshots", "viewer", snapshots, Snapshots, KeptQuery),
    ApiRoute("POST", _OF, "operator", take, TakenView, body=TakeBody),
    ApiRoute("POST", f"{_OF}/verify", "operator", verify, TakenView, body=VerifyBody),
    ApiRoute("POST", f"{_OF}/diff", "operator", diff, Differences, body=DiffBody),
    ApiRoute("POST", f"{_OF}/restore", "operator", restore, RestoredView, body=RestoreBody),
    ApiRoute("POST", f"{_OF}/prune", "operator", prune, Dropped, body=LayerBody),
)


# -- files --------------------------------------------------------------------------------------
def add_files(app: web.Application, operations: Operations, gate: Gate) -> None:
    """Export and import."""

    async def export(request: web.Request) -> web.StreamResponse:
        gate.admit(request, "operator")
        query = _query(request)
        if not query.snapshot:
            raise ProblemError(400, "say which: snapshot=NAME")
        async with operations.exported_snapshot(request.match_info["name"], query.layer, query.snapshot) as file:
            answer = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"})
            answer.content_type = OCTETS
            answer.content_length = await asyncio.to_thread(_size, file)
            await answer.prepare(request)
            async for chunk in _chunks(file):
                await answer.write(chunk)
            await answer.write_eof()
            return answer

    async def take_in(request: web.Request) -> web.StreamResponse:
        actor = gate.admit(request, "operator").actor
        if request.content_type != OCTETS:
            raise ProblemError(415, f"send the file with `Content-Type: {OCTETS}`")
        query, name = _query(request), request.match_info["name"]
        async with operations.place_for_snapshot(name, query.layer) as file:
            await _receive(request, file)
            taken = await operations.take_in_snapshot(name, query.layer, file, actor)
        headers = {hdrs.CACHE_CONTROL: "no-store"}
        return web.Response(body=_TAKEN.dump_json(taken), content_type="application/json", headers=headers)

    app.router.add_get(FILES, export, allow_head=False)
    app.router.add_put(FILES, take_in)


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


def _size(file: Path) -> int:
    return file.stat().st_size


def described(layer: dict[str, Any], taken: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """The two routes of files for the API's description; `layer` is the parameters, `taken` the answer's content."""
    octets = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    away: dict[str, Any] = {
        "operationId": "export_snapshot",
        "summary": "A snapshot as one file.",
        **layer,
        "responses": {"200": {"description": "the file", "content": octets}},
    }
    back: dict[str, Any] = {
        "operationId": "import_snapshot",
        "summary": "Take in a file that an export gave, here or elsewhere, once every hash agrees.",
        **layer,
        "requestBody": {"required": True, "content": octets},
        "responses": {"200": {"description": "taken in, and read", "content": taken}},
    }
    return [(FILES, "get", away), (FILES, "put", back)]
