"""A layer's snapshots, for those who take, look at, verify, carry and prune them: the capability `Snapshots`."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from rollbackd.adapter import AdapterError, Difference, Place, Snapshot, SnapshotProblem
from rollbackd.model import NO_RELEASE, Change, Release
from rollbackd.syntax.units import writable
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.failures import holding
from rollbackd_adapters.files import archive
from rollbackd_adapters.files.jobs import Jobs, Stop
from rollbackd_adapters.files.keeping import dropped
from rollbackd_adapters.files.masking import Masks
from rollbackd_adapters.files.moving import PARTS, Aim, Mover
from rollbackd_adapters.files.present import Present, check_name
from rollbackd_adapters.files.rehearsal import rehearse
from rollbackd_adapters.files.settings import FilesSettings
from rollbackd_adapters.files.showing import TEXT_LIMIT, Contents, differences
from rollbackd_adapters.files.store import Head
from rollbackd_adapters.files.tree import Tree, TreeEntry
from rollbackd_adapters.files.vetting import Vetting
from rollbackd_adapters.traces import Trace, named

_PATIENCE = timedelta(minutes=10)
"""How long a rehearsal waits for another one of the layer."""


class FilesSnapshots(StepAdapter[FilesSettings]):
    """What a person, a calendar or a drill does with the snapshots of a watch list."""

    def __init__(self, settings: FilesSettings, place: Place) -> None:
        super().__init__(settings, place)
        watched = sorted([*settings.paths, *(str(one.file) for one in settings.variables)])
        self.resource = f"files:{','.join(watched)}"
        self._jobs = Jobs(place.layer)
        self._present = Present(settings, place)
        self._store = self._present.store
        self._mover = Mover(self._present, self._jobs)

    async def take(self, name: str = "", why: str = "manual") -> Snapshot:
        if name:
            check_name(name)
        elif not why.isalnum() or not why.isascii():
            raise AdapterError(f"{one_line(why)!r} cannot be a part of a name; give one word", permanent=True)
        head, _ = await self._mover.storing(lambda stop: self._present.take(name, why, stop))
        return head.snapshot(restorable=True)

    async def snapshots(self) -> Sequence[Snapshot]:
        return await self._jobs.run(self._list)

    def _list(self, _stop: Stop) -> list[Snapshot]:
        found = [head.snapshot(restorable=self._store.is_whole(head)) for head in self._store.heads()]
        for name in self._store.unreadable():  # shown last: nothing is known of them, not even when they were taken
            found.append(Snapshot(name, "", datetime.fromtimestamp(0, UTC), "unreadable", restorable=False))
        return found

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        # Without the store's lock: it may take minutes, and a rollback must not wait for it.
        return await self._jobs.run(partial(self._verify, check_name(name)))

    def _verify(self, name: str, stop: Stop) -> list[SnapshotProblem]:
        if name in self._store.unreadable():
            return [SnapshotProblem(name, "", "its manifest is damaged; remove it, and take another snapshot")]
        _, tree = self._store.load(name)
        harms: dict[str, str] = {}
        for content, size in tree.blobs().items():
            stop()
            if harm := self._store.harm(content, size, stop):
                harms[content] = harm
        return [
            SnapshotProblem(name, writable(path), harms[entry.content])
            for path, entry in tree.entries.items()
            if entry.kind == "file" and entry.content in harms
        ]

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        return await self._jobs.run(partial(self._diff, older, newer))

    def _diff(self, older: str, newer: str, stop: Stop) -> list[Difference]:
        masks = Masks(self._settings.secret, self._spawner.clean)
        _, old = self._store.load(check_name(older))
        new = self._store.load(check_name(newer))[1] if newer else self._present.look(stop)
        return differences(old, new, self._stored, self._stored if newer else self._there(new), masks)

    def _stored(self, entry: TreeEntry) -> bytes | None:
        try:
            return self._store.blob(entry.content).read_bytes()
        except OSError:
            return None

    def _there(self, tree: Tree) -> Contents:
        """Contents as they are now, of what was just seen."""
        paths = {entry.content: path for path, entry in tree.entries.items() if entry.kind == "file"}

        def contents(entry: TreeEntry) -> bytes | None:
            return self._stored(entry) or self._present.content(paths[entry.content], TEXT_LIMIT)

        return contents

    async def restore(self, name: str, key: str, only: Sequence[str] = ()) -> Snapshot:
        if unknown := set(only) - set(PARTS):
            raise AdapterError(
                f"no part {min(unknown)!r} can be restored; there are {', '.join(PARTS)}", permanent=True
            )
        aim = await self._mover.aim(check_name(name), only)
        change = Change(
            self._place.layer,
            NO_RELEASE,
            Release(aim.head.release, aim.head.name),
            key=key and f"restore/{key}",
        )
        trace = Trace(self._place.scratch, change)
        async with holding(self._spawner, self.resource) as lock:
            if trace.done is None:
                await self._restore(change, trace, aim, lock)
        saved, _ = await self._jobs.run(lambda _stop: self._store.load(str(trace.known["saved"])))
        return saved.snapshot(restorable=True)

    async def _restore(self, change: Change, trace: Trace, aim: Aim, lock: Lock) -> None:
        begun = trace.begun
        if begun is None:
            saved = await self._mover.begin(change, trace, aim, lock)
            begun = {"snapshot": aim.head.name, "saved": saved.name, "only": list(aim.only)}
            trace.begin(key=change.key, after=aim.head.release, **begun)
        elif (begun["snapshot"], begun["only"]) != (aim.head.name, list(aim.only)):
            raise AdapterError(f"{change.key} began to restore something else; give another key", permanent=True)
        elif theirs := await self._jobs.run(partial(self._mover.theirs, aim, str(begun["saved"]))):
            raise AdapterError(
                f"{theirs} was changed by somebody else since it was cut off, so it is left as it is; some files are "
                f"old and some new: restore {aim.head.name}, or {begun['saved']} for what was there before",
                permanent=True,
            )
        await self._mover.put(aim, str(begun["saved"]))
        trace.finish(after=aim.head.release)

    async def export_to(self, name: str, path: str) -> None:
        # Without the store's lock, as above; what pruning takes away meanwhile ends it with an error.
        await self._jobs.run(lambda stop: archive.write(self._store, check_name(name), path, stop))

    async def import_from(self, path: str) -> Snapshot:
        head = await self._mover.storing(partial(self._import, path))
        return head.snapshot(restorable=True)

    def _import(self, path: str, stop: Stop) -> Head:
        settings, vet = self._settings, Vetting(self._store, self._present.rules, stop).of
        return archive.read(self._store, path, settings.largest, settings.room, vet, stop)

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        apart = f"files-rehearsal:{self._place.scratch}"  # not the store's lock, as above, but two share the place
        async with holding(self._spawner, apart, _PATIENCE):
            return await self._jobs.run(partial(rehearse, self._present, check_name(name)))

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        return await self._mover.storing(partial(self._prune, frozenset(spare), last))

    def _prune(self, spare: frozenset[str], last: int, stop: Stop) -> list[str]:
        keep, now = self._settings.keep, self._clock.now()
        keep = keep.model_copy(update={"last": last}) if last else keep
        self._store.prepare()
        in_use = named(self._place.scratch, "snapshot", "saved", "after", finished=False)
        gone = dropped(self._store.heads(), keep, spare | in_use, now)
        self._store.forget(gone)
        self._store.collect(stop)
        return gone
