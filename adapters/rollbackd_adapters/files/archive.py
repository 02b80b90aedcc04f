"""One snapshot as one file: a tar.gz with its manifest first and its contents after it, each named by its hash.

What comes in is trusted in nothing: the reader takes two kinds of plain names, unpacks into the store alone, reads no
more than it was told to expect, and keeps a snapshot only when every hash agrees.
"""

import contextlib
import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rollbackd.adapter import AdapterError
from rollbackd.system.boundary import boundary
from rollbackd.system.whole_file import whole_file
from rollbackd_adapters.files.batch import Batch
from rollbackd_adapters.files.beneath import told
from rollbackd_adapters.files.jobs import Stop
from rollbackd_adapters.files.scan import CHUNK
from rollbackd_adapters.files.store import HEAD_LIMIT, Head, Store, body_of, parse_body
from rollbackd_adapters.files.tree import Tree
from rollbackd_adapters.ids import SNAPSHOT

MANIFEST = "rollbackd/manifest.json"
_BLOBS = "rollbackd/blobs/"
_MANIFEST_LIMIT = 128 * 2**20
"""Bytes; what so many files need."""
_MOST_ENTRIES = 500_000
"""Files and directories; each takes memory that its packed bytes do not show."""
_LEVEL = 6
Vet = Callable[[Head, Tree], Tree]


def write(store: Store, name: str, path: str, stop: Stop) -> None:
    """Write a snapshot to a file that appears whole or not at all, readable by its owner alone: it holds secrets.

    :raises AdapterError: no such snapshot; a content is damaged; the file cannot be written.
    """
    target = _absolute(path)
    head, tree = store.load(name)
    if len(tree.entries) > _MOST_ENTRIES:
        raise AdapterError(
            f"{name}: it has more than {_MOST_ENTRIES} files and directories, and could not be taken in again",
            permanent=True,
        )
    with (
        told(path),
        whole_file(target) as file,
        gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, filename="", mtime=0) as packed,
    ):
        _fill(store, head, tree, packed, stop)
    boundary("files.exported")


def _fill(store: Store, head: Head, tree: Tree, packed: gzip.GzipFile, stop: Stop) -> None:
    body = body_of(_elsewhere(tree))
    manifest = replace(head, digest=hashlib.sha256(body).hexdigest()).line() + body
    with tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(_member(MANIFEST, len(manifest)), io.BytesIO(manifest))
        for content, size in sorted(tree.blobs().items()):
            stop()
            if harm := store.harm(content, size, stop):
                raise AdapterError(f"snapshot {head.name} cannot be exported: {harm}; use another", permanent=True)
            with store.open_blob(content) as blob:
                tar.addfile(_member(_BLOBS + content, size), blob)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def read(store: Store, path: str, largest: int, room: int, vet: Vet, stop: Stop) -> Head:
    """Take in a snapshot; the same one again is harmless. Under the store's lock.

    :param vet: makes of its list of files one that may be believed; a ValueError says why there is none.
    :param largest: bytes that it may hold at most, unpacked.
    :param room: bytes that must be left on the store's disk.
    :raises AdapterError: permanent, when it is not one, is damaged or too large; no snapshot is made of it then.
    """
    source = _absolute(path)
    store.prepare()
    with told(path), source.open("rb") as file, _understood(path):
        packed = gzip.GzipFile(fileobj=file, mode="rb")
        head, tree = _manifest(packed, largest)
        if (known := _known(store, head)) is not None:
            return known
        tree = vet(head, _elsewhere(tree))
        with Batch(store, stop, room) as batch:
            _contents(packed, tree, batch, stop)
            _read_out(packed)
            missing = [content for content in tree.blobs() if not batch.accepts(content)]
            if missing:
                raise ValueError(f"{len(missing)} of its contents are missing")
            batch.settle()
    body = body_of(tree)
    kept = replace(head, why="import", digest=hashlib.sha256(body).hexdigest())
    if lacking := store.lacking(tree):
        raise AdapterError(f"{path}: {len(lacking)} contents do not have the size that they should", permanent=True)
    store.save(kept, body)
    return kept


def _manifest(packed: gzip.GzipFile, largest: int) -> tuple[Head, Tree]:
    member = _next(packed)
    if member is None or member.name != MANIFEST:
        raise ValueError(f"it does not begin with {MANIFEST}")
    if member.size > min(_MANIFEST_LIMIT, largest):
        raise ValueError(f"its list of files alone has {member.size} bytes")
    data = b"".join(_chunks(packed, member.size))
    line, _, body = data.partition(b"\n")
    head = Head.parse(line)
    if len(line) > HEAD_LIMIT or SNAPSHOT.fullmatch(head.name) is None:
        raise ValueError("its name cannot be one")
    tree = parse_body(head, body, _MOST_ENTRIES)
    if sum(tree.blobs().values()) > largest:
        raise ValueError(f"it holds {sum(tree.blobs().values())} bytes, more than the {largest} of `largest`")
    return head, tree


def _contents(packed: gzip.GzipFile, tree: Tree, batch: Batch, stop: Stop) -> None:
    wanted = tree.blobs()
    while (member := _next(packed)) is not None:
        stop()
        content = member.name.removeprefix(_BLOBS)
        if not member.name.startswith(_BLOBS) or content not in wanted:
            raise ValueError(f"{member.name!r:.120} has no place in it")
        if member.size != wanted.pop(content):
            raise ValueError(f"{member.name} does not have the size that the list says")
        found, _ = batch.take(_chunks(packed, member.size))
        if found != content:
            raise ValueError(f"{member.name} does not have the content that its name says")


def _read_out(packed: gzip.GzipFile) -> None:
    """Read what is left, since the checksum of the whole is at its end: what the head says has no other."""
    left = 0
    while part := _read(packed, CHUNK):
        left += len(part)
        if left > CHUNK:
            raise ValueError("it goes on after its contents")


def _next(packed: gzip.GzipFile) -> tarfile.TarInfo | None:
    """The next member. Only plain files: extended headers, of any length, are for names that do not occur here."""
    block = _exactly(packed, tarfile.BLOCKSIZE)
    if not block.strip(b"\0"):
        return None
    member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or member.size < 0:
        raise ValueError(f"{member.name!r:.120} is not a plain file")
    return member


def _chunks(packed: gzip.GzipFile, size: int) -> Iterator[bytes]:
    """A member's bytes; what fills its last block is skipped."""
    left = size
    while left:
        data = _exactly(packed, min(CHUNK, left))
        left -= len(data)
        yield data
    _exactly(packed, -size % tarfile.BLOCKSIZE)


def _exactly(packed: gzip.GzipFile, size: int) -> bytes:
    data = _read(packed, size) if size else b""
    while len(data) < size and (more := _read(packed, size - len(data))):
        data += more
    if len(data) < size:
        raise EOFError("it ends too early")
    return data


def _read(packed: gzip.GzipFile, size: int) -> bytes:
    """Up to so many bytes. A checksum that does not fit is an OSError, and would seem to be of our own disk."""
    try:
        return packed.read(size)
    except gzip.BadGzipFile as error:
        raise ValueError(str(error)) from error


def _elsewhere(tree: Tree) -> Tree:
    """Inodes of another disk, or of another time, say nothing: all of it is read again."""
    return replace(tree, entries={path: entry._replace(seen=None) for path, entry in tree.entries.items()})


def _known(store: Store, head: Head) -> Head | None:
    """The same snapshot, if it is here already and whole."""
    for known in store.heads():
        if known.name == head.name:
            if (known.release, known.created, known.rules) != (head.release, head.created, head.rules):
                raise AdapterError(f"a snapshot {head.name} is there already, of other content", permanent=True)
            return known if store.is_whole(known) else None
    return None


@contextlib.contextmanager
def _understood(path: str) -> Iterator[None]:
    """All that a damaged or hostile file can make the readers raise."""
    try:
        yield
    except (ValueError, EOFError, zlib.error, tarfile.TarError) as error:
        raise AdapterError(f"{path}: not a snapshot that can be taken in: {error}", permanent=True) from error


def _absolute(path: str) -> Path:
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise AdapterError(f"{path!r:.120} is no absolute path of a file; write the whole path", permanent=True)
    return Path(path)
