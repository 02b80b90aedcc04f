"""A database of a server that is looked into, and that an application's own programs can be sent to.

What such programs make belongs to the database's owner: they are in that role from their first statement on.

https://www.postgresql.org/docs/15/libpq-envars.html https://docs.sqlalchemy.org/core/engines.html
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rollbackd.adapter import AdapterError
from rollbackd_adapters.databases import OpenDatabase
from rollbackd_adapters.postgres.catalogue import heads_in, version_table
from rollbackd_adapters.postgres.server import GLANCE, DatabaseServer, fetch, sql
from rollbackd_adapters.postgres.settings import PostgresSettings
from rollbackd_adapters.schemas import DatabaseSchema, Survey

if TYPE_CHECKING:
    from rollbackd_adapters.postgres.server import Connection

PURPOSE = "migrate"
_NOT_ASKED = frozenset({"dbname", "user", "passfile"})
"""What a URL has elsewhere, or not at all."""
_AT_ONCE = 500
"""Columns that one query reads: an answer has 1,664 at most."""
_OURS = """
    n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = '{}'::regclass AND d.objid = {}.oid AND d.deptype = 'e')
"""
"""What is not the server's own, nor an extension's."""
_COLUMNS = f"""
    SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.atthasdef OR a.attidentity <> '' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {_OURS.format("pg_class", "c")}
    ORDER BY 1, 2, a.attnum
"""  # noqa: S608  # our own words
_RULES = f"""
    SELECT n.nspname, c.relname, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.contype IN ('p', 'u', 'c', 'f', 'x')
    AND {_OURS.format("pg_class", "c")}
    UNION ALL SELECT n.nspname, c.relname, regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING', 'UNIQUE')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.indisunique AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
    AND {_OURS.format("pg_class", "c")}
"""  # noqa: S608
_OTHERS = f"""
    SELECT CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence '
    ELSE 'index ' END, n.nspname, c.relname, CASE c.relkind WHEN 'S' THEN '' WHEN 'i' THEN pg_get_indexdef(c.oid)
    ELSE pg_get_viewdef(c.oid) END FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('v', 'm', 'S', 'i') AND {_OURS.format("pg_class", "c")}
    UNION ALL SELECT 'trigger ', n.nspname, c.relname || ' ' || t.tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT t.tgisinternal AND {_OURS.format("pg_class", "c")}
    UNION ALL SELECT 'type ', n.nspname, t.typname, (SELECT string_agg(enumlabel, ', ' ORDER BY enumsortorder)
    FROM pg_enum e WHERE e.enumtypid = t.oid) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.typtype = 'e' AND {_OURS.format("pg_type", "t")}
    UNION ALL SELECT 'function ', n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
    md5(p.prosrc) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.prokind IN ('f', 'p') AND {_OURS.format("pg_proc", "p")}
"""  # noqa: S608


class ServedDatabase(OpenDatabase):
    """One database of the server."""

    def __init__(self, settings: PostgresSettings, server: DatabaseServer, name: str, owner: str = "") -> None:
        """:param owner: the role that owns it; empty: it is asked for."""
        self._settings = settings
        self._server = server
        self._name = name
        self._owner = owner

    def url(self, dialect: str) -> str:
        given = self._settings.parameters
        rest = "&".join(f"{key}={quote(given[key], safe='')}" for key in sorted(given.keys() - _NOT_ASKED))
        at = f"{quote(given['user'], safe='')}@" if given.get("user") else ""
        return f"{dialect or 'postgresql'}://{at}/{quote(self._name, safe='')}?{rest}"

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[Mapping[str, str]]:
        owner = self._owner or await self._owned_by()
        escaped = owner.replace("\\", "\\\\").replace(" ", "\\ ")
        wait = int(self._settings.lock_within.total_seconds() * 1000)
        options = f"-c role={escaped} -c lock_timeout={wait} -c client_connection_check_interval=1000"
        own = {"PGOPTIONS": options, "PGAPPNAME": self._server.named(PURPOSE)}
        if passfile := self._settings.parameters.get("passfile"):
            own["PGPASSFILE"] = passfile
        async with self._server.credentials(PURPOSE) as environment:
            yield {**own, **environment}

    async def _owned_by(self) -> str:
        async with self._connected() as connection:
            rows = await fetch(
                connection,
                "SELECT r.rolname FROM pg_database d JOIN pg_roles r ON r.oid = datdba"
                " WHERE datname = current_database()",
            )
            return str(rows[0][0])

    def _connected(self, limit: timedelta = GLANCE) -> AbstractAsyncContextManager["Connection"]:
        return self._server.connect(self._name, "schema", limit)

    async def heads(self, table: str) -> tuple[str, ...]:
        async with self._connected() as connection:
            return tuple(await heads_in(connection, table))

    async def set_heads(self, table: str, heads: Sequence[str]) -> None:
        async with self._connected() as connection, connection.transaction():
            found = await version_table(connection, table)
            if found is None:
                raise AdapterError(f"there is no table {table} to write to", permanent=True)
            await connection.execute(sql("DELETE FROM {}", found))
            for head in heads:
                await connection.execute(sql("INSERT INTO {} (version_num) VALUES (%s)", found), (head,))

    async def schema(self, table: str) -> DatabaseSchema:
        async with self._connected() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            columns = await fetch(connection, _COLUMNS)
            return DatabaseSchema.read(await _schema(connection, columns)).without(_told(table))

    async def survey(self, table: str) -> Survey:
        async with self._connected(self._settings.timeout) as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            columns = await fetch(connection, _COLUMNS)
            found = {
                "heads": await heads_in(connection, table),
                "schema": await _schema(connection, columns),
                "contents": await _contents(connection, columns),
            }
        return Survey.read(found, _told(table))

    async def settle(self) -> None:
        async with self._server.connect(self._settings.maintenance, "schema") as connection:
            await self._server.end_sessions(connection, PURPOSE, self._name)


async def _schema(connection: "Connection", columns: Sequence[Sequence[Any]]) -> dict[str, Any]:
    tables: dict[str, dict[str, Any]] = {}
    for schema, name, column, *about in columns:
        table = tables.setdefault(_label(schema, name), {"columns": {}, "rules": []})
        if column is not None:
            table["columns"][column] = about
    for schema, name, rule in await fetch(connection, _RULES):
        if (label := _label(schema, name)) in tables:
            tables[label]["rules"].append(rule)
    others = {
        f"{kind}{_label(schema, name)}": text or "" for kind, schema, name, text in await fetch(connection, _OTHERS)
    }
    return {"tables": tables, "others": others}


async def _contents(connection: "Connection", columns: Sequence[Sequence[Any]]) -> dict[str, Any]:
    known: dict[tuple[str, str], list[str]] = {}
    rows: dict[str, int] = {}
    values: dict[str, dict[str, tuple[int, int]]] = {}
    for schema, name, column, *_ in columns:
        known.setdefault((schema, name), []).extend([column] if column is not None else [])
    for table, own in known.items():
        rows[_label(*table)] = await _count(connection, table)
        found = values[_label(*table)] = {}
        for n in range(0, len(own), _AT_ONCE):
            part = own[n : n + _AT_ONCE]
            found |= zip(part, await _values(connection, table, part), strict=True)
    return {"rows": rows, "values": values}


async def _count(connection: "Connection", table: tuple[str, str]) -> int:
    return int((await fetch(connection, sql("SELECT count(*) FROM ONLY {}", table)))[0][0])


async def _values(connection: "Connection", table: tuple[str, str], columns: Sequence[str]) -> list[tuple[int, int]]:
    """For each column how many values there are, and a sum over their hashes."""
    from psycopg.sql import SQL

    hashed = [sql("count({0}), coalesce(sum(hashtextextended({0}::text, 0)), 0)", column) for column in columns]
    row = (await fetch(connection, sql("SELECT {} FROM ONLY {}", SQL(", ").join(hashed), table)))[0]
    return [(int(row[n]), int(row[n + 1])) for n in range(0, len(row), 2)]


def _told(table: str) -> str:
    """What people call a version table, given with or without its schema."""
    return table.removeprefix("public.")


def _label(schema: str, name: str) -> str:
    """What people call it."""
    return name if schema == "public" else f"{schema}.{name}"
