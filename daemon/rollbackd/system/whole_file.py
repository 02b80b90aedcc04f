"""A file that appears whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rollbackd.system.boundary import boundary
from rollbackd.system.supervisor import sync_directory


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """What is written becomes the file, for us alone and on disk, once the block ends well; else nothing is left of it.

    :raises OSError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.part")
    beside.unlink(missing_ok=True)  # a kill left it
    try:
        with open(beside, "xb", opener=ours_alone) as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        boundary("whole_file.written")
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(file.parent)


def ours_alone(path: str, flags: int) -> int:
    """The `opener` of a file that nobody else may read, from its first byte on."""
    return os.open(path, flags, 0o600)
