"""Copies of snapshots elsewhere, by commands: sent, listed, fetched. A copy's name says what it is.

`SERVICE@LAYER@TIME@RELEASE.snapshot`: what is found there needs no journal to be understood, and the newest names come
last. The names of services and layers have no `@`, and none of the parts can be taken for an option. With a key there
is `@SIGNATURE` behind RELEASE, over all of the name and every byte.

Whoever holds that place is not trusted. A copy is taken in when the journal knows its hash, since it was sent from
here, or when it is signed; nothing else is, whatever its name says.
"""

import asyncio
import hashlib
import hmac
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rollbackd.adapter import AdapterError, Snapshot, Snapshots
from rollbackd.config.schedules import DIRECTORY, FILE, NAME, Offsite
from rollbackd.config.secrets import reveal
from rollbackd.syntax.units import Secret
from rollbackd.system.spawner import Finished, Spawner, SpawnError, one_line

_COPY = re.compile(
    r"([a-z0-9][a-z0-9._-]*@[a-z0-9][a-z0-9._-]*@(\d{8}T\d{6}(?:\.\d{6})?Z)@([0-9a-f]{12}))(?:@([0-9a-f]{32}))?\.snapshot"
)
_SHORTEST_KEY = 16
"""Characters."""


@dataclass(frozen=True, slots=True)
class OffsiteCopy:
    """One copy, as its name tells it."""

    name: str
    created: datetime
    release: str
    """A digest of the release's id: see `digest_of`."""
    stem: str = ""
    """The part of the name that is signed."""
    signature: str = ""


class SentCopy(NamedTuple):
    """What was sent."""

    name: str
    digest: str
    """The sha256 of its bytes, in hex."""


def digest_of(release: str) -> str:
    """A release's id as a part of a file's name, whatever is in the id."""
    return hashlib.sha256(release.encode()).hexdigest()[:12]


def stem_of(service: str, layer: str, snapshot: Snapshot) -> str:
    """The name of a snapshot's copy, up to its signature."""
    at = snapshot.created.astimezone(UTC)
    stamp = at.strftime("%Y%m%dT%H%M%S.%fZ" if at.microsecond else "%Y%m%dT%H%M%SZ")  # two may be of one second
    return f"{service}@{layer}@{stamp}@{digest_of(snapshot.release)}"


def signature_of(key: str, stem: str, digest: str) -> str:
    """What only those who have the key can write behind a name, for bytes of this hash."""
    return hmac.new(key.encode(), f"rollbackd copy {stem} {digest}".encode(), hashlib.sha256).hexdigest()[:32]


def understood(lines: Sequence[str], service: str, layer: str) -> list[OffsiteCopy]:
    """The copies of a layer among the lines of a listing, newest first; anything else there is not ours."""
    found = {}
    for line in lines:
        name = line.strip().rstrip("/").rpartition("/")[2]
        fits = _COPY.fullmatch(name)
        if fits is not None and name.startswith(f"{service}@{layer}@"):
            try:
                form = "%Y%m%dT%H%M%S.%fZ" if "." in fits[2] else "%Y%m%dT%H%M%SZ"
                at = datetime.strptime(fits[2], form).replace(tzinfo=UTC)
            except ValueError:
                continue
            found[name] = OffsiteCopy(name, at, fits[3], fits[1], fits[4] or "")
    return sorted(found.values(), key=lambda copy: (copy.created, copy.name), reverse=True)


class OffsiteStore:
    """The copies of one layer in one place."""

    def __init__(
        self,
        settings: Offsite,
        service: str,
        layer: str,
        spawner: Spawner,
        scratch: Path,
        reveal: Callable[[Secret], str] = reveal,
    ) -> None:
        self._settings = settings
        self._service = service
        self._layer = layer
        self._spawner = spawner
        self._scratch = scratch / f"{service}@{layer}"
        self._reveal = reveal
        self._alone = asyncio.Lock()

    @property
    def gives_back(self) -> bool:
        """Whether what is there can be listed and fetched."""
        return self._settings.pull is not None

    async def send(self, adapter: Snapshots, snapshot: Snapshot) -> SentCopy:
        """Copy a snapshot there. Doing it again is harmless.

        :raises AdapterError: it is not there.
        """
        stem = stem_of(self._service, self._layer, snapshot)
        async with self._alone:
            try:
                key = self._key()
                room = await self._make_room()
                await adapter.export_to(snapshot.name, str(room / f"{stem}.snapshot"))
                digest = await asyncio.to_thread(_hashed, room / f"{stem}.snapshot")
                name = f"{stem}@{signature_of(key, stem, digest)}.snapshot" if key else f"{stem}.snapshot"
                file = (room / f"{stem}.snapshot").rename(room / name)
                await self._run(self._settings.push, file, self._settings.timeout)
            finally:
                await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        if self.gives_back and name not in {copy.name for copy in await self.copies()}:
            text = f"`{self._settings.push[0]}` ended well, and yet {name} is not in the list of what is there"
            raise AdapterError(text, permanent=False)
        return SentCopy(name, digest)

    def _key(self) -> str:
        """The key; empty where there is none. :raises AdapterError: it cannot be read, or is none."""
        if self._settings.key is None:
            return ""
        try:
            key = self._reveal(self._settings.key)
        except (ValueError, OSError) as error:
            raise AdapterError(f"off-site: the key of `offsite`: {error}", permanent=False) from None
        if len(key) < _SHORTEST_KEY:
            text = f"off-site: the key of `offsite` has fewer than {_SHORTEST_KEY} characters; write a longer one"
            raise AdapterError(f"{text} (`openssl rand -hex 32`)", permanent=True)
        return key

    async def copies(self) -> list[OffsiteCopy]:
        """The copies there, newest first. :raises AdapterError: they cannot be listed."""
        finished = await self._run(self._settings.list, Path(self._scratch / "-"), self._settings.list_timeout)
        if finished.truncated:
            raise AdapterError(f"`{self._settings.list[0]}` lists more than can be read", permanent=True)
        return understood(finished.stdout.decode(errors="replace").splitlines(), self._service, self._layer)

    async def fetch(self, adapter: Snapshots, copy: OffsiteCopy, known: Collection[str]) -> Snapshot:
        """Take a copy in again.

        :param known: the hashes of what was sent under this name.
        :raises AdapterError: it cannot be had, is damaged, or is not what was sent from here.
        """
        assert self._settings.pull is not None
        async with self._alone:
            try:
                file = await self._make_room() / copy.name
                await self._run(self._settings.pull, file, self._settings.timeout)
                if not await asyncio.to_thread(file.is_file):
                    text = f"`{self._settings.pull[0]}` ended well, and yet there is no {copy.name} in {file.parent}"
                    raise AdapterError(text, permanent=True)
                self._check(copy, await asyncio.to_thread(_hashed, file), known)
                return await adapter.import_from(str(file))
            finally:
                await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    def stranger(self, copy: OffsiteCopy, known: Collection[str]) -> str:
        """Why a copy cannot be one that was sent from here, whatever is in it; empty when it can.

        :param known: the hashes of what was sent under this name.
        """
        if known or (self._settings.key is not None and copy.signature):
            return ""
        if self._settings.key is not None:
            return self._not_ours("it is not signed, and the journal does not know it")
        return self._not_ours("the journal does not know that it was sent from here, and `offsite` has no `key`")

    def _check(self, copy: OffsiteCopy, digest: str, known: Collection[str]) -> None:
        """:raises AdapterError: permanent, when it is not what was sent from here."""
        key = self._key()
        signed = signature_of(key, copy.stem, digest) if key else ""
        if digest in known or (signed and hmac.compare_digest(copy.signature, signed)):
            return
        which = "the journal knows another hash of it" if known else "its signature is not of the key of `offsite`"
        raise AdapterError(self._not_ours(f"it is not what was sent from here: {which}"), permanent=True)

    def _not_ours(self, why: str) -> str:
        take = f"rollbackd snapshot import {self._service} {self._layer} FILE"
        return f"{why}; look at it, and take it in yourself if it is right: `{take}`"

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


def _hashed(file: Path) -> str:
    """The sha256 of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _emptied(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)


def _with(part: str, filled: dict[str, str]) -> str:
    """The command with all placeholders filled in at once: what is filled in is not searched for placeholders."""
    return re.sub("|".join(map(re.escape, filled)), lambda found: filled[found.group()], part)
