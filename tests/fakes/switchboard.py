"""A deployment service with an API over HTTP, in a thread of its own: strict about what it is sent, and fails to order.

It does a rollback once for each idempotency key. What did not fit its API is in `wrong`; a test asserts that it is empty.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOKEN = "s3cret-of-the-switchboard"


@dataclass
class Desk:
    """One service, under `/NAME/`."""

    name: str
    present: str = "v3"
    known: tuple[str, ...] = ("v3", "v2", "v1")
    told: list[Any] | None = None
    """Told instead of what is known."""
    slow: int = 0
    """How many looks at a job it goes on for."""
    faults: deque[str] = field(default_factory=deque)
    """What the next rollbacks meet: `500`, `422`, `hang`, `drop` (done, but not answered), `lost` (neither)."""
    down: bool = False
    jobs: dict[str, str] = field(default_factory=dict)
    """By key: `queued`, `ok` or `broken`."""
    looks: int = 0
    done: list[str] = field(default_factory=list)
    """The keys of what was done, in order."""
    asked: list[str] = field(default_factory=list)
    """The keys of all rollbacks that were asked for."""
    epochs: list[str] = field(default_factory=list)
    """Of who asked for each, where that was said."""
    ends: deque[str] = field(default_factory=deque)
    """How the next jobs end; `ok` when it does not say."""
    raw: bytes | None = None
    """Answered instead of the present release."""
    wrong: list[str] = field(default_factory=list)


class Switchboard:
    """All of them."""

    def __init__(self) -> None:
        self.desks: dict[str, Desk] = {}
        self.url = ""
        self.hanging = asyncio.Event()

    def desk(self) -> Desk:
        made = Desk(f"d{len(self.desks)}")
        self.desks[made.name] = made
        return made

    def _of(self, request: web.Request) -> Desk:
        desk = self.desks[request.match_info["desk"]]
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            desk.wrong.append(f"{request.path}: no token")
            raise web.HTTPUnauthorized
        if desk.down:
            raise web.HTTPServiceUnavailable(text=f"down; you sent {request.headers['Authorization']}")
        return desk

    async def current(self, request: web.Request) -> web.Response:
        desk = self._of(request)
        if desk.raw is not None:
            return web.Response(body=desk.raw, content_type="application/json")
        return web.json_response({"data": {"release": {"sha": desk.present, "title": f"release {desk.present}"}}})

    async def releases(self, request: web.Request) -> web.Response:
        desk = self._of(request)
        items = [{"sha": sha, "title": f"release {sha}", "at": 1_700_000_000} for sha in desk.known]
        return web.json_response({"items": items if desk.told is None else desk.told})

    async def job(self, request: web.Request) -> web.Response:
        desk = self._of(request)
        key = request.match_info["key"]
        desk.looks += 1
        if key not in desk.jobs:
            raise web.HTTPNotFound
        if desk.jobs[key] == "queued" and desk.slow > 0:
            desk.slow -= 1
        elif desk.jobs[key] == "queued":
            desk.jobs[key] = desk.ends.popleft() if desk.ends else "ok"
            if desk.jobs[key] == "ok":
                self._do(desk, key, self.bodies[key]["to"])
        return web.json_response({"jobs": [{"state": desk.jobs[key]}]})

    bodies: dict[str, Any] = {}

    async def rollback(self, request: web.Request) -> web.StreamResponse:
        desk = self._of(request)
        key, body = request.headers.get("Idempotency-Key", ""), await request.json()
        desk.epochs += request.headers.getall("Rollbackd-Epoch", [])
        wanted = {"to", "from", "by", "why", "urgent"}
        if not key or set(body) != wanted or body["urgent"] is not True or body["by"] != {"service": "contract"}:
            desk.wrong.append(f"rollback: {key!r} {body}")
            raise web.HTTPUnprocessableEntity
        desk.asked.append(key)
        fault = desk.faults.popleft() if desk.faults else ""
        if fault in {"500", "422"}:
            return web.Response(status=int(fault), text=f"no; you sent {request.headers['Authorization']}")
        if fault != "lost" and key not in desk.jobs:
            self.bodies[key] = body
            desk.jobs[key] = "queued"
            if not desk.slow and not desk.ends:
                desk.jobs[key] = "ok"
                self._do(desk, key, body["to"])
        if fault == "hang":
            desk.jobs.clear()  # it would be done later, and is not
            desk.present = body["from"]
            desk.done.clear()
            await self.hanging.wait()
        if fault in {"drop", "lost"} and request.transport is not None:
            request.transport.abort()
        return web.json_response({"job": key}, status=202)

    async def elsewhere(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.2:9/" if request.query else "current")

    def _do(self, desk: Desk, key: str, to: str) -> None:
        if to != "-":
            desk.present = to
        desk.done.append(key)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{desk}/current", self.current)
        app.router.add_get("/{desk}/releases", self.releases)
        app.router.add_get("/{desk}/jobs/{key}", self.job)
        app.router.add_post("/{desk}/rollback/{to}", self.rollback)
        app.router.add_get("/{desk}/elsewhere", self.elsewhere)
        return app


@contextlib.contextmanager
def switchboard() -> Iterator[Switchboard]:
    """Serve on a free port until the end of the block."""
    board, started, stop = Switchboard(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(board.application(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        board.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        await stop.wait()
        await runner.cleanup()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(10)
        yield board
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
