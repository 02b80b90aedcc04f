"""Reads what a watch list holds. It changes nothing, follows no link, and reads no unchanged file again."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rollbackd.adapter import AdapterError
from rollbackd_adapters.files import envfile
from rollbackd_adapters.files.beneath import DIRECTORY, READ, is_temporary, told
from rollbackd_adapters.files.globs import Pattern, WatchList, matches
from rollbackd_adapters.files.settings import FilesSettings
from rollbackd_adapters.files.tree import Kind, Tree, TreeEntry

DEEPEST = 100
"""Directories below a base; more is a loop of mounts."""
SLACK_NS = 2 * 10**9
"""A file changed less than this before it was read could change again unseen, since times are as coarse as that."""
CHUNK = 2**20
_TRIES = 3
_ENV_LIMIT = 2**20


class Hashing:
    """Takes the contents that a scan finds; this one only hashes them."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def accepts(self, content: str) -> bool:  # noqa: ARG002  # every hash will do
        """Whether it is known by this hash already, so that the file need not be read again."""
        return True

    def digest(self, fd: int, size: int) -> tuple[str, int]:
        """Read a file that had a size when it was opened; its sha256 in hex and how many bytes there were."""
        return digest_of(chunks_of(fd, size), self._stop)


def chunks_of(fd: int, size: int) -> Iterator[bytes]:
    """A file up to the size that it had: one that grows as fast as it is read would have no end."""
    while size > 0 and (data := os.read(fd, min(CHUNK, size))):
        size -= len(data)
        yield data


def digest_of(chunks: Iterable[bytes], stop: Callable[[], None]) -> tuple[str, int]:
    """The sha256 in hex of what comes, and how many bytes there were."""
    hashed, length = hashlib.sha256(), 0
    for data in chunks:
        stop()
        hashed.update(data)
        length += len(data)
    return hashed.hexdigest(), length


@dataclass(frozen=True)
class ScanRules:
    """What the configuration says about entries."""

    watch: WatchList
    volatile: tuple[str, ...]
    modes: tuple[tuple[str, int], ...]
    variables: tuple[tuple[str, tuple[str, ...]], ...]
    largest: int = 2**63
    """Bytes of one file; all of it is read, and kept."""

    @classmethod
    def of(cls, settings: FilesSettings) -> "ScanRules":
        variables: dict[str, list[str]] = {}
        for given in settings.variables:
            variables.setdefault(str(given.file), []).extend(given.names)
        return cls(
            watch=WatchList(settings.paths),
            volatile=settings.volatile,
            modes=tuple((pattern, int(mode, 8)) for pattern, mode in settings.modes.items()),
            variables=tuple((file, tuple(dict.fromkeys(names))) for file, names in variables.items()),
            largest=settings.largest,
        )

    @property
    def fingerprint(self) -> str:
        """A hash of the rules: snapshots with the same one can be compared by their releases."""
        text = repr((sorted(self.watch.patterns), sorted(self.volatile), sorted(self.modes), sorted(self.variables)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def is_volatile(self, path: str) -> bool:
        """Whether a path, or a directory above it that the watch list reaches, is volatile; as `Scan` finds it."""
        above = max((one.base for one in self.watch.compiled if one.selects(path)), default="/").rstrip("/")
        for name in path[len(above) + 1 :].split("/"):
            above = f"{above}/{name}"
            if any(matches(pattern, above) for pattern in self.volatile):
                return True
        return False

    def mode(self, path: str, mode: int) -> int:
        """The mode that a file must have, or else the one that it has."""
        return next((wanted for pattern, wanted in self.modes if matches(pattern, path)), mode)


@dataclass
class Scan:
    """One look at all that is watched."""

    rules: ScanRules
    sink: Hashing
    known: Mapping[str, TreeEntry]
    """What an earlier look found; read again is only what changed since."""
    stamp: int | None
    """The file system's own time when this began, in ns; None: nothing can be trusted to be unchanged."""
    stop: Callable[[], None]
    """Raises when nobody waits for the answer any more."""
    _entries: dict[str, TreeEntry] = field(default_factory=dict)
    _ways: dict[str, os.stat_result] = field(default_factory=dict)
    _strays: list[str] = field(default_factory=list)
    _specials: list[str] = field(default_factory=list)
    _loose: set[str] = field(default_factory=set)

    def run(self) -> Tree:
        """:raises AdapterError: something cannot be read, or changes all the time."""
        for base, patterns in self.rules.watch.by_base():
            with told(base):
                try:
                    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    self._walk(fd, base.rstrip("/"), patterns, selected=False, volatile=False, depth=0)
                finally:
                    os.close(fd)
        for path in list(self._entries):
            self._add_ways(path)
        return Tree(
            self._entries, dict(self._variables()), tuple(self._strays), tuple(self._specials), frozenset(self._loose)
        )

    def _walk(
        self, fd: int, prefix: str, patterns: Sequence[Pattern], *, selected: bool, volatile: bool, depth: int
    ) -> None:
        """One directory, and those below it."""
        self.stop()
        if depth > DEEPEST:
            raise AdapterError(f"{prefix}: more than {DEEPEST} directories deep; take it off `paths`", permanent=True)
        with told(prefix or "/"), os.scandir(fd) as found:
            names = [one.name for one in found]
        for name in names:
            path = f"{prefix}/{name}"
            taken = selected or any(pattern.selects(path) for pattern in patterns)
            if not taken and not any(pattern.leads(path) for pattern in patterns):
                continue
            if is_temporary(name):
                self._strays.append(path)
                continue
            with told(path):
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    fleeting = volatile or any(matches(pattern, path) for pattern in self.rules.volatile)
                    if stat.S_ISDIR(status.st_mode):
                        if taken:
                            self._entries[path] = _directory_entry("dir", status, volatile=fleeting)
                        else:
                            self._ways[path] = status
                        opened = os.open(name, DIRECTORY, dir_fd=fd)
                        try:
                            self._walk(opened, path, patterns, selected=taken, volatile=fleeting, depth=depth + 1)
                        finally:
                            os.close(opened)
                    elif taken:
                        self._leaf(fd, name, path, status, volatile=fleeting)
                except FileNotFoundError:
                    continue  # gone since the directory was read

    def _leaf(self, fd: int, name: str, path: str, status: os.stat_result, *, volatile: bool) -> None:
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=fd)
            self._entries[path] = TreeEntry(
                "link", 0o777, status.st_uid, status.st_gid, status.st_mtime_ns, 0, target, volatile
            )
        elif stat.S_ISREG(status.st_mode):
            known = self.known.get(path)
            if known is not None and _unchanged(known, status) and self.sink.accepts(known.content):
                self._entries[path] = self._file(path, status, known.content, volatile=volatile)
            else:
                self._entries[path] = self._read(fd, name, path, volatile=volatile)
        else:
            self._specials.append(path)

    def _read(self, fd: int, name: str, path: str, *, volatile: bool) -> TreeEntry:
        """Read a file that may be written to meanwhile."""
        for attempt in range(_TRIES):
            file = os.open(name, READ, dir_fd=fd)
            try:
                before = os.fstat(file)
                if before.st_size > self.rules.largest:
                    text = f"{path} has {before.st_size >> 20} MiB; take it off `paths`, or make `largest` larger"
                    raise AdapterError(text, permanent=True)
                content, length = self.sink.digest(file, before.st_size)
                after = os.fstat(file)
            finally:
                os.close(file)
            same = _identity(before) == _identity(after) and length == after.st_size
            if same or (volatile and attempt == _TRIES - 1):
                entry = self._file(path, after, content, volatile=volatile)
                return entry._replace(size=length, seen=entry.seen if same else None)
        raise AdapterError(
            f"{path} is written to all the time; name it under `volatile`, or take it off `paths`", permanent=False
        )

    def _file(self, path: str, status: os.stat_result, content: str, *, volatile: bool) -> TreeEntry:
        settled = self.stamp is not None and status.st_ctime_ns < self.stamp - SLACK_NS
        mode = self.rules.mode(path, stat.S_IMODE(status.st_mode))
        if mode != stat.S_IMODE(status.st_mode):
            self._loose.add(path)
        seen = (status.st_dev, status.st_ino, status.st_ctime_ns) if settled else None
        owner, times = (status.st_uid, status.st_gid), (status.st_mtime_ns, status.st_size)
        return TreeEntry("file", mode, *owner, *times, content, volatile, seen)

    def _add_ways(self, path: str) -> None:
        above = path.rpartition("/")[0]
        while above and above not in self._entries and (status := self._ways.get(above)) is not None:
            self._entries[above] = _directory_entry("way", status, volatile=False)
            above = above.rpartition("/")[0]

    def _variables(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        for file, names in self.rules.variables:
            self.stop()
            yield file, envfile.values(read_text(file), names)


def read_text(path: str) -> str:
    """An environment file, whatever its bytes; "" when there is none. :raises AdapterError: it cannot be read."""
    with told(path):
        try:
            fd = os.open(path, READ)
        except FileNotFoundError:
            return ""
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise AdapterError(f"{path}: not a file; correct `variables`", permanent=True)
            data = file.read(_ENV_LIMIT + 1)
    if len(data) > _ENV_LIMIT:
        raise AdapterError(f"{path}: longer than {_ENV_LIMIT // 2**20} MiB; no environment file is", permanent=True)
    return data.decode("utf-8", "surrogateescape")


def _directory_entry(kind: Kind, status: os.stat_result, *, volatile: bool) -> TreeEntry:
    mode = stat.S_IMODE(status.st_mode)
    return TreeEntry(kind, mode, status.st_uid, status.st_gid, status.st_mtime_ns, volatile=volatile)


def _unchanged(known: TreeEntry, status: os.stat_result) -> bool:
    return (
        known.kind == "file"
        and known.seen == (status.st_dev, status.st_ino, status.st_ctime_ns)
        and known.size == status.st_size
        and known.mtime_ns == status.st_mtime_ns
    )


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
