"""What a file system keeps from being changed, whoever tries (`chattr +i`, `+a`): known before anything is touched.

Blocking; reads only.
"""

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterable, Iterator

_FS_IOC_GETFLAGS = 0x80086601
"""https://man7.org/linux/man-pages/man2/FS_IOC_GETFLAGS.2const.html"""
_IMMUTABLE_OR_APPENDED = 0x10 | 0x20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
PROTECTED = "is immutable or append-only (`lsattr`)"


def is_protected(path: str) -> bool:
    """Whether a file or a directory is; a directory that is keeps its names. What cannot be asked is not."""
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return False
        file = os.open(path, _READ)
        try:
            (flags,) = struct.unpack("l", fcntl.ioctl(file, _FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))
        finally:
            os.close(file)
        return bool(flags & _IMMUTABLE_OR_APPENDED)
    return False


def protected(paths: Iterable[str]) -> Iterator[str]:
    """Those of the paths, and of the directories that they lie in, that are, each once."""
    seen = set[str]()
    for path in paths:
        for each in (path, path.rpartition("/")[0] or "/"):
            if each not in seen:
                seen.add(each)
                if is_protected(each):
                    yield each
