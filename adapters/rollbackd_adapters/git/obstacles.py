"""What lies in a work tree and would stop git in the middle, or be lost for good: known before, so refused before.

Blocking; reads only.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterable

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import one_line
from rollbackd_adapters.files.beneath import READ

_FS_IOC_GETFLAGS = 0x80086601
"""https://man7.org/linux/man-pages/man2/FS_IOC_GETFLAGS.2const.html"""
_IMMUTABLE_OR_APPENDED = 0x10 | 0x20


def check(root: str, names: Iterable[str]) -> None:
    """:param names: what git is to write or to remove, relative to the root.
    :raises AdapterError: permanent, for the first that cannot give way.
    """
    for name in names:
        if why := _obstacle(f"{root}/{name}"):
            text = f"{one_line(f'{root}/{name}')} {why}, and this release has something else there"
            raise AdapterError(f"{text}, so nothing was touched; move it away", permanent=True)


def _obstacle(path: str) -> str:
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and _is_fixed(path):
            return "is immutable or append-only (`lsattr`)"
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            return "is a pipe, a socket or a device, which git cannot save"
    return ""


def _is_fixed(path: str) -> bool:
    file = os.open(path, READ)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(file, _FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))
    except OSError as error:
        if error.errno in {errno.ENOTTY, errno.EOPNOTSUPP}:  # the file system knows no such flags
            return False
        raise
    finally:
        os.close(file)
    return bool(flags & _IMMUTABLE_OR_APPENDED)
