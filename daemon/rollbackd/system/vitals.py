"""Whether every lasting part of the daemon is alive: root tasks, threads, the journal's writer.

Threads are asked something each second: one that waits for work hears only then that it is to end, and one that hangs
does not answer. A part that fails is started again by whoever runs it, and is named here until then. One that has died
cannot be: the process is to end, with the reason, so that the service manager starts it anew.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from datetime import timedelta

from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

_LASTING = ("journal-", "asyncio_", "unfolding_")
"""What the names of threads begin with that live as long as we do: the journal's, those of file work and of bodies."""
_LOOK = timedelta(seconds=1)
_HANGS = 3.0
"""Seconds without an answer."""
_STIRRED = 0.002
"""Seconds that each thread of a pool is kept, so that the others have the other questions."""


Pulse = Callable[[], Awaitable[object]]


async def stir(pool: Executor | None, threads: int) -> None:
    """Have each thread of a pool do next to nothing."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(pool, threading.Event().wait, _STIRRED) for _ in range(threads)))


class PartDied(Exception):  # noqa: N818  # a reason to end, not an error to be handled
    """Something without which the daemon would only seem to work has ended."""


class Vitals:
    """What failed, and what has died. `on_death` is called with the first reason, once."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}
        self._seen: set[threading.Thread] = set()
        self._pulses: dict[str, Pulse] = {}
        self._asked: dict[str, tuple[asyncio.Future[object], float]] = {}
        """The last question to each, and when it was asked, by the loop's time."""
        self.hanging = ""
        """Which part does not answer, and since when; empty while all do."""
        self.death = ""
        """Why the daemon is to end; empty while it is well."""
        self.journal_died = False
        self.on_death: Callable[[str], None] = lambda _: None

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each part that does not work now."""
        dead = (f"{self.death}; rollbackd ends, to be started anew",) if self.death else ()
        failing = (f"{name} failed and is started again: {why}" for name, why in self._failing.items())
        return (*dead, *failing, *filter(None, (self.hanging,)))

    def fails(self, part: str, why: str) -> None:
        """It does not work until `works` is said of it."""
        self._failing[part] = why

    def works(self, part: str) -> None:
        self._failing.pop(part, None)

    def died(self, part: str, why: str) -> None:
        """It has ended, and was not to."""
        if not self.death:
            self.death = f"{part} {why}"
            self.on_death(self.death)

    def watch_task(self, task: asyncio.Task[object], *, ends: bool = False) -> None:
        """Notice when a task is over, however that came; `ends`: it may come to its end by itself."""
        task.add_done_callback(lambda over: self._task_over(over, ends=ends))

    def _task_over(self, task: asyncio.Task[object], *, ends: bool) -> None:
        if task.cancelled():
            self.died(f"the task {task.get_name()}", "was cancelled")
        elif (error := task.exception()) is not None:
            self.died(f"the task {task.get_name()}", f"ended: {type(error).__name__}: {error}")
        elif not ends:
            self.died(f"the task {task.get_name()}", "came to an end")

    def watch_pulse(self, part: str, ask: Pulse) -> None:
        """Ask this each second; who does not answer hangs."""
        self._pulses[part] = ask

    async def watch_threads(self, clock: Clock) -> None:
        """Notice every second which threads that were there have ended or hang, for ever."""
        try:
            while True:
                self.look_at_threads()
                self._feel_pulses()
                await clock.sleep(_LOOK)
        finally:
            await end(question for question, _ in self._asked.values())

    def _feel_pulses(self) -> None:
        now, hanging = asyncio.get_running_loop().time(), []
        for part, ask in self._pulses.items():
            question, since = self._asked.get(part, (None, now))
            if question is None or question.done():
                if question is not None and not question.cancelled():
                    question.exception()  # that it cannot be answered is known elsewhere
                self._asked[part] = (asyncio.ensure_future(ask()), now)
            elif now - since >= _HANGS:
                hanging.append(f"{part} did not answer for {round(now - since)}s")
        self.hanging = "; ".join(hanging)

    def look_at_threads(self) -> None:
        self._seen.update(one for one in threading.enumerate() if one.name.startswith(_LASTING))
        for thread in self._seen:
            if not thread.is_alive():
                self.journal_died = self.journal_died or thread.name.startswith("journal-")
                self.died(f"the thread {thread.name}", "has ended")
