"""Anything that takes JSON by HTTP POST. The key goes along as `Idempotency-Key`: the same key, the same message."""

from typing import Any
from urllib.parse import urlsplit

from pydantic import field_validator

from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.notify.messages import plain_text
from rollbackd.notify.receivers.http_post import Sender
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.units import Secret

VERSION = "1"


class WebhookSettings(NotifierSettings, ConnectionSettings):
    """`{name: bot, webhook: {url: https://bot.example/rollbackd, headers: {Authorization: {env: BOT}}}}`."""

    url: Secret | str
    """Where to post; a secret when the address itself lets one in."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: Secret | str) -> Secret | str:
        if isinstance(url, str):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("`url` is not an address; write it like https://bot.example/rollbackd, or as a secret")
            if parts.password:
                raise ValueError("`url` holds a password; give the address as a secret: {env: NAME}")
        return url


class Webhook(Sender[WebhookSettings]):
    """Another program."""

    settings_model = WebhookSettings
    who = "webhook"

    async def send(self, message: Message) -> None:
        url = self._revealed(self._settings.url).strip()
        if urlsplit(url).scheme not in ("http", "https"):
            raise DeliveryError("webhook: url is not an address; write it like https://bot.example/", permanent=False)
        key = plain_text.fit(message.key, 255).encode("ascii", "replace").decode()
        await self._post(url, payload(message), (url,), {"Idempotency-Key": key})


def payload(message: Message) -> dict[str, Any]:
    """The JSON: every field is there always; times are RFC 3339 in UTC."""
    return {
        "version": VERSION,
        "key": plain_text.line(message.key, 1000),
        "event": message.event,
        "severity": message.severity,
        "title": plain_text.line(message.title),
        "lines": [
            {"heading": plain_text.line(heading), "text": plain_text.paragraph(text, 4000)}
            for heading, text in message.lines[:100]
        ],
        "source": plain_text.line(message.source),
        "link": message.link,
        "thread": plain_text.line(message.thread, 1000),
        "at": message.at.isoformat(),
        "service": message.service,
        "incident": message.incident,
        "priority": message.priority,
        "resolves": message.resolves,
        "acknowledged": message.acknowledged,
        "labels": {plain_text.line(name): plain_text.line(text, 1000) for name, text in message.labels.items()},
    }
