"""Grafana: each trouble is a region on its dashboards, from its first message to its last.

https://grafana.com/docs/grafana/latest/developer-resources/api-reference/http-api/annotations/
It is found again by its tags, so that neither another try nor a restart makes a second one.
"""

import hashlib
import html
import json
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import field_validator

from rollbackd.adapter import Message, NotifierSettings
from rollbackd.notify.messages import plain_text
from rollbackd.notify.receivers.http_post import Sender, encoded
from rollbackd.syntax.addresses import is_url
from rollbackd.syntax.connections import ConnectionSettings

_TAG = 100
"""Characters that Grafana keeps of a tag."""


class GrafanaSettings(NotifierSettings, ConnectionSettings):
    """`{name: graphs, grafana: {url: https://grafana.example, authorization: {credentials: {env: GRAFANA_TOKEN}}}}`."""

    url: str
    """Grafana's own address. Its service account may read, create and write annotations of the organization."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not is_url(url):
            raise ValueError("`url` is not an address; write it like https://grafana.example")
        return url


class Grafana(Sender[GrafanaSettings]):
    """Dashboards, and whoever looks at them."""

    settings_model = GrafanaSettings
    who = "grafana"
    must_say_so = True

    async def send(self, message: Message) -> None:
        await self._tried(partial(self._noted, message))

    async def _noted(self, message: Message) -> None:
        """Each try looks first: one whose answer was lost may have been taken."""
        at, named = round(message.at.timestamp() * 1000), tags(message)
        base = f"{self._settings.url.rstrip('/')}/api/annotations"
        found = await self._asked("GET", f"{base}?{urlencode([('limit', 1), *(('tags', one) for one in named)])}")
        said = {"text": _text(message), "tags": named}
        if not found:
            await self._asked("POST", base, {**said, "time": at, "timeEnd": at})
            return
        known = found[0]
        ends = max(at, int(known.get("timeEnd") or known["time"]))
        await self._asked("PATCH", f"{base}/{quote(str(known['id']), safe='')}", {**said, "timeEnd": ends})

    async def _asked(self, method: str, url: str, document: dict[str, Any] | None = None) -> Any:
        body = encoded(document) if document is not None else None
        return json.loads(await self._once(method, url, body, {}, ()))

    def is_taken(self, said: str) -> bool:
        """A login page is a success, too."""
        try:
            answer = json.loads(said)
        except (ValueError, RecursionError):
            return False
        return isinstance(answer, list) or (isinstance(answer, dict) and "message" in answer)


def tags(message: Message) -> list[str]:
    """What an annotation is found by: ours, who speaks, the service, and the trouble."""
    full = f"{message.source}/{message.thread}"
    mark = hashlib.sha256(full.encode(errors="replace")).hexdigest()[:16]
    named = (message.source, message.service, f"rollbackd:{mark}")
    return ["rollbackd", *(plain_text.fit(one, _TAG) for one in dict.fromkeys(named) if one)]


def _text(message: Message) -> str:
    """It is shown as HTML, so what is not ours is escaped."""
    said = html.escape(plain_text.line(message.headline))
    if not message.link:
        return said
    name = message.incident or message.service or "rollbackd"
    return f'{said}\n<a href="{html.escape(message.link)}">{html.escape(plain_text.fit(name, 255))}</a>'
