"""One stream of events for each open page: the parts of it that changed, with the journal's place as the event's id.

A stream begins with all of its parts as they are, so that nothing is missed by who comes again. It ends with the
server, and with the session.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from html import escape

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from rollbackd.operations import Operations
from rollbackd.page.rendering import FORM
from rollbackd.system import log
from rollbackd.system.clock import Clock

MOST_STREAMS = 64
PING = 15.0
"""Seconds between two signs of life to whatever stands between; the browser has its own by `ALIVE`."""
ALIVE = timedelta(seconds=5)
"""How often a page is looked at again, and its reader told that the stream lives, while nothing is written."""
_CALM = timedelta(milliseconds=500)
"""The pause between two looks at one page while much is written."""
_SEND = 30.0
"""Seconds that a reader may take to read what it was sent."""
_AGAIN = 15_000
"""Milliseconds after which a page comes again that found no place."""

_LOG = log.get("page")
LiveParts = Callable[[], Awaitable[Mapping[str, str]]]
"""Gives the parts of a page as they are now, by the id of their element."""


class PageStreams:
    """All that are open."""

    def __init__(self, operations: Operations, clock: Clock) -> None:
        self._operations = operations
        self._clock = clock
        self._open: set[asyncio.Task[None]] = set()
        self._ended = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def end(self) -> None:
        """The server stops."""
        self._ended = True
        for task in self._open:
            task.cancel()

    async def serve(
        self, request: web.Request, form: str, parts: LiveParts, goes_on: Callable[[], bool]
    ) -> web.StreamResponse:
        """Send what changes until somebody has enough of it.

        :param form: the word of the session, for the forms in what is sent.
        :param goes_on: whether whoever looks may still look.
        """
        async with sse_response(request, ping_interval=PING, send_timeout=_SEND) as stream:
            if self._ended or len(self._open) >= MOST_STREAMS:
                crowd = f"Not live: {MOST_STREAMS} pages are live already. Reload to see news; it is tried again."
                text = "Not live: rollbackd stops now." if self._ended else crowd
                await stream.send(_partial("not-live", f'<p id="not-live">{text}</p>'), retry=_AGAIN)
                return stream
            task = asyncio.ensure_future(self._send(stream, form, parts, goes_on))
            self._open.add(task)
            try:
                await asyncio.wait({task})
            finally:
                task.cancel()
                self._open.discard(task)
            if not task.cancelled() and (lost := task.exception()) is not None and not isinstance(lost, OSError):
                _LOG.warning("a live page broke off; the browser comes again", path=request.path, error=repr(lost))
        return stream

    async def _send(
        self, stream: EventSourceResponse, form: str, parts: LiveParts, goes_on: Callable[[], bool]
    ) -> None:
        sent: dict[str, str] = {}
        seq = await self._operations.news(0, timedelta())
        while goes_on():
            found = await parts()
            changed = {name: text for name, text in found.items() if sent.get(name) != text}
            if changed:
                texts = (_partial(name, text.replace(FORM, form)) for name, text in changed.items())
                await stream.send("\n".join(texts), id=str(seq))
                sent |= changed
            await stream.send("", event="alive")
            await self._clock.sleep(_CALM)
            seq = await self._operations.news(seq, ALIVE)


def _partial(name: str, text: str) -> str:
    return f'<hx-partial hx-target="#{escape(name)}" hx-swap="outerMorph">{text}</hx-partial>'
