"""What is mounted on this host. Reads only.

https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
"""

import contextlib
import os
import re
from pathlib import Path

_ESCAPED = re.compile(rb"\\([0-7]{3})")


def mount_points() -> frozenset[str]:
    """Where something is mounted, a directory or a single file; nothing where the system does not say."""
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
        points = (_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), row[4]) for row in rows)
        return frozenset(map(os.fsdecode, points))
    return frozenset()


def mounted_below(directory: str) -> list[str]:
    """The mount points below a directory, itself left out; its links are followed, since mount points have none."""
    real = os.path.realpath(directory).rstrip("/")
    return sorted(
        f"{directory.rstrip('/')}{point[len(real) :]}" for point in mount_points() if point.startswith(f"{real}/")
    )
