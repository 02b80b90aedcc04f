"""Configuration files, and variables of environment files: snapshots of a watch list, and the way back to one of them.

A release is what the watch list holds, named by its hash; times, owners and what is volatile do not count. Each content
that was seen twice is kept as a snapshot in a store of the layer's own, so that it can be gone back to. A restore keeps
what is there first, then puts each file in place by rename, and removes what the snapshot does not have. Links are
never followed below a watched directory. Access control lists and extended attributes are no part of a snapshot; a file
that takes another one's place has that one's.
"""

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from rollbackd.adapter import AdapterError, Needs, Place, Settings
from rollbackd.model import Change, Progress, Release, Traits
from rollbackd.syntax.units import writable
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.files import ready
from rollbackd_adapters.files.jobs import Stop
from rollbackd_adapters.files.looks import LastLook
from rollbackd_adapters.files.restore import lost
from rollbackd_adapters.files.settings import FilesSettings
from rollbackd_adapters.files.snapshots import FilesSnapshots
from rollbackd_adapters.files.store import Head
from rollbackd_adapters.files.tree import Moves, Tree, foreign
from rollbackd_adapters.ids import check_own
from rollbackd_adapters.traces import Trace

__all__ = ["FilesAdapter", "FilesSettings"]

_ID = re.compile(r"[0-9a-f]{64}")
_SHOWN = 20
"""Paths that are named."""


class FilesAdapter(FilesSnapshots):
    """One watch list as a layer."""

    settings_model: ClassVar[type[Settings]] = FilesSettings
    traits = Traits(local=True)

    def __init__(self, settings: FilesSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.needs = Needs(writes=settings.written, alone=settings.whole)
        self._last = LastLook(place.scratch)

    async def current(self) -> Release:
        release, is_kept, unsaved = await self._jobs.run(self._look)
        # While an import goes on, looking does not wait for it: the next look keeps it.
        seen_before, _ = self._last.seen()
        if self._settings.auto and not is_kept and seen_before == release.id and not self._mover.is_storing:
            release, unsaved = await self._keep(release)
        await self._jobs.run(lambda _stop: self._last.note(release.id, unsaved))
        return release

    def _look(self, stop: Stop) -> tuple[Release, bool, str]:
        """What is there, whether it is kept, and why it could not be when that was tried last."""
        tree = self._present.look(stop)
        head = self._present.head_of(tree.release)
        is_kept = tree.is_empty or head is not None
        seen, unsaved = self._last.seen()
        return self._named(tree.release, head), is_kept, unsaved if not is_kept and seen == tree.release else ""

    async def _keep(self, release: Release) -> tuple[Release, str]:
        """Keep what was seen twice, or say why it cannot be kept: looking goes on, and `ready` tells it."""
        try:
            head, _ = await self._mover.storing(lambda stop: self._present.take("", "auto", stop))
        except AdapterError as error:
            return release, str(error)
        return self._named(release.id, head if head.release == release.id else None), ""

    def _named(self, release: str, head: Head | None) -> Release:
        return Release(release) if head is None else self._release(head)

    def _release(self, head: Head) -> Release:
        good = self._settings.good
        return Release(head.release, head.name, head.created, good=bool(good) and fnmatch.fnmatchcase(head.name, good))

    async def releases(self) -> Sequence[Release]:
        return await self._jobs.run(self._known)

    def _known(self, _stop: Stop) -> list[Release]:
        """The releases to go back to. A watch list of which nothing is there is none: one only goes back from it."""
        names = self._present.names()
        heads = [head for head in self._present.matching() if head.release != self._present.nothing]
        return [replace(self._release(head), names=names.get(head.release, ())) for head in heads]

    async def plan(self, target: Release) -> Change:
        self._check_id(target)
        head = await self._head(target)
        aim = await self._mover.aim(head.name)
        now = await self._mover.look()
        moves = await self._mover.possible(now, aim)
        there = await self._jobs.run(lambda _stop: self._present.head_of(now.release))
        before, after = self._named(now.release, there), self._release(head)
        gone = await self._jobs.run(lambda _stop: lost(now, moves))
        aside = (
            f"further names or access lists of {_named(gone)} would not come back; note what they have" if gone else ""
        )
        risks = (*_risks(moves, now, aim.tree), *([aside] if aside else []))
        return Change(self._place.layer, before, after, risks=risks, aside=aside)

    async def _head(self, release: Release) -> Head:
        head = await self._jobs.run(lambda _stop: self._present.head_of(release.id))
        if head is None:
            raise AdapterError(
                f"{one_line(release.name)}: no snapshot of it can be restored; see `rollbackd snapshot list`",
                permanent=True,
            )
        return head

    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Go to the target, or go on with what a crash cut off."""
        begun = trace.begun
        if begun is None:
            aim = await self._mover.aim((await self._head(change.after)).name)
            saved = await self._mover.begin(change, trace, aim, lock)
            if saved.release != change.before.id:
                text = f"{self._place.layer} was changed while it was saved; nothing was touched"
                raise AdapterError(text, permanent=False)
            begun = {"snapshot": aim.head.name, "saved": saved.name}
            trace.intend(**begun)
        await self._mover.put(await self._mover.aim(str(begun["snapshot"])), str(begun["saved"]))

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        now = await self._mover.look()
        return await self._jobs.run(partial(self._judge, change, trace, now))

    def _judge(self, change: Change, trace: Trace, now: Tree, _stop: Stop) -> Progress:
        """How far it is, from what is there and our own traces."""
        begun = trace.begun
        if begun is None or trace.done is not None:
            if now.release == change.after.id:
                return Progress.DONE
            started = begun is not None or now.release != change.before.id
            return Progress.SUPERSEDED if started else Progress.NOT_STARTED
        if now.release in {change.before.id, change.after.id}:
            return Progress.NOT_STARTED
        before, after = (self._present.store.load(str(begun[name]))[1] for name in ("saved", "snapshot"))
        return Progress.SUPERSEDED if foreign(now, before, after) else Progress.NOT_STARTED

    async def _elsewhere(self) -> str:
        return (
            f"{self._place.layer} holds neither what this rollback began with nor what it goes to: somebody else "
            "changed it"
        )

    async def _problems(self) -> list[str]:
        texts = await self._jobs.run(partial(ready.problems, self._present, self._spawner))
        _, unsaved = await self._jobs.run(lambda _stop: self._last.seen())
        if unsaved:
            texts.append(f"what is there now could not be kept: {unsaved}")
        return [writable(text) for text in texts]

    def _check_id(self, release: Release) -> None:
        check_own(release, _ID, "a snapshot's content")


def _risks(moves: Moves, now: Tree, target: Tree) -> tuple[str, ...]:
    """How much a restore would do, for people."""
    modes = [path for path in moves.touch if path in now.loose or now.entries[path].mode != target.entries[path].mode]
    changed = sum(path in now.entries for path in moves.put) + len(modes)
    added = len(moves.put) + len(moves.make) - sum(path in now.entries for path in (*moves.put, *moves.make))
    removed = len(moves.drop) + sum(path not in target.entries for path in moves.clear)
    if not changed + added + removed:
        return ()
    first = next(iter((*moves.drop, *moves.put, *moves.make, *modes, *moves.clear)))
    text = f"{changed} file(s) changed, {added} added, {removed} removed, such as {first}; what is there is saved first"
    given = [path for path in moves.touch if path not in modes and _owner(now, path) != _owner(target, path)]
    owners = [f"owners of {_named(given)} become those of the snapshot"] if given and os.geteuid() == 0 else []
    return (writable(text), *owners)


def _owner(tree: Tree, path: str) -> tuple[int, int]:
    return tree.entries[path].uid, tree.entries[path].gid


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return writable(f"{', '.join(paths[:_SHOWN])}{more}")
