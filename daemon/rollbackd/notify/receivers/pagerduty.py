"""PagerDuty, by its Events API v2: one alert for each trouble, acknowledged and resolved by its dedup_key.

https://developer.pagerduty.com/docs/events-api-v2-overview
An alert is resolved only by a message that says that the trouble is over. What a service runs now is a change event.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import field_validator

from rollbackd.adapter import Message, NotifierSettings
from rollbackd.model import Priority
from rollbackd.notification_events import CHANGED
from rollbackd.notify.messages import plain_text
from rollbackd.notify.receivers.http_post import Sender
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.units import Secret
from rollbackd.system.http_client import Session

_SUMMARY = 1024
_DEDUP = 255
_BODY = 512 * 1024 - 4096
"""The most bytes of a body; the API's limit is 512 KB."""
_SEVERITIES: Mapping[Priority | None, str] = {
    Priority.P0: "critical",
    Priority.P1: "error",
    Priority.P2: "warning",
    Priority.P3: "info",
}
_AT_ONCE = 8
"""How many resolves are under way at the same time."""


class PagerDutySettings(NotifierSettings, ConnectionSettings):
    """`{name: oncall, pagerduty: {routing_key: {credential: pagerduty}}}`."""

    routing_key: Secret
    """The integration key of a service's Events API v2 integration, 32 characters."""
    url: str = "https://events.pagerduty.com/v2/enqueue"
    """Europe: https://events.eu.pagerduty.com/v2/enqueue."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("https://", "http://")):
            raise ValueError("`url` is not an address; write it like https://events.pagerduty.com/v2/enqueue")
        return url


class PagerDuty(Sender[PagerDutySettings]):
    """Whoever is on call."""

    settings_model = PagerDutySettings
    who = "pagerduty"
    keeps_open = True
    keeps_changes = True

    def __init__(
        self, settings: PagerDutySettings, reveal: Callable[[Secret], str], http: Callable[[], Session]
    ) -> None:
        super().__init__(settings, reveal, http)
        self._settled: set[str] = set()
        """What was resolved beside a message that is not through yet, so that another try goes on behind it."""

    async def send(self, message: Message) -> None:
        key = self._revealed(self._settings.routing_key).strip()
        if message.event == CHANGED:
            base = self._settings.url.removesuffix("/enqueue")
            await self._post(f"{base}/change/enqueue", change(message, key), (key,))
            return
        self._settled.discard(message.thread)
        await self._post(self._settings.url, event(message, key), (key,))
        left = [thread for thread in message.settles if thread not in self._settled]
        for begin in range(0, len(left), _AT_ONCE):
            tries = (self._settle(message.source, thread, key) for thread in left[begin : begin + _AT_ONCE])
            for failed in await asyncio.gather(*tries, return_exceptions=True):
                if isinstance(failed, BaseException):
                    raise failed
        self._settled.clear()

    async def _settle(self, source: str, thread: str, key: str) -> None:
        await self._post(self._settings.url, _addressed("resolve", source, thread, key), (key,))
        self._settled.add(thread)


def dedup_key(source: str, thread: str) -> str:
    """Who speaks and the thread, when they fit, else their beginning and a hash: no two daemons share one."""
    full = f"{source}/{thread}" if source else thread
    shown = plain_text.line(full, 10_000) or "rollbackd"
    if len(shown) <= _DEDUP:
        return shown
    return f"{shown[: _DEDUP - 33]}/{hashlib.sha256(full.encode(errors='replace')).hexdigest()[:32]}"


def event(message: Message, routing_key: str) -> dict[str, Any]:
    """The event's JSON, within the API's limits."""
    action: Literal["trigger", "acknowledge", "resolve"] = "trigger"
    if message.resolves:
        action = "resolve"
    elif message.acknowledged:
        action = "acknowledge"
    sent = _addressed(action, message.source, message.thread, routing_key)
    if action == "trigger":
        sent |= {"client": plain_text.fit(message.source, 255) or "rollbackd", "payload": _payload(message, 5000)}
        sent |= ({"client_url": message.link} if message.link else {}) | _links(message)
        if len(json.dumps(sent)) > _BODY:
            sent["payload"] = _payload(message, 200)
    return sent


def change(message: Message, routing_key: str) -> dict[str, Any]:
    """The JSON of a change event, within the API's limits.

    https://developer.pagerduty.com/docs/send-change-event
    """
    payload = _payload(message, 1000)
    kept = {name: payload[name] for name in ("summary", "timestamp", "source", "custom_details")}
    return {"routing_key": routing_key, "payload": kept, **_links(message)}


def _links(message: Message) -> dict[str, object]:
    about = plain_text.fit(message.incident or message.service or "rollbackd", 255)
    return {"links": [{"href": message.link, "text": about}]} if message.link else {}


def _addressed(action: str, source: str, thread: str, routing_key: str) -> dict[str, object]:
    return {"routing_key": routing_key, "event_action": action, "dedup_key": dedup_key(source, thread)}


def _payload(message: Message, limit: int) -> dict[str, object]:
    details: dict[str, str] = {"key": plain_text.line(message.key)}
    for heading, text in message.lines[:100]:
        name, shown = plain_text.line(heading, 100) or "text", plain_text.paragraph(text, limit)
        details[name] = f"{details[name]}\n{shown}" if name in details else shown
    details |= {plain_text.line(name, 100): plain_text.line(text) for name, text in list(message.labels.items())[:50]}
    return {
        "summary": plain_text.fit(message.headline, _SUMMARY) or "rollbackd",
        "source": plain_text.fit(message.source, 255) or "rollbackd",
        "severity": _SEVERITIES.get(message.priority, message.severity),
        "timestamp": message.at.isoformat(),
        "component": plain_text.fit(message.service, 255) or "rollbackd",
        "class": plain_text.fit(message.event, 255),
        "custom_details": details,
    }
