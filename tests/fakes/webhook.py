"""A fake of any program that takes rollbackd's own JSON. It honours the Idempotency-Key, as the documentation asks."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aiohttp import web

from tests.fakes.receiving import Receiver

PATH = "/rollbackd"
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "version": str,
    "key": str,
    "event": str,
    "severity": str,
    "title": str,
    "lines": list,
    "source": str,
    "link": str,
    "thread": str,
    "at": str,
    "service": str,
    "services": list,
    "incident": str,
    "priority": (str, type(None)),
    "resolves": bool,
    "acknowledged": bool,
    "labels": dict,
}


class WebhookFake(Receiver):
    """One program; `once` holds each message once, whatever was repeated."""

    def __init__(self, path: str = PATH) -> None:
        super().__init__("webhook", path)
        self.secret = b""
        """When it is set, only what is signed with it is taken: https://www.standardwebhooks.com."""

    @property
    def once(self) -> list[Any]:
        return list({one.headers["Idempotency-Key"]: one.body for one in self.sent if one.taken}.values())

    def problems(self, body: Any, headers: dict[str, str]) -> list[str]:
        if not isinstance(body, dict):
            return ["the message is no object"]
        found = [f"unknown field {name}" for name in body.keys() - _FIELDS.keys()]
        for name, kind in _FIELDS.items():
            if not isinstance(body.get(name, ...), kind):
                found.append(f"{name} is {body.get(name, 'missing')!r:.60}")
        if found:
            return found
        if self.secret and not self._is_signed(json.dumps(body).encode(), headers):
            found.append("not signed")
        if not headers.get("Idempotency-Key"):
            found.append("no Idempotency-Key")
        if not body["title"] or "\n" in body["title"]:
            found.append("the title is not one line")
        named = any(line["heading"] for line in body["lines"])  # else they are somebody's own words
        for line in body["lines"]:
            if line.keys() != {"heading", "text"} or not line["text"] or (named and not line["heading"]):
                found.append(f"a line is {line!r:.80}")
        if datetime.fromisoformat(body["at"]).tzinfo is None:
            found.append("a time without a zone")
        return found

    def _is_signed(self, body: bytes, headers: dict[str, str]) -> bool:
        """By the specification: `v1,` and the base64 of an HMAC over id, time and body, within five minutes."""
        name, at = headers.get("Webhook-Id", ""), headers.get("Webhook-Timestamp", "0")
        right = hmac.new(self.secret, b".".join((name.encode(), at.encode(), body)), hashlib.sha256).digest()
        given = headers.get("Webhook-Signature", "").split(" ")
        fresh = abs(time.time() - int(at)) < 300
        return bool(name) and "." not in name and fresh and f"v1,{base64.b64encode(right).decode()}" in given

    def success(self, body: Any) -> web.Response:
        return web.json_response({"ok": True})

    def refusal(self, problems: Sequence[str]) -> web.Response:
        return web.json_response({"problems": list(problems)}, status=400)
