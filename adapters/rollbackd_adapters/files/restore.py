"""Puts a snapshot's entries in place, one by one: each is the old one or the new one at any instant, never half of it.

A file is written beside its place, put on disk, and renamed. Right before that the place is looked at again: what
somebody changed since it was saved is not overwritten.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rollbackd.adapter import AdapterError
from rollbackd.system.boundary import boundary
from rollbackd_adapters.attributes import copy_attributes, own_attributes
from rollbackd_adapters.files import envfile
from rollbackd_adapters.files.batch import write_all
from rollbackd_adapters.files.beneath import READ, Beneath, temporary, told
from rollbackd_adapters.files.scan import CHUNK, ScanRules, read_text
from rollbackd_adapters.files.store import Store
from rollbackd_adapters.files.tree import Moves, Tree, TreeEntry
from rollbackd_adapters.mounts import mount_points, mounted_below
from rollbackd_adapters.protected import PROTECTED, protected

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Restorer:
    """Takes what is watched from one tree to another."""

    rules: ScanRules
    store: Store
    present: Tree
    target: Tree
    owners: bool
    stop: Callable[[], None]
    _open: dict[str, Beneath] = field(default_factory=dict)
    _touched: set[str] = field(default_factory=set)
    """Paths whose directories must be put on disk."""

    def check(self, moves: Moves) -> None:
        """What can be known to fail before anything is touched. :raises AdapterError: permanent."""
        for base in dict.fromkeys(self._base(path) for path in (*moves.make, *moves.put)):
            if base not in moves.make and not pathlib.Path(base).is_dir():
                text = f"{base}: no such directory; make it, with the owner and the mode that it had"
                raise AdapterError(text, permanent=False)
        self._variables_known()
        self._mounts_stay(moves)
        self._protected_stay(moves)
        for path in moves.put:
            entry = self.target.entries[path]
            if entry.kind == "file" and (harm := self.store.harm(entry.content, entry.size, self.stop)):
                raise AdapterError(f"{path}: {harm}; use another snapshot", permanent=True)
        going = {*moves.clear, *moves.drop}
        for path in self.present.specials:
            above = path.rpartition("/")[0]
            if path in self.target.entries or above in going:
                raise AdapterError(f"{path}: a socket, pipe or device is in the way; remove it", permanent=True)

    def _variables_known(self) -> None:
        """A snapshot from elsewhere may name any file, and have any text for a value."""
        known = dict(self.rules.variables)
        for file, values in self.target.variables.items():
            for name, value in values.items():
                if name not in known.get(file, ()):
                    raise AdapterError(
                        f"{file} {name} is not on the watch list now, so it is not written; see `variables`",
                        permanent=True,
                    )
                if value is not None and envfile.values(f"{name}={value}\n", [name])[name] != value:
                    raise AdapterError(f"{file} {name}: what the snapshot has is no value; use another", permanent=True)

    def _mounts_stay(self, moves: Moves) -> None:
        """Nothing that is mounted is replaced or emptied: the system would refuse it only when its files are gone."""
        points = {point for base, _ in self.rules.watch.by_base() for point in mounted_below(base)}
        points |= mount_points() & self.target.variables.keys()
        changed = self._changed_variables()
        going = {*moves.clear, *moves.drop}
        for point in sorted(points):
            inside = f"{point}/"
            emptied = any(path.startswith(inside) for path in going) and not any(
                path.startswith(inside) for path in self.target.entries
            )
            if emptied or point in {*going, *moves.put, *changed}:
                text = (
                    f"{point} is mounted there, and would be replaced or emptied; unmount it, or take it off the list"
                )
                raise AdapterError(text, permanent=True)

    def _protected_stay(self, moves: Moves) -> None:
        """Root, too, would be refused in the middle."""
        for path in protected((*moves.of_content, *moves.touch, *self._changed_variables())):
            raise AdapterError(f"{path} {PROTECTED}; `chattr -i -a` it, or take it off the list", permanent=True)

    def _changed_variables(self) -> set[str]:
        return {file for file, values in self.target.variables.items() if self.present.variables.get(file) != values}

    def files(self, moves: Moves) -> None:
        """Do it all. :raises AdapterError: it cannot go on; what was done is done."""
        try:
            for path in self.present.strays:
                self._remove(path, directory=False)
            for path in moves.clear:
                self._drop(path)
            for path in moves.make:
                self._make(path)
            for path in moves.put:
                self._put(path)
            for path in moves.drop:
                self._drop(path)
            for path in sorted((*moves.touch, *moves.make), key=lambda path: path.count("/"), reverse=True):
                self._dress(path)
            self._sync()
        finally:
            for beneath in self._open.values():
                beneath.__exit__(None, None, None)
            self._open.clear()

    def variables(self, only: Mapping[str, Mapping[str, str | None]] | None = None) -> None:
        """Set those that differ; each file changes at once.

        :param only: just those that have these values now: all others are somebody else's by now.
        """
        for file, values in self.target.variables.items():
            self.stop()
            text = read_text(file)
            there = envfile.values(text, list(values))
            changed = {name: value for name, value in values.items() if there[name] != value}
            if only is not None:
                put = only.get(file, {})
                changed = {name: value for name, value in changed.items() if name in put and there[name] == put[name]}
            if changed:
                write_text(file, envfile.with_values(text, changed))

    # -- one by one -----------------------------------------------------------------------------
    def _put(self, path: str) -> None:
        entry = self.target.entries[path]
        boundary("files.before_put")
        with told(path):
            directory, name = self._parent(path)
            beside = temporary(path)
            _unlink(directory, beside)
            if entry.kind == "link":
                os.symlink(entry.content, beside, dir_fd=directory)
                self._dress_link(directory, beside, entry)
            else:
                self._write(directory, beside, path, entry)
            self._unmoved(directory, name, path)
            boundary("files.beside")
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        self._touched.add(path)
        boundary("files.put")

    def _write(self, directory: int, name: str, path: str, entry: TreeEntry) -> None:
        with self.store.open_blob(entry.content) as blob:
            file = os.open(name, _NEW, 0o600, dir_fd=directory)
            try:
                hashed = hashlib.sha256()
                while data := blob.read(CHUNK):
                    self.stop()
                    hashed.update(data)
                    write_all(file, data)
                _must_be(hashed.hexdigest(), entry, path)
                self._dress_open(file, entry)
                with contextlib.suppress(FileNotFoundError):
                    _keep_attributes(directory, path.rpartition("/")[2], file)
                    self._dress_open(file, entry)  # an access list has a mode of its own
                os.fsync(file)
            except BaseException:
                _unlink(directory, name)
                raise
            finally:
                os.close(file)

    def _unmoved(self, directory: int, name: str, path: str) -> None:
        """What is there is what was saved, or nothing."""
        known = self.present.entries.get(path)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if known is None or known.kind == "link":
            same = known is not None and stat.S_ISLNK(status.st_mode)
        else:
            same = (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)
        if not same:
            raise AdapterError(f"{path} was changed while it was restored, so it is left as it is", permanent=False)

    def _make(self, path: str) -> None:
        self.stop()
        with told(path):
            directory, name = self._parent(path)
            os.mkdir(name, 0o700, dir_fd=directory)  # its own mode comes last: it may forbid to write
        self._touched.add(path)
        boundary("files.made")

    def _drop(self, path: str) -> None:
        self.stop()
        self._remove(path, directory=self.present.entries[path].kind in {"dir", "way"})

    def _remove(self, path: str, *, directory: bool) -> None:
        with told(path):
            at, name = self._parent(path)
            try:
                if directory:
                    os.rmdir(name, dir_fd=at)
                else:
                    if path in self.present.entries:
                        self._unmoved(at, name, path)
                    os.unlink(name, dir_fd=at)
            except FileNotFoundError:
                return
        self._touched.add(path)
        boundary("files.dropped")

    def _dress(self, path: str) -> None:
        """Mode, owner and times of something whose content is right."""
        entry = self.target.entries[path]
        with told(path):
            directory, name = self._parent(path)
            if entry.kind == "link":
                self._dress_link(directory, name, entry)
                return
            file = os.open(name, READ, dir_fd=directory)
            try:
                if stat.S_ISDIR(os.fstat(file).st_mode) != (entry.kind != "file"):
                    raise AdapterError(f"{path} was changed while it was restored", permanent=False)
                self._dress_open(file, entry)
            finally:
                os.close(file)
        boundary("files.dressed")

    def _dress_open(self, file: int, entry: TreeEntry) -> None:
        status = os.fstat(file)
        if self.owners and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.fchown(file, entry.uid, entry.gid)  # before the mode: it takes setuid away
        if stat.S_IMODE(os.fstat(file).st_mode) != entry.mode:
            os.fchmod(file, entry.mode)
        if entry.kind == "file":
            with contextlib.suppress(PermissionError):  # somebody else's file; times are no part of a release
                os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))

    def _dress_link(self, directory: int, name: str, entry: TreeEntry) -> None:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if self.owners and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        with contextlib.suppress(PermissionError):
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)

    # -- where ----------------------------------------------------------------------------------
    def _base(self, path: str) -> str:
        base = self.rules.watch.base_of(path)
        if base is None:
            raise AdapterError(
                f"{path} is not on the watch list now, so it is not written; see `paths`", permanent=True
            )
        return base

    def _parent(self, path: str) -> tuple[int, str]:
        base = self._base(path)
        if base not in self._open:
            self._open[base] = Beneath(base)
        return self._open[base].parent(path)

    def _sync(self) -> None:
        """The names in all directories that something changed in."""
        done = set[str]()
        for path in sorted(self._touched):
            above = path.rpartition("/")[0]
            if above not in done:
                done.add(above)
                with told(above):
                    try:
                        directory, _ = self._parent(path)
                    except (FileNotFoundError, NotADirectoryError):
                        continue  # it went too, or something else is in its place
                    os.fsync(directory)


def write_text(path: str, text: str) -> None:
    """Replace an environment file by one with the same mode and owner. :raises AdapterError: it cannot be."""
    above, _, name = path.rpartition("/")
    with told(path), Beneath(above or "/") as beneath:
        directory, _ = beneath.parent(path)
        beside = temporary(path)
        _unlink(directory, beside)
        file = os.open(beside, _NEW, 0o600, dir_fd=directory)
        try:
            write_all(file, text.encode("utf-8", "surrogateescape"))
            with contextlib.suppress(FileNotFoundError):
                old = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if os.geteuid() == 0:
                    os.fchown(file, old.st_uid, old.st_gid)
                os.fchmod(file, stat.S_IMODE(old.st_mode))
            with contextlib.suppress(FileNotFoundError):
                _keep_attributes(directory, name, file)
            os.fsync(file)
        finally:
            os.close(file)
        boundary("files.beside")
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    boundary("files.variables")


def _keep_attributes(directory: int, name: str, file: int) -> None:
    """Give a file, which takes the place of another one, the attributes that that one has."""
    try:
        old = os.open(name, READ, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return
        raise
    try:
        if stat.S_ISREG(os.fstat(old).st_mode):
            copy_attributes(old, file)
    finally:
        os.close(old)


def lost(present: Tree, moves: Moves) -> list[str]:
    """Files that are replaced or go, with what no snapshot keeps: further names, and access lists of those that go."""
    going = {*moves.clear, *moves.drop}
    found = []
    for path in sorted({*going, *moves.put} & present.entries.keys()):
        with contextlib.suppress(OSError):
            further = present.entries[path].kind == "file" and os.lstat(path).st_nlink > 1
            if further or (path in going and own_attributes(path)):
                found.append(path)
    return found


def _must_be(found: str, entry: TreeEntry, path: str) -> None:
    if found != entry.content:
        raise AdapterError(f"{path}: its content was damaged in the store just now", permanent=False)


def _unlink(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
