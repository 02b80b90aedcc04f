"""Owners, modes and attributes of the files in a work tree, which git does not keep.

What git writes anew gets those that it had before. What is new gets those that most of its neighbours have, or else the
directory above it: so it is readable for whom the rest is, whoever runs git and with whatever umask. Blocking.
"""

import base64
import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rollbackd_adapters.attributes import own_attributes
from rollbackd_adapters.files.beneath import READ, Beneath

_READABLE, _EXECUTABLE, _SETUID = 0o444, 0o111, 0o6000
_OF_LINKS = -1
"""Stands for their mode, of which there is none."""
TREE, LINK, SUBMODULE, PROGRAM = 0o040000, 0o120000, 0o160000, 0o100755
"""Modes as git has them."""


class Dress(NamedTuple):
    """What one file, link or directory has besides its content."""

    uid: int
    gid: int
    mode: int
    attributes: Mapping[str, str] = {}
    """Access lists, capabilities and the like, in base64."""


@dataclass(frozen=True, slots=True)
class Dresses:
    """What is to be put on when git has written; names relative to the work tree."""

    old: dict[str, Dress] = field(default_factory=dict)
    """Files and links that were there, and are written anew."""
    new: dict[str, Dress] = field(default_factory=dict)
    """Those that were not; of the mode, what is not about execution."""
    directories: dict[str, Dress] = field(default_factory=dict)
    """Those that were not there."""
    lost: list[str] = field(default_factory=list)
    """Files and directories that go, and would come back otherwise than they are."""
    linked: list[str] = field(default_factory=list)
    """Files with further names, which keep what they have."""


class Wardrobe:
    """Looks at a work tree before git writes, and puts on what it found afterwards."""

    def __init__(self, root: str, tracked: Collection[str], touched: Mapping[str, int]) -> None:
        """:param touched: the modes that git will give to what it writes; 0 for what it removes."""
        self._root = root
        self._touched = touched
        self._staying: dict[str, list[str]] = {}
        for name in tracked:
            if stat.S_ISREG(touched.get(name, PROGRAM)):
                self._staying.setdefault(name.rpartition("/")[0], []).append(name)
        self._usual: dict[str, Dress] = {}
        self._gone: set[str] | None = None
        self._is_root = os.geteuid() == 0

    def look(self) -> Dresses:
        """What each has, and will have."""
        found = Dresses()
        for name, mode in self._touched.items():
            if mode in {TREE, SUBMODULE}:
                continue
            missing = list(self._missing(name))
            dress = None if missing or _is_directory(f"{self._root}/{name}") else self._of(name)
            if dress is not None:
                self._note(found, name, mode, dress)
            elif mode:
                found.new[name] = self._expected(name)
                found.directories.update({each: self._of_directory(each) for each in missing})
        found.lost.extend(name for name in self._vanishing() if self._of(name) != self._of_directory(name))
        return found

    def _note(self, found: Dresses, name: str, mode: int, dress: Dress) -> None:
        if mode and (dress.mode == _OF_LINKS) == (mode == LINK):
            found.old[name] = dress
        elif mode:
            found.new[name] = self._expected(name)
        if os.lstat(f"{self._root}/{name}").st_nlink > 1:
            found.linked.append(name)
        if not self._comes_back(name, mode, dress) or not (self._is_root or dress.uid == os.geteuid()):
            found.lost.append(name)

    def _comes_back(self, name: str, mode: int, dress: Dress) -> bool:
        """Whether it will have the same again when it goes and comes back."""
        is_link = dress.mode == _OF_LINKS
        if mode and is_link == (mode == LINK):
            executable = bool(dress.mode & 0o100)
            return is_link or worn(worn(dress.mode, executable=mode == PROGRAM), executable=executable) == dress.mode
        expected = self._expected(name)
        if is_link:
            return (expected.uid, expected.gid) == (dress.uid, dress.gid)
        return dress == expected._replace(mode=worn(expected.mode, executable=bool(dress.mode & 0o100)))

    def _expected(self, name: str) -> Dress:
        """What a new file of that name gets."""
        usual, directory = self._usually(name.rpartition("/")[0]), self._above(name)
        return usual._replace(gid=directory.st_gid) if directory.st_mode & stat.S_ISGID else usual

    def _usually(self, directory: str) -> Dress:
        """What most of the files in a directory have that stay; where there are none, of those above it."""
        if directory not in self._usual:
            dresses = (self._of(name) for name in self._staying.get(directory, ()))
            files = Counter(
                (one.uid, one.gid, one.mode & 0o666) for one in dresses if one is not None and one.mode != _OF_LINKS
            )
            if files:
                uid, gid, mode = max(files, key=lambda each: (files[each], each))
                usual = Dress(uid, gid, mode)
            elif directory:
                usual = self._usually(directory.rpartition("/")[0])
            else:
                status = os.lstat(self._root)
                usual = Dress(status.st_uid, status.st_gid, status.st_mode & 0o666)
            self._usual[directory] = usual if self._is_root else usual._replace(uid=os.geteuid(), gid=os.getegid())
        return self._usual[directory]

    def _of_directory(self, name: str) -> Dress:
        """What a new directory gets: the same as the one above it that is there all the time."""
        status = self._above(name)
        return Dress(status.st_uid, status.st_gid, status.st_mode & 0o2777)

    def _above(self, name: str) -> os.stat_result:
        """The nearest directory above it that is there all the time."""
        above = name.rpartition("/")[0]
        while above and not self._stays(above):
            above = above.rpartition("/")[0]
        return os.lstat(f"{self._root}/{above}")

    def _stays(self, directory: str) -> bool:
        return directory not in self._vanishing() and _is_directory(f"{self._root}/{directory}")

    def _missing(self, name: str) -> Iterator[str]:
        """The directories above it that git has to make."""
        for above in PurePosixPath(name).parents[:-1]:
            if not _is_directory(f"{self._root}/{above}"):
                yield str(above)

    def _vanishing(self) -> Collection[str]:
        """Directories of which git takes away all that is in them, and so themselves."""
        if self._gone is None:
            self._gone = set()
            going = {name for name, mode in self._touched.items() if not mode}
            above = {str(each) for name in going for each in PurePosixPath(name).parents[:-1]}
            for directory in sorted(above, key=lambda each: each.count("/"), reverse=True):
                with contextlib.suppress(OSError):
                    inside = {f"{directory}/{one.name}" for one in Path(self._root, directory).iterdir()}
                    if inside <= going | self._gone and not self._staying.get(directory):
                        self._gone.add(directory)
        return self._gone

    def _of(self, name: str) -> Dress | None:
        """What is there; None where nothing is, or nothing that git writes."""
        path = f"{self._root}/{name}"
        try:
            status = os.lstat(path)
        except OSError:
            return None
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            return Dress(status.st_uid, status.st_gid, _OF_LINKS)
        return Dress(status.st_uid, status.st_gid, mode, _shown(path))


def worn(mode: int, *, executable: bool) -> int:
    """The mode of a file that git made executable, or not: who may read it may execute it."""
    if bool(mode & 0o100) == executable:
        return mode
    return mode | (mode & _READABLE) >> 2 if executable else mode & ~(_EXECUTABLE | _SETUID)


def loaded(data: Mapping[str, Any]) -> Dresses:
    """From JSON, as `asdict` gave it."""

    def part(name: str) -> dict[str, Dress]:
        return {name: Dress(*values) for name, values in data[name].items()}

    return Dresses(part("old"), part("new"), part("directories"))


def put_on(root: str, dresses: Dresses) -> tuple[bool, list[str]]:
    """Give all of them what they are to have. Links above them are never followed.

    :returns: whether anything had to be given, and those that could not get it.
    """
    changed, refused = False, []
    with Beneath(root) as beneath:
        for name, dress in (*_by_depth(dresses.directories), *_by_depth(dresses.new), *_by_depth(dresses.old)):
            try:
                directory, last = beneath.parent(f"{root.rstrip('/')}/{name}")
                changed |= _put_on(directory, last, dress, is_directory=name in dresses.directories)
            except FileNotFoundError:
                continue
            except OSError:
                refused.append(name)
    return changed, refused


def _by_depth(dresses: Mapping[str, Dress]) -> Iterable[tuple[str, Dress]]:
    return sorted(dresses.items(), key=lambda each: (each[0].count("/"), each[0]))


def _put_on(directory: int, name: str, dress: Dress, *, is_directory: bool) -> bool:
    """:returns: whether anything had to be given."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    changed = (status.st_uid, status.st_gid) != (dress.uid, dress.gid)
    if stat.S_ISLNK(status.st_mode):
        if changed:
            os.chown(name, dress.uid, dress.gid, dir_fd=directory, follow_symlinks=False)
        return changed
    if stat.S_ISDIR(status.st_mode) != is_directory or not (is_directory or stat.S_ISREG(status.st_mode)):
        return False
    file = os.open(name, READ, dir_fd=directory)
    try:
        denied = changed and not _given(file, dress)  # before the mode: it takes setuid away
        mode = dress.mode if is_directory else worn(dress.mode, executable=bool(status.st_mode & 0o100))
        if stat.S_IMODE(os.fstat(file).st_mode) != mode:
            os.fchmod(file, mode)
            changed = True
        for attribute, value in dress.attributes.items():
            os.setxattr(file, attribute, base64.b64decode(value))
        if denied:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return changed or bool(dress.attributes)
    finally:
        os.close(file)


def _given(file: int, dress: Dress) -> bool:
    """Whether owner and group could be given; the group alone where that is allowed."""
    for owner in (dress.uid, -1):
        with contextlib.suppress(PermissionError):
            os.fchown(file, owner, dress.gid)
            return owner == dress.uid
    return False


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _shown(path: str) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in own_attributes(path).items()}
