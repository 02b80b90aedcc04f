"""Puts a database in the present's place: both names change in one transaction, while a second session ends what is
connected.

RENAME takes the lock on the database first, so that nobody comes in any more, and then waits for those that are there
to go. A kill leaves both names as they were or both changed. A try keeps clients out, so it is short; where somebody is
connected that may not be ended, no try is made.

https://www.postgresql.org/docs/15/sql-alterdatabase.html
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock
from rollbackd_adapters.postgres.catalogue import Database, beside, remarked
from rollbackd_adapters.postgres.server import DatabaseServer, fetch, joined, sql, value
from rollbackd_adapters.postgres.settings import PostgresSettings

if TYPE_CHECKING:
    from rollbackd_adapters.postgres.server import Connection

PURPOSE = "swap"
_PAUSE = timedelta(seconds=1)
"""Between two tries, in which clients work."""
_SLACK = timedelta(seconds=60)
_ENDING = timedelta(milliseconds=20)
_MAY_END = """
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR NOT coalesce(r.rolsuper, false)
    AND (pg_has_role(current_user, a.usesysid, 'USAGE') OR pg_has_role(current_user, 'pg_signal_backend', 'USAGE'))
"""
_CONNECTED = """
    FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
    WHERE a.datid = ANY(%s::oid[]) AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
"""


class Swap:
    """Changes the names of one layer's databases."""

    def __init__(self, settings: PostgresSettings, place: Place, server: DatabaseServer) -> None:
        self._settings = settings
        self._place = place
        self._clock: Clock = place.clock
        self._server = server

    async def swap(
        self,
        present: Database,
        other: Database,
        granted: Sequence[Sequence[Any]] | None,
        before_each: Callable[[], Awaitable[None]],
        *,
        opened: bool,
    ) -> None:
        """Give the present's name to the other one; the present gets a name that says that it was replaced.

        :param granted: who may connect to the other one, as `rights` has it; None: the server's default.
        :param before_each: done before each try.
        :param opened: the other one is open already, and `granted` is not looked at.
        :raises AdapterError: it was not possible within `swap_within`; the present serves.
        """
        end = self._clock.monotonic() + self._settings.swap_within.total_seconds()
        checking = {"client_connection_check_interval": "100ms", "synchronous_commit": "on"}
        limit, maintenance = self._settings.closed, self._settings.maintenance
        whole = self._settings.swap_within + _SLACK
        why = ""
        async with (
            self._server.connect(maintenance, PURPOSE, limit, whole, **checking) as naming,
            self._server.connect(maintenance, PURPOSE, limit, whole, **checking) as ending,
        ):
            rights = [] if opened else _granting(present.name, granted)
            while not why or self._clock.monotonic() < end:
                why = await self.hindrances(ending, (present.oid, other.oid))
                if not why:
                    await before_each()
                    boundary("postgres.swapping")
                    why = await self._try(naming, ending, present, other, rights)
                    if not why:
                        boundary("postgres.swapped")
                        return
                await self._clock.sleep(_PAUSE)
        text = f"{self._place.layer}: not put in place within {format_duration(self._settings.swap_within)}: {why}"
        raise AdapterError(f"{text}; the present database serves as before", permanent=False)

    async def _try(
        self, naming: "Connection", ending: "Connection", present: Database, other: Database, rights: Sequence[object]
    ) -> str:
        """One try; empty when the names are changed, else what stood in the way."""
        from psycopg.errors import DuplicateDatabase, LockNotAvailable, ObjectInUse, QueryCanceled

        now = self._clock.now()
        task = asyncio.ensure_future(self._rename(naming, present, other, rights, now))
        try:
            while not task.done():
                await self._end_connected(ending, (present.oid, other.oid))
                await asyncio.wait({task}, timeout=_ENDING.total_seconds())
            task.result()
        except (QueryCanceled, ObjectInUse, LockNotAvailable):
            with contextlib.suppress(Exception):
                await naming.rollback()
            return await self.hindrances(ending, (present.oid, other.oid)) or "clients did not go in time"
        except DuplicateDatabase as error:
            text = f"{beside(present.name, 'old', present.lineage.id)} is there already; rename it"
            raise AdapterError(f"{self._place.layer}: {text}", permanent=True) from error
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # what else failed is told; whether it was done, the catalogue says
        return ""

    async def _rename(
        self, naming: "Connection", present: Database, other: Database, rights: Sequence[Any], now: datetime
    ) -> None:
        away = replace(present, name=beside(present.name, "old", present.lineage.id), until=now)
        here = replace(other, name=present.name, until=None)
        if other.until is None:
            here = replace(here, lineage=replace(other.lineage, since=now, was=present.lineage.id))
        async with naming.transaction():
            await naming.execute(sql("ALTER DATABASE {} RENAME TO {}", present.name, away.name))
            boundary("postgres.renaming")
            await naming.execute(sql("ALTER DATABASE {} RENAME TO {}", other.name, here.name))
            for one in (remarked(away), remarked(here), *rights):
                await naming.execute(one)
            boundary("postgres.renamed")

    async def _end_connected(self, ending: "Connection", oids: Sequence[int]) -> None:
        """End what is connected, but what may not be ended: one such session would fail the statement as a whole."""
        text = f"SELECT pg_terminate_backend(a.pid) {_CONNECTED} AND ({_MAY_END})"  # our own constants
        await fetch(ending, text.encode(), (list(oids),))

    async def hindrances(self, connection: "Connection", oids: Sequence[int], allowed: Sequence[str] = ()) -> str:
        """Who is connected that may not be ended, and prepared transactions; empty: nobody, none.

        :param allowed: `sessions` or `prepared`: these are not looked for.
        """
        text = f"SELECT a.pid, a.usename {_CONNECTED} AND NOT ({_MAY_END}) ORDER BY 1 LIMIT 5"
        sessions = await fetch(connection, text.encode(), (list(oids),)) if "sessions" not in allowed else []
        found = [f"session {pid} of {name}, which we may not end" for pid, name in sessions]
        if "prepared" in allowed:
            return "; ".join(found)
        prepared = await fetch(
            connection,
            "SELECT left(gid, 60) FROM pg_prepared_xacts p JOIN pg_database d ON d.datname = p.database"
            " WHERE d.oid = ANY(%s::oid[]) ORDER BY 1 LIMIT 5",
            (list(oids),),
        )
        found += [f"the prepared transaction {row[0]!r}; COMMIT or ROLLBACK PREPARED it" for row in prepared]
        return "; ".join(found)

    async def wait_for_standbys(self, lsn: str) -> None:
        """Wait until the standbys in `wait_for` have replayed it. :raises AdapterError: one has not."""
        end = self._clock.monotonic() + self._settings.swap_within.total_seconds()
        whole = self._settings.swap_within + _SLACK
        async with self._server.connect(self._settings.maintenance, "glance", whole=whole) as connection:
            while late := await self._late(connection, lsn):
                if self._clock.monotonic() > end:
                    text = f"{self._place.layer}: {', '.join(late)} did not replay it; is the standby there?"
                    raise AdapterError(text, permanent=False)
                await self._clock.sleep(_PAUSE / 5)

    async def _late(self, connection: "Connection", lsn: str) -> list[str]:
        rows = await fetch(
            connection,
            "SELECT application_name FROM pg_stat_replication WHERE replay_lsn >= %s::pg_lsn",
            (lsn,),
        )
        there = {row[0] for row in rows}
        return [name for name in self._settings.wait_for if name not in there]

    async def position(self) -> str:
        """Where the server's WAL is now."""
        async with self._server.connect(self._settings.maintenance, "glance") as connection:
            return str(await value(connection, "SELECT pg_current_wal_lsn()::text"))


def _granting(name: str, granted: Sequence[Sequence[Any]] | None) -> list[Any]:
    """The statements that open a database to those who may connect."""
    if granted is None:
        return [sql("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC", name)]
    return [_grant(name, *one) for one in granted]


def _grant(name: str, role: str, right: str, grantable: bool) -> Any:
    words: Mapping[str, str] = {"CONNECT": "CONNECT", "CREATE": "CREATE", "TEMPORARY": "TEMPORARY"}
    parts = [sql(f"GRANT {words[right]} ON DATABASE {{}} TO", name), sql("{}", role) if role else sql("PUBLIC")]
    return joined([*parts, sql("WITH GRANT OPTION")] if grantable else parts)
