"""Runs one command to its end, also when the daemon that asked for it is gone. Run as a file; standard library only.

`python -I -S supervisor.py RECORD LOCK LIMIT GRACE DIGEST USER ARGV…`: LOCK is a descriptor, LIMIT and GRACE are
seconds, DIGEST is the command's, USER is empty or `user:group:group,group` in numbers. It starts the command in a
process group of its own, enforces the time limit, keeps the last of the output in memory, and at the end writes the
record by rename. The exit status is 0 when the record is on disk, else the error's number.

Who holds the lock: the supervisor and, by inheritance, all that the command starts. So a killed supervisor whose
command lives on still shows. At the end the supervisor unlocks for all of them: what a build leaves running on purpose
does not block the resource. As long as it lives it also holds a POSIX lock on the same file, which is not inherited and
tells a supervised command from an orphaned one.

Every effect waits for this to start, so it imports nothing that imports `re`, `enum` or `functools` (json, pathlib,
contextlib), and of signal and ctypes the interpreter's own half: with them it takes twice as long.
"""

import _ctypes
import _signal as signal  # type: ignore[import-not-found]  # typeshed knows only its wrapper
import binascii
import fcntl
import os
import select
import sys
import time

KEPT = 20 * 2**10
"""How many bytes of the output the record has: what is shown as evidence, and some more to find a cut secret in."""

_PR_SET_PDEATHSIG = 1
_NOT_STARTED = 127


class _Suppress:
    """As `contextlib.suppress`."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: "type[BaseException] | None", *_: object) -> bool:
        return kind is not None and issubclass(kind, self._errors)


def write_durably(path: "str | os.PathLike[str]", data: bytes) -> None:
    """Replace a file so that after a crash it is the old one or the new one; on disk when this returns."""
    directory, name = os.path.split(os.fspath(path))
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with _Suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory or ".")


def sync_directory(path: "str | os.PathLike[str]") -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def holders(path: "str | os.PathLike[str]") -> list[int]:
    """The processes, other than this one, that share the file's flock; those of other users are seen only by root."""
    wanted = os.stat(path)
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid() and _has(pid, wanted)]


def _has(process: str, wanted: os.stat_result) -> bool:
    with _Suppress(OSError):  # it ended meanwhile, or is not ours to look at
        for fd in os.listdir(f"/proc/{process}/fd"):
            found = os.stat(f"/proc/{process}/fd/{fd}")
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                with open(f"/proc/{process}/fdinfo/{fd}", encoding="ascii") as info:
                    if "FLOCK" in info.read():  # who only looks at the file has none
                        return True
    return False


class Tail:
    """The last bytes of a stream."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._data = bytearray()
        self._dropped = False

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 4 * self._kept:
            self._shorten()

    def _shorten(self) -> None:
        if len(self._data) > self._kept:
            del self._data[: -self._kept]
            self._dropped = True

    @property
    def value(self) -> tuple[bytes, bool]:
        """The bytes, and whether others came before them."""
        self._shorten()
        return bytes(self._data), self._dropped


def _become(argv: list[str], output: int, parent: int, user: str) -> None:
    """In the child: turn into the command. Dies with the supervisor, so that nothing runs unlimited."""
    try:
        os.setpgid(0, 0)
        if user:  # before the rest: who becomes somebody else is no longer told of a parent's death
            number, group, groups = user.split(":")
            os.setgroups([int(each) for each in groups.split(",")])
            os.setresgid(int(group), int(group), int(group))
            os.setresuid(int(number), int(number), int(number))
        here = _ctypes.dlopen(None, os.RTLD_NOW)  # type: ignore[arg-type]  # None: the program itself
        prctl = _ctypes.dlsym(here, "prctl")
        _ctypes.call_function(prctl, (_PR_SET_PDEATHSIG, signal.SIGKILL))
        if os.getppid() != parent:
            return  # it died before it could be noticed
        for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvpe(argv[0], argv, os.environ)  # noqa: S606  # an argument vector, as the configuration has it
    except OSError as error:
        os.write(output, f"cannot start {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


class _Command:
    def __init__(self, argv: list[str], user: str) -> None:
        self.tail = Tail()
        self._output, write = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()  # the spawner's other half
        if self.pid == 0:
            _become(argv, write, parent, user)
        os.close(write)
        with _Suppress(OSError):  # the child may have done it itself and be gone
            os.setpgid(self.pid, self.pid)
        os.set_blocking(self._output, False)
        self._ended = os.pidfd_open(self.pid)

    def watch(self, until: float) -> bool:
        """Read its output until it ends; False when that took longer than `until` on the monotonic clock."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        while True:
            left = until - time.monotonic()  # no daemon, no clock
            ready = {fd for fd, _ in poll.poll(max(0.0, left) * 1000)}
            if self._output in ready and not self._read():
                poll.unregister(self._output)
            if self._ended in ready:
                self._read()
                return True
            if left <= 0:
                return False

    def _read(self) -> bool:
        """Take what is there; False at the end. Bounded, so that a flood does not keep the time limit waiting."""
        for _ in range(64):
            try:
                data = os.read(self._output, 2**16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.tail.add(data)
        return True

    def kill(self, number: int) -> None:
        """Signal its group; not yet waited for, its id belongs to nobody else."""
        with _Suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _supervise(argv: list[str], limit: float, grace: float, digest: str, lock: int, user: str) -> str:
    """Run it; the record, as JSON."""
    started, began = time.time(), time.monotonic()
    command = _Command(argv, user)
    timed_out = not command.watch(began + limit)
    if timed_out:
        command.kill(signal.SIGTERM)
        command.watch(time.monotonic() + grace)
        command.kill(signal.SIGKILL)
        for process in holders(f"/proc/self/fd/{lock}"):  # those that left the group; the daemon is not among them
            with _Suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
    code = command.wait()
    output, cut = command.tail.value
    return (
        f'{{"digest": "{digest}", "code": {code}, "timed_out": {int(timed_out)}, "cut": {int(cut)}, '
        f'"started": {started}, "ended": {time.time()}, '
        f'"output": "{binascii.b2a_base64(output, newline=False).decode()}"}}'
    )


def main(arguments: list[str]) -> int:
    """Supervise one command; the exit status."""
    record, lock, limit, grace, digest, user, *argv = arguments
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends with its command, or is killed
    try:
        fcntl.lockf(int(lock), fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_durably(record, _supervise(argv, float(limit), float(grace), digest, int(lock), user).encode())
    except OSError as error:
        return error.errno or 1
    finally:
        fcntl.flock(int(lock), fcntl.LOCK_UN)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
