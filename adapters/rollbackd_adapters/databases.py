"""What adapters of databases share: copies in a store of their own, and restores that keep what was there.

Such an adapter says how a copy is made (`_taken`), which ones are whole (`_is_there`), which release a restore gives
(`_goal`) and how it is put in place (`_put`).
"""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from rollbackd.adapter import AdapterError, Difference, Needs, Place, Settings, Snapshot
from rollbackd.model import NO_RELEASE, Change, Release, Traits
from rollbackd.syntax.units import Duration, Size, writable
from rollbackd.system.spawner import Lock, one_line
from rollbackd.system.users import UnknownUser, identity_of
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.copies import (
    BEFORE,
    LINEAGE_ID,
    CopyStore,
    DataCopy,
    Lineage,
    check_copy_name,
    copy_as_of,
    copy_of,
    kept,
)
from rollbackd_adapters.failures import holding
from rollbackd_adapters.ids import check_own
from rollbackd_adapters.paths import WholePath
from rollbackd_adapters.schemas import DatabaseSchema, Survey
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, named

TRIAL = "trial"
"""Why a copy was taken that is restored beside the present and then dropped."""
PATIENCE = timedelta(minutes=10)
"""How long a copy or a rehearsal waits for another one of the layer."""
_TRIAL_OVER = timedelta(days=1)
"""After what time nobody uses a copy for a trial any more: a kill left it."""


class DatabaseSettings(Settings):
    """What the configuration says about a layer that is a database."""

    store: WholePath | None = None
    """Where copies are kept, in a directory per service and layer; none: with the daemon's own `scratch`."""
    max_loss: Duration = timedelta(minutes=1)
    """How long before the blamed change a copy may be, to be gone back to without asking."""
    keep: Annotated[int, Field(ge=1)] = 14
    """How many copies pruning leaves, the newest ones; never less than one that was found whole."""
    keep_old: Duration = timedelta(days=7)
    """How long what a restore replaced is kept at least."""

    largest: Size = 64 * 2**30
    """What an imported copy may hold at most."""

    @property
    def written(self) -> tuple[Path, ...]:
        """The directories that are written to."""
        return (self.store,) if self.store is not None else ()


DatabaseSettingsT = TypeVar("DatabaseSettingsT", bound=DatabaseSettings)


class OpenDatabase(ABC):
    """A database that can be looked into, and that an application's own programs can be sent to: the present one, or a
    copy beside it."""

    @abstractmethod
    def url(self, dialect: str) -> str:
        """Where it is, as SQLAlchemy writes it, without a password.

        :param dialect: what it begins with, such as `postgresql+psycopg`; empty: SQLAlchemy's own for the database.
        """

    @abstractmethod
    def reached(self) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """The environment in which a program may connect, for as long as it lasts."""

    @abstractmethod
    async def heads(self, table: str) -> tuple[str, ...]:
        """What a version table has, in order; nothing where there is none."""

    @abstractmethod
    async def set_heads(self, table: str, heads: Sequence[str]) -> None:
        """Write something else into it. Of a copy only."""

    @abstractmethod
    async def schema(self, table: str) -> DatabaseSchema:
        """The schema, without the version table."""

    @abstractmethod
    async def survey(self, table: str) -> Survey:
        """All of it is read.

        :param table: the version table, which is told of by itself.
        """

    @abstractmethod
    async def settle(self) -> None:
        """End what a killed program left at the server."""


class DatabaseAdapter(StepAdapter[DatabaseSettingsT]):
    """A database, whose release is its lineage."""

    traits = Traits(data=True)
    _wait = timedelta(seconds=30)
    _kind: str
    """What it is, in the names of its locks."""
    _noted: tuple[str, ...] = ("copy", "after")
    """What a step that goes on notes of the copies that it needs."""
    _no_copy: str
    """What to do where no copy is old enough."""

    def __init__(self, settings: DatabaseSettingsT, place: Place) -> None:
        super().__init__(settings, place)
        own = settings.store / place.service / place.layer if settings.store is not None else place.scratch / "store"
        self._store = CopyStore(own)

    @property
    def needs(self) -> Needs:
        return Needs(writes=self._settings.written)

    # -- what each says of itself ---------------------------------------------------------------
    @abstractmethod
    def _is_there(self, copy: DataCopy) -> bool:
        """Whether a copy's files are there, and nothing wrong was found with them."""

    @abstractmethod
    async def _taken(self, name: str, why: str, lock: Lock, known: DataCopy | None) -> Snapshot:
        """A copy that was made, or the one that has the name already and holds the same."""

    @abstractmethod
    async def _goal(self, copy: DataCopy) -> Release:
        """The release that a restore of a copy gives now."""

    @abstractmethod
    async def _put(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Put a database in place, or see that an earlier life did."""

    @abstractmethod
    def _replaced(self, copies: Sequence[DataCopy], trace: Trace) -> DataCopy | None:
        """The copy of what a restore replaced."""

    # -- for layers that move what is in it ------------------------------------------------------
    @property
    @abstractmethod
    def opened(self) -> OpenDatabase:
        """The present one."""

    @abstractmethod
    def apart(self, name: str, user: str = "") -> AbstractAsyncContextManager[OpenDatabase]:
        """A copy, read as a whole and restored beside the present; gone afterwards, also after a kill.

        :param user: whose programs are sent to it; empty: our own.
        """

    @asynccontextmanager
    async def apart_now(self, user: str = "") -> AsyncIterator[OpenDatabase]:
        """The same with what is there now; nothing of it is kept."""
        taken = await self.take(why=TRIAL)
        try:
            async with self.apart(taken.name, user) as database:
                yield database
        finally:
            with suppress(AdapterError, FileNotFoundError):  # what stays is pruned
                async with self._storing():
                    await in_thread(self._store.drop, taken.name)

    def has_revision(self, heads: Sequence[str]) -> DataCopy | None:
        """The newest whole copy that has these heads of migrations."""
        return next((copy for copy in self._whole() if copy.facts.get("revisions") == list(heads)), None)

    async def heads_of(self, release: str, table: str) -> tuple[str, ...] | None:  # noqa: ARG002  # some ask it
        """The heads of migrations that going to a release brings; None: nobody knows.

        :param table: the version table.
        """
        with suppress(AdapterError):
            heads = (await in_thread(self._store.by_release, release)).facts.get("revisions")
            return None if heads is None else tuple(map(str, heads))
        return None

    def _copy(self, name: str) -> DataCopy:
        """:raises AdapterError: permanent, there is none, or its manifest is damaged."""
        return self._store.copy(name)

    # -- releases -------------------------------------------------------------------------------
    def _whole(self) -> list[DataCopy]:
        """The copies that can be gone back to."""
        return [copy for copy in self._store.copies() if copy.why != TRIAL and self._is_there(copy)]

    def _as_of(self, copies: Sequence[DataCopy], ran: Lineage, time: datetime) -> DataCopy:
        """:raises AdapterError: permanent, no copy brings back the data of that time."""
        found = copy_as_of(copies, ran, time)
        if found is None:
            oldest = f"the oldest is of {_utc(copies[-1].created)}" if copies else "there is none"
            text = f"{self._place.layer}: no copy is as old as {_utc(time)} ({oldest})"
            raise AdapterError(f"{text}; {self._no_copy}", permanent=True)
        return found

    async def mark(self, at: datetime, why: str) -> None:
        """Nothing, where there are only copies."""

    def _check_id(self, release: Release) -> None:
        check_own(release, LINEAGE_ID, "a database's lineage")

    async def _elsewhere(self) -> str:
        return f"{self._place.layer} stems from another restore than this rollback knows: somebody else restored it"

    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        await self._put(change, trace, lock)

    async def _instead(
        self, copy: DataCopy, error: AdapterError, change: Change, ran: Lineage, trace: Trace
    ) -> DataCopy:
        """The next older copy, after one that could not be restored, where it loses no more than may be lost unasked.

        :param ran: what is there now.
        :raises AdapterError: the error itself, where there is none, or where it says nothing of the copy.
        """
        copies = [one for one in await in_thread(self._whole) if one.created < copy.created and one.why != BEFORE]
        found = copy_as_of(copies, ran, copy.created) if error.permanent else None
        if found is None or change.loss is None or change.loss.aim - found.created > change.loss.limit:
            raise error
        said = f"copy {copy.name} could not be restored ({error}), so the next older one was taken"
        trace.begin(fell_back=[*trace.known.get("fell_back", []), said])
        return found

    async def note(self, key: str) -> str:
        """What was done otherwise than people would expect."""
        said = Trace(self._place.scratch, Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key)).known
        return writable(". ".join(map(str, said.get("fell_back", []))))

    # -- snapshots ------------------------------------------------------------------------------
    async def take(self, name: str = "", why: str = "manual") -> Snapshot:
        if name:
            check_copy_name(name)
        elif not why.isalnum() or not why.isascii():
            raise AdapterError(f"{one_line(why)!r} cannot be a part of a name; give one word", permanent=True)
        async with self._storing() as lock:
            known = next((copy for copy in await in_thread(self._store.copies) if name and copy.name == name), None)
            if known is not None or not name:
                name = await in_thread(self._store.free_name, why, self._clock.now())
            return await self._taken(name, why, lock, known)

    async def snapshots(self) -> Sequence[Snapshot]:
        return await in_thread(self._list)

    def _list(self) -> list[Snapshot]:
        own = [copy for copy in self._store.copies() if copy.why != TRIAL]  # which are gone in a moment
        found = [copy.snapshot(restorable=self._is_there(copy)) for copy in own]
        lost = [
            Snapshot(name, "", datetime.fromtimestamp(0, UTC), "unreadable", restorable=False)
            for name in self._store.unreadable()
        ]
        return [*found, *lost]

    async def restore(self, name: str, key: str, only: Sequence[str] = ()) -> Snapshot:
        if only:
            raise AdapterError(f"no part {only[0]!r} can be restored; a database goes back as a whole", permanent=True)
        copy = await in_thread(self._copy, name)
        goal = Change(self._place.layer, NO_RELEASE, await self._goal(copy), key=key and f"restore/{key}")
        trace = Trace(self._place.scratch, goal)
        async with holding(self._spawner, self.resource) as lock:
            begun = trace.known
            if begun.get("copy", name) != name:
                raise AdapterError(f"{key} began to restore something else; give another key", permanent=True)
            goal = replace(goal, after=Release(str(begun.get("after", goal.after.id)), copy.name))
            if trace.done is None:
                await self._put(goal, trace, lock)
                trace.finish(after=goal.after.id)
        saved = self._replaced(await in_thread(self._store.copies), trace)
        if saved is None:
            raise AdapterError(f"what was there before is kept no more; {name} is in place", permanent=True)
        return saved.snapshot(restorable=True)

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        async with self._storing():
            return await in_thread(self._prune, frozenset(spare), last)

    def _prune(self, spare: frozenset[str], last: int) -> list[str]:
        if not self._spawner.held(self.resource):
            self._store.sweep()
        copies, settings = self._pruned(), self._settings
        needed = spare | named(self._place.scratch, *self._noted, finished=False)
        verified, now = self._store.verified(), self._clock.now()
        leave = kept(copies, last or settings.keep, settings.keep_old, needed, verified, now)
        gone = [copy.name for copy in copies if copy.name not in leave]
        used = {*needed, *map(copy_of, needed)}
        gone += [copy.name for copy in self._left_of_trials(now) if not used & {copy.name, copy.id}]
        for name in gone:
            self._store.drop(name)
        return gone

    def _pruned(self) -> list[DataCopy]:
        """The copies among which pruning chooses."""
        return [copy for copy in self._store.copies() if copy.why != TRIAL]

    def _left_of_trials(self, now: datetime) -> list[DataCopy]:
        return [copy for copy in self._store.copies() if copy.why == TRIAL and now - copy.created > _TRIAL_OVER]

    def _storing(self) -> Any:
        """The lock of the store: one copy is made at a time. A restore does not wait for it."""
        return holding(self._spawner, f"{self._kind}-copies:{self._store.directory}", PATIENCE)


def emptied(directory: Path) -> None:
    """Make an empty directory of it, for us alone; a link that is there is not followed."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)


def given_to(user: str, *paths: Path) -> None:
    """Make a user the owner, where that is somebody else than we are; what is in a directory comes before it.

    :raises AdapterError: there is no such user, or we may not.
    """
    try:
        if user and (who := identity_of(user)).user != os.geteuid():
            for path in paths:
                os.chown(path, who.user, who.group, follow_symlinks=False)
    except (UnknownUser, OSError) as error:
        raise AdapterError(f"{paths[0]} cannot be given to {user}: {error}", permanent=False) from error


def release_of(lineage: Lineage) -> Release:
    """What is there, as a release; people call it by when it was restored."""
    return Release(lineage.id, f"restored-{lineage.since.astimezone(UTC):%Y%m%dT%H%M%SZ}" if lineage.since else "")


def imported(name: str, manifest: Any, size: int) -> DataCopy:
    """A copy from elsewhere; its name and its size are ours. :raises AdapterError: permanent."""
    try:
        copy = DataCopy.read(name, manifest)
    except ValueError as error:
        raise AdapterError(f"its manifest is damaged: {error}", permanent=True) from error
    return replace(copy, size=size, why="import")


def rows_that_differ(old: Mapping[str, int], new: Mapping[str, int]) -> list[Difference]:
    """The tables that came, went, or have another number of rows."""
    found = []
    for table in sorted({*old, *new}):
        if table not in old or table not in new:
            kind, count = ("added", new[table]) if table not in old else ("removed", old[table])
            found.append(Difference(table, kind, (f"rows {count}",)))  # type: ignore[arg-type]
        elif old[table] != new[table]:
            found.append(Difference(table, "changed", (f"- rows {old[table]}", f"+ rows {new[table]}")))
    return found


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
