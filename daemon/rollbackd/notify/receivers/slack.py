"""Slack: by an incoming webhook, or by a bot: one message for each trouble, edited, with its story in the thread.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
https://docs.slack.dev/reference/methods/chat.postMessage
The webhook's address, or the bot's token, is the secret. Which message is whose is kept by Slack, in its metadata, so
that a restart finds it again. Nothing that comes from outside can mention anybody or forge a link: `&`, `<` and
`>` are escaped, and `verbatim` keeps Slack from finding names and addresses in the text by itself.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rollbackd.adapter import DeliveryError, Message, NotifierSettings
from rollbackd.notify.messages import phrases, plain_text
from rollbackd.notify.messages.envelope import plain
from rollbackd.notify.receivers.http_post import Sender
from rollbackd.notify.receivers.slack_clicks import block, is_signed
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.units import Secret
from rollbackd.system.http_client import Session
from rollbackd.system.http_connection import HttpConnection

_BLOCKS = 50
_HEADER = 150
_SECTION = 3000
_TEXT = 3000
_POSTS = 1000
"""How many threads are remembered; older ones are looked for."""
_GONE = ("message_not_found", "cant_update_message", "edit_window_closed")
"""Why a message cannot be edited, and another takes its place."""
_MARKS = {"info": "🟢", "warning": "🟠", "critical": "🔴"}


_LATE = timedelta(minutes=10)
"""How much older than what is shown a message can be; one from farther back is from before the clock was set back."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Post:
    """A thread's message in the channel."""

    ts: str
    at: datetime
    """When what it shows was so."""


class SlackSettings(NotifierSettings, ConnectionSettings):
    """`{name: room, slack: {webhook_url: {env: SLACK_WEBHOOK_URL}}}`, or `slack: {token: …, channel: C0123ABCD}`."""

    webhook_url: Secret | None = None
    """The incoming webhook's address."""
    token: Secret | None = None
    """Instead of it a bot's token, with the scopes chat:write, channels:history and groups:history."""
    channel: str = Field(default="", pattern=r"^([CGD][A-Z0-9]{6,})?$")
    """The id of the channel that the bot writes to, such as C0123ABCD, as the channel's details end."""
    api: str = Field(default="https://slack.com/api", pattern="^https?://")
    """Slack's Web API."""
    signing_secret: Secret | None = None
    """The app's signing secret: the bot's messages have buttons, and clicks come to `/api/v1/slack`."""
    app_token: Secret | None = None
    """Instead of it the app's token with the scope connections:write: clicks come over a socket that we open, so that
    nobody has to reach us. Needs the extra `rollbackd[slack]`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.webhook_url is None) == (self.token is None):
            raise ValueError("nothing says how, or two things do; give `webhook_url`, or `token` and `channel`")
        if bool(self.channel) != (self.token is not None):
            raise ValueError("`token` and `channel` belong together; give both, or `webhook_url` alone")
        if self.takes_clicks and self.token is None:
            raise ValueError("only a bot's messages have buttons, since nobody takes them away else; give `token`")
        if self.app_token is not None and find_spec("slack_sdk") is None:
            raise ValueError("`app_token` needs the Python package slack-sdk; install it: rollbackd[slack]")
        return self

    @property
    def takes_clicks(self) -> bool:
        """Whether messages have buttons."""
        return self.signing_secret is not None or self.app_token is not None


class Slack(Sender[SlackSettings]):
    """A room."""

    settings_model = SlackSettings
    who = "slack"
    must_say_so = True
    longest_answer = 8 * 2**20  # a bot reads the last messages of its channel, with all that others put into them

    def is_taken(self, said: str) -> bool:
        """The word `ok`, or as those say it that speak Slack's language: a proxy's page is none of it."""
        with suppress(ValueError, RecursionError):
            document = json.loads(said)
            return isinstance(document, dict) and document.get("ok") is True
        return said.strip().lower() == "ok"

    def __init__(self, settings: SlackSettings, reveal: Callable[[Secret], str], http: Callable[[], Session]) -> None:
        super().__init__(settings, reveal, http)
        self._posts: dict[str, _Post] = {}
        """The message of each thread."""

    async def send(self, message: Message) -> None:
        if self._settings.webhook_url is None:
            await self._as_bot(message)
            return
        url = self._revealed(self._settings.webhook_url).strip()
        if urlsplit(url).scheme not in ("http", "https"):
            raise DeliveryError("slack: webhook_url is not an address; copy it from the app's page", permanent=False)
        await self._said(url, payload(message), message, (url, urlsplit(url).path))

    async def _said(
        self,
        url: str,
        sent: dict[str, object],
        message: Message,
        secrets: Sequence[str],
        headers: Mapping[str, str] = {},
    ) -> str:
        """The answer to a message, which is sent again as plain text where its blocks are not taken."""
        try:
            return await self._post(url, sent, secrets, headers)
        except DeliveryError as error:
            if "blocks" not in sent or "invalid_blocks" not in str(error):
                raise
            bare = {name: value for name, value in sent.items() if name != "blocks"}
            return await self._post(url, bare | {"text": _escaped(spelled(message), _TEXT)}, secrets, headers)

    # -- as a bot
    async def _as_bot(self, message: Message) -> None:
        """The trouble's message shows how it is now; what led there is told in its thread.

        What waited for others of its group and is older than what the message shows is told in the thread alone.
        """
        shown = payload(message, buttons=self._settings.takes_clicks) | {"metadata": _metadata(message)}
        post = self._posts.get(message.thread) or await self._found(message)
        late = post is not None and timedelta() < post.at - message.at <= _LATE
        if post is not None and (late or await self._edited(post.ts, shown, message)):
            line = {"thread_ts": post.ts, "reply_broadcast": _is_loud(message)}
            quiet = {"unfurl_links": False, "unfurl_media": False}
            await self._call("chat.postMessage", line | quiet | {"text": shown["text"]}, message)
            post = replace(post, at=max(post.at, message.at))
        else:
            post = _Post(str((await self._call("chat.postMessage", shown, message)).get("ts", "")), message.at)
        if not post.ts:
            return  # it is taken, and not to be found again
        self._posts[message.thread] = post
        while len(self._posts) > _POSTS:
            del self._posts[next(iter(self._posts))]

    async def _edited(self, ts: str, shown: dict[str, object], message: Message) -> bool:
        try:
            await self._call("chat.update", shown | {"ts": ts}, message)
        except DeliveryError as error:
            if any(word in str(error) for word in _GONE):
                return False
            raise
        return True

    async def _found(self, message: Message) -> _Post | None:
        """The message of a thread that another process wrote; None: there is none among the channel's last."""
        asked = {"limit": 200, "include_all_metadata": True}
        answer = await self._call("conversations.history", asked, message)
        wanted = _metadata(message)["event_payload"]["thread"]
        for one in answer.get("messages") or ():
            with suppress(AttributeError, KeyError, TypeError):  # others write there, too
                kept = one["metadata"]["event_payload"]
                if kept["thread"] == wanted:
                    return _Post(str(one["ts"]), _time(kept.get("at", "")))
        return None

    async def whisper(self, user: str, text: str) -> None:
        """Tell one member of the channel something that nobody else sees. :raises DeliveryError:"""
        await self._call("chat.postEphemeral", {"user": user, "text": _escaped(plain_text.line(text, _TEXT), _TEXT)})

    def is_signed(self, timestamp: str, body: bytes, signature: str) -> bool:
        """Whether Slack sent these bytes to this receiver's app. :raises DeliveryError: the secret cannot be read."""
        secret = self._settings.signing_secret
        return secret is not None and is_signed(self._revealed(secret).strip(), timestamp, body, signature)

    @property
    def channel(self) -> str:
        """Where it writes, and where its buttons are."""
        return self._settings.channel

    @property
    def opens_socket(self) -> bool:
        """Whether clicks come over a socket."""
        return self._settings.app_token is not None

    def socket(self) -> tuple[str, str, HttpConnection]:
        """The Web API, the app's token, and how both are reached. :raises DeliveryError: a secret cannot be read."""
        return self._settings.api, self._revealed(self._settings.app_token or "").strip(), self._connection()

    @property
    def takes_clicks(self) -> bool:
        return self._settings.takes_clicks

    async def _call(self, method: str, document: dict[str, Any], message: Message | None = None) -> dict[str, Any]:
        token = self._revealed(self._settings.token or "").strip()
        url = f"{self._settings.api.rstrip('/')}/{method}"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json; charset=utf-8"}
        sent = {"channel": self._settings.channel, **document}
        if message is None:
            words = await self._post(url, sent, (token,), headers)
        else:
            words = await self._said(url, sent, message, (token,), headers)
        answer: dict[str, Any] = json.loads(words) if words.startswith("{") else {}
        return answer


def _metadata(message: Message) -> dict[str, Any]:
    thread = plain_text.fit(f"{message.source}/{message.thread}", 1000)
    return {"event_type": "rollbackd", "event_payload": {"thread": thread, "at": message.at.isoformat()}}


def _time(text: str) -> datetime:
    """When a message's state was so; of one that does not say it, long ago."""
    try:
        read = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return _LONG_AGO
    return read if read.tzinfo is not None else _LONG_AGO


def _is_loud(message: Message) -> bool:
    """Whether the channel hears of it too: what people are asked, failures, and the end."""
    return message.resolves or message.severity == "critical" or message.event in ("asks", "asked_again")


def spelled(message: Message) -> str:
    """The message as plain text, for a Slack that does not take its blocks."""
    return plain_text.paragraph(f"{plain_text.line(message.headline)}\n{plain(message)}".rstrip("\n"), 4 * _TEXT)


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


def _sections(message: Message) -> Iterator[dict[str, object]]:
    for heading, text in message.lines:
        start = f"*{_escaped(plain_text.line(heading), 250)}*\n" if heading else ""
        shown = start + _escaped(plain_text.paragraph(text, _SECTION), _SECTION - len(start))
        yield {"type": "section", "text": {"type": "mrkdwn", "text": shown, "verbatim": True}}


def payload(message: Message, *, buttons: bool = False) -> dict[str, Any]:
    """The webhook's JSON, within Slack's limits; with `buttons` also what can be answered."""
    title = f"{_MARKS[message.severity]} {plain_text.line(message.headline)}"
    header = {"type": "header", "text": {"type": "plain_text", "text": plain_text.fit(title, _HEADER), "emoji": True}}
    time = phrases.moment(message.at)
    about = [str(part) for part in (message.priority, message.event, message.service, message.thread, time) if part]
    context = {"type": "plain_text", "text": plain_text.fit(" · ".join(dict.fromkeys(about)), 500), "emoji": False}
    footer = [] if message.own_words else [{"type": "context", "elements": [context]}]
    sections = list(_sections(message))
    answers = [block(button) for button in message.buttons[:3]] if buttons else []
    room = _BLOCKS - 2 - len(answers)
    if len(sections) > room:
        left = f"and {len(sections) - room + 1} more lines"
        sections[room - 1 :] = [{"type": "section", "text": {"type": "plain_text", "text": left}}]
    return {
        "text": _escaped(title, _TEXT),
        "blocks": [header, *sections, *answers, *footer],
        "unfurl_links": False,
        "unfurl_media": False,
    }
