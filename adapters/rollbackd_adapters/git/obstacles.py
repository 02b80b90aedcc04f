"""What lies in a work tree and would stop git in the middle, or be lost for good: known before, so refused before.

Blocking; reads only.
"""

import contextlib
import os
import stat
from collections.abc import Sequence

from rollbackd.adapter import AdapterError
from rollbackd.system.spawner import one_line
from rollbackd_adapters.protected import PROTECTED, protected


def check(root: str, names: Sequence[str]) -> None:
    """:param names: what git is to write or to remove, relative to the root.
    :raises AdapterError: permanent, for the first that cannot give way.
    """
    paths = [f"{root}/{name}" for name in names]
    for path in paths:
        if _is_special(path):
            raise _refused(path, "is a pipe, a socket or a device, which git cannot save")
    for path in protected(paths):
        raise _refused(path, PROTECTED)


def _refused(path: str, why: str) -> AdapterError:
    text = f"{one_line(path)} {why}, and this release has something else there, so nothing was touched; move it away"
    return AdapterError(text, permanent=True)


def _is_special(path: str) -> bool:
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
    return False
