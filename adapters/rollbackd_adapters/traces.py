"""What a change leaves behind in its layer's scratch directory, so that it is recognised after a crash.

`<scratch>/changes/<key>/` has `begun.json` (the intent, written before anything is touched), a record for each command
that ended, and `done.json` (the marker, written last). Every file appears by rename, whole or not at all.
"""

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError
from rollbackd.model import Change, Progress
from rollbackd.system.spawner import sync_directory, write_durably

KEPT = 20
"""Changes of a layer whose traces are kept; an incident asks only about its own."""


def safe_name(key: str) -> str:
    """A change's key as a file name and a part of a git ref; different keys have different names."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", key).strip("-")[:80]
    return plain if plain == key else f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def write_facts(path: Path, facts: object) -> None:
    """Write JSON to a file in a layer's scratch. :raises AdapterError: not permanent, when it cannot be written."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, json.dumps(facts).encode())
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}; make room there", permanent=False) from error


class Trace:
    """The traces of one change."""

    def __init__(self, scratch: Path, change: Change) -> None:
        if not change.key:
            raise AdapterError(f"{change.layer}: a change without a key cannot be applied", permanent=True)
        self.name = safe_name(change.key)
        self._change = change
        self._all = scratch / "changes"
        self.directory = self._all / self.name

    @property
    def begun(self) -> dict[str, Any] | None:
        """What was written when the change began, or None when it never did."""
        return self._read("begun.json")

    @property
    def done(self) -> dict[str, Any] | None:
        """What was written when the change was done, or None when it is not."""
        return self._read("done.json")

    @property
    def known(self) -> dict[str, Any]:
        """The same as `begun`, but empty when the change never began."""
        return self.begun or {}

    def intend(self, **facts: object) -> None:
        """Write the intent: the change's key, where it begins and where it goes, and what the layer adds."""
        change = self._change
        self.begin(key=change.key, before=change.before.id, after=change.after.id, **facts)

    def begin(self, **facts: object) -> None:
        """Add to what was written when it began."""
        self.make()
        write_facts(self.record("begun"), self.known | facts)

    def make(self) -> None:
        """Make the directory of the traces, which alone means nothing, and forget the oldest changes of the layer."""
        if not self.directory.is_dir():
            self._all.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._forget()
            self.directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self._all)

    def finish(self, **facts: object) -> None:
        """Write the marker."""
        write_facts(self.record("done"), facts)

    def record(self, name: str) -> Path:
        """Where the result of one of its commands is kept."""
        return self.directory / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.directory / name
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise AdapterError(
                f"{path}: cannot be read ({error}); look at it, then remove it", permanent=True
            ) from error
        return data if isinstance(data, dict) else None

    def _forget(self) -> None:
        old = sorted(self._all.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)


def progress_of(trace: Trace, change: Change, present: str) -> Progress:
    """How far a change is, from the layer's present release and our own traces, for a layer that moves at one instant.

    `moved` in `begun.json` says that it has moved and that what comes after it, such as `then`, is not done yet.
    """
    if trace.done is not None:
        return Progress.DONE if present == change.after.id else Progress.SUPERSEDED
    begun = trace.begun
    if begun is None:
        expected = {change.before.id}
    elif begun.get("moved"):
        expected = {change.after.id}
    else:
        expected = {change.before.id, change.after.id}
    return Progress.NOT_STARTED if present in expected else Progress.SUPERSEDED


def last_done(scratch: Path) -> dict[str, Any]:
    """What was written when the layer's last finished change began; empty when there is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        markers = sorted((scratch / "changes").glob("*/done.json"), key=lambda path: path.stat().st_mtime_ns)
        data = json.loads(markers[-1].with_name("begun.json").read_bytes()) if markers else {}
        return data if isinstance(data, dict) else {}
    return {}


def cut_off(scratch: Path) -> dict[str, Any]:
    """What was written when the layer's newest change began; empty when that one is done, or there is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        intents = sorted((scratch / "changes").glob("*/begun.json"), key=lambda path: path.stat().st_mtime_ns)
        if intents and not intents[-1].with_name("done.json").exists():
            data = json.loads(intents[-1].read_bytes())
            return data if isinstance(data, dict) else {}
    return {}


def named(scratch: Path, *facts: str, finished: bool = True) -> set[str]:
    """What the last changes of a layer noted under these names, such as the ids of the releases that they went from
    and to. What cannot be read is being forgotten, or damaged: `progress` says so.

    :param finished: also those that are done.
    """
    found: set[str] = set()
    for path in (scratch / "changes").glob("*/begun.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            begun = json.loads(path.read_bytes())
            if finished or not path.with_name("done.json").exists():
                found |= {str(begun.get(fact, "")) for fact in facts}
    return found
