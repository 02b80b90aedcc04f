"""The real HTTP side on a desk in memory, on free ports and a socket of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp

from rollbackd.api import Server, build_app
from rollbackd.config.models import Daemon
from rollbackd.operations import Operations
from rollbackd.page import add_page
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import SystemClock
from tests.fakes.operations import NOON, FakeOperations

TOKENS = {"source": "secret-of-alertmanager", "viewer": "secret-of-grafana", "operator": "secret-of-desk"}
NAMES = {"source": "alertmanager", "viewer": "grafana", "operator": "release-desk"}


class AtNoon(SystemClock):
    """Began at the noon of the desk in memory."""

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.monotonic())


def daemon(socket: Path, **settings: Any) -> Daemon:
    """Settings with a token of each role, unless others are given."""
    tokens = [{"name": NAMES[role], "role": role, "token": {"env": role}} for role in TOKENS]
    return Daemon.model_validate(
        {"tokens": tokens, "listen": "127.0.0.1:0", "socket": str(socket), "scratch": str(socket.parent), **settings}
    )


def reveal(secret: Secret) -> str:
    return TOKENS[secret.env]


@dataclass
class Served:
    """What is served, and clients for both ways in."""

    operations: FakeOperations
    server: Server
    socket: Path
    tcp: aiohttp.ClientSession
    unix: aiohttp.ClientSession
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.server.port}"

    def bearer(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {TOKENS[role]}"}


@asynccontextmanager
async def serving(socket: Path, operations: FakeOperations | None = None, **settings: Any) -> AsyncIterator[Served]:
    """Serve until the end of the block."""
    operations = operations or FakeOperations()
    configured = daemon(socket, **settings)
    app = build_app(cast("Operations", operations), configured, reveal)
    add_page(app, cast("Operations", operations), configured, AtNoon())
    server = Server(app, configured.listen, socket)
    await server.start()
    try:
        async with (
            aiohttp.ClientSession() as tcp,
            aiohttp.ClientSession("http://rollbackd", connector=aiohttp.UnixConnector(str(socket))) as unix,
        ):
            yield Served(operations, server, socket, tcp, unix)
    finally:
        await server.stop()
