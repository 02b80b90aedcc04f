"""One stream of events for each open page: the parts of it that changed, with the journal's place as the event's id.

A stream begins with all of its parts as they are, so that nothing is missed by who comes again. It ends with the
server, and with the session. A page that many look at is made once for all of them, and never so often that all open
pages together take more than a small share of a processor.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
"""How often a reader is told that the stream lives, and a page is looked at again while nothing is written."""
_CALM = timedelta(milliseconds=500)
"""The pause between two looks at one page while much is written."""
_QUIET_SHARE, _BUSY_SHARE = 0.04, 0.25
"""Of a processor: what the looks at all pages may take while nothing is written, and while much is."""
_LONGEST_QUIET, _LONGEST_BUSY = timedelta(seconds=30), timedelta(seconds=3)
"""The longest pauses that come of that."""
_SEND = 30.0
"""Seconds that a reader may take to read what it was sent."""
_AGAIN = 15_000
"""Milliseconds after which a page comes again that found no place."""

_LOG = log.get("page")
LiveParts = Callable[[], Awaitable[Mapping[str, str]]]
"""Gives the parts of a page as they are now, by the id of their element."""


@dataclass(eq=False, slots=True)
class _LivePage:
    """What everybody sees who looks at the same page."""

    look: LiveParts
    readers: int = 0
    parts: Mapping[str, str] = field(default_factory=dict)
    """As of the last look; empty before the first one."""
    seq: int = -1
    """The journal's place then."""
    at: float = 0.0
    """When that was, by the monotonic clock."""
    took: float = 0.0
    """How many seconds it took."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class PageStreams:
    """All that are open."""

    def __init__(self, operations: Operations, clock: Clock) -> None:
        self._operations = operations
        self._clock = clock
        self._open: set[asyncio.Task[None]] = set()
        self._pages: dict[Hashable, _LivePage] = {}
        self._looking = asyncio.Lock()
        """One look at a time: how long it took is then its own time."""
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
        self, request: web.Request, form: str, same: Hashable, parts: LiveParts, goes_on: Callable[[], bool]
    ) -> web.StreamResponse:
        """Send what changes until somebody has enough of it.

        :param form: the word of the session, for the forms in what is sent.
        :param same: equal for all who are to see the same parts.
        :param goes_on: whether whoever looks may still look.
        """
        if request.transport is None:  # whoever asked is gone already
            return web.Response()
        async with sse_response(request, ping_interval=PING, send_timeout=_SEND) as stream:
            if self._ended or len(self._open) >= MOST_STREAMS:
                crowd = f"Not live: {MOST_STREAMS} pages are live already. Reload to see news; it is tried again."
                text = "Not live: rollbackd stops now." if self._ended else crowd
                await stream.send(_partial("not-live", f'<p id="not-live">{text}</p>'), retry=_AGAIN)
                return stream
            with self._page(same, parts) as page:
                task = asyncio.ensure_future(self._send(stream, form, page, goes_on))
                self._open.add(task)
                try:
                    await asyncio.wait({task})
                finally:
                    task.cancel()
                    self._open.discard(task)
            if not task.cancelled() and (lost := task.exception()) is not None and not isinstance(lost, OSError):
                _LOG.warning("a live page broke off; the browser comes again", path=request.path, error=repr(lost))
        return stream

    @contextmanager
    def _page(self, same: Hashable, parts: LiveParts) -> Iterator[_LivePage]:
        page = self._pages.setdefault(same, _LivePage(parts))
        page.readers += 1
        try:
            yield page
        finally:
            page.readers -= 1
            if not page.readers:
                del self._pages[same]

    async def _send(self, stream: EventSourceResponse, form: str, page: _LivePage, goes_on: Callable[[], bool]) -> None:
        sent: dict[str, str] = {}
        seq = await self._operations.news(0, timedelta())
        while goes_on():
            found, seq = await self._look(page, seq, anew=not sent)
            changed = {name: text for name, text in found.items() if sent.get(name) != text}
            if changed:
                texts = (_partial(name, text.replace(FORM, form)) for name, text in changed.items())
                await stream.send("\n".join(texts), id=str(seq))
                sent |= changed
            await stream.send("", event="alive")
            await self._clock.sleep(_CALM)
            seq = await self._operations.news(seq, ALIVE)

    async def _look(self, page: _LivePage, seq: int, *, anew: bool) -> tuple[Mapping[str, str], int]:
        """The parts of a page, and the journal's place that they are as of: `seq`, or one that is later.

        :param anew: for whoever has just come, and may have seen what is newer than the last look.
        """
        async with page.turn:
            news = seq > page.seq
            left = page.at + self._pause(busy=news or anew) - self._clock.monotonic()
            if page.parts and left > 0:
                if not news:
                    return page.parts, page.seq
                await self._clock.sleep(timedelta(seconds=left))
            async with self._looking:
                begun = self._clock.monotonic()
                page.parts, page.seq = await page.look(), max(seq, page.seq)
                page.at = self._clock.monotonic()
                page.took = page.at - begun
            return page.parts, page.seq

    def _pause(self, *, busy: bool) -> float:
        """Seconds between two looks at a page, so that those at all of them take no more than their share."""
        least, share, longest = (_CALM, _BUSY_SHARE, _LONGEST_BUSY) if busy else (ALIVE, _QUIET_SHARE, _LONGEST_QUIET)
        took = sum(page.took for page in self._pages.values())
        return max(least.total_seconds(), min(took / share, longest.total_seconds()))


def _partial(name: str, text: str) -> str:
    return f'<hx-partial hx-target="#{escape(name)}" hx-swap="outerMorph">{text}</hx-partial>'
