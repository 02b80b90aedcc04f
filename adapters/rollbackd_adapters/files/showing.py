"""Shows what differs between two trees, with secrets masked. No I/O; contents are handed in.

A value is masked by the name that it is given, in whatever way such files give names: `NAME=value`, `name: value`,
`"name": "value"`; with what is indented below it when the value goes on there.
"""

import difflib
import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Literal

from rollbackd.adapter import Difference
from rollbackd.redact import MASK
from rollbackd_adapters.files.tree import Entry, Tree

LINES = 100
"""Lines of one file that are shown."""
TEXT_LIMIT = 256 * 2**10
"""Bytes; of a longer file only its sizes are told."""

_GIVEN = re.compile(r"""(?P<quote>["']?)(?P<name>[A-Za-z_][\w.\-]*)(?P=quote)[ \t]*[:=][ \t]*""")
_VALUE = re.compile(r"""\"(?:[^"\\]|\\.)*\"?|'[^']*'?|[^\s,;}\])]+""")
_SPACED = re.compile(r"[ \t]*([A-Za-z_][\w.\-]*)[ \t]+(?![ \t:=])(.+)")
_ELEMENT = re.compile(r"(<([A-Za-z_][\w.\-]*)(?:\s[^<>]*)?>)([^<]+)")
_OPENS = re.compile(r"(?:[|>][+-]?\d*|[\[{(]|&\S+)?\s*(?:#.*)?")
_BEGIN, _END = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"), re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")

Contents = Callable[[Entry], bytes | None]
"""A file's bytes; None: they cannot be had."""


class Masks:
    """Knows which names are secret."""

    def __init__(self, patterns: Sequence[str], clean: Callable[[str], str]) -> None:
        self._patterns = [re.compile(fnmatch.translate(pattern), re.IGNORECASE) for pattern in patterns]
        self._clean = clean

    def secret(self, name: str) -> bool:
        return any(pattern.match(name) for pattern in self._patterns)

    def lines(self, text: str) -> list[tuple[str, str]]:
        """Each line as it is, and as it may be shown."""
        shown: list[tuple[str, str]] = []
        key, depth = False, -1
        """Within a private key; indentation of a secret name whose value goes on below."""
        for line in text.splitlines():
            indent = len(line) - len(line.lstrip())
            if depth >= 0 and line.strip() and not (indent > depth or (indent == depth and line.lstrip()[0] in "-]})")):
                depth = -1
            key = key or _BEGIN.search(line) is not None
            if key or (depth >= 0 and line.strip()):
                shown.append((line, " " * indent + MASK))
            else:
                masked, opens = self._line(line)
                depth = indent if opens else depth
                shown.append((line, self._clean(masked)))
            key = key and _END.search(line) is None
        return shown

    def _line(self, line: str) -> tuple[str, bool]:
        """One line masked, and whether a secret goes on below it."""
        if (spaced := _SPACED.match(line)) is not None and self.secret(spaced.group(1)):
            return line[: spaced.start(2)] + MASK, False
        line = _ELEMENT.sub(
            lambda found: found.group(1) + (MASK if self.secret(found.group(2)) else found.group(3)), line
        )
        result, at, opens = "", 0, False
        while (found := _GIVEN.search(line, at)) is not None:
            result += line[at : found.end()]
            at = found.end()
            if not self.secret(found.group("name")):
                continue
            if _OPENS.fullmatch(line, at):
                return result + line[at:], True
            first = not line[: found.start()].strip(" \t-{[\"'") or line[: found.start()].strip() == "export"
            if line[at] in "[{(":  # a list of them, on one line
                return result + MASK, False
            value = _VALUE.match(line, at)
            end = len(line) if first and not found.group("quote") else value.end() if value else len(line)
            opens = value is not None and value.group()[0] in "\"'" and not _closed(value.group())
            result, at = result + MASK, end
        return result + line[at:], opens


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
            found.append(Difference(path, "added" if before is None else "removed", (_described(entry),)))
        elif lines := _changed(before, after, old, new, masks):
            found.append(Difference(path, "changed", tuple(lines)))
    for file in sorted({*older.variables, *newer.variables}):
        values, others = older.variables.get(file, {}), newer.variables.get(file, {})
        for name in sorted({*values, *others}):
            if values.get(name) != others.get(name):
                found.append(_variable(file, name, values.get(name), others.get(name), masks))
    return found


def _described(entry: Entry) -> str:
    match entry.kind:
        case "file":
            return f"a file of {entry.size} bytes, mode {entry.mode:04o}"
        case "link":
            return f"a link to {entry.content}"
    return f"a directory, mode {entry.mode:04o}"


def _changed(before: Entry, after: Entry, old: Contents, new: Contents, masks: Masks) -> list[str]:
    lines = []
    if before.kind != after.kind or before.kind == "link":
        if before.what != after.what:
            lines = [f"- {_described(before)}", f"+ {_described(after)}"]
        return lines
    if before.mode != after.mode:
        lines.append(f"mode {before.mode:04o} became {after.mode:04o}")
    if (before.uid, before.gid) != (after.uid, after.gid):
        lines.append(f"owner {before.uid}:{before.gid} became {after.uid}:{after.gid}")
    if before.content != after.content:
        lines += _texts(before, after, old, new, masks)
    return lines


def _texts(before: Entry, after: Entry, old: Contents, new: Contents, masks: Masks) -> list[str]:
    texts = []
    for entry, contents in ((before, old), (after, new)):
        data = contents(entry) if entry.size <= TEXT_LIMIT else None
        if data is None or b"\0" in data:
            return [f"{before.size} bytes became {after.size} bytes of other content"]
        texts.append(data.decode(errors="replace"))
    first, second = (masks.lines(text) for text in texts)
    shown = []
    matcher = difflib.SequenceMatcher(a=[line for line, _ in first], b=[line for line, _ in second], autojunk=False)
    for tag, begin, end, begin_new, end_new in matcher.get_opcodes():
        if tag == "equal":
            continue
        gone, come = ([text for _, text in part] for part in (first[begin:end], second[begin_new:end_new]))
        for line in list(gone):
            if line in come:  # only what is masked differs
                gone.remove(line)
                come.remove(line)
                shown.append(f"{line.strip()} changed")
        shown += [f"- {line}" for line in gone] + [f"+ {line}" for line in come]
    shown = shown or ["only line ends differ"]
    more = len(shown) - LINES
    return shown if more <= 0 else [*shown[:LINES], f"… and {more} lines more"]


def _variable(file: str, name: str, before: str | None, after: str | None, masks: Masks) -> Difference:
    kind: Literal["added", "removed", "changed"] = (
        "added" if before is None else "removed" if after is None else "changed"
    )
    if masks.secret(name):
        return Difference(f"{file} {name}", kind, (f"{name}={MASK} {kind}",))
    shown = [
        (sign, masks.lines(f"{name}={value}")) for sign, value in (("-", before), ("+", after)) if value is not None
    ]
    lines = tuple(f"{sign} {text}" for sign, pairs in shown for _, text in pairs)
    return Difference(f"{file} {name}", kind, lines)


def _closed(value: str) -> bool:
    return len(value) > 1 and value[-1] == value[0]
