"""Patterns over absolute paths: what is watched, what is volatile. No I/O; knows text only.

`*` and `?` stay within a name and match a leading dot too, `**` is any number of directories. What a pattern matches is
taken with all that is below it.
"""

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import takewhile

from rollbackd.syntax.units import show

_MAGIC = re.compile(r"[*?\[]")
_ANY = "**"

Positions = frozenset[int]
"""Where in a pattern a path can be: how many of its parts are used up."""


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
    return "/" + "/".join(takewhile(lambda part: _MAGIC.search(part) is None, parts[:-1]))


def matches(pattern: str, path: str) -> bool:
    """Whether a path fits: a pattern with a slash is for whole paths, any other for the name alone."""
    if "/" in pattern:
        return _compiled(pattern).selects(path)
    return _fits(pattern, path.rpartition("/")[2])


@dataclass(frozen=True)
class Pattern:
    """One pattern below a directory that is reached as the system reaches it; below it no link is followed."""

    base: str
    parts: tuple[str, ...]
    """At least one."""

    @cached_property
    def start(self) -> Positions:
        return self._closed({0})

    @cached_property
    def _tests(self) -> tuple[Callable[[str], bool], ...]:
        return tuple(_test(part) for part in self.parts)

    def _closed(self, positions: set[int]) -> Positions:
        """`**` can also be no directory at all."""
        found = set(positions)
        for position in sorted(positions):
            here = position
            while here < len(self.parts) and self.parts[here] == _ANY:
                here += 1
                found.add(here)
        return frozenset(found)

    def advance(self, positions: Positions, name: str) -> Positions:
        """The positions one name deeper; empty when nothing below can match."""
        found = set[int]()
        for position in positions:
            if position == len(self.parts):
                continue
            if self.parts[position] == _ANY:
                found.add(position)
            elif self._tests[position](name):
                found.add(position + 1)
        return self._closed(found)

    def ended(self, positions: Positions) -> bool:
        """Whether the path matches, and so all that is below it."""
        return len(self.parts) in positions

    def selects(self, path: str) -> bool:
        """Whether the path itself matches, or something above it."""
        prefix = self.base.rstrip("/") + "/"
        if not path.startswith(prefix):
            return False
        positions = self.start
        for name in path[len(prefix) :].split("/"):
            if not (positions := self.advance(positions, name)):
                return False
            if self.ended(positions):
                return True
        return False

    def leads(self, path: str) -> bool:
        """Whether the path is a directory on the way to something that can match."""
        prefix = self.base.rstrip("/") + "/"
        positions = self.start if path.startswith(prefix) else frozenset()
        for name in path[len(prefix) :].split("/"):
            positions = self.advance(positions, name)
        return bool(positions)


@dataclass(frozen=True)
class WatchList:
    """A watch list."""

    patterns: tuple[str, ...]
    compiled: tuple[Pattern, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "compiled", tuple(_compiled(text) for text in self.patterns))

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


def any_matches(patterns: Sequence[str], path: str) -> bool:
    return any(matches(pattern, path) for pattern in patterns)


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Pattern:
    parts = text.removeprefix("/").split("/")
    literal = len(list(takewhile(lambda part: not _MAGIC.search(part), parts)))
    depth = min(literal, len(parts) - 1)
    return Pattern("/" + "/".join(parts[:depth]), tuple(parts[depth:]))


@lru_cache(maxsize=4096)
def _test(part: str) -> Callable[[str], bool]:
    if not _MAGIC.search(part):
        return part.__eq__
    found = re.compile(fnmatch.translate(part)).match
    return lambda name: found(name) is not None


def _fits(part: str, name: str) -> bool:
    return _test(part)(name)
