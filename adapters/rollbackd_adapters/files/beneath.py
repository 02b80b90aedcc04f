"""The only way to directories below a watched base: opened one by one, so that no link is ever followed.

https://man7.org/linux/man-pages/man2/openat.2.html
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from typing import Self

from rollbackd.adapter import AdapterError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OURS = re.compile(r"\.rollbackd-[0-9a-f]{16}")


def temporary(path: str) -> str:
    """The name beside a path under which its next content is written; always the same, so a kill leaves one at most."""
    return f".rollbackd-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def is_temporary(name: str) -> bool:
    return name.startswith(".rollbackd-") and _OURS.fullmatch(name) is not None


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """What the system refuses, as the adapter's failure. Trying again helps once somebody has seen to it."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.EACCES: "give rollbackd's user that right",
            errno.EPERM: "give rollbackd's user that right, or take away what protects it",
            errno.EROFS: "make the file system writable, and ReadWritePaths= of the unit",
            errno.ENOSPC: "make room",
            errno.EDQUOT: "make room",
            errno.ENOTEMPTY: "something was put into it meanwhile",
            errno.ELOOP: "it, or a directory above it, is a link now; put back what it was",
            errno.ENOTDIR: "it, or a directory above it, is a link or a file now; put back what it was",
        }.get(error.errno or 0, "look at it")
        raise AdapterError(f"{path}: {error.strerror or error}; {hint}", permanent=False) from error


class Beneath:
    """Directories below one base; keeps the chain to the last one open."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._chain: list[tuple[str, int]] = [("", os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_to(0)

    def parent(self, path: str) -> tuple[int, str]:
        """An open directory and the name in it. It stays open until the next call.

        :raises OSError: a directory above it is missing, or is no directory.
        """
        parts = path[len(self._base.rstrip("/")) + 1 :].split("/")
        depth = 1
        while depth < len(self._chain) and depth < len(parts) and self._chain[depth][0] == parts[depth - 1]:
            depth += 1
        self._close_to(depth)
        for name in parts[depth - 1 : -1]:
            self._chain.append((name, os.open(name, DIRECTORY, dir_fd=self._chain[-1][1])))
        return self._chain[-1][1], parts[-1]

    def _close_to(self, depth: int) -> None:
        while len(self._chain) > depth:
            os.close(self._chain.pop()[1])
