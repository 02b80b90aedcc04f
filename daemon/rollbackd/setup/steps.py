"""One step each of putting rollbackd onto a host, or taking it off again; each knows whether it is done already."""

import grp
import os
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from rollbackd.system.spawner import Spawner, SpawnError
from rollbackd.system.whole_file import whole_file

_PATIENCE = timedelta(minutes=15)
"""For one program; a stop of the unit waits for the step in hand."""


class SetupError(Exception):
    """It cannot go on; the sentence says what is done and what is not."""


class StepEffect(StrEnum):
    """What a step would do now."""

    SAME = "same"
    WRITE = "write"
    REPLACE = "replace"
    REMOVE = "remove"
    RUN = "run"
    LEFT = "left"
    """Somebody else's, or made by hand: it is not touched without `--force`."""


@dataclass(frozen=True, slots=True)
class TargetHost:
    """Where it is done: on this host, or in a directory that will be the root of another."""

    root: Path = Path("/")

    def at(self, path: Path) -> Path:
        """Where a path of the host is, as we see it."""
        return self.root / path.relative_to("/")

    @property
    def runs(self) -> bool:
        """Whether it is this host, with systemd as its first process."""
        return self.root == Path("/") and Path("/run/systemd/system").is_dir()

    def group(self, name: str) -> int:
        """The number of a group. :raises SetupError: the host has none."""
        if self.root == Path("/"):
            try:
                return grp.getgrnam(name).gr_gid
            except KeyError:
                raise SetupError(f"there is no group {name}; rollbackd install makes it") from None
        for line in _text(self.at(Path("/etc/group"))).splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split(":")[2])
        raise SetupError(f"{self.at(Path('/etc/group'))} has no group {name}; rollbackd install --root makes it")


class SetupStep(Protocol):
    """What is told before it is done."""

    @property
    def what(self) -> str:
        """The file, or the command."""
        ...

    @property
    def why(self) -> str: ...

    @abstractmethod
    def effect(self, host: TargetHost, *, force: bool) -> StepEffect: ...

    @abstractmethod
    async def do(self, host: TargetHost, spawner: Spawner) -> None:
        """:raises SetupError: it cannot be done. :raises OSError: nor can this."""
        ...


@dataclass(frozen=True, slots=True)
class PutFile:
    """A file of root's. One that begins with the same line is an earlier one of ours, and is replaced."""

    path: Path
    body: str
    why: str
    mode: int = 0o644
    group: str = "root"
    edited: bool = False
    """It is people's once it is there: only `--force` replaces it."""
    anew: bool = False
    """It replaces whatever is there: a secret that was given, or has to be the same at two places."""

    @property
    def what(self) -> str:
        return str(self.path)

    def effect(self, host: TargetHost, *, force: bool) -> StepEffect:
        place = host.at(self.path)
        if not os.path.lexists(place):
            return StepEffect.WRITE
        there = _text(place)
        if there == self.body:
            return StepEffect.SAME if place.stat().st_mode & 0o7777 == self.mode else StepEffect.REPLACE
        return StepEffect.REPLACE if force or self.is_ours(there) else StepEffect.LEFT

    def is_ours(self, there: str) -> bool:
        """Whether a text is an earlier one of this file, as it was written."""
        return self.anew or (not self.edited and there.partition("\n")[0] == self.body.partition("\n")[0])

    async def do(self, host: TargetHost, spawner: Spawner) -> None:
        del spawner
        self._put(host)

    def _put(self, host: TargetHost) -> None:
        place = host.at(self.path)
        group = 0 if self.group == "root" else host.group(self.group)
        _directory(place.parent, 0o700 if self.mode & 0o077 == 0 else 0o755)
        if os.path.lexists(place) and not self.is_ours(there := _text(place)) and there != self.body:
            place.replace(place.with_name(f"{place.name}.old"))
        with whole_file(place) as sink:
            sink.write(self.body.encode())
        if os.geteuid() == 0:
            os.chown(place, 0, group)
        place.chmod(self.mode)


@dataclass(frozen=True, slots=True)
class PutLink:
    """A link to a file; another link at its place is an earlier one of ours."""

    path: Path
    to: Path
    why: str

    @property
    def what(self) -> str:
        return f"{self.path} -> {self.to}"

    def effect(self, host: TargetHost, *, force: bool) -> StepEffect:
        place = host.at(self.path)
        if place.is_symlink():
            return StepEffect.SAME if place.readlink() == self.to else StepEffect.REPLACE
        if not place.exists():
            return StepEffect.WRITE
        return StepEffect.REPLACE if force else StepEffect.LEFT

    async def do(self, host: TargetHost, spawner: Spawner) -> None:
        del spawner
        place = host.at(self.path)
        _directory(place.parent, 0o755)
        beside = place.with_name(f".{place.name}.part")
        beside.unlink(missing_ok=True)
        beside.symlink_to(self.to)
        beside.replace(place)


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """A file that was put there, or a directory with all that is in it, is removed."""

    path: Path
    why: str
    put: PutFile | None = None
    """What was put there; something else is left. None: whatever it is."""

    @property
    def what(self) -> str:
        return str(self.path)

    def effect(self, host: TargetHost, *, force: bool) -> StepEffect:
        place = host.at(self.path)
        if not os.path.lexists(place):
            return StepEffect.SAME
        ours = self.put is None or self.put.is_ours(_text(place))
        return StepEffect.REMOVE if force or ours else StepEffect.LEFT

    async def do(self, host: TargetHost, spawner: Spawner) -> None:
        del spawner
        place = host.at(self.path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


@dataclass(frozen=True, slots=True)
class RunProgram:
    """A program that the files of the plan need, where it has not run yet."""

    argv: tuple[str, ...]
    why: str
    needed: bool

    @property
    def what(self) -> str:
        return " ".join(self.argv)

    def effect(self, host: TargetHost, *, force: bool) -> StepEffect:
        del host, force
        return StepEffect.RUN if self.needed else StepEffect.SAME

    async def do(self, host: TargetHost, spawner: Spawner) -> None:
        del host
        try:
            done = await spawner.run(self.argv, timeout=_PATIENCE)
        except SpawnError as error:
            raise SetupError(str(error)) from error
        if not done.ok:
            raise SetupError(f"{self.what}: {done.ending}: {done.tail.strip() or 'it said nothing'}")


@dataclass(frozen=True, slots=True)
class EncryptSecret:
    """A secret is encrypted for this host by systemd-creds, and its plain text removed."""

    name: str
    plain: Path
    sealed: Path

    @property
    def what(self) -> str:
        return f"{self.plain} -> {self.sealed}"

    @property
    def why(self) -> str:
        return "encrypted for this host; the plain text is removed"

    def effect(self, host: TargetHost, *, force: bool) -> StepEffect:
        del host, force
        return StepEffect.REPLACE

    async def do(self, host: TargetHost, spawner: Spawner) -> None:
        argv = ("systemd-creds", "encrypt", f"--name={self.name}", str(self.plain), str(self.sealed))
        await RunProgram(argv, self.why, needed=True).do(host, spawner)
        self.plain.unlink()


def changes(steps: Sequence[SetupStep], host: TargetHost) -> bool:
    """Whether a plan writes or removes any of these."""
    return any(step.effect(host, force=False) not in {StepEffect.SAME, StepEffect.LEFT} for step in steps)


def _text(path: Path) -> str:
    """A file's text; one that is none of ours need not be text."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _directory(path: Path, mode: int) -> None:
    """Make it and those above it, whatever our umask is."""
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        missing.mkdir()
        missing.chmod(mode if missing == path else 0o755)
