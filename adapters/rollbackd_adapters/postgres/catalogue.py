"""Which databases of the server are this layer's, asked of its catalogue in one query.

A database's lineage is in its comment, below what people wrote there, with the database's own OID: a comment that was
copied to another database says nothing. All databases of a layer are told by it: the one that serves, those that were
replaced, and one that is being restored. What changes the names changes the comments in the same transaction.

https://www.postgresql.org/docs/15/catalog-pg-database.html
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd_adapters.copies import Lineage, copy_of
from rollbackd_adapters.postgres.server import fetch

if TYPE_CHECKING:
    from psycopg.sql import Composed

    from rollbackd_adapters.postgres.server import Connection

_MARK = "rollbackd: "
OLDEST = 15
"""The oldest version of a server that can be asked all that is asked here."""
_LONGEST = 63
"""Bytes of a name; PostgreSQL cuts off what is longer."""
_KEPT = _LONGEST - len("_rollbackd_old_") - 16
"""Bytes of a database's name that are at the beginning of all names beside it, also of those that have a hash."""


def beside(database: str, what: str, release: str = "") -> str:
    """The name of a database beside the layer's own: `shop_rollbackd_old_original`; a long one gets a hash."""
    name = f"{database}_rollbackd_{what}{f'_{release}' if release else ''}"
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{_beginning(database)}_rollbackd_{what}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _beginning(database: str) -> str:
    return database.encode()[:_KEPT].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the layer."""

    oid: int
    name: str
    owner: str
    comment: str = ""
    """What people wrote of it."""
    lineage: Lineage = field(default_factory=Lineage)
    until: datetime | None = None
    """When it was replaced; None: it was not."""
    copy: str = ""
    """The id of the copy that was restored into it; empty: none was. It may be an older one than its lineage says."""
    restored: bool = False
    """Of one that is being restored: it is whole, and was found to be what it must be."""

    @property
    def remark(self) -> str:
        """Its whole comment."""
        mark = {
            "oid": self.oid,
            "lineage": self.lineage.written,
            "until": self.until.isoformat() if self.until else "",
            "copy": self.copy,
            "restored": self.restored,
        }
        above = f"{self.comment}\n" if self.comment else ""
        return f"{above}{_MARK}{json.dumps(mark)}"

    @property
    def release(self) -> Release:
        """What going back to it gives."""
        return Release(self.lineage.id, self.name, self.until)


def read_database(oid: int, name: str, owner: str, remark: str | None) -> Database:
    """A database as the catalogue has it; its mark counts where it is its own."""
    comment, _, mark = (remark or "").rpartition(_MARK)
    found = Database(oid, name, owner, remark or "")
    try:
        given = json.loads(mark) if mark and (not comment or comment.endswith("\n")) else {}
        if given["oid"] != oid:
            return found
        until = datetime.fromisoformat(given["until"]) if given["until"] else None
        if until is not None and until.tzinfo is None:
            return found
        lineage = Lineage.read(given["lineage"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return found
    copy, restored = str(given.get("copy", "")), bool(given.get("restored"))
    return replace(found, comment=comment[:-1], lineage=lineage, until=until, copy=copy, restored=restored)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The databases of a layer at one instant."""

    present: Database
    others: Sequence[Database] = ()
    recovering: bool = False
    """The server is a standby."""
    version: int = 0
    """The server's major version."""

    @property
    def replaced(self) -> list[Database]:
        """Those that were replaced and are still there, the newest first."""
        name = self.present.name
        old = [one for one in self.others if one.until is not None and one.name == beside(name, "old", one.lineage.id)]
        return sorted(old, key=lambda one: one.until.timestamp() if one.until else 0.0, reverse=True)

    def by_release(self, release: str) -> Database | None:
        """The replaced one that is of this release."""
        return next((one for one in self.replaced if one.lineage.id == release), None)

    def named(self, name: str) -> Database | None:
        return next((one for one in self.others if one.name == name), None)

    def release_of(self, copy: str) -> str:
        """The id of what a restore of a copy gives: its own, or one more than any that there is."""
        taken = [one.lineage.id for one in (self.present, *self.replaced) if copy_of(one.lineage.id) == copy]
        numbers = [int(one.partition(".")[2] or 1) for one in taken]
        return f"{copy}.{max(numbers) + 1}" if numbers else copy


_LOOK = """
    SELECT d.oid, d.datname, r.rolname, s.description, pg_is_in_recovery(), current_setting('server_version_num')::int
    FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
    LEFT JOIN pg_shdescription s ON s.objoid = d.oid AND s.classoid = 'pg_database'::regclass
    WHERE d.datname = %s OR s.description LIKE %s
"""


async def look(connection: "Connection", database: str) -> Catalogue:
    """:raises AdapterError: the database is not there, or the server is too old."""
    rows = await fetch(connection, _LOOK, (database, f"%{_MARK}%"))
    found = [read_database(*row[:4]) for row in rows]
    present = next((one for one in found if one.name == database), None)
    if present is None:
        text = f"there is no database {database} on this server; correct `dsn`, or create it"
        raise AdapterError(text, permanent=False)
    if (version := rows[0][5] // 10_000) < OLDEST:
        text = f"this server is of version {version}; copies and restores need PostgreSQL {OLDEST} or newer"
        raise AdapterError(text, permanent=True)
    ours = [one for one in found if one.oid != present.oid and one.owner == present.owner]
    names = _names(database)
    others = [one for one in ours if one.name.startswith(names) or one.lineage.id in one.name]
    return Catalogue(present, others, rows[0][4], version)


def _names(database: str) -> str:
    """What the names of all databases beside it begin with."""
    return f"{database}_rollbackd_" if len(database.encode()) <= _KEPT else _beginning(database)


async def rights(connection: "Connection", oid: int) -> dict[str, Any]:
    """What a database has that no dump of it has: who owns it and may connect, its locale, settings and limit."""
    row = (
        await fetch(
            connection,
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider,"
            " coalesce(to_jsonb(d)->>'daticulocale', to_jsonb(d)->>'datlocale'), datcollversion, datconnlimit, spcname,"
            " r.rolname, datistemplate, datacl IS NULL, pg_database_collation_actual_version(d.oid)"
            " FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace JOIN pg_roles r ON r.oid = datdba"
            " WHERE d.oid = %s",
            (oid,),
        )
    )[0]
    names = ("encoding", "collate", "ctype", "provider", "icu", "collation", "limit", "tablespace", "owner", "template")
    found = dict(zip(names, row[:10], strict=True))
    granted = await fetch(
        connection,
        "SELECT coalesce(r.rolname, ''), a.privilege_type, a.is_grantable FROM pg_database d, aclexplode(d.datacl) a"
        " LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE d.oid = %s ORDER BY 1, 2",
        (oid,),
    )
    kept = await fetch(
        connection,
        "SELECT coalesce(r.rolname, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)"
        " FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(setconfig) c"
        " WHERE setdatabase = %s ORDER BY 1, 2",
        (oid,),
    )
    found |= {"granted": None if row[10] else [list(one) for one in granted], "actual": row[11]}
    return found | {"settings": [list(one) for one in kept]}


def remarked(database: Database) -> "Composed":
    """The statement that writes a database's comment."""
    from rollbackd_adapters.postgres.server import literal, sql

    return sql("COMMENT ON DATABASE {} IS {}", database.name, literal(database.remark))


async def drop(connection: "Connection", name: str, *, ending: bool = False) -> None:
    """Drop a database, also one that is a template. :param ending: with who is connected to it."""
    from rollbackd_adapters.postgres.server import sql, value

    if await value(connection, "SELECT datistemplate FROM pg_database WHERE datname = %s", (name,)):
        await connection.execute(sql("ALTER DATABASE {} IS_TEMPLATE false", name))
    await connection.execute(sql("DROP DATABASE {} WITH (FORCE)" if ending else "DROP DATABASE {}", name))


# -- what is in a database ------------------------------------------------------------------------
_VERSIONS = "alembic_version"
"""What Alembic calls its version table where nobody calls it otherwise."""
_TABLES = """
    SELECT c.oid, n.nspname, c.relname, c.relkind = 'r' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype = 'e')
    ORDER BY 2, 3
"""
"""Tables whose rows a dump has, and materialized views. What belongs to an extension is its own affair."""


async def counted(connection: "Connection") -> list[dict[str, Any]]:
    """The number of rows of each table, as of one instant where the transaction sees one."""
    from rollbackd_adapters.postgres.server import sql, value

    found = []
    for oid, schema, name, dumped in await fetch(connection, _TABLES):
        rows = await value(connection, sql("SELECT count(*) FROM ONLY {}", (schema, name)))
        found.append({"oid": oid, "table": [schema, name], "rows": rows, "dumped": dumped})
    return found


async def contents(connection: "Connection", columns: Mapping[str, str]) -> dict[str, Any]:
    """What a copy is verified by, and what it needs, as of the transaction's instant.

    :param columns: for each table, named as in SQL, its column of when a row was written.
    """
    from psycopg.errors import CharacterNotInRepertoire

    from rollbackd_adapters.postgres.server import sql, value

    newest = {}
    for table, column in columns.items():
        name = await table_of(connection, table)
        try:
            newest[table] = await value(connection, sql("SELECT max({})::text FROM {}", column, name))
        except CharacterNotInRepertoire as error:  # the database has no encoding
            text = (
                f"the newest {column} of {table} is no text in UTF-8; name another column in `loss`, such as of times"
            )
            raise AdapterError(text, permanent=True) from error
    extensions = await fetch(connection, "SELECT extname, extversion FROM pg_extension ORDER BY 1")
    owners = "SELECT DISTINCT r.rolname FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid"
    owners += " WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype IN ('o', 'a', 'r')"
    owners += " AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"
    return {
        "rows": await counted(connection),
        "blobs": await value(connection, "SELECT count(*) FROM pg_largeobject_metadata"),
        "newest": newest,
        "extensions": dict(extensions),
        "roles": [row[0] for row in await fetch(connection, owners)],
        "lsn": await value(connection, "SELECT pg_current_wal_lsn()::text"),
        "version": await value(connection, "SELECT current_setting('server_version_num')::int"),
        "bytes": await value(connection, "SELECT pg_database_size(current_database())"),
        "revisions": await heads_in(connection, _VERSIONS),
    }


async def version_table(connection: "Connection", table: str) -> tuple[str, str] | None:
    """The schema and the name of a version table; without a schema the one that is found first, as programs find it."""
    schema, _, name = table.rpartition(".")
    rows = await fetch(
        connection,
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'version_num'"
        " WHERE c.relname = %s AND c.relkind = 'r' AND (n.nspname = %s OR %s = '' AND n.nspname !~ '^pg_')"
        " ORDER BY n.nspname <> 'public', 1 LIMIT 1",
        (name, schema, schema),
    )
    return (rows[0][0], rows[0][1]) if rows else None


async def heads_in(connection: "Connection", table: str) -> list[str]:
    """What a version table has, in Python's order, whichever the database's is; nothing where there is none."""
    from rollbackd_adapters.postgres.server import sql

    if (found := await version_table(connection, table)) is None:
        return []
    rows = await fetch(connection, sql("SELECT version_num::text FROM {} LIMIT 100", found))
    return sorted(str(row[0]) for row in rows)


async def table_of(connection: "Connection", name: str) -> tuple[str, str]:
    """A table's schema and name, given as in SQL. :raises AdapterError: permanent, there is none."""
    rows = await fetch(
        connection,
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = coalesce(to_regclass(%s), to_regclass('public.' || %s))",
        (name, name),
    )
    if not rows:
        raise AdapterError(f"there is no table {name}; correct `loss`, and write it as SCHEMA.TABLE", permanent=True)
    return rows[0][0], rows[0][1]
