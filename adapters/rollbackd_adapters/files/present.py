"""What is there now, and keeping it: where looking and the store come together. Blocking, so it is run on threads."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from rollbackd.adapter import AdapterError, Place
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import one_line
from rollbackd_adapters.files.batch import Batch
from rollbackd_adapters.files.beneath import READ, Beneath
from rollbackd_adapters.files.jobs import Stop
from rollbackd_adapters.files.keeping import BEFORE
from rollbackd_adapters.files.scan import Hashing, Scan, ScanRules
from rollbackd_adapters.files.settings import FilesSettings
from rollbackd_adapters.files.store import Head, Store, body_of
from rollbackd_adapters.files.tree import Tree, TreeEntry
from rollbackd_adapters.ids import SNAPSHOT, free_name


@dataclass
class Present:
    """A layer's watch list, its store, and what was seen last."""

    settings: FilesSettings
    place: Place

    def __post_init__(self) -> None:
        root = self.place.scratch / "store"
        if self.settings.store is not None:
            root = self.settings.store / self.place.service / self.place.layer
        self.store = Store(root)
        self.rules = ScanRules.of(self.settings)
        self.clock: Clock = self.place.clock
        self.nothing = Tree({}, {file: dict.fromkeys(names) for file, names in self.rules.variables}).release
        """The release of a watch list of which nothing is there."""
        self._known: Mapping[str, TreeEntry] | None = None

    def look(self, stop: Stop) -> Tree:
        """Read what is there; unchanged files are not opened. :raises AdapterError: it cannot be read."""
        return self._scan(Hashing(stop), stop)

    def take(self, name: str, why: str, stop: Stop, *, again: bool = False) -> tuple[Head, Tree]:
        """Keep what is there. Under the store's lock.

        :param again: a snapshot of that name is replaced, whatever is in it.
        :raises AdapterError: it cannot be kept; nothing is there; a snapshot of that name holds something else.
        """
        self.store.prepare()
        # What a restore replaces is kept whatever it takes; else there is no way back from it.
        with Batch(self.store, stop, 0 if why == BEFORE else self.settings.room) as batch:
            return self._kept(batch, name, why, stop, again=again)

    def _kept(self, batch: Batch, name: str, why: str, stop: Stop, *, again: bool) -> tuple[Head, Tree]:
        tree = self._scan(batch, stop)
        if tree.is_empty and why != BEFORE:
            first = next(iter((*self.settings.paths, *(one.file for one in self.settings.variables))))
            raise AdapterError(
                f"{first}: nothing of what is watched is there, and a snapshot of nothing is none; "
                "correct `paths`, or put back what is missing",
                permanent=False,
            )
        body = body_of(tree)
        heads = {head.name: head for head in self.store.heads()}
        head = Head(
            name=name or free_name(f"snapshot-{why}-{self.clock.now():%Y%m%dT%H%M%SZ}", heads),
            release=tree.release,
            created=self.clock.now(),
            why=why,
            files=tree.files,
            size=tree.size,
            rules=self.rules.fingerprint,
            paths=self.settings.paths,
            digest=hashlib.sha256(body).hexdigest(),
        )
        old = heads.get(head.name)
        if old is not None and not again:
            if (old.release, old.rules) == (head.release, head.rules):
                return old, tree
            raise AdapterError(
                f"a snapshot {head.name} is there already, of other content; give another name", permanent=True
            )
        batch.settle()
        self.store.save(head, body)
        return head, tree

    def content(self, path: str, limit: int) -> bytes | None:
        """What a watched file has now, without following a link; None when it cannot be read or is longer."""
        base = self.rules.watch.base_of(path)
        if base is None:
            return None
        try:
            with Beneath(base) as beneath:
                directory, name = beneath.parent(path)
                with os.fdopen(os.open(name, READ, dir_fd=directory), "rb") as file:
                    data = file.read(limit + 1)
        except OSError:
            return None
        return data if len(data) <= limit else None

    def matching(self, release: str = "") -> list[Head]:
        """Snapshots of this watch list that can be restored, newest first, one for each release, or for that one."""
        found: dict[str, Head] = {}
        for head in self.store.heads():
            if head.rules != self.rules.fingerprint or release not in {"", head.release}:
                continue
            if head.release not in found and self.store.is_whole(head):
                found[head.release] = head
        return list(found.values())

    def names(self) -> dict[str, tuple[str, ...]]:
        """The names of all snapshots of this watch list, newest first, by release: one may have been taken often."""
        found: dict[str, tuple[str, ...]] = {}
        for head in self.store.heads():
            if head.rules == self.rules.fingerprint:
                found[head.release] = (*found.get(head.release, ()), head.name)
        return found

    def head_of(self, release: str) -> Head | None:
        """The newest snapshot that has a release and can be restored."""
        return next(iter(self.matching(release)), None)

    def _scan(self, sink: Hashing, stop: Stop) -> Tree:
        if self._known is None:
            self._known = self._remembered()
        tree = Scan(self.rules, sink, self._known, self.store.stamp(), stop).run()
        self._known = tree.entries
        return tree

    def _remembered(self) -> Mapping[str, TreeEntry]:
        """After a start, what the newest readable snapshot knows."""
        with contextlib.suppress(AdapterError):
            return next((self.store.load(head.name)[1].entries for head in self.store.heads()), {})
        return {}


def check_name(name: str) -> str:
    """A snapshot's name, safe as a file's. :raises AdapterError: permanent, for anything else."""
    if SNAPSHOT.fullmatch(name) is None:
        raise AdapterError(
            f"{one_line(name)!r} cannot be the name of a snapshot: letters, digits and ._- only, 120 at most, no "
            "mark first",
            permanent=True,
        )
    return name
