"""The HTTP application: every route is behind the gate, every error is a problem."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import exposition
from pydantic import TypeAdapter, ValidationError

from rollbackd.config.models import Daemon, Role
from rollbackd.desk import Desk
from rollbackd.units import Secret
from rollbackd.views import Readiness
from rollbackd.web.api import ROUTES, Call, Route
from rollbackd.web.auth import Gate
from rollbackd.web.intake import Intake
from rollbackd.web.openapi import document
from rollbackd.web.problems import as_problems, invalid
from rollbackd.web.reading import JSON, read_json
from rollbackd.web.snapshots import SNAPSHOT_ROUTES, add_files
from rollbackd.web.waits import Waits

_SMALL_BODY = 64 * 1024
"""Bytes of an order; only alerts and events are larger."""
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_READINESS = TypeAdapter(Readiness)

Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(desk: Desk, daemon: Daemon, reveal: Callable[[Secret], str]) -> web.Application:
    """All routes of the HTTP side and of the socket, on one desk.

    :param reveal: reads a secret; called once for each of `daemon.tokens`.
    :raises CannotListenError: tokens or `open_on_loopback` that would let the wrong people in.
    """
    gate = Gate(daemon, reveal)
    waits = Waits()
    app = web.Application(middlewares=[as_problems], client_max_size=daemon.max_body)
    for route in (*ROUTES, *SNAPSHOT_ROUTES):
        app.router.add_route(route.method, route.path, _answerer(route, desk, waits, gate))
    _add_intake(app, Intake(desk, daemon.max_body), gate)
    add_files(app, desk, gate)
    _add_health(app, desk, gate)

    async def end_waits(_app: web.Application) -> None:
        waits.end()

    app.on_shutdown.append(end_waits)
    return app


def _answerer(route: Route, desk: Desk, waits: Waits, gate: Gate) -> Answerer:
    answers: TypeAdapter[Any] = TypeAdapter(route.answer)

    async def answer(request: web.Request) -> web.StreamResponse:
        peer = gate.admit(request, route.role)
        try:
            query = route.query.model_validate(dict(request.query))
            content = await read_json(request, _SMALL_BODY) if request.can_read_body else b"{}"
            body = route.body.model_validate_json(content)
        except ValidationError as error:
            raise invalid(error) from error
        name = request.match_info.get("name", "")
        value = await route.handler(Call(desk, waits, peer.actor, name, query, body))
        return web.Response(status=route.status, body=answers.dump_json(value), content_type=JSON, headers=_HEADERS)

    return answer


def _add_intake(app: web.Application, intake: Intake, gate: Gate) -> None:
    async def alerts(request: web.Request) -> web.StreamResponse:
        return await intake.alerts(request, gate.admit(request, "source").actor)

    async def signals(request: web.Request) -> web.StreamResponse:
        return await intake.signals(request, gate.admit(request, "source").actor)

    app.router.add_post("/api/v1/alerts", alerts)
    app.router.add_post("/api/v1/signals", signals)


@cache
def _described() -> bytes:
    """Made when it is first asked for: it takes longer than the rest of a start."""
    return json.dumps(document()).encode()


def _add_health(app: web.Application, desk: Desk, gate: Gate) -> None:
    async def healthz(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b'{"status":"alive"}', content_type=JSON, headers=_HEADERS)

    async def readyz(_request: web.Request) -> web.StreamResponse:
        readiness = await desk.readiness()
        body, status = _READINESS.dump_json(readiness), 200 if readiness.ready else 503
        return web.Response(status=status, body=body, content_type=JSON, headers=_HEADERS)

    async def metrics(request: web.Request) -> web.StreamResponse:
        encode, content_type = exposition.choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(desk.registry), headers={**_HEADERS, hdrs.CONTENT_TYPE: content_type})

    async def openapi(_request: web.Request) -> web.StreamResponse:
        body = await asyncio.to_thread(_described)
        return web.Response(body=body, content_type=JSON, headers=_HEADERS)

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", _behind(gate, "viewer", readyz))
    app.router.add_get("/metrics", _behind(gate, "viewer", metrics))
    app.router.add_get("/openapi.json", _behind(gate, "viewer", openapi))


def _behind(gate: Gate, role: Role, handler: Answerer) -> Answerer:
    async def answer(request: web.Request) -> web.StreamResponse:
        gate.admit(request, role)
        return await handler(request)

    return answer
