"""Contents on their way into the store: none has its name before its bytes are on disk."""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Self

from rollbackd.adapter import AdapterError
from rollbackd.system.boundary import boundary
from rollbackd_adapters.files.beneath import told
from rollbackd_adapters.files.scan import CHUNK, Hashing, chunks_of, digest_of
from rollbackd_adapters.files.store import Store

_SETTLE_FILES = 4096
_SETTLE_BYTES = 256 * 2**20
"""Bytes that are put on disk at once: a snapshot that was cut off goes on from there."""
_LOOK_AGAIN = 16 * 2**20
"""Bytes that are written between two looks at what is left of the disk."""
_FEW = 16
"""Files that are put on disk one by one; when there are more, all together."""


class Batch(Hashing):
    """Contents on their way into the store, as the sink of a scan. Under the lock; `settle` at the end of the block."""

    def __init__(self, store: Store, stop: Callable[[], None], room: int = 0) -> None:
        """:param room: bytes that must be left on the store's disk."""
        super().__init__(stop)
        self._store = store
        self._room = room
        self._granted = 0
        """Bytes that may be written before the disk is looked at again."""
        self._there = store.contents()
        self._waiting: dict[str, str] = {}
        self._bytes = 0
        self._count = 0
        self._fans: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # a disk that was filled is not left full
            with contextlib.suppress(OSError):
                self._store.sweep()

    def accepts(self, content: str) -> bool:
        return content in self._there or content in self._waiting

    def digest(self, fd: int, size: int) -> tuple[str, int]:
        if size > CHUNK:
            return self.take(chunks_of(fd, size))
        data = b"".join(chunks_of(fd, size))
        content = hashlib.sha256(data).hexdigest()
        if not self.accepts(content):
            path = self._next()
            self._spend(len(data))
            with told(path):
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    write_all(file, data)
                finally:
                    os.close(file)
            self._wait(content, path, len(data))
        return content, len(data)

    def take(self, chunks: Iterator[bytes]) -> tuple[str, int]:
        """A content from elsewhere; its hash and length."""
        path = self._next()
        with told(path), Path(path).open("xb") as file:

            def written() -> Iterator[bytes]:
                for data in chunks:
                    self._spend(len(data))
                    file.write(data)
                    yield data

            content, length = digest_of(written(), self._stop)
        if self.accepts(content):
            Path(path).unlink()
        else:
            self._wait(content, path, length)
        return content, length

    def _spend(self, count: int) -> None:
        """Look at the free room while it is used, since the size of a file is known only once it was read."""
        self._granted -= count
        if self._granted >= 0 or not self._room:
            return
        root = self._store.root
        with told(str(root)):
            left = shutil.disk_usage(root).free - self._room - count
        if left < 0:
            wanted = (self._room + count) // 2**20 + 1
            raise AdapterError(
                f"{root}: no room for another snapshot: wants {wanted} MiB free, so that `room` is left; make room, "
                "or drop old ones with `rollbackd snapshot prune`",
                permanent=False,
            )
        self._granted = min(left, _LOOK_AGAIN)

    def _next(self) -> str:
        self._count += 1
        return f"{self._store.temporary}/{self._count}"

    def _wait(self, content: str, path: str, length: int) -> None:
        self._waiting[content] = path
        self._bytes += length
        if len(self._waiting) >= _SETTLE_FILES or self._bytes >= _SETTLE_BYTES:
            self._name()

    def _name(self) -> None:
        """Put the contents on disk, and then give them their names."""
        with told(str(self._store.root)):
            boundary("files.before_blobs")
            _put_on_disk(self._store.root, self._waiting.values())
            for content, path in self._waiting.items():
                fan = content[:2]
                if fan not in self._fans:
                    (self._store.blobs / fan).mkdir(mode=0o700, exist_ok=True)
                    self._fans.add(fan)
                # As text: for tens of thousands of files a Path each takes seconds.
                os.rename(path, f"{self._store.blobs}/{fan}/{content[2:]}")  # noqa: PTH104
            self._there |= self._waiting.keys()
            self._waiting.clear()
            self._bytes = 0
            boundary("files.blobs")

    def settle(self) -> None:
        """Finish: all contents are durable when this returns."""
        self._name()
        with told(str(self._store.root)):
            if self._fans:
                _put_on_disk(self._store.root, (self._store.blobs, *(self._store.blobs / fan for fan in self._fans)))


def _put_on_disk(root: Path, paths: Collection[str | Path]) -> None:
    """Many at once by syncfs(2), which tells of errors too; one flush instead of thousands."""
    if len(paths) > _FEW:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
                number = ctypes.get_errno() or errno.EIO
                raise OSError(number, os.strerror(number))
        finally:
            os.close(fd)
        return
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
