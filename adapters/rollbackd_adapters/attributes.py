"""Extended attributes of files: access lists, capabilities, labels. What a file system does not have is no error.

https://man7.org/linux/man-pages/man7/xattr.7.html
"""

import contextlib
import errno
import os
from pathlib import Path

_NONE = frozenset({errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.ENODATA})
_LABELS = frozenset({"security.selinux"})
"""What the system gives to each new file by itself."""


def own_attributes(path: str) -> dict[str, bytes]:
    """What somebody gave to a file, and a new one in its place would not have. A link is not followed."""
    with contextlib.suppress(OSError):
        names = sorted({*os.listxattr(path, follow_symlinks=False)} - _LABELS)
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    return {}


def copy_attributes(like: Path | int, fd: int) -> None:
    """Give an open file those of another one, as far as the file system has them and we may set them."""
    follow = isinstance(like, int)
    for name in os.listxattr(like, follow_symlinks=follow):
        try:
            os.setxattr(fd, name, os.getxattr(like, name, follow_symlinks=follow))
        except OSError as error:
            if error.errno not in _NONE:
                raise
