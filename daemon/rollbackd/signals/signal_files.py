"""Signal files: the manual override, files in one directory. It works with everything else down.

Holds are read, never moved. A command file that has not changed for a second is handed over once, then moved to `done/`
or `rejected/`.
"""

import errno
import os
import pwd
import stat
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path

from rollbackd.syntax.units import bounded_time, parse_duration, show
from rollbackd.system.clock import Clock

_MORE_LINES = {"ROLLBACK": ("to", "plan"), "MENDING": ("for",)}
"""The lines of a command beside `reason:`."""
COMMANDS = ("ROLLBACK", "APPROVE", "DENY", "ABORT", "MENDING")
_OF_PEOPLE = frozenset({"ROLLBACK", "APPROVE", "DENY"})
"""Commands that no code of a release may give; the others, and holds, only stop or hold up."""
_SYSTEM = (range(1, 1000), range(60001, 65536))
"""Users that are no person's: of services, of systemd's dynamic ones, nobody. https://systemd.io/UIDS-GIDS/"""
STILL = timedelta(seconds=1)
"""How long a command file must be unchanged: what a shell redirects into is seen empty first."""
LARGEST = 64 * 1024
"""Bytes; a signal file is a few lines."""
MOST = 500
"""Names that one scan looks at; of a crowd the beginning, and whatever is of a service that we know."""
_PASSES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors that are ours and pass by themselves: what cannot be read for them is looked at again."""
_OTHERS = 0o007
_MOVABLE = "has no sticky bit, so that whoever may write there may move another one's orders; chmod 1770"
_NO_FILE = "not a regular file"
_LONGEST = 240
"""How many bytes a file's name in `done/` may have; file systems allow 255."""


class SignalsUnsafe(Exception):  # noqa: N818  # read by people at the start
    """The directory could be written to by anybody, or is not one; the daemon does not start."""


@dataclass(frozen=True, slots=True)
class HoldFile:
    """A hold that stands; `reason` is a sentence."""

    name: str
    actor: str
    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class SignalCommand:
    """A command file, ready to be taken."""

    name: str
    verb: str
    service: str
    actor: str
    key: str
    """Name, inode and change time: the same file is taken once."""
    fields: dict[str, str]
    seen: datetime
    """When this file was seen first: what it answers must have been asked before that."""
    problem: str = ""
    """Why it is rejected; empty when it is fine."""


@dataclass(frozen=True, slots=True)
class _Seen:
    key: str
    since: float
    at: datetime


class SignalFiles:
    """The directory, as it was when the daemon started; another one put in its place counts as held."""

    def __init__(self, path: Path, clock: Clock, of_host: str = "") -> None:
        """:param of_host: what follows a user's name in an actor."""
        self._path = path
        self._of_host = of_host
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._unmovable: set[str] = set()
        self._identity = self._inspect()

    def _inspect(self) -> tuple[int, int]:
        """Device and inode. :raises SignalsUnsafe: when it is not a closed directory of ours or root's."""
        try:
            found = self._path.lstat()
        except OSError as error:
            make = f"install -d -m 1770 -o rollbackd -g rollbackd-operators {self._path}"
            raise SignalsUnsafe(f"{self._path}: {error.strerror}; make it with `{make}`") from error
        if not stat.S_ISDIR(found.st_mode):
            raise SignalsUnsafe(f"{self._path}: is not a directory")
        if stat.S_IMODE(found.st_mode) & _OTHERS:
            raise SignalsUnsafe(
                f"{self._path}: mode {stat.S_IMODE(found.st_mode):04o} lets anybody give orders; chmod 1770"
            )
        if _is_movable(found):
            raise SignalsUnsafe(f"{self._path}: mode {stat.S_IMODE(found.st_mode):04o} {_MOVABLE}")
        if found.st_uid not in {0, os.geteuid()}:
            raise SignalsUnsafe(
                f"{self._path}: belongs to {_user(found.st_uid)}; chown it to {_user(os.geteuid())}, or root"
            )
        return found.st_dev, found.st_ino

    def _actor(self, uid: int) -> str:
        return f"unix:{_user(uid)}{self._of_host}"

    def trouble(self) -> str:
        """Why the directory cannot be trusted now, as a sentence. Everything is held then, and no order is taken."""
        try:
            now = self._path.lstat()
            os.scandir(self._path).close()
        except OSError as error:
            return f"the signals directory {self._path} cannot be read: {error.strerror}; put it back"
        if (now.st_dev, now.st_ino) != self._identity:
            return (
                f"the signals directory {self._path} was replaced since rollbackd started; look at what is in it, then "
                "restart rollbackd"
            )
        if stat.S_IMODE(now.st_mode) & _OTHERS:
            return f"the signals directory {self._path} is open to others; chmod 1770"
        if _is_movable(now):
            return f"the signals directory {self._path} {_MOVABLE}"
        return ""

    # -- holds ----------------------------------------------------------------------------------
    def holds(self, service: str) -> tuple[HoldFile, ...]:
        """What holds a service right now. Anything but a clean "no such file" in the directory we know holds it."""
        return self._held_by("HOLD", f"HOLD.{service}")

    def holds_of_all(self) -> tuple[HoldFile, ...]:
        """What holds all services right now."""
        return self._held_by("HOLD")

    def _held_by(self, *names: str) -> tuple[HoldFile, ...]:
        if trouble := self.trouble():
            return (HoldFile("HOLD", "daemon", trouble),)
        return tuple(hold for name in names if (hold := self._hold(name)) is not None)

    def all_holds(self, services: Collection[str] = ()) -> dict[str, HoldFile]:
        """Every hold file there is, by the service that it names, `*` for all; for lists, not for deciding.

        :param services: whose holds are found in a crowd of files, too.
        """
        found = {}
        for name in self._names(services):
            if name == "HOLD" or name.startswith("HOLD."):
                hold = self._hold(name)
                if hold is not None:
                    found[readable(name.partition(".")[2]) or "*"] = hold
        return found

    def _hold(self, name: str) -> HoldFile | None:
        path = self._path / name
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            name = readable(name)
            return HoldFile(name, "daemon", f"{name} cannot be looked at: {error.strerror}")
        name = readable(name)
        actor = self._actor(found.st_uid)
        try:
            until, reason = _hold_text(_read(path))
        except OSError as error:
            return HoldFile(name, actor, f"{name} by {actor}, unreadable: {error.strerror}")
        except ValueError as error:
            return HoldFile(name, actor, f"{name} by {actor}, not understood ({error}): held until it is removed")
        if until is not None and self._clock.now() >= until:
            return None
        text = f"{name} by {actor}" + (f": {reason}" if reason else "")
        return HoldFile(name, actor, text + (f", until {until.isoformat()}" if until else ""), until)

    # -- commands -------------------------------------------------------------------------------
    def commands(self, services: Collection[str]) -> list[SignalCommand]:
        """The command files that have been still long enough, and unknown files as rejected ones, orders first."""
        found = []
        present = set()
        for name in self._names(services) if not self.trouble() else ():
            if name == "HOLD" or name.startswith("HOLD."):
                continue
            command = self._command(name, services)
            present.add(name)
            if command is not None and command.key not in self._unmovable:
                found.append(command)
        self._seen = {name: seen for name, seen in self._seen.items() if name in present}
        return sorted(found, key=lambda command: bool(command.problem))

    def unknown_holds(self, services: Collection[str]) -> list[str]:
        """Hold files for services that do not exist: a slip that somebody relies on."""
        names = [name for name in self._names(services) if name.startswith("HOLD.")]
        return [readable(name) for name in names if name.partition(".")[2] not in services]

    def crowd(self) -> bool:
        """Whether there are more files than a scan looks at."""
        return len(self._first()) > MOST

    def _names(self, services: Collection[str]) -> list[str]:
        """What is there; of a crowd the beginning, and the files of these services."""
        names = self._first()
        if len(names) > MOST:
            known = (f"{verb}.{service}" for verb in ("HOLD", *COMMANDS) for service in services)
            names = [*{*names[:MOST], *(name for name in ("HOLD", *known) if os.path.lexists(self._path / name))}]
        return sorted(name for name in names if not name.startswith("."))

    def _first(self) -> list[str]:
        """The first names, in no order, and one more than `MOST` if there are more; none while it cannot be read."""
        try:
            with os.scandir(self._path) as entries:
                return [entry.name for entry in islice(entries, MOST + 1)]
        except OSError:
            return []

    def _command(self, name: str, services: Collection[str]) -> SignalCommand | None:
        path = self._path / name
        try:
            found = path.lstat()
        except OSError:
            return None
        verb, _, service = name.partition(".")
        if stat.S_ISDIR(found.st_mode) and verb not in COMMANDS:
            return None  # `done/`, `rejected/`, a file system's lost+found
        key = f"file/{readable(name)}/{found.st_ino}/{found.st_ctime_ns}"
        seen = self._seen.get(name)
        if seen is None or seen.key != key:
            self._seen[name] = _Seen(key, self._clock.monotonic(), self._clock.now())
            return None
        if self._clock.monotonic() - seen.since < STILL.total_seconds():
            return None
        actor = self._actor(found.st_uid)
        try:
            fields = _fields(_read(path))
            _check_command(verb, service, fields, services)
            _check_owner(verb, found)
        except OSError as error:
            if error.errno in _PASSES:
                return None
            return SignalCommand(name, verb, service, actor, key, {}, seen.at, f"unreadable: {error.strerror}")
        except ValueError as error:
            return SignalCommand(name, verb, service, actor, key, {}, seen.at, readable(str(error)))
        return SignalCommand(name, verb, service, actor, key, fields, seen.at)

    def finish(self, command: SignalCommand, problem: str = "") -> str:
        """Move a file away once it is journaled, with the reason beside it when it was rejected.

        Returns a sentence when it could not be moved: it is not taken again, but a person should know.
        """
        where = self._path / ("rejected" if problem else "done")
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%S.%fZ")
        try:
            where.mkdir(mode=0o770, exist_ok=True)
            whole = f"{stamp}.{command.name}"
            name = whole if len(os.fsencode(whole)) <= _LONGEST else stamp
            (self._path / command.name).rename(where / name)
            if problem:
                (where / f"{name}.reason").write_text(f"{readable(command.name)}: {problem}\n")
        except FileNotFoundError:
            return ""
        except OSError as error:
            self._unmovable.add(command.key)
            return f"{readable(command.name)} cannot be moved to {where.name}/: {error.strerror}; remove it"
        return ""


def _is_movable(found: os.stat_result) -> bool:
    """Whether more than its owner may write there, and may then move what is not theirs."""
    return bool(found.st_mode & stat.S_IWGRP) and not found.st_mode & stat.S_ISVTX


def readable(name: str) -> str:
    """A file's name as text that can be stored and shown; a name can be any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_command(verb: str, service: str, fields: dict[str, str], services: Collection[str]) -> None:
    if verb not in COMMANDS:
        commands = ", ".join(f"{known}.<service>" for known in COMMANDS)
        raise ValueError(f"{show(verb)} is no command; there are HOLD, HOLD.<service>, {commands}")
    if service not in services:
        raise ValueError(f"there is no service {show(service)}")
    known = {"reason", *_MORE_LINES.get(verb, ())}
    if unknown := set(fields) - known:
        raise ValueError(f'unknown line "{min(unknown)}:"; it takes {", ".join(sorted(known))}')
    if verb == "MENDING":
        parse_duration(fields.get("for", ""))


def _check_owner(verb: str, found: os.stat_result) -> None:
    """A release's code runs as the daemon's own user, and gives no orders. :raises ValueError: it may be its file."""
    if verb not in _OF_PEOPLE or found.st_uid != os.geteuid():
        return
    if any(found.st_uid in users for users in _SYSTEM):
        said = f"it belongs to {_user(found.st_uid)}, as whom rollbackd runs what a release brings"
        raise ValueError(f"{said}; use the command line as a user of your own")


def _read(path: Path) -> str:
    """A small regular file's text. :raises OSError: ValueError: when it is anything else."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(_NO_FILE) from error
        raise
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(_NO_FILE)
        if found.st_nlink > 1:
            raise ValueError("it has another name elsewhere, so its owner need not be who put it here")
        body = os.read(handle, LARGEST + 1)
    finally:
        os.close(handle)
    if len(body) > LARGEST:
        raise ValueError(f"larger than {LARGEST} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error


def _fields(text: str) -> dict[str, str]:
    """`key: value` lines. :raises ValueError: for any other line."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        if not colon or key.strip() in fields:
            raise ValueError(f"cannot read the line {show(line.strip())}")
        fields[key.strip()] = value.strip()
    return fields


def _hold_text(text: str) -> tuple[datetime | None, str]:
    """Until when a file holds, and why. :raises ValueError: for anything else in it."""
    fields = _fields(text)
    until, reason = _until(fields.pop("until", "")), fields.pop("reason", "")
    if fields:
        raise ValueError(f'unknown line "{next(iter(fields))}:"')
    return until, reason


def _until(text: str) -> datetime | None:
    if not text:
        return None
    try:
        until = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"`until: {text[:40]}` is no RFC 3339 time") from error
    if until.tzinfo is None:
        raise ValueError(f"`until: {text}` has no time zone; write it like 2030-01-31T12:00:00Z")
    return bounded_time(until)


@lru_cache(maxsize=256)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
