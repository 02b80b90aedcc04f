"""Shows what differs between two trees, with secrets masked. No I/O; contents are handed in."""

import difflib
from collections.abc import Callable
from typing import Literal

from rollbackd.adapter import Difference
from rollbackd.syntax.units import writable
from rollbackd.system.redaction import MASK
from rollbackd_adapters.files.masking import Masks
from rollbackd_adapters.files.tree import Tree, TreeEntry

LINES = 100
"""Lines of one file that are shown."""
TEXT_LIMIT = 256 * 2**10
"""Bytes; of a longer file only its sizes are told."""

_COMPARED = 2000
"""Lines that are compared one by one; the time for that grows with their square."""

Contents = Callable[[TreeEntry], bytes | None]
"""A file's bytes; None: they cannot be had."""
Kind = Literal["added", "removed", "changed"]
Line = tuple[str, str]
"""As it is, and as it may be shown."""


def differences(older: Tree, newer: Tree, old: Contents, new: Contents, masks: Masks) -> list[Difference]:
    """What differs, by path. What is volatile is left out, and times too.

    :param old: gives contents of the older tree, `new` of the newer.
    """
    found = []
    for path in sorted({*older.entries, *newer.entries}):
        before, after = older.entries.get(path), newer.entries.get(path)
        if any(entry is not None and not entry.counts for entry in (before, after)):
            continue
        if before is None or after is None:
            entry = after or before
            assert entry is not None
            kind: Kind = "added" if before is None else "removed"
            found.append(Difference(writable(path), kind, (writable(_described(entry)),)))
        elif lines := _changed(path, before, after, old, new, masks):
            found.append(Difference(writable(path), "changed", tuple(map(writable, lines))))
    for file in sorted({*older.variables, *newer.variables}):
        values, others = older.variables.get(file, {}), newer.variables.get(file, {})
        for name in sorted({*values, *others}):
            if values.get(name) != others.get(name):
                found.append(_variable(file, name, values.get(name), others.get(name), masks))
    return found


def _described(entry: TreeEntry) -> str:
    match entry.kind:
        case "file":
            return f"a file of {entry.size} bytes, mode {entry.mode:04o}"
        case "link":
            return f"a link to {entry.content}"
    return f"a directory, mode {entry.mode:04o}"


def _changed(path: str, before: TreeEntry, after: TreeEntry, old: Contents, new: Contents, masks: Masks) -> list[str]:
    lines = []
    if before.kind != after.kind or before.kind == "link":
        if before.what != after.what:
            lines = [f"- {_described(before)}", f"+ {_described(after)}"]
        return lines
    if before.mode != after.mode:
        lines.append(f"mode {before.mode:04o} became {after.mode:04o}")
    if (before.uid, before.gid) != (after.uid, after.gid):
        lines.append(f"owner {before.uid}:{before.gid} became {after.uid}:{after.gid}")
    if before.content != after.content and masks.secret(path.rpartition("/")[2]):
        lines.append(f"{before.size} bytes became {after.size} bytes; not shown, since its name is a secret's")
    elif before.content != after.content:
        lines += _texts(before, after, old, new, masks)
    return lines


def _texts(before: TreeEntry, after: TreeEntry, old: Contents, new: Contents, masks: Masks) -> list[str]:
    texts = []
    for entry, contents in ((before, old), (after, new)):
        data = contents(entry) if entry.size <= TEXT_LIMIT else None
        if data is None or b"\0" in data:
            return [f"{before.size} bytes became {after.size} bytes of other content"]
        texts.append(data.decode(errors="replace"))
    first, second = _apart(*(masks.lines(text) for text in texts))
    if max(len(first), len(second)) > _COMPARED:
        return [f"{len(first)} lines became {len(second)} other lines"]
    shown = []
    matcher = difflib.SequenceMatcher(a=[line for line, _ in first], b=[line for line, _ in second])
    for tag, begin, end, begin_new, end_new in matcher.get_opcodes():
        if tag == "equal":
            continue
        gone, come = ([text for _, text in part] for part in (first[begin:end], second[begin_new:end_new]))
        for line in list(gone):
            if line in come and MASK in line:  # only what is masked differs
                gone.remove(line)
                come.remove(line)
                shown.append(f"{line.strip()} changed")
        shown += [f"- {line}" for line in gone] + [f"+ {line}" for line in come]
    shown = shown or ["only line ends differ"]
    more = len(shown) - LINES
    return shown if more <= 0 else [*shown[:LINES], f"… and {more} lines more"]


def _apart(first: list[Line], second: list[Line]) -> tuple[list[Line], list[Line]]:
    """What lies between the lines that both begin and end with."""
    same = 0
    shorter = min(len(first), len(second))
    while same < shorter and first[same][0] == second[same][0]:
        same += 1
    end = 0
    while end < shorter - same and first[-1 - end][0] == second[-1 - end][0]:
        end += 1
    return first[same : len(first) - end], second[same : len(second) - end]


def _variable(file: str, name: str, before: str | None, after: str | None, masks: Masks) -> Difference:
    kind: Kind = "added" if before is None else "removed" if after is None else "changed"
    if masks.secret(name):
        return Difference(writable(f"{file} {name}"), kind, (f"{name}={MASK} {kind}",))
    shown = [(sign, f"{name}={value}") for sign, value in (("-", before), ("+", after)) if value is not None]
    lines = tuple(writable(f"{sign} {text}") for sign, said in shown for _, text in masks.lines(said))
    return Difference(writable(f"{file} {name}"), kind, lines)
