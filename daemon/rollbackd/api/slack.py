"""`POST /api/v1/slack`: clicks that Slack sends, known by the app's signing secret and by nothing else.

https://docs.slack.dev/authentication/verifying-requests-from-slack
Anybody may reach it, so its body is short, plain and bounded before it is looked at, and few are read at once. What is
not Slack's, is late or comes again does nothing and is recorded. Slack wants an answer within 3 s: it has it as soon as
the click is on disk.
"""

from aiohttp import hdrs, web

from rollbackd.api.problems import ProblemError
from rollbackd.api.request_body import FORM, read_body
from rollbackd.operations.slack_orders import ClickRefusedError, Refusal, SlackOrders

PATH = "/api/v1/slack"
LONGEST = 512 * 1024
"""Bytes; Slack sends the message along that has the button."""
MOST = 8
"""Requests in hand at once."""
_WITHIN = 3.0
"""Seconds for the body to arrive."""
_STATUS: dict[Refusal, int] = {"forged": 401, "late": 401, "busy": 503, "unreadable": 400, "elsewhere": 400}
"""Others are answered as taken: whoever clicked is told by a message, and Slack would show an error of its own."""


class SlackRequests:
    """The handler."""

    def __init__(self, orders: SlackOrders | None) -> None:
        self._orders = orders
        self._in_hand = 0

    async def clicked(self, request: web.Request) -> web.StreamResponse:
        """Take one click. :raises ProblemError: nothing was taken, and that was recorded."""
        if self._orders is None:
            raise ProblemError(404, "no Slack receiver of this daemon has a signing_secret")
        try:
            await self._bounded(request, self._orders)
        except ClickRefusedError as refused:
            if refused.why in _STATUS:
                raise ProblemError(_STATUS[refused.why], str(refused)) from refused
        return web.Response(headers={"Cache-Control": "no-store"})

    async def _bounded(self, request: web.Request, orders: SlackOrders) -> None:
        if self._in_hand >= MOST:
            raise orders.refused("busy", "too many requests at once; send this again")
        self._in_hand += 1
        try:
            await self._take(request, orders)
        finally:
            self._in_hand -= 1

    async def _take(self, request: web.Request, orders: SlackOrders) -> None:
        try:
            body = await _read(request)
        except ProblemError as error:
            orders.refused("unreadable", str(error))
            raise
        timestamp = request.headers.get("X-Slack-Request-Timestamp", "")
        signature = request.headers.get("X-Slack-Signature", "")
        await orders.posted(timestamp, signature, body)


async def _read(request: web.Request) -> bytes:
    """The bytes that may be signed. :raises ProblemError: they are too many, too slow, packed, or no form."""
    if request.headers.get(hdrs.CONTENT_ENCODING):
        raise ProblemError(415, "Slack signs what it sends as it is; send it plain")
    return await read_body(request, FORM, LONGEST, _WITHIN)
