"""Patterns over absolute paths: what is watched, what is volatile. No I/O; knows text only.

`*` and `?` stay within a name and match a leading dot too, `**` is any number of directories. What a pattern matches is
taken with all that is below it.
"""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from rollbackd.syntax.units import show

_MAGIC = re.compile(r"[*?\[]")
_ANY = "**"


def check_pattern(text: str) -> str:
    """An absolute pattern, as written. :raises ValueError: with what to write instead."""
    parts = text.removeprefix("/").split("/")
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{show(text)} depends on where the daemon was started; write the whole path")
    if not parts[0]:
        raise ValueError('"/" is everything; name a directory or a file')
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f'{show(text)} has an empty part, "." or ".."; write the path as it is')
    if any(_ANY in part and part != _ANY for part in parts):
        raise ValueError(f"{show(text)} has ** beside other characters; write it between two slashes")
    return text


def is_plain(pattern: str) -> bool:
    """Whether it has no wildcards."""
    return _MAGIC.search(pattern) is None


def path_above(pattern: str) -> str:
    """The directory that everything a pattern can match is in."""
    parts = pattern.removeprefix("/").split("/")
    return "/" + "/".join(takewhile(is_plain, parts[:-1]))


def matches(pattern: str, path: str) -> bool:
    """Whether a path fits: a pattern with a slash is for whole paths, any other for the name alone."""
    if "/" in pattern:
        return _compiled(pattern).selects(path)
    return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern)


@dataclass(frozen=True)
class Pattern:
    """One pattern below a directory that is reached as the system reaches it; below it no link is followed."""

    base: str
    parts: tuple[str, ...]
    """At least one."""

    def selects(self, path: str) -> bool:
        """Whether the path itself matches, or something above it."""
        return self._fits(path, leads=False)

    def leads(self, path: str) -> bool:
        """Whether the path is a directory on the way to something that can match."""
        return self._fits(path, leads=True)

    def _fits(self, path: str, *, leads: bool) -> bool:
        prefix = self.base.rstrip("/") + "/"
        return path.startswith(prefix) and _fits(self.parts, tuple(path[len(prefix) :].split("/")), leads)


@dataclass(frozen=True)
class WatchList:
    """A watch list."""

    patterns: tuple[str, ...]

    @property
    def compiled(self) -> tuple[Pattern, ...]:
        return tuple(map(_compiled, self.patterns))

    def by_base(self) -> Iterator[tuple[str, tuple[Pattern, ...]]]:
        """The directories to begin at, each once, with the patterns below it."""
        for base in sorted({pattern.base for pattern in self.compiled}):
            yield base, tuple(pattern for pattern in self.compiled if pattern.base == base)

    def selects(self, path: str) -> bool:
        return any(pattern.selects(path) for pattern in self.compiled)

    def base_of(self, path: str) -> str | None:
        """The directory below which no link is followed on the way to a path; None when it is not on the list."""
        bases = [pattern.base for pattern in self.compiled if pattern.selects(path) or pattern.leads(path)]
        return min(bases, key=len, default=None)


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Pattern:
    parts = text.removeprefix("/").split("/")
    depth = min(len(list(takewhile(is_plain, parts))), len(parts) - 1)
    return Pattern("/" + "/".join(parts[:depth]), tuple(parts[depth:]))


@lru_cache(maxsize=2**14)
def _fits(parts: tuple[str, ...], names: tuple[str, ...], leads: bool) -> bool:
    if not parts:
        return not leads
    if not names:
        return leads or set(parts) == {_ANY}
    if parts[0] == _ANY:  # any number of directories, or none
        return _fits(parts[1:], names, leads) or _fits(parts, names[1:], leads)
    return fnmatch.fnmatchcase(names[0], parts[0]) and _fits(parts[1:], names[1:], leads)
