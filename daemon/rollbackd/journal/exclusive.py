"""One process drives a journal: a lock that the kernel drops with its holder, so that nothing is ever left behind."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from rollbackd.journal.contract import JournalInUse, JournalRefused
from rollbackd.journal.place import path_of


class Exclusive:
    """Held by whoever starts steps: the daemon, or `rollback --offline`. Reading needs no lock.

    :raises JournalRefused: on entering, when another process holds it or the file cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._journal = path_of(url)
        self._fd = -1

    @property
    def path(self) -> Path:
        """The lock's file."""
        return self._journal.with_name(f"{self._journal.name}.lock")

    def __enter__(self) -> Self:
        try:
            # Not inherited by what steps start: a child that outlives us must not keep the next life out.
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalRefused(f"{self.path}: {error.strerror}; run as the user of rollbackd") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if not isinstance(error, BlockingIOError):
                raise JournalRefused(f"{self.path}: cannot be locked: {error.strerror}") from error
            who = f"process {holder}" if holder else "another process"
            raise JournalInUse(
                f"{self._journal}: journal is in use by {who}; ask that one, or end it first (systemctl stop rollbackd)"
            ) from error
        self._fd = fd
        self._sign(fd)
        return self

    def _sign(self, fd: int) -> None:
        """The number is only for the other one's message, so that a full disk keeps nobody from the lock."""
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._fd)
        self._fd = -1
