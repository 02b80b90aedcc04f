"""Another rollbackd that works on a resource and does not end, for adapters that start nothing which could hang."""

import fcntl
import hashlib
import os
from pathlib import Path


def occupy(path: Path, resource: str) -> None:
    """Hold its lock until this process ends; `path` is what the world's place was made with."""
    (path / "locks").mkdir(exist_ok=True)
    name = hashlib.sha256(resource.encode()).hexdigest()[:20]
    fcntl.flock(os.open(path / "locks" / f"{name}.owner", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
