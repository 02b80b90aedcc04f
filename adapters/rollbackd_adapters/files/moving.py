"""Takes what is watched to a snapshot: check, save what is there, put in place, look again; put back when it fails.

Nothing is touched before the target was read and hashed, its files were accepted by the `syntax` commands, and what is
there now is a snapshot of its own. What is begun is on disk before the first file moves, so that the next life goes on.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

from rollbackd.adapter import AdapterError
from rollbackd.model import Change
from rollbackd.system.spawner import Lock, Spawner
from rollbackd_adapters.failures import as_adapter_errors, holding
from rollbackd_adapters.files.globs import WatchList, matches
from rollbackd_adapters.files.jobs import Jobs, Stop
from rollbackd_adapters.files.keeping import BEFORE
from rollbackd_adapters.files.present import Present
from rollbackd_adapters.files.restore import Restorer
from rollbackd_adapters.files.settings import FILE, Syntax
from rollbackd_adapters.files.store import Head
from rollbackd_adapters.files.tree import Moves, Tree, foreign, moves
from rollbackd_adapters.lacks import need_room
from rollbackd_adapters.then import environment
from rollbackd_adapters.traces import Trace

FILES, VARIABLES = "files", "variables"
PARTS = (FILES, VARIABLES)

T = TypeVar("T")
Variables = Mapping[str, Mapping[str, str | None]]


@dataclass(frozen=True)
class Aim:
    """Where a restore goes."""

    head: Head
    tree: Tree
    only: tuple[str, ...]
    """Parts that are restored."""


class Mover:
    """Restores of one layer."""

    def __init__(self, present: Present, jobs: Jobs) -> None:
        self._present = present
        self._jobs = jobs
        self._place = present.place
        self._spawner: Spawner = present.place.spawner
        self._owners = os.geteuid() == 0
        self._storing = 0

    @property
    def is_storing(self) -> bool:
        """Whether something in this process writes to the store now."""
        return self._storing > 0

    async def storing(self, work: Callable[[Stop], T]) -> T:
        """The result of work that writes to the store, under the store's lock."""
        self._storing += 1
        try:
            async with holding(self._spawner, f"files-store:{self._present.store.root}"):
                return await self._jobs.run(work)
        finally:
            self._storing -= 1

    async def look(self) -> Tree:
        return await self._jobs.run(self._present.look)

    async def aim(self, name: str, only: Sequence[str] = ()) -> Aim:
        """:raises AdapterError: permanent, when there is no such snapshot."""
        head, tree = await self._jobs.run(lambda _stop: self._present.store.load(name))
        return Aim(head, tree, tuple(only) or PARTS)

    async def begin(self, change: Change, trace: Trace, aim: Aim, lock: Lock) -> Head:
        """Check everything and save what is there, before the first file is touched.

        :returns: the snapshot of what is there.
        """
        now = self._seen(await self.look(), aim)
        way = self._way(now, aim)
        await self._jobs.run(partial(self._check, now, aim, way))
        await self._accepted(change, trace, aim, way, lock)
        return await self.storing(partial(self._save, trace))

    def _save(self, trace: Trace, stop: Stop) -> Head:
        try:
            return self._present.take(f"{BEFORE}-{trace.name}", BEFORE, stop, again=True)[0]
        except AdapterError as error:
            raise AdapterError(
                f"what is there cannot be saved, so nothing was touched: {error}", permanent=error.permanent
            ) from error

    async def put(self, aim: Aim, saved: str) -> None:
        """Put it in place, or go on with that. :raises AdapterError: it failed, and says what is there now."""
        try:
            await self._jobs.run(partial(self._put, aim))
        except AdapterError as error:
            back = await self._put_back(aim, saved)
            raise AdapterError(f"{error}; {back}", permanent=error.permanent, evidence=error.evidence) from error

    def _put(self, aim: Aim, stop: Stop) -> None:
        now = self._seen(self._present.look(stop), aim)
        way = self._way(now, aim)
        restorer = self._restorer(now, self._part(aim.tree, aim), stop)
        restorer.check(way)
        restorer.files(way)
        if VARIABLES in aim.only:
            restorer.variables()
        reached = self._seen(self._present.look(stop), aim)
        wrong = self._way(reached, aim).of_content + _other(reached.variables, self._part(aim.tree, aim).variables)
        if wrong:
            raise AdapterError(f"{wrong[0]} is not as it was put: somebody else writes to it", permanent=False)

    async def _put_back(self, aim: Aim, saved: str) -> str:
        """Undo what was done of it, and nothing else; what came of that, in words."""
        name = f"snapshot {saved} has what was there"
        try:
            return await self._jobs.run(partial(self._undo, aim, saved)) or "everything was put back"
        except AdapterError as error:
            return f"putting back failed too ({error}), so files are old and new; {name}"

    def _undo(self, aim: Aim, saved: str, stop: Stop) -> str:
        _, before = self._present.store.load(saved)
        now = self._present.look(stop)

        def ours(path: str) -> bool:
            entry, put = now.entries.get(path), aim.tree.entries.get(path)
            return entry is None or (put is not None and entry.what == put.what)

        back = moves(now, before, owners=self._owners)
        restorer = self._restorer(now, before, stop)
        restorer.files(Moves(*(tuple(filter(ours, part)) for part in back)))
        restorer.variables(self._part(aim.tree, aim).variables)
        now = self._present.look(stop)
        wanted = self._part(before, aim).variables
        others = moves(now, before, owners=False).of_content + _other(now.variables, wanted)
        return f"put back but for {others[0]}, which somebody else changed" if others else ""

    def _restorer(self, now: Tree, target: Tree, stop: Stop) -> Restorer:
        return Restorer(self._present.rules, self._present.store, now, target, self._owners, stop)

    def _way(self, now: Tree, aim: Aim) -> Moves:
        return moves(now, aim.tree, owners=self._owners) if FILES in aim.only else Moves()

    async def possible(self, now: Tree, aim: Aim) -> Moves:
        """What a restore would do. :raises AdapterError: it cannot be done, such as when a content is damaged."""
        seen = self._seen(now, aim)
        way = self._way(seen, aim)
        await self._jobs.run(lambda stop: self._restorer(seen, self._part(aim.tree, aim), stop).check(way))
        return way

    def theirs(self, aim: Aim, saved: str, stop: Stop) -> str:
        """What somebody else changed since a restore of ours was cut off; "" for nothing. Ours left all old or new."""
        trees = (self._present.look(stop), self._present.store.load(saved)[1])
        now, before = (self._part(self._seen(tree, aim), aim) for tree in trees)
        return foreign(now, before, self._part(aim.tree, aim))

    @staticmethod
    def _part(tree: Tree, aim: Aim) -> Tree:
        """The part of a tree that is restored."""
        entries = tree.entries if FILES in aim.only else {}
        return replace(tree, entries=entries, variables=tree.variables if VARIABLES in aim.only else {})

    def _seen(self, now: Tree, aim: Aim) -> Tree:
        """The part of a tree that the target's own watch list knew: files that it did not watch are not extra."""
        if aim.head.rules == self._present.rules.fingerprint:
            return now
        watch = WatchList(aim.head.paths)
        entries = {path: entry for path, entry in now.entries.items() if entry.kind == "way" or watch.selects(path)}
        return replace(now, entries=entries)

    def _check(self, now: Tree, aim: Aim, way: Moves, stop: Stop) -> None:
        try:
            self._restorer(now, self._part(aim.tree, aim), stop).check(way)
            need = sum(aim.tree.entries[path].size for path in way.put)
            for base, _ in self._present.rules.watch.by_base():
                if Path(base).is_dir():
                    need_room(Path(base), need)
        except AdapterError as error:
            raise AdapterError(f"{error}; nothing was touched", permanent=error.permanent) from error

    # -- syntax ---------------------------------------------------------------------------------
    async def _accepted(self, change: Change, trace: Trace, aim: Aim, way: Moves, lock: Lock) -> None:
        """Each file that is about to be put in place is accepted by the commands for it."""
        for path, syntax in product(way.put, self._present.settings.syntax):
            entry = aim.tree.entries[path]
            if entry.kind == "file" and matches(syntax.glob, path):
                await self._try(change, trace, path, self._present.store.blob(entry.content), syntax, lock)

    async def _try(self, change: Change, trace: Trace, path: str, blob: Path, syntax: Syntax, lock: Lock) -> None:
        trace.make()
        directory = trace.directory / "syntax"
        copy = directory / path.rpartition("/")[2]
        try:
            await asyncio.to_thread(_copy, blob, copy)
            with as_adapter_errors():
                finished = await self._spawner.run(
                    [str(copy) if part == FILE else part for part in syntax.command],
                    timeout=self._present.settings.timeout,
                    env=environment(self._place, change),
                    lock=lock,
                )
        except OSError as error:
            raise AdapterError(f"{copy}: {error.strerror}; nothing was touched", permanent=False) from error
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if not finished.ok:
            raise AdapterError(
                f"{path} as snapshot {change.after.label or change.after.id[:12]} has it is not accepted by "
                f"`{self._spawner.clean(' '.join(syntax.command))}`: {finished.ending}; nothing was touched",
                permanent=not finished.timed_out,
                evidence=finished.tail,
            )


def _other(there: Variables, wanted: Variables) -> tuple[str, ...]:
    """The variables that are not set as they should be."""
    return tuple(
        f"{file} {name}"
        for file, values in wanted.items()
        for name, value in values.items()
        if there.get(file, {}).get(name) != value
    )


def _copy(blob: Path, copy: Path) -> None:
    """A copy that a command may do anything to."""
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    copy.unlink(missing_ok=True)
    shutil.copyfile(blob, copy)
