"""Measures each turn of a daemon's event loop, in processor time of its thread: on a busy machine nothing else counts.

Python imports this by its name at a start, since the tests put this directory into PYTHONPATH; it does nothing but in
a daemon. A turn above the bound is written, with the stack that held it, into a file of the directory that
ROLLBACKD_PROBE names. What is built before the daemon serves is no turn that anybody waits for. With a bound of its own
in ROLLBACKD_PROBE_BOUND a turn that waits counts, too: its whole time, less what it waited for events or a processor.
"""

import os
import sys
from typing import Any

_OWN_BOUND = os.environ.get("ROLLBACKD_PROBE_BOUND", "")
_BOUND = float(_OWN_BOUND or 0.25)
"""Seconds; no input may hold the loop for longer."""
_LOOK = 0.02


def _is_daemon(argv: list[str]) -> bool:
    launched = "tests.e2e.launch" in argv
    return launched or ("run" in argv and any(word.rpartition("/")[2] == "rollbackd" for word in argv))


class _Probe:
    def __init__(self, directory: str) -> None:
        import asyncio
        import threading
        import time

        self._directory = directory
        self._time = time
        loop_type: Any = asyncio.BaseEventLoop
        self._run_once = loop_type._run_once
        self._main = threading.main_thread().ident or 0
        self._serves = False
        self._patched = False
        self._began = 0.0
        """When the present turn began, by its thread's own time; 0 between two turns."""
        self._stack = ""
        self._awaited = 0.0
        """How long this turn waited for events."""
        loop_type._run_once = lambda loop: self._turn(loop)  # noqa: PLW0108  # a function, which is given the loop
        threading.Thread(target=self._look, name="probe", daemon=True).start()

    def _turn(self, loop: Any) -> None:
        if not self._serves:
            self._await_service()
            self._run_once(loop)
            return
        self._stack, self._began, self._awaited = "", self._time.thread_time(), 0.0
        begun = self._time.monotonic() - self._without_processor()
        try:
            self._run_once(loop)
        finally:
            took, self._began = self._time.thread_time() - self._began, 0.0
            if _OWN_BOUND:
                held = self._time.monotonic() - self._without_processor() - begun - self._awaited
                took = max(took, held)
            if took > _BOUND:
                self._report(took)

    def _without_processor(self) -> float:
        """Seconds that this thread wanted to run and a busy machine did not let it."""
        if not _OWN_BOUND:
            return 0.0
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9

    def _note_awaiting(self, selector: Any) -> None:
        select = selector.select

        def also(timeout: float | None = None) -> Any:
            begun = self._time.monotonic() - self._without_processor()
            try:
                return select(timeout)
            finally:
                self._awaited += self._time.monotonic() - self._without_processor() - begun

        selector.select = also

    def _await_service(self) -> None:
        """It serves once it looks at its own lag."""
        module = sys.modules.get("rollbackd.system.loop_lag")
        if module is None or self._patched:
            return
        watch, self._patched = module.LoopLag.watch, True

        def also(lag: Any) -> None:
            self._serves = True
            if _OWN_BOUND:
                loop: Any = sys.modules["asyncio"].get_running_loop()
                self._note_awaiting(loop._selector)
            watch(lag)

        module.LoopLag.watch = also

    def _look(self) -> None:
        """On a thread of its own: keep the newest stack of a turn that takes long."""
        import traceback

        clock = self._time.pthread_getcpuclockid(self._main)
        while True:
            self._time.sleep(_LOOK)
            if self._began and self._time.clock_gettime(clock) - self._began > _BOUND / 2:
                stack = traceback.format_stack(sys._current_frames().get(self._main))
                self._stack = "".join(stack[-12:])

    def _report(self, took: float) -> None:
        path = os.path.join(self._directory, f"{os.getpid()}-{self._time.monotonic_ns()}")
        with open(path, "w") as file:
            what = "" if _OWN_BOUND else " of the processor"
            file.write(f"{' '.join(sys.orig_argv)}\none turn of the event loop took {took:.3f}s{what}:\n")
            file.write(self._stack or "it was over before anybody looked\n")


if (_directory := os.environ.get("ROLLBACKD_PROBE")) and _is_daemon(sys.orig_argv):
    _Probe(_directory)
