"""What a repository of pgBackRest's has of the server: which backups, and which of the WAL after them.

pgBackRest says that all is well with WAL missing that a backup needs, so each segment between a backup and a point is
looked for by its name. Only a recovery proves it.

https://pgbackrest.org/2.45/command.html
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import writable
from rollbackd.system.spawner import Finished, Lock, one_line
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.postgres.server import GLANCE
from rollbackd_adapters.postgres.settings import PgBackRestSettings, PostgresSettings

PROGRAM = "pgbackrest"
_LISTED = 2**27
"""Bytes of a list of segments; that of a million has as many."""
_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})-[0-9a-f]{40}(\.[a-z0-9]+)?")
_SAID = re.compile(r"^(?:ERROR|WARN): .*(?:\n +.*)*", re.MULTILINE)
_NO_SUCH = {1: "it has no such stanza", 2: "it has no backup"}


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup without errors."""

    label: str
    began: int
    """Where in the WAL it began, in bytes; a recovery needs all from there."""
    stopped: int
    """Where it ended: no earlier point can be reached from it."""
    timeline: int
    ended: datetime
    size: int
    """Bytes of the server's files, all databases together."""


@dataclass(frozen=True, slots=True)
class Backups:
    """What the repository has of one server."""

    all: Sequence[Backup]
    """The newest first."""
    archive: str
    """Where its WAL is, below the stanza's: `15-1`."""
    newest: str
    """The newest segment that has arrived; empty: none has."""

    def before(self, lsn: int, timeline: int) -> Backup | None:
        """The newest from which a point of the WAL can be reached."""
        fit = (one for one in self.all if one.stopped <= lsn and one.timeline <= timeline)
        return max(fit, key=lambda one: one.stopped, default=None)

    def before_time(self, time: datetime, timeline: int) -> Backup | None:
        """The newest that had ended at a time of the server's clock."""
        fit = (one for one in self.all if one.ended < time and one.timeline <= timeline)
        return max(fit, key=lambda one: one.stopped, default=None)


def position(lsn: str) -> int:
    """A place in the WAL in bytes: `0/3025B08`."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _usable(backups: Sequence[Mapping[str, Any]], key: tuple[object, object]) -> list[Backup]:
    """Those of a server, without errors, that were made while it ran; what cannot be read is passed over.

    :raises ValueError: none of them can be read.
    """
    found, wrong = [], None
    for one in backups:
        try:
            own = (one["database"]["id"], one["database"]["repo-key"]) == key
            if own and not one.get("error") and (one.get("lsn") or {}).get("start"):
                lsn, ended = one["lsn"], datetime.fromtimestamp(one["timestamp"]["stop"], UTC)
                timeline, size = int(str(one["archive"]["stop"])[:8], 16), int(one["info"]["size"])
                places = position(lsn["start"]), position(lsn["stop"])
                found.append(Backup(str(one["label"]), *places, timeline, ended, size))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
            wrong = error
    if wrong is not None and not found:
        raise ValueError(f"{wrong!r} in each backup") from wrong
    return found


class BackupRepository(LayerPart[PostgresSettings]):
    """Asks pgBackRest, and has it restore."""

    def __init__(self, settings: PostgresSettings, place: Place, given: PgBackRestSettings) -> None:
        super().__init__(settings, place)
        self.given = given

    async def _run(
        self, command: str, *arguments: str, limit: timedelta = GLANCE, lock: Lock | None = None, read: int = 2**24
    ) -> Finished:
        """:raises AdapterError: it failed; the text has what it said."""
        given = self.given
        common = [f"--stanza={given.stanza}", f"--repo={given.repo}", "--log-level-file=off", "--no-log-timestamp"]
        if given.config is not None:
            common.append(f"--config={given.config}")
        argv = [PROGRAM, *common, "--log-level-console=off", "--log-level-stderr=error", command, *arguments]
        with as_adapter_errors():
            ended = await self._spawner.run(
                argv, timeout=limit, lock=lock, limit=read, user=given.run_as, cwd=Path("/"), umask=0o077
            )
        if not ended.ok or ended.truncated:
            said = "; ".join(one_line(" ".join(line.split())) for line in _SAID.findall(ended.stderr)[:3])
            text = f"{self._place.layer}: pgbackrest {command}: {said or ended.ending}"
            raise AdapterError(writable(text)[:2000], permanent=False, evidence=ended.stderr)
        return ended

    def _wrong(self, text: str) -> AdapterError:
        return AdapterError(f"{self._place.layer}: {text}", permanent=False)

    async def backups(self, system: int, version: int) -> Backups:
        """What there is of a server.

        :param system: the server's own identifier.
        :param version: its major version.
        :raises AdapterError: it cannot be told, or there is nothing of that server.
        """
        stanza = self.given.stanza
        ended = await self._run("info", "--output=json")
        try:
            found = next(one for one in json.loads(ended.stdout) if one["name"] == stanza)
            status = found["repo"][0]["status"]
            code, message = int(status["code"]), one_line(str(status["message"]))
        except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
            raise self._wrong(f"pgbackrest info cannot be read; is {PROGRAM} 2.35 or newer?") from error
        if code:
            text = f"the repository cannot be used for stanza {stanza}: {_NO_SUCH.get(code, message)}"
            raise self._wrong(f"{text}; {self._what_to_do(code, message)}")
        try:
            db = next(one for one in found["db"] if one["system-id"] == system and one["version"] == str(version))
            key = (db["id"], db["repo-key"])
            all_ = sorted(_usable(found["backup"], key), key=lambda one: one.stopped, reverse=True)
            archives = (one for one in found["archive"] if (one["database"]["id"], one["database"]["repo-key"]) == key)
            archive = next(archives, {"id": "", "max": ""})
            return Backups(all_, str(archive["id"]), str(archive["max"] or ""))
        except StopIteration:
            text = f"stanza {stanza} is of another server; correct `stanza`, or `pgbackrest stanza-upgrade`"
            raise self._wrong(text) from None
        except (ValueError, KeyError, TypeError) as error:
            raise self._wrong(f"pgbackrest info cannot be read: {error!r}; is it 2.35 or newer?") from error

    def _what_to_do(self, code: int, message: str) -> str:
        if "[13]" in message or "ermission" in message:
            who = self.given.run_as or f"user {os.geteuid()}"
            return f"{who} may not read it: add them to the group of the repository"
        return "correct `stanza`, or `pgbackrest stanza-create`" if code == 1 else f"`{PROGRAM} backup` makes one"

    async def missing(self, backups: Backups, first: int, last: int, timeline: int, segment: int) -> list[str]:
        """The segments that are not there, of those from one place of the WAL to another.

        :param timeline: the largest that counts.
        :param segment: bytes of a segment.
        """
        where = f"archive/{self.given.stanza}/{backups.archive}"
        ended = await self._run("repo-ls", where, "--recurse", "--output=json", read=_LISTED)
        try:
            names = [name.rpartition("/")[2] for name in json.loads(ended.stdout)]
        except (ValueError, AttributeError) as error:
            raise self._wrong("pgbackrest repo-ls cannot be read; is it 2.35 or newer?") from error
        each = 2**32 // segment
        found = {
            int(match[2], 16) * each + int(match[3], 16)
            for match in map(_SEGMENT.fullmatch, names)
            if match is not None and int(match[1], 16) <= timeline
        }
        wanted = range(first // segment, last // segment + 1)
        return [f"{n // each:08X}{n % each:08X}" for n in wanted if n not in found]

    async def restore(self, backup: Backup, data: Path, target: Sequence[str], timeline: int, lock: Lock) -> None:
        """Put a backup's files into an empty directory, with what the server needs to recover them.

        :param target: where the recovery is to stop, as pgBackRest takes it.
        """
        apart = [f"--pg1-path={data}", f"--tablespace-map-all={data.parent / 'tablespaces'}", "--archive-mode=off"]
        apart += [f"--lock-path={data.parent / 'lock'}", f"--process-max={self._settings.jobs}"]
        ends = [f"--set={backup.label}", *target, f"--target-timeline={timeline}", "--target-action=promote"]
        await self._run("restore", *apart, *ends, limit=self._settings.timeout, lock=lock)
