"""Slack, by an incoming webhook: one message of blocks, with a plain text for notifications.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
The webhook's address is the secret. Nothing that comes from outside can mention anybody or forge a link: `&`, `<` and
`>` are escaped, and `verbatim` keeps Slack from finding names and addresses in the text by itself.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.receivers.http_post import Sender
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.units import Secret

_BLOCKS = 50
_HEADER = 150
_SECTION = 3000
_TEXT = 3000
_MARKS = {"info": "🟢", "warning": "🟠", "critical": "🔴"}


class SlackSettings(NotifierSettings, ConnectionSettings):
    """`{name: room, slack: {webhook_url: {env: SLACK_WEBHOOK_URL}}}`."""

    webhook_url: Secret
    """The incoming webhook's address."""


class Slack(Sender[SlackSettings]):
    """A room."""

    settings_model = SlackSettings
    who = "slack"
    must_say_so = True

    def is_taken(self, said: str) -> bool:
        """The word `ok`, or as those say it that speak Slack's language: a proxy's page is none of it."""
        with suppress(ValueError, RecursionError):
            document = json.loads(said)
            return isinstance(document, dict) and document.get("ok") is True
        return said.strip().lower() == "ok"

    async def send(self, message: Message) -> None:
        url = self._revealed(self._settings.webhook_url).strip()
        if urlsplit(url).scheme not in ("http", "https"):
            raise DeliveryError("slack: webhook_url is not an address; copy it from the app's page", permanent=False)
        secrets, sent = (url, urlsplit(url).path), payload(message)
        try:
            await self._post(url, sent, secrets)
        except DeliveryError as error:
            if "invalid_blocks" not in str(error):
                raise
            plain = {name: value for name, value in sent.items() if name != "blocks"}
            await self._post(url, plain | {"text": _escaped(spelled(message), _TEXT)}, secrets)


def spelled(message: Message) -> str:
    """The message as plain text, for a Slack that does not take its blocks."""
    parts = [f"{heading}: {text}" for heading, text in message.lines]
    return plain_text.paragraph("\n".join([plain_text.line(message.headline), *parts]), 4 * _TEXT)


def escape(text: str) -> str:
    """The three characters that are control in Slack's markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escaped(text: str, limit: int) -> str:
    """The text escaped and cut to at most `limit` characters, never inside an entity."""
    escaped = escape(text)
    while len(escaped) > limit:
        text = text[: max(0, len(text) - max(1, (len(escaped) - limit) // 5)) - 1]
        escaped = escape(text) + "…"
    return escaped


def _sections(message: Message) -> Iterator[dict[str, Any]]:
    for heading, text in message.lines:
        start = f"*{_escaped(plain_text.line(heading), 250)}*\n"
        shown = start + _escaped(plain_text.paragraph(text, _SECTION), _SECTION - len(start))
        yield {"type": "section", "text": {"type": "mrkdwn", "text": shown, "verbatim": True}}


def payload(message: Message) -> dict[str, Any]:
    """The webhook's JSON, within Slack's limits."""
    title = f"{_MARKS[message.severity]} {plain_text.line(message.headline)}"
    header = {"type": "header", "text": {"type": "plain_text", "text": plain_text.fit(title, _HEADER), "emoji": True}}
    time = phrases.moment(message.at)
    about = [str(part) for part in (message.priority, message.event, message.service, message.thread, time) if part]
    context = {"type": "plain_text", "text": plain_text.fit(" · ".join(dict.fromkeys(about)), 500), "emoji": False}
    footer = {"type": "context", "elements": [context]}
    sections = list(_sections(message))
    room = _BLOCKS - 2
    if len(sections) > room:
        left = f"and {len(sections) - room + 1} more lines"
        sections[room - 1 :] = [{"type": "section", "text": {"type": "plain_text", "text": left}}]
    return {
        "text": _escaped(title, _TEXT),
        "blocks": [header, *sections, footer],
        "unfurl_links": False,
        "unfurl_media": False,
    }
