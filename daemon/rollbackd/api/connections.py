"""Connections from outside are bounded in number, so that they never take the last file descriptor.

Whoever comes last gets in. When all places are taken, the connection is closed that has waited longest for its peer:
for a request, or for the rest of a body. A request that is whole is answered.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

_HEAD = 5.0
"""Seconds that a client has for a request's head, from the connection or from its first byte on."""


class ClientConnections:
    """Those of one address; makes the protocol of each new one.

    :param most: how many there may be at once.
    :param serve: makes the protocol that speaks HTTP.
    """

    def __init__(self, most: int, serve: Callable[[], asyncio.Protocol]) -> None:
        self.most = most
        self._serve = serve
        self._open: dict[ClientConnection, None] = {}
        """In the order in which they began to wait."""

    def __len__(self) -> int:
        return len(self._open)

    def __call__(self) -> asyncio.Protocol:
        return ClientConnection(self, self._serve())

    def admit(self, connection: "ClientConnection") -> bool:
        """Give it a place, if there is one or one can be made."""
        if len(self._open) >= self.most:
            waiting = next((one for one in self._open if one.waits), None)
            if waiting is None:
                return False
            waiting.abort()
            del self._open[waiting]
        self._open[connection] = None
        return True

    def waits_anew(self, connection: "ClientConnection") -> None:
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def leave(self, connection: "ClientConnection") -> None:
        self._open.pop(connection, None)


class ClientConnection(asyncio.Protocol):
    """One of them: knows whether its peer is waited for, and leaves the rest to the protocol that speaks HTTP."""

    def __init__(self, all_: ClientConnections, inner: asyncio.Protocol) -> None:
        self._all = all_
        self._inner: asyncio.Protocol | None = inner
        self._transport: asyncio.Transport | None = None
        self._request: web.Request | None = None
        self._head_by: float | None = None
        """Until when a request's head has to be there, by the loop's time; None while none is awaited."""
        self._timer: asyncio.TimerHandle | None = None
        """Looks at that; one timer serves many requests."""

    @property
    def waits(self) -> bool:
        """Whether it is its peer's turn."""
        return self._request is None or not self._request.content.is_eof()

    def begin(self, request: web.Request) -> None:
        """The head of a request has come."""
        self._request = request
        self._head_by = None

    def end(self) -> None:
        """The request is answered."""
        self._request = None
        self._all.waits_anew(self)

    def abort(self) -> None:
        """Close it without another word."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._all.admit(self):
            self._inner = None
            self.abort()
            return
        self._await_head()
        if self._inner is not None:
            self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._request is None and self._head_by is None:
            self._await_head()
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_by = None
        if self._timer is not None:
            self._timer.cancel()
        self._all.leave(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_by = loop.time() + _HEAD
        if self._timer is None:
            self._timer = loop.call_at(self._head_by, self._look)

    def _look(self) -> None:
        """Close it when the head that is awaited is late."""
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._head_by is not None and loop.time() < self._head_by:
            self._timer = loop.call_at(self._head_by, self._look)
        elif self._head_by is not None:
            self.abort()


@web.middleware
async def in_hand(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tell the connection from when to when it has a request."""
    transport = request.transport
    connection = transport.get_protocol() if transport is not None else None
    if not isinstance(connection, ClientConnection):
        return await handler(request)
    connection.begin(request)
    try:
        return await handler(request)
    finally:
        connection.end()
