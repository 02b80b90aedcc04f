"""The HTTP application: every route is behind the gate, every error is a problem."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import cache

from aiohttp import hdrs, web
from prometheus_client import exposition
from pydantic import ValidationError

from rollbackd.api.answers import written
from rollbackd.api.authorization import Gate
from rollbackd.api.connections import in_hand
from rollbackd.api.intake import IntakeHandlers
from rollbackd.api.long_poll import Waits
from rollbackd.api.openapi import document
from rollbackd.api.passing import PassedRequest, PassingIntake, PassingOn
from rollbackd.api.problems import as_problems, invalid
from rollbackd.api.request_body import JSON, read_json
from rollbackd.api.routes import ROUTES, ApiCall, ApiRoute
from rollbackd.api.slack import PATH as SLACK
from rollbackd.api.slack import SlackRequests
from rollbackd.api.snapshot_files import FILES, SnapshotFiles
from rollbackd.config.models import Daemon, Role
from rollbackd.operations import Operations
from rollbackd.operations.slack_orders import SlackOrders
from rollbackd.syntax.units import Secret
from rollbackd.views.shapes import Readiness

_SMALL_BODY = 64 * 1024
"""Bytes of an order; only alerts and events are larger."""
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

GATE = web.AppKey("gate", Gate)
"""Who is let in, for other rooms that answer on the same port."""

INTAKE = web.AppKey("intake", IntakeHandlers)
"""What takes signals."""

Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(
    operations: Operations,
    daemon: Daemon,
    reveal: Callable[[Secret], str],
    slack: SlackOrders | None = None,
    passing: PassingOn | None = None,
) -> web.Application:
    """All routes of the HTTP side and of the socket, on the same operations.

    :param reveal: reads a secret; called once for each of `daemon.tokens`.
    :param slack: takes clicks; None where no receiver has buttons.
    :param passing: takes signals and orders where this daemon stands by.
    :raises CannotListenError: tokens or `open_on_loopback` that would let the wrong people in.
    """
    gate = Gate(daemon, reveal)
    waits = Waits()
    app = web.Application(middlewares=[in_hand, as_problems], client_max_size=daemon.max_body)
    app[GATE] = gate
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _answerer(route, operations, waits, gate, passing))
    _add_health(app, operations, gate)
    if passing is None:
        app[INTAKE] = IntakeHandlers(operations, daemon.max_body)
        _add_files(app, SnapshotFiles(operations), gate)
        app.router.add_post(SLACK, SlackRequests(slack).clicked)
    else:
        app[INTAKE] = PassingIntake(operations, daemon.max_body, passing)
        for path in (FILES, SLACK):
            app.router.add_route("*", path, passing.refuse)
    _add_intake(app, app[INTAKE], gate)

    async def end_waits(_app: web.Application) -> None:
        waits.end()

    app.on_shutdown.append(end_waits)
    return app


def _answerer(route: ApiRoute, operations: Operations, waits: Waits, gate: Gate, passing: PassingOn | None) -> Answerer:
    async def answer(request: web.Request) -> web.StreamResponse:
        peer = gate.admit(request, route.role)
        try:
            query = route.query.model_validate(dict(request.query))
            content = await read_json(request, _SMALL_BODY) if request.can_read_body else b"{}"
            body = route.body.model_validate_json(content)
        except ValidationError as error:
            raise invalid(error) from error
        name = request.match_info.get("name", "")
        if passing is not None and route.method != "GET":
            given = {"query": dict(request.query), "body": content.decode()}
            asked = PassedRequest(method=route.method, path=route.path, actor=peer.actor, name=name, **given)
            return await passing.order(route, asked)
        value = await route.handler(ApiCall(operations, waits, peer.actor, name, query, body))
        said = written(route.answer).dump_json(value)
        return web.Response(status=route.status, body=said, content_type=JSON, headers=_HEADERS)

    return answer


def _behind(gate: Gate, role: Role, handler: Callable[[web.Request, str], Awaitable[web.StreamResponse]]) -> Answerer:
    """A handler that is told who asks, once that may be."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request, gate.admit(request, role).actor)

    return answer


def _add_intake(app: web.Application, intake: IntakeHandlers, gate: Gate) -> None:
    app.router.add_post("/api/v1/alerts", _behind(gate, "source", intake.alerts))
    app.router.add_post("/api/v1/signals", _behind(gate, "source", intake.signals))


def _add_files(app: web.Application, files: SnapshotFiles, gate: Gate) -> None:
    app.router.add_get(FILES, _behind(gate, "operator", files.export), allow_head=False)
    app.router.add_put(FILES, _behind(gate, "operator", files.take_in))


@cache
def _described() -> bytes:
    """Made when it is first asked for: it takes longer than the rest of a start."""
    return json.dumps(document()).encode()


def _add_health(app: web.Application, operations: Operations, gate: Gate) -> None:
    async def healthz(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b'{"status":"alive"}', content_type=JSON, headers=_HEADERS)

    async def readyz(_request: web.Request, _actor: str) -> web.StreamResponse:
        readiness = await operations.readiness()
        body, status = written(Readiness).dump_json(readiness), 200 if readiness.ready else 503
        return web.Response(status=status, body=body, content_type=JSON, headers=_HEADERS)

    async def metrics(request: web.Request, _actor: str) -> web.StreamResponse:
        encode, content_type = exposition.choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(operations.registry), headers={**_HEADERS, hdrs.CONTENT_TYPE: content_type})

    async def openapi(_request: web.Request, _actor: str) -> web.StreamResponse:
        body = await asyncio.to_thread(_described)
        return web.Response(body=body, content_type=JSON, headers=_HEADERS)

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", _behind(gate, "viewer", readyz))
    app.router.add_get("/metrics", _behind(gate, "viewer", metrics))
    app.router.add_get("/openapi.json", _behind(gate, "viewer", openapi))
