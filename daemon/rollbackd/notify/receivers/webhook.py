"""Anything that takes JSON by HTTP POST. The key goes along as `Idempotency-Key`: the same key, the same message.

Its form is published by `rollbackd schema --webhook`. With a secret it is signed as Standard Webhooks says:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, field_validator

from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.notify.messages import plain_text
from rollbackd.notify.receivers.http_post import Sender, encoded
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.units import Secret
from rollbackd.system.clock import SystemClock

VERSION: Literal["1"] = "1"
_KEY = range(24, 65)
"""How many bytes a secret may have."""


class WebhookLine(BaseModel):
    """One thing that is said."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    heading: str
    """Empty in words of one's own."""
    text: str


class WebhookMessage(BaseModel):
    """What a webhook is sent. Every field is there always; later versions may have more."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    version: Literal["1"]
    key: str
    """The same when it is sent again."""
    event: str
    """`opened`, `recovered`, `refused`, …"""
    severity: Literal["info", "warning", "critical"]
    title: str
    """One line."""
    lines: list[WebhookLine]
    source: str
    """Who speaks: `daemon.name`."""
    link: str
    """Where its page is; empty without `daemon.url`."""
    thread: str
    """The same for all messages of one trouble."""
    at: datetime
    """RFC 3339, UTC."""
    service: str
    """Empty where it is about several, or about rollbackd itself."""
    services: list[str]
    """All services that it is about."""
    incident: str
    priority: Literal["P0", "P1", "P2", "P3"] | None
    resolves: bool
    """Whether the trouble is over, and verified."""
    acknowledged: bool
    labels: Mapping[str, str]


class WebhookSettings(NotifierSettings, ConnectionSettings):
    """`{name: bot, webhook: {url: https://bot.example/rollbackd, headers: {Authorization: {env: BOT}}}}`."""

    url: Secret | str
    """Where to post; a secret when the address itself lets one in."""
    secret: Secret | None = None
    """What each message is signed with, in base64, 24 to 64 bytes: `openssl rand -base64 32`."""

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
        document = payload(message)
        headers, secrets = {"Idempotency-Key": key}, [url]
        if self._settings.secret is not None:
            secret = self._revealed(self._settings.secret).strip()
            headers |= signature(secret, message.key, int(SystemClock().now().timestamp()), encoded(document))
            secrets.append(secret)
        await self._post(url, document, secrets, headers)


def signature(secret: str, key: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows who sent these bytes, and when. :raises DeliveryError: it is no secret."""
    try:
        secret_key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        secret_key = b""
    if len(secret_key) not in _KEY:
        why = "webhook: secret is not 24 to 64 bytes in base64; make one with: openssl rand -base64 32"
        raise DeliveryError(why, permanent=False)
    name = hashlib.sha256(key.encode(errors="replace")).hexdigest()[:32]
    signed = hmac.new(secret_key, f"{name}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def schema() -> dict[str, Any]:
    """The JSON Schema of what is sent."""
    return WebhookMessage.model_json_schema()


def payload(message: Message) -> dict[str, Any]:
    """The JSON of a message."""
    made = WebhookMessage.model_construct(
        version=VERSION,
        key=plain_text.line(message.key, 1000),
        event=message.event,
        severity=message.severity,
        title=plain_text.line(message.title),
        lines=[
            WebhookLine.model_construct(heading=plain_text.line(heading), text=plain_text.paragraph(text, 4000))
            for heading, text in message.lines[:100]
        ],
        source=plain_text.line(message.source),
        link=message.link,
        thread=plain_text.line(message.thread, 1000),
        at=message.at,
        service=message.service,
        services=list(message.services or filter(None, (message.service,))),
        incident=message.incident,
        priority=message.priority.value if message.priority is not None else None,
        resolves=message.resolves,
        acknowledged=message.acknowledged,
        labels={plain_text.line(name): plain_text.line(text, 1000) for name, text in message.labels.items()},
    )
    return {**made.model_dump(), "at": message.at.isoformat()}
