"""A scratch cluster: the whole server as it was at one point of its log, for as long as it takes to dump a database.

It is reached by a socket of its own alone, archives nothing, and runs neither what the server preloads nor its logical
workers: else jobs and subscriptions would run twice. That it stopped where it was to stop its log alone says: where
recovery ended too early, or at a commit that only looks like it, everything else looks well.

https://www.postgresql.org/docs/15/runtime-config-wal.html#RUNTIME-CONFIG-WAL-RECOVERY-TARGET
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import writable
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Finished, Lock, one_line
from rollbackd_adapters import lacks
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.databases import given_to
from rollbackd_adapters.failures import as_adapter_errors, refusals_told
from rollbackd_adapters.postgres.backup_repository import Backup, BackupRepository
from rollbackd_adapters.postgres.restoring import HarmedCopyError, free_bytes, unless_full
from rollbackd_adapters.postgres.server import DatabaseServer, value
from rollbackd_adapters.postgres.settings import PostgresSettings
from rollbackd_adapters.threads import in_thread

_PORT = 5432
LONGEST_SOCKET = 107 - len(f"/.s.PGSQL.{_PORT}")
"""Bytes of the path of a directory with a socket."""
_LOOK_AGAIN = timedelta(milliseconds=200)
_ENDS_WITHIN = timedelta(seconds=20)
_TAIL = 2**16
_ROOM = 64 * 2**20
"""What recovery needs at least while it runs: a few segments of the log."""
_READY = "database system is ready to accept connections"
_FATAL = re.compile(r"(?:FATAL|PANIC): +(.*)")
_PASSING = re.compile(r"No space|shared memory|ermission denied|already in use|too many open files|annot allocate")
"""What is said of this host, and not of the log."""
_RECOVERING = ("archive_mode", "restore_command", "recovery_target")
"""What is kept of the settings that the server had in `postgresql.auto.conf`: what pgBackRest added."""
_FIXED: Mapping[str, str | int] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": _PORT,
    "archive_mode": "off",
    "hot_standby": "off",
    "shared_preload_libraries": "",
    "max_logical_replication_workers": 0,
    "max_wal_senders": 0,
    "autovacuum": "off",
    "fsync": "off",  # nothing of it outlives a power cut
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",  # a kill leaves nothing outside of the directory
    "huge_pages": "off",
    "restart_after_crash": "off",
    "max_connections": 100,
    "max_prepared_transactions": 1000,
    "max_locks_per_transaction": 1024,
    "logging_collector": "on",
    "log_destination": "stderr",
    "log_filename": "log",
    "log_rotation_age": 0,
    "log_rotation_size": 0,
    "log_min_messages": "warning",
    "log_statement": "none",
    "lc_messages": "C",  # whose words are known
}


@dataclass(frozen=True, slots=True)
class LogPoint:
    """A point of the server's log that one can recover to."""

    name: str = ""
    """The restore point's; empty: it is a time."""
    lsn: str = ""
    """Where the restore point is."""
    timeline: int = 0
    """That of the restore point; of a time that which the server was on when it was asked for."""
    time: datetime | None = None
    """By the server's clock: what was committed before it comes back."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "LogPoint":
        """As `written` gave it. :raises ValueError: it is none."""
        try:
            time = datetime.fromisoformat(given["time"]) if given["time"] else None
            found = cls(str(given["name"]), str(given["lsn"]), int(given["timeline"]), time)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{one_line(str(given))!r} is no point of a log") from error
        if (time is None) == (not found.name) or (time is not None and time.tzinfo is None):
            raise ValueError(f"{one_line(str(given))!r} is no point of a log")
        return found

    @property
    def written(self) -> dict[str, Any]:
        time = self.time.isoformat() if self.time is not None else ""
        return {"name": self.name, "lsn": self.lsn, "timeline": self.timeline, "time": time}

    @property
    def target(self) -> Sequence[str]:
        """The same as pgBackRest takes it."""
        if self.time is None:
            return ["--type=name", f"--target={self.name}"]
        return ["--type=time", f"--target={self.time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00", "--target-exclusive"]

    @property
    def reached(self) -> re.Pattern[str]:
        """What the log says when recovery stopped there."""
        if self.time is None:
            return re.compile(rf'recovery stopping at restore point "{re.escape(self.name)}"')
        return re.compile(r"recovery stopping before (?:commit|abort) of (?:prepared )?transaction")

    def __str__(self) -> str:
        return f"restore point {self.name}" if self.time is None else f"{self.time.isoformat()} of the server's clock"


class ScratchCluster(LayerPart[PostgresSettings]):
    """One scratch cluster of a layer, by what it is for."""

    def __init__(
        self,
        settings: PostgresSettings,
        place: Place,
        server: DatabaseServer,
        repository: BackupRepository,
        purpose: str,
    ) -> None:
        super().__init__(settings, place)
        self._server = server
        self._repository = repository
        self._user = repository.given.run_as
        above = repository.given.scratch or place.scratch
        self.directory = above / server.named(purpose)
        self._data = self.directory / "data"
        self.socket = self.directory / "socket"

    @contextlib.asynccontextmanager
    async def at(
        self, point: LogPoint, backup: Backup, version: int, superuser: str, lock: Lock
    ) -> AsyncIterator[PostgresSettings]:
        """The settings by which the layer's database is reached in the scratch cluster, recovered to a point.

        It is gone after the block, and what a kill left of an earlier one before it.

        :param superuser: the role that the server was made with.
        :raises HarmedCopyError: the log does not lead there.
        :raises AdapterError: it could not be tried.
        """
        await self.end()
        try:
            with refusals_told(self._place.layer, self.directory):
                await in_thread(self._make, backup.size)
                boundary("postgres.apart")
                work = self._repository.restore(backup, self._data, point.target, point.timeline, lock)
                await unless_full(work, [self.directory], self._settings.floor, self._clock)
                boundary("postgres.fetched")
                await in_thread(self._configure)
                apart = self._apart(superuser)
                async with self._running(point, version):
                    async with DatabaseServer(apart, self._place).connect(apart.maintenance, "look") as connection:
                        if await value(connection, "SELECT pg_is_in_recovery()"):
                            raise self._failed(point, "", "it still recovers")
                    yield apart
        finally:
            await self.end()

    def _apart(self, superuser: str) -> PostgresSettings:
        from psycopg.conninfo import make_conninfo

        given = {"host": str(self.socket), "port": str(_PORT), "user": superuser, "dbname": self._settings.database}
        return self._settings.model_copy(update={"dsn": make_conninfo(**given), "password": None})

    def _make(self, size: int) -> None:
        self.directory.mkdir(mode=0o700, parents=True)
        lacks.need_room(self.directory, size + self._settings.floor, "a scratch cluster ")
        for path in (self.directory, self._data, self.socket, self.directory / "lock"):
            path.mkdir(mode=0o700, exist_ok=True)
            given_to(self._user, path)

    def _configure(self) -> None:
        """Only what recovery needs is kept of the server's settings."""
        given = dict(_FIXED) | {
            "unix_socket_directories": str(self.socket),
            "log_directory": str(self.directory),
            "hba_file": str(self.directory / "hba.conf"),
            "ident_file": str(self.directory / "ident.conf"),
        }
        lines = [f"{name} = '{str(text).replace(chr(39), 2 * chr(39))}'\n" for name, text in given.items()]
        self._write(self.directory / "postgresql.conf", "".join(lines))
        self._write(self.directory / "hba.conf", "local all all trust\n")  # only its user comes to the socket
        self._write(self.directory / "ident.conf", "")
        auto = self._data / "postgresql.auto.conf"
        kept = [line for line in auto.read_text().splitlines(keepends=True) if line.startswith(_RECOVERING)]
        self._write(auto, "".join(kept))

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        given_to(self._user, path)

    @contextlib.asynccontextmanager
    async def _running(self, point: LogPoint, version: int) -> AsyncIterator[None]:
        argv = [self._server.program("postgres", version), "-D", str(self._data)]
        argv += ["-c", f"config_file={self.directory / 'postgresql.conf'}"]
        around = {"PGBACKREST_ARCHIVE_ASYNC": "n", "PGBACKREST_LOG_LEVEL_FILE": "off"}
        limit = 3 * self._settings.timeout  # recovery, the dump, and some room
        running = asyncio.ensure_future(
            self._spawner.run(argv, timeout=limit, user=self._user, env=around, cwd=Path("/"), umask=0o077)
        )
        try:
            await unless_full(self._recover(point, running), [self.directory], self._settings.floor, self._clock)
            boundary("postgres.recovered")
            yield
        finally:
            await self._stop()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # how it ended is told before
                await running

    async def _recover(self, point: LogPoint, running: "asyncio.Future[Finished]") -> None:
        """Wait until it has recovered. :raises AdapterError: not to the point."""
        end = self._clock.monotonic() + self._settings.timeout.total_seconds()
        while _READY not in (said := await in_thread(self._said)):
            if running.done():
                with as_adapter_errors():
                    ended = running.result()
                raise self._failed(point, said or ended.stderr, ended.ending)
            if self._clock.monotonic() > end:
                raise AdapterError(f"{self._place.layer}: recovery took longer than `timeout`", permanent=False)
            await asyncio.wait({running}, timeout=_LOOK_AGAIN.total_seconds())
        if point.reached.search(said) is None:
            raise self._failed(point, "", "it recovered to somewhere else")

    def _failed(self, point: LogPoint, said: str, ending: str) -> AdapterError:
        fatal = _FATAL.findall(said)
        why = one_line(writable(self._spawner.clean(fatal[-1] if fatal else ending)))[:500]
        text = f"{self._place.layer}: the log does not lead to {point}: {why}"
        if (free := free_bytes(self.directory)) < _ROOM:  # a full volume has no room for a log that says so either
            text = f"{text}; {self.directory}: only {free // 2**20} MiB are free; make room there"
            return AdapterError(text, permanent=False, evidence=said[-2000:])
        if _PASSING.search(said) is not None or (said and not fatal):
            return AdapterError(text, permanent=False, evidence=said[-2000:])
        return HarmedCopyError(text)

    def _said(self) -> str:
        """The end of its log."""
        try:
            with (self.directory / "log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    # -- its end --------------------------------------------------------------------------------
    async def end(self) -> None:
        """End it, whichever life began it, and remove all of it."""
        await self._stop()
        await in_thread(partial(shutil.rmtree, self.directory, ignore_errors=True))

    async def _stop(self) -> None:
        end = self._clock.monotonic() + _ENDS_WITHIN.total_seconds()
        how = signal.SIGQUIT
        while (process := self._postmaster()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, how)
            if self._clock.monotonic() > end:
                how = signal.SIGKILL
            await self._clock.sleep(_LOOK_AGAIN / 4)

    def _postmaster(self) -> int | None:
        """The process that serves the cluster; None: there is none. A number that somebody else has by now is none."""
        try:
            process = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            return process if (Path("/proc") / str(process) / "cwd").samefile(self._data) else None
        except (OSError, ValueError):
            return None
