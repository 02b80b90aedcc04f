"""A fake of PagerDuty's Events API v2, strict about the documented fields.

https://developer.pagerduty.com/docs/send-alert-event
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aiohttp import web

from tests.fakes.receiving import Receiver

ROUTING_KEY = "0123456789abcdef0123456789abcdef"
PATH = "/v2/enqueue"
_EVENT = {"routing_key", "event_action", "dedup_key", "payload", "images", "links", "client", "client_url"}
_PAYLOAD = {"summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"}


class PagerDutyFake(Receiver):
    """One integration, as documented: a trigger on an open key is one more entry in its log, after a resolve it opens
    a new alert; an acknowledgement or a resolve of what is not open is dropped, and answered like any other.
    """

    def __init__(self, path: str = PATH) -> None:
        super().__init__("pagerduty", path)
        self.open: dict[str, str] = {}
        """The alerts that are triggered and not resolved, by dedup_key: what became of them."""
        self.opened: list[str] = []
        """The key of each alert that was ever opened."""
        self.closed: list[str] = []
        self.changes: list[dict[str, Any]] = []
        """The change events."""
        self.dropped: list[tuple[str, str]] = []
        """Action and key of what was about nothing that is open."""

    def routes(self) -> list[web.RouteDef]:
        return [*super().routes(), web.post(self.path.replace("/enqueue", "/change/enqueue"), self._change)]

    async def _change(self, request: web.Request) -> web.Response:
        """https://developer.pagerduty.com/docs/send-change-event"""
        body = await request.json()
        found = [f"unknown key {key}" for key in body.keys() - {"routing_key", "payload", "links"}]
        payload = body.get("payload", {})
        found += [
            f"unknown payload key {key}"
            for key in payload.keys() - {"summary", "timestamp", "source", "custom_details"}
        ]
        if len(str(body.get("routing_key", ""))) != 32 or not 1 <= len(payload.get("summary", "")) <= 1024:
            found.append("no routing_key of 32 characters, or no summary of 1 to 1024")
        self.wrong += [f"change: {one}" for one in found]
        if found:
            return self.refusal(found)
        self.changes.append(body)
        return web.json_response({"status": "success", "message": "Change event processed"}, status=202)

    def problems(self, body: Any, headers: dict[str, str]) -> list[str]:
        if not isinstance(body, dict):
            return ["the event is no object"]
        found = [f"unknown key {key}" for key in body.keys() - _EVENT]
        if len(json.dumps(body)) > 512 * 1024:
            found.append("larger than 512 KB")
        if len(str(body.get("routing_key", ""))) != 32:
            found.append("routing_key is not 32 characters")
        if not 1 <= len(body.get("dedup_key", "")) <= 255:
            found.append("dedup_key is not 1 to 255 characters")
        action = body.get("event_action")
        if action not in ("trigger", "acknowledge", "resolve"):
            found.append(f"event_action is {action}")
        if action == "trigger":
            found += _payload(body.get("payload"))
        return found

    def success(self, body: Any) -> web.Response:
        key = body["dedup_key"]
        match body["event_action"]:
            case "trigger":
                if key not in self.open:
                    self.opened.append(key)
                    self.open[key] = "triggered"
            case action if key not in self.open:
                self.dropped.append((action, key))
            case "acknowledge":
                self.open[key] = "acknowledged"
            case _:
                del self.open[key]
                self.closed.append(key)
        answer = {"status": "success", "message": "Event processed", "dedup_key": key}
        return web.json_response(answer, status=202)

    def refusal(self, problems: Sequence[str]) -> web.Response:
        answer = {"status": "invalid event", "message": "Event object is invalid", "errors": list(problems)}
        return web.json_response(answer, status=400)


def _payload(payload: Any) -> list[str]:
    if not isinstance(payload, dict):
        return ["no payload"]
    found = [f"unknown payload key {key}" for key in payload.keys() - _PAYLOAD]
    if not 1 <= len(payload.get("summary", "")) <= 1024:
        found.append("summary is not 1 to 1024 characters")
    if not isinstance(payload.get("source"), str) or not payload["source"]:
        found.append("no source")
    if payload.get("severity") not in ("critical", "warning", "error", "info"):
        found.append(f"severity is {payload.get('severity')}")
    try:
        aware = datetime.fromisoformat(payload.get("timestamp", "")).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        found.append(f"timestamp is {payload.get('timestamp')}")
    if not isinstance(payload.get("custom_details", {}), dict):
        found.append("custom_details is no object")
    return found
