"""What a watch list holds at one time, as values: entries, their hash, and what lies between two of them. No I/O."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

Kind = Literal["file", "link", "dir", "way"]
"""`way`: a directory that only leads to what is watched; it is made when it is missing, and otherwise no matter."""


_LARGEST_OWNER = 2**32 - 2
"""The one after it says "leave it" to chown(2)."""


class TreeEntry(NamedTuple):
    """One file, link or directory."""

    kind: Kind
    mode: int
    """Permission bits, setuid and the like too; those of `modes` where it says so."""
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    content: str = ""
    """A file's sha256 in hex, or where a link leads."""
    volatile: bool = False
    seen: tuple[int, int, int] | None = None
    """Device, inode and ctime_ns when its content was read; None when it could have changed in the same instant."""

    @property
    def counts(self) -> bool:
        """Whether it is a part of the release."""
        return not self.volatile and self.kind != "way"

    @property
    def what(self) -> tuple[str, str]:
        """What it is, whatever its mode, owner and times."""
        return ("dir" if self.kind == "way" else self.kind), self.content


@dataclass(frozen=True)
class Tree:
    """All that a watch list holds at one time."""

    entries: Mapping[str, TreeEntry]
    """By absolute path."""
    variables: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    """By environment file and name: the text after `=`, as it is written; None: not set."""
    strays: tuple[str, ...] = ()
    """Files of ours that a kill left behind; no part of it."""
    specials: tuple[str, ...] = ()
    """Sockets, devices and pipes; never kept, never touched."""
    loose: frozenset[str] = frozenset()
    """Files that have another mode than `modes` gives them."""

    @cached_property
    def release(self) -> str:
        """The hash over kinds, paths, modes, contents, variables. Owners, times and volatile files do not count."""
        lines = [
            f"{entry.kind} {entry.mode if entry.kind != 'link' else 0:o} {os.fsencode(path).hex()} "
            f"{os.fsencode(entry.content).hex()}"
            for path, entry in sorted(self.entries.items())
            if entry.counts
        ]
        lines += [
            f"variable {os.fsencode(file).hex()} {name} {'unset' if value is None else '=' + os.fsencode(value).hex()}"
            for file, values in sorted(self.variables.items())
            for name, value in sorted(values.items())
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of what is watched is there."""
        values = (value for file in self.variables.values() for value in file.values())
        return not any(entry.counts for entry in self.entries.values()) and all(value is None for value in values)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries.values())

    @property
    def files(self) -> int:
        return sum(entry.kind == "file" for entry in self.entries.values())

    def blobs(self) -> dict[str, int]:
        """The contents that it needs, with their sizes."""
        return {entry.content: entry.size for entry in self.entries.values() if entry.kind == "file"}


class Moves(NamedTuple):
    """What leads from one tree to another, in the order in which it is done."""

    clear: tuple[str, ...] = ()
    """In the way of something of another kind; what is deeper comes first."""
    make: tuple[str, ...] = ()
    """Directories; what is deeper comes last."""
    put: tuple[str, ...] = ()
    """Files and links."""
    drop: tuple[str, ...] = ()
    """What the target does not have; what is deeper comes first."""
    touch: tuple[str, ...] = ()
    """Only their mode, owner or times differ."""

    def __bool__(self) -> bool:
        return any(iter(self))

    @property
    def of_content(self) -> tuple[str, ...]:
        """What is another content, or none."""
        return (*self.clear, *self.make, *self.put, *self.drop)


def moves(present: Tree, target: Tree, *, owners: bool) -> Moves:
    """The way from what is there to a target. Volatile things that are there stay as they are.

    :param owners: owners are set too.
    """
    here, there = present.entries, target.entries
    clear = {
        path
        for path, entry in here.items()
        if path in there and _is_directory(entry) != _is_directory(there[path]) and not there[path].volatile
    }
    gone = {path for path, entry in here.items() if path not in there and entry.counts}
    # What is volatile in a directory that goes, goes with it: it is in the snapshot of what was there.
    gone |= {path for path in here if path not in there and any(above in gone | clear for above in _above(path))}
    below = {path for path in gone if any(above in clear for above in _above(path))}
    make, put, touch = [], [], []
    for path, entry in there.items():
        old = None if path in clear else here.get(path)
        if old is not None and (entry.volatile or old.what == entry.what):
            same = _dress(old, owners) == _dress(entry, owners) and path not in present.loose
            if not entry.volatile and entry.kind != "way" and not same:
                touch.append(path)
        elif _is_directory(entry):
            make.append(path)
        else:
            put.append(path)
    deepest = sorted(clear | below, key=_depth, reverse=True)
    return Moves(
        clear=tuple(deepest),
        make=tuple(sorted(make, key=_depth)),
        put=tuple(sorted(put)),
        drop=tuple(sorted(gone - below, key=_depth, reverse=True)),
        touch=tuple(sorted(touch, key=_depth, reverse=True)),
    )


def foreign(present: Tree, before: Tree, after: Tree) -> str:
    """The first path that is neither as it was before nor as it will be: somebody else's. Empty: there is none.

    A restore that was cut off leaves each path old or new, so this tells its half-done work from anybody else's.
    """
    for path in sorted({*present.entries, *before.entries, *after.entries}):
        now, old, new = (tree.entries.get(path) for tree in (present, before, after))
        if any(entry is not None and not entry.counts for entry in (now, old, new)):
            continue
        wanted = [None if entry is None else entry.what for entry in (old, new)]
        if (None if now is None else now.what) not in wanted and not (now is None and _changes_kind(old, new)):
            return path
    for file, values in present.variables.items():
        for name, value in values.items():
            if value not in {tree.variables.get(file, {}).get(name) for tree in (before, after)}:
                return f"{file} {name}"
    return ""


def written(tree: Tree) -> dict[str, Any]:
    """A tree as JSON takes it."""
    return {"entries": dict(tree.entries), "variables": {file: dict(values) for file, values in tree.variables.items()}}


def read(data: Any) -> Tree:
    """Of JSON from anywhere. :raises ValueError: it is no tree, or one that no disk can have."""
    try:
        entries = {str(path): _entry(values) for path, values in data["entries"].items()}
        variables = {
            str(file): {str(name): value if value is None else str(value) for name, value in values.items()}
            for file, values in data["variables"].items()
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a list of files ({error})") from error
    for path in (*entries, *variables):
        parts = path.split("/")[1:]
        os.fsencode(path)
        if not path.startswith("/") or "\0" in path or any(part in {"", ".", ".."} for part in parts):
            raise ValueError(f"{path!r} is no absolute path")
        for above in _above(path):
            if above in entries and not _is_directory(entries[above]):
                raise ValueError(f"{path!r} lies below {above!r}, which is not a directory")
    return Tree(entries, variables)


def _entry(values: Any) -> TreeEntry:
    kind, mode, uid, gid, mtime_ns, size, content, volatile, seen = values
    numbers = (mode, uid, gid, mtime_ns, size, *(seen or ()))
    if kind not in get_args(Kind) or not all(type(number) is int for number in numbers) or not isinstance(content, str):
        raise ValueError(f"not an entry: {values!r:.80}")
    if not 0 <= mode <= 0o7777 or min(uid, gid, size) < 0 or (seen is not None and len(seen) != 3):
        raise ValueError(f"not an entry: {values!r:.80}")
    if max(uid, gid) > _LARGEST_OWNER or max(abs(mtime_ns), size) >= 2**63:
        raise ValueError(f"not an entry: {values!r:.80}")
    if kind == "file" and (len(content) != 64 or not set(content) <= set("0123456789abcdef")):
        raise ValueError(f"not a sha256: {content!r:.80}")
    if kind == "link" and (not content or "\0" in content):
        raise ValueError(f"leads nowhere: {content!r:.80}")
    os.fsencode(content)
    return TreeEntry(
        kind, mode, uid, gid, mtime_ns, size, content, bool(volatile), None if seen is None else tuple(seen)
    )


def _is_directory(entry: TreeEntry) -> bool:
    return entry.kind in {"dir", "way"}


def _changes_kind(old: TreeEntry | None, new: TreeEntry | None) -> bool:
    return old is not None and new is not None and _is_directory(old) != _is_directory(new)


def _dress(entry: TreeEntry, owners: bool) -> tuple[int, ...]:
    """What can be set on something that is there. A directory's times change with what is in it."""
    times = 0 if entry.kind == "dir" else entry.mtime_ns
    mode = 0 if entry.kind == "link" else entry.mode
    return (mode, times, *((entry.uid, entry.gid) if owners else ()))


def _above(path: str) -> Iterator[str]:
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def _depth(path: str) -> tuple[int, str]:
    return path.count("/"), path
