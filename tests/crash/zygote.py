"""Starts daemons fast: a fork of `tests.forks`, and each daemon is a fork of this process that runs `rollbackd.app.run`.

One order a line on standard input, one answer a line on standard output, both JSON. At the end of the input every
daemon that still runs is killed. It never starts a thread: what is forked must not share any.
"""

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from rollbackd import app
from rollbackd.system import boundary
from rollbackd.system.clock import SystemClock


class SharedClock(SystemClock):
    """Runs faster, from one origin for all lives of a daemon: no life sees a time before the end of the last."""

    def __init__(self, origin: datetime, speed: float) -> None:
        super().__init__(speed)
        self._origin = origin

    def now(self) -> datetime:
        return self._origin + (datetime.now(UTC) - self._origin) * self._speed


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    while True:  # no other thread of ours gets any further either
        time.sleep(1)


def _at(number: int, of: str = "") -> Callable[[str], None]:
    """Dies at the `number`-th boundary, of those whose name begins so."""
    passed = count(1)

    def hook(name: str) -> None:
        if name.startswith(of) and next(passed) == number:
            _die()

    return hook


def _named(name: str) -> Callable[[str], None]:
    """Dies at the first boundary of that name."""

    def hook(reached: str) -> None:
        if reached == name:
            _die()

    return hook


def _recording(path: str) -> Callable[[str], None]:
    """Writes the names down."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def hook(name: str) -> None:
        os.write(fd, f"{name}\n".encode())

    return hook


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def hook(name: str) -> None:
        first(name)
        second(name)

    return hook


def _once(query: str, journal: str) -> Callable[[str], None]:
    """Dies as soon as a query says 1 of what is on disk, before anybody is told that it is."""

    def hook(name: str) -> None:
        if name == "journal.committed":
            with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
                (met,) = connection.execute(query).fetchone()
            if met:
                _die()

    return hook


def hook_of(order: dict[str, Any]) -> Callable[[str], None] | None:
    """What an order wants to happen at the boundaries."""
    match order:
        case {"at": number, "names": path}:
            return _both(_recording(path), _at(number))
        case {"at": number}:
            return _at(number, order.get("of", ""))
        case {"named": name}:
            return _named(name)
        case {"names": path}:
            return _recording(path)
        case {"once": query, "journal": journal}:
            return _once(query, journal)
    return None


def _live(order: dict[str, Any]) -> int:
    """One daemon's whole life, in the fork; its exit code."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(fd, place)
    os.setsid()
    boundary.hook = hook_of(order) or boundary.hook
    clock = None
    if "speed" in order:
        clock = SharedClock(datetime.fromisoformat(order["origin"]), order["speed"])
    return app.run(Path(order["config"]), clock)


def _start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = _live(order)
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


def main() -> None:
    """Until the input ends."""
    running = set[int]()
    for line in sys.stdin:
        order = json.loads(line)
        if "reap" in order:
            _, status = os.waitpid(order["reap"], 0)
            running.discard(order["reap"])
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = _start(order)
            running.add(pid)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
