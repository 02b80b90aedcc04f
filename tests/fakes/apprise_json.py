"""A fake of a program that apprise posts to by its own `json://`.

https://github.com/caronc/apprise/wiki/Notify_Custom_JSON
"""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from tests.fakes.receiving import Receiver

PATH = "/apprise/s3cr3t-path"
_FIELDS: dict[str, type] = {"version": str, "title": str, "message": str, "attachments": list, "type": str}


class AppriseJsonFake(Receiver):
    """One program."""

    def __init__(self) -> None:
        super().__init__("apprise", PATH)

    def problems(self, body: Any, headers: dict[str, str]) -> list[str]:
        if not isinstance(body, dict) or body.keys() != _FIELDS.keys():
            return [f"other fields: {body!r:.100}"]
        found = [f"{name} is {body[name]!r:.60}" for name, kind in _FIELDS.items() if not isinstance(body[name], kind)]
        if body["version"] != "1.0" or body["attachments"]:
            found.append("not what was asked for")
        if body["type"] not in {"info", "success", "warning", "failure"}:
            found.append(f"type {body['type']}")
        if not body["message"].strip() or len(body["message"]) > 8100 or "\n" in body["title"]:
            found.append("no message, or one that is too long")
        if {"\x00", "\x1b", "\u202e"} & set(body["title"] + body["message"]):
            found.append("characters that hide or reorder text")
        return found

    def success(self, body: Any) -> web.Response:
        return web.json_response({})

    def refusal(self, problems: Sequence[str]) -> web.Response:
        return web.json_response({"problems": list(problems)}, status=400)
