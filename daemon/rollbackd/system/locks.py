"""Locks that keep two steps from sharing a resource: in this process, across processes, and across our own death.

A resource has two files under the locks' directory, named by a hash of it:

- `<hash>.owner` is locked by the process that works on it, for as long as it does;
- `<hash>.run` is locked, on a new description each time, for every program that is started meanwhile. The program
  inherits it: when we are killed it is held until the last of them ends, and the next process sees that.

Both are flock(2) locks: the kernel drops them with the last holder, so nothing stale is ever left behind.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rollbackd.system.clock import Clock
from rollbackd.system.supervisor import holders

_LOOK_AGAIN = timedelta(milliseconds=50)
_KILLED_WITHIN = timedelta(seconds=5)
_FLOCK = "hhqqi4x"
"""`struct flock` of Linux, 64 bit: type, whence, start, length, process."""


class Busy(Exception):  # noqa: N818  # it is an answer, not an error
    """Somebody else works on the resource; the text says who. Trying again later helps."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A resource that this task holds."""

    resource: str
    run: Path

    def grant(self, until: float) -> int:
        """A descriptor for a program to inherit, locked anew. Close it here when the program has it: then the lock
        lasts until the last holder ends, or until one of them unlocks it for all.

        :param until: wall time in seconds after which a program that nobody supervises may be killed.
        :raises Busy: a program that was started earlier still has it.
        """
        fd = _open(self.run)
        if not _try(fd):
            os.close(fd)
            raise Busy(f"{self.resource}: a program that was started earlier still works on it")
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"resource": self.resource, "until": until}).encode(), 0)
        return fd

    def kill_leftovers(self) -> None:
        """Kill what still holds it; for when nobody supervises it any more."""
        _kill(self.run)


class Locks:
    """All locks of this daemon."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._tasks: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def hold(self, resource: str, wait: timedelta = timedelta()) -> AsyncIterator[Lock]:
        """Hold a resource. Another task of this process is waited for; another process only for `wait`.

        What an earlier life started and nobody supervises is killed once its own time is over.

        :raises Busy: it is still held elsewhere.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with self._tasks.setdefault(resource, asyncio.Lock()):
            owner = _open(self._path(resource, "owner"))
            try:
                until = self._clock.monotonic() + wait.total_seconds()
                while (reason := self._take(owner, resource)) is not None:
                    if self._clock.monotonic() >= until:
                        raise Busy(reason)
                    await self._clock.sleep(_LOOK_AGAIN)
                await self._end_leftovers(resource)
                yield Lock(resource, self._path(resource, "run"))
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(owner, fcntl.LOCK_UN)
                os.close(owner)

    def held(self, resource: str) -> bool:
        """Whether a program of an earlier process still works on it; False once one without a supervisor is overdue."""
        run = self._path(resource, "run")
        try:
            fd = os.open(run, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if _try(fd):
                return False
            return _supervised(fd) or self._clock.now().timestamp() < _until(fd)
        finally:
            os.close(fd)

    def _take(self, owner: int, resource: str) -> str | None:
        """Try to become the owner; returns why not, where it did not work."""
        if not _try(owner):
            return f"{resource}: another rollbackd works on it (process {os.pread(owner, 20, 0).decode().strip()})"
        os.ftruncate(owner, 0)
        os.pwrite(owner, str(os.getpid()).encode(), 0)
        if self.held(resource):
            fcntl.flock(owner, fcntl.LOCK_UN)
            still = _processes(self._path(resource, "run"))
            return f"{resource}: what an earlier life started still runs ({still}); it is waited for"
        return None

    async def _end_leftovers(self, resource: str) -> None:
        """Kill programs that are overdue, and wait for their end: a killed process holds its locks until it is gone."""
        run = self._path(resource, "run")
        until = self._clock.monotonic() + _KILLED_WITHIN.total_seconds()
        while not _is_free(run) and self._clock.monotonic() < until:
            _kill(run)
            await self._clock.sleep(_LOOK_AGAIN)

    def _path(self, resource: str, kind: str) -> Path:
        return self._directory / f"{hashlib.sha256(resource.encode()).hexdigest()[:20]}.{kind}"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(run: Path) -> bool:
    fd = _open(run)
    try:
        return _try(fd)
    finally:
        os.close(fd)


def _supervised(fd: int) -> bool:
    """Whether its supervisor lives, which alone has a POSIX lock on the file, since nobody inherits that."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer: int = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0]
    return answer != fcntl.F_UNLCK


def _until(fd: int) -> float:
    try:
        return float(json.loads(os.pread(fd, 4096, 0))["until"])
    except (ValueError, KeyError, TypeError):
        return 0.0  # cut off while it was written: nothing was started with it yet


def _processes(path: Path) -> str:
    return "process " + (", ".join(map(str, holders(path))) or "of another user")


def _kill(path: Path) -> None:
    for process in holders(path):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
