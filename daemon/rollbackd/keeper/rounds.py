"""The calendar's runs: take, verify, send elsewhere, drop old ones; restore into a scratch place now and then.

None goes on while an incident acts on its service, or while a person orders something of its layer: it is stopped, and
gone on with later. What a crash cut off is gone on with at the next start.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial

from rollbackd import facts, log
from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.clock import Clock
from rollbackd.config.schedules import SnapshotSchedule
from rollbackd.cron import Times
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.keeper.past import Run
from rollbackd.keeper.shelf import GOOD, SCHEDULE, Shelf
from rollbackd.model import FLEET
from rollbackd.policy.target import candidates
from rollbackd.tasks import end
from rollbackd.timetable import Planned
from rollbackd.units import format_duration

BACKUP_FAILED = "backup_failed"
KEEP, TEST = "keep", "test"
WHEN_GOOD = "when good"
"""What the entry `when: good` is called in facts."""
_ANEW = timedelta(hours=1)
"""Before what became good, and could not be kept, is tried again."""
_TOGETHER = 2
"""Layers that are read or written at once, of all services together."""
_SENT_TOGETHER = 8
"""Copies that are under way at once. They wait for others more than they work, and one that hangs stops no snapshot."""
_GLANCE = timedelta(seconds=1)
_DISK = timedelta(seconds=30)
"""Before a run that could not be written down goes on."""
_TRIES = (timedelta(seconds=10), timedelta(minutes=1))
"""Before what may have been passing is tried again."""


class Rounds:
    """Runs on the calendar."""

    def __init__(self, shelves: Mapping[tuple[str, str], Shelf], clock: Clock) -> None:
        self._shelves = shelves
        self._clock = clock
        self._few = asyncio.Semaphore(_TOGETHER)
        self._sending = asyncio.Semaphore(_SENT_TOGETHER)
        self._entries: dict[str, tuple[Shelf, SnapshotSchedule, str]] = {}
        """By its name on the calendar: the layer, what the configuration says, and what is done."""
        self._cut_off: list[tuple[Shelf, Run]] = []
        self._resumed: set[asyncio.Task[None]] = set()
        self._log = log.get("keeper")

    def add(self, shelf: Shelf, entry: SnapshotSchedule) -> None:
        """An entry of the configuration, for one of the layers that it is for."""
        name = calendar_name(entry)
        self._entries[f"{shelf.name} {name}"] = (shelf, entry, KEEP)
        shelf.schedules += (name,)
        if entry.restore_test is not None:
            self._entries[f"{shelf.name} {name} {TEST}"] = (shelf, entry, TEST)
            shelf.schedules += (f"{name} {TEST}",)

    def planned(self) -> list[Planned]:
        """All of it, as the timetable takes it."""
        return [
            Planned(
                f"snapshot {name}",
                _times(entry, what),
                partial(_last, shelf, entry, what),
                partial(self.run, name),
                partial(self._to_keep, shelf),
            )
            for name, (shelf, entry, what) in self._entries.items()
        ]

    def _to_keep(self, shelf: Shelf) -> str:
        """The release that runs, when its state is good and it was not kept for that yet; else empty.

        When that failed, or something else was there by then, it is tried again after an hour.
        """
        ledger, past = shelf.ledger, shelf.past
        state = ledger.present
        if state is None or state.key not in ledger.good or ledger.drill or _disturbed(shelf):
            return ""
        release = state.releases.get(shelf.layer)
        if release is None or past.kept.get(WHEN_GOOD) == release.id:
            return ""
        last = past.scheduled.get(WHEN_GOOD)
        tried = last is not None and last.fact.release == release.id and self._clock.now() - last.at < _ANEW
        return "" if tried else release.id

    def next(self, shelf: Shelf) -> datetime | None:
        """When the calendar has the layer's next snapshot; None: never."""
        own = [entry for each, entry, what in self._entries.values() if each is shelf and what == KEEP]
        now = self._clock.now()
        timed = [(entry.times, _last(shelf, entry, KEEP)) for entry in own]
        return min((times.after_last(last, now, now) for times, last in timed if times is not None), default=None)

    # -- one run --------------------------------------------------------------------------------
    async def run(self, name: str, run: Run | None = None) -> None:
        """One run of an entry, or what is left of it; comes back when it is written down how it ended."""
        shelf, entry, what = self._entries[name]
        while True:
            while _disturbed(shelf):
                await self._clock.sleep(_GLANCE)
            try:
                async with shelf.for_calendar():
                    if _disturbed(shelf):
                        continue
                    run = run or await self._begin(shelf, entry, what)
                    if run is None:
                        return
                    if await self._unless_disturbed(shelf, entry, run):
                        return
            except JournalUnavailable as error:
                self._log.error("a run waits for the journal", layer=shelf.name, error=str(error))
                await self._clock.sleep(_DISK)

    async def _begin(self, shelf: Shelf, entry: SnapshotSchedule, what: str) -> Run | None:
        """None: what was good when it was to begin is so no more. :raises JournalUnavailable:"""
        release = ""
        if _times(entry, what) is None and not (release := self._to_keep(shelf)):
            return None
        return await shelf.begin(what, schedule=_calendar_name_of(entry, what), release=release)

    async def _unless_disturbed(self, shelf: Shelf, entry: SnapshotSchedule, run: Run) -> bool:
        """Whether it came to its end; else it was stopped, and makes way."""
        work = asyncio.create_task(self._do(shelf, entry, run))
        try:
            while not work.done() and not _disturbed(shelf):
                glance = asyncio.ensure_future(self._clock.sleep(_GLANCE))
                await asyncio.wait({work, glance}, return_when=asyncio.FIRST_COMPLETED)
                glance.cancel()
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if work.cancelled():
            self._log.info("makes way, and is gone on with later", layer=shelf.name, run=run.fact.run)
            return False
        work.result()
        return True

    async def _do(self, shelf: Shelf, entry: SnapshotSchedule, run: Run) -> None:
        dropped: tuple[str, ...] = ()
        for wait in (*_TRIES, None):
            try:
                problems, dropped = await (self._keep if run.fact.what == KEEP else self._test)(shelf, entry, run)
            except AdapterError as error:
                problems = [str(error)]
                if wait is not None and not error.permanent:
                    self._log.warning("a snapshot failed; trying again", layer=shelf.name, error=str(error))
                    await self._clock.sleep(wait)
                    continue
            break
        await self._end(shelf, run, tuple(problems), dropped)

    async def _keep(self, shelf: Shelf, entry: SnapshotSchedule, run: Run) -> tuple[list[str], tuple[str, ...]]:
        if run.fact.release and await shelf.present() != run.fact.release:
            return [], ()
        async with self._few:
            one = await shelf.take(run, GOOD if run.fact.release else SCHEDULE)
            problems = await shelf.verify(one, run=run.fact.run) if entry.verify else []
        if problems:  # what was taken before is all there is, so nothing of it is dropped
            return problems, ()
        place = shelf.elsewhere.get(calendar_name(entry))
        if place is not None:
            async with self._sending:
                await shelf.send(one, place, run)
        async with self._few:
            return [], await shelf.prune(entry.keep)

    async def _test(self, shelf: Shelf, _entry: SnapshotSchedule, run: Run) -> tuple[list[str], tuple[str, ...]]:
        problems: list[str] = []
        async with self._few:
            found = await self._to_test(shelf)
            for one in found:
                problems += await shelf.verify(one, run=run.fact.run, rehearse=True)
        return problems or ([] if found else ["there is no snapshot that could be restored"]), ()

    async def _to_test(self, shelf: Shelf) -> list[Snapshot]:
        """The newest one, and the one that a rollback would go to."""
        there = [one for one in await shelf.snapshots() if one.restorable]
        goals = [each.state.releases.get(shelf.layer) for each in candidates(shelf.ledger, shelf.ledger.present)[:1]]
        wanted = [one for one in there for goal in goals if goal is not None and one.release == goal.id][:1]
        return [*there[:1], *(one for one in wanted if one not in there[:1])]

    async def _end(self, shelf: Shelf, run: Run, problems: tuple[str, ...], dropped: tuple[str, ...]) -> None:
        """Written down; people are told when something is wrong that was not before, and when all is well again."""
        before = shelf.past.problems(shelf.schedules)
        others = [name for name in shelf.schedules if name != run.fact.schedule]
        after = tuple(dict.fromkeys((*problems, *shelf.past.problems(others))))
        more: tuple[Entry, ...] = ()
        if problems and after != before:
            more = (notice(shelf, f"snapshots of {shelf.name}: {'; '.join(problems)}"),)
        elif before and not after:
            more = (notice(shelf, f"snapshots of {shelf.name} are well again", over=True),)
        await shelf.note(run.actor, facts.SnapshotEnded(shelf.layer, run.fact.run, problems, dropped), more=more)
        self._log.info("snapshots", layer=shelf.name, what=run.fact.what, problems=problems, dropped=dropped)

    # -- after a crash --------------------------------------------------------------------------
    def note_cut_off(self) -> None:
        """Before anything is begun: what is open then is of an earlier life."""
        self._cut_off = [(shelf, run) for shelf in self._shelves.values() for run in shelf.past.open.values()]

    async def resume(self) -> None:
        """Go on with what was cut off; what nothing asks for any more is ended. :raises JournalUnavailable:"""
        while self._cut_off:
            shelf, run = self._cut_off[0]
            name = f"{shelf.name} {run.fact.schedule}"
            if run.fact.what in {KEEP, TEST} and run.fact.schedule and name in self._entries:
                task = asyncio.create_task(self._gone_on_with(name, run), name=f"snapshot {name}")
                self._resumed.add(task)
                task.add_done_callback(self._resumed.discard)
            elif run.fact.what in {KEEP, TEST}:
                why = "the calendar has it no more" if run.fact.schedule else "who ordered it heard so"
                cut_off = facts.SnapshotEnded(shelf.layer, run.fact.run, (f"it was cut off, and {why}",))
                await shelf.note(run.actor, cut_off)
            del self._cut_off[0]

    async def _gone_on_with(self, name: str, run: Run) -> None:
        try:
            await self.run(name, run)
        except Exception:  # noqa: BLE001  # it stays open, and the next start goes on with it
            self._log.exception("what was cut off could not be gone on with", entry=name)

    async def stop(self) -> None:
        """End what `resume` began; the next start goes on with it."""
        await end(self._resumed)


def calendar_name(entry: SnapshotSchedule) -> str:
    """What an entry is called in facts; another time makes it another one."""
    if entry.when is not None:
        return WHEN_GOOD
    return entry.cron or f"every {format_duration(entry.every or timedelta())}"


def _calendar_name_of(entry: SnapshotSchedule, what: str) -> str:
    return f"{calendar_name(entry)} {TEST}" if what == TEST else calendar_name(entry)


def _times(entry: SnapshotSchedule, what: str) -> Times | None:
    return Times(cron=entry.restore_test or "", zone=entry.zone) if what == TEST else entry.times


def _last(shelf: Shelf, entry: SnapshotSchedule, what: str) -> datetime | None:
    run = shelf.past.scheduled.get(_calendar_name_of(entry, what))
    return run.at if run is not None else None


def _disturbed(shelf: Shelf) -> bool:
    return shelf.ordered > 0 or shelf.ledger.acting is not None


def notice(shelf: Shelf, text: str, *, over: bool = False) -> Entry:
    """What people hear of a layer's snapshots."""
    fact = facts.Notice(BACKUP_FAILED, text, shelf.service, over=over, details={"subject": shelf.layer})
    return Entry(FLEET, fact)
