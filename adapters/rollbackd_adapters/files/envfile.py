"""Environment files: `NAME=value` lines, with `export` before them or not. No I/O; the rest of a file stays as it is.

A value is kept as it is written, quotes and all. It goes on over several lines where a shell's does: in quotes,
wherever they begin, and behind a backslash; only an apostrophe within a word is no quote. Of several assignments the
last one counts, as it does for those who read such files.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_BEGIN = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
_VALUE = re.compile(
    r"""(?:[^\n\\"'#]|\\[\s\S]\#*|"(?:\\[\s\S]|[^"\\])*"|(?<![A-Za-z0-9])'[^']*'|["'\\]|(?<![ \t])\#)*"""
)
"""Up to the end of its last line, or to a comment behind it, in which a quote is none."""
_COMMENT = re.compile(r"[ \t]*[#;]")
_JOINED = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")


class Assignment(NamedTuple):
    """Where a value stands in the text."""

    name: str
    begin: int
    """Of the value."""
    end: int
    """Of the value, before the line's end."""
    line: int
    """Where its first line begins."""


def assignments(text: str) -> Iterator[Assignment]:
    """All of them, in their order."""
    line = 1 if text.startswith("\ufeff") else 0
    while line < len(text):
        end = _line_end(text, line)
        found = _BEGIN.match(text, line, end)
        if found is not None:
            begin = found.end()
            value = _VALUE.match(text, begin)
            end = _line_end(text, begin if value is None else value.end())
            yield Assignment(found.group(1), begin, end, line)
        elif _COMMENT.match(text, line) is None:
            while end < len(text) and _JOINED.search(text, line, end) is not None:
                end = _line_end(text, end + 1)
        line = end + 1


def values(text: str, names: Sequence[str]) -> dict[str, str | None]:
    """What is assigned to names; None: nothing."""
    found = {one.name: text[one.begin : one.end].removesuffix("\r") for one in assignments(text)}
    return {name: found.get(name) for name in names}


def with_values(text: str, wanted: Mapping[str, str | None]) -> str:
    """The text with these values. What is not assigned yet comes last; what must not be goes, with its line."""
    for name, value in wanted.items():
        same = [one for one in assignments(text) if one.name == name]
        if value is None:
            for one in reversed(same):
                text = text[: one.line] + text[one.end + 1 :]
        elif same:
            end = same[-1].end - (text[same[-1].begin : same[-1].end].endswith("\r"))
            text = text[: same[-1].begin] + value + text[end:]
        else:
            text += ("" if not text or text.endswith("\n") else "\n") + f"{name}={value}\n"
    return text


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
