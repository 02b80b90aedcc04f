"""Signals come in: one that was answered 200 is on disk; what cannot be taken now is refused, never forgotten.

Alertmanager sends again after a 5xx, and after a 4xx only with its next group interval: so what passes by itself (busy,
disk full) is a 503, and only a body that will never be right is a 400.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import TypeVar

from aiohttp import web
from pydantic_core import to_json

from rollbackd.api.answers import Accepted, Reported
from rollbackd.api.problems import ProblemError
from rollbackd.api.request_body import JSON, READ_WITHIN, read_json
from rollbackd.operations import Operations
from rollbackd.signals.alertmanager_webhook import WebhookError, WebhookPayload, parse_webhook
from rollbackd.signals.events import EventError, Posted, parse_events
from rollbackd.signals.intake import EventReceipt

ALERTS, SIGNALS = "/api/v1/alerts", "/api/v1/signals"
"""Where they are posted to."""
BIG = 256 * 1024
"""Bytes; a body above this is parsed on a thread, so that health answers go on meanwhile."""
MOST_REQUESTS = 512
"""In flight at once; more are told to come again."""
BUSY_RETRY = "1"
"""Seconds."""
_SAID = 10
"""Reasons in one answer."""

_AGAIN = 3
"""Refusals in a row, then people are told."""
_NEVER_RIGHT = frozenset({400, 413, 415})
"""The same body sent again is refused again."""

_P = TypeVar("_P")


class IntakeHandlers:
    """`POST /api/v1/alerts` and `POST /api/v1/signals`.

    :param max_body: bytes that one body may have, after decompression; twice that may be in flight at once.
    :param read_within: seconds that a client has to send its body.
    """

    def __init__(self, operations: Operations, max_body: int, read_within: float = READ_WITHIN) -> None:
        self._operations = operations
        self._max_body = max_body
        self._read_within = read_within
        self._requests = 0
        self._bytes = 0
        self._big = asyncio.Semaphore(2)
        self._refused: dict[str, int] = {}
        """How often each sender was refused in a row."""
        self._damaging: set[str] = set()
        """Senders of alerts that cannot be read; people heard of them."""

    @property
    def in_flight(self) -> tuple[int, int]:
        """Requests, and the bytes of their bodies so far."""
        return self._requests, self._bytes

    async def alerts(self, request: web.Request, actor: str) -> web.Response:
        """Take one notification of Alertmanager's. :raises ProblemError: nothing of it was taken."""
        return await self._post(request, actor, partial(self._alerts, actor))

    async def signals(self, request: web.Request, actor: str) -> web.Response:
        """Take one event, or a list of them. :raises ProblemError: nothing of it was taken."""
        return await self._post(request, actor, partial(self._signals, actor))

    async def replay(self, path: str, body: bytes, actor: str) -> None:
        """Take what was posted to another host. :raises WebhookError: EventError: JournalUnavailable:"""
        await (self._alerts if path == ALERTS else self._signals)(actor, body)

    async def _alerts(self, actor: str, body: bytes) -> bytes:
        return await self._take(body, parse_webhook, lambda webhook: self._receive(webhook, actor, body))

    async def _signals(self, actor: str, body: bytes) -> bytes:
        return await self._take(body, parse_events, lambda posted: self._report(posted, actor, body))

    async def _post(self, request: web.Request, actor: str, take: Callable[[bytes], Awaitable[bytes]]) -> web.Response:
        if self._requests >= MOST_REQUESTS:
            raise _busy()
        held = 0

        def count(size: int) -> None:
            nonlocal held
            if self._bytes + size > 2 * self._max_body:
                raise _busy()
            held += size
            self._bytes += size

        self._requests += 1
        try:
            body = await read_json(request, self._max_body, self._read_within, count)
            answer = await take(body)
            self._refused.pop(actor, None)
        except (ProblemError, WebhookError, EventError) as error:
            if not isinstance(error, ProblemError) or error.status in _NEVER_RIGHT:
                await self._note_refusal(actor, request.path, error)
            raise
        finally:
            self._requests -= 1
            self._bytes -= held
        return web.Response(body=answer, content_type=JSON)

    async def _note_refusal(self, actor: str, path: str, error: Exception) -> None:
        """A sender that is refused again and again is never heard: people hear of that once, until it is heard."""
        self._refused[actor] = self._refused.get(actor, 0) + 1
        if self._refused[actor] == _AGAIN:
            text = f"what {actor} sends to {path} was refused {_AGAIN} times in a row: {error}"
            await self._operations.tell_of_source(actor, text)

    async def _take(self, body: bytes, parse: Callable[[bytes], _P], take: Callable[[_P], Awaitable[bytes]]) -> bytes:
        if len(body) <= BIG:
            return await take(parse(body))
        async with self._big:  # what was parsed takes several times the memory of its bytes
            return await take(await asyncio.to_thread(parse, body))

    async def _receive(self, webhook: WebhookPayload, actor: str, body: bytes) -> bytes:
        accepted, duplicates, unmatched = await self._keep_alerts(webhook, actor, body)
        if not webhook.damaged:
            self._damaging.discard(actor)
            return f'{{"accepted":{accepted},"duplicates":{duplicates},"unmatched":{unmatched}}}'.encode()
        if actor not in self._damaging:
            self._damaging.add(actor)
            text = f"{len(webhook.damaged)} of the alerts that {actor} sent cannot be read: {webhook.damaged[0]}"
            await self._operations.tell_of_source(actor, f"{text}; the others were taken")
        why = webhook.damaged[:_SAID]
        return to_json(asdict(Accepted(accepted, duplicates, unmatched, len(webhook.damaged), why)))

    async def _keep_alerts(self, webhook: WebhookPayload, actor: str, _body: bytes) -> tuple[int, int, int]:
        """Accepted, duplicates, unmatched; on disk when it returns. :raises JournalUnavailable: nothing was kept."""
        counts = await self._operations.receive(webhook.alerts, actor, elsewhere=webhook.grafana)
        if webhook.truncated:
            await self._operations.complete(webhook)
        return counts

    async def _keep_events(self, posted: tuple[Posted, ...], actor: str, _body: bytes) -> EventReceipt:
        """On disk when it returns. :raises EventError: JournalUnavailable: nothing was kept."""
        return await self._operations.report(posted, actor)

    async def _report(self, posted: tuple[Posted, ...], actor: str, body: bytes) -> bytes:
        taken = await self._keep_events(posted, actor, body)
        why = tuple(dict.fromkeys(taken.unmatched))[:_SAID]
        return to_json(asdict(Reported(taken.accepted, taken.duplicates, len(taken.unmatched), why)))


def _busy() -> ProblemError:
    return ProblemError(503, "too many signals are on their way in; send this again", {"Retry-After": BUSY_RETRY})
