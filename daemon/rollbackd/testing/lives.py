"""Processes that are killed at a chosen instant, alone or with all that they started: the tests' side of `boundary`."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

from rollbackd.system import boundary as boundaries

PATIENCE = timedelta(seconds=30)
"""How long anything here may take before it counts as hanging."""


def descendants(process: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        waiting += (more := children.get(waiting.pop(), []))
        found += more
    return found


def kill(*processes: int, descending: bool) -> None:
    """Kill processes at one instant, as the end of their control group does; if it says so with what they started."""
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: none sees another die, none starts one more
        victims = {*processes, *(child for process in processes for child in descendants(process) if descending)}
        for victim in sorted(victims):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, number)


def killed_at(n: int, life: Callable[[], Awaitable[object]], *, descending: bool) -> bool:
    """Run in a process of its own that is killed at its n-th boundary; False when it ended before.

    :raises AssertionError: it failed by itself.
    """
    child = os.fork()  # noqa: TID251  # a life to be killed; nothing but the test is in it
    if child == 0:
        _die_at(n, life, descending=descending)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in {0, -signal.SIGKILL}:
        raise AssertionError(f"the life that was to be killed at boundary {n} failed by itself; see its output")
    return status != 0


def _die_at(n: int, life: Callable[[], Awaitable[object]], *, descending: bool) -> None:
    passed = count(1)

    def hook(_name: str) -> None:
        if next(passed) == n:
            _kill_myself(descending=descending)

    async def live() -> None:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await life()

    boundaries.hook = hook
    try:
        asyncio.run(live())
    except BaseException:  # noqa: BLE001  # the parent is told by the status; pytest must not run on in here
        import traceback

        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def _kill_myself(*, descending: bool) -> None:
    for victim in (*(descendants(os.getpid()) if descending else ()), os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


@contextlib.contextmanager
def starts() -> Iterator[list[str]]:
    """Notes each program that is started."""
    noted: list[str] = []
    before = boundaries.hook
    boundaries.hook = lambda name: noted.append(name) if name == "process.before" else None
    try:
        yield noted
    finally:
        boundaries.hook = before
