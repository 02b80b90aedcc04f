"""The releases on disk: which there are, what tells them apart, and the link to one, which only this module moves."""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import heapq
import os
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import one_line, sync_directory
from rollbackd_adapters.attributes import copy_owner_of_link
from rollbackd_adapters.lacks import hint
from rollbackd_adapters.listed import time_at
from rollbackd_adapters.releases.settings import ReleasesSettings

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~@:-]{0,199}")
_GENERATION = 0x80087601
"""FS_IOC_GETVERSION of Linux: a number that differs when an inode is used again. ext4, XFS, btrfs and ZFS have it."""
LISTED = 1000
"""Releases that can be gone back to; those that are older are not looked at."""
_REVISION = 4096
"""Bytes of a revision file that count."""
_REMOVED = ".removed."
"""The beginning of the name of a directory that is being removed, so that no half of it is ever a release."""


@dataclass(frozen=True, slots=True)
class ReleaseDirectory:
    """A release on disk."""

    name: str
    path: Path
    release: Release
    changed: float


class Disk:
    """One directory of releases and its link."""

    def __init__(self, settings: ReleasesSettings) -> None:
        self._settings = settings
        self._directory = settings.directory
        self._link = settings.link
        self.gone = f" is no longer in {settings.directory}; go to one that is"
        """What is said of a release that is not there, after its name."""

    def current(self) -> ReleaseDirectory:
        """Where the link leads. :raises AdapterError: not permanent, when that is no release."""
        try:
            self._link.readlink()
        except OSError as error:
            hint = "is not a link; make it one" if error.errno == errno.EINVAL else _hint(error)
            raise AdapterError(f"{self._link}: {hint}", permanent=False) from error
        path = _real(self._link)
        if path.parent != _real(self._directory) or not self._may_be(path.name):
            raise AdapterError(
                f"{self._link} leads to {one_line(str(path))}, which is no release in {self._directory}; correct it",
                permanent=False,
            )
        found = self._look(path.name)
        if found is None:
            raise AdapterError(
                f"{self._link} leads to {path}, which is not a directory that is there; link it to a release",
                permanent=False,
            )
        return found

    def all(self) -> list[ReleaseDirectory]:
        """Every release, newest first; one that cannot be looked at is passed over."""
        return self.found(every=True)[0]

    def found(self, *, every: bool = False) -> tuple[list[ReleaseDirectory], list[str]]:
        """The newest releases and the one that runs, newest first, and why others could not be looked at."""
        try:
            with os.scandir(self._directory) as entries:
                names = {
                    entry.name: self._changed(entry)
                    for entry in entries
                    if self._may_be(entry.name) and entry.is_dir(follow_symlinks=False)
                }
            newest = heapq.nlargest(len(names) if every else LISTED, names, lambda each: self._age(each, names[each]))
            running = {*names} & {_real(self._link).name}
        except OSError as error:
            raise AdapterError(f"{self._directory}: {_hint(error)}", permanent=False) from error
        found, refused = [], []
        for name in {*newest, *running}:
            try:
                release = self._look(name)
            except AdapterError as error:
                refused.append(str(error))
            else:
                found += [release] if release is not None else []
        return sorted(found, key=lambda each: self._age(each.name, each.changed), reverse=True), sorted(refused)

    def find(self, release: Release) -> ReleaseDirectory:
        """:raises AdapterError: permanent, when it is no longer there."""
        for found in self.all():
            if found.release == release:
                return found
        raise AdapterError(f"{one_line(release.name)}{self.gone}", permanent=True)

    def point(self, target: ReleaseDirectory) -> None:
        """Put a new link in the old one's place; relative when that was. On disk when this returns."""
        temporary = self._link.with_name(f".{self._link.name}.rollbackd")
        try:
            relative = not self._link.readlink().is_absolute()
            to = os.path.relpath(target.path, _real(self._link.parent)) if relative else str(target.path)
            temporary.unlink(missing_ok=True)  # of a life that was killed
            temporary.symlink_to(to)
            copy_owner_of_link(self._link, temporary)
            boundary("releases.linked")
            temporary.replace(self._link)
            sync_directory(self._link.parent)
        except OSError as error:
            raise AdapterError(f"{self._link} cannot be moved: {_hint(error)}", permanent=False) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def set_aside(self, keep: int, spare: Collection[str]) -> tuple[list[str], list[Path]]:
        """Give other names to releases beyond the newest `keep`, neither marked as good nor among the ids to spare.

        :returns: what they were called, and all that may be removed: also what an earlier life was still removing.
        """
        names = []
        for found in self.all()[keep:]:
            aside = found.path.with_name(f"{_REMOVED}{found.name}")
            if found.release.id not in spare and not found.release.good and not os.path.lexists(aside):
                found.path.rename(aside)
                names.append(found.name)
        return names, sorted(_real(self._directory).glob(f"{_REMOVED}*"))

    def _may_be(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None and fnmatch.fnmatchcase(name, self._settings.names)

    def _changed(self, entry: os.DirEntry[str]) -> float:
        """When it was changed last, where the order is by that."""
        with contextlib.suppress(OSError):
            return entry.stat(follow_symlinks=False).st_mtime if self._settings.order == "mtime" else 0.0
        return 0.0

    def _age(self, name: str, changed: float) -> tuple[object, ...]:
        parts = re.split(r"(\d+)", name)
        natural = tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
        return (changed, natural) if self._settings.order == "mtime" else (natural,)

    def _look(self, name: str) -> ReleaseDirectory | None:
        """The release of that name, or None when there is none."""
        path = _real(self._directory) / name
        if not self._may_be(name):
            return None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            raise AdapterError(f"{path}: {_hint(error)}", permanent=False) from error
        try:
            stat = os.fstat(fd)
            parts = (name, str(stat.st_ino), str(_generation(fd)), _first(fd, self._settings.revision))
            good = bool(self._settings.good) and os.path.lexists(path / self._settings.good)
        finally:
            os.close(fd)
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return ReleaseDirectory(name, path, Release(key, name, time_at(stat.st_mtime), good), stat.st_mtime)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _generation(fd: int) -> int:
    """The inode's generation; 0 where the file system has none to tell."""
    with contextlib.suppress(OSError):
        return int(struct.unpack("q", fcntl.ioctl(fd, _GENERATION, bytes(8)))[0])
    return 0


def _first(directory: int, name: str) -> str:
    """The beginning of a file in a release, or nothing."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return ""
    try:
        return os.read(fd, _REVISION).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(fd)


def _hint(error: OSError) -> str:
    return hint(
        error,
        ENOENT="nothing is there; correct the configuration, or deploy first",
        ENOTDIR="not a directory; correct the configuration",
    )
