"""Copies of snapshots elsewhere, by commands: sent, listed, fetched. A copy's name says what it is.

`SERVICE@LAYER@TIME@RELEASE.snapshot`: what is found there needs no journal to be understood, and the newest names come
last. The names of services and layers have no `@`, and none of the parts can be taken for an option.
"""

import asyncio
import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rollbackd.adapter import AdapterError, Snapshot, Snapshots
from rollbackd.config.schedules import DIRECTORY, FILE, NAME, Offsite
from rollbackd.system.spawner import Finished, Spawner, SpawnError, one_line

_COPY = re.compile(r"[a-z0-9][a-z0-9._-]*@[a-z0-9][a-z0-9._-]*@(\d{8}T\d{6}(?:\.\d{6})?Z)@([0-9a-f]{12})\.snapshot")


@dataclass(frozen=True, slots=True)
class OffsiteCopy:
    """One copy, as its name tells it."""

    name: str
    created: datetime
    release: str
    """A digest of the release's id: see `digest_of`."""


def digest_of(release: str) -> str:
    """A release's id as a part of a file's name, whatever is in the id."""
    return hashlib.sha256(release.encode()).hexdigest()[:12]


def copy_name(service: str, layer: str, snapshot: Snapshot) -> str:
    """The name of a snapshot's copy."""
    at = snapshot.created.astimezone(UTC)
    stamp = at.strftime("%Y%m%dT%H%M%S.%fZ" if at.microsecond else "%Y%m%dT%H%M%SZ")  # two may be of one second
    return f"{service}@{layer}@{stamp}@{digest_of(snapshot.release)}.snapshot"


def understood(lines: Sequence[str], service: str, layer: str) -> list[OffsiteCopy]:
    """The copies of a layer among the lines of a listing, newest first; anything else there is not ours."""
    found = {}
    for line in lines:
        name = line.strip().rstrip("/").rpartition("/")[2]
        fits = _COPY.fullmatch(name)
        if fits is not None and name.startswith(f"{service}@{layer}@"):
            try:
                form = "%Y%m%dT%H%M%S.%fZ" if "." in fits[1] else "%Y%m%dT%H%M%SZ"
                at = datetime.strptime(fits[1], form).replace(tzinfo=UTC)
            except ValueError:
                continue
            found[name] = OffsiteCopy(name, at, fits[2])
    return sorted(found.values(), key=lambda copy: (copy.created, copy.name), reverse=True)


class OffsiteStore:
    """The copies of one layer in one place."""

    def __init__(self, settings: Offsite, service: str, layer: str, spawner: Spawner, scratch: Path) -> None:
        self._settings = settings
        self._service = service
        self._layer = layer
        self._spawner = spawner
        self._scratch = scratch / f"{service}@{layer}"
        self._alone = asyncio.Lock()

    @property
    def gives_back(self) -> bool:
        """Whether what is there can be listed and fetched."""
        return self._settings.pull is not None

    async def send(self, adapter: Snapshots, snapshot: Snapshot) -> str:
        """Copy a snapshot there; returns the copy's name. Doing it again is harmless.

        :raises AdapterError: it is not there.
        """
        name = copy_name(self._service, self._layer, snapshot)
        async with self._alone:
            try:
                file = await self._make_room() / name
                await adapter.export_to(snapshot.name, str(file))
                await self._run(self._settings.push, file, self._settings.timeout)
            finally:
                await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        if self.gives_back and name not in {copy.name for copy in await self.copies()}:
            text = f"`{self._settings.push[0]}` ended well, and yet {name} is not in the list of what is there"
            raise AdapterError(text, permanent=False)
        return name

    async def copies(self) -> list[OffsiteCopy]:
        """The copies there, newest first. :raises AdapterError: they cannot be listed."""
        finished = await self._run(self._settings.list, Path(self._scratch / "-"), self._settings.list_timeout)
        if finished.truncated:
            raise AdapterError(f"`{self._settings.list[0]}` lists more than can be read", permanent=True)
        return understood(finished.stdout.decode(errors="replace").splitlines(), self._service, self._layer)

    async def fetch(self, adapter: Snapshots, copy: OffsiteCopy) -> Snapshot:
        """Take a copy in again. :raises AdapterError: it cannot be had, or is damaged."""
        assert self._settings.pull is not None
        async with self._alone:
            try:
                file = await self._make_room() / copy.name
                await self._run(self._settings.pull, file, self._settings.timeout)
                if not await asyncio.to_thread(file.is_file):
                    text = f"`{self._settings.pull[0]}` ended well, and yet there is no {copy.name} in {file.parent}"
                    raise AdapterError(text, permanent=True)
                return await adapter.import_from(str(file))
            finally:
                await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    async def _make_room(self) -> Path:
        """Make an empty directory of our own."""
        try:
            await asyncio.to_thread(_emptied, self._scratch)
        except OSError as error:
            raise AdapterError(f"{self._scratch}: {error.strerror}; look at its disk", permanent=False) from error
        return self._scratch

    async def _run(self, command: Sequence[str], file: Path, limit: timedelta) -> Finished:
        filled = {FILE: str(file), NAME: file.name, DIRECTORY: str(file.parent)}
        argv = [_with(part, filled) for part in command]
        try:
            finished = await self._spawner.run(argv, timeout=limit)
        except SpawnError as error:
            raise AdapterError(f"off-site: {error}", permanent=error.permanent) from error
        if not finished.ok:
            said = one_line(finished.tail.strip().rpartition("\n")[2])
            text = f"off-site: `{one_line(' '.join(command))}`: {finished.ending}{f': {said}' if said else ''}"
            raise AdapterError(text, permanent=False, evidence=finished.tail)
        return finished


def _emptied(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)


def _with(part: str, filled: dict[str, str]) -> str:
    """The command with all placeholders filled in at once: what is filled in is not searched for placeholders."""
    return re.sub("|".join(map(re.escape, filled)), lambda found: filled[found.group()], part)
