"""The contents that a file of variables has had, one file each in the layer's scratch, to go back to.

Values may be secrets: the directory and its files are for the daemon's user alone.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rollbackd.system.spawner import sync_directory
from rollbackd_adapters.env.text import Content, Layout, Value

_CONTENT: TypeAdapter[dict[str, Value | None]] = TypeAdapter(dict[str, Value | None])
_LAYOUT: TypeAdapter[Layout] = TypeAdapter(Layout)
_ABANDONED = 3600
"""Seconds after which a temporary file was left by a life that was killed."""


def content_id(content: Content) -> str:
    """A hash of 16 hex digits over names and values, however they are written."""
    plain = {name: None if value is None else [value.text, value.expands] for name, value in content.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def dumped(content: Content) -> dict[str, Any]:
    """As JSON."""
    return {name: value and asdict(value) for name, value in content.items()}


def loaded(data: object) -> Content:
    """From JSON. :raises ValueError: it is no content."""
    return _CONTENT.validate_python(data)


class ContentHistory:
    """The contents of one layer, newest first by when each was last new."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._last: tuple[str, Layout] | None = None

    def remember(self, content: Content, layout: Layout, now: datetime) -> None:
        """Keep it, as the newest; does nothing when it was the last already.

        :raises OSError: it could not be written.
        """
        name = content_id(content)
        if (name, layout) == self._last:
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Another task, or the command line, may remember the same right now: each writes a file of its own.
        fd, temporary = tempfile.mkstemp(dir=self.directory, prefix=".")
        try:
            with os.fdopen(fd, "wb") as file:
                known = {"content": dumped(content), "layout": asdict(layout), "seen": now.timestamp()}
                file.write(json.dumps(known).encode())
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.directory / f"{name}.json")
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        sync_directory(self.directory)
        self._last = name, layout

    def forget(self, keep: int, spare: Collection[str], now: datetime) -> list[str]:
        """Drop the oldest beyond so many, without those to spare; their names. :raises OSError:"""
        old = [path for path in self._files()[keep:] if path.stem not in spare]
        abandoned = [path for path in self.directory.glob(".*") if now.timestamp() - _changed(path) > _ABANDONED]
        for path in (*old, *abandoned):
            path.unlink(missing_ok=True)
        return [path.stem for path in old]

    def recall(self, names: tuple[str, ...]) -> list[tuple[Content, datetime]]:
        """The contents of exactly these names, newest first, without those that cannot be read."""
        found = []
        for path in self._files():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                data = json.loads(path.read_bytes())
                content = loaded(data["content"])
                if set(content) == set(names):
                    found.append((content, datetime.fromtimestamp(float(data["seen"]), UTC)))
        return found

    def layout(self, name: str) -> Layout | None:
        """How the content of that id stood in its file last, where that is known."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return _LAYOUT.validate_python(json.loads((self.directory / f"{name}.json").read_bytes())["layout"])
        return None

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("[0-9a-f]*.json"), key=_changed, reverse=True)


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):  # it went just now
        return path.stat().st_mtime
    return 0.0
