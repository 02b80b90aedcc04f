"""The client of Alertmanager's API. Alertmanager answers in full and in time, or it is unreachable.

https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from rollbackd.model import Alert
from rollbackd.rules.matchers import Matcher, all_match
from rollbackd.signals.webhook import AlertBody, Time, alert_of, validate_json
from rollbackd.system.http_client import HttpError, HttpFailure, Session, body_of, http_answer

LARGEST_ANSWER = 64 * 2**20
"""Bytes; 10,000 alerts are about eight million."""
M = TypeVar("M", bound=BaseModel)
_ANYTHING = re.compile(".*", re.DOTALL)
_FIRING = {"active": "true", "silenced": "true", "inhibited": "false", "unprocessed": "false"}
"""Silenced alerts are asked for, since they fire, and the silence is a hold that the decision names. Inhibited ones are
not: another alert is their cause, and no webhook would have brought them."""


class Unreachable(Exception):  # noqa: N818  # a state of the backend
    """Alertmanager did not answer in full; the text says what happened."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence in force."""

    id: str
    matchers: tuple[Matcher, ...]
    ends_at: datetime
    created_by: str
    comment: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it silences an alert with these labels."""
        return all_match(self.matchers, labels)


class Alertmanager:
    """One Alertmanager, or one of a cluster's."""

    def __init__(self, url: str, timeout: timedelta, http: Callable[[], Session]) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._http = http

    async def firing(self) -> list[Alert]:
        """All alerts that fire now, silenced ones too, inhibited ones not. :raises Unreachable:"""
        read = await self._get("/api/v2/alerts", _FIRING, _Alerts)
        return [alert_of(body, firing=True) for body in read.root]

    async def silences(self) -> list[Silence]:
        """All silences in force now. :raises Unreachable:"""
        read = await self._get("/api/v2/silences", {}, _Silences)
        return [body.silence() for body in read.root if body.status.state == "active"]

    async def group(self, receiver: str, labels: Mapping[str, str]) -> list[Alert]:
        """The firing alerts of a notification's group, to complete one that was truncated; resolved ones are gone.

        `receiver` and `labels` are the webhook's. They are compared here and never become part of the request.

        :raises Unreachable:
        """
        read = await self._get("/api/v2/alerts/groups", {**_FIRING, "silenced": "false"}, _Groups)
        found = {
            alert.fingerprint: alert
            for group in read.root
            if group.receiver.name == receiver and group.labels == labels
            for alert in (alert_of(body, firing=True) for body in group.alerts)
        }
        return list(found.values())

    async def _get(self, path: str, params: Mapping[str, str], model: type[M]) -> M:
        where, url = f"Alertmanager at {self._url}", self._url + path
        try:
            async with http_answer(self._http(), "GET", url, limit=self._timeout, params=params) as answer:
                if answer.status != 200:
                    raise Unreachable(f"{where}: answered {answer.status} to {path}")
                body, whole = await body_of(answer, LARGEST_ANSWER)
        except HttpError as failed:
            why: Exception = failed if failed.failure is HttpFailure.LATE else failed.cause
            raise Unreachable(f"{where}: {str(why) or type(why).__name__}") from failed
        if not whole:
            raise Unreachable(f"{where}: the answer to {path} is larger than {LARGEST_ANSWER // 2**20} MiB")
        try:
            return validate_json(model.model_validate_json, body)
        except (ValueError, RecursionError) as error:
            said = str(error).replace("\n", " ")[:300]
            raise Unreachable(f"{where}: the answer to {path} is none of Alertmanager's: {said}") from error


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Alerts(RootModel[list[AlertBody]]):
    pass


class _Receiver(_Answer):
    name: str


class _Group(_Answer):
    labels: dict[str, str]
    receiver: _Receiver
    alerts: list[AlertBody]


class _Groups(RootModel[list[_Group]]):
    pass


class _MatcherBody(_Answer):
    name: str
    value: str
    is_regex: bool = Field(alias="isRegex")
    is_equal: bool = Field(default=True, alias="isEqual")

    def matcher(self) -> Matcher:
        """The matcher as a value. One that Python cannot read matches: a silence too wide holds, too narrow acts."""
        if not self.is_regex:
            return Matcher(self.name, not self.is_equal, re.compile(re.escape(self.value)))
        try:
            if "[[" in self.value:  # POSIX classes mean something else to Python
                return Matcher(self.name, negated=False, pattern=_ANYTHING)
            return Matcher(self.name, not self.is_equal, re.compile(self.value, re.DOTALL))
        except (re.error, OverflowError, RecursionError):
            return Matcher(self.name, negated=False, pattern=_ANYTHING)


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
        matchers = tuple(body.matcher() for body in self.matchers)
        return Silence(self.id, matchers, self.ends_at, self.created_by, self.comment)


class _Silences(RootModel[list[_SilenceBody]]):
    pass
