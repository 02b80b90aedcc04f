"""Sending by HTTP: secrets read when they are used, JSON by POST, tries again within seconds.

No error shows an address or a secret.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from ssl import CertificateError
from typing import ClassVar, Generic, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from rollbackd.adapter import DeliveryError, NotifierSettings
from rollbackd.notify.messages import plain_text
from rollbackd.syntax.connections import ConnectionSettings
from rollbackd.syntax.units import Secret
from rollbackd.system import http_client
from rollbackd.system.http_client import HttpError, HttpFailure, Response, Session
from rollbackd.system.http_connection import DIRECT, HttpConnection, connection_of, masked, overlaid

LIMIT = 30.0
"""How many seconds one message may take, with all its tries."""
_ONE_TRY = timedelta(seconds=9)
_CONNECT = timedelta(seconds=5)
_TRIES = 3
S = TypeVar("S", bound=NotifierSettings)
T = TypeVar("T")


_ABOUT_THE_MESSAGE = frozenset({400, 411, 413, 422})
"""Refusals that the same message will get again. Any other may be mended at the receiver: address, key, proxy."""


class _AgainSoonError(DeliveryError):
    """Trying again in the same second may help: the connection or the server failed, and nothing asked us to wait."""


class Sender(Generic[S]):
    """The way to one receiver."""

    who: ClassVar[str]
    """The receiver's name in errors."""
    must_say_so: ClassVar[bool] = False
    """A success is one only when the answer's own words say so, by `is_taken`."""
    longest_answer: ClassVar[int] = 2**20
    """Bytes of an answer whose words matter; what is longer says nothing."""

    def __init__(self, settings: S, reveal: Callable[[Secret], str], http: Callable[[], Session]) -> None:
        self.said = ""
        """What the other side said to the last message that it took."""
        self._settings = settings
        self._reveal = reveal
        self._http = http

    def _revealed(self, value: Secret | str) -> str:
        """The secret itself. :raises DeliveryError: it cannot be read; transient, since a file may be put right."""
        try:
            return self._reveal(value) if isinstance(value, Secret) else value
        except (ValueError, OSError) as error:
            raise DeliveryError(f"{self.who}: {plain_text.fit(str(error), 200)}", permanent=False) from None

    def is_taken(self, said: str) -> bool:
        """Whether these words of a success mean that the message was taken."""
        return not self.must_say_so or bool(said)

    async def _post(
        self, url: str, document: Mapping[str, object], secrets: Sequence[str], headers: Mapping[str, str] | None = None
    ) -> str:
        """Post JSON; any 2xx is delivered, where its words need not say so or do. The words of that answer, if read.

        :raises DeliveryError: permanent for an answer that is about the message, and that it will get again.
        """
        return await self._tried(partial(self._once, "POST", url, encoded(document), headers or {}, secrets))

    async def _tried(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, and again within seconds while that may help. :raises DeliveryError:"""
        try:
            async with asyncio.timeout(LIMIT):
                async for attempt in retrying(_AgainSoonError, _TRIES, 0.25):
                    with attempt:
                        return await work()
        except TimeoutError as error:
            raise DeliveryError(f"{self.who} did not answer in time", permanent=False) from error
        raise AssertionError("a try ends with an answer or an error")

    def _connection(self) -> HttpConnection:
        """What goes along. :raises DeliveryError: a secret of it cannot be read, or does not fit."""
        settings: object = self._settings
        if not isinstance(settings, ConnectionSettings):
            return DIRECT
        try:
            return connection_of(settings, self._reveal)
        except (ValueError, OSError) as error:
            raise DeliveryError(f"{self.who}: {plain_text.fit(str(error), 200)}", permanent=False) from None

    async def _once(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], secrets: Sequence[str]
    ) -> str:
        connection = self._connection()
        configured = overlaid({"Content-Type": "application/json"}, connection.headers)
        try:
            async with http_client.http_answer(
                self._http(),
                method,
                url,
                limit=_ONE_TRY,
                connect=_CONNECT,
                headers=overlaid(configured, headers),
                body=body,
                connection=connection,
            ) as answer:
                status, fine = answer.status, answer.status // 100 == 2
                if fine and not self.must_say_so:
                    self.said = plain_text.fit(f"{status} {answer.reason or ''}", 100)
                    return ""
                rest = http_client.retry_after(answer.headers)
                shown = await _success(answer, self.longest_answer) if fine else await http_client.words_of(answer)
                words = masked(shown, (*secrets, *connection.secrets))
        except HttpError as failed:
            raise self._unanswered(failed) from None
        if fine and self.is_taken(words):
            self.said = plain_text.fit(f"{status} {words}", 100)
            return words
        said = plain_text.fit(words, 200)
        text = f"{self.who} answered {status}: {said}" if said else f"{self.who} answered {status}"
        if status >= 500 and rest is None:
            raise _AgainSoonError(text, permanent=False)
        raise DeliveryError(text, permanent=status in _ABOUT_THE_MESSAGE, retry_after=rest)

    def _unanswered(self, failed: HttpError) -> Exception:
        cause = failed.cause
        match failed.failure:
            case HttpFailure.LATE:
                return DeliveryError(f"{self.who} did not answer in time", permanent=False)
            case HttpFailure.NO_URL:
                return DeliveryError(f"{self.who} has an address that is no URL", permanent=False)
            case HttpFailure.UNSENDABLE:
                return DeliveryError(f"{self.who} {failed}", permanent=False)
            case HttpFailure.UNRESOLVED:
                reason = "its name is not known"
            case HttpFailure.UNTRIED | HttpFailure.UNPREPARED | HttpFailure.BY_PROXY:
                return DeliveryError(f"{self.who} cannot be reached: {failed}", permanent=False)
            case _ if isinstance(cause, CertificateError):
                reason = "its certificate is not valid"
            case _:
                reason = (cause.strerror if isinstance(cause, OSError) else "") or type(cause).__name__
        return _AgainSoonError(f"{self.who} cannot be reached: {reason}", permanent=False)


def encoded(document: Mapping[str, object]) -> bytes:
    """The bytes of a document as they are sent."""
    return json.dumps(document).encode()


async def _success(answer: Response, longest: int) -> str:
    """All that a success says; nothing of one that says too much."""
    said, whole = await http_client.body_of(answer, longest)
    return said.decode(errors="replace") if whole else ""


def retrying(failure: type[Exception], tries: int, rest: float) -> AsyncRetrying:
    """Try again while it fails so. The longest rest before the next try doubles, from `rest` seconds to one second."""
    return AsyncRetrying(
        stop=stop_after_attempt(tries),
        wait=wait_random_exponential(multiplier=rest, max=1),
        retry=retry_if_exception_type(failure),
        reraise=True,
    )
