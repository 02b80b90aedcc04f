"""The index that looks use: a copy of the repository's own in the layer's scratch, where git notes what it compared.

Where files have other times than the index knows, as after a copy of the tree, git reads them to see whether they
differ: gigabytes where Git LFS keeps them. A look writes nothing into the repository, so it would read them each time.
"""

import asyncio
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class LookingIndex:
    """The copy, made anew in each life and whenever the repository's own is another one."""

    def __init__(self, scratch: Path) -> None:
        self._index = scratch / "looked" / "index"
        self._of: object = None
        self._copying = asyncio.Lock()

    async def of(self, real: Path) -> Mapping[str, str]:
        """What has git use a copy of this index, and write into it; nothing where that cannot be."""
        async with self._copying:
            with suppress(OSError):  # without room for it looks are slower
                await asyncio.to_thread(self._copy, real)
                return {"GIT_INDEX_FILE": str(self._index), "GIT_OPTIONAL_LOCKS": "1"}
        return {}

    def _copy(self, real: Path) -> None:
        status = real.stat()
        identity = (real, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if identity == self._of and self._index.exists():
            return
        self._index.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._index.with_name("index.lock").unlink(missing_ok=True)  # of a git that was killed
        copy_index(real, beside := self._index.with_name(f"index.{os.getpid()}"))
        beside.replace(self._index)
        self._of = identity


def copy_index(real: Path, index: Path) -> None:
    """Make a temporary index that begins as the real one.

    It has the time of the real one: by that git sees which files may have changed in the very second in which they were
    recorded, and compares their content. With a later time, work of that second would be taken for unchanged, and lost.
    """
    for leftover in (index, index.with_name(f"{index.name}.lock")):
        leftover.unlink(missing_ok=True)
    if real.exists():
        shutil.copyfile(real, index)
        shutil.copystat(real, index)
