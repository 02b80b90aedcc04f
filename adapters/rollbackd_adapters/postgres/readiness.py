"""Whether a database could be copied, restored and put in place right now. Read only.

https://www.postgresql.org/docs/15/ddl-priv.html
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.system.spawner import Spawner, one_line
from rollbackd_adapters import lacks
from rollbackd_adapters.copies import DataCopy
from rollbackd_adapters.postgres.catalogue import Catalogue, beside, look
from rollbackd_adapters.postgres.restoring import free_bytes
from rollbackd_adapters.postgres.server import DatabaseServer, fetch, value
from rollbackd_adapters.postgres.settings import PostgresSettings
from rollbackd_adapters.postgres.swap import Swap
from rollbackd_adapters.threads import in_thread

if TYPE_CHECKING:
    from rollbackd_adapters.postgres.server import Connection

_OWNERS = """
    SELECT DISTINCT r.rolname FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
    WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'
    AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND NOT pg_has_role(current_user, r.oid, 'USAGE') ORDER BY 1 LIMIT 5
"""
_UNREADABLE = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'S', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT (has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind WHEN 'S' THEN
             has_sequence_privilege(c.oid, 'SELECT') ELSE has_table_privilege(c.oid, 'SELECT') END)
    ORDER BY 1 LIMIT 5
"""
_HIDDEN = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relrowsecurity AND row_security_active(c.oid) ORDER BY 1 LIMIT 5
"""
_PRIVILEGED = """
    SELECT 'event trigger ' || evtname FROM pg_event_trigger
    UNION ALL SELECT 'publication ' || pubname || ' of all tables' FROM pg_publication WHERE puballtables
    UNION ALL SELECT format('function %s in %s', p.oid::regprocedure, l.lanname) FROM pg_proc p
        JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE NOT l.lanpltrusted AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND NOT EXISTS
        (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
    UNION ALL SELECT 'foreign data wrapper ' || fdwname FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'extension ' || e.extname FROM pg_extension e WHERE e.extname <> 'plpgsql' AND NOT EXISTS
        (SELECT FROM pg_available_extension_versions v WHERE v.name = e.extname AND v.version = e.extversion
         AND v.trusted)
    LIMIT 5
"""
_SETTINGS = """
    SELECT DISTINCT CASE WHEN r.rolname IS NULL THEN 'setting ' || p.name ELSE 'settings of role ' || r.rolname END
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN unnest(setconfig) c
    LEFT JOIN pg_settings p ON lower(p.name) = lower(split_part(c, '=', 1)) AND p.context LIKE 'superuser%%'
    WHERE s.setdatabase = %s AND (p.name IS NOT NULL AND NOT has_parameter_privilege(p.name, 'SET')
    OR r.rolname <> current_user AND NOT (SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user))
    ORDER BY 1 LIMIT 5
"""
"""What belongs to a database and only others may set."""
_CONNECTIONS = """
    SELECT current_setting('max_connections')::int - CASE WHEN r.rolsuper THEN 0 ELSE
    current_setting('superuser_reserved_connections')::int
    + coalesce(current_setting('reserved_connections', true)::int, 0) END, count(a.pid),
    CASE WHEN NOT r.rolsuper THEN d.datconnlimit END, count(a.pid) FILTER (WHERE a.datid = d.oid),
    CASE WHEN NOT r.rolsuper THEN r.rolconnlimit END, count(a.pid) FILTER (WHERE a.usesysid = r.oid)
    FROM pg_database d JOIN pg_roles r ON r.rolname = current_user
    LEFT JOIN pg_stat_activity a ON a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
    WHERE d.oid = %s GROUP BY d.oid, r.oid, r.rolsuper, d.datconnlimit, r.rolconnlimit
"""
"""How many there may be and how many there are: at the server, in the database, of our role."""
_TABLESPACES = """
    SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''
    AND (SELECT oid FROM pg_database WHERE datname = %s) IN (SELECT pg_tablespace_databases(pg_tablespace.oid))
    ORDER BY 1
"""
"""Where else a database has files."""


class DatabaseReadiness:
    """Looks at the server of one layer."""

    def __init__(
        self, settings: PostgresSettings, place: Place, server: DatabaseServer, swap: Swap, store: Path
    ) -> None:
        self._settings = settings
        self._place = place
        self._spawner: Spawner = place.spawner
        self._server = server
        self._swap = swap
        self._store = store

    async def problems(self, copies: Sequence[DataCopy], *, needs_copy: bool = True) -> list[str]:
        """A sentence for each thing that stands in the way.

        :param needs_copy: there is nothing else to go back to.
        :raises AdapterError: the server cannot be asked.
        """
        settings = self._settings
        async with self._server.connect(settings.maintenance, "ready") as connection:
            seen = await look(connection, settings.database)
            if seen.recovering:
                return ["this server is a standby, which cannot be written to; `dsn` must lead to the primary"]
            found = await self._programs(seen.version)
            found += await self._rights(connection, seen)
            found += await self._connections(connection, seen)
            found += await self._archiving(connection)
            found += await self._in_the_way(connection, seen)
            if copies:
                found += await self._what_a_copy_needs(connection, copies[0])
        async with self._server.connect(settings.database, "ready") as connection:
            superuser = await _is_superuser(connection)
            found += await self._objects(connection, superuser=superuser)
            size = int(await value(connection, "SELECT pg_database_size(current_database())"))
        if not copies and needs_copy:
            text = f"there is no copy yet; `rollbackd snapshot take {self._place.service} {self._place.layer}`"
            found.append(text)
        return found + await self._room(copies, size)

    async def _programs(self, version: int) -> list[str]:
        found = []
        for name in ("pg_dump", "pg_restore"):
            program = self._server.program(name, version)
            try:
                own = await self._server.version(program)
            except AdapterError as error:
                found.append(f"{error}; install postgresql-client-{version}")
                continue
            if own != version:
                text = f"{program} is of version {own or 'unknown'} and the server of {version}"
                found.append(f"{text}; install postgresql-client-{version}, or correct `programs`")
        return found

    async def _rights(self, connection: "Connection", seen: Catalogue) -> list[str]:
        if await _is_superuser(connection):
            return []
        role = await value(connection, "SELECT current_user")
        found = []
        if not await value(connection, "SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user"):
            found.append(f"role {role} may not create databases; ALTER ROLE {role} CREATEDB")
        if not await value(connection, "SELECT pg_has_role(current_user, %s::name, 'USAGE')", (seen.present.owner,)):
            owner = seen.present.owner
            found.append(f"role {role} is not a member of the owner; GRANT {owner} TO {role}")
        if not await value(connection, "SELECT pg_has_role(current_user, 'pg_signal_backend', 'USAGE')"):
            found.append(f"role {role} may not end sessions of others; GRANT pg_signal_backend TO {role}")
        kept = await fetch(connection, _SETTINGS, (seen.present.oid,))
        return found + [
            one_line(f"the database has {row[0]}, which ours may not set; see docs/adapters.md") for row in kept
        ]

    async def _connections(self, connection: "Connection", seen: Catalogue) -> list[str]:
        """The limits that a restore would meet, with the present's dump beside it."""
        jobs = self._settings.jobs
        whole, there, limit, inside, own, ours = (await fetch(connection, _CONNECTIONS, (seen.present.oid,)))[0]
        return [
            f"{what} {most} connections and {used} are there, a restore needs {need}; raise {how}, or give fewer `jobs`"
            for what, most, used, need, how in (
                ("the server lets in", whole, there, 2 * jobs + 4, "`max_connections`"),
                ("the database lets in", limit, inside, jobs + 2, "its CONNECTION LIMIT"),
                ("our role may have", own, ours, 2 * jobs + 4, "its CONNECTION LIMIT"),
            )
            if most is not None and 0 <= most < used + need
        ]

    async def _objects(self, connection: "Connection", *, superuser: bool) -> list[str]:
        """What of the database our role cannot dump or make again, by name."""
        if superuser:
            return []
        owners = [f"objects of role {row[0]}, of which ours is no member" for row in await fetch(connection, _OWNERS)]
        tables = [f"{row[0]}, which ours may not read" for row in await fetch(connection, _UNREADABLE)]
        hidden = [f"{row[0]}, whose row security hides rows from ours" for row in await fetch(connection, _HIDDEN)]
        asks = [f"{row[0]}, which only a superuser can make" for row in await fetch(connection, _PRIVILEGED)]
        return [one_line(f"the database has {text}; see docs/adapters.md") for text in owners + tables + hidden + asks]

    async def _archiving(self, connection: "Connection") -> list[str]:
        failing = await value(
            connection,
            "SELECT last_failed_wal FROM pg_stat_archiver WHERE current_setting('archive_mode') <> 'off'"
            " AND last_failed_time > coalesce(last_archived_time, '-infinity')",
        )
        if failing is None:
            return []
        return [f"WAL is not archived ({failing} failed), so a restore would fill its volume; mend `archive_command`"]

    async def _in_the_way(self, connection: "Connection", seen: Catalogue) -> list[str]:
        """What keeps the names from changing, or would go on at the database that is replaced."""
        settings, name = self._settings, seen.present.name
        found = []
        for allowed, what, query in (
            ("slots", "logical slot", "SELECT slot_name FROM pg_replication_slots WHERE database = %s"),
            (
                "subscriptions",
                "subscription",
                "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = %s",
            ),
        ):
            if allowed not in settings.allow:
                rows = await fetch(connection, f"{query} ORDER BY 1 LIMIT 5".encode(), (name,))
                text = "stays with the database that is replaced; drop it, or list it in `allow`"
                found += [one_line(f"{what} {row[0]} {text}") for row in rows]
        stands = await self._swap.hindrances(connection, (seen.present.oid,), settings.allow)
        if stands:
            found.append(f"the names could not be changed: {stands}")
        away = beside(name, "old", seen.present.lineage.id)
        if await value(connection, "SELECT oid FROM pg_database WHERE datname = %s", (away,)) is not None:
            found.append(f"a database {away} is there already; rename or drop it")
        return found

    async def _what_a_copy_needs(self, connection: "Connection", copy: DataCopy) -> list[str]:
        facts = copy.facts
        roles = {*facts["roles"], facts["rights"]["owner"]} | {one[0] for one in facts["rights"]["granted"] or ()}
        there = {row[0] for row in await fetch(connection, "SELECT rolname FROM pg_roles")}
        found = [
            f"role {role} is gone, and copy {copy.name} needs it; create it" for role in sorted(roles - there - {""})
        ]
        known = await fetch(connection, "SELECT name, version FROM pg_available_extension_versions")
        names = {row[0] for row in known}
        for name, version in facts["extensions"].items():
            if name not in names:
                found.append(f"extension {name} {version} is gone, and copy {copy.name} needs it; install its package")
        was, now = facts["rights"]["collation"], facts["rights"]["actual"]
        if was and now and was != now:
            found.append(f"the collation was of version {was} and is {now}: REFRESH COLLATION VERSION after a REINDEX")
        return [one_line(text) for text in found]

    # -- room -----------------------------------------------------------------------------------
    async def watched(self) -> list[Path]:
        """Directories on the volumes that a restore writes to; those that cannot be seen are left out."""
        found, _ = await self._volumes()
        return [*found, lacks.existing(self._store)]

    async def _volumes(self) -> tuple[list[Path], list[str]]:
        """Directories on the server's volumes, and why some are unknown."""
        unknown = "give the directories of its data and its WAL as `volumes`"
        if self._settings.volumes:
            return self._seen(self._settings.volumes, unknown)
        host = self._settings.parameters.get("host", "")
        if not host.startswith("/"):
            return [], [f"the room on the server's volumes is unknown, since it is elsewhere; {unknown}"]
        async with self._server.connect(self._settings.maintenance, "ready") as connection:
            may = "SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')"
            if not await value(connection, may):
                return [], [f"the server does not tell our role where its data is; {unknown}"]
            data = Path(str(await value(connection, "SELECT current_setting('data_directory')")))
            others = [Path(row[0]) for row in await fetch(connection, _TABLESPACES, (self._settings.database,))]
        return self._seen((data, data / "pg_wal", *others), unknown)

    @staticmethod
    def _seen(paths: Sequence[Path], unknown: str) -> tuple[list[Path], list[str]]:
        found, lost = [], []
        for path in paths:
            try:
                os.statvfs(path)
            except OSError as error:
                lost.append(f"the room at {path} is unknown ({lacks.hint(error)}); {unknown}")
            else:
                found.append(path)
        return found, lost

    async def _room(self, copies: Sequence[DataCopy], size: int) -> list[str]:
        found, unknown = await self._volumes()
        return unknown + await in_thread(self._lacking, found, copies, size)

    def _lacking(self, volumes: Sequence[Path], copies: Sequence[DataCopy], size: int) -> list[str]:
        """What each volume lacks: that of data takes the target, and as much again for WAL and sorting."""
        target = max([int(copy.facts["bytes"]) for copy in copies[:1]], default=size)
        dump = max([copy.size for copy in copies[:1]], default=size)
        needs: dict[int, tuple[Path, int]] = {}
        for path, wanted in [*((path, 2 * target) for path in volumes), (lacks.existing(self._store), dump)]:
            device = path.stat().st_dev
            first, so_far = needs.get(device, (path, 0))
            needs[device] = (first, max(so_far, wanted) if path in volumes else so_far + wanted)
        floor = self._settings.floor
        return [
            f"{path}: {free // 2**20} MiB free, a restore needs {(wanted + floor) // 2**20 + 1} MiB; make room there"
            for path, wanted in needs.values()
            if (free := free_bytes(path)) < wanted + floor
        ]

    async def need_room(self, copy: DataCopy, _seen: Catalogue) -> None:
        """:raises AdapterError: not permanent, where a restore of the copy has no room."""
        found, _ = await self._volumes()
        if lacking := await in_thread(self._lacking, found, [copy], 0):
            raise AdapterError(f"{self._place.layer}: {'; '.join(lacking)}", permanent=False)


async def _is_superuser(connection: "Connection") -> Any:
    return await value(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
