"""Starts the real daemon on a clock of another kind: `python -m tests.e2e.launch --config FILE --speed 60 --shift FILE`.

The file given by `--shift` holds seconds that a test rewrites while the daemon runs: how far wall time is from the
system's. Less than before: somebody set the clock back. More: set forward, or the machine was suspended, since
monotonic time stands still then (https://man7.org/linux/man-pages/man2/clock_gettime.2.html).
"""

import argparse
import os
import signal
from datetime import datetime, timedelta
from pathlib import Path

from rollbackd.app import run
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


def main() -> int:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--shift", type=Path)
    parser.add_argument("--kill-at", help="the boundary at which it kills itself")
    given = parser.parse_args()

    def kill(name: str) -> None:
        if name == given.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    boundary.hook = kill
    return run(given.config, ShiftedClock(given.speed, given.shift))


if __name__ == "__main__":
    raise SystemExit(main())
