"""An end for a test that goes on hanging after its time limit: where each thread hangs is printed, and the process ends.

A limit that is over raises in the test; what waits for ever while that is cleaned up would hold the whole run.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Generator

import pytest

_CLEAN_UP = 60.0
"""Seconds after its limit in which a test must have cleaned up."""
_EXIT = 70


class Hanging:
    """A plugin that watches each test from a thread of its own."""

    def __init__(self, config: pytest.Config) -> None:
        self._limit = float(config.getoption("timeout") or 0)
        self._errors = os.dup(2)  # capturing puts something else in its place
        self._now: tuple[str, float] | None = None
        """The test that runs, and when it must be over."""
        threading.Thread(target=self._watch, name="hanging", daemon=True).start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        marker = item.get_closest_marker("timeout")
        limit = float(marker.args[0]) if marker is not None and marker.args else self._limit
        self._now = (item.nodeid, time.monotonic() + limit + _CLEAN_UP) if limit else None
        try:
            return (yield)
        finally:
            self._now = None

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            now = self._now
            if now is not None and time.monotonic() > now[1]:
                os.write(self._errors, f"\n{now[0]} hangs in its own end; this process is given up:\n".encode())
                faulthandler.dump_traceback(self._errors, all_threads=True)
                os._exit(_EXIT)
