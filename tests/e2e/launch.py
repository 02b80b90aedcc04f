"""Starts the real daemon on a clock of another kind: `python -m tests.e2e.launch --config FILE --speed 60 --shift FILE`.

The file given by `--shift` holds seconds that a test rewrites while the daemon runs: how far wall time is from the
system's. Less than before: somebody set the clock back. More: set forward, or the machine was suspended, since
monotonic time stands still then (https://man7.org/linux/man-pages/man2/clock_gettime.2.html).
"""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from rollbackd.app import DaemonProcess, run
from rollbackd.system import boundary
from rollbackd.system.clock import SystemClock


class ShiftedClock(SystemClock):
    """A clock whose wall time somebody else sets; monotonic time goes on as it is."""

    def __init__(self, speed: float, shift: Path | None) -> None:
        super().__init__(speed)
        self._shift = shift

    def now(self) -> datetime:
        now = super().now()
        if self._shift is None:
            return now
        return now + timedelta(seconds=float(self._shift.read_text()))


def parts_can_be_killed(order: Path) -> None:
    """Let a test kill one part: it reads the names in `<order>.parts` and writes one of them into the file."""
    start, tasks = DaemonProcess._start_tasks, list[object]()

    def also(daemon: DaemonProcess) -> None:
        start(daemon)
        journal: Any = daemon._core.read_model.journal

        def hang() -> None:
            tasks.append(asyncio.ensure_future(journal._errand(lambda: time.sleep(8))))

        threading.Thread(target=_killer, args=(asyncio.get_running_loop(), order, hang), daemon=True).start()

    setattr(DaemonProcess, "_start_tasks", also)  # noqa: B010  # mypy minds the plain assignment


def is_held_up(how: str) -> None:
    """Hold the loop for half a second once it serves: `works` or `sleeps`."""
    start = DaemonProcess._start_tasks

    def works() -> None:
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            pass

    def sleeps() -> None:
        time.sleep(0.5)

    def also(daemon: DaemonProcess) -> None:
        start(daemon)
        asyncio.get_running_loop().call_later(0.5, {"works": works, "sleeps": sleeps}[how])

    setattr(DaemonProcess, "_start_tasks", also)  # noqa: B010  # mypy minds the plain assignment


def _works(one: threading.Thread) -> bool:
    """Whether a thread of a pool has work in hand."""
    frame = sys._current_frames().get(one.ident or 0)
    return frame is not None and frame.f_code.co_name != "_worker"


def _killer(loop: asyncio.AbstractEventLoop, order: Path, hang: Callable[[], object]) -> None:
    while True:
        tasks = {task.get_name(): task for task in asyncio.all_tasks(loop)}
        threads = {one.name: one for one in threading.enumerate() if one.name != "MainThread"}
        known = [*(f"task {name}" for name in tasks), *(f"thread {name}" for name in threads)]
        order.with_suffix(".new").write_text("\n".join(sorted(known)))
        order.with_suffix(".new").rename(order.with_suffix(".parts"))
        kind, _, name = order.read_text().partition(" ") if order.exists() else ("", "", "")
        if kind == "hang":
            loop.call_soon_threadsafe(hang)
            return
        if kind == "task":
            loop.call_soon_threadsafe(tasks[name].cancel)
            return
        if kind == "thread":
            while name.startswith("asyncio_") and _works(threads[name]):
                time.sleep(0.001)  # what ends its work would be told to whoever waits for that: here it ends the loop
            ident = ctypes.c_ulong(threads[name].ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
            while threads[name].is_alive():  # it hears of it with its next work
                time.sleep(0.01)
            order.with_suffix(".dead").touch()
            return
        time.sleep(0.1)


def signalling(number: str, place: str, armed: str) -> Callable[[str], None]:
    """Signals itself once, at the first boundary of that name or at so manieth of any, counted once a file is there."""
    passed = count(1)
    last: list[str] = []

    def hook(name: str) -> None:
        if not last and os.path.exists(armed) and place in {name, str(next(passed))}:
            last.append(name)
            os.kill(os.getpid(), int(number))

    return hook


def main() -> int:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--shift", type=Path)
    parser.add_argument("--kill-at", help="the boundary at which it kills itself")
    parser.add_argument(
        "--signal-at", nargs=3, help="a signal, a boundary or the how manieth, from when a file is there"
    )
    parser.add_argument("--kill-part", type=Path, help="where the name of a part is written that is to be killed")
    parser.add_argument("--hold-up", help="how the event loop is held up once")
    given = parser.parse_args()
    if given.hold_up:
        is_held_up(given.hold_up)
    if given.kill_part:
        parts_can_be_killed(given.kill_part)

    def kill(name: str) -> None:
        if name == given.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    boundary.hook = signalling(*given.signal_at) if given.signal_at else kill
    return run(given.config, ShiftedClock(given.speed, given.shift))


if __name__ == "__main__":
    raise SystemExit(main())
