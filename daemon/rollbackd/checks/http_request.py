"""One HTTP request of a check: on a connection of its own, bounded in time and size, a failure told as a verdict.

A refused connection, a broken or late answer and an unwanted status are bad: that is what users see. What never
reached the service (its name does not resolve, or not in time, no route, no descriptor) is inconclusive.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rollbackd.adapter import CheckPlace
from rollbackd.checks.timed import too_late
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import Verdict
from rollbackd.syntax.addresses import is_url
from rollbackd.syntax.connections import ConnectionSettings, SentBody
from rollbackd.syntax.units import show
from rollbackd.system import http_client
from rollbackd.system.http_body import encoded
from rollbackd.system.http_client import HttpError, HttpFailure
from rollbackd.system.http_connection import connection_of, in_short, masked, overlaid
from rollbackd.system.redaction import one_line, without_passwords

_LARGEST = 2**20
"""Bytes of a body that are read."""


class NoAnswer(Exception):  # noqa: N818  # a finding, not a fault of ours
    """There is no answer to look into, and this is what that says."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer with a wanted status."""

    status: int
    headers: Mapping[str, str]
    """Looked up whatever the case of their names."""
    body: bytes
    """The first MiB of it."""
    whole: bool
    """That is all of it."""
    tried: float | None = None
    """When a connection was tried, by the event loop's time."""

    @property
    def said(self) -> str:
        return f"answered {self.status}"

    def document(self) -> Any:
        """The body as JSON. :raises NoAnswer: it is none, or only its beginning was read."""
        if not self.whole:
            raise NoAnswer(Verdict.INCONCLUSIVE, f"{self.said} with more than a MiB, which is not read as JSON")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise NoAnswer(Verdict.BAD, f"{self.said} with a body that is not JSON") from None


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is asked."""

    url: str
    connection: ConnectionSettings
    timeout: timedelta
    method: str = "GET"
    status: tuple[str, ...] = ("2xx",)
    follow: bool = False
    send: SentBody | None = None

    async def answered(self, place: CheckPlace) -> HttpAnswer:
        """Send it once. :raises NoAnswer: with what that says about the service."""
        follow, attempt = 5 if self.follow else 0, http_client.Attempt()
        try:
            connection = connection_of(self.connection, place.reveal)
            sent, kind, secrets = encoded(self.send, place.reveal)
            # Closed in the end: a connection that is kept would end with the old process.
            usual = {"Connection": "close", "User-Agent": "rollbackd", **kind}
            async with http_client.http_answer(
                place.http(),
                self.method,
                self.url,
                limit=self.timeout,
                headers=overlaid(usual, connection.headers),
                body=sent,
                redirects=follow,
                attempt=attempt,
                connection=connection,
            ) as answer:
                if old := http_client.from_cache(answer.headers):
                    text = f"answered {answer.status} {old}; ask what is behind it"
                    raise NoAnswer(Verdict.INCONCLUSIVE, text)
                if not _wanted(answer.status, self.status):
                    said = ""
                    if answer.status // 100 == 4:  # a refusal of the request itself
                        words = await http_client.words_of(answer)
                        words = masked(words, (*connection.secrets, *secrets))
                        said = in_short(place.spawner.clean(words))
                    raise NoAnswer(Verdict.BAD, f"answered {answer.status}, wants {' or '.join(self.status)}{said}")
                body, whole = await http_client.body_of(answer, _LARGEST)
                return HttpAnswer(answer.status, answer.headers, body, whole, attempt.tried)
        except HttpError as failed:
            held_up = place.held_up(attempt.tried) if attempt.tried is not None else 0.0
            raise NoAnswer(*_says(failed, self.timeout, held_up)) from failed
        except ValueError as error:
            raise NoAnswer(Verdict.INCONCLUSIVE, f"could not ask: {error}") from error
        except OSError as error:
            raise NoAnswer(*unanswered(error)) from error


def _says(failed: HttpError, limit: timedelta, held_up: float) -> tuple[Verdict, str]:
    """What a failure says about the service."""
    cause = failed.cause
    match failed.failure:
        case HttpFailure.LATE:
            return too_late(str(failed), limit, held_up)
        case HttpFailure.UNTRIED | HttpFailure.UNPREPARED | HttpFailure.BY_PROXY:
            return Verdict.INCONCLUSIVE, f"could not ask: {failed}"
        case HttpFailure.UNTRUSTED:
            return Verdict.BAD, f"TLS failed: {cause}"
        case HttpFailure.NO_URL | HttpFailure.UNSENDABLE:
            return Verdict.INCONCLUSIVE, f"could not ask: {without_passwords(str(cause))}"
    if isinstance(system := getattr(cause, "os_error", cause), OSError):
        return unanswered(system)
    return Verdict.BAD, f"broken answer: {one_line(without_passwords(str(cause))) or type(cause).__name__}"


def url(text: str) -> str:
    """A URL that can be asked. :raises ValueError: for anything else, with what to write."""
    if not is_url(text):
        raise ValueError(f"{show(text)} is not a URL that can be asked; write it like http://127.0.0.1:3000/health")
    return text


def _wanted(status: int, wanted: tuple[str, ...]) -> bool:
    return str(status) in wanted or f"{status // 100}xx" in wanted
