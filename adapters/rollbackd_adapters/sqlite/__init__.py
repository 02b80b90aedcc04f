"""SQLite databases: copies by the online backup API, and restores into the live file in one transaction.

A release is the lineage: which restore the data stems from. It is a view in the database (`rollbackd_lineage`) that a
restore writes with the data, so that a kill leaves the old one or the new one, and says which. What a restore replaces
is kept inside the restore's own lock. All that opens the database is in `worker.py`, a process of its own.

https://www.sqlite.org/backup.html
"""

import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Difference, Place, Snapshot, SnapshotProblem
from rollbackd.model import Change, DataLoss, Release, Traits
from rollbackd.syntax.units import writable
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters import lacks
from rollbackd_adapters.copies import (
    BEFORE,
    ORIGIN,
    UNREADABLE,
    DataCopy,
    Lineage,
    new_id,
)
from rollbackd_adapters.databases import (
    PATIENCE,
    DatabaseAdapter,
    emptied,
    given_to,
    imported,
    release_of,
    rows_that_differ,
)
from rollbackd_adapters.failures import holding, refusals_told
from rollbackd_adapters.sqlite.jobs import SqliteJobs
from rollbackd_adapters.sqlite.opened import SqliteFile
from rollbackd_adapters.sqlite.settings import IntegrityQuery, SqliteSettings
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace

DATA = "data.sqlite"
"""The database in a copy's directory."""
_GLANCE = timedelta(seconds=20)
"""How long a look may take: the core waits for a minute."""


class SqliteAdapter(DatabaseAdapter[SqliteSettings]):
    """A SQLite database."""

    settings_model = SqliteSettings
    traits = Traits(data=True, local=True)
    _kind = "sqlite"
    _no_copy = "name one, or import one with `rollbackd snapshot import`"
    _unknown = ": no copy of it is here; see `rollbackd snapshot list`"

    def __init__(self, settings: SqliteSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"sqlite:{settings.file}"
        self._jobs = SqliteJobs(place, settings.timeout)

    # -- releases -------------------------------------------------------------------------------
    async def _look(self, *, recover: bool = False, **more: Any) -> tuple[Lineage, dict[str, Any]]:
        """The lineage that is there, and what a restore must fit into."""
        seen = await self._jobs.run("look", limit=_GLANCE, file=str(self._settings.file), recover=recover, **more)
        try:
            return await in_thread(self._dated, Lineage.read(seen["lineage"])), seen
        except (ValueError, KeyError, TypeError) as error:
            text = f"{self._place.layer}: the view rollbackd_lineage was changed ({error}); drop it"
            raise AdapterError(text, permanent=True) from error

    def _dated(self, lineage: Lineage) -> Lineage:
        """A lineage with when it began, which what it replaced knows where the database itself does not."""
        if lineage.since is None and lineage.id not in {ORIGIN, UNREADABLE}:
            for copy in self._store.copies():
                if copy.facts.get("replaced_by") == lineage.id:
                    return Lineage(lineage.id, copy.created, copy.lineage.id)
        return lineage

    async def current(self) -> Release:
        lineage, _ = await self._look()
        return release_of(lineage)

    async def releases(self) -> Sequence[Release]:
        lineage, _ = await self._look()
        copies = await in_thread(self._whole)
        return [release_of(lineage), *(copy.release(lineage.id) for copy in copies)]

    def _is_there(self, copy: DataCopy) -> bool:
        path = self._store.path(copy.name) / DATA
        beside = (path.with_name(f"{DATA}{suffix}") for suffix in ("-wal", "-journal"))
        whole = path.is_file() and path.stat().st_size == copy.size and not self._store.is_harmed(copy)
        return whole and not any(one.exists() for one in beside)

    async def as_of(self, time: datetime) -> Release:
        lineage, _ = await self._look()
        copies = await in_thread(self._whole)
        ran = _last_known(copies) if lineage.id == UNREADABLE else lineage
        return self._as_of(copies, ran, time).release(lineage.id)

    async def plan(self, target: Release) -> Change:
        self._check_id(target)
        lineage, seen = await self._look()
        before = release_of(lineage)
        if target.id == before.id:
            return Change(self._place.layer, before, before)
        copy = await in_thread(self._store.by_release, target.id)
        if copy.release(lineage.id).id != target.id or not await in_thread(self._is_there, copy):
            raise AdapterError(f"{one_line(target.name)}{self._unknown}", permanent=True)
        loss = DataLoss(copy.created, self._settings.max_loss)
        return Change(self._place.layer, before, copy.release(lineage.id), risks=_risks(copy, seen), loss=loss)

    # -- the step -------------------------------------------------------------------------------
    async def _put(self, change: Change, trace: Trace, lock: Lock) -> None:
        copy = await in_thread(self._store.by_release, trace.known.get("copy_id", change.after.id))
        lineage, seen = await self._look(recover=trace.begun is not None)
        if lineage.id == change.after.id:
            return
        now = self._clock.now()
        new = Lineage(change.after.id, now, lineage.id)
        staged = str(self._store.directory / ".staged" / DATA)
        await in_thread(partial(Path(staged).parent.mkdir, mode=0o700, parents=True, exist_ok=True))
        try:
            while True:
                self._need_room(copy, seen)
                journal = trace.known.get("journal") or seen["journal"] or copy.facts.get("journal", "")
                trace.intend(copy=copy.name, copy_id=copy.id, journal=journal)
                as_it_is = bool(copy.facts.get("named")) and copy.id == change.after.id
                try:
                    await self._prepare(copy, staged, new, lock, as_it_is=as_it_is)
                except AdapterError as error:
                    if error.permanent:
                        await in_thread(partial(self._store.note_verified, copy, now, whole=False))
                    ran = _last_known(await in_thread(self._whole)) if lineage.id == UNREADABLE else lineage
                    copy = await self._instead(copy, error, change, ran, trace)
                else:
                    break
            name = await in_thread(self._store.free_name, BEFORE, now)
            manifest = DataCopy(name, new_id(), now, BEFORE, lineage).written
            manifest["facts"] = {"replaced_by": change.after.id}
            await self._jobs.run_recorded(
                "restore", trace, lock,
                file=str(self._settings.file), staged=self._copied(copy)["copy"] if as_it_is else staged,
                store=str(self._store.directory), keep=name, data=DATA,
                manifest=manifest, journal=trace.known["journal"],
                lock_within=self._settings.lock_within.total_seconds(), within=self._settings.timeout.total_seconds(),
            )  # fmt: skip
        finally:
            await in_thread(partial(Path(staged).unlink, missing_ok=True))

    async def _prepare(self, copy: DataCopy, staged: str, new: Lineage, lock: Lock, *, as_it_is: bool) -> None:
        """Put a copy together beside the database. :raises AdapterError: permanent when the copy is not whole."""
        read = await in_thread(self._store.was_verified, copy)
        job = {"staged": staged, "lineage": new.written, "integrity": self._queries, "read": read}
        await self._jobs.run("approve" if as_it_is else "prepare", lock, None, **job, **self._copied(copy))

    def _copied(self, copy: DataCopy) -> dict[str, Any]:
        return {"copy": str(self._store.path(copy.name) / DATA), "facts": dict(copy.facts)}

    @property
    def _queries(self) -> list[dict[str, Any]]:
        return [_asked(query) for query in self._settings.integrity]

    def _need_room(self, copy: DataCopy, seen: dict[str, Any]) -> None:
        """Room for what is prepared and what is kept, and beside the database for its journal."""
        store, room = lacks.existing(self._store.directory), self._settings.room
        lacks.need_room(store, copy.size + int(seen["size"]) + room, "a restore ")
        lacks.need_room(self._settings.file.parent, max(copy.size, int(seen["size"])) + room, "a restore ")

    async def _present_id(self) -> str:
        return (await self._look())[0].id

    async def _progress(self, change: Change, trace: Trace) -> Any:
        if trace.begun is not None and trace.done is None:
            await self._look(recover=True)  # what a kill of ours left is rolled back by the next who opens it
        return await super()._progress(change, trace)

    async def _problems(self) -> list[str]:
        settings = self._settings
        try:
            lineage, seen = await self._look(queries=self._queries)
        except AdapterError as error:
            return [str(error)]
        copies = await in_thread(self._whole)
        store = lacks.existing(self._store.directory)
        texts = list(seen["unasked"])
        if not copies:
            texts.append(f"there is no copy yet; `rollbackd snapshot take {self._place.service} {self._place.layer}`")
        need = (copies[0].size if copies else 0) + int(seen["size"]) + settings.room
        texts += await in_thread(lacks.lacking_room, [store, settings.file.parent], need)
        if copies and (why := _needs_it_closed(lineage, copies[0], seen)):
            texts += await self._open_elsewhere(why)
        return [writable(text) for text in texts]

    async def _open_elsewhere(self, why: str) -> list[str]:
        found = await self._jobs.run("open_in", limit=_GLANCE, file=str(self._settings.file))
        if found["unseen"]:
            return [f"{why}, and it cannot be seen who has it open; run rollbackd as root, or as the database's user"]
        return []

    # -- snapshots ------------------------------------------------------------------------------
    async def _taken(self, name: str, why: str, lock: Lock, known: DataCopy | None) -> Snapshot:
        lacks.need_room(lacks.existing(self._store.directory), self._size() + self._settings.room, "a copy ")
        beside = await in_thread(self._store.begin, name)
        try:
            own = known.id if known is not None else new_id()  # the same data is the same file then
            copy = await self._made(name, own, why, beside / DATA, lock)
            if known is not None:
                return self._same(known, copy)
            await in_thread(self._store.finish, copy)
        finally:
            await in_thread(partial(shutil.rmtree, beside, ignore_errors=True))
        return copy.snapshot(restorable=True)

    async def _made(self, name: str, own: str, why: str, into: Path, lock: Lock) -> DataCopy:
        within = self._settings.timeout.total_seconds()
        job = {"file": str(self._settings.file), "into": str(into), "within": within, "id": own}
        taken = await self._jobs.run("take", lock, None, **job)
        created = self._clock.now() - timedelta(seconds=taken["age"])  # never before the last write that is in it
        return DataCopy(name, own, created, why, Lineage.read(taken["lineage"]), taken["size"], taken["facts"])

    def _same(self, known: DataCopy, now: DataCopy) -> Snapshot:
        """The copy that has the name already. :raises AdapterError: permanent when other data was there then."""
        if known.facts.get("sha256") != now.facts.get("sha256"):
            raise AdapterError(f"copy {known.name} holds other data; give another name, or none", permanent=True)
        return known.snapshot(restorable=self._is_there(known))

    def _size(self) -> int:
        try:
            return self._settings.file.stat().st_size
        except OSError as error:
            raise AdapterError(f"{self._settings.file}: {lacks.hint(error)}", permanent=False) from error

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        copy = await in_thread(self._store.copy, name)
        found = await self._jobs.run("verify", **self._copied(copy))
        harms = list(found["harms"])
        if not harms and "facts" in found:
            copy = replace(copy, facts=found["facts"])
            await in_thread(self._store.note, copy)
        await in_thread(partial(self._store.note_verified, copy, self._clock.now(), whole=not harms))
        return [SnapshotProblem(name, "", writable(text)) for text in harms]

    # -- for layers that move what is in it ------------------------------------------------------
    @property
    def opened(self) -> SqliteFile:
        return SqliteFile(self._settings.file, self._jobs)

    @property
    def _apart(self) -> Path:
        """Where copies are restored beside the present: what may write there may write here."""
        return self._settings.file.with_name(f"{self._settings.file.name}.rollbackd-try")

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        gone = await super().prune(spare, last)
        with suppress(AdapterError):  # a trial that runs removes it itself
            async with holding(self._spawner, f"sqlite-trial:{self._apart}"):  # what a kill left there
                await in_thread(partial(shutil.rmtree, self._apart, ignore_errors=True))
        return gone

    @asynccontextmanager
    async def apart(self, name: str, user: str = "") -> AsyncIterator[SqliteFile]:
        copy = await in_thread(self._store.copy, name)
        directory = self._apart
        async with holding(self._spawner, f"sqlite-trial:{directory}", PATIENCE) as lock:
            lacks.need_room(directory.parent, 2 * copy.size + self._settings.room, "a trial ")
            try:
                with refusals_told(self._place.layer, directory):
                    await in_thread(emptied, directory)
                staged = directory / DATA
                job: dict[str, Any] = {"staged": str(staged), "integrity": [], "lineage": copy.lineage.written}
                await self._jobs.run("prepare", lock, **job, **self._copied(copy))
                await in_thread(given_to, user, staged, directory)
                yield SqliteFile(staged, self._jobs)
            finally:
                await in_thread(partial(shutil.rmtree, directory, ignore_errors=True))

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        copy = await in_thread(self._store.copy, name)
        apart = self._place.scratch / "rehearsal"
        async with holding(self._spawner, f"sqlite-rehearsal:{self._place.scratch}", PATIENCE) as lock:
            await in_thread(emptied, apart)
            try:
                lacks.need_room(apart, 2 * copy.size + self._settings.room, "a rehearsal ")
                new = Lineage(copy.id, self._clock.now()).written
                paths = {"staged": str(apart / "staged"), "scratch": str(apart / DATA)}
                job = {**paths, **self._copied(copy), "lineage": new, "integrity": self._queries}
                found = await self._jobs.run("rehearse", lock, within=self._settings.timeout.total_seconds(), **job)
            except AdapterError as error:
                if not error.permanent:
                    raise
                found = {"harms": [str(error)]}
            finally:
                await in_thread(emptied, apart)
        return [SnapshotProblem(name, "", writable(text)) for text in found["harms"]]

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        first = (await in_thread(self._store.copy, older)).facts
        if newer:
            second = (await in_thread(self._store.copy, newer)).facts
        else:
            second = await self._jobs.run("describe", file=str(self._settings.file))
        return _differences(first, second)

    async def _goal(self, copy: DataCopy) -> Release:
        lineage, _ = await self._look(recover=True)
        return copy.release(lineage.id)

    def _replaced(self, copies: Sequence[DataCopy], _trace: Trace) -> DataCopy | None:
        return next((copy for copy in copies if copy.why == BEFORE), None)

    async def export_to(self, name: str, path: str) -> None:
        copy = await in_thread(self._store.copy, name)
        if "sha256" not in copy.facts and await self.verify(name):
            raise AdapterError(f"copy {name} is damaged; export another one", permanent=True)
        await self._jobs.run("export", copy=str(self._store.path(name)), path=path, data=DATA)

    async def import_from(self, path: str) -> Snapshot:
        async with self._storing() as lock:
            name = await in_thread(self._store.free_name, "import", self._clock.now())
            beside = await in_thread(self._store.begin, name)
            try:
                job: dict[str, Any] = {"path": path, "into": str(beside / DATA), "data": DATA}
                found = await self._jobs.run("unpack", lock, largest=self._settings.largest, **job)
                if found["harms"]:
                    raise AdapterError(f"{path}: {'; '.join(found['harms'])}; nothing of it is kept", permanent=True)
                copy = imported(name, found["manifest"], (beside / DATA).stat().st_size)
                known = [one for one in await in_thread(self._whole) if one.id == copy.id]
                if known:
                    return known[0].snapshot(restorable=True)
                await in_thread(self._store.finish, copy)
            finally:
                await in_thread(partial(shutil.rmtree, beside, ignore_errors=True))
        return copy.snapshot(restorable=True)


def _last_known(copies: Sequence[DataCopy]) -> Lineage:
    """What ran before it broke, as the newest copy has it."""
    return next((copy.lineage for copy in copies if copy.lineage.id != UNREADABLE), Lineage())


def _needs_it_closed(lineage: Lineage, copy: DataCopy, seen: dict[str, Any]) -> str:
    """Why a restore would need that nobody has the database open; empty: it does not."""
    if lineage.id == UNREADABLE:
        return "the database cannot be read, so a restore replaces its file"
    page = copy.facts.get("page")
    if seen["journal"] == "wal" and page not in {None, seen["page"]}:
        return f"the copy has pages of {page} bytes and the database of {seen['page']}, in WAL mode"
    return ""


def _risks(copy: DataCopy, seen: dict[str, Any]) -> tuple[str, ...]:
    said = ["what is there is kept as a copy first; the view rollbackd_lineage in the database says what it stems from"]
    if (mode := copy.facts.get("journal")) and seen["journal"] not in {"", mode}:
        said.append(f"the copy was in journal mode {mode}; the database stays in {seen['journal']}")
    if (text := copy.facts.get("encoding")) and seen["encoding"] not in {"", text}:
        said.append(
            f"its text is in {text} and was in {seen['encoding']}: who has the database open must open it again"
        )
    if seen["journal"] == "wal":
        said.append(f"its -wal grows by the whole copy, {copy.size // 2**20 + 1} MiB")
    return tuple(said)


def _asked(query: IntegrityQuery) -> dict[str, Any]:
    low, high = query.between or (query.above, query.below)
    strict = query.between is None
    wants = [
        f"wants {word} {value:g}"
        for word, value in (("more than", query.above), ("less than", query.below))
        if value is not None
    ]
    said = f"wants {low:g} to {high:g}" if not strict else " and ".join(wants)
    return {"sql": query.sql, "low": low, "high": high, "strict_low": strict, "strict_high": strict, "wants": said}


def _differences(first: Any, second: Any) -> list[Difference]:
    found = rows_that_differ(first.get("rows", {}), second.get("rows", {}))
    if first.get("schema") != second.get("schema"):
        found.append(Difference("schema", "changed"))
    return found
