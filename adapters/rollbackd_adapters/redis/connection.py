"""One connection to Redis, and what its errors mean. Nothing is ever repeated by the library.

https://redis.io/docs/latest/commands/
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import format_duration
from rollbackd.system.redis_client import redis_client
from rollbackd.system.spawner import one_line
from rollbackd_adapters.redis.settings import RedisSettings

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

_FINAL = ("READONLY", "NOPERM", "NOAUTH", "WRONGPASS", "AUTH", "MOVED", "DB index", "invalid DB", "unknown")
"""What Redis begins an error with, after `ERR`, that the same command will get again."""
_CODES = {
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}
_QUEUED = re.compile(r"Command # \d+ \(.*?\) of pipeline caused error: (?:\(['\"])?(.*?)(?:['\"],\))?$", re.DOTALL)
"""What the library puts around an error in a transaction."""
_HINTS = {
    "READONLY": "this is a replica: name its master",
    "NOPERM": "give the user that right",
    "DB index": "correct the database's number",
    "unknown": "it is renamed or switched off there: allow it, or use `command`",
}


class RedisRefusal(AdapterError):  # noqa: N818  # it is an answer too
    """Redis answered with an error; the connection is well."""


class Connection:
    """Sends one command at a time."""

    def __init__(self, client: "Client", settings: RedisSettings) -> None:
        self._client = client
        self._settings = settings

    async def ask(self, *command: str | bytes | int) -> Any:
        """The answer: bytes, a number, a list, or None.

        :raises Refused: Redis refused it; permanent when it will again.
        :raises AdapterError: not permanent, when no answer came; it may have been done all the same.
        """
        async with self._answered():
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def transaction(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        """All of them at one instant or none, and their answers. :raises AdapterError: as `ask`."""
        async with self._answered(), self._client.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return list(await pipe.execute())

    @contextlib.asynccontextmanager
    async def _answered(self) -> AsyncIterator[None]:
        """The time limit of a request; an error of Redis, or no answer, becomes an `AdapterError`."""
        from redis.exceptions import RedisError, ResponseError

        try:
            async with asyncio.timeout(self._settings.request_timeout.total_seconds()):
                yield
        except TimeoutError:
            limit = format_duration(self._settings.request_timeout)
            raise AdapterError(f"{self._settings.where}: no answer within {limit}", permanent=False) from None
        except ResponseError as error:
            raise _refused(error, self._settings.where) from None
        except (RedisError, OSError) as error:
            raise _broken(error, self._settings.where) from None


@contextlib.asynccontextmanager
async def connected(settings: RedisSettings, place: Place) -> AsyncIterator[Connection]:
    """A connection, closed in the end. It is made with the first command.

    :raises AdapterError: not permanent, when the password or `ca` cannot be read.
    """
    try:
        password = None if settings.password is None else place.reveal(settings.password)
        client = redis_client(
            settings.url, username=settings.username, password=password, db=settings.number, ca=settings.ca
        )
    except (ValueError, OSError) as error:
        raise AdapterError(f"{settings.where}: {error}", permanent=False) from None
    try:
        yield Connection(client, settings)
    finally:
        await client.aclose()


def _refused(error: Exception, where: str) -> RedisRefusal:
    said = _QUEUED.sub(r"\1", str(error))
    words = one_line(said).removeprefix("ERR ") or type(error).__name__
    code = _CODES.get(type(error).__name__, "")  # the library takes the code off some of them
    if code and not words.startswith(code):
        words = f"{code} {words}"
    hint = next((f"; {text}" for beginning, text in _HINTS.items() if words.startswith(beginning)), "")
    return RedisRefusal(f"{where}: {words}{hint}", permanent=words.startswith(_FINAL))


def _broken(error: Exception, where: str) -> AdapterError:
    from redis.exceptions import AuthenticationError, AuthorizationError

    words = one_line(str(error)) or type(error).__name__
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return AdapterError(f"{where}: {words}; look at `username` and `password`", permanent=True)
    hint = "; give `ca`, the certificates that sign it" if "CERTIFICATE_VERIFY_FAILED" in words else ""
    return AdapterError(f"{where}: {words}{hint}", permanent=False)
