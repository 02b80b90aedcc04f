"""Whether a Redis answers PING, in time and in the role it should have.

Asked on a connection of its own, once: the library's own retries would hide what users see. A password that Redis does
not take is our trouble, not the service's: inconclusive.

https://redis.io/docs/latest/commands/role/
"""

import asyncio
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks.timed import check_below, in_time, too_late
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.addresses import RedisUrl
from rollbackd.syntax.units import Duration, Secret, format_duration
from rollbackd.system.name_lookup import addresses
from rollbackd.system.redaction import one_line
from rollbackd.system.redis_client import check_access, check_ca, redis_client

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

_OURS = ("NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH")
"""What Redis begins an error with that is about who we are."""
_PORT = 6379
_ROLES = {"master": "master", "slave": "replica", "sentinel": "sentinel"}


class RedisSettings(CheckSettings):
    """A Redis answers PING. Certificates of `rediss://` are verified."""

    redis: RedisUrl
    """`redis://HOST:PORT/DATABASE`, `rediss://` with TLS, or `unix:///PATH`."""
    username: str = ""
    password: Secret | None = None
    ca: Path | None = None
    """Certificates that sign the server's, for `rediss://`; by default those of the system."""
    role: Literal["master", "replica"] | None = None
    """What it must be; a replica must also be connected to its master."""
    below: Duration | None = None
    """Connecting and the answer to PING take less than this."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_below(self.below, self.timeout)
        check_access(self.username, self.password)
        check_ca(self.redis, self.ca)
        return self


class RedisCheck:
    """A check that connects, asks, and closes the connection."""

    settings_model: ClassVar[type[CheckSettings]] = RedisSettings

    def __init__(self, settings: RedisSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place

    async def run(self, since: datetime | None = None) -> CheckResult:  # noqa: ARG002  # it sees only the present
        timeout = self._settings.timeout
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._resolve()
        except TimeoutError:
            reason = f"could not ask: its name did not resolve within {format_duration(timeout)}"
            return CheckResult(self._place.name, Verdict.INCONCLUSIVE, reason, timeout, self._settings.warn)
        except OSError as error:
            return CheckResult(self._place.name, *unanswered(error), warn=self._settings.warn)
        began, tried = self._place.clock.monotonic(), asyncio.get_running_loop().time()
        verdict, reason, answered = await self._asked(tried)
        took = timedelta(seconds=(answered or self._place.clock.monotonic()) - began)
        verdict, reason = in_time(verdict, reason, took, self._settings.below, self._place.held_up(tried))
        return CheckResult(self._place.name, verdict, reason, took, self._settings.warn)

    async def _resolve(self) -> None:
        """Look its name up before its time begins. :raises OSError: it does not resolve."""
        parts = urlsplit(self._settings.redis)
        if parts.hostname and parts.scheme != "unix":
            await addresses(parts.hostname, parts.port or _PORT)

    async def _asked(self, tried: float) -> tuple[Verdict, str, float]:
        """Verdict, reason, and when PING was answered by the monotonic clock; 0 when it was not."""
        from redis.exceptions import RedisError

        answered = 0.0
        try:
            client = self._client()
        except ValueError as error:
            return Verdict.INCONCLUSIVE, f"could not ask: {error}", answered
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()), client:
                await client.execute_command("PING")  # type: ignore[no-untyped-call]
                answered = self._place.clock.monotonic()
                return *await self._role_of(client), answered
        except TimeoutError:
            late, held_up = f"no answer within {format_duration(self._settings.timeout)}", self._place.held_up(tried)
            return *too_late(late, self._settings.timeout, held_up), answered
        except RedisError as error:
            return *_failed(error), answered
        except OSError as error:
            return *unanswered(error), answered

    def _client(self) -> "Client":
        """The client. :raises ValueError: the password or `ca` cannot be read."""
        settings = self._settings
        password = None if settings.password is None else self._place.reveal(settings.password)
        return redis_client(settings.redis, username=settings.username, password=password, ca=settings.ca)

    async def _role_of(self, client: "Client") -> tuple[Verdict, str]:
        wanted = self._settings.role
        if wanted is None:
            return Verdict.GOOD, "answered PING"
        told: Sequence[object] = await client.execute_command("ROLE")  # type: ignore[no-untyped-call]
        word, *rest = (one.decode(errors="replace") if isinstance(one, bytes) else one for one in told)
        role = _ROLES.get(str(word), one_line(str(word)))
        if role != wanted:
            return Verdict.BAD, f"answered PING, is a {role}, wants a {wanted}"
        link = str(rest[2]) if role == "replica" and len(rest) > 2 else ""
        if role == "replica" and link != "connected":
            return (
                Verdict.BAD,
                f"answered PING, is a replica and its link to the master is: {one_line(link) or '?'}",
            )
        return Verdict.GOOD, f"answered PING as a {role}"


def _of_tls(error: ssl.SSLError) -> str:
    return one_line(getattr(error, "verify_message", "") or error.reason or str(error)).lower()


def _failed(error: Exception) -> tuple[Verdict, str]:
    """What an error of the library says: of the connection, or Redis' own answer."""
    from redis import exceptions as redis

    words = one_line(str(error)) or type(error).__name__
    ours = isinstance(error, (redis.AuthenticationError, redis.AuthorizationError)) or words.upper().startswith(_OURS)
    if ours:
        return Verdict.INCONCLUSIVE, f"could not ask: {words}; look at `username` and `password`"
    if words.removeprefix("ERR ").startswith("DB index"):
        return Verdict.INCONCLUSIVE, f"could not ask: {words}; correct the database's number"
    if isinstance(error, redis.ResponseError):
        return Verdict.BAD, f"answered PING with an error: {words}"
    cause = next((each for each in (error.__cause__, error.__context__) if isinstance(each, OSError)), None)
    if isinstance(cause, ssl.SSLError):  # its certificate, or our trust in it: nobody can say
        hint = "; give `ca`, the certificates that sign it" if isinstance(cause, ssl.SSLCertVerificationError) else ""
        return Verdict.INCONCLUSIVE, f"could not ask: {_of_tls(cause)}{hint}"
    if cause is not None:
        return unanswered(cause)
    if isinstance(error, redis.DataError):
        return Verdict.INCONCLUSIVE, f"could not ask: {words}"
    return Verdict.BAD, f"broken answer: {words}"
