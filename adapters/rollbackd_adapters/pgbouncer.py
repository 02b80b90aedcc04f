"""PgBouncer as a bracket: a database's clients wait while its names are changed, and meet no error.

PAUSE waits for what runs, for so long as it may; then KILL ends it. Clients that come meanwhile wait until RESUME. It
is asked by its admin console, one process of PgBouncer a layer. psycopg is imported on first use.

https://www.pgbouncer.org/usage.html#admin-console
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.syntax.units import Duration, Secret, format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import one_line
from rollbackd_adapters.brackets import BracketAdapter
from rollbackd_adapters.failures import holding
from rollbackd_adapters.postgres.settings import check_dsn

if TYPE_CHECKING:
    from psycopg import AsyncConnection


class PgbouncerSettings(Settings):
    """A layer of adapter `pgbouncer`."""

    dsn: Annotated[str, AfterValidator(check_dsn)]
    """Its admin console: `host=/run/pgbouncer port=6432 dbname=pgbouncer user=pgbouncer`, never with a password."""
    password: Secret | None = None
    """Of that user; without it, libpq's own password file counts."""
    database: Annotated[str, Field(min_length=1, max_length=63)]
    """The database whose clients wait, as PgBouncer calls it."""
    pause_within: Duration = timedelta(seconds=10)
    """How long what runs there may go on; then it is ended."""
    timeout: Duration = timedelta(seconds=30)
    """For all of it."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.pause_within >= self.timeout:
            raise ValueError("`pause_within` is not shorter than `timeout`; make `timeout` longer")
        return self


class PgbouncerAdapter(BracketAdapter[PgbouncerSettings]):
    """One database of one PgBouncer."""

    settings_model = PgbouncerSettings

    def __init__(self, settings: PgbouncerSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"pgbouncer:{settings.dsn}/{settings.database}"

    async def inside(self, key: str) -> bool:  # noqa: ARG002  # whoever paused it
        async with self._console() as console:
            return await self._paused(console)

    async def enter(self, key: str) -> None:  # noqa: ARG002
        async with holding(self._spawner, self.resource, self._settings.timeout):
            async with self._console() as console:
                if await self._idle(console):
                    return None
                pausing = asyncio.ensure_future(self._order(console, "PAUSE"))
                try:
                    await asyncio.wait({pausing}, timeout=self._settings.pause_within.total_seconds())
                    boundary("pgbouncer.paused")
                    if pausing.done():
                        return pausing.result()
                finally:
                    await _hung_up(console, pausing)
            async with self._console() as console:
                await self._order(console, "KILL")
            boundary("pgbouncer.killed")
            return None

    async def leave(self, key: str) -> None:  # noqa: ARG002
        async with holding(self._spawner, self.resource, self._settings.timeout), self._console() as console:
            if await self._paused(console):
                await self._order(console, "RESUME")
                boundary("pgbouncer.resumed")

    async def _problems(self) -> Sequence[str]:
        try:
            async with self._console() as console:
                await self._row(console)
        except AdapterError as error:
            return [str(error)]
        return []

    # -- the console ----------------------------------------------------------------------------
    @asynccontextmanager
    async def _console(self) -> AsyncIterator["AsyncConnection[tuple[object, ...]]"]:
        from psycopg import AsyncConnection, Error

        settings, layer = self._settings, self._place.layer
        try:
            password = None if settings.password is None else self._place.reveal(settings.password)
            async with asyncio.timeout(settings.timeout.total_seconds()):
                connection = await AsyncConnection.connect(
                    settings.dsn, autocommit=True, password=password, prepare_threshold=None, connect_timeout=10
                )
                try:
                    yield connection
                finally:
                    await connection.close()
        except TimeoutError as error:
            text = f"{layer}: PgBouncer did not answer within {format_duration(settings.timeout)}"
            raise AdapterError(f"{text}; is it there?", permanent=False) from error
        except ValueError as error:
            raise AdapterError(f"{layer}: {error}", permanent=False) from error
        except Error as error:
            said = one_line(self._spawner.clean(error.diag.message_primary or str(error)))[:500]
            raise AdapterError(f"{layer}: PgBouncer: {said}", permanent=False) from error

    async def _row(self, console: "AsyncConnection[tuple[Any, ...]]") -> dict[str, Any]:
        """What it says of the database. :raises AdapterError: it does not know it."""
        cursor = await console.execute("SHOW DATABASES")
        names = [column.name for column in cursor.description or ()]
        for row in await cursor.fetchall():
            found = dict(zip(names, row, strict=True))
            if found["name"] == self._settings.database:
                return found
        text = f"{self._place.layer}: PgBouncer has no database {one_line(self._settings.database)}"
        raise AdapterError(f"{text}; correct `database`", permanent=True)

    async def _paused(self, console: "AsyncConnection[tuple[Any, ...]]") -> bool:
        return int((await self._row(console))["paused"]) == 1

    async def _idle(self, console: "AsyncConnection[tuple[Any, ...]]") -> bool:
        """Whether it is paused, and nothing runs there any more; a life that was killed may have asked for that."""
        found = await self._row(console)
        return int(found["paused"]) == 1 and int(found["current_connections"]) == 0

    async def _order(self, console: "AsyncConnection[tuple[object, ...]]", word: str) -> None:
        from psycopg.sql import SQL, Identifier

        await console.execute(SQL(f"{word} {{}}").format(Identifier(self._settings.database)))


async def _hung_up(console: "AsyncConnection[tuple[object, ...]]", asking: asyncio.Future[None]) -> None:
    """End a question that may have no answer. psycopg would ask the other side to cancel it, and wait for that."""
    if not asking.done():
        with socket.socket(fileno=os.dup(console.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
        await asyncio.wait({asking})
    if not asking.cancelled():
        asking.exception()
