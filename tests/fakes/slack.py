"""A fake of Slack's incoming webhooks, strict about the documented limits.

https://docs.slack.dev/reference/block-kit/blocks
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from tests.fakes.receiving import Receiver

PATH = "/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"
_KEYS = {"text", "blocks", "unfurl_links", "unfurl_media", "thread_ts", "response_type", "mrkdwn"}
_MENTION = re.compile(r"<[^>]*>")
_LOOSE = re.compile(r"&(?!amp;|lt;|gt;)")


class SlackFake(Receiver):
    """One webhook of a workspace."""

    def __init__(self, path: str = PATH) -> None:
        super().__init__("slack", path)

    def problems(self, body: Any, headers: dict[str, str]) -> list[str]:
        if not isinstance(body, dict):
            return ["the payload is no object"]
        found = [f"unknown key {key}" for key in body.keys() - _KEYS]
        if not isinstance(body.get("text"), str) or not body["text"]:
            found.append("no fallback text")
        else:
            found += _marked(body["text"], "text", 40_000)
        blocks = body.get("blocks", [])
        if len(blocks) > 50:
            found.append(f"{len(blocks)} blocks, at most 50")
        for place, block in enumerate(blocks):
            found += [f"block {place}: {problem}" for problem in _block(block)]
        if not headers.get("Content-Type", "").startswith("application/json"):
            found.append("not sent as application/json")
        return found

    def success(self, body: Any) -> web.Response:
        return web.Response(text="ok")

    def refusal(self, problems: Sequence[str]) -> web.Response:
        return web.Response(status=400, text="invalid_blocks")

    def gone(self) -> web.Response:
        return web.Response(status=404, text="no_service")


SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"


def posted(payload: Any, at: float, secret: str = SIGNING_SECRET) -> tuple[bytes, dict[str, str]]:
    """A request as Slack sends it at that time: its body and its headers.

    https://docs.slack.dev/authentication/verifying-requests-from-slack
    """
    body = urlencode({"payload": json.dumps(payload)}).encode()
    digest = hmac.new(secret.encode(), f"v0:{int(at)}:".encode() + body, hashlib.sha256).hexdigest()
    return body, {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Slack-Request-Timestamp": str(int(at)),
        "X-Slack-Signature": f"v0={digest}",
    }


class SlackApiFake(SlackFake):
    """The Web API that a bot of one channel uses; what it wrote stays in `posts`, as people see it."""

    TOKEN = "xoxb-0123-secret"
    CHANNEL = "C0123ABCD"

    def __init__(self) -> None:
        super().__init__("/api/{method}")
        self.posts: list[dict[str, Any]] = []
        self.method = ""
        self.refused = ""
        """The error that the next call is answered with."""
        self.whispers: list[tuple[str, str]] = []
        """What single members were told: who, and the text."""

    @property
    def roots(self) -> list[dict[str, Any]]:
        return [one for one in self.posts if "thread_ts" not in one]

    def buttons(self, post: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What can be clicked on a message, by its label; beside each the command must stand."""
        shown = [one for one in post["blocks"] if "accessory" in one]
        assert all(one["text"]["text"].startswith("`rollbackd ") for one in shown)
        return {one["accessory"]["text"]["text"]: one["accessory"] for one in shown}

    def click(
        self, post: dict[str, Any], label: str, user: str, at: float = 1700000000.5, **more: Any
    ) -> dict[str, Any]:
        """The payload of a click on a button of a message, as Slack makes it."""
        button = self.buttons(post)[label]
        return {
            "type": "block_actions",
            "user": {"id": user, "username": "ann", "name": "ann", "team_id": "T0123ABCD"},
            "api_app_id": "A0123ABCD",
            "token": "deprecated",
            "container": {
                "type": "message",
                "message_ts": post["ts"],
                "channel_id": self.CHANNEL,
                "is_ephemeral": False,
            },
            "trigger_id": "1.2.3",
            "team": {"id": "T0123ABCD", "domain": "shop"},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": self.CHANNEL, "name": "room"},
            "message": post,
            "state": {"values": {}},
            "response_url": "https://hooks.slack.com/actions/T0123ABCD/1/2",
            "actions": [
                {
                    "action_id": button["action_id"],
                    "block_id": "x1y2",
                    "text": button["text"],
                    "value": button["value"],
                    "type": "button",
                    "action_ts": f"{at:.6f}",
                }
            ],
            **more,
        }

    def story(self, ts: str) -> list[dict[str, Any]]:
        return [one for one in self.posts if one.get("thread_ts") == ts]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.method = request.match_info["method"]
        return await super().handle(request)

    def problems(self, body: Any, headers: dict[str, str]) -> list[str]:
        found = [] if headers.get("Authorization") == f"Bearer {self.TOKEN}" else ["invalid_auth"]
        if body.get("channel") != self.CHANNEL:
            found.append("channel_not_found")
        if self.method == "conversations.history":
            return found
        if self.method == "chat.postEphemeral":
            return found + [f"unknown key {key}" for key in body.keys() - {"channel", "user", "text"}]
        own = {"channel", "metadata", "ts", "reply_broadcast"}
        return found + super().problems({name: value for name, value in body.items() if name not in own}, headers)

    def success(self, body: Any) -> web.Response:
        if self.refused:
            error, self.refused = self.refused, ""
            return web.json_response({"ok": False, "error": error})
        match self.method:
            case "conversations.history":
                return web.json_response({"ok": True, "messages": self.roots[::-1][: body["limit"]]})
            case "chat.postEphemeral":
                self.whispers.append((body["user"], body["text"]))
                return web.json_response({"ok": True, "message_ts": "1700000000.000000"})
            case "chat.update":
                for one in self.posts:
                    if one["ts"] == body["ts"]:
                        one.update(body)
                        return web.json_response({"ok": True, "ts": one["ts"]})
                return web.json_response({"ok": False, "error": "message_not_found"})
            case _:
                self.posts.append({**body, "ts": f"1700000000.{len(self.posts):06}"})
                return web.json_response({"ok": True, "ts": self.posts[-1]["ts"], "channel": self.CHANNEL})


def _block(block: Any) -> list[str]:
    kind = block.get("type")
    if kind == "header":
        return _keys(block, {"type", "text", "block_id"}) + _text(block.get("text"), 150, ("plain_text",))
    if kind == "section":
        found = _keys(block, {"type", "text", "block_id", "fields", "accessory", "expand"})
        button = _button(block["accessory"]) if "accessory" in block else []
        return found + button + _text(block.get("text"), 3000, ("plain_text", "mrkdwn"))
    if kind == "context":
        elements = block.get("elements", [])
        found = _keys(block, {"type", "elements", "block_id"})
        if not 1 <= len(elements) <= 10:
            found.append(f"{len(elements)} elements, 1 to 10")
        return found + [problem for one in elements for problem in _text(one, 3000, ("plain_text", "mrkdwn"))]
    return [] if kind == "divider" else [f"unknown type {kind}"]


def _button(button: Any) -> list[str]:
    """https://docs.slack.dev/reference/block-kit/block-elements/button-element"""
    found = _keys(button, {"type", "text", "action_id", "value", "style", "confirm"})
    found += _text(button.get("text"), 75, ("plain_text",))
    if button.get("type") != "button" or button.get("style", "primary") not in {"primary", "danger"}:
        found.append("no button of a known style")
    if not 1 <= len(button["action_id"]) <= 255 or not 1 <= len(button["value"]) <= 2000:
        found.append("an action_id or value of a wrong length")
    confirm = button.get("confirm", {})
    limits = {"title": 100, "text": 300, "confirm": 30, "deny": 30}
    return found + [
        problem for part, limit in limits.items() for problem in _text(confirm.get(part), limit, ("plain_text",))
    ]


def _keys(thing: dict[str, Any], known: set[str]) -> list[str]:
    return [f"unknown key {key}" for key in thing.keys() - known]


def _text(text: Any, limit: int, kinds: tuple[str, ...]) -> list[str]:
    if not isinstance(text, dict) or text.get("type") not in kinds:
        return [f"text is not one of {kinds}: {text!r:.80}"]
    if text["type"] == "plain_text":
        found = _keys(text, {"type", "text", "emoji"})
        return found + ([] if 1 <= len(text["text"]) <= limit else [f"{len(text['text'])} characters, 1 to {limit}"])
    return _keys(text, {"type", "text", "verbatim"}) + _marked(text["text"], "mrkdwn", limit)


def _marked(text: str, what: str, limit: int) -> list[str]:
    """Slack would take a mention or a link; a message of ours never has one."""
    found = [] if 1 <= len(text) <= limit else [f"{what} has {len(text)} characters, 1 to {limit}"]
    found += [f"{what} holds markup: {markup[:60]}" for markup in _MENTION.findall(text)]
    return found + ([f"{what} holds a loose &"] if _LOOSE.search(text) else [])
