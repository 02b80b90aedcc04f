"""Copies of data: where they lie, which one brings back the data of a time, and which are kept.

A copy is a directory `<store>/<name>/` with `manifest.json` and what was copied. It appears by rename, whole or not at
all; what a kill left begins with a dot. A copy knows the lineage that ran when it was taken, so that what was
restored is never mistaken for what it replaced.
"""

import json
import re
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.model import Release
from rollbackd.syntax.units import bounded_time
from rollbackd.system.spawner import one_line, sync_directory, write_durably
from rollbackd_adapters.ids import SNAPSHOT

ORIGIN = "original"
"""The id of the lineage of what was never restored."""
UNREADABLE = "unreadable"
"""The id of what cannot be asked for its lineage, since it is broken."""
COPY_ID = re.compile(r"[0-9a-f]{12}|at[0-9]{16}")
"""The id of a copy: of one that was taken, or of a time."""
LINEAGE_ID = re.compile(rf"{ORIGIN}|{UNREADABLE}|({COPY_ID.pattern})(\.[0-9]{{1,6}})?")
BEFORE = "before"
"""Why what a restore replaced was copied."""
_MANIFEST = "manifest.json"
_VERIFIED = "verified.json"


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which restore data stems from."""

    id: str = ORIGIN
    since: datetime | None = None
    """When that restore was; None: it was never restored."""
    was: str = ""
    """The lineage that it replaced."""

    @classmethod
    def read(cls, given: Mapping[str, Any] | None) -> "Lineage":
        """As `written` gave it. :raises ValueError: it is none."""
        if given is None:
            return cls()
        since = datetime.fromisoformat(str(given["since"])) if given.get("since") else None
        if LINEAGE_ID.fullmatch(str(given["id"])) is None or (since is not None and since.tzinfo is None):
            raise ValueError(f"{one_line(str(given))!r} is no lineage")
        return cls(str(given["id"]), since, str(given.get("was", "")))

    @property
    def written(self) -> dict[str, str]:
        return {"id": self.id, "since": self.since.isoformat() if self.since else "", "was": self.was}


@dataclass(frozen=True, slots=True)
class DataCopy:
    """One copy, as its manifest has it."""

    name: str
    id: str
    """Its own; the lineage that a restore of it begins."""
    created: datetime
    """The time whose data it holds."""
    why: str
    lineage: Lineage
    """What ran when it was taken."""
    size: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the adapter notes of it, to verify it by."""

    @property
    def written(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "created": self.created.isoformat(),
            "why": self.why,
            "lineage": self.lineage.written,
            "size": self.size,
            "facts": dict(self.facts),
        }

    @classmethod
    def read(cls, name: str, given: Any) -> "DataCopy":
        """:raises ValueError: it is no manifest."""
        try:
            created = datetime.fromisoformat(given["created"])
            if COPY_ID.fullmatch(given["id"]) is None or created.tzinfo is None:
                raise ValueError("its id or its time is none")
            lineage, created = Lineage.read(given["lineage"]), bounded_time(created)
            return cls(name, given["id"], created, str(given["why"]), lineage, int(given["size"]), dict(given["facts"]))
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"it has no {error}") from error

    def release(self, present: str) -> Release:
        """The release that a restore of it gives: its own id, or the next one after that which runs."""
        own, _, number = present.partition(".")
        again = f"{self.id}.{int(number or 1) + 1}" if own == self.id else self.id
        return Release(again, self.name, self.created)

    def snapshot(self, *, restorable: bool) -> Snapshot:
        return Snapshot(
            self.name, self.id, self.created, self.why, self.size, 1, restorable=restorable, lineage=self.lineage.id
        )


def _loaded(path: Path) -> object:
    """:raises ValueError: it is no JSON, or too deep to be read. OSError: it is not there."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def new_id() -> str:
    return secrets.token_hex(6)


def copy_of(release: str) -> str:
    """The id of the copy that a release stems from."""
    return release.partition(".")[0]


def copy_as_of(copies: Sequence[DataCopy], present: Lineage, time: datetime) -> DataCopy | None:
    """The copy that brings back the data of that time, or of the newest time before it; None: there is none.

    What a restore replaced is not gone back to by a later time: only copies of what ran then count.
    """
    lineages = {copy.lineage.id: copy.lineage for copy in copies}
    seen: set[str] = set()
    ran: Lineage | None = present
    while ran is not None and ran.id not in seen:
        seen.add(ran.id)
        if ran.since is not None and time < ran.since:
            ran = lineages.get(ran.was)
            continue
        begun = ran.since or datetime.fromtimestamp(0, UTC)  # the same copy may have been restored before, too
        own = [copy for copy in copies if copy.lineage.id == ran.id and begun <= copy.created <= time]
        origin = [copy for copy in copies if copy.id == copy_of(ran.id) and copy.created <= time]
        return max(own or origin, key=lambda copy: copy.created, default=None)
    return None


def kept(
    copies: Sequence[DataCopy],
    last: int,
    saved: timedelta,
    spare: Collection[str],
    verified: Collection[str],
    now: datetime,
) -> set[str]:
    """The names of the copies that pruning leaves.

    :param last: how many of the newest.
    :param saved: how long what a restore replaced is kept at least.
    :param spare: ids of releases and names of copies that are needed.
    :param verified: the names of those that were found whole; the newest of them always stays.
    """
    ordered = sorted(copies, key=lambda copy: copy.created, reverse=True)
    needed = {copy_of(one) for one in spare}
    own = [copy for copy in ordered if copy.why != BEFORE]
    found = {copy.name for copy in own[:last]}
    found |= {copy.name for copy in ordered if copy.why == BEFORE and now - copy.created < saved}
    found |= {copy.name for copy in ordered if copy.id in needed or copy.name in spare}
    found |= set([copy.name for copy in own if copy.name in verified][:1])
    return found


class CopyStore:
    """The copies of one layer in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / check_copy_name(name)

    def copies(self) -> list[DataCopy]:
        """Those whose manifest can be read, newest first."""
        found = []
        for name in self._names():
            with suppress(OSError, ValueError):
                found.append(self._read(name))
        return sorted(found, key=lambda copy: (copy.created, copy.name), reverse=True)

    def unreadable(self) -> list[str]:
        """The names of those that say nothing of themselves."""
        return sorted({*self._names()} - {copy.name for copy in self.copies()})

    def _names(self) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return [path.name for path in self.directory.iterdir() if SNAPSHOT.fullmatch(path.name) and path.is_dir()]
        return []

    def _read(self, name: str) -> DataCopy:
        return DataCopy.read(name, _loaded(self.directory / name / _MANIFEST))

    def copy(self, name: str) -> DataCopy:
        """:raises AdapterError: permanent when there is no such copy, or its manifest is damaged."""
        try:
            return self._read(check_copy_name(name))
        except FileNotFoundError as error:
            raise AdapterError(
                f"there is no copy {name}; `rollbackd snapshot list` has their names", permanent=True
            ) from error
        except (OSError, ValueError) as error:
            raise AdapterError(
                f"copy {name}: its manifest is damaged ({error}); use another copy", permanent=True
            ) from error

    def by_release(self, release: str) -> DataCopy:
        """:raises AdapterError: permanent when it is of none."""
        for copy in self.copies():
            if copy.id == copy_of(release):
                return copy
        raise AdapterError(f"{one_line(release)}: no copy of it is here; see `rollbackd snapshot list`", permanent=True)

    # -- making and dropping --------------------------------------------------------------------
    def begin(self, name: str) -> Path:
        """An empty directory for a copy, which is none before `finish`."""
        beside = self.directory / f".new-{check_copy_name(name)}"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        return beside

    def finish(self, copy: DataCopy) -> DataCopy:
        """Make a copy of what `begin` gave, whose contents are on disk."""
        beside = self.directory / f".new-{copy.name}"
        write_durably(beside / _MANIFEST, json.dumps(copy.written).encode())
        beside.rename(self.directory / copy.name)
        sync_directory(self.directory)
        return copy

    def note(self, copy: DataCopy) -> None:
        """Write a copy's manifest anew."""
        write_durably(self.directory / copy.name / _MANIFEST, json.dumps(copy.written).encode())

    def note_verified(self, copy: DataCopy, now: datetime, *, whole: bool) -> None:
        """Remember what a whole read found."""
        found = {"at": now.isoformat(), "facts": dict(copy.facts), "whole": whole}
        write_durably(self.directory / copy.name / _VERIFIED, json.dumps(found).encode())

    def verified(self) -> set[str]:
        """The names of the copies that were found whole when they were read last."""
        return {name for name in self._names() if self._found(name).get("whole")}

    def is_harmed(self, copy: DataCopy) -> bool:
        """Whether the last whole read found something wrong with it."""
        return self._found(copy.name).get("whole") is False

    def _found(self, name: str) -> Mapping[str, object]:
        """What the last whole read of a copy found; nothing when there was none."""
        with suppress(OSError, ValueError):
            found = _loaded(self.directory / name / _VERIFIED)
            if isinstance(found, dict):
                return found
        return {}

    def was_verified(self, copy: DataCopy) -> bool:
        """Whether a whole read found what its manifest has; what has the same hash since need not be read again."""
        found = self._found(copy.name)
        return bool(found.get("whole")) and found.get("facts") == dict(copy.facts)

    def drop(self, name: str) -> None:
        """Forget a copy; a kill leaves it whole, or gone for whoever looks."""
        gone = self.directory / f".gone-{check_copy_name(name)}"
        shutil.rmtree(gone, ignore_errors=True)
        (self.directory / name).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what kills left. Only while nobody else makes a copy."""
        for path in self.directory.glob(".*-*") if self.directory.is_dir() else ():
            if path.name.startswith((".new-", ".gone-")):
                shutil.rmtree(path, ignore_errors=True)

    def free_name(self, why: str, now: datetime) -> str:
        """`snapshot-<why>-<time in UTC>`, with a number where that is taken."""
        base = f"snapshot-{why}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        taken = set(self._names())
        names = (base, *(f"{base}-{number}" for number in range(2, 1000)))
        return next(name for name in names if name not in taken)


def check_copy_name(name: str) -> str:
    """:raises AdapterError: permanent, for a name that cannot be one."""
    if SNAPSHOT.fullmatch(name) is None:
        text = f"{one_line(name)!r} cannot be the name of a copy: letters, digits and ._- only, 120 at most"
        raise AdapterError(text, permanent=True)
    return name
