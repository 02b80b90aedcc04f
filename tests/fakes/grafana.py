"""A fake of Grafana's annotations, as its HTTP API documents them.

https://grafana.com/docs/grafana/latest/developer-resources/api-reference/http-api/annotations/
"""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from tests.fakes.receiving import Receiver

PATH = "/api/annotations"
TOKEN = "glsa_s3cr3t"
_FIELDS: dict[str, type] = {"time": int, "timeEnd": int, "tags": list, "text": str}


class GrafanaFake(Receiver):
    """One organization; `kept` are its annotations by their id."""

    def __init__(self) -> None:
        super().__init__("grafana", PATH)
        self.kept: dict[int, dict[str, Any]] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(self.path, self._find),
            web.post(self.path, self._add),
            web.patch(f"{self.path}/{{id:[0-9]+}}", self._change),
        ]

    async def _find(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        wanted, limit = set(request.query.getall("tags", [])), int(request.query.get("limit", 100))
        found = [{"id": number, **one} for number, one in self.kept.items() if wanted <= set(one["tags"])]
        return web.json_response(found[:limit])

    async def _add(self, request: web.Request) -> web.StreamResponse:
        before = len(self.taken)
        answer = await self.handle(request)
        if len(self.taken) > before:
            self.kept[len(self.kept) + 1] = dict(self.taken[-1])
        return answer

    async def _change(self, request: web.Request) -> web.StreamResponse:
        known = self.kept.get(int(request.match_info["id"]))
        if known is None:
            return web.json_response({"message": "Annotation not found"}, status=404)
        before = len(self.taken)
        answer = await self.handle(request)
        if len(self.taken) > before:
            known |= self.taken[-1]
        return answer

    def problems(self, body: Any, headers: dict[str, str]) -> list[str]:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return ["not authorized"]
        if not isinstance(body, dict) or not body.keys() <= _FIELDS.keys():
            return [f"other fields: {body!r:.100}"]
        found = [f"{name} is {body[name]!r:.60}" for name in body if not isinstance(body[name], _FIELDS[name])]
        if not body.get("text") or "<" in body["text"].partition("<a href=")[0]:
            found.append("no text, or markup in it")
        if not all(isinstance(tag, str) and 0 < len(tag) <= 100 for tag in body.get("tags", ())):
            found.append(f"tags are {body['tags']!r:.100}")
        if body.get("time", 0) > body.get("timeEnd", 0):
            found.append("it ends before it begins")
        return found

    def success(self, body: Any) -> web.Response:
        if "time" not in body:
            return web.json_response({"message": "Annotation patched"})
        return web.json_response({"message": "Annotation added", "id": len(self.kept) + 1})

    def refusal(self, problems: Sequence[str]) -> web.Response:
        return web.json_response({"message": "; ".join(problems)}, status=400)
