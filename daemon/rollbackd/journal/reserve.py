"""Room set aside beside the journal: on a full disk it is freed, so that a running rollback can still be journaled."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

RESERVE = 8 * 2**20
"""Bytes; a rollback writes some dozen facts of a few KiB each, and SQLite's log before them."""

_CHUNK = 2**20


class Reserve:
    """The reserved file. Its absence is the state: it was freed, and what is not urgent must not eat what it left."""

    def __init__(self, journal: Path, size: int = RESERVE) -> None:
        self.path = journal.with_name(f"{journal.name}.reserve")
        self.size = size
        self.held = False

    def release(self) -> bool:
        """Free it; whether there was one."""
        self.held = False
        try:
            self.path.unlink()
        except OSError:
            return False
        return True

    def restore(self) -> bool:
        """Make it if it is not there and there is room for it twice; whether it is there now."""
        try:
            self.held = self._there() or self._make()
        except OSError:
            self.held = False
        return self.held

    def _there(self) -> bool:
        """Also asked of the disk, since a person in need may have removed it."""
        return self.path.exists() and self.path.stat().st_size >= self.size

    def _make(self) -> bool:
        if shutil.disk_usage(self.path.parent).free < 2 * self.size:
            return False
        partial = self.path.with_name(f"{self.path.name}.new")
        try:
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                # Random: zeros would be compressed away by some file systems and reserve nothing.
                file.writelines(os.urandom(min(_CHUNK, self.size - at)) for at in range(0, self.size, _CHUNK))
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        return True
