"""Blocking work on threads of its own: one that hangs holds up no other work, and not the end of the daemon."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from rollbackd.adapter import AdapterError

STOPPED_WITHIN = timedelta(seconds=10)
"""How long work that nobody waits for any more may take to notice; between two blocks of a file it looks."""

T = TypeVar("T")
Stop = Callable[[], None]
"""Called by the work now and then; raises when it is to end."""


class Stopped(Exception):  # noqa: N818  # an order, not an error
    """Nobody waits for the result any more."""


class Jobs:
    """The blocking work of one layer."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stuck: set[threading.Thread] = set()

    async def run(self, work: Callable[[Stop], T]) -> T:
        """The result of work on a thread. On cancellation it is told, and waited for unless the file system hangs.

        :raises AdapterError: work that was given up earlier still has not ended; the system refused something.
        """
        if any(thread.is_alive() for thread in self._stuck):
            raise AdapterError(f"{self._name}: a file operation hangs; see to its file system", permanent=False)
        self._stuck.clear()
        told = threading.Event()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def stop() -> None:
            if told.is_set():
                raise Stopped

        def body() -> None:
            tell: Callable[[], None]
            try:
                tell = partial(answer.set_result, work(stop))
            except BaseException as failure:  # noqa: BLE001  # the thread's root: whatever it was, the waiting one hears it
                tell = partial(answer.set_exception, failure)
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever waited
                loop.call_soon_threadsafe(tell)

        thread = threading.Thread(target=body, name=f"files {self._name}", daemon=True)
        thread.start()
        try:
            return await asyncio.shield(answer)
        except OSError as error:  # whatever the work did not expect of the system
            raise AdapterError(f"{self._name}: {error}; look at its file system", permanent=False) from error
        except asyncio.CancelledError:
            told.set()
            self._stuck.add(thread)
            await asyncio.wait({answer}, timeout=STOPPED_WITHIN.total_seconds())
            if answer.done() and not answer.cancelled():
                answer.exception()  # it is known, and nobody asks for it any more
            raise
