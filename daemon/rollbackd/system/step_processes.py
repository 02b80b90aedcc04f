"""Which processes are those of steps: what this daemon started, and all that these started.

A step runs the code of a release, as the daemon's user. What tells it from a person: as a unit of systemd the daemon
has a control group of its own, which no process leaves by itself. Elsewhere a process is followed up to its ancestors.
Orphans do not get away: they become children of the daemon, or of process 1 where that is ours too. When the daemon
died they have neither group nor ancestor any more, so all that a daemon starts has a mark that outlives it: a hard
limit, which is inherited by whatever a process becomes or starts, and which only root can raise again.
"""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_FILE_LOCKS = 10
"""RLIMIT_LOCKS of getrlimit(2), which Linux has not looked at since 2.4: as a mark it limits nothing."""
_MARK = 4096
"""Nobody but us sets that limit; who lowers it further is still known by it."""
_started: set[int] = set()
"""The programs of this process that run: each leads a session of its own."""
_root: int | None = None
"""Whose descendants are those of steps; None: nobody's, since this process is no daemon."""


def keep_orphans(*, in_container: bool) -> None:
    """From now on this process is a daemon, which keeps what its programs leave behind, and marks them.

    :param in_container: process 1 is ours, and does so.
    """
    global _root  # noqa: PLW0603  # a process is one daemon, and only once
    _root = 1 if in_container else os.getpid()
    hard = resource.getrlimit(_FILE_LOCKS)[1]
    least = _MARK if hard == resource.RLIM_INFINITY else min(hard, _MARK)
    resource.setrlimit(_FILE_LOCKS, (least, least))
    if not in_container:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def started(pid: int) -> None:
    """A program was started."""
    _started.add(pid)


def ended(pid: int) -> None:
    """It was waited for. What it left behind, and has ended too, is taken leave of."""
    _started.discard(pid)
    if _root != os.getpid():
        return
    with suppress(OSError, ValueError):
        children = (_PROC / "self" / "task" / str(os.getpid()) / "children").read_text().split()
        for child in map(int, children):
            if child not in _started and _status(child)[0] == "Z":
                os.waitpid(child, os.WNOHANG)


def is_of_a_step(pid: int, *, ours: bool) -> bool:
    """Whether a process is one of a step, as far as anybody can tell.

    :param ours: it runs as the daemon's own user. One of those that cannot be looked at has ended already, and left
        somebody else to speak for it, which no person does.
    """
    if _root is None or pid == os.getpid():
        return False
    with suppress(OSError):
        if os.getsid(pid) in _started:  # seen also of those whose files in /proc are hidden from us
            return True
    try:
        if _is_marked(pid):
            return True
        own = _own_group()
        return f"{_group(str(pid))}/".startswith(f"{own}/") if own else _descends(pid)
    except (OSError, ValueError):
        return ours


def _is_marked(pid: int) -> bool:
    """Whether this daemon, or one before it, started the process or an ancestor. :raises ValueError: it has ended."""
    lines = (_PROC / str(pid) / "limits").read_text().splitlines()
    (hard,) = (line.split()[4] for line in lines if line.startswith("Max file locks "))
    return hard != "unlimited" and int(hard) <= _MARK


def _descends(pid: int) -> bool:
    while pid > 1:
        pid = int(_status(pid)[1])
        if pid == _root:
            return True
    return False


def _own_group() -> str:
    """The control group of the unit that this daemon is the main process of; empty where it is none's."""
    return _group("self").rstrip("/") if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()) else ""


def _group(process: str) -> str:
    lines = (_PROC / process / "cgroup").read_text().splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")


def _status(pid: int) -> list[str]:
    """State, parent, … of proc(5)'s `stat`."""
    return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
