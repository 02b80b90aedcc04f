"""One value that a database gives: that it answers, and what it answers. Read only, and with a limit.

SQLite is asked in a process of its own: closing a file drops every lock that its process has on it. PostgreSQL needs
the extra `postgres`. That we may not ask, or that the query is wrong, is our trouble: inconclusive.
"""

import asyncio
import errno
import json
import os
import sys
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks import sqlite_query
from rollbackd.checks.timed import check_below, in_time, timed, too_late
from rollbackd.checks.unanswered import unanswered
from rollbackd.model import CheckResult, Verdict
from rollbackd.syntax.bounds import Bounds
from rollbackd.syntax.units import Duration, Secret, format_duration
from rollbackd.system.name_lookup import addresses
from rollbackd.system.redaction import one_line
from rollbackd.system.spawner import Finished, SpawnError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_ANSWER = 4096
"""Bytes of an answer of the program that asks SQLite."""
_UNREACHED = ("08", "53", "57P")
"""What a state of PostgreSQL begins with when the server does not serve: connection, resources, shutdown."""
_OURS = (
    *("authentication", "password", "failed to resolve host", "could not translate host name"),
    *map(os.strerror, (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EMFILE, errno.ENFILE)),
)
"""What a failed connection says, without a state of PostgreSQL, of our side."""


class SqlSettings(CheckSettings):
    """A database answers a query with one number; without bounds it is enough that it answers."""

    sql: Annotated[str, Field(min_length=1)]
    """The query, of one value. It runs read only."""
    file: Path | None = None
    """A SQLite database."""
    dsn: str = ""
    """A PostgreSQL, as libpq has it, without a password: `host=/run/postgresql dbname=shop`."""
    password: Secret | None = None
    """For `dsn`; none: libpq's own ways, such as `.pgpass`."""
    above: float | None = None
    below: float | None = None
    between: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)] | None = None
    """The smallest and the largest value that will do."""
    within: Duration | None = None
    """Connecting and the answer take less than this."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.file is None) == (not self.dsn):
            raise ValueError("nothing says which database is asked; give `file` for SQLite, or `dsn` for PostgreSQL")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("`file` depends on where the daemon was started; write the whole path")
        if self.password is not None and not self.dsn:
            raise ValueError("SQLite has no passwords; take `password` out, or give `dsn`")
        if "password" in self.dsn or ("://" in self.dsn and ":" in self.dsn.partition("://")[2].partition("@")[0]):
            raise ValueError("`dsn` has a password, which would be shown; give `password: {credential: NAME}`")
        check_below(self.within, self.timeout)
        _ = self.bounds
        return self

    @property
    def bounds(self) -> Bounds | None:
        """Where the value must lie; None: anywhere. :raises ValueError: no value could."""
        if self.above is None and self.below is None and self.between is None:
            return None
        return Bounds(above=self.above, below=self.below, between=self.between)


class SqlCheck:
    """A check that connects, asks once, and closes the connection."""

    settings_model: ClassVar[type[CheckSettings]] = SqlSettings

    def __init__(self, settings: SqlSettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place

    async def run(self, since: datetime | None = None) -> CheckResult:  # noqa: ARG002  # it sees only the present
        if self._settings.file is not None:
            return await self._timed(self._of_sqlite(self._settings.file))
        try:
            hosts, lost = await self._resolved()
        except ImportError:
            return self._unknown("could not ask: psycopg is missing; install rollbackd[postgres]")
        if lost and not hosts:
            return self._unknown(lost)
        result = await self._timed(self._of_postgres(hosts))
        return self._unknown(f"{result.reason}; {lost}") if lost and result.verdict is Verdict.BAD else result

    async def _timed(self, asked: Awaitable[tuple[Verdict, str]]) -> CheckResult:
        tried = asyncio.get_running_loop().time()
        result = await timed(self._place, self._settings, asked)
        ours = self._place.held_up(tried)
        verdict, reason = in_time(result.verdict, result.reason, result.took, self._settings.within, ours)
        return replace(result, verdict=verdict, reason=reason)

    def _unknown(self, reason: str) -> CheckResult:
        return CheckResult(self._place.name, Verdict.INCONCLUSIVE, reason, warn=self._settings.warn)

    def _late(self, tried: float) -> tuple[Verdict, str]:
        limit = self._settings.timeout
        return too_late(f"no answer within {format_duration(limit)}", limit, self._place.held_up(tried))

    def _judged(self, value: object) -> tuple[Verdict, str]:
        bounds = self._settings.bounds
        shown = one_line(str(value))[:100]
        if bounds is None:
            return Verdict.GOOD, f"answered {shown}"
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return Verdict.INCONCLUSIVE, f"answered {shown}, which is no number; correct `sql`"
        wrong = bounds.wrong(number)
        return (Verdict.BAD, f"answered {number:g}, {wrong}") if wrong else (Verdict.GOOD, f"answered {number:g}")

    # -- SQLite ---------------------------------------------------------------------------------
    async def _of_sqlite(self, file: Path) -> tuple[Verdict, str]:
        limit, tried = self._settings.timeout, asyncio.get_running_loop().time()
        asked = json.dumps({"file": str(file), "sql": self._settings.sql, "within": limit.total_seconds()})
        program = [sys.executable, "-I", sqlite_query.__file__]
        try:
            ended: Finished = await self._place.spawner.run(program, timeout=limit, stdin=asked.encode(), limit=_ANSWER)
        except SpawnError as error:
            return Verdict.INCONCLUSIVE, f"could not ask: {error}"
        if ended.timed_out:
            return self._late(tried)
        try:
            answer: Mapping[str, Any] = json.loads(ended.stdout)
        except ValueError:
            return Verdict.INCONCLUSIVE, f"could not ask: {ended.ending}"
        if "value" in answer:
            return self._judged(answer["value"])
        verdict = Verdict.BAD if answer.get("theirs") else Verdict.INCONCLUSIVE
        return verdict, f"{'' if answer.get('theirs') else 'could not ask: '}{one_line(str(answer.get('error', '')))}"

    # -- PostgreSQL -----------------------------------------------------------------------------
    async def _resolved(self) -> tuple[dict[str, str], str]:
        """Where the names of `dsn` lead, beside it for libpq, and why one of them leads nowhere.

        They are looked up before the database's time begins, and not once more in it. Sockets have none.

        :raises ImportError: psycopg is missing.
        """
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        with suppress(ProgrammingError):  # the connection says what is wrong with `dsn`
            given = {"host": "", "hostaddr": "", "port": "", **conninfo_to_dict(self._settings.dsn)}
            hosts, ports = (str(given[name] or os.environ.get(f"PG{name.upper()}", "")) for name in ("host", "port"))
            names, numbers = hosts.split(","), ports.split(",")
            if given["hostaddr"] or "PGHOSTADDR" in os.environ or len(numbers) not in {1, len(names)}:
                return {}, ""
            found = await asyncio.gather(*(self._look(name) for name in names))
            numbers *= len(names) // len(numbers)
            rows = [
                (name, address, port)
                for name, port, (places, _) in zip(names, numbers, found, strict=True)
                for address in places
            ]
            columns = [",".join(column) for column in zip(*rows, strict=True)]
            lost = next((why for _, why in found if why), "")
            return dict(zip(("host", "hostaddr", "port"), columns, strict=False)), lost
        return {}, ""

    async def _look(self, host: str) -> tuple[list[str], str]:
        """The addresses of a host, one that is empty for a socket; else why there are none."""
        if not host or host.startswith(("/", "@")):
            return [""], ""
        limit = self._settings.timeout
        try:
            async with asyncio.timeout(limit.total_seconds()):
                return list(dict.fromkeys(address for _, address in await addresses(host, 0))), ""
        except TimeoutError:
            return [], f"could not ask: its name did not resolve within {format_duration(limit)}"
        except OSError as error:
            return [], unanswered(error)[1]

    async def _of_postgres(self, hosts: Mapping[str, str]) -> tuple[Verdict, str]:
        import psycopg

        tried = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                connection = await self._connected(hosts)
                async with connection:
                    return self._judged(await self._value(connection))
        except (TimeoutError, psycopg.errors.ConnectionTimeout):
            return self._late(tried)
        except ValueError as error:
            return Verdict.INCONCLUSIVE, f"could not ask: {error}"
        except psycopg.Error as error:
            words = one_line(str(error)) or type(error).__name__
            state = error.sqlstate or ""
            ours = any(one in str(error) for one in _OURS)
            unreached = isinstance(error, psycopg.OperationalError) and not state and not ours
            if state.startswith(_UNREACHED) or unreached:
                return Verdict.BAD, words
            return Verdict.INCONCLUSIVE, f"could not ask: {words}"

    async def _connected(self, hosts: Mapping[str, str]) -> "AsyncConnection[Any]":
        """:raises ValueError: the password cannot be read. psycopg.Error: no connection."""
        import psycopg
        from psycopg.conninfo import make_conninfo

        settings = self._settings
        secret = self._place.reveal(settings.password) if settings.password is not None else None
        limit = max(1, int(settings.timeout.total_seconds() * 1000))
        options = f"-c default_transaction_read_only=on -c statement_timeout={limit}"
        return await psycopg.AsyncConnection.connect(
            make_conninfo(settings.dsn, **hosts),
            connect_timeout=max(2, limit // 1000),
            options=options,
            password=secret,
        )

    async def _value(self, connection: "AsyncConnection[Any]") -> object:
        """The query's value. :raises ValueError: it gives none."""
        await connection.set_read_only(True)
        cursor = await connection.execute(self._settings.sql.encode())
        row = await cursor.fetchone() if cursor.description else None
        await connection.rollback()
        if row is None or len(row) != 1:
            raise ValueError("`sql` gives no row of one value; correct it")
        return row[0]
