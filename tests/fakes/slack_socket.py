"""A fake of Slack's Socket Mode beside its Web API."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from tests.fakes.slack import SlackApiFake

APP_TOKEN = "xapp-1-A0123ABCD-1-secret"


class SlackSocketFake:
    """`apps.connections.open` and the sockets that it gives, each good once.

    https://docs.slack.dev/apis/events-api/using-socket-mode
    """

    def __init__(self) -> None:
        self.api = SlackApiFake()
        self.opened = 0
        self.sockets: list[web.WebSocketResponse] = []
        self.acknowledged: list[str] = []
        self.error = ""
        """What opening is refused with."""
        self.mute = False
        """Whether no ping is answered."""
        self.base = ""
        self.loop: asyncio.AbstractEventLoop | None = None

    async def call(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["method"] != "apps.connections.open":
            return await self.api.handle(request)
        assert request.headers["Authorization"] == f"Bearer {APP_TOKEN}"
        if self.error:
            return web.json_response({"ok": False, "error": self.error})
        self.opened += 1
        return web.json_response({"ok": True, "url": f"{self.base.replace('http', 'ws')}/link/{self.opened}"})

    async def link(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["ticket"] != str(self.opened) or self.mute:
            return web.Response(status=404)
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self.sockets.append(socket)
        await socket.send_json({"type": "hello", "num_connections": 1})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.PING and not self.mute:
                await socket.pong(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                self.acknowledged.append(json.loads(message.data)["envelope_id"])
        return socket

    async def deliver(self, envelope: str, payload: Any, kind: str = "interactive") -> None:
        sent = {"envelope_id": envelope, "type": kind, "payload": payload, "accepts_response_payload": False}
        await self.sockets[-1].send_json(sent)

    def has_acknowledged(self, envelope: str) -> bool:
        return envelope in self.acknowledged

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        self.loop = asyncio.get_running_loop()
        app = web.Application()
        app.router.add_post("/api/{method}", self.call)
        app.router.add_get("/link/{ticket}", self.link)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self.base
        finally:
            await runner.cleanup()
