"""Socket Mode: clicks come over a socket that we open to Slack, for hosts that Slack cannot reach.

https://docs.slack.dev/apis/events-api/using-socket-mode
slack-sdk keeps the socket, and opens another when Slack asks for that. One that stays silent is closed, opened anew by
us, and told: until it speaks again the commands beside the buttons are the only way. Imported when one is configured.
"""

import asyncio
import json
import logging
from datetime import timedelta
from functools import partial
from ssl import SSLContext

from aiohttp import ClientError
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from rollbackd import facts
from rollbackd.adapter import DeliveryError
from rollbackd.journal import JournalUnavailable, until_written
from rollbackd.model import FLEET
from rollbackd.notify.receivers.slack import Slack
from rollbackd.operations.slack_orders import ClickRefusedError, SlackOrders
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.certificates import CertificateTrouble, tls_context
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import side_by_side

SILENT = timedelta(minutes=1)
"""How long a socket says nothing before it is opened anew, and told."""
KIND = "slack_silent"
_LOOK = timedelta(seconds=5)
_AGAIN = timedelta(seconds=20)
_OPENING = 30.0
"""Seconds in which a socket is open."""
_PING = 5.0
"""Seconds between pings; four that nobody answers are silence."""
_NOTICES = 500
_Failed = (SlackClientError, ClientError, OSError, TimeoutError, ValueError, DeliveryError, CertificateTrouble)
"""What opening a socket can end in; none of it is named with its words, which hold tickets, but Slack's own."""


class SilentError(Exception):
    """A socket has said nothing for too long."""


class SlackSockets:
    """The root task `slack sockets`: one for each receiver that has an app's token."""

    def __init__(self, orders: SlackOrders, read_model: ReadModel, clock: Clock) -> None:
        self._orders = orders
        self._read_model = read_model
        self._clock = clock
        self._rooms = {name: room for name, room in orders.rooms.items() if room.opens_socket}
        self._told: set[str] = set()
        """Receivers of whose silence people heard, and not yet that it is over."""
        self._heard: dict[str, float] = {}
        """When each socket was open last, in the clock's monotonic seconds."""
        self._log = log.get("slack")

    async def run(self) -> None:
        """For ever."""
        await until_written(self._recall, self._clock, _AGAIN, partial(self._log.error, "the journal cannot be read"))
        await side_by_side({f"slack socket: {name}": self._keep(name, room) for name, room in self._rooms.items()})

    async def _recall(self) -> None:
        """What an earlier process told and did not take back."""
        records = await self._read_model.journal.latest(facts.kinds(facts.Notice), FLEET, _NOTICES)
        newest = {one.fact.details.get("subject", ""): one.fact for one in records[::-1] if one.fact.kind == KIND}
        self._told = {name for name, notice in newest.items() if not notice.over}

    async def _keep(self, name: str, room: Slack) -> None:
        self._heard[name] = self._clock.monotonic()
        while True:
            try:
                await self._listen(name, room)
            except SlackApiError as error:
                why = f"Slack says {error.response.get('error', 'no')}"
            except SilentError as error:
                why = str(error)
            except _Failed as error:
                why = str(error) if isinstance(error, (DeliveryError, CertificateTrouble)) else type(error).__name__
            self._log.warning("a socket to Slack is not open; it is opened again", receiver=name, why=why)
            await self._tell_of_silence(name, why)
            await self._clock.sleep(_AGAIN)

    async def _listen(self, name: str, room: Slack) -> None:
        """Open a socket, and hear clicks until it is silent. :raises SilentError: and what opening it can end in."""
        api, token, connection = room.socket()
        trusted = await asyncio.to_thread(tls_context, connection.tls) if connection.tls is not None else None
        client = _client(api, token, connection.proxy, trusted)
        client.socket_mode_request_listeners.append(partial(self._heard_of, room))
        try:
            async with asyncio.timeout(_OPENING):
                client.wss_uri = await client.issue_new_wss_url()
                await client.connect()  # type: ignore[no-untyped-call]
            while True:
                if await client.is_connected():
                    self._heard[name] = self._clock.monotonic()
                    await self._tell_of_speech(name)
                elif self._clock.monotonic() - self._heard[name] >= SILENT.total_seconds():
                    raise SilentError("it answers no ping, or cannot be opened again")
                await self._clock.sleep(_LOOK)
        finally:
            await client.close()  # type: ignore[no-untyped-call]

    async def _heard_of(self, room: Slack, client: SocketModeClient, request: SocketModeRequest) -> None:
        """Take a click, and only then say that it came: what could not be written is delivered again."""
        if request.type == "interactive":
            try:
                await self._orders.take(json.dumps(request.payload), [room])
            except ClickRefusedError:
                pass  # recorded there; delivered again it would be refused again
            except JournalUnavailable as error:
                self._log.error("a click could not be written", error=str(error))
                return
            except Exception:
                self._log.exception("a click could not be taken")
                raise
        await client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))

    async def _tell_of_silence(self, name: str, why: str) -> None:
        if name in self._told or self._clock.monotonic() - self._heard[name] < SILENT.total_seconds():
            return
        text = f"the socket of {name} to Slack is silent ({why}): buttons do nothing, the commands beside them do"
        self._told.add(name)
        await self._read_model.tell(facts.Notice(KIND, text, details={"subject": name}))

    async def _tell_of_speech(self, name: str) -> None:
        if name in self._told:
            self._told.discard(name)
            text = f"the socket of {name} to Slack is open again, and buttons are heard"
            await self._read_model.tell(facts.Notice(KIND, text, over=True, details={"subject": name}))


def _client(api: str, token: str, proxy: str, trusted: SSLContext | None) -> SocketModeClient:
    """A client that is reached as the configuration says, whatever the environment says of proxies."""
    silenced = logging.getLogger("rollbackd.slack_sdk")  # its lines hold the tickets of sockets
    silenced.disabled = True
    web = AsyncWebClient(base_url=api, timeout=int(_OPENING), ssl=trusted, logger=silenced)
    client = SocketModeClient(token, logger=silenced, web_client=web, ping_interval=_PING)
    web.proxy = client.proxy = proxy or None
    return client
