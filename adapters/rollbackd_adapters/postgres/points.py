"""Points in time: marks in the server's log, and any time between, as copies that are not dumped yet.

A mark is a restore point. It is a copy whose manifest has only where it is; the log and a backup have the rest, until a
recovery into a scratch cluster has been dumped: then it is a copy like any other. A time is one that nobody marked.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import surely_ahead
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters import lacks
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.copies import DataCopy, Lineage
from rollbackd_adapters.postgres.backup_repository import PROGRAM, Backup, BackupRepository, Backups, position
from rollbackd_adapters.postgres.dump import Dumps, Taken
from rollbackd_adapters.postgres.recovery import LONGEST_SOCKET, LogPoint, ScratchCluster
from rollbackd_adapters.postgres.restoring import PURPOSE
from rollbackd_adapters.postgres.server import GLANCE, DatabaseServer, fetch, value
from rollbackd_adapters.postgres.settings import PgBackRestSettings, PostgresSettings

if TYPE_CHECKING:
    from rollbackd_adapters.postgres.server import Connection

POINT = "point"
"""What a manifest calls the point, among its facts."""
_TIME = "at"
"""What the id of a time begins with; its microseconds since 1970 follow."""
_ARCHIVED_WITHIN = timedelta(minutes=1)
_LOOK_AGAIN = timedelta(milliseconds=500)
_GLIMPSES = 10
_MARKS = 200
"""How many marks are kept at most; they take no room."""
_SHOWN = 5
_STATE = """
    SELECT (SELECT system_identifier FROM pg_control_system()), pg_current_wal_insert_lsn()::text,
    (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
    ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int,
    current_setting('server_version_num')::int / 10000, (SELECT rolname FROM pg_roles WHERE oid = 10), clock_timestamp()
"""
_ARCHIVING = """
    SELECT current_setting('archive_mode') = 'off', last_archived_time < clock_timestamp() - interval '1 minute'
    AND left(last_archived_wal, 24) < pg_walfile_name(pg_current_wal_insert_lsn() - %s::numeric)
    FROM pg_stat_archiver
"""


@dataclass(frozen=True, slots=True)
class WalState:
    """Where the server's log is."""

    system: int
    lsn: str
    segment: int
    """Bytes of one segment."""
    timeline: int
    version: int
    superuser: str
    """The role that the server was made with."""
    ahead: timedelta
    """By how much its clock is surely ahead of ours; negative: behind."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Where the server's log is, and the backups that lead into it, asked once."""

    state: WalState
    backups: Backups


class Points(LayerPart[PostgresSettings]):
    """Sets marks, and makes copies of what is only a point of the log."""

    def __init__(
        self, settings: PostgresSettings, place: Place, server: DatabaseServer, given: PgBackRestSettings
    ) -> None:
        super().__init__(settings, place)
        self._server = server
        self._repository = BackupRepository(settings, place, given)

    async def _state(self, connection: "Connection") -> WalState:
        asked = self._clock.now()
        system, lsn, segment, timeline, version, superuser, theirs = (await fetch(connection, _STATE))[0]
        ahead = surely_ahead(asked, theirs, self._clock.now())
        return WalState(system, lsn, segment, timeline, version, superuser, ahead)

    async def mark(self, name: str) -> LogPoint:
        """Set a mark: what was committed before this is in it."""
        async with self._server.connect(self._settings.maintenance, "mark") as connection:
            rows = await fetch(
                connection,
                "SELECT lsn::text, ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::int"
                " FROM pg_create_restore_point(%s) lsn",
                (name,),
            )
            boundary("postgres.marked")
            await connection.execute("SELECT pg_switch_wal()")
        return LogPoint(name, *rows[0])

    # -- which there are ------------------------------------------------------------------------
    async def look(self) -> Archive:
        """:raises AdapterError: the server or the repository does not answer."""
        async with self._server.connect(self._settings.maintenance, "look") as connection:
            state = await self._state(connection)
        return Archive(state, await self._repository.backups(state.system, state.version))

    def reachable(self, copies: Sequence[DataCopy], there: Archive) -> list[DataCopy]:
        """Those that need no backup, and those that have one."""

        def is_reachable(copy: DataCopy) -> bool:
            try:
                return _backup_of(self._located(copy, there.state), there.backups) is not None
            except AdapterError:  # what is wrong with it is told where it is asked for
                return False

        return [copy for copy in copies if is_dumped(copy) or is_reachable(copy)]

    def at(self, time: datetime, lineage: Lineage, there: Archive) -> DataCopy | None:
        """The copy of a time; None: it is to come, or no backup is that old.

        :param lineage: what runs now.
        """
        if time > self._clock.now():
            return None
        copy = replace(self.copy_of(time_id(time)), lineage=lineage)
        backup = there.backups.before_time(time + there.state.ahead, there.state.timeline)
        return copy if backup is not None else None

    @staticmethod
    def copy_of(release: str) -> DataCopy:
        """The copy of a time, by its id. :raises ValueError: it is of no time."""
        if not release.startswith(_TIME):
            raise ValueError(f"{one_line(release)!r} is of no time")
        time = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(release.removeprefix(_TIME)))
        name = f"{_TIME}-{time:%Y%m%dT%H%M%S.%fZ}"
        return DataCopy(name, release, time, "time", Lineage(), facts={POINT: {}})

    async def harms(self, copy: DataCopy, there: Archive | None = None) -> list[str]:
        """Why a point cannot be recovered to, a sentence each. Only a recovery proves it."""
        there = there or await self.look()
        state, backups = there.state, there.backups
        point = self._located(copy, state)
        if (backup := _backup_of(point, backups)) is None:
            return [f"no backup without errors ended before {point}"]
        last = position(point.lsn or state.lsn)
        arrived = position(f"{backups.newest[8:16]}/0") if backups.newest else 0
        arrived += int(backups.newest[16:] or "0", 16) * state.segment if backups.newest else 0
        recent = point.time is not None or self._clock.now() - copy.created < _ARCHIVED_WITHIN
        missing = await self._missing(backups, backup, min(last, arrived) if recent else last, point, state)
        return [missing] if missing else []

    async def _missing(self, backups: Backups, backup: Backup, last: int, point: LogPoint, state: WalState) -> str:
        lost = await self._repository.missing(backups, backup.began, last, point.timeline, state.segment)
        if not lost:
            return ""
        text = f"{len(lost)} segments of WAL between backup {backup.label} and {point} are not in the repository"
        return f"{text} ({', '.join(lost[:_SHOWN])})"

    @staticmethod
    def _located(copy: DataCopy, state: WalState) -> LogPoint:
        """Its point; that of a time by the server's clock."""
        if copy.facts[POINT]:
            return point_of(copy)
        return LogPoint(timeline=state.timeline, time=copy.created + state.ahead)

    async def unlogged(self) -> list[str]:
        """Tables that come back empty from a recovery."""
        async with self._server.connect(self._settings.database, "look") as connection:
            rows = await fetch(
                connection,
                "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n"
                " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1 LIMIT 20",
            )
        return [one_line(row[0]) for row in rows]

    async def beyond(self, copies: Sequence[DataCopy]) -> list[DataCopy]:
        """Marks that no backup leads to any more, the oldest of too many, and times: they need no keeping."""
        marks = [copy for copy in copies if copy.facts[POINT]]
        kept = {copy.name for copy in self.reachable(marks, await self.look())[:_MARKS]} if marks else set()
        return [copy for copy in copies if copy.name not in kept]

    # -- a dump of one --------------------------------------------------------------------------
    async def dump(self, copy: DataCopy, into: Path, lock: Lock, purpose: str = PURPOSE) -> Taken:
        """Recover to a point in a scratch cluster, and dump the layer's database there into an empty directory.

        :raises HarmedCopyError: the log does not lead there.
        :raises AdapterError: permanent when trying again does not help.
        """
        async with self._server.connect(self._settings.maintenance, "look") as connection:
            point = self._located(copy, await self._state(connection))
        state, backups = await self._archived(point)
        if (backup := _backup_of(point, backups)) is None:
            text = f"{self._place.layer}: no backup without errors ended before {point}"
            raise AdapterError(f"{text}; the repository keeps too few", permanent=True)
        if missing := await self._missing(backups, backup, position(point.lsn or state.lsn), point, state):
            raise AdapterError(f"{self._place.layer}: {missing}", permanent=True)
        cluster = self._cluster(purpose)
        async with cluster.at(point, backup, state.version, state.superuser, lock) as apart:
            return await Dumps(apart, self._place, DatabaseServer(apart, self._place)).take(into, lock, gives_way=False)

    async def _archived(self, point: LogPoint) -> tuple[WalState, Backups]:
        """Wait until the repository has all that a recovery reads.

        A time is reached only where something was committed after it, so something is.

        :raises AdapterError: it does not arrive.
        """
        end = self._clock.monotonic() + _ARCHIVED_WITHIN.total_seconds()
        async with self._server.connect(self._settings.maintenance, "mark", GLANCE) as connection:
            async with connection.transaction():
                await connection.execute("SELECT pg_current_xact_id()")
            state = await self._state(connection)
            wanted = await value(connection, "SELECT pg_walfile_name(%s::pg_lsn)", (point.lsn or state.lsn,))
            await connection.execute("SELECT pg_switch_wal()")
        while True:
            backups = await self._repository.backups(state.system, state.version)
            if backups.newest[8:] >= wanted[8:]:
                return state, backups
            if self._clock.monotonic() > end:
                text = f"segment {wanted} is not in the repository after {format_duration(_ARCHIVED_WITHIN)}"
                raise AdapterError(f"{self._place.layer}: {text}; is `archive_command` well?", permanent=False)
            await self._clock.sleep(_LOOK_AGAIN)

    def _cluster(self, purpose: str) -> ScratchCluster:
        return ScratchCluster(self._settings, self._place, self._server, self._repository, purpose)

    async def end(self, *purposes: str) -> None:
        """End the scratch clusters that a killed life left."""
        for purpose in purposes:
            await self._cluster(purpose).end()

    # -- readiness ------------------------------------------------------------------------------
    async def problems(self, copies: Sequence[DataCopy]) -> list[str]:
        """What would stop a recovery right now, a sentence each."""
        user, cluster = self._repository.given.run_as, self._cluster(PURPOSE)
        found = [*lacks.missing_programs(self._spawner, [PROGRAM]), *lacks.not_somebody_else(user)]
        if os.geteuid() == 0 and user in {"", "root"}:
            found.append("PostgreSQL does not run as root; give `pgbackrest: {run_as: postgres}`")
        if len(str(cluster.socket).encode()) > LONGEST_SOCKET:
            text = f"{cluster.socket}: the path of a socket has {LONGEST_SOCKET} bytes at most"
            found.append(f"{text}; give a shorter `pgbackrest: {{scratch: …}}`")
        if found:
            return found
        async with self._server.connect(self._settings.maintenance, "ready") as connection:
            state = await self._state(connection)
            found += await self._rights(connection)
            off, behind = (await fetch(connection, _ARCHIVING, (state.segment,)))[0]
            for _ in range(_GLIMPSES if behind else 0):  # a segment that was full just now is on its way
                await self._clock.sleep(_LOOK_AGAIN)
                off, behind = (await fetch(connection, _ARCHIVING, (state.segment,)))[0]
        program = self._server.program("postgres", state.version)
        found += lacks.missing_programs(self._spawner, [program])
        if off:
            found.append("`archive_mode` is off, so there is no way to a point in time; set it, and restart the server")
        elif behind:
            found.append("no WAL was archived for more than a minute; mend `archive_command`")
        try:
            backups = await self._repository.backups(state.system, state.version)
        except AdapterError as error:
            return [*found, str(error).removeprefix(f"{self._place.layer}: ")]
        if not backups.all:
            return [*found, f"there is no backup without errors; `{PROGRAM} backup` makes one"]
        largest = max(backup.size for backup in backups.all)
        found += self._lacking(lacks.existing(cluster.directory), largest)
        marks = [copy for copy in copies if not is_dumped(copy)]
        newest = marks[0] if marks else self.copy_of(time_id(self._clock.now()))
        return found + await self.harms(newest, Archive(state, backups))

    @staticmethod
    async def _rights(connection: "Connection") -> list[str]:
        rows = await fetch(
            connection,
            "SELECT f, current_user FROM unnest(ARRAY['pg_create_restore_point(text)', 'pg_switch_wal()']) f"
            " WHERE NOT has_function_privilege(f, 'EXECUTE')",
        )
        text = "role {1} may not call {0}; in `maintenance`: GRANT EXECUTE ON FUNCTION {0} TO {1}"
        return [text.format(*row) for row in rows]

    def _lacking(self, where: Path, size: int) -> list[str]:
        try:
            lacks.need_room(where, size + self._settings.floor, "a scratch cluster ")
        except AdapterError as error:
            return [str(error)]
        return []


def is_dumped(copy: DataCopy) -> bool:
    """Whether a copy has its data, and is not only a point of the log."""
    return "rows" in copy.facts


def point_of(copy: DataCopy) -> LogPoint:
    """:raises AdapterError: permanent, its manifest does not say where it is."""
    try:
        return LogPoint.read(copy.facts.get(POINT, {}))
    except ValueError as error:
        raise AdapterError(f"copy {copy.name}: its manifest is damaged: {error}", permanent=True) from error


def time_id(time: datetime) -> str:
    """The id of the copy of a time."""
    return f"{_TIME}{(time - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1):016d}"


def _backup_of(point: LogPoint, backups: Backups) -> Backup | None:
    if point.time is not None:
        return backups.before_time(point.time, point.timeline)
    return backups.before(position(point.lsn), point.timeline)
