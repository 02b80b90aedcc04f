"""What the fake receivers share: they record what they are sent, check it strictly, and fail on command."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiohttp import web


class Fault(StrEnum):
    """What the next request meets."""

    SERVER_ERROR = "500"
    TOO_MANY = "429"
    GONE = "404"
    HANG = "hang"
    DROP = "drop"
    """It is taken, then the connection ends without an answer."""


@dataclass
class Sent:
    """One request as it came."""

    body: Any
    headers: dict[str, str]
    taken: bool


@dataclass
class Receiver:
    """One endpoint. `sent` holds all requests, `taken` those that were answered with success or dropped after it."""

    name: str
    path: str
    faults: deque[Fault] = field(default_factory=deque)
    retry_after: str = "2"
    status: int = 0
    """Answered to everything, with `words`, when it is set."""
    words: str = ""
    sent: list[Sent] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What did not fit the service's documented schema; a test asserts that it is empty."""
    heard: Callable[[str, Any], None] | None = None
    """Called with name and body for each message that is taken."""

    def __post_init__(self) -> None:
        self.news = asyncio.Condition()

    def problems(self, body: Any, headers: dict[str, str]) -> list[str]:
        """What the real service would refuse."""
        raise NotImplementedError

    def success(self, body: Any) -> web.Response:
        raise NotImplementedError

    def refusal(self, problems: Sequence[str]) -> web.Response:
        raise NotImplementedError

    def gone(self) -> web.Response:
        return web.json_response({"message": "no such integration"}, status=404)

    def routes(self) -> list[web.RouteDef]:
        """Where it is reached."""
        return [web.post(self.path, self.handle)]

    @property
    def taken(self) -> list[Any]:
        return [one.body for one in self.sent if one.taken]

    def fail(self, fault: Fault, times: int = 1) -> None:
        self.faults.extend([fault] * times)

    def mend(self) -> None:
        self.faults.clear()

    async def until(self, count: int, limit: float = 10) -> list[Any]:
        """Wait until so many messages are taken."""
        async with asyncio.timeout(limit), self.news:
            await self.news.wait_for(lambda: len(self.taken) >= count)
        return self.taken

    async def until_tried(self, count: int, limit: float = 10) -> None:
        """Wait until so many requests came, whatever became of them."""
        async with asyncio.timeout(limit), self.news:
            await self.news.wait_for(lambda: len(self.sent) >= count)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.status:
            return web.Response(status=self.status, text=self.words)
        fault = self.faults.popleft() if self.faults else None
        headers = {name.title(): value for name, value in request.headers.items()}
        try:
            body = await request.json()
        except ValueError:
            body = await request.text()
            self.wrong.append(f"{self.name}: not JSON: {body[:100]!r}")
            return self.refusal(["not JSON"])
        problems = self.problems(body, headers)
        self.wrong += [f"{self.name}: {problem}" for problem in problems]
        taken = not problems and fault in (None, Fault.DROP)
        async with self.news:
            self.sent.append(Sent(body, headers, taken))
            self.news.notify_all()
        if taken and self.heard is not None:
            self.heard(self.name, body)
        if fault is not None:
            return await self._fault(fault, request)
        return self.refusal(problems) if problems else self.success(body)

    async def _fault(self, fault: Fault, request: web.Request) -> web.StreamResponse:
        match fault:
            case Fault.SERVER_ERROR:
                return web.Response(status=500, text="server error")
            case Fault.TOO_MANY:
                return web.Response(status=429, text="rate_limited", headers={"Retry-After": self.retry_after})
            case Fault.GONE:
                return self.gone()
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.DROP:
                if request.transport is not None:
                    request.transport.abort()
        return web.Response(status=500)


async def _control(request: web.Request, receivers: Sequence[Receiver]) -> web.Response:
    """`POST /control/slack {"fault": "500", "times": 3}`; fault null mends it."""
    order = await request.json()
    for receiver in receivers:
        if receiver.name == request.match_info["name"]:
            if order["fault"] is None:
                receiver.mend()
            else:
                receiver.fail(Fault(order["fault"]), order.get("times", 1))
            return web.json_response({"faults": list(receiver.faults)})
    raise web.HTTPNotFound


async def _messages(_request: web.Request, receivers: Sequence[Receiver]) -> web.Response:
    """All that was taken, and all that was wrong, by receiver."""
    return web.json_response(
        {
            receiver.name: {"taken": receiver.taken, "requests": len(receiver.sent), "wrong": receiver.wrong}
            for receiver in receivers
        }
    )


def application(receivers: Sequence[Receiver]) -> web.Application:
    """All of them, with `POST /control/NAME` and `GET /messages` for who runs it as a program."""

    async def control(request: web.Request) -> web.Response:
        return await _control(request, receivers)

    async def messages(request: web.Request) -> web.Response:
        return await _messages(request, receivers)

    app = web.Application(client_max_size=4 * 2**20)
    for receiver in receivers:
        app.add_routes(receiver.routes())
    app.router.add_post("/control/{name}", control)
    app.router.add_get("/messages", messages)
    return app


@asynccontextmanager
async def serving(*receivers: Receiver, port: int = 0) -> AsyncIterator[str]:
    """Serve them on 127.0.0.1; gives the base URL."""
    runner = web.AppRunner(application(receivers), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    try:
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
