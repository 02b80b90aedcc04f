"""Where snapshots are kept: contents by their sha256, and a manifest for each. Nothing here knows what is watched.

`<root>/blobs/<2 hex>/<62 hex>` is a file's content, `<root>/snapshots/<name>.json` a manifest of two lines: its head
and its entries. A blob has its name only when its bytes are on disk, a manifest only when its blobs have theirs; so
whatever is killed leaves what can be used, and at worst contents that nothing names, which `collect` takes away.

Who writes holds the store's lock; who reads needs none.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, BinaryIO

from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import one_line, sync_directory, write_durably
from rollbackd_adapters.files import tree as trees
from rollbackd_adapters.files.beneath import told
from rollbackd_adapters.files.scan import CHUNK, digest_of
from rollbackd_adapters.files.tree import Tree
from rollbackd_adapters.ids import SNAPSHOT

_FORMAT = 1
HEAD_LIMIT = 64 * 2**10
"""Bytes."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Head:
    """What a manifest's first line says."""

    name: str
    release: str
    created: datetime
    why: str
    files: int
    size: int
    rules: str
    """Fingerprint of what was watched, and how."""
    paths: tuple[str, ...]
    """The watch list."""
    digest: str
    """sha256 of the second line."""

    def snapshot(self, *, restorable: bool) -> Snapshot:
        return Snapshot(self.name, self.release, self.created, self.why, self.size, self.files, restorable)

    def line(self) -> bytes:
        data = {name: getattr(self, name) for name in self.__slots__} | {"format": _FORMAT}
        return json.dumps(data | {"created": self.created.isoformat()}).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Head":
        """:raises ValueError: it is no head of ours."""
        try:
            data = json.loads(line)
            if data.pop("format") != _FORMAT:
                raise ValueError("of another format; a newer rollbackd wrote it")
            data |= {"created": _moment(data["created"]), "paths": tuple(data["paths"])}
            head = cls(**data)
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a snapshot's head ({error})") from error
        texts = (head.name, head.release, head.why, head.rules, head.digest, *head.paths)
        numbers = (head.files, head.size)
        if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
            raise ValueError("not a snapshot's head")
        return head


class Store:
    """One layer's snapshots."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.manifests = root / "snapshots"
        self.temporary = root / "tmp"
        self._whole: dict[str, tuple[object, bool]] = {}
        """Which snapshots have all their blobs, and on what evidence."""

    def prepare(self) -> None:
        """Make the store, and take away what a kill left. Under the lock."""
        with told(str(self.root)):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (self.blobs, self.manifests, self.temporary):
                directory.mkdir(mode=0o700, exist_ok=True)
            self.sweep()
            for leftover in self.manifests.glob(".*"):
                leftover.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Take away contents that have no name yet: a disk that they filled is not left full. Under the lock."""
        for leftover in self.temporary.iterdir():
            leftover.unlink(missing_ok=True)

    def stamp(self) -> int | None:
        """The file system's time, in ns: what a file that is written now would have. None when it cannot be told."""
        path = self.root / "stamp"
        with contextlib.suppress(OSError):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(path)
            return path.stat().st_mtime_ns
        return None

    # -- manifests ------------------------------------------------------------------------------
    def heads(self) -> list[Head]:
        """What can be read of all snapshots, newest first."""
        found = []
        for path in self._paths():
            with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
                head = Head.parse(file.readline(HEAD_LIMIT))
                if head.name == path.stem:
                    found.append(head)
        return sorted(found, key=lambda head: (head.created, head.name), reverse=True)

    def unreadable(self) -> list[str]:
        """Names of manifests that cannot be understood. What they need is unknown, so nothing may be thrown away."""
        known = {head.name for head in self.heads()}
        return sorted(path.stem for path in self._paths() if path.stem not in known)

    def _paths(self) -> list[Path]:
        with told(str(self.manifests)):
            try:
                return [path for path in self.manifests.iterdir() if path.suffix == ".json" and path.name[0] != "."]
            except (FileNotFoundError, NotADirectoryError):
                return []

    def load(self, name: str) -> tuple[Head, Tree]:
        """One snapshot. :raises AdapterError: permanent, when there is none, or its manifest is damaged."""
        if SNAPSHOT.fullmatch(name) is None:
            raise _no_snapshot(name)
        path = self.manifests / f"{name}.json"
        try:
            with path.open("rb") as file:
                head, body = Head.parse(file.readline(HEAD_LIMIT)), file.read()
            return head, parse_body(head, body)
        except FileNotFoundError:
            raise _no_snapshot(name) from None
        except OSError as error:
            raise AdapterError(
                f"{path}: {error.strerror}; give rollbackd's user that right", permanent=False
            ) from error
        except ValueError as error:
            raise AdapterError(f"{path}: {error}; use another snapshot", permanent=True) from error

    def save(self, head: Head, body: bytes) -> None:
        """Write a manifest whose blobs are all there. Under the lock."""
        boundary("files.before_manifest")
        with told(str(self.manifests)):
            write_durably(self.manifests / f"{head.name}.json", head.line() + body)
        boundary("files.manifest")

    def forget(self, names: Collection[str]) -> None:
        """Drop manifests; durable when this returns, since their blobs go next. Under the lock."""
        with told(str(self.manifests)):
            for name in names:
                (self.manifests / f"{name}.json").unlink(missing_ok=True)
                boundary("files.forgotten")
            if names:
                sync_directory(self.manifests)

    # -- blobs ----------------------------------------------------------------------------------
    def blob(self, content: str) -> Path:
        return self.blobs / content[:2] / content[2:]

    def contents(self) -> set[str]:
        """The hashes of all blobs."""
        found = set[str]()
        with told(str(self.blobs)):
            for directory in self._fans():
                found |= {directory.name + path.name for path in directory.iterdir()}
        return found

    def _fans(self) -> list[Path]:
        try:
            return [path for path in self.blobs.iterdir() if len(path.name) == 2 and path.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def lacking(self, tree: Tree) -> list[str]:
        """Contents of a tree that are not here, or not with their size."""
        return [content for content, size in tree.blobs().items() if _size(self.blob(content)) != size]

    def is_whole(self, head: Head) -> bool:
        """Whether all blobs of a snapshot are there. Looked at again only when a blob came or went since."""
        evidence = (head.digest, tuple((path.name, path.stat().st_mtime_ns) for path in sorted(self._fans())))
        known = self._whole.get(head.name)
        if known is None or known[0] != evidence:
            try:
                whole = not self.lacking(self.load(head.name)[1])
            except AdapterError:
                whole = False
            known = self._whole[head.name] = (evidence, whole)
        return known[1]

    def open_blob(self, content: str) -> BinaryIO:
        """:raises AdapterError: permanent, when it is not there."""
        try:
            return self.blob(content).open("rb")
        except OSError as error:
            raise AdapterError(
                f"{self.blob(content)}: {error.strerror}; this snapshot is damaged, use another", permanent=True
            ) from error

    def harm(self, content: str, size: int, stop: Callable[[], None]) -> str:
        """What is wrong with a blob, all of it read; "" for nothing.

        A wrong one is put aside, so that nothing counts on it and the same content is saved anew when it comes again.
        """
        try:
            with self.blob(content).open("rb") as file:
                hashed, length = digest_of(iter(lambda: file.read(CHUNK), b""), stop)
        except OSError as error:
            return f"its content cannot be read: {error.strerror}"
        if hashed == content:
            return "" if length == size else f"it should have {size} bytes and its content has {length}"
        with contextlib.suppress(OSError):
            aside = self.root / "damaged"
            aside.mkdir(mode=0o700, exist_ok=True)
            self.blob(content).replace(aside / content)
        return f"its content in the store is not what was saved: {length} of {size} bytes, and another hash"

    def collect(self, stop: Callable[[], None]) -> int:
        """Take away blobs that no snapshot names; how many. None while a manifest cannot be read. Under the lock."""
        if self.unreadable():
            return 0
        needed = set[str]()
        for head in self.heads():
            try:
                needed |= self.load(head.name)[1].blobs().keys()
            except AdapterError:
                return 0
        gone = 0
        with told(str(self.blobs)):
            for content in sorted(self.contents() - needed):
                stop()
                self.blob(content).unlink(missing_ok=True)
                boundary("files.collected")
                gone += 1
            for harmed in (self.root / "damaged").glob("*"):
                harmed.unlink(missing_ok=True)
        return gone


def body_of(tree: Tree) -> bytes:
    """A manifest's second line."""
    return json.dumps(trees.written(tree), separators=(",", ":")).encode() + b"\n"


def parse_body(head: Head, body: bytes, most: float = inf) -> Tree:
    """:raises ValueError: it is not what the head was written for, or has more than so many entries."""
    if hashlib.sha256(body).hexdigest() != head.digest:
        raise ValueError("damaged: its list of files is not the one that was written")
    tree = trees.read(_loads(body, most))
    if tree.release != head.release:
        raise ValueError("damaged: its list of files is of another release")
    return tree


def _moment(text: str) -> datetime:
    """A time in UTC; one without a zone is refused, since it cannot be sorted among the others."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("its time has no zone")
    return at.astimezone(UTC)


def _loads(body: bytes, most: float) -> object:
    """The JSON of a list of files, read entry by entry: as a whole it would keep every other thread waiting.

    :raises ValueError: it is no such JSON, or has too many entries.
    """
    try:
        return _object(body.decode(), 0, lambda text, at: _object(text, at, _DECODER.raw_decode, most))[0]
    except (RecursionError, IndexError) as error:
        raise ValueError("not a list of files") from error


def _object(
    text: str, at: int, value: Callable[[str, int], tuple[Any, int]], most: float = inf
) -> tuple[dict[str, Any], int]:
    """The object that begins there, its values read by `value`, and where it ends."""
    found: dict[str, Any] = {}
    at = _after(text, at, "{")
    if text[at] == "}":
        return found, at + 1
    while True:
        name, at = _DECODER.raw_decode(text, at)
        found[str(name)], at = value(text, _after(text, at, ":"))
        if len(found) > most:
            raise ValueError(f"it lists more than {most} files and directories")
        at = _blank(text, at)
        if text[at] == "}":
            return found, at + 1
        at = _after(text, at, ",")


def _after(text: str, at: int, mark: str) -> int:
    at = _blank(text, at)
    if text[at] != mark:
        raise ValueError(f"not a list of files: no {mark} at {at}")
    return _blank(text, at + 1)


def _blank(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1


def _no_snapshot(name: str) -> AdapterError:
    return AdapterError(
        f"no snapshot is called {one_line(name)!r}; `rollbackd snapshot list` has their names", permanent=True
    )
