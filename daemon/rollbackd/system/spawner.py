"""The spawner: every program is started here, as an argument vector, with a time limit and a clean environment.

`Spawner.run` is for quick commands, which end with us. `Spawner.run_recorded` is for effects: the command runs under a
supervisor that outlives us, and the next process finds its result on disk, so that it never runs twice.
"""

import asyncio
import base64
import binascii
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from rollbackd.system import step_processes, supervisor
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock, SystemClock
from rollbackd.system.locks import Busy, Lock, Locks
from rollbackd.system.program_output import GRACE, Pipes, as_stdin, ended, exit_of
from rollbackd.system.redaction import Redactor, harmless, one_line
from rollbackd.system.supervisor import sync_directory, write_durably
from rollbackd.system.users import Identity, UnknownUser, identity_of

__all__ = [
    "Busy",
    "Finished",
    "Lock",
    "Recorded",
    "SpawnError",
    "Spawner",
    "harmless",
    "one_line",
    "sync_directory",
    "write_durably",
]

READ_LIMIT = 16 * 2**20
"""How many bytes of standard output are kept for reading."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INHERITED = ("PATH", "HOME", "LANG", "USER", "LOGNAME", "TZ")
_SUPERVISOR_SLACK = timedelta(seconds=30)
"""How much longer than its own limits a supervisor may take to say so, before it counts as stuck."""


class SpawnError(Exception):
    """A program could not be started, or its result cannot be known."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent
        """Whether trying the same again cannot help."""


class _Ended:
    """How a command ended."""

    __slots__ = ()
    code: int
    """Exit status; negative for a signal."""
    timed_out: bool

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.timed_out

    @property
    def ending(self) -> str:
        """For people: `exit 1`, `killed by SIGKILL`, `took longer than its limit`."""
        return _ending(self.code, self.timed_out)


@dataclass(frozen=True, slots=True)
class Finished(_Ended):
    """What became of a quick command."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    """Output as printed, up to the limit, with whatever secrets it has: for reading, not for showing."""
    truncated: bool
    """Whether there was more of it."""
    stderr: str
    """The last 16 KiB, without secrets."""
    tail: str
    """The last 16 KiB of both together, without secrets: evidence."""
    took: timedelta
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Recorded(_Ended):
    """What became of a command that outlives us."""

    code: int
    tail: str
    """The last 16 KiB of its output, without secrets."""
    started: datetime
    ended: datetime
    timed_out: bool = False


class Spawner:
    """Starts programs.

    :param locks: the directory of the resources' locks; needed only to hold one.
    :param clock: for durations; time limits are real time whatever its speed.
    :param secrets: what no output that is shown may contain.
    """

    def __init__(self, locks: Path | None = None, clock: Clock | None = None, secrets: Iterable[str] = ()) -> None:
        self._clock = clock or SystemClock()
        self._locks = None if locks is None else Locks(locks, self._clock)
        self._redactor = Redactor(secrets)
        self._left: set[subprocess.Popen[bytes]] = set()

    def clean(self, text: str) -> str:
        """A text without secrets and control characters."""
        return self._redactor(text)

    def hold(self, resource: str, wait: timedelta = timedelta()) -> AbstractAsyncContextManager[Lock]:
        """Hold a resource; give the lock to what is started meanwhile. Not reentrant.

        :raises Busy: on entering, when it is still held elsewhere after `wait`.
        """
        return self._needs_locks().hold(resource, wait)

    def held(self, resource: str) -> bool:
        """Whether a program of an earlier process still works on the resource."""
        return self._needs_locks().held(resource)

    def _needs_locks(self) -> Locks:
        if self._locks is None:
            raise RuntimeError("this spawner was made without a directory for locks")
        return self._locks

    @staticmethod
    def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a program sees: PATH, home, language, user, zone, and `extra`; nothing else of ours."""
        basis = {"PATH": _PATH, "HOME": "/", "LANG": "C.UTF-8"}
        return basis | {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(extra or {})

    def which(self, program: str, cwd: Path | None = None) -> str | None:
        """Where a program would be found, or None."""
        if "/" in program:
            path = (cwd or Path("/")) / program
            return str(path) if path.is_file() and os.access(path, os.X_OK) else None
        return shutil.which(program, path=self.environment()["PATH"])

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: timedelta,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        lock: Lock | None = None,
        limit: int = READ_LIMIT,
        user: str = "",
        umask: int = -1,
    ) -> Finished:
        """Run a command to its end. Its group is ended on the time limit and when we are cancelled.

        What it leaves running on purpose stays, but no longer holds the lock.

        :param user: as whom it runs; empty: as we do.
        :param umask: what its files keep from others; -1: our own, which is that of a login where one started us.

        :raises SpawnError: it cannot be started.
        :raises Busy: a program started earlier still has the lock.
        """
        boundary("process.before")
        who = _identity(user)
        began = self._clock.monotonic()
        granted = None if lock is None else self._grant(lock, timeout)
        try:
            with Pipes(limit) as pipes:
                with as_stdin(stdin) as source:
                    outputs = (pipes.stdout.write, pipes.stderr.write)
                    around = self.environment(_of(who) | dict(env or {}))
                    popen = self._start(argv, cwd, around, granted, source, *outputs, who, umask)
                pipes.close_writers()
                boundary("process.spawned")
                timed_out = await ended(popen, timeout)
                pipes.drain()
            boundary("process.ended")
        finally:
            if granted is not None:
                fcntl.flock(granted, fcntl.LOCK_UN)
                os.close(granted)
        stderr, cut = pipes.stderr.tail.value
        both, both_cut = pipes.both.value
        return Finished(
            argv=tuple(argv),
            code=popen.returncode,
            stdout=bytes(pipes.kept),
            truncated=pipes.truncated,
            stderr=self._redactor.tail(stderr, cut=cut),
            tail=self._redactor.tail(both, cut=both_cut),
            took=timedelta(seconds=self._clock.monotonic() - began),
            timed_out=timed_out,
        )

    def recorded(self, record: Path, argv: Sequence[str]) -> Recorded | None:
        """The result of a command that ended, in this process or an earlier one; None: none is known."""
        try:
            data = json.loads(record.read_bytes())
            if data["digest"] != _digest(argv):
                return None
            return Recorded(
                code=int(data["code"]),
                tail=self._redactor.tail(base64.b64decode(data["output"]), cut=bool(data["cut"])),
                started=datetime.fromtimestamp(data["started"], UTC),
                ended=datetime.fromtimestamp(data["ended"], UTC),
                timed_out=bool(data["timed_out"]),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise SpawnError(
                f"{record}: not a record of a command ({error}); look at it, then remove it", permanent=True
            ) from error

    async def run_recorded(
        self,
        argv: Sequence[str],
        *,
        record: Path,
        lock: Lock,
        timeout: timedelta,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: str = "",
    ) -> Recorded:
        """Run a command once for a record, an absolute path: when it has ended, in whichever life, this only tells how.

        A success stays on record. A failure is told once and then forgotten, so that the next call tries again. When we
        are killed, or cancelled, the command goes on under its supervisor; `held` says so, then the record is there.

        :raises SpawnError: it cannot be started, or its supervisor was killed.
        :raises Busy: a program started earlier still has the lock.
        """
        if (found := self._told(record, argv)) is not None:
            return found
        boundary("process.before")
        who = _identity(user)
        if argv and self.which(argv[0], cwd) is None:
            raise SpawnError(f"{one_line(argv[0])}: no such program, or not executable", permanent=True)
        granted = self._grant(lock, timeout)
        try:
            supervised = [sys.executable, "-I", "-S", supervisor.__file__, str(record), str(granted)]
            limits = [str(timeout.total_seconds()), str(GRACE.total_seconds())]
            popen = self._start(
                [*supervised, *limits, _digest(argv), _credentials(who), *argv],
                cwd,
                self.environment(_of(who) | dict(env or {})),
                granted,
                subprocess.DEVNULL,
                None,
                None,
            )
        finally:
            os.close(granted)
        boundary("process.spawned")
        await self._supervised(popen, timeout)
        boundary("process.ended")
        if (found := self._told(record, argv)) is not None:
            return found
        lock.kill_leftovers()
        raise SpawnError(f"{self.clean(shlex.join(argv))}: {_no_result(popen.returncode, record)}", permanent=False)

    def _told(self, record: Path, argv: Sequence[str]) -> Recorded | None:
        found = self.recorded(record, argv)
        if found is None or not found.ok:
            record.unlink(missing_ok=True)
        return found

    async def _supervised(self, popen: subprocess.Popen[bytes], timeout: timedelta) -> None:
        """Wait for a supervisor. When this is cancelled the supervisor goes on, since that is what it is for."""
        try:
            async with exit_of(popen) as gone, asyncio.timeout((timeout + GRACE + _SUPERVISOR_SLACK).total_seconds()):
                await gone
        except TimeoutError:
            popen.kill()
        except asyncio.CancelledError:
            self._left.add(popen)
            watched = os.pidfd_open(popen.pid)
            asyncio.get_running_loop().add_reader(watched, partial(self._reap, popen, watched))
            raise
        popen.wait()
        step_processes.ended(popen.pid)

    def _reap(self, popen: subprocess.Popen[bytes], watched: int) -> None:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
        popen.wait()
        step_processes.ended(popen.pid)
        self._left.discard(popen)

    def _grant(self, lock: Lock, timeout: timedelta) -> int:
        return lock.grant(self._clock.now().timestamp() + (timeout + GRACE).total_seconds())

    def _start(
        self,
        argv: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str],
        granted: int | None,
        stdin: int,
        stdout: int | None,
        stderr: int | None,
        who: Identity | None = None,
        umask: int = -1,
    ) -> subprocess.Popen[bytes]:
        if not argv or not argv[0]:
            raise SpawnError("an empty command; write it as a list, the program first", permanent=True)
        try:
            popen = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=env,
                stdin=stdin,
                stdout=subprocess.DEVNULL if stdout is None else stdout,
                stderr=subprocess.DEVNULL if stderr is None else stderr,
                pass_fds=() if granted is None else (granted,),
                start_new_session=True,
                user=None if who is None else who.user,
                group=None if who is None else who.group,
                extra_groups=None if who is None else who.groups,
                umask=umask,
            )
        except (OSError, ValueError) as error:
            raise _not_started(argv, cwd, error) from error
        step_processes.started(popen.pid)
        return popen


def _identity(user: str) -> Identity | None:
    """Who a program runs as; None: as we do. :raises SpawnError: it may not."""
    try:
        who = identity_of(user) if user else None
    except UnknownUser as error:
        raise SpawnError(str(error), permanent=True) from error
    return None if who is None or who.user == os.geteuid() else who


def _of(who: Identity | None) -> dict[str, str]:
    """What a login of another user has in its environment."""
    return {} if who is None else who.environment


def _credentials(who: Identity | None) -> str:
    """As the supervisor is told: `user:group:group,group`, or nothing."""
    return "" if who is None else f"{who.user}:{who.group}:{','.join(map(str, who.groups))}"


def _digest(argv: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(argv).encode()).hexdigest()


def _ending(code: int, timed_out: bool) -> str:
    if timed_out:
        return "took longer than its limit"
    if code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _not_started(argv: Sequence[str], cwd: Path | None, error: Exception) -> SpawnError:
    if cwd is not None and not cwd.is_dir():
        return SpawnError(f"{one_line(argv[0])}: cannot run in {cwd}: no such directory", permanent=True)
    number = error.errno if isinstance(error, OSError) else None
    permanent = number not in {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}
    reason = error.strerror if isinstance(error, OSError) else str(error)
    hint = {
        errno.ENOENT: "no such program",
        errno.EACCES: "permission denied; is it executable?",
        errno.ENOEXEC: "not a program; does its first line name an interpreter?",
    }.get(number or 0, reason)
    return SpawnError(f"{one_line(argv[0])}: {hint}", permanent=permanent)


def _no_result(code: int, record: Path) -> str:
    if code < 0:
        return f"its supervisor was {_ending(code, timed_out=False)}, so how it ended is not known"
    return f"its result could not be written to {record}: {os.strerror(code)}"
