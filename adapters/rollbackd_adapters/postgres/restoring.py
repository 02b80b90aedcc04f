"""Restores a copy into a new database beside the present one, and sees that it is what it must be.

The new database is closed to everybody but its owner until it is put in place. What a kill left of it is dropped and
made anew; one that is marked as restored was found whole and is only put in place.

https://www.postgresql.org/docs/15/app-pgrestore.html
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters import lacks
from rollbackd_adapters.copies import DataCopy, Lineage
from rollbackd_adapters.postgres.catalogue import Database, counted, drop, look, remarked
from rollbackd_adapters.postgres.dump import ALWAYS, BRANDED, DATA, SCHEMA, Dumps
from rollbackd_adapters.postgres.server import DatabaseServer, both, fetch, joined, literal, sql, value
from rollbackd_adapters.postgres.settings import PostgresSettings
from rollbackd_adapters.threads import in_thread

if TYPE_CHECKING:
    from rollbackd_adapters.postgres.server import Connection

Table = tuple[str, str]
"""A table's schema and name."""
PURPOSE = "restore"
_GLANCES = timedelta(seconds=1)
_SHOWN = 5
_WORD = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
_NOTATION = re.compile(
    rf"::{_WORD}(?:\.{_WORD})?(?: varying| precision)?(?:\(\d+(?:,\d+)?\))?(?: with(?:out)? time zone)?(?:\[\])*|[()]"
)
"""Casts, and parentheses."""
_UNLOGGED = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""


class HarmedCopyError(AdapterError):
    """A copy is not what was copied, whatever the server is."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=True)


class Restores:
    """Restores copies of one layer."""

    def __init__(
        self, settings: PostgresSettings, place: Place, server: DatabaseServer, dumps: Dumps, purpose: str = PURPOSE
    ) -> None:
        self._purpose = purpose
        self._settings = settings
        self._place = place
        self._clock: Clock = place.clock
        self._server = server
        self._dumps = dumps

    async def restore(
        self, copy: DataCopy, directory: Path, name: str, lineage: Lineage, lock: Lock, watched: Sequence[Path] = ()
    ) -> Database:
        """A new database of that name with what the copy has, closed, and not yet looked into.

        :param directory: where the copy lies.
        :param watched: directories on the volumes that must not run full.
        :raises AdapterError: permanent when this copy cannot be restored.
        """
        if harms := await self._dumps.harms(directory, copy.facts, lock):
            raise HarmedCopyError(f"copy {copy.name} is damaged: {'; '.join(harms)}")
        async with self._server.connect(
            self._settings.maintenance, self._purpose, self._settings.timeout
        ) as connection:
            made = await self._created(connection, copy, name, lineage)
        boundary("postgres.created")
        program = self._server.program("pg_restore", int(copy.facts["major"]))
        target = self._server.conninfo(
            name, self._purpose, synchronous_commit="local", row_security="off", default_transaction_read_only="off"
        )
        argv = [program, f"--dbname={target}", *ALWAYS, "--exit-on-error", f"--jobs={self._settings.jobs}"]
        work = self._server.run([*argv, str(directory / DATA)], self._purpose, lock)
        await unless_full(work, watched, self._settings.floor, self._clock)
        boundary("postgres.restored")
        return made

    async def _created(self, connection: "Connection", copy: DataCopy, name: str, lineage: Lineage) -> Database:
        await self.drop(connection, name)
        about = copy.facts["rights"]
        parts = [sql("CREATE DATABASE {} TEMPLATE template0 OWNER {}", name, about["owner"])]
        parts.append(sql("ENCODING {}", literal(about["encoding"])))
        parts.append(sql("LC_COLLATE {} LC_CTYPE {}", literal(about["collate"]), literal(about["ctype"])))
        if about["provider"] == "i":
            parts.append(sql("LOCALE_PROVIDER icu ICU_LOCALE {}", literal(about["icu"])))
        if about["provider"] == "b":
            parts.append(sql("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(about["icu"])))
        if about["tablespace"] != "pg_default":
            parts.append(sql("TABLESPACE {}", about["tablespace"]))
        await connection.execute(joined(parts))
        await connection.execute(sql("REVOKE ALL ON DATABASE {} FROM PUBLIC", name))
        oid = await value(connection, "SELECT oid FROM pg_database WHERE datname = %s", (name,))
        made = Database(oid, name, about["owner"], copy.facts.get("comment", ""), lineage, copy=copy.id)
        await connection.execute(remarked(made))
        return made

    async def drop(self, connection: "Connection", name: str) -> None:
        """Drop a database that was being restored, if it is there, and what is connected to it."""
        seen = await look(connection, self._settings.database)
        oid = await value(connection, "SELECT oid FROM pg_database WHERE datname = %s", (name,))
        if oid is None:
            return
        known = next((one for one in seen.others if one.oid == oid), None)
        if oid == seen.present.oid or (known is not None and known.until is not None):
            raise AdapterError(f"{name} is no database that was being restored; rename it", permanent=True)
        await self._server.end_sessions(connection, self._purpose, name)
        await drop(connection, name, ending=True)
        boundary("postgres.dropped")

    # -- what it must be ------------------------------------------------------------------------
    async def check(
        self, made: Database, copy: DataCopy, directory: Path, present: Mapping[str, object] | None, lock: Lock
    ) -> tuple[Database, list[Table]]:
        """See that a restored database is what was copied, make it ready to serve, and mark it.

        :param present: the manifest's facts of a copy of the present, to compare with; None: nothing is compared.
        :returns: it, and its tables that a crash of the server would empty.
        :raises AdapterError: permanent when it is not what it must be.
        """
        facts, settings = copy.facts, self._settings
        scratch = self._place.scratch / f"{self._purpose}.sql"
        await in_thread(partial(scratch.parent.mkdir, mode=0o700, parents=True, exist_ok=True))
        try:
            printed = await self._dumps.schema(made.name, self._purpose, int(facts["major"]), scratch, lock)
            if printed != facts["schema"] and (differs := schema_differences(directory / SCHEMA, scratch)):
                raise HarmedCopyError(f"copy {copy.name}: its schema is not the copied one: {differs}")
        finally:
            scratch.unlink(missing_ok=True)
        async with self._server.connect(made.name, self._purpose, settings.timeout) as connection:
            await self._compare(connection, copy, present)
            await self._set(connection, made.name, facts["rights"])
            await connection.execute("ANALYZE")
            boundary("postgres.analyzed")
            await self._do_as_asked(made.name)
            unlogged = await _filled(connection)  # by the session that compared: the server did not crash between
        made = replace(made, restored=True)
        async with self._server.connect(settings.maintenance, self._purpose) as connection:
            await connection.execute(remarked(made))
        boundary("postgres.checked")
        return made, unlogged

    async def _do_as_asked(self, name: str) -> None:
        """What the configuration wants to be done in a restored database, and asked of it."""
        limit = self._settings.timeout
        async with self._server.connect(name, self._purpose, limit, search_path="") as connection:
            async with connection.transaction():
                for statement in self._settings.after_restore:
                    await connection.execute(statement.encode())
            await self._ask(connection)

    async def _compare(self, connection: "Connection", copy: DataCopy, present: Mapping[str, Any] | None) -> None:
        was = {tuple(table["table"]): table["rows"] for table in copy.facts["rows"]}
        found = await counted(connection)
        now = {tuple(table["table"]): table["rows"] for table in found}
        views = {tuple(table["table"]) for table in found if not table["dumped"]}  # made anew: they may have been stale
        differ = [
            name
            for name in sorted({*was, *now})
            if was.get(name) != now.get(name) and (name not in views or name not in was)
        ]
        if differ and {*differ} <= {*await fetch(connection, _UNLOGGED)} and not any(now[name] for name in differ):
            raise self.emptied()
        wrong = [f"{'.'.join(name)} has {now.get(name)} rows, {was.get(name)} were copied" for name in differ]
        blobs = await value(connection, "SELECT count(*) FROM pg_largeobject_metadata")
        if blobs != copy.facts["blobs"]:
            wrong.append(f"there are {blobs} large objects, {copy.facts['blobs']} were copied")
        if wrong:
            raise HarmedCopyError(one_line(f"copy {copy.name}: {'; '.join(wrong[:_SHOWN])}"))
        if present is None or not self._settings.rows:
            return
        least, total = self._settings.rows * sum(table["rows"] for table in present["rows"]), sum(now.values())
        if total < least:
            text = f"it has {total} rows and must have {least:.0f} at least, as the present has (`rows`)"
            raise AdapterError(text, permanent=True)

    async def _set(self, connection: "Connection", name: str, about: Mapping[str, Any]) -> None:
        """The settings that belong to a database, and to roles in it. What a value means is up to the server."""
        for role, setting, given in about["settings"]:
            where = sql("ALTER ROLE {} IN DATABASE {}", role, name) if role else sql("ALTER DATABASE {}", name)
            await self._set_one(connection, where, setting, given)
        await connection.execute(sql("ALTER DATABASE {} CONNECTION LIMIT {}", name, literal(about["limit"])))
        if about.get("template"):
            await connection.execute(sql("ALTER DATABASE {} IS_TEMPLATE true", name))

    async def _set_one(self, connection: "Connection", where: object, setting: str, given: str) -> None:
        from psycopg import Error

        try:  # FROM CURRENT takes lists such as `search_path` as they are
            async with connection.transaction(force_rollback=False):
                await connection.execute("SELECT set_config(%s, %s, true)", (setting, given))
                await connection.execute(sql("{} SET {} FROM CURRENT", where, _setting(setting)))
        except Error:
            await connection.execute(sql("{} SET {} TO {}", where, _setting(setting), literal(given)))

    async def _ask(self, connection: "Connection") -> None:
        for query in self._settings.integrity:
            await connection.execute("BEGIN READ ONLY")
            try:
                found = await value(connection, query.sql.encode())
            finally:
                await connection.execute("ROLLBACK")
            try:
                number = float(found)
            except (TypeError, ValueError):
                raise AdapterError(f"`{query.sql}` gives no number", permanent=True) from None
            if said := query.wrong(number):
                raise AdapterError(f"`{query.sql}` gives {number:g}, {said}", permanent=True)

    # -- after a crash of the server ------------------------------------------------------------
    async def is_emptied(self, name: str, unlogged: Collection[Table]) -> bool:
        """Whether one of the tables that had rows has none any more."""
        if not unlogged:
            return False
        async with self._server.connect(name, self._purpose) as connection:
            return not {*map(tuple, unlogged)} <= {*await _filled(connection)}

    def emptied(self) -> AdapterError:
        text = f"{self._place.layer}: the server crashed, which emptied unlogged tables of what was just restored"
        return AdapterError(f"{text}; it is restored anew", permanent=False)

    # -- sequences ------------------------------------------------------------------------------
    async def raise_sequences(self, present: str, made: str, before: Mapping[str, int]) -> dict[str, int]:
        """Take each sequence at least where the present's is, and beyond, for what is taken until the names change.

        :param before: what each gave when it was asked the last time.
        :returns: what each gave now.
        """
        query = (
            "SELECT schemaname, sequencename, last_value, increment_by, min_value, max_value, cache_size"
            " FROM pg_sequences WHERE schemaname <> 'pg_catalog'"
        )
        async with self._server.connect(present, self._purpose) as connection:
            now = {tuple(row[:2]): row[2:] for row in await fetch(connection, query)}
        given: dict[str, int] = {}
        async with self._server.connect(made, self._purpose) as connection:
            for row in await fetch(connection, query):
                name, (last, step, low, high, cache) = tuple(row[:2]), row[2:]
                latest = now.get(name, (None,))[0]
                if latest is None:
                    continue
                given["\0".join(name)] = latest
                used = abs(latest - before.get("\0".join(name), latest))
                left = (high - latest if step > 0 else latest - low) // 2  # it must not be used up by this
                margin = min(max(abs(step) * max(1000, cache * 10), used), left)
                wanted = min(max(latest + (margin if step > 0 else -margin), low), high)
                beyond = last is None or (wanted > last if step > 0 else wanted < last)
                if beyond:
                    await connection.execute(
                        "SELECT setval(format('%%I.%%I', %s::text, %s::text), %s)", (*name, wanted)
                    )
        return given


async def _filled(connection: "Connection") -> list[Table]:
    """The unlogged tables that have rows."""
    tables = await fetch(connection, _UNLOGGED)
    return [
        (schema, name)
        for schema, name in tables
        if await value(connection, sql("SELECT EXISTS (SELECT FROM ONLY {})", (schema, name)))
    ]


def _setting(name: str) -> object:
    """A parameter's name, which may have a dot."""
    return joined([sql("{}", part) for part in name.split(".")], ".")


def schema_differences(first: Path, second: Path) -> str:
    """The first lines that only one of two schemas has, but for what may be a secret; empty: they mean the same.

    Casts and parentheses do not count: PostgreSQL prints other ones of `status IN ('a', 'b')` once it has read its own.
    """
    try:
        was, now = (Counter(_compared(path.read_text(errors="replace"))) for path in (first, second))
    except OSError as error:
        return str(error.strerror)
    lines = [*(f"- {line}" for line in sorted(was - now)), *(f"+ {line}" for line in sorted(now - was))]
    shown = ("a line with a password" if "password" in line.lower() else one_line(line)[:200] for line in lines)
    return "; ".join(islice(shown, _SHOWN))


def _compared(text: str) -> Iterator[str]:
    return (_NOTATION.sub("", line) for line in text.splitlines() if line and not line.startswith(BRANDED))


async def unless_full(work: Coroutine[Any, Any, object], watched: Sequence[Path], floor: int, clock: Clock) -> None:
    """Do it, but end it before less than `floor` is free on a volume. :raises AdapterError: it was ended."""

    async def watch() -> None:
        while not done:
            for path in watched:
                if (free := free_bytes(path)) < floor:
                    text = f"{path}: only {free // 2**20} MiB are free, so the restore was ended (`floor`)"
                    raise AdapterError(f"{text}; make room there", permanent=False)
            await clock.sleep(_GLANCES / 5)

    async def to_its_end() -> None:
        try:
            await work
        finally:
            done.append(True)

    done: list[bool] = []
    await both(to_its_end(), watch())


def free_bytes(path: Path) -> int:
    """How much we, or the server, may still write on the volume of a directory. :raises AdapterError: it is gone."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise AdapterError(f"the room at {path} is unknown: {lacks.hint(error)}", permanent=False) from error
    return status.f_bavail * status.f_frsize
