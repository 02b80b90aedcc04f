"""Restores a snapshot into a scratch place by the very code of a restore, and looks at what came of it. Blocking.

Nothing that is watched is read or written here. The place is the layer's own, closed to others, and emptied afterwards.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from rollbackd.adapter import AdapterError, SnapshotProblem
from rollbackd.syntax.units import writable
from rollbackd.system.boundary import boundary
from rollbackd_adapters.files.beneath import told
from rollbackd_adapters.files.globs import WatchList
from rollbackd_adapters.files.jobs import Stop
from rollbackd_adapters.files.present import Present
from rollbackd_adapters.files.restore import Restorer
from rollbackd_adapters.files.scan import Hashing, Scan, ScanRules
from rollbackd_adapters.files.tree import Tree, TreeEntry, moves
from rollbackd_adapters.lacks import existing, need_room

_SHOWN = 20
"""Problems that are told."""


def rehearse(present: Present, name: str, stop: Stop) -> list[SnapshotProblem]:
    """What is wrong with it once it is put together. Under a lock of its own.

    :raises AdapterError: there is no such snapshot, or there is no room for it.
    """
    _, tree = present.store.load(name)
    root = present.place.scratch / "rehearsal"
    _empty(root)
    try:
        need_room(existing(root), tree.size + present.settings.room, "a rehearsal ")
        with told(str(root)):
            root.mkdir(mode=0o700, parents=True)
        return list(_put_together(present, tree, name, root, stop))
    finally:
        _empty(root)


def _put_together(present: Present, tree: Tree, name: str, root: Path, stop: Stop) -> Iterator[SnapshotProblem]:
    target = _below(tree, root)
    rules = ScanRules(WatchList((f"{root}/*",)), volatile=(), modes=(), variables=())
    owners = os.geteuid() == 0
    restorer = Restorer(rules, present.store, Tree({}), target, owners, stop)
    try:
        restorer.files(moves(Tree({}), target, owners=owners))
    except AdapterError as error:
        yield SnapshotProblem(name, "", str(error).replace(str(root), ""))
        return
    boundary("files.rehearsed")
    found = Scan(rules, Hashing(stop), {}, None, stop).run()
    wrong = dict.fromkeys(chain(*moves(found, target, owners=owners)))
    for path in list(wrong)[:_SHOWN]:
        yield SnapshotProblem(name, writable(path.removeprefix(str(root))), "put together, it is not what was saved")


def _below(tree: Tree, root: Path) -> Tree:
    """The same entries below the scratch place. Of the ways only what leads there counts, so they are made, too."""
    entries: dict[str, TreeEntry] = {}
    for path, entry in tree.entries.items():
        for above in Path(path).parents[-2::-1]:
            entries.setdefault(f"{root}{above}", TreeEntry("dir", 0o700, os.geteuid(), os.getegid(), 0))
        kind = "dir" if entry.kind == "way" else entry.kind
        entries[f"{root}{path}"] = entry._replace(kind=kind, volatile=False, seen=None)
    return replace(tree, entries=entries, variables={}, strays=(), specials=())


def _empty(root: Path) -> None:
    """Also of directories that their own mode closes to us."""
    if not root.exists():
        return
    with told(str(root)):
        for directory, _, _ in os.walk(root):
            Path(directory).chmod(0o700)
        shutil.rmtree(root)
