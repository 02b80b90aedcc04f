"""What a file keeps when another takes its place: extended attributes such as access lists, capabilities, labels, and
the owner of a link. What a file system does not have is no error.

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


def copy_owner_of_link(like: Path, link: Path) -> None:
    """Give a link the owner of the one that it replaces, as far as we may: web servers can be told to follow none of
    another's (`SymLinksIfOwnerMatch`, `disable_symlinks`). A link that is not there has none to give.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        was = like.lstat()
        os.lchown(link, was.st_uid, was.st_gid)


def copy_attributes(like: Path | int, fd: int) -> None:
    """Give an open file those of another one, as far as the file system has them and we may set them."""
    follow = isinstance(like, int)
    for name in os.listxattr(like, follow_symlinks=follow):
        try:
            os.setxattr(fd, name, os.getxattr(like, name, follow_symlinks=follow))
        except OSError as error:
            if error.errno not in _NONE:
                raise
