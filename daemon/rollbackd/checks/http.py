"""Whether a URL answers as it should: its status, in time, with a text or values of a JSON document in it."""

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks import http_request
from rollbackd.checks.http_request import HttpAnswer, HttpRequest, NoAnswer
from rollbackd.checks.timed import check_below, in_time, own_share
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.connections import ConnectionSettings, SentBody
from rollbackd.syntax.json_path import JsonPath, at
from rollbackd.syntax.units import Duration, show
from rollbackd.system.redaction import one_line

Scalar = str | bool | int | float | None
_SHOWN = 60
"""Characters of a value that is not as wanted."""
_STATUS = re.compile(r"[1-5](?:xx|[0-9]{2})")


def _statuses(value: object) -> tuple[str, ...]:
    many = value if isinstance(value, (list, tuple)) else (value,)
    texts = tuple(str(one).lower() for one in many)
    for text in texts:
        if _STATUS.fullmatch(text) is None:
            raise ValueError(f"{show(text)} is not a status; write it like 2xx, 204 or [200, 204]")
    if not texts:
        raise ValueError("no status is wanted; write it like 2xx, 204 or [200, 204]")
    return texts


class HttpSettings(CheckSettings, ConnectionSettings):
    """A request is answered as wanted. Certificates are always verified."""

    http: Annotated[str, AfterValidator(http_request.url)]
    method: Literal["GET", "HEAD", "OPTIONS", "POST"] | None = None
    """By default POST where something is sent, else GET."""
    send: SentBody | None = None
    """A body to post: `{json: {query: shoe}}`, `{form: {user: probe}}` or `{body: text}`."""
    status: Annotated[tuple[str, ...], BeforeValidator(_statuses)] = ("2xx",)
    """What is wanted: `2xx`, `204`, or a list of such."""
    below: Duration | None = None
    """The whole answer takes less than this."""
    contains: str = ""
    """Text that is in the first MiB of the body, in UTF-8."""
    json_: dict[JsonPath, Scalar] = Field(default={}, alias="json")
    """Values that a JSON document in the body has, by path: `{status: ok, "checks.db": up, "nodes[0].ready": true}`."""
    follow: bool = False
    """Follow redirects; the last answer counts."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.follow and self.is_confidential:
            raise ValueError("`follow` could carry a secret header to another host; check the final URL instead")
        if self.send is not None and (self.follow or self.asks_by != "POST"):
            raise ValueError("what is sent goes to one URL by POST; leave `method` and `follow` out")
        if (self.contains or self.json_) and self.method == "HEAD":
            raise ValueError(f"the answer to HEAD has no body to search for `{self._searched}`; use GET")
        check_below(self.below, self.timeout)
        return self

    @property
    def asks_by(self) -> str:
        """The method."""
        return self.method or ("GET" if self.send is None else "POST")

    @property
    def _searched(self) -> str:
        return "contains" if self.contains else "json"


class HttpCheck:
    """A check that sends one request on a connection of its own."""

    settings_model: ClassVar[type[CheckSettings]] = HttpSettings

    def __init__(self, settings: HttpSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place

    async def run(self, since: datetime | None = None) -> CheckResult:  # noqa: ARG002  # it sees only the present
        clock, asked = self._place.clock, asyncio.get_running_loop().time()
        began = clock.monotonic()
        verdict, reason, tried = await self._asked()
        took = timedelta(seconds=clock.monotonic() - began)
        ours = own_share(asked, tried, self._place.held_up)
        verdict, reason = in_time(verdict, reason, took, self._settings.below, ours)
        return CheckResult(self._place.name, verdict, reason, took, self._settings.warn)

    async def _asked(self) -> tuple[Verdict, str, float | None]:
        """Verdict, reason, and when a connection was tried, by the event loop's time."""
        asked = self._settings
        request = HttpRequest(
            asked.http, asked, asked.timeout, asked.asks_by, asked.status, follow=asked.follow, send=asked.send
        )
        try:
            answer = await request.answered(self._place)
            return *self._judged(answer), answer.tried
        except NoAnswer as found:
            return found.verdict, found.reason, None

    def _judged(self, answer: HttpAnswer) -> tuple[Verdict, str]:
        contains, wanted = self._settings.contains, self._settings.json_
        if contains.encode() not in answer.body:
            if answer.whole:
                return Verdict.BAD, f"{answer.said} without {show(contains)}"
            return Verdict.INCONCLUSIVE, f"{answer.said}, but {show(contains)} is not in the first MiB"
        other = _other(answer.document(), wanted) if wanted else ""
        if other:
            return Verdict.BAD, f"{answer.said}, but {one_line(self._place.spawner.clean(other))}"
        return Verdict.GOOD, answer.said


def _other(document: object, wanted: Mapping[str, Scalar]) -> str:
    """The first value that is not as wanted, in words; empty when there is none."""
    for path, value in wanted.items():
        try:
            found = at(document, path)
        except ValueError as error:
            return str(error)
        if not _same(found, value):
            return f"{path or 'the document'} is {_shown(found)}, wants {_shown(value)}"
    return ""


def _same(found: object, wanted: Scalar) -> bool:
    """Whether two values are equal as JSON; there, true is not 1."""
    return isinstance(found, bool) is isinstance(wanted, bool) and bool(found == wanted)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
