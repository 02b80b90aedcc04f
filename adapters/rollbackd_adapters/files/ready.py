"""What would stop a restore right now. Writes nothing but the store's own stamp; every sentence says what to do."""

import os
from collections.abc import Iterator
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import Spawner
from rollbackd_adapters.files.jobs import Stop
from rollbackd_adapters.files.present import Present
from rollbackd_adapters.files.tree import Tree
from rollbackd_adapters.lacks import existing, lacking_room, missing_programs
from rollbackd_adapters.protected import PROTECTED, is_protected


def problems(present: Present, spawner: Spawner, stop: Stop) -> list[str]:
    """All problems. Blocking."""
    found = [*_store(present), *_room(present)]
    found += missing_programs(spawner, (one.command[0] for one in present.settings.syntax), "`syntax` needs it")
    try:
        tree = present.look(stop)
    except AdapterError as error:
        return [*found, str(error)]
    return [*found, *_places(present, tree), *_snapshots(present)]


def _store(present: Present) -> Iterator[str]:
    root = present.store.root
    there = existing(root)
    if not os.access(there, os.W_OK | os.X_OK) or (root.exists() and present.store.stamp() is None):
        yield f"{there}: snapshots cannot be written there; give rollbackd's user that right, and look at its disk"
    for watched in present.settings.paths:
        if _inside(root, watched):
            yield f"{root}: the store lies in {watched}, which is watched; set `store` to a place elsewhere"


def _room(present: Present) -> list[str]:
    bases = (Path(base) for base, _ in present.rules.watch.by_base())
    return lacking_room(map(existing, (present.store.root, *bases)), present.settings.room)


def _places(present: Present, tree: Tree) -> Iterator[str]:
    """The directories that files are put into."""
    for base, patterns in present.rules.watch.by_base():
        if not Path(base).is_dir():
            yield f"{base}: no such directory; make it, or correct `paths`"
            continue
        above = {path.rpartition("/")[0] or "/" for path in tree.entries if any(one.selects(path) for one in patterns)}
        for directory in sorted(above)[:1000]:
            if not os.access(directory, os.W_OK | os.X_OK):
                hint = "rollbackd may not write there; give its user and its unit that right"
                yield (
                    f"{directory} {PROTECTED}; `chattr -i -a` it" if is_protected(directory) else f"{directory}: {hint}"
                )
                break
    for file, _ in present.rules.variables:
        directory = file.rpartition("/")[0]
        if not os.access(directory, os.W_OK | os.X_OK):
            yield f"{directory}: rollbackd may not write there, or there is no such directory; `variables` needs it"


def _snapshots(present: Present) -> Iterator[str]:
    heads = present.store.heads()
    unreadable = present.store.unreadable()
    if present.matching():
        return
    if heads or unreadable:
        count = len(heads) + len(unreadable)
        why = "contents are missing, or they are of another watch list"
        yield f"none of {count} snapshot(s) can be restored: {why}; take one, or import one"
    elif not present.settings.auto:
        yield "there is no snapshot yet, and `auto` is off; take one with `rollbackd snapshot take`"


def _inside(root: Path, watched: str) -> bool:
    return os.path.realpath(root).startswith(os.path.realpath(watched).rstrip("/") + "/")
