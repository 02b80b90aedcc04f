"""What was fetched of the past, kept in a directory so that a run which was cut off goes on.

A file has one chunk of one query: a line of JSON, then plain numbers. One that is not what it says is fetched again.
"""

import hashlib
import json
import os
import stat
import zlib
from array import array
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from rollbackd.signals.query_answers import Row

_KEPT = timedelta(days=14)
"""How long a chunk that no run has used stays."""
_SUFFIX = ".rows"


class CacheUnusable(Exception):  # noqa: N818  # a state of the disk
    """The directory cannot be used; the sentence says why and what to do."""


class HistoryCache:
    """Chunks by name, in a directory that only its owner may read."""

    def __init__(self, directory: Path) -> None:
        """:raises CacheUnusable: it cannot be made, or others may look into it."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = directory.stat()
        except OSError as error:
            raise CacheUnusable(f"{directory}: {error.strerror}; name another directory with --cache") from error
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise CacheUnusable(f"{directory}: others may use it; chmod 700 it, or name another directory with --cache")

    def name(self, *parts: object) -> str:
        """The name of a chunk of what the parts say."""
        return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:40]

    def read(self, name: str, count: int, since: datetime | None = None) -> tuple[Row, ...] | None:
        """The rows of a chunk with so many numbers each; None where they are not there, or damaged.

        :param since: what was fetched earlier is not taken.
        """
        path = self._path(name)
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                body = file.read()
            if since is not None and float(head["fetched"]) < since.timestamp():
                return None
            labels = head["series"]
            if head["count"] != count or len(body) != len(labels) * count * 8 or zlib.crc32(body) != head["crc"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        rows = []
        for place, one in enumerate(labels):
            values = array("d")
            values.frombytes(body[place * count * 8 : (place + 1) * count * 8])
            rows.append(Row(one, values))
        return tuple(rows)

    def write(self, name: str, rows: tuple[Row, ...], count: int, now: datetime) -> None:
        """Keep the rows of a chunk. :raises CacheUnusable: the disk does not take them."""
        body = b"".join(row.values.tobytes() for row in rows)
        series = [dict(row.labels) for row in rows]
        head = {"fetched": now.timestamp(), "count": count, "crc": zlib.crc32(body), "series": series}
        path = self._path(name)
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(json.dumps(head).encode() + b"\n" + body)
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise CacheUnusable(
                f"{path}: {error.strerror}; make room, or name another directory with --cache"
            ) from error

    def prune(self, now: datetime) -> None:
        """Drop what no run has read for a while."""
        for path in self._directory.iterdir():
            ours = path.suffix == _SUFFIX or path.suffix[1:].isdigit()
            with suppress(OSError):  # another run drops it, too
                if ours and path.is_file() and path.stat().st_mtime < (now - _KEPT).timestamp():
                    path.unlink()

    def use(self, name: str, now: datetime) -> None:
        """Note that a run has used a chunk."""
        with suppress(OSError):  # another run has dropped it; it is fetched again where it is read
            os.utime(self._path(name), (now.timestamp(), now.timestamp()))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"
