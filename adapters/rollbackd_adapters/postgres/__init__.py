"""PostgreSQL databases: copies by `pg_dump`, and restores beside the present one, which is then put in its place.

A release is the lineage: which restore the data stems from. It is in the database's comment. A restore goes into a new
database while the present one serves; both names change in one transaction, and the database that was replaced stays
and can be gone back to in the same way. psycopg is imported on first use.

https://www.postgresql.org/docs/15/
"""

import os
import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Difference, Place, Snapshot, SnapshotProblem
from rollbackd.model import Change, DataLoss, Release
from rollbackd.syntax.units import writable
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, one_line, sync_directory
from rollbackd_adapters import lacks
from rollbackd_adapters.copies import (
    BEFORE,
    DataCopy,
    Lineage,
    copy_as_of,
    copy_of,
    new_id,
)
from rollbackd_adapters.databases import (
    PATIENCE,
    DatabaseAdapter,
    emptied,
    imported,
    release_of,
    rows_that_differ,
)
from rollbackd_adapters.failures import holding, refusals_told
from rollbackd_adapters.postgres import export_file
from rollbackd_adapters.postgres.catalogue import Catalogue, Database, beside, drop, look
from rollbackd_adapters.postgres.dump import DATA, FACTS, Dumps, Taken
from rollbackd_adapters.postgres.leftovers import Leftovers
from rollbackd_adapters.postgres.opened import ServedDatabase
from rollbackd_adapters.postgres.points import POINT, Points, is_dumped
from rollbackd_adapters.postgres.readiness import DatabaseReadiness
from rollbackd_adapters.postgres.restoring import PURPOSE, HarmedCopyError, Restores, Table
from rollbackd_adapters.postgres.schema_copies import SchemaCopies
from rollbackd_adapters.postgres.server import DatabaseServer, both
from rollbackd_adapters.postgres.settings import PostgresSettings
from rollbackd_adapters.postgres.swap import Swap
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, named

TRIAL = "try"
"""What rehearsals are called at the server, and what they make."""


class PostgresAdapter(DatabaseAdapter[PostgresSettings]):
    """A PostgreSQL database."""

    settings_model = PostgresSettings
    _kind = "postgres"
    _noted = ("copy", "after", "kept")
    _no_copy = "name one of `rollbackd snapshot list`"
    _unknown = ": no copy of it is here, nor the database; see `rollbackd snapshot list`"

    def __init__(self, settings: PostgresSettings, place: Place) -> None:
        super().__init__(settings, place)
        given = settings.parameters
        where = given.get("host") or given.get("hostaddr")
        self.resource = f"postgres:{where}:{given.get('port', '5432')}/{settings.database}"
        self._server = DatabaseServer(settings, place)
        self._dumps = Dumps(settings, place, self._server)
        self._restores = Restores(settings, place, self._server, self._dumps)
        self._swap = Swap(settings, place, self._server)
        self._leftovers = Leftovers(settings, self._server)
        self._schemas = SchemaCopies(settings, place, self._dumps, self._store)
        source = settings.pgbackrest
        self._points = Points(settings, place, self._server, source) if source is not None else None
        self._readiness = DatabaseReadiness(settings, place, self._server, self._swap, self._store.directory)

    # -- releases -------------------------------------------------------------------------------
    async def _look(self) -> Catalogue:
        async with self._server.connect(self._settings.maintenance, "look") as connection:
            return await look(connection, self._settings.database)

    async def current(self) -> Release:
        return release_of((await self._look()).present.lineage)

    async def releases(self) -> Sequence[Release]:
        seen = await self._look()
        copies = await in_thread(self._whole)
        found = [database.release for database in seen.replaced] + [self._release(seen, copy) for copy in copies]
        found.sort(key=lambda release: release.created or datetime.min.replace(tzinfo=UTC), reverse=True)
        return [release_of(seen.present.lineage), *found]

    @staticmethod
    def _release(seen: Catalogue, copy: DataCopy) -> Release:
        return Release(seen.release_of(copy.id), copy.name, copy.created)

    def _is_there(self, copy: DataCopy) -> bool:
        if self._store.is_harmed(copy):
            return False
        if self._is_point(copy):
            return True
        return copy.facts.keys() >= FACTS and (self._store.path(copy.name) / DATA / "toc.dat").is_file()

    def _is_point(self, copy: DataCopy) -> bool:
        """Whether it is a point of the server's log, that is not dumped yet."""
        return self._points is not None and POINT in copy.facts and not is_dumped(copy)

    def _copy(self, name: str) -> DataCopy:
        if self._schemas.harms(name) is not None:
            raise AdapterError(f"{name} is of the schema alone: it has no rows to go back to", permanent=True)
        return self._complete(self._store.copy(name))

    def _copy_of(self, release: str) -> DataCopy:
        try:
            return self._complete(self._store.by_release(release))
        except AdapterError:
            if self._points is None:
                raise
            try:
                return self._points.copy_of(copy_of(release))
            except ValueError:
                pass
            raise

    def _complete(self, copy: DataCopy) -> DataCopy:
        """:raises AdapterError: permanent, its manifest does not say what it holds."""
        if (missing := sorted(FACTS - copy.facts.keys())) and not self._is_point(copy):
            text = f"copy {copy.name}: its manifest is damaged, it has no {missing[0]}; use another copy"
            raise AdapterError(text, permanent=True)
        return copy

    async def as_of(self, time: datetime) -> Release:
        seen = await self._look()
        lineage, copies = seen.present.lineage, await in_thread(self._whole)
        if self._points is None:
            return self._release(seen, self._as_of(copies, lineage, time))
        try:
            there = await self._points.look()
            reachable = self._points.reachable(copies, there)
            found = copy_as_of(reachable, lineage, time)
            if found is None or time - found.created > self._settings.max_loss:
                found = self._points.at(time, lineage, there) or self._as_of(reachable, lineage, time)
        except AdapterError:  # `ready` says why; without the repository there still are the dumps
            found = copy_as_of([copy for copy in copies if is_dumped(copy)], lineage, time)
            if found is None:
                raise
        return self._release(seen, found)

    async def mark(self, at: datetime, why: str) -> None:
        """Set a mark in the server's log, of what is there now, to be gone back to as of `at`."""
        if self._points is None:
            return
        own = new_id()
        lineage = (await self._look()).present.lineage
        point = await self._points.mark(f"rollbackd_{own}")
        name = f"mark-{why}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{own}"  # no other has it, so no copy is waited for
        await in_thread(self._begin_point, DataCopy(name, own, at, why, lineage, facts={POINT: point.written}))

    async def plan(self, target: Release) -> Change:
        self._check_id(target)
        seen = await self._look()
        before, layer = release_of(seen.present.lineage), self._place.layer
        if target.id == before.id:
            return Change(layer, before, before)
        if (old := seen.by_release(target.id)) is not None:
            loss = DataLoss(old.until or self._clock.now(), self._settings.max_loss)
            return Change(layer, before, old.release, risks=self._risks(seen, old.name), loss=loss)
        copy = await in_thread(self._copy_of, target.id)
        if seen.release_of(copy.id) != target.id or not await in_thread(self._is_there, copy):
            raise AdapterError(f"{one_line(target.name)}{self._unknown}", permanent=True)
        risks = self._risks(seen, "")
        if self._points is not None and self._is_point(copy):
            risks = (*await self._recovered(self._points, copy), *risks)
        loss = DataLoss(copy.created, self._settings.max_loss)
        return Change(layer, before, self._release(seen, copy), risks=risks, loss=loss)

    async def _recovered(self, points: Points, copy: DataCopy) -> tuple[str, ...]:
        """What it means that a copy is a point of the log. :raises AdapterError: the log does not lead there."""
        if harms := await points.harms(copy):
            raise AdapterError(f"{self._place.layer}: {copy.name}: {'; '.join(harms)}", permanent=True)
        own = ("the whole server is recovered to that point in a scratch cluster first, and dumped there",)
        empty = await points.unlogged()
        return (*own, f"unlogged tables come back empty: {', '.join(empty)}") if empty else own

    def _risks(self, seen: Catalogue, old: str) -> tuple[str, ...]:
        away = beside(seen.present.name, "old", seen.present.lineage.id)
        what = f"{old} is put in place as it is" if old else "it is restored beside the present, which goes on serving"
        closed = f"{self._settings.closed.total_seconds():g} s"
        return (
            f"{what}; then every session is ended, and for at most {closed} at a time nobody can connect",
            f"what is replaced stays as database {away}; a line in each database's comment says what it stems from",
            "sequences are raised above the present's, and clients must connect again on 57P01 and `does not exist`",
        )

    # -- the step -------------------------------------------------------------------------------
    async def _put(self, change: Change, trace: Trace, lock: Lock) -> None:
        seen = await self._after_leftovers()
        if seen.present.lineage.id != change.after.id:
            if trace.begun is None:
                trace.intend(oid=seen.present.oid)
            if seen.present.oid != trace.known.get("oid"):
                raise await self._superseded()
            old = seen.by_release(change.after.id)
            made = old or await self._made(change, seen, trace, lock)
            await self._put_in_place(seen.present, made, trace)
        if self._settings.wait_for:
            trace.begin(lsn=trace.known.get("lsn") or await self._swap.position())
            await self._swap.wait_for_standbys(str(trace.known["lsn"]))

    async def _after_leftovers(self) -> Catalogue:
        """The catalogue, once what a killed life left at the server has ended."""
        async with self._server.connect(self._settings.maintenance, "look") as connection:
            for purpose in ("swap", PURPOSE):
                await self._server.end_sessions(connection, purpose)
            seen = await look(connection, self._settings.database)
        if seen.recovering:
            text = f"{self._place.layer}: this server is a standby; `dsn` must lead to the primary"
            raise AdapterError(text, permanent=False)
        if self._points is not None:
            await self._points.end(PURPOSE)
        return seen

    async def _put_in_place(self, present: Database, made: Database, trace: Trace) -> None:
        given: dict[str, int] = dict(trace.known.get("sequences", {}))

        async def before_each() -> None:
            if made.until is None and await self._is_emptied(made, trace):
                raise self._restores.emptied()
            given.update(await self._restores.raise_sequences(present.name, made.name, given))

        granted = trace.known.get("granted")
        await self._swap.swap(present, made, granted, before_each, opened=made.until is not None)

    async def _made(self, change: Change, seen: Catalogue, trace: Trace, lock: Lock) -> Database:
        """The database with what the copy has; or the next older one has, where that loses no more than it may."""
        name = beside(seen.present.name, "new", change.after.id)
        made = seen.named(name)
        if made is not None and made.restored and "granted" in trace.known and not await self._is_emptied(made, trace):
            return made
        copy = await in_thread(self._copy_of, trace.known.get("copy_id", change.after.id))
        while True:
            trace.begin(copy=copy.name, copy_id=copy.id)
            try:
                copy = await self._dumped(copy, lock)
                made, unlogged = await self._restored(copy, change, seen, name, trace, lock)
            except AdapterError as error:
                with suppress(AdapterError):  # else the next life drops it
                    await self._drop(name)
                if isinstance(error, HarmedCopyError):
                    await in_thread(partial(self._store.note_verified, copy, self._clock.now(), whole=False))
                copy = await self._instead(copy, error, change, seen.present.lineage, trace)
            else:
                trace.begin(granted=copy.facts["rights"]["granted"], unlogged=unlogged)
                return made

    async def _is_emptied(self, made: Database, trace: Trace) -> bool:
        """Whether the server crashed since it was restored, and emptied its unlogged tables."""
        return await self._restores.is_emptied(made.name, trace.known.get("unlogged", ()))

    async def _restored(
        self, copy: DataCopy, change: Change, seen: Catalogue, name: str, trace: Trace, lock: Lock
    ) -> tuple[Database, list[Table]]:
        await self._readiness.need_room(copy, seen)
        lineage = Lineage(change.after.id, self._clock.now(), seen.present.lineage.id)
        watched = await self._readiness.watched()
        made, before = await both(
            self._restores.restore(copy, self._store.path(copy.name), name, lineage, lock, watched),
            self._keep_present(trace),
        )
        return await self._restores.check(made, copy, self._store.path(copy.name), before.facts, lock)

    async def _dumped(self, copy: DataCopy, lock: Lock) -> DataCopy:
        """The copy, with its data: what is only a point of the log is recovered, and dumped into it."""
        if self._points is None or not self._is_point(copy):
            return copy
        store = self._store
        if not store.path(copy.name).is_dir():
            await in_thread(self._begin_point, copy)
        with refusals_told(self._place.layer, store.directory):
            into = await in_thread(store.begin, copy.name)
            try:
                copy = _taken(copy, await self._points.dump(copy, into, lock))
                await in_thread(_synced, into)
                boundary("postgres.dumped apart")
                await in_thread(_fill, into, store.path(copy.name))
                await in_thread(store.note, copy)
            finally:
                await in_thread(partial(shutil.rmtree, into, ignore_errors=True))
            boundary("postgres.kept")
            await in_thread(partial(store.note_verified, copy, self._clock.now(), whole=True))
        return copy

    def _begin_point(self, copy: DataCopy) -> None:
        with refusals_told(self._place.layer, self._store.directory):
            for last in (False, True):
                try:
                    self._store.begin(copy.name)
                    self._store.finish(copy)
                except FileNotFoundError:  # pruning may have taken it for a kill's
                    if last:
                        raise
                else:
                    return

    async def _keep_present(self, trace: Trace) -> DataCopy:
        """A copy of what is to be replaced, of this change; made while the restore runs."""
        name = str(trace.known.get("kept", ""))
        if name:
            found = [copy for copy in await in_thread(self._store.copies) if copy.name == name]
            if found:
                return found[0]
        try:
            async with self._storing() as lock:
                name = await in_thread(self._store.free_name, BEFORE, self._clock.now())
                copy = await self._take(name, BEFORE, lock, gives_way=False)
        except AdapterError as error:  # which no older copy would help
            text = f"what is there could not be copied first: {error}"
            raise AdapterError(text, permanent=False, evidence=error.evidence) from error
        trace.begin(kept=copy.name)
        return copy

    async def _drop(self, name: str) -> None:
        async with self._server.connect(self._settings.maintenance, PURPOSE, PATIENCE) as connection:
            await self._restores.drop(connection, name)

    async def _present_id(self) -> str:
        return (await self._look()).present.lineage.id

    async def _problems(self) -> list[str]:
        copies = await in_thread(self._whole)
        dumped = [copy for copy in copies if is_dumped(copy)]
        found = await self._readiness.problems(dumped, needs_copy=self._points is None)
        if self._points is not None:
            found += await self._points.problems(copies)
        return [writable(text) for text in found]

    # -- snapshots ------------------------------------------------------------------------------
    async def _taken(self, name: str, why: str, lock: Lock, known: DataCopy | None) -> Snapshot:
        return (await self._take(name, why, lock, known)).snapshot(restorable=True)

    async def _take(
        self, name: str, why: str, lock: Lock, known: DataCopy | None = None, *, gives_way: bool = True
    ) -> DataCopy:
        with refusals_told(self._place.layer, self._store.directory):
            return await self._made_copy(name, why, lock, known, gives_way=gives_way)

    async def _made_copy(self, name: str, why: str, lock: Lock, known: DataCopy | None, *, gives_way: bool) -> DataCopy:
        store = self._store
        into = await in_thread(store.begin, name)
        try:
            await in_thread(lacks.need_room, into, self._settings.floor, "a copy ")
            taken = await self._dumps.take(into, lock, gives_way=gives_way)
            copy = DataCopy(name, new_id(), taken.created, why, taken.lineage, taken.size, taken.facts)
            if known is not None:
                if known.facts.get("digest") != taken.facts["digest"]:
                    text = f"copy {known.name} holds other data; give another name, or none"
                    raise AdapterError(text, permanent=True)
                return known
            await in_thread(_synced, into)
            await in_thread(store.finish, copy)
        finally:
            await in_thread(partial(shutil.rmtree, into, ignore_errors=True))
        boundary("postgres.kept")
        await in_thread(partial(store.note_verified, copy, self._clock.now(), whole=True))
        return copy

    async def take_schema(self, why: str = "manual") -> Snapshot:
        async with self._storing() as lock:
            return await self._schemas.take(why, await self._look(), lock)

    async def prune_schemas(self, last: int = 0) -> Sequence[str]:
        async with self._storing():
            return await in_thread(self._schemas.prune, last or self._settings.keep)

    def _list(self) -> list[Snapshot]:
        return sorted([*super()._list(), *self._schemas.listed()], key=lambda one: one.created, reverse=True)

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        if (found := await in_thread(self._schemas.harms, name)) is not None:
            return [SnapshotProblem(name, "", text) for text in found]
        copy = await in_thread(self._copy, name)
        if self._points is not None and self._is_point(copy):
            return [SnapshotProblem(name, "", writable(text)) for text in await self._points.harms(copy)]
        harms = await self._dumps.harms(self._store.path(name), copy.facts)
        await in_thread(partial(self._store.note_verified, copy, self._clock.now(), whole=not harms))
        return [SnapshotProblem(name, "", writable(text)) for text in harms]

    # -- for layers that move what is in it ------------------------------------------------------
    @property
    def opened(self) -> ServedDatabase:
        return ServedDatabase(self._settings, self._server, self._settings.database)

    async def heads_of(self, release: str, table: str) -> tuple[str, ...] | None:
        if (old := (await self._look()).by_release(release)) is not None:
            return await ServedDatabase(self._settings, self._server, old.name, old.owner).heads(table)
        return await super().heads_of(release, table)

    @asynccontextmanager
    async def apart(self, name: str, user: str = "") -> AsyncIterator[ServedDatabase]:  # noqa: ARG002  # files need it
        copy = await in_thread(self._copy, name)
        settings = self._settings.model_copy(update={"after_restore": (), "integrity": ()})
        async with self._trial(copy, settings) as made:
            yield ServedDatabase(self._settings, self._server, made.name, made.owner)

    @asynccontextmanager
    async def _trial(self, copy: DataCopy, settings: PostgresSettings) -> AsyncIterator[Database]:
        """A copy restored beside the present, which is dropped again."""
        apart = beside(self._settings.database, TRIAL)
        async with (
            holding(self._spawner, self._rehearsal, PATIENCE) as lock,
            self._with_data(copy, lock) as (whole, path),
        ):
            await self._readiness.need_room(whole, await self._look())
            watched = await self._readiness.watched()
            trial = Restores(settings, self._place, self._server, self._dumps, purpose=TRIAL)
            try:
                lineage = Lineage(whole.id, self._clock.now())
                made = await trial.restore(whole, path, apart, lineage, lock, watched)
                made, _ = await trial.check(made, whole, path, None, lock)
                yield made
            finally:
                async with self._server.connect(self._settings.maintenance, TRIAL, PATIENCE) as connection:
                    await trial.drop(connection, apart)

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        copy = await in_thread(self._copy, name)
        try:
            async with self._trial(copy, self._settings):
                return []
        except AdapterError as error:
            if not error.permanent:
                raise
            return [SnapshotProblem(name, "", str(error))]

    @asynccontextmanager
    async def _with_data(self, copy: DataCopy, lock: Lock) -> AsyncIterator[tuple[DataCopy, Path]]:
        """A copy with its data, and where that is; what is dumped only for this is gone after the block."""
        if self._points is None or not self._is_point(copy):
            yield copy, self._store.path(copy.name)
            return
        into = self._trial_dump
        try:
            with refusals_told(self._place.layer, into):
                await in_thread(emptied, into)
            yield _taken(copy, await self._points.dump(copy, into, lock, TRIAL)), into
        finally:
            await in_thread(partial(shutil.rmtree, into, ignore_errors=True))

    @property
    def _trial_dump(self) -> Path:
        """Where a rehearsal dumps."""
        return self._store.directory / f".{TRIAL}"

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        first = (await in_thread(self._counted, older)).facts
        if newer:
            return _differences(first, (await in_thread(self._counted, newer)).facts)
        return _differences(first, {"rows": await self._dumps.rows()})

    def _counted(self, name: str) -> DataCopy:
        """:raises AdapterError: permanent, nobody knows what it holds."""
        copy = self._copy(name)
        if self._is_point(copy):
            text = f"{name} is a point of the log, and what it holds is known once it was restored"
            raise AdapterError(f"{text}; compare another copy", permanent=True)
        return copy

    async def lost(self, *, export: bool = False) -> Sequence[Difference]:
        seen = await self._look()
        old = seen.by_release(seen.present.lineage.was)
        if old is None:
            text = f"{self._place.layer}: the database that the last restore replaced is not there any more"
            raise AdapterError(f"{text}; its copy is, if `rollbackd snapshot list` has one", permanent=True)
        copy = await in_thread(self._copy_of, seen.present.copy or seen.present.lineage.id)
        into = self._place.scratch / "lost" / f"{self._clock.now():%Y%m%dT%H%M%SZ}"
        if export:
            await in_thread(partial(into.mkdir, mode=0o700, parents=True, exist_ok=True))
        return await self._leftovers.of(old, copy, into if export else None)

    async def _goal(self, copy: DataCopy) -> Release:
        return self._release(await self._look(), copy)

    def _replaced(self, copies: Sequence[DataCopy], trace: Trace) -> DataCopy | None:
        return next((copy for copy in copies if copy.name == trace.known.get("kept")), None)

    async def export_to(self, name: str, path: str) -> None:
        await in_thread(self._counted, name)
        if problems := await self.verify(name):
            raise AdapterError(f"copy {name} is damaged: {problems[0].text}; export another one", permanent=True)
        await self._archive("pack", self._store.path(name), path)

    async def import_from(self, path: str) -> Snapshot:
        with refusals_told(self._place.layer, self._store.directory):
            async with self._storing() as lock:
                return (await self._taken_in(path, lock)).snapshot(restorable=True)

    async def _taken_in(self, path: str, lock: Lock) -> DataCopy:
        """The copy that an exported file has, which may be here already."""
        name = await in_thread(self._store.free_name, "import", self._clock.now())
        into = await in_thread(self._store.begin, name)
        try:
            manifest = await self._archive("unpack", into, path, lock)
            copy = await self._believed(imported(name, manifest, 0), path, into, lock)
            known = [one for one in await in_thread(self._whole) if one.id == copy.id]
            if known:
                return known[0]
            await in_thread(_synced, into)
            await in_thread(self._store.finish, copy)
        finally:
            await in_thread(partial(shutil.rmtree, into, ignore_errors=True))
        await in_thread(partial(self._store.note_verified, copy, self._clock.now(), whole=True))
        return copy

    async def _believed(self, copy: DataCopy, path: str, into: Path, lock: Lock) -> DataCopy:
        """A copy from elsewhere, which is what its manifest says. :raises AdapterError: permanent, it is not."""
        try:
            harms = await self._dumps.harms(into, self._complete(copy).facts, lock)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AdapterError(f"{path}: its manifest is damaged; nothing of it is kept", permanent=True) from error
        if harms:
            raise AdapterError(f"{path}: {'; '.join(harms)}; nothing of it is kept", permanent=True)
        return replace(copy, size=await in_thread(_size, into / DATA))

    async def _archive(self, what: str, directory: Path, path: str, lock: Lock | None = None) -> Any:
        """The manifest of an exported file. :raises AdapterError: it cannot be read, or cannot be written."""
        words = (export_file.__file__, what, str(directory), path, str(self._settings.largest))
        said = await self._dumps.answer(f"{path}: reading or writing it", *words, lock=lock)
        return said.get("manifest")

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        gone = await super().prune(spare, last)
        async with holding(self._spawner, self._rehearsal), holding(self._spawner, self.resource):
            if self._points is not None:
                await self._points.end(PURPOSE, TRIAL)
                await in_thread(partial(shutil.rmtree, self._trial_dump, ignore_errors=True))
            gone = [*gone, *await self._prune_databases(frozenset(spare))]
            if self._points is not None:  # last, since it needs a repository that answers
                gone += await self._prune_marks(self._points, frozenset(spare))
            return gone

    def _pruned(self) -> list[DataCopy]:
        return [copy for copy in super()._pruned() if not self._is_point(copy)]

    async def _prune_marks(self, points: Points, spare: frozenset[str]) -> list[str]:
        """Drop marks that no backup leads to any more."""
        marks = [copy for copy in await in_thread(self._store.copies) if self._is_point(copy)]
        needed = {copy_of(one) for one in spare} | named(self._place.scratch, *self._noted, finished=False)
        gone = [copy for copy in await points.beyond(marks) if not needed & {copy.id, copy.name}]
        for copy in gone:
            await in_thread(self._store.drop, copy.name)
        return [copy.name for copy in gone]

    async def _prune_databases(self, spare: frozenset[str]) -> list[str]:
        """Drop databases that were replaced longer than `keep_old` ago, and what restores left that nobody went on
        with. One with sessions is left for next time.
        """
        name, over = self._settings.database, self._clock.now() - self._settings.keep_old
        gone = []
        async with self._server.connect(self._settings.maintenance, "prune", PATIENCE) as connection:
            seen = await look(connection, name)
            old = [one for one in seen.replaced if one.until is not None and one.until < over]
            for one in seen.others:
                since = one.lineage.since
                if one.name == beside(name, TRIAL) or (
                    one.name == beside(name, "new", one.lineage.id) and since is not None and since < over
                ):
                    old.append(one)
            for one in old:
                if one.lineage.id not in spare or one.until is None:
                    await drop(connection, one.name)
                    gone.append(one.name)
        return gone

    @property
    def _rehearsal(self) -> str:
        """The lock of rehearsals. A restore does not wait for it."""
        return f"postgres-rehearsal:{self.resource}"


def _taken(copy: DataCopy, taken: Taken) -> DataCopy:
    """A point of the log, with what was dumped of it."""
    return replace(copy, lineage=taken.lineage, size=taken.size, facts={**copy.facts, **taken.facts})


def _fill(source: Path, directory: Path) -> None:
    """Move what was dumped into the directory of a copy, which has it only once its manifest says so."""
    for path in sorted(source.iterdir()):
        there = directory / path.name
        if there.is_dir():  # an earlier life was killed before it wrote the manifest
            shutil.rmtree(there)
        path.rename(there)
    sync_directory(directory)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def _synced(directory: Path) -> None:
    """Put all that is in a directory on disk."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _differences(first: Any, second: Any) -> list[Difference]:
    old = {".".join(table["table"]): table["rows"] for table in first["rows"]}
    new = {".".join(table["table"]): table["rows"] for table in second["rows"]}
    found = rows_that_differ(old, new)
    if second.get("schema", first.get("schema")) != first.get("schema"):
        found.append(Difference("schema", "changed"))
    return found
