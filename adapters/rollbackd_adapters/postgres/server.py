"""How a server is reached: our connections, its programs, and what its errors mean. psycopg is imported when needed.

https://www.psycopg.org/psycopg3/docs/
"""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import format_duration, writable
from rollbackd.system.spawner import Finished, Lock, Spawner, one_line
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.postgres.settings import PostgresSettings

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.sql import Composable, Composed

    Connection = AsyncConnection[tuple[Any, ...]]

_T = TypeVar("_T")
_U = TypeVar("_U")
_CONNECT = timedelta(seconds=10)
_SLACK = timedelta(seconds=10)
GLANCE = timedelta(seconds=20)
"""How long a look may take: the core waits for a minute."""
_LASTING = ("42", "28", "3D", "22", "23", "0A", "2B")
"""Classes of errors that the same statement will get again."""
_SAID = re.compile(r"^pg_(?:dump|restore): (?:error|warning|hint): .*", re.MULTILINE)
"""What may be shown of a program's output: other lines quote rows."""
_PASSING = re.compile(
    r"connection to server|closed the connection|terminating connection|could not (?:send|receive)|timeout|No space"
    r"|is (?:starting up|shutting down|in recovery)|too many clients|out of (?:shared )?memory|deadlock"
    r"|invalid snapshot identifier|requested snapshot"
)
"""What a program says of the server and not of what it was to do: an older copy would fare no better."""


class DatabaseServer:
    """The server of one layer, as our role sees it."""

    def __init__(self, settings: PostgresSettings, place: Place) -> None:
        self._settings = settings
        self._place = place
        self._spawner: Spawner = place.spawner
        self.tag = f"rollbackd-{hashlib.sha256(str(place.scratch).encode()).hexdigest()[:16]}"
        """What our sessions are called at the server; the next life knows by it what a killed one left."""

    def named(self, purpose: str) -> str:
        """The name of our sessions of one purpose."""
        return f"{self.tag}-{purpose}"

    @asynccontextmanager
    async def connect(
        self,
        database: str,
        purpose: str,
        limit: timedelta = GLANCE,
        whole: timedelta | None = None,
        **parameters: str,
    ) -> AsyncIterator["Connection"]:
        """A connection of our own; each statement is a transaction unless one is begun.

        :param limit: of each statement, as the server keeps it.
        :param whole: of all that is done in the block, as we keep it: a server that hangs keeps none. By default a
            little longer than `limit`.
        :param parameters: of the server, for this session; empty: as the database has it.
        :raises AdapterError: it cannot be reached, or what is asked in the block failed there.
        """
        from psycopg import AsyncConnection

        given = {"statement_timeout": _milliseconds(limit), "row_security": "off"}
        given |= {
            "default_transaction_read_only": "off",
            "idle_in_transaction_session_timeout": "0",
            "idle_session_timeout": "0",
            "lock_timeout": "0",
            "search_path": "pg_catalog",
        }
        options = " ".join(f"-c {name}={value}" for name, value in (given | parameters).items() if value)
        with self.errors():
            try:
                async with asyncio.timeout(_CONNECT.total_seconds()):
                    connection = await AsyncConnection.connect(
                        self.conninfo(database, purpose),
                        autocommit=True,
                        password=self._password,
                        options=options,
                        client_encoding="utf8",  # else names are bytes where the database has no encoding
                        connect_timeout=int(_CONNECT.total_seconds()),
                    )
            except TimeoutError as error:
                text = f"{self._place.layer}: no connection within {format_duration(_CONNECT)}"
                raise AdapterError(f"{text}; is the server there, and does it answer?", permanent=False) from error
            whole = whole or limit + _SLACK
            try:
                async with asyncio.timeout(whole.total_seconds()):
                    yield connection
            except TimeoutError as error:
                text = f"{self._place.layer}: no answer within {format_duration(whole)}"
                raise AdapterError(f"{text}; is the server busy, or locked?", permanent=False) from error
            finally:
                await connection.close()

    @property
    def _password(self) -> str | None:
        secret = self._settings.password
        try:
            return None if secret is None else self._place.reveal(secret)
        except ValueError as error:
            raise AdapterError(f"{self._place.layer}: {error}", permanent=False) from error

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise an `AdapterError` for what psycopg raises. A message's detail is left out: it may have data."""
        from psycopg import Error

        try:
            yield
        except Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Any) -> AdapterError:
        code = error.sqlstate or ""
        said = one_line(writable(self._spawner.clean(error.diag.message_primary or str(error))))[:500]
        return AdapterError(f"{self._place.layer}: {said}", permanent=code.startswith(_LASTING))

    # -- programs -------------------------------------------------------------------------------
    def program(self, name: str, version: int) -> str:
        """Where `pg_dump` or `pg_restore` is, for a server's major version."""
        if self._settings.programs is not None:
            return str(self._settings.programs / name)
        debian = Path("/usr/lib/postgresql") / str(version) / "bin" / name
        return str(debian) if debian.is_file() else name

    async def version(self, program: str) -> int:
        """The major version of a program; 0: it does not say. :raises AdapterError: it is not there."""
        with as_adapter_errors():
            ended = await self._spawner.run([program, "--version"], timeout=GLANCE)
        found = re.search(rb"\) (\d+)", ended.stdout)
        return int(found[1]) if ended.ok and found is not None else 0

    async def run(
        self, argv: Sequence[str], purpose: str, lock: Lock | None = None, limit: timedelta | None = None
    ) -> Finished:
        """Run a program of PostgreSQL's. It ends with us, or the next life waits for it and ends its sessions.

        :raises AdapterError: it failed; the text has what it said, without any rows.
        """
        with as_adapter_errors():
            async with self.credentials(purpose) as environment:
                ended = await self._spawner.run(
                    argv, timeout=limit or self._settings.timeout, lock=lock, env=environment, umask=0o077
                )
        if ended.ok:
            return ended
        said = [one_line(line) for line in _SAID.findall(ended.stderr)][:5]
        name = Path(argv[0]).name
        text = f"{self._place.layer}: {name}: {ended.ending}{': ' if said else ''}{'; '.join(said)}"
        lasting = not ended.timed_out and ended.code >= 0 and _PASSING.search(ended.stderr) is None
        raise AdapterError(text[:2000], permanent=lasting, evidence="\n".join(said))

    @asynccontextmanager
    async def credentials(self, purpose: str) -> AsyncIterator[Mapping[str, str]]:
        """Where the password is, if there is one: never in the arguments, and in the environment not either."""
        own = {"LC_MESSAGES": "C"}  # whose words are known
        if (password := self._password) is None:
            yield own
            return
        passfile = self._place.scratch / f"pgpass-{purpose}"
        try:
            passfile.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            passfile.unlink(missing_ok=True)
            escaped = password.replace("\\", "\\\\").replace(":", "\\:")
            with os.fdopen(os.open(passfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(f"*:*:*:*:{escaped}\n")
            yield own | {"PGPASSFILE": str(passfile)}
        finally:
            passfile.unlink(missing_ok=True)

    def conninfo(self, database: str, purpose: str, **parameters: str) -> str:
        """The same for a program's arguments; without the password."""
        from psycopg.conninfo import make_conninfo

        given = self._settings.parameters | {"dbname": database, "application_name": self.named(purpose)}
        if parameters:
            given["options"] = " ".join(f"-c {name}={value}" for name, value in parameters.items())
        return make_conninfo(**given)

    # -- what a killed life left ----------------------------------------------------------------
    async def end_sessions(self, connection: "Connection", purpose: str, database: str = "") -> None:
        """End our role's sessions of a purpose, and wait until they are gone; all but the one that asks.

        :param database: only those connected there.
        :raises AdapterError: they stay.
        """
        for _ in range(100):
            rows = await fetch(
                connection,
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name = %s"
                " AND usesysid = (SELECT oid FROM pg_roles WHERE rolname = current_user) AND pid <> pg_backend_pid()"
                " AND (%s = '' OR datname = %s)",
                (self.named(purpose), database, database),
            )
            if not rows:
                return
        raise AdapterError(f"{self._place.layer}: a session that an earlier life left does not end", permanent=False)


async def fetch(connection: "Connection", query: Any, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of an answer."""
    cursor = await connection.execute(query, values or None)
    return await cursor.fetchall()


async def value(connection: "Connection", query: Any, values: Sequence[Any] = ()) -> Any:
    """The first column of the first row; None: there is none."""
    rows = await fetch(connection, query, values)
    return rows[0][0] if rows else None


def sql(text: Any, *names: Any) -> "Composed":
    """A statement with identifiers, and with literals where parameters cannot be: `sql("DROP DATABASE {}", name)`.

    A text is an identifier, a tuple one with its schema; what is composed already stays as it is.
    """
    from psycopg.sql import SQL

    return SQL(text).format(*map(_composed, names))


def literal(value: object) -> "Composable":
    from psycopg.sql import Literal

    return Literal(value)


def _composed(name: Any) -> "Composable":
    from psycopg.sql import Identifier

    if isinstance(name, str):
        return Identifier(name)
    return Identifier(*name) if isinstance(name, tuple) else name


def joined(parts: Sequence["Composable"], text: Any = " ") -> "Composed":
    from psycopg.sql import SQL

    return SQL(text).join(parts)


def _milliseconds(length: timedelta) -> str:
    return str(max(1, int(length.total_seconds() * 1000)))


async def both(first: Coroutine[Any, Any, _T], second: Coroutine[Any, Any, _U]) -> tuple[_T, _U]:
    """The results of two pieces of work that are done at once; where one fails, the other is stopped."""
    try:
        async with asyncio.TaskGroup() as group:
            one, two = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return one.result(), two.result()
