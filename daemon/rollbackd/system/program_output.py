"""The output and the end of one started program. Nothing is started here."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Self

from rollbackd.system import step_processes
from rollbackd.system.supervisor import KEPT, Tail

GRACE = timedelta(seconds=3)
"""The time between asking a group to end and killing it."""

_PIECE = 2**16
_FULL = 16
"""Pieces that a pipe holds at most, unless root had it made larger."""


class _Pipe:
    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self.tail = Tail(KEPT)


class Pipes:
    """Standard output and error of a command, read while it runs."""

    def __init__(self, limit: int) -> None:
        self.stdout = _Pipe()
        self.stderr = _Pipe()
        self.both = Tail(KEPT)
        self.kept = bytearray()
        self.truncated = False
        self._limit = limit
        self._open: set[int] = set()

    def __enter__(self) -> Self:
        for pipe in (self.stdout, self.stderr):
            asyncio.get_running_loop().add_reader(pipe.read, self._ready, pipe)
            self._open.add(pipe.read)
        return self

    def __exit__(self, *_: object) -> None:
        self.close_writers()
        for fd in tuple(self._open):
            self._close(fd)

    def close_writers(self) -> None:
        """Close our ends, since the command has them now."""
        for pipe in (self.stdout, self.stderr):
            if pipe.write >= 0:
                os.close(pipe.write)
                pipe.write = -1

    def drain(self) -> None:
        """Read what a command that has ended left in the pipes; not what its descendants may still write."""
        for pipe in (self.stdout, self.stderr):
            for _ in range(_FULL):  # who goes on writing fills it as fast as it is read
                if pipe.read not in self._open or not self._ready(pipe):
                    break

    def _ready(self, pipe: _Pipe) -> bool:
        """Take one piece of output; False when there was none."""
        try:
            data = os.read(pipe.read, _PIECE)
        except BlockingIOError:
            return False
        if not data:
            self._close(pipe.read)
            return False
        pipe.tail.add(data)
        self.both.add(data)
        if pipe is self.stdout:
            self.truncated = self.truncated or len(self.kept) + len(data) > self._limit
            self.kept += data[: self._limit - len(self.kept)]
        return True

    def _close(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._open.discard(fd)
        os.close(fd)


@contextlib.asynccontextmanager
async def exit_of(popen: subprocess.Popen[bytes]) -> AsyncIterator[asyncio.Future[None]]:
    """A future that is done when the process has ended; it is not waited for yet, so its id stays its own."""
    loop = asyncio.get_running_loop()
    watched = os.pidfd_open(popen.pid)
    gone: asyncio.Future[None] = loop.create_future()

    def over() -> None:
        loop.remove_reader(watched)
        if not gone.done():
            gone.set_result(None)

    loop.add_reader(watched, over)
    try:
        yield gone
    finally:
        loop.remove_reader(watched)
        os.close(watched)


async def ended(popen: subprocess.Popen[bytes], timeout: timedelta) -> bool:
    """Wait for a command's end; whether it had to be made to end. After this it has ended and was waited for."""
    async with exit_of(popen) as gone:
        by_itself = False
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await asyncio.shield(gone)
            by_itself = True
        except TimeoutError:
            await _end_group(popen, gone)
        except asyncio.CancelledError:
            await _end_group(popen, gone)
            raise
        finally:
            if not by_itself:
                _signal_group(popen, signal.SIGKILL)
            popen.wait()
            step_processes.ended(popen.pid)
    return not by_itself


async def _end_group(popen: subprocess.Popen[bytes], gone: asyncio.Future[None]) -> None:
    _signal_group(popen, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE.total_seconds()):
            await asyncio.shield(gone)


def _signal_group(popen: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # another user's program ends by its own limits
        os.killpg(popen.pid, number)


@contextlib.contextmanager
def as_stdin(data: bytes) -> Iterator[int]:
    if not data:
        yield subprocess.DEVNULL
        return
    fd = os.memfd_create("stdin")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
