"""Which workers a running nginx has, as the kernel shows them. Read only.

https://nginx.org/en/docs/control.html: after a reload the master starts new workers and asks the old ones to finish.
"""

import contextlib
import os
from pathlib import Path

from rollbackd.adapter import AdapterError

_PROC = Path("/proc")


def master(pid: Path) -> int:
    """The first process of nginx. :raises AdapterError: not permanent; it does not run, or cannot be known."""
    try:
        number = _number(pid)
        os.kill(number, 0)  # only asks
    except PermissionError:
        return _readable(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError, OverflowError):
        raise AdapterError(f"nginx does not run ({pid}); start it, or correct `pid`", permanent=False) from None
    except OSError as error:
        raise AdapterError(f"{pid}: {error.strerror}; correct `pid`", permanent=False) from error
    return number


def _readable(pid: Path) -> int:
    """The number in the pid file of an nginx that runs as somebody else."""
    try:
        return _number(pid)
    except (OSError, ValueError):
        raise AdapterError(f"{pid}: rollbackd may not read it; open it, or give `confirm`", permanent=False) from None


def _number(pid: Path) -> int:
    """:raises ValueError: there is no number of a process in it."""
    number = int(pid.read_text())
    if number <= 0:  # for `kill` these are groups of processes
        raise ValueError(number)
    return number


def signalled(pid: Path) -> bool:
    """Whether we may send it a signal. :raises AdapterError: as `master`."""
    with contextlib.suppress(OSError):
        os.kill(master(pid), 0)
        return True
    return False


def workers(pid: Path) -> frozenset[int]:
    """The workers that take new connections, not those that finish old ones.

    :raises AdapterError: not permanent; nginx does not run, or its processes are hidden from us.
    """
    number = master(pid)
    if not (_PROC / str(number)).exists():
        raise AdapterError(
            f"process {number} of nginx is hidden from rollbackd, so a reload could not be seen; give `confirm`, or "
            "ProtectProc=default in a drop-in of rollbackd.service",
            permanent=False,
        )
    if b"master process" not in _title(_PROC / str(number)):  # a signal would reach an innocent
        text = f"nginx does not run: {pid} names process {number}, which is another program; start nginx"
        raise AdapterError(text, permanent=False)
    found = set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == number and _works(entry):
                found.add(int(entry.name))
    return frozenset(found)


def age(process: int) -> float:
    """Seconds since a process was started, to a fiftieth. :raises OSError: it has ended."""
    began = int((_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float((_PROC / "uptime").read_text().split()[0]) - began


def _title(entry: Path) -> bytes:
    """What a process calls itself; empty when it has ended."""
    with contextlib.suppress(OSError):
        return (entry / "cmdline").read_bytes()
    return b""


def _works(entry: Path) -> bool:
    title = _title(entry)
    return b"worker process" in title and b"shutting down" not in title
