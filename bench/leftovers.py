"""One bench at a time in a directory, and nothing of it left: neither a process nor a file, even after `kill -9`.

The processes of a row are one session. Its number, and when its leader began, stand in a file before the row starts
anything, so that the next run can end what a killed one left, and nothing else.
"""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.host import BenchError, wait_until

_LOCK, _SESSION, _APART = "lock", "session", "apart"
_SID, _STARTED = 3, 19
"""Fields of `/proc/PID/stat`, counted from the one after the name."""


@contextmanager
def alone(directory: Path) -> Iterator[Path]:
    """Clean what an interrupted run left in the directory, have it to oneself, and leave nothing.

    :raises BenchError: another run is going on there, or the directory is somebody else's.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / _LOCK).exists():
        raise BenchError(f"{directory} is not empty, and no bench has left it; name another with --directory")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BenchError(f"another bench is running in {directory}") from error
        try:
            clean(directory)
            yield directory
        finally:
            clean(directory)
            shutil.rmtree(directory)


def note(directory: Path, leader: int) -> None:
    """Write a session down, by the number of its leader, before that starts anything."""
    (directory / _SESSION).write_text(f"{_boot()} {leader} {_stat(leader)[_STARTED]}")


@contextmanager
def apart(root: Path) -> Iterator[Path]:
    """A directory with a short path that other users may come to, for a row; the next run removes what a kill left.

    :param root: where the row puts everything else.
    """
    made = Path(tempfile.mkdtemp(prefix="rollbackd-bench-", dir="/tmp"))
    try:
        made.chmod(0o755)
        root.mkdir(parents=True, exist_ok=True)
        (root / _APART).symlink_to(made)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def clean(directory: Path) -> None:
    """End what an interrupted run left in the directory, and empty it but for the lock that is held."""
    end_session(directory)
    for link in directory.glob(f"*/{_APART}"):
        shutil.rmtree(link.readlink(), ignore_errors=True)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def end_session(directory: Path) -> None:
    """Kill what is left of the session that is noted. A number that was given away again is left alone."""
    try:
        boot, *numbers = (directory / _SESSION).read_text().split()
    except FileNotFoundError:
        return
    session, started = map(int, numbers)

    def gone() -> bool:
        leader = _stat(session)
        left = [] if leader and int(leader[_STARTED]) != started else members(session, started)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    if boot == _boot():
        wait_until(gone, f"the end of session {session}, which a row left")
    (directory / _SESSION).unlink()


def members(session: int, started: int) -> list[int]:
    """The living processes of a session that began then."""
    stats = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return [
        pid
        for pid, stat in stats.items()
        if stat and stat[0] != "Z" and int(stat[_SID]) == session and int(stat[_STARTED]) >= started
    ]


def _stat(pid: int) -> list[str]:
    """The fields after the name; none when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
