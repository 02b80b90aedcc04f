"""The one file on disk: read whole, replaced by rename, with its mode, owner and attributes."""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import sync_directory
from rollbackd_adapters.attributes import copy_attributes
from rollbackd_adapters.lacks import hint
from rollbackd_adapters.mounts import mount_points

_LARGEST = 2**20
"""Bytes; a longer file was named by mistake."""


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file as it was read."""

    text: str
    """The content; bytes that are no UTF-8 are written back as they were."""
    stat: os.stat_result


def read(path: Path) -> FileRead:
    """:raises AdapterError: it is not there, cannot be read, or is no plain file; it may be put right."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AdapterError(f"{path}: {_hint(error)}", permanent=False) from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise AdapterError(f"{path} is not a regular file; correct `file`", permanent=False)
        body = file.read(_LARGEST + 1)
    if len(body) > _LARGEST:
        raise AdapterError(f"{path} is longer than {_LARGEST // 2**20} MiB; is it the right file?", permanent=False)
    return FileRead(body.decode(errors="surrogateescape"), found)


def replace(path: Path, text: str, seen: FileRead) -> None:
    """Put a new text in the file's place, at one instant; on disk when this returns.

    :raises AdapterError: not permanent, when it cannot be written or has changed since `seen`; it is untouched then.
    """
    temporary = path.with_name(f".{path.name}.rollbackd")
    try:
        _write(temporary, text.encode(errors="surrogateescape"), path, seen.stat)
        boundary("env.written")
        if _identity(path.lstat()) != _identity(seen.stat):
            raise AdapterError(f"{path} was changed just now by somebody else; looking again", permanent=False)
        temporary.replace(path)
        boundary("env.renamed")
        sync_directory(path.parent)
    except OSError as error:
        raise AdapterError(f"{path} cannot be replaced: {_hint(error)}", permanent=False) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def blocked(path: Path) -> list[str]:
    """Reasons why `replace` would fail right now, each with what to do. Read only."""
    found = read(path).stat
    texts = []
    if not os.access(path.parent, os.W_OK | os.X_OK):
        texts.append(f"{path.parent}: rollbackd may not write there; give its user that right (ReadWritePaths= too)")
    if os.geteuid() not in {0, found.st_uid}:
        texts.append(f"{path} belongs to user {found.st_uid}, and only root could give it back; run as that user")
    if found.st_nlink > 1:
        texts.append(f"{path} has {found.st_nlink} names, and the others would keep the old text; make it a file alone")
    if os.path.realpath(path) in mount_points():
        texts.append(f"{path} is mounted by itself, so it cannot be replaced; mount its directory")
    return texts


def _write(temporary: Path, body: bytes, like: Path, was: os.stat_result) -> None:
    temporary.unlink(missing_ok=True)  # of a life that was killed; its content counts for nothing
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(body)
        file.flush()  # a write takes capabilities and setuid away
        made = os.fstat(fd)
        if (made.st_uid, made.st_gid) != (was.st_uid, was.st_gid):
            os.fchown(fd, was.st_uid, was.st_gid)
        os.fchmod(fd, stat.S_IMODE(was.st_mode))
        copy_attributes(like, fd)
        os.fsync(fd)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _hint(error: OSError) -> str:
    return hint(
        error,
        ENOENT="no such file; create it, or correct `file`",
        ELOOP="is a symbolic link; name the file that it leads to",
        EPERM="rollbackd's user may not do that; give it the right, or run as the file's owner",
        EBUSY="it is mounted by itself; mount its directory",
    )
