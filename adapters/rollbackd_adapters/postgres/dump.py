"""Copies of a database: made by `pg_dump` at one snapshot, and read as wholes against what was counted then.

https://www.postgresql.org/docs/15/app-pgdump.html
"""

import asyncio
import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Lock, Spawner, one_line
from rollbackd_adapters.copies import Lineage
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.postgres import reading
from rollbackd_adapters.postgres.catalogue import contents, counted, look, rights
from rollbackd_adapters.postgres.server import DatabaseServer, both, value
from rollbackd_adapters.postgres.settings import PostgresSettings
from rollbackd_adapters.threads import in_thread

if TYPE_CHECKING:
    from rollbackd_adapters.postgres.server import Connection

DATA = "data"
"""The dump in a copy's directory."""
SCHEMA = "schema.sql"
"""The schema beside it."""
FACTS = frozenset(
    {"rows", "blobs", "extensions", "roles", "bytes", "rights", "schema", "major", "tables", "files", "digest"}
)
"""What each manifest has, to verify and restore a copy by."""
_TABLE_DATA = re.compile(r"^(\d+); \d+ (\d+) TABLE DATA ", re.MULTILINE)
_BLOB = re.compile(r"blob_\d+\.dat(\.gz)?")
_LOOK_AGAIN = timedelta(seconds=1)
_PATIENT = 3
"""Looks in a row in which somebody waits for a dump, before it gives way."""
BRANDED = ("\\restrict ", "\\unrestrict ", "--")
"""What begins lines of a schema that differ from one dump to the next, or say nothing."""
ALWAYS = ("--no-password", "--no-subscriptions")
"""A subscription stays with the database that is replaced: two of one name would take the same changes."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Taken:
    """What a dump is of."""

    lineage: Lineage
    created: datetime
    size: int
    facts: Mapping[str, Any]


class Dumps:
    """Makes and reads the dumps of one layer."""

    def __init__(self, settings: PostgresSettings, place: Place, server: DatabaseServer) -> None:
        self._settings = settings
        self._place = place
        self._spawner: Spawner = place.spawner
        self._clock: Clock = place.clock
        self._server = server

    async def take(self, into: Path, lock: Lock, *, gives_way: bool = True) -> Taken:
        """Dump the database into an empty directory, and read what was written.

        :param gives_way: stop as soon as somebody waits for it, such as an ALTER TABLE.
        :raises AdapterError: what was written is not what is there; nothing of it may be used.
        """
        settings, purpose = self._settings, "copy"
        whole = 2 * settings.timeout  # of the dump, and of the wait for its locks
        async with self._server.connect(settings.maintenance, "glance", whole=whole) as watching:
            seen = await look(watching, settings.database)
            about = await rights(watching, seen.present.oid)
            await self._server.end_sessions(watching, purpose)
            locks = {"lock_timeout": f"{settings.lock_within.total_seconds():.3f}s"}
            async with self._server.connect(settings.database, purpose, settings.timeout, whole, **locks) as source:
                await source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                snapshot = await value(source, "SELECT pg_export_snapshot()")
                created = self._clock.now()  # never before the last commit that is in it
                boundary("postgres.snapshot")
                facts, _ = await both(
                    contents(source, settings.loss),
                    self._dump(snapshot, seen.version, into, lock, watching, gives_way=gives_way),
                )
                await source.execute("COMMIT")
        boundary("postgres.dumped")
        facts |= {"rights": about, "comment": seen.present.comment}
        facts |= {"schema": schema_digest(into / SCHEMA), "major": seen.version}
        facts |= {"tables": await self._tables(into / DATA, seen.version)}
        files = await self.read(into / DATA, lock)
        if harms := harms_of(files, facts, {}):
            text = f"{self._place.layer}: the copy is not what was copied: {'; '.join(harms)}"
            raise AdapterError(f"{text}; is the disk well, and is there room?", permanent=False)
        facts["files"] = {name: found["sha256"] for name, found in files.items()}
        facts["digest"] = _digest({name: found for name, found in facts["files"].items() if name != "toc.dat"}, facts)
        size = sum(found["size"] for found in files.values())
        return Taken(seen.present.lineage, created, size, facts)

    async def _dump(
        self, snapshot: str, version: int, into: Path, lock: Lock, watching: "Connection", *, gives_way: bool
    ) -> None:
        program = self._server.program("pg_dump", version)
        if (own := await self._server.version(program)) != version:
            text = f"{program} is of version {own or 'unknown'} and the server of {version}"
            raise AdapterError(f"{text}; install postgresql-client-{version}, or correct `programs`", permanent=True)
        wait = int(self._settings.lock_within.total_seconds() * 1000)
        target = f"--dbname={self._server.conninfo(self._settings.database, 'copy')}"
        common = [program, target, *ALWAYS, f"--snapshot={snapshot}", f"--lock-wait-timeout={wait}"]
        data = ["--format=directory", f"--jobs={self._settings.jobs}", f"--compress={self._settings.level}"]
        dumping = asyncio.ensure_future(self._dump_all(common, data, into, lock))
        waited = 0
        try:
            while True:
                await asyncio.wait({dumping}, timeout=_LOOK_AGAIN.total_seconds())
                if dumping.done():
                    return dumping.result()
                waiting = await self._waiting(watching) if gives_way else 0
                waited = waited + 1 if waiting else 0
                if waited >= _PATIENT:
                    text = f"{self._place.layer}: a session ({waiting}) waits for a lock that the copy has"
                    raise AdapterError(f"{text}, so it gave way; it is tried again later", permanent=False)
        finally:
            dumping.cancel()
            with contextlib.suppress(asyncio.CancelledError, AdapterError):
                await dumping

    async def _dump_all(self, common: Sequence[str], data: Sequence[str], into: Path, lock: Lock) -> None:
        await self._server.run([*common, "--schema-only", f"--file={into / SCHEMA}"], "copy", lock)
        await self._server.run([*common, *data, f"--file={into / DATA}"], "copy", lock)

    async def _waiting(self, watching: "Connection") -> int:
        """The process of a session that a dump of ours keeps waiting; 0: there is none."""
        found = await value(
            watching,
            "SELECT w.pid FROM pg_stat_activity w WHERE w.wait_event_type = 'Lock' AND EXISTS (SELECT FROM"
            " unnest(pg_blocking_pids(w.pid)) b JOIN pg_stat_activity a ON a.pid = b WHERE a.application_name = %s)",
            (self._server.named("copy"),),
        )
        return int(found or 0)

    async def _tables(self, data: Path, version: int) -> dict[str, int]:
        """For each data file of a table, the table's OID: the list of contents names both by number."""
        ended = await self._server.run(
            [self._server.program("pg_restore", version), "--list", str(data)], "list", limit=timedelta(minutes=1)
        )
        listed = _TABLE_DATA.findall(ended.stdout.decode(errors="replace"))
        there = {path.name.partition(".")[0]: path.name for path in await in_thread(lambda: list(data.iterdir()))}
        return {there.get(number, f"{number}.dat"): int(oid) for number, oid in listed}

    async def schema(self, database: str, purpose: str, version: int, into: Path, lock: Lock) -> str:
        """The digest of another database's schema."""
        target = f"--dbname={self._server.conninfo(database, purpose)}"
        argv = [self._server.program("pg_dump", version), target, *ALWAYS, "--schema-only", f"--file={into}"]
        await self._server.run(argv, purpose, lock)
        return schema_digest(into)

    async def rows(self) -> list[dict[str, Any]]:
        """The number of rows of each table that is there now."""
        async with self._server.connect(self._settings.database, "count", self._settings.timeout) as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return await counted(connection)

    # -- reading --------------------------------------------------------------------------------
    async def read(self, data: Path, lock: Lock | None = None) -> dict[str, dict[str, Any]]:
        """What each file of a dump is. :raises AdapterError: it cannot be read."""
        return await self.answer(
            f"{data}: reading it", reading.__file__, str(data), str(self._settings.jobs), lock=lock
        )

    async def answer(self, what: str, script: str, *words: str, lock: Lock | None = None) -> dict[str, Any]:
        """What a script of ours says of files, in a process of its own. :raises AdapterError: it failed.

        :param what: what breaks off when it does, such as `/srv/copies/v1: reading it`.
        """
        argv = [sys.executable, "-I", script, *words]
        with as_adapter_errors():
            ended = await self._spawner.run(argv, timeout=self._settings.timeout, lock=lock, limit=2**28, umask=0o077)
        try:
            answer = json.loads(ended.stdout)
        except ValueError as error:
            raise AdapterError(f"{what} broke off: {ended.ending}", permanent=False) from error
        if "error" in answer:
            raise AdapterError(answer["error"], permanent=answer.get("permanent", False))
        return dict(answer)

    async def harms(self, directory: Path, facts: Mapping[str, Any], lock: Lock | None = None) -> list[str]:
        """What is wrong with a copy, a sentence each."""
        if not (directory / DATA).is_dir():
            return ["its data is gone"]
        found = harms_of(await self.read(directory / DATA, lock), facts, facts.get("files", {}))
        if not found and schema_digest(directory / SCHEMA) != facts["schema"]:
            found = [f"{SCHEMA} was changed"]
        return found


def harms_of(files: Mapping[str, Any], facts: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    """What is wrong with the files of a dump.

    :param facts: what was counted at its snapshot.
    :param known: the sha256 of each file as it was written; empty while it is new.
    """
    rows = {table["oid"]: table for table in facts["rows"]}
    found = [f"{name} is gone" for name in sorted({*known, *facts["tables"]} - {*files})]
    for name, file in files.items():
        said = file["harm"] or ("its bytes are not those that were written" if known.get(name, "") else "")
        if file["harm"] or (known and known.get(name) != file["sha256"]):
            found.append(f"{name}: {said or 'it was not there when the copy was made'}")
        elif name in facts["tables"] and (table := rows.get(facts["tables"][name])) is not None:
            if file["rows"] < 0:
                found.append(f"{name}: it does not end as the data of a table does")
            elif file["rows"] != table["rows"]:
                said = f"has {file['rows']} rows of {'.'.join(table['table'])}, there were {table['rows']}"
                found.append(f"{name}: it {one_line(said)}")
    dumped = {*facts["tables"].values()}
    missing = [table for table in facts["rows"] if table["dumped"] and table["oid"] not in dumped]
    found += [one_line(f"it has no data of {'.'.join(table['table'])}") for table in missing]
    blobs = sum(1 for name in files if _BLOB.fullmatch(name))
    if blobs != facts["blobs"]:
        found.append(f"it has {blobs} large objects, there were {facts['blobs']}")
    return found[:_SHOWN]


def schema_digest(path: Path) -> str:
    """The sha256 of a schema's lines, whatever their order; empty: it is not there."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return ""
    kept = sorted(line for line in lines if line and not line.startswith(tuple(map(str.encode, BRANDED))))
    return hashlib.sha256(b"\n".join(kept)).hexdigest()


def _digest(files: Mapping[str, str], facts: Mapping[str, object]) -> str:
    """Of what a copy holds, whenever it was made."""
    held = [sorted(files.items()), facts["schema"], facts["rows"], facts["blobs"]]
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
