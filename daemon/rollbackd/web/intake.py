"""Alerts come in: an alert that was answered 200 is on disk; what cannot be taken now is refused, never forgotten.

Alertmanager sends again after a 5xx, and after a 4xx only with its next group interval: so what passes by itself (busy,
disk full) is a 503, and only a body that will never be right is a 400.
"""

import asyncio

from aiohttp import web

from rollbackd.desk import Desk
from rollbackd.sources.webhook import Webhook, WebhookError, parse_webhook
from rollbackd.web.problems import ProblemError
from rollbackd.web.reading import JSON, READ_WITHIN, read_json

BIG = 256 * 1024
"""Bytes; a body above this is parsed on a thread, so that health answers go on meanwhile."""
MOST_REQUESTS = 512
"""In flight at once; more are told to come again."""
BUSY_RETRY = "1"
"""Seconds."""


class Intake:
    """`POST /api/v1/alerts`.

    :param max_body: bytes that one body may have, after decompression; twice that may be in flight at once.
    :param read_within: seconds that a client has to send its body.
    """

    def __init__(self, desk: Desk, max_body: int, read_within: float = READ_WITHIN) -> None:
        self._desk = desk
        self._max_body = max_body
        self._read_within = read_within
        self._requests = 0
        self._bytes = 0
        self._big = asyncio.Semaphore(2)

    @property
    def in_flight(self) -> tuple[int, int]:
        """Requests, and the bytes of their bodies so far."""
        return self._requests, self._bytes

    async def post(self, request: web.Request, actor: str) -> web.Response:
        """Take one delivery. :raises ProblemError: nothing of it was taken."""
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
            accepted, duplicates, unmatched = await self._take(body, actor)
        finally:
            self._requests -= 1
            self._bytes -= held
        text = f'{{"accepted":{accepted},"duplicates":{duplicates},"unmatched":{unmatched}}}'
        return web.Response(body=text.encode(), content_type=JSON)

    async def _take(self, body: bytes, actor: str) -> tuple[int, int, int]:
        if len(body) <= BIG:
            return await self._receive(_parse(body), actor)
        async with self._big:  # parsed alerts take several times the memory of their bytes
            return await self._receive(await asyncio.to_thread(_parse, body), actor)

    async def _receive(self, webhook: Webhook, actor: str) -> tuple[int, int, int]:
        counts = await self._desk.receive(webhook.alerts, actor)
        if webhook.truncated:
            await self._desk.complete(webhook)
        return counts


def _parse(body: bytes) -> Webhook:
    try:
        return parse_webhook(body)
    except WebhookError as error:
        raise ProblemError(400, str(error)) from error


def _busy() -> ProblemError:
    return ProblemError(503, "too many alerts are on their way in; send this again", {"Retry-After": BUSY_RETRY})
