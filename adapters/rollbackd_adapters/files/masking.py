"""Masks secrets in files of any kind, line by line. No I/O. Better a word too many than one that is a secret.

A value is masked by the name that it is given, in whatever way such files give names: `NAME=value`, `name: value`,
`"name": "value"`, `'name' => 'value'`, `name value`, and `name: NAME` with `value: …` after it; with what goes on in
the lines below: a list, a text in quotes, a joined line.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rollbackd.system.redaction import MASK

_WORD = re.compile(r"[A-Za-z_][\w.\-]*")
_GIVES = re.compile(r"[\"']?\]?[ \t]*(?:=>|:=|[:=])[ \t]*")
_PARTS = re.compile(r"[\"'\])}>;:,]*[ \t]*[\"'(<,]*[ \t]*")
"""What may stand between a name and its value where no sign gives it."""
_VALUE = re.compile(r"""\"(?:[^"\\]|\\.)*\"?|'[^']*'?|[^\s,;}\])]+""")
_ELEMENT = re.compile(r"(<([A-Za-z_][\w.\-]*)(?:\s[^<>]*)?>)([^<]+)")
_OPENS = re.compile(r"(?:[|>][+-]?\d*|[\[{(]|&\S+)?\s*(?:#.*)?")
_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_CLOSINGS = {
    '"""': re.compile(r'"""'),
    "'''": re.compile(r"'''"),
    '"': re.compile(r'(?<!\\)(?:\\\\)*"'),
    "'": re.compile(r"'"),
    "key": re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----"),
}
_NO_NAME_AFTER = ("/", ".", "$", "{")
"""A word behind one of these is a part of a path, or is only referred to."""


@dataclass(frozen=True, slots=True)
class _Open:
    """What of a line goes on in the next one."""

    indent: int = -1
    """Whatever is indented deeper is secret; -1: nothing."""
    closing: str = ""
    """All is secret until this closes."""
    joined: bool = False
    """The next line belongs to this one."""
    named: bool = False
    """It ended with a secret name, so a `value` in the next line is secret."""


_NOTHING = _Open()


class Masks:
    """Knows which names are secret."""

    def __init__(self, patterns: Sequence[str], clean: Callable[[str], str]) -> None:
        self._secret = re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)", re.IGNORECASE)
        self._clean = clean

    def secret(self, name: str) -> bool:
        return self._secret.match(name) is not None

    def lines(self, text: str) -> list[tuple[str, str]]:
        """Each line as it is, and as it may be shown."""
        shown: list[tuple[str, str]] = []
        open_ = _NOTHING
        for line in text.splitlines():
            if _BEGIN.search(line) is not None:
                open_ = _Open(closing="key")
            below = _below(line, open_)
            if below is not None:
                open_ = below
                shown.append((line, " " * _indent(line) + MASK if line.strip() else line))
            else:
                masked, open_ = self._line(line, named=open_.named)
                shown.append((line, self._clean(masked)))
        return shown

    def _line(self, line: str, *, named: bool) -> tuple[str, _Open]:
        """One line masked, and what of it goes on below."""
        line = _ELEMENT.sub(
            lambda found: found.group(1) + (MASK if self.secret(found.group(2)) else found.group(3)), line
        )
        result, at = "", 0
        while (word := _WORD.search(line, at)) is not None:
            gives = _GIVES.match(line, word.end())
            if not self.secret(word.group()) and not (named and gives is not None and word.group().lower() == "value"):
                result, at = result + line[at : word.end()], word.end()
                continue
            end = gives.end() if gives is not None else word.end()
            result, at = result + line[at:end], end
            if gives is None:
                before = line[: word.start()]
                if before.endswith(_NO_NAME_AFTER) and before.strip() != "set $":  # nginx gives a value so
                    continue
                between = _PARTS.match(line, at)
                end = between.end() if between is not None else at
                if end == len(line):
                    return result + line[at:], _Open(named=True)
                if end > at and not line.startswith(MASK, end):
                    return result + line[at:end] + MASK, _Open(joined=line.endswith("\\"))
                continue
            masked, length, open_ = self._value(line, word, at)
            result, at = result + masked, at + length
            if open_ != _NOTHING:
                return result, open_
        return result + line[at:], _NOTHING

    def _value(self, line: str, word: re.Match[str], at: int) -> tuple[str, int, _Open]:
        """What stands from `at` on, masked; how much of the line that is; what of it goes on below."""
        whole, indent = len(line) - at, _indent(line)
        if _OPENS.fullmatch(line, at):
            return line[at:], whole, _Open(indent)
        if line[at] in "[{(":  # a list of them, which may end here or below
            is_open = sum(map(line[at:].count, "[{(")) > sum(map(line[at:].count, "]})"))
            return MASK, whole, _Open(indent) if is_open else _NOTHING
        triple = line[at : at + 3]
        if triple in _CLOSINGS:
            return MASK, whole, _NOTHING if triple in line[at + 3 :] else _Open(closing=triple)
        value = _VALUE.match(line, at)
        text = value.group() if value is not None else ""
        if text[:1] in {"'", '"'} and (len(text) == 1 or text[-1] != text[0]):
            return MASK, whole, _Open(closing=text[0])
        if self.secret(text.strip("\"'")) and _WORD.fullmatch(text.strip("\"'")) is not None:
            return MASK, whole, _Open(named=True)  # the name of a secret, whose value comes after it
        before = line[: word.start()]
        is_first = before.strip(" \t-{[") in {"", "export"}
        if is_first or not text:
            return MASK, whole, _Open(joined=line.endswith("\\"))
        return MASK, len(text), _NOTHING


def _below(line: str, open_: _Open) -> _Open | None:
    """What goes on after a line that is all secret because of those before it; None: it is not."""
    if open_.closing:
        return _NOTHING if _CLOSINGS[open_.closing].search(line) is not None else open_
    if open_.joined:
        return _Open(joined=line.endswith("\\"))
    if open_.indent < 0:
        return None
    if not line.strip():
        return open_
    deeper = _indent(line) > open_.indent or (_indent(line) == open_.indent and line.lstrip()[0] in "-]})")
    return open_ if deeper else None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
