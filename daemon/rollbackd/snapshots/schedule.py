"""The schedule of snapshots: take, verify, send elsewhere, drop old ones; restore into scratch now and then.

A run makes way for an incident that acts on its service, and for a person's order about its layer: it is stopped, and
goes on later. What a crash cut off goes on at the next start.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial

from rollbackd import facts
from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.calendar import CalendarEntry
from rollbackd.config.schedules import SnapshotSchedule
from rollbackd.journal import Entry, until_written
from rollbackd.model import FLEET
from rollbackd.snapshots.history import SnapshotRun
from rollbackd.snapshots.layer_snapshots import GOOD, SCHEDULE, LayerSnapshots
from rollbackd.syntax.cron import CronTimes
from rollbackd.syntax.units import format_duration
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

BACKUP_FAILED = "backup_failed"
KEEP, TEST = "keep", "test"
FULL = "full"
WHEN_GOOD = "when good"
"""What facts call the entry `when: good`."""
_ANEW = timedelta(hours=1)
"""The pause before a state that became good, and could not be kept, is tried again."""
_TOGETHER = 2
"""How many layers are read or written at once, of all services together."""
_SENT_TOGETHER = 8
"""How many copies are under way at once. They mostly wait for others, and one that hangs must stop no snapshot."""
_GLANCE = timedelta(seconds=1)
_DISK = timedelta(seconds=30)
"""The pause before a run goes on that could not be written down."""
_TRIES = (timedelta(seconds=10), timedelta(minutes=1))
"""The pauses before something is tried again that may have failed for a moment only."""


class SnapshotTimetable:
    """Runs what the calendar has."""

    def __init__(self, by_layer: Mapping[tuple[str, str], LayerSnapshots], clock: Clock) -> None:
        self._by_layer = by_layer
        self._clock = clock
        self._few = asyncio.Semaphore(_TOGETHER)
        self._sending = asyncio.Semaphore(_SENT_TOGETHER)
        self._entries: dict[str, tuple[LayerSnapshots, SnapshotSchedule, str]] = {}
        """By name on the calendar: the layer, what the configuration says, and what is done."""
        self._cut_off: list[tuple[LayerSnapshots, SnapshotRun]] = []
        self._resumed: set[asyncio.Task[None]] = set()
        self._log = log.get("snapshots")

    def add(self, layer_snapshots: LayerSnapshots, entry: SnapshotSchedule) -> None:
        """Add an entry of the configuration, for one of its layers."""
        name = calendar_name(entry)
        self._entries[f"{layer_snapshots.name} {name}"] = (layer_snapshots, entry, KEEP)
        layer_snapshots.schedules += (name,)
        if entry.restore_test is not None:
            self._entries[f"{layer_snapshots.name} {name} {TEST}"] = (layer_snapshots, entry, TEST)
            layer_snapshots.schedules += (f"{name} {TEST}",)

    def planned(self) -> list[CalendarEntry]:
        """Every entry, as the calendar takes it."""
        return [
            CalendarEntry(
                f"snapshot {name}",
                _times(entry, what),
                partial(_last, layer_snapshots, entry, what),
                partial(self.run, name),
                partial(self._to_keep, layer_snapshots),
            )
            for name, (layer_snapshots, entry, what) in self._entries.items()
        ]

    def _to_keep(self, layer_snapshots: LayerSnapshots) -> str:
        """What is to be kept, when the state that runs is good and was not kept for that yet; else empty.

        A release that could not be kept, or that had been replaced by then, is tried again after an hour.
        """
        ledger, past = layer_snapshots.ledger, layer_snapshots.past
        state = ledger.present
        if state is None or state.key not in ledger.good or ledger.drill or _disturbed(layer_snapshots):
            return ""
        kept_for = layer_snapshots.kept_for(state)
        if not kept_for or past.kept.get(WHEN_GOOD) == kept_for:
            return ""
        last = past.scheduled.get(WHEN_GOOD)
        tried = last is not None and last.fact.release == kept_for and self._clock.now() - last.at < _ANEW
        return "" if tried else kept_for

    def next(self, layer_snapshots: LayerSnapshots) -> datetime | None:
        """When the calendar has the layer's next snapshot; None: never."""
        own = [entry for each, entry, what in self._entries.values() if each is layer_snapshots and what == KEEP]
        now = self._clock.now()
        timed = [(entry.times, _last(layer_snapshots, entry, KEEP)) for entry in own]
        return min((times.after_last(last, now, now) for times, last in timed if times is not None), default=None)

    # -- one run --------------------------------------------------------------------------------
    async def run(self, name: str, run: SnapshotRun | None = None) -> None:
        """Run an entry, or what is left of its run; returns once it is written down how it ended."""
        layer_snapshots, entry, what = self._entries[name]

        async def go_on() -> bool:
            """Go on with the run; whether nothing is left of it."""
            nonlocal run
            while _disturbed(layer_snapshots):
                await self._clock.sleep(_GLANCE)
            async with layer_snapshots.for_calendar():
                if _disturbed(layer_snapshots):
                    return False
                run = run or await self._begin(layer_snapshots, entry, what)
                return run is None or await self._unless_disturbed(layer_snapshots, entry, run)

        say = partial(self._log.error, "a run waits for the journal", layer=layer_snapshots.name)
        while not await until_written(go_on, self._clock, _DISK, say):
            pass

    async def _begin(self, layer_snapshots: LayerSnapshots, entry: SnapshotSchedule, what: str) -> SnapshotRun | None:
        """Write that the run begins; None when the good state has lost its mark. :raises JournalUnavailable:"""
        release = ""
        if _times(entry, what) is None and not (release := self._to_keep(layer_snapshots)):
            return None
        kind = entry.kind if entry.kind != FULL else ""
        return await layer_snapshots.begin(what, schedule=_calendar_name_of(entry, what), release=release, kind=kind)

    async def _unless_disturbed(
        self, layer_snapshots: LayerSnapshots, entry: SnapshotSchedule, run: SnapshotRun
    ) -> bool:
        """Whether the work came to its end; else it was stopped, and makes way."""
        work = asyncio.create_task(self._do(layer_snapshots, entry, run))
        try:
            while not work.done() and not _disturbed(layer_snapshots):
                glance = asyncio.ensure_future(self._clock.sleep(_GLANCE))
                await asyncio.wait({work, glance}, return_when=asyncio.FIRST_COMPLETED)
                glance.cancel()
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if work.cancelled():
            self._log.info("makes way, and is gone on with later", layer=layer_snapshots.name, run=run.fact.run)
            return False
        work.result()
        return True

    async def _do(self, layer_snapshots: LayerSnapshots, entry: SnapshotSchedule, run: SnapshotRun) -> None:
        dropped: tuple[str, ...] = ()
        for wait in (*_TRIES, None):
            try:
                problems, dropped = await (self._keep if run.fact.what == KEEP else self._test)(
                    layer_snapshots, entry, run
                )
            except AdapterError as error:
                problems = [str(error)]
                if wait is not None and not error.permanent:
                    self._log.warning("a snapshot failed; trying again", layer=layer_snapshots.name, error=str(error))
                    await self._clock.sleep(wait)
                    continue
            break
        await self._end(layer_snapshots, run, tuple(problems), dropped)

    async def _keep(
        self, layer_snapshots: LayerSnapshots, entry: SnapshotSchedule, run: SnapshotRun
    ) -> tuple[list[str], tuple[str, ...]]:
        if run.fact.release and not await layer_snapshots.still_runs(run.fact.release):
            return [], ()
        if entry.kind != FULL:  # read when it is taken, and nothing is gone back to by it
            async with self._few:
                await layer_snapshots.take(run, SCHEDULE)
                return [], await layer_snapshots.prune_schemas(entry.keep)
        async with self._few:
            one = await layer_snapshots.take(run, GOOD if run.fact.release else SCHEDULE)
            problems = await layer_snapshots.verify(one, run=run.fact.run) if entry.verify else []
        if problems:  # what was taken before is all there is, so nothing of it is dropped
            return problems, ()
        place = layer_snapshots.elsewhere.get(calendar_name(entry))
        if place is not None:
            async with self._sending:
                await layer_snapshots.send(one, place, run)
        async with self._few:
            return [], await layer_snapshots.prune(entry.keep)

    async def _test(
        self, layer_snapshots: LayerSnapshots, _entry: SnapshotSchedule, run: SnapshotRun
    ) -> tuple[list[str], tuple[str, ...]]:
        problems: list[str] = []
        async with self._few:
            found = await self._to_test(layer_snapshots)
            for one in found:
                problems += await layer_snapshots.verify(one, run=run.fact.run, rehearse=True)
        return problems or ([] if found else ["there is no snapshot that could be restored"]), ()

    async def _to_test(self, layer_snapshots: LayerSnapshots) -> list[Snapshot]:
        """The newest snapshot, and the one that a rollback would go to."""
        there = [one for one in await layer_snapshots.snapshots() if one.restorable]
        names = await layer_snapshots.wanted()
        wanted = [one for one in there if one.name in names][:1]
        return [*there[:1], *(one for one in wanted if one not in there[:1])]

    async def _end(
        self, layer_snapshots: LayerSnapshots, run: SnapshotRun, problems: tuple[str, ...], dropped: tuple[str, ...]
    ) -> None:
        """Write how the run ended. People are told when something is wrong that was not before, and when it is over."""
        before = layer_snapshots.past.problems(layer_snapshots.schedules)
        others = [name for name in layer_snapshots.schedules if name != run.fact.schedule]
        after = tuple(dict.fromkeys((*problems, *layer_snapshots.past.problems(others))))
        more: tuple[Entry, ...] = ()
        if problems and after != before:
            more = (notice(layer_snapshots, f"snapshots of {layer_snapshots.name}: {'; '.join(problems)}"),)
        elif before and not after:
            more = (notice(layer_snapshots, f"snapshots of {layer_snapshots.name} are well again", over=True),)
        await layer_snapshots.note(
            run.actor, facts.SnapshotEnded(layer_snapshots.layer, run.fact.run, problems, dropped), more=more
        )
        self._log.info("snapshots", layer=layer_snapshots.name, what=run.fact.what, problems=problems, dropped=dropped)

    # -- after a crash --------------------------------------------------------------------------
    def note_cut_off(self) -> None:
        """Note the runs that are open before any is begun: they are an earlier process's."""
        self._cut_off = [
            (layer_snapshots, run)
            for layer_snapshots in self._by_layer.values()
            for run in layer_snapshots.past.open.values()
        ]

    async def resume(self) -> None:
        """Go on with runs that were cut off; end those that nothing asks for any more. :raises JournalUnavailable:"""
        while self._cut_off:
            layer_snapshots, run = self._cut_off[0]
            name = f"{layer_snapshots.name} {run.fact.schedule}"
            if run.fact.what in {KEEP, TEST} and run.fact.schedule and name in self._entries:
                task = asyncio.create_task(self._gone_on_with(name, run), name=f"snapshot {name}")
                self._resumed.add(task)
                task.add_done_callback(self._resumed.discard)
            elif run.fact.what in {KEEP, TEST}:
                why = "the calendar has it no more" if run.fact.schedule else "who ordered it heard so"
                cut_off = facts.SnapshotEnded(layer_snapshots.layer, run.fact.run, (f"it was cut off, and {why}",))
                await layer_snapshots.note(run.actor, cut_off)
            del self._cut_off[0]

    async def _gone_on_with(self, name: str, run: SnapshotRun) -> None:
        try:
            await self.run(name, run)
        except Exception:  # noqa: BLE001  # it stays open, and the next start goes on with it
            self._log.exception("what was cut off could not be gone on with", entry=name)

    async def stop(self) -> None:
        """End what `resume` began; the next start goes on with it."""
        await end(self._resumed)


def calendar_name(entry: SnapshotSchedule) -> str:
    """What facts call an entry; at another time it is another entry."""
    if entry.when is not None:
        return WHEN_GOOD
    times = entry.cron or f"every {format_duration(entry.every or timedelta())}"
    return times if entry.kind == FULL else f"{entry.kind} {times}"


def _calendar_name_of(entry: SnapshotSchedule, what: str) -> str:
    return f"{calendar_name(entry)} {TEST}" if what == TEST else calendar_name(entry)


def _times(entry: SnapshotSchedule, what: str) -> CronTimes | None:
    return CronTimes(cron=entry.restore_test or "", zone=entry.zone) if what == TEST else entry.times


def _last(layer_snapshots: LayerSnapshots, entry: SnapshotSchedule, what: str) -> datetime | None:
    run = layer_snapshots.past.scheduled.get(_calendar_name_of(entry, what))
    return run.at if run is not None else None


def _disturbed(layer_snapshots: LayerSnapshots) -> bool:
    return layer_snapshots.ordered > 0 or layer_snapshots.ledger.acting is not None


def notice(layer_snapshots: LayerSnapshots, text: str, *, over: bool = False) -> Entry:
    """What people hear of a layer's snapshots."""
    fact = facts.Notice(
        BACKUP_FAILED, text, layer_snapshots.service, over=over, details={"subject": layer_snapshots.layer}
    )
    return Entry(FLEET, fact)
