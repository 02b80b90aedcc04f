"""One thread owns the writing connection; whatever waits when it is free shares one transaction: group commit."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from rollbackd.facts import Record
from rollbackd.journal.batch import Answer, BatchResult, WriteRequest, write
from rollbackd.journal.contract import JournalUnavailable
from rollbackd.journal.database import Doubt, JournalConnection, JournalDatabase
from rollbackd.journal.reserve import Reserve
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock

_AGAIN = 1.0
"""Seconds, until it is asked again what became of a COMMIT."""


@dataclass(slots=True, eq=False)
class Errand:
    """Something else for the thread to do, outside of any transaction."""

    run: Callable[[], object]
    future: asyncio.Future[Any] = field(init=False)


class Writer:
    """Takes units from the event loop's thread and answers there; `moved` gets the facts of a commit before that."""

    def __init__(
        self,
        database: JournalDatabase,
        clock: Clock,
        reserve: Reserve | None,
        moved: Callable[[Sequence[Record]], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._reserve = reserve
        self._moved = moved
        self._log = log.get("journal")
        self._loop = asyncio.get_running_loop()
        self._trouble = ""
        self._gathered: list[WriteRequest | Errand] = []
        """What the present turn of the loop wants to be done."""
        self._queue: SimpleQueue[list[WriteRequest | Errand] | None] = SimpleQueue()
        self._closed = False
        self._ended = ""
        """Why the thread is gone, when it is and was not to be."""
        self._waiting: set[asyncio.Future[Any]] = set()
        """Those who wait for an answer, known to the loop's thread alone."""
        # A daemon thread: a process that ends without `close` is not kept alive; what was answered is on disk.
        self._thread = Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    # -- on the event loop's thread
    async def submit(self, work: WriteRequest | Errand) -> Any:
        """Wait for the answer. A caller that is cancelled leaves its unit in the queue; nobody hears its answer.

        :raises JournalUnavailable: nothing of it was kept.
        """
        if self._closed:
            raise JournalUnavailable(f"{self._database.name}: the journal is closed; rollbackd is stopping")
        if self._ended:
            raise self._no_more()
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        work.future = self._loop.create_future()
        self._gathered.append(work)
        self._waiting.add(work.future)
        work.future.add_done_callback(self._waiting.discard)
        return await work.future

    def _no_more(self) -> JournalUnavailable:
        return JournalUnavailable(
            f"{self._database.name}: the thread that writes it has ended ({self._ended}); rollbackd ends, to be "
            "started anew"
        )

    def _give_up(self) -> None:
        """Nobody answers any more, not even what the thread had in its hands."""
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(self._no_more())

    def _hand_over(self) -> None:
        """All that this turn of the loop brought at once: one commit for it, and one wake-up of the thread."""
        work, self._gathered = self._gathered, []
        self._queue.put(work)

    async def close(self) -> None:
        """Write what waits, then end the thread."""
        self._closed = True
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- on the writer's thread
    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001  # the thread's root: whatever ends it, its callers must hear
            self._ended = f"{type(error).__name__}: {error}"
            self._log.critical("the journal's writer has ended", error=self._ended)
            with suppress(RuntimeError):  # as in `_answer`
                self._loop.call_soon_threadsafe(self._give_up)
        finally:
            self._database.disconnect()

    def _serve(self) -> None:
        going = True
        while going:
            work, going = self._take()
            units = [item for item in work if isinstance(item, WriteRequest)]
            if units:
                self._answer(units, self._settle(units))
            for errand in work:
                if isinstance(errand, Errand):
                    self._answer([errand], [self._attempt(errand.run)])

    def _take(self) -> tuple[list[WriteRequest | Errand], bool]:
        """All that waits, at least one; and whether more may come."""
        work: list[WriteRequest | Errand] = []
        item = self._queue.get()
        with suppress(Empty):
            while item is not None:
                work += item
                item = self._queue.get_nowait()
            return work, False
        return work, True

    def _answer(self, work: Sequence[WriteRequest | Errand], answers: Sequence[Answer]) -> None:
        """One wake-up of the loop for the whole batch."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more, and what was written stays
            self._loop.call_soon_threadsafe(_deliver, [item.future for item in work], answers)

    def _settle(self, units: Sequence[WriteRequest]) -> list[Answer]:
        """An answer for each unit; after the boundary that says they are on disk."""
        answers = self._guarded(units)
        missed = self._attempt(lambda: _mark("journal.committed", answers))
        return answers if missed is None else [missed for _ in units]

    def _guarded(self, units: Sequence[WriteRequest]) -> list[Answer]:
        """Nothing leaves this function but answers: the thread must outlive whatever one caller brings."""
        try:
            return self._admit(units)
        except JournalUnavailable as trouble:
            self._note(str(trouble))
            return [_copy(trouble) for _ in units]
        except Exception as error:  # noqa: BLE001  # the thread serves everybody; the caller gets the exception
            return [error for _ in units]

    def _admit(self, units: Sequence[WriteRequest]) -> list[Answer]:
        """With the reserve gone, only what is urgent may use the room that it left."""
        if self._reserve is None or self._reserve.held or self._reserve.restore():
            return self._try(units)
        refusal = JournalUnavailable(
            f"{self._database.name}: its disk is nearly full, and the rest is kept so that a running rollback can "
            f"finish; free at least {2 * self._reserve.size // 2**20 + 1} MiB",
            full=True,
        )
        return self._urgent_only(units, refusal)

    def _urgent_only(self, units: Sequence[WriteRequest], refusal: JournalUnavailable) -> list[Answer]:
        urgent = [unit for unit in units if unit.urgent]
        if not urgent:
            raise refusal
        answers = dict(zip(map(id, urgent), self._try(urgent), strict=True))
        return [answers[id(unit)] if unit.urgent else _copy(refusal) for unit in units]

    def _try(self, units: Sequence[WriteRequest]) -> list[Answer]:
        try:
            return self._transact(units)
        except JournalUnavailable as trouble:
            # `release` says True once, and then the units are all urgent: no way round twice.
            if trouble.full and any(unit.urgent for unit in units) and self._reserve and self._reserve.release():
                self._log.warning("the journal's disk is full; the reserve was freed", reason=str(trouble))
                return self._urgent_only(units, trouble)
            if type(trouble) is JournalUnavailable or len(units) == 1:
                raise
        except Exception:
            if len(units) == 1:
                raise
        # One unit holds something that cannot be stored, or its stream is damaged: the others must not pay for it.
        return [answer for unit in units for answer in self._guarded([unit])]

    def _transact(self, units: Sequence[WriteRequest]) -> list[Answer]:
        written: BatchResult | None = None
        while written is None:
            try:
                written = self._database.write(partial(self._write, units))
            except Doubt as doubt:
                written = doubt.answer if self._settled(doubt) else None
        self._note("")
        if written.records:
            with suppress(RuntimeError):  # as in `_answer`
                self._loop.call_soon_threadsafe(self._moved, written.records)
        return written.answers

    def _write(self, units: Sequence[WriteRequest], connection: JournalConnection) -> BatchResult:
        written = write(connection, units, self._clock.now())
        _mark("journal.before", written.answers)
        return written

    def _settled(self, doubt: Doubt) -> bool:
        """Whether it was written. Its callers wait until that is known; who comes meanwhile hears that it is not.

        :raises JournalUnavailable: we stop, and nobody knows; the next start reads what is so.
        """
        self._log.warning("what became of a COMMIT is not known; asking until it is", reason=str(doubt))
        while True:
            try:
                return self._database.settle(doubt)
            except Exception as error:  # noqa: BLE001  # whatever it is, nothing is written again before this is known
                trouble = JournalUnavailable(str(error))
            self._note(str(trouble))
            if not self._refuse_who_comes(trouble):
                raise JournalUnavailable(f"{trouble}; whether it was written the next start reads") from doubt

    def _refuse_who_comes(self, trouble: JournalUnavailable) -> bool:
        """For a moment; False when we are to stop."""
        try:
            work = self._queue.get(timeout=_AGAIN)
        except Empty:
            return True
        if work is None:
            self._queue.put(None)
            return False
        for item in work:
            self._answer([item], [self._attempt(item.run) if isinstance(item, Errand) else _copy(trouble)])
        return True

    def _note(self, trouble: str) -> None:
        """Into the log once, not with each unit of a storm; empty: it works."""
        if trouble and trouble != self._trouble:
            self._log.error("journal unavailable", reason=trouble)
        elif self._trouble and not trouble:
            self._log.info("journal works again")
        self._trouble = trouble

    def _attempt(self, run: Callable[[], object]) -> Answer:
        try:
            return run()
        except Exception as error:  # noqa: BLE001  # as in `_settle`
            return error


def _mark(name: str, answers: Sequence[Answer]) -> None:
    """The boundary, once for each unit that is written."""
    for answer in answers:
        if not isinstance(answer, BaseException):
            boundary(name)


def _copy(trouble: JournalUnavailable) -> JournalUnavailable:
    """One exception object for each caller: they are raised in different tasks."""
    return type(trouble)(*trouble.args, full=trouble.full)


def _deliver(futures: Sequence[asyncio.Future[Any]], answers: Sequence[Answer]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():  # its caller was cancelled
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
