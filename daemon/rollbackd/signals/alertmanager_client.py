"""The client of Alertmanager's API. Alertmanager answers in full and in time, or it is unreachable.

https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, NotRequired, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from rollbackd.model import Alert
from rollbackd.rules.matchers import Matcher
from rollbackd.signals.alertmanager_routes import Routing, routing_of
from rollbackd.signals.alertmanager_webhook import (
    AlertBody,
    Time,
    alert_of,
    is_dense,
    read_each,
    sentence_of,
    too_large,
    validate_json,
)
from rollbackd.signals.silences import Silence
from rollbackd.syntax.units import Secret, show
from rollbackd.system.http_client import HttpError, Session, body_of, from_cache, http_answer, words_of
from rollbackd.system.http_connection import DIRECT, HttpConnection, in_short, shown
from rollbackd.system.tasks import in_turns

LARGEST_ANSWER = 32 * 2**20
"""Bytes; 10,000 alerts are about eight million."""
M = TypeVar("M", bound=BaseModel)
_ALL = {"active": "true", "silenced": "true", "inhibited": "true", "unprocessed": "true"}
_NOTIFIED = {"active": "true", "silenced": "false", "inhibited": "false", "unprocessed": "false"}
_SETTLES = timedelta(minutes=5)
"""After a start Alertmanager knows nothing; who sends alerts sends them again, Prometheus within a minute or two."""


class Unreachable(Exception):  # noqa: N818  # a state of the backend
    """Alertmanager did not answer in full; the text says what happened."""


class _NoSuchPage(Unreachable):
    """It answered, and does not have what was asked for: not all that speaks its API has all of it."""


@dataclass(frozen=True, slots=True)
class FiringAlerts:
    """What Alertmanager says fires."""

    alerts: tuple[Alert, ...] = ()
    """Silenced ones, too: they fire, and the silence is a hold that the decision names. Inhibited ones are not here:
    another alert is their cause, and no webhook would have brought them."""
    known: frozenset[str] = frozenset()
    """The fingerprints of all that it knows of: also of what is inhibited, or was not looked at yet."""
    whole: bool = True
    """What it does not know of has ended; not right after its start, nor while nobody knows when that was, nor when
    one of its alerts could not be read."""


class Alertmanager:
    """One Alertmanager, or one of a cluster's."""

    def __init__(
        self,
        url: str | Secret,
        timeout: timedelta,
        http: Callable[[], Session],
        connection: Callable[[str | Secret], HttpConnection] = lambda _: DIRECT,
    ) -> None:
        self._address = url
        self._name = f"Alertmanager at {shown(url).rstrip('/')}"
        self._timeout = timeout
        self._http = http
        self._connection = connection

    async def firing(self, now: datetime) -> FiringAlerts:
        """All alerts that fire now. :raises Unreachable:"""
        settled = await self._is_settled(now)
        body = await self._asked("/api/v2/alerts", _ALL)
        whole = True
        try:
            listed = (await asyncio.to_thread(self._read, "/api/v2/alerts", _Alerts, body)).root
        except Unreachable:
            items = (await asyncio.to_thread(self._read, "/api/v2/alerts", _Items, body)).root
            listed, damaged = await asyncio.to_thread(read_each, _ALERT, items)
            if not listed and damaged:
                raise
            whole = False
        fitting = [each for each in listed if not too_large(each)]
        whole = whole and len(fitting) == len(listed)
        found = [(alert_of(each, firing=True), _is_notified(each)) async for each in in_turns(fitting)]
        return FiringAlerts(
            tuple(alert for alert, notified in found if notified),
            frozenset(alert.fingerprint for alert, _ in found),
            whole and settled,
        )

    async def _is_settled(self, now: datetime) -> bool:
        """Whether it has run for long enough to have heard of all that fires, or nowhere says since when it runs.

        Nobody knows that of one whose page cannot be had: it may just have been started.
        """
        try:
            since = (await self._get("/api/v2/status", {}, _Status)).uptime
        except _NoSuchPage:
            return True
        except Unreachable:
            return False
        return since is None or now - since >= _SETTLES

    async def routing(self) -> Routing:
        """Where its configuration leads alerts to. :raises Unreachable:"""
        status = await self._get("/api/v2/status", {}, _Status)
        try:
            return await asyncio.to_thread(routing_of, status.config.original)
        except ValueError as error:
            raise Unreachable(f"{self._name}: {error}") from error

    async def silences(self) -> list[Silence]:
        """All silences in force now; one that cannot be read counts as silencing all. :raises Unreachable:"""
        body = await self._asked("/api/v2/silences", {})
        try:
            listed = (await asyncio.to_thread(self._read, "/api/v2/silences", _Silences, body)).root
            unread: list[Silence] = []
        except Unreachable:
            items = (await asyncio.to_thread(self._read, "/api/v2/silences", _Items, body)).root
            listed, unread = await asyncio.to_thread(_each_silence, items)
            if not listed:
                raise
        active = [each for each in listed if each.status.state == "active"]
        return unread + await asyncio.to_thread(lambda: [each.silence() for each in active])  # each takes some ms

    async def group(self, receiver: str, labels: Mapping[str, str]) -> list[Alert]:
        """The firing alerts of a notification's group, to complete one that was truncated; resolved ones are gone.

        `receiver` and `labels` are the webhook's. They are compared here and never become part of the request.

        :raises Unreachable:
        """
        read = await self._get("/api/v2/alerts/groups", _NOTIFIED, _Items)
        groups, _ = await asyncio.to_thread(read_each, _GROUP, read.root)
        its = [one for one in groups if one.receiver.name == receiver and one.labels == labels]
        listed, _ = await asyncio.to_thread(read_each, _ALERT, [alert for one in its for alert in one.alerts])
        found = [alert_of(body, firing=True) for body in listed if not too_large(body)]
        return list({alert.fingerprint: alert for alert in found}.values())

    async def post(self, labels: Mapping[str, str], text: str, begins: datetime, ends: datetime) -> None:
        """Tell it of an alert, as Prometheus does. :raises Unreachable: it did not take it."""
        alert = {"labels": dict(labels), "annotations": {"summary": text}, "startsAt": begins.isoformat()}
        body = json.dumps([{**alert, "endsAt": ends.isoformat()}]).encode()
        await self._asked("/api/v2/alerts", {}, body)

    async def _get(self, path: str, params: Mapping[str, str], model: type[M]) -> M:
        return await asyncio.to_thread(self._read, path, model, await self._asked(path, params))

    async def _asked(self, path: str, params: Mapping[str, str], sent: bytes | None = None) -> bytes:
        try:
            connection = self._connection(self._address)
            url = (connection.url or str(self._address)).rstrip("/") + path
            async with http_answer(
                self._http(),
                "GET" if sent is None else "POST",
                url,
                limit=self._timeout,
                headers={"Content-Type": "application/json"} if sent is not None else None,
                params=params,
                body=sent,
                connection=connection,
            ) as answer:
                if answer.status != 200:
                    said = in_short(connection.masked(await words_of(answer)))
                    wrong = _NoSuchPage if answer.status == 404 else Unreachable
                    raise wrong(f"{self._name}: answered {answer.status} to {path}{said}")
                if old := from_cache(answer.headers):
                    raise Unreachable(f"{self._name}: answered {path} {old}; give its own address")
                body, whole = await body_of(answer, LARGEST_ANSWER)
        except HttpError as failed:
            raise Unreachable(f"{self._name}: {failed}") from failed
        except (ValueError, OSError) as error:  # a secret that cannot be read
            raise Unreachable(f"{self._name}: {error}") from error
        if not whole:
            raise Unreachable(f"{self._name}: the answer to {path} is larger than {LARGEST_ANSWER // 2**20} MiB")
        if is_dense(body):
            raise Unreachable(f"{self._name}: the answer to {path} has too many parts; are there so many alerts?")
        return body

    def _read(self, path: str, model: type[M], body: bytes) -> M:
        try:
            return validate_json(model.model_validate_json, body)
        except (ValueError, RecursionError) as error:
            said = str(error).replace("\n", " ")[:300]
            raise Unreachable(f"{self._name}: the answer to {path} is none of Alertmanager's: {said}") from error


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Original(_Answer):
    original: str = ""


class _Status(_Answer):
    uptime: Time | None = None
    """Since when it runs."""
    config: _Original = _Original()


class _AlertStatus(TypedDict):
    state: NotRequired[str | None]
    inhibitedBy: NotRequired[list[str] | None]


class _ListedAlert(AlertBody):
    status: NotRequired[_AlertStatus | None]


class _Alerts(RootModel[list[_ListedAlert]]):
    pass


class _Items(RootModel[list[Any]]):
    pass


_ALERT = TypeAdapter(_ListedAlert)


def _is_notified(body: _ListedAlert) -> bool:
    """Whether a webhook would bring it, but for a silence."""
    status = body.get("status") or {}
    return not status.get("inhibitedBy") and status.get("state") != "unprocessed"


class _Receiver(_Answer):
    name: str


class _Group(_Answer):
    labels: dict[str, str]
    receiver: _Receiver
    alerts: list[Any]


_GROUP = TypeAdapter(_Group)


class _MatcherBody(_Answer):
    name: str
    value: str
    is_regex: bool = Field(alias="isRegex")
    is_equal: bool = Field(default=True, alias="isEqual")

    def matcher(self) -> Matcher:
        """:raises ValueError: RE2 cannot read its expression."""
        operator = ("=" if self.is_equal else "!") + ("~" if self.is_regex else "" if self.is_equal else "=")
        return _matcher(self.name, operator, self.value)


@lru_cache(maxsize=4096)
def _matcher(name: str, operator: str, value: str) -> Matcher:
    """The same silences are read again and again."""
    return Matcher(name, operator, value)


class _SilenceStatus(_Answer):
    state: Literal["active", "pending", "expired"]


class _SilenceBody(_Answer):
    id: str
    status: _SilenceStatus
    matchers: list[_MatcherBody] = Field(min_length=1)
    ends_at: Time = Field(alias="endsAt")
    created_by: str = Field(default="", alias="createdBy")
    comment: str = ""

    def silence(self) -> Silence:
        matchers, unread = [], []
        for body in self.matchers:
            try:
                matchers.append(body.matcher())
            except ValueError as error:
                unread.append(f"{body.name}: {show(body.value)}: {error}")
        return Silence(self.id, tuple(matchers), self.ends_at, self.created_by, self.comment, "; ".join(unread))


class _Silences(RootModel[list[_SilenceBody]]):
    pass


def _each_silence(items: Sequence[Any]) -> tuple[list[_SilenceBody], list[Silence]]:
    """Those of a list that can be read, and the others as silences of whatever there is, unless they say that they are
    not in force.
    """
    listed, unread = [], []
    for item in items:
        try:
            listed.append(_SilenceBody.model_validate_json(to_json(item)))
        except ValidationError as error:
            said = item if isinstance(item, dict) else {}
            if said.get("status") not in ({"state": "pending"}, {"state": "expired"}):
                id_ = said["id"] if isinstance(said.get("id"), str) else ""
                unread.append(Silence(id_, (), None, "somebody", "a silence that cannot be read", sentence_of(error)))
    return listed, unread
