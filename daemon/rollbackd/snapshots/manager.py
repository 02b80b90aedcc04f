"""The manager of snapshots: what people ask and order of them, and the root task that looks after them."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from rollbackd import facts
from rollbackd.adapter import AdapterError, Difference, KeepsReplaced, Snapshot, Snapshots
from rollbackd.calendar import CalendarEntry
from rollbackd.config.models import Config
from rollbackd.config.schedules import SnapshotSchedule
from rollbackd.execution.layers import Layers
from rollbackd.journal import JournalUnavailable
from rollbackd.model import service_stream
from rollbackd.snapshots.data_marks import DataMarks
from rollbackd.snapshots.history import FINDING_KINDS, FINDINGS_READ, RUN_KINDS, RUNS_READ, SnapshotRun, folded
from rollbackd.snapshots.layer_snapshots import LayerSnapshots, NotKept
from rollbackd.snapshots.offsite import OffsiteStore
from rollbackd.snapshots.restore import RESTORE, SnapshotRestore
from rollbackd.snapshots.retention import Retention
from rollbackd.snapshots.schedule import KEEP, SnapshotTimetable, calendar_name
from rollbackd.snapshots.selection import good_releases
from rollbackd.snapshots.views import KeptView, RestoredView, SnapshotView, TakenView
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Spawner
from rollbackd.system.tasks import end, until_first

_LOOK = timedelta(minutes=5)
"""How often it is checked that good states can be gone back to."""
_ANEW = timedelta(hours=1)
"""How often copies that were not found are looked for again."""
_FETCHED_TOGETHER = 8
"""How many layers have their copies looked for at once."""
_READ_WITHIN = timedelta(seconds=10)
"""How long a look at the layers waits until the journal has told which restores were cut off."""
_MANUAL = "manual"

T = TypeVar("T")


class SnapshotManager:
    """All layers that keep snapshots."""

    def __init__(
        self, config: Config, read_model: ReadModel, clock: Clock, layers: Mapping[str, Layers], spawner: Spawner
    ) -> None:
        self._read_model = read_model
        self._clock = clock
        self._scratch = config.daemon.scratch / ".keeper"  # the name that it has on hosts already
        self._adapters = {
            (service.name, layer): settings.adapter
            for service in config.services
            for layer, settings in service.layers.items()
        }
        entries = [one for one in config.schedules if isinstance(one, SnapshotSchedule)]
        self._by_layer: dict[tuple[str, str], LayerSnapshots] = {}
        self._timetable = SnapshotTimetable(self._by_layer, clock)
        self._restoring = SnapshotRestore()
        acting = {name: found for name, found in layers.items() if config.mode(found.service) == "act"}
        self.marks = DataMarks(acting, read_model, clock)
        retention = Retention(read_model, layers)
        self._few = asyncio.Semaphore(_FETCHED_TOGETHER)
        self._fetching: dict[tuple[str, str], asyncio.Task[None]] = {}
        """Layers whose copies are looked for or fetched right now."""
        for name, found in layers.items():
            for layer, adapter in found.adapters.items():
                if isinstance(adapter, Snapshots):
                    own = [entry for entry in entries if entry.snapshot in {name, f"{name}/{layer}"}]
                    places = {
                        calendar_name(entry): OffsiteStore(entry.offsite, name, layer, spawner, self._scratch)
                        for entry in own
                        if entry.offsite is not None
                    }
                    layer_snapshots = self._by_layer[name, layer] = LayerSnapshots(
                        name, layer, adapter, read_model, clock, places, retention
                    )
                    for entry in own:
                        self._timetable.add(layer_snapshots, entry)
        self._held: Callable[[str], Collection[str]] = lambda _service: ()
        self._expected = False
        self._read = asyncio.Event()
        """Set once it is known which restores an earlier process began."""
        self._opening = asyncio.Lock()
        self._opened = asyncio.Event()
        self._poked = asyncio.Event()
        self._orders: set[asyncio.Task[object]] = set()
        self._log = log.get("snapshots")

    # -- its life -------------------------------------------------------------------------------
    def planned(self) -> list[CalendarEntry]:
        """The entries of the calendar."""
        return [*self._timetable.planned(), *self.marks.planned()]

    def heed(self, held: Callable[[str], Collection[str]]) -> None:
        """:param held: the sentences that hold a service."""
        self._held = held

    def expect(self) -> None:
        """Say that the manager is about to run, so that `being_restored` waits until the journal was read."""
        self._expected = True

    async def being_restored(self, service: str) -> str:
        """Why what a service's layers hold now is no state: one is in the middle of a restore. Empty: none is."""
        own = [layer_snapshots for (name, _), layer_snapshots in self._by_layer.items() if name == service]
        if own and self._expected:
            try:
                async with asyncio.timeout(_READ_WITHIN.total_seconds()):
                    await self._read.wait()
            except TimeoutError:
                return "it is not known yet whether a restore was cut off: the journal does not answer"
        for layer_snapshots in own:
            for run in (one for one in layer_snapshots.past.open.values() if one.fact.what == RESTORE):
                waits = (
                    ""
                    if layer_snapshots.at_work or not self._held(service)
                    else ", was cut off, and waits while that is held"
                )
                return f"{layer_snapshots.layer}: snapshot {run.fact.name} is being restored{waits}"
        return ""

    async def open(self) -> None:
        """Read what was done before, and finish the restores that were cut off; once. :raises JournalUnavailable:"""
        async with self._opening:
            if not self._opened.is_set():
                await self._open()

    async def _open(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        for service in dict.fromkeys(service for service, _ in self._by_layer):
            stream = service_stream(service)
            runs = await self._read_model.journal.latest(RUN_KINDS, stream, RUNS_READ)
            findings = await self._read_model.journal.latest(FINDING_KINDS, stream, FINDINGS_READ)
            pasts = folded(sorted([*runs, *findings], key=lambda record: record.seq))
            for layer, past in pasts.items():
                if (layer_snapshots := self._by_layer.get((service, layer))) is not None:
                    layer_snapshots.past = past
        self._timetable.note_cut_off()
        self._read.set()
        await self._finish_cut_off()
        self._opened.set()

    async def run(self) -> None:
        """Go on with what was cut off, then check that good states can be gone back to, for ever."""
        await self.open()
        await self._timetable.resume()
        anew = self._clock.monotonic() + _ANEW.total_seconds()
        try:
            while True:
                await self._finish_cut_off()
                await self._see_to_targets()
                await self._until_poked(_LOOK)
                if self._clock.monotonic() >= anew:
                    anew = self._clock.monotonic() + _ANEW.total_seconds()
                    self._restoring.look_anew()
        finally:
            await end(self._fetching.values())

    async def _see_to_targets(self) -> None:
        """Check that a good state of each layer can be gone back to. Copies that come from elsewhere may take long, and
        nothing waits for them: another layer's need not come from there."""
        for name, layer_snapshots in self._by_layer.items():
            if layer_snapshots.elsewhere and layer_snapshots.ledger.acting is None and name not in self._fetching:
                releases = await self._restoring.missing(layer_snapshots)
                if releases:
                    work = self._fetch(layer_snapshots, releases)
                    self._fetching[name] = asyncio.create_task(work, name=f"copies of {layer_snapshots.name}")

    async def _fetch(self, layer_snapshots: LayerSnapshots, releases: Sequence[str]) -> None:
        try:
            async with self._few:
                await self._restoring.fetch_one(layer_snapshots, releases)
        except JournalUnavailable as error:
            self._log.error("a copy waits for the journal", layer=layer_snapshots.name, error=str(error))
        except Exception:  # noqa: BLE001  # one layer's must not end the others; the next look does it again
            self._log.exception("copies could not be looked for", layer=layer_snapshots.name)
        finally:
            del self._fetching[layer_snapshots.service, layer_snapshots.layer]

    async def _finish_cut_off(self) -> None:
        """Finish restores, also those in place that were not written down. A hold stops it, and a rollback at work."""
        for layer_snapshots in self._by_layer.values():
            is_open = any(run.fact.what == RESTORE for run in layer_snapshots.past.open.values())
            if is_open and layer_snapshots.ledger.acting is None and not self._held(layer_snapshots.service):
                async with layer_snapshots.for_order():
                    await self._restoring.finish_cut_off(layer_snapshots)

    def poke(self, service: str) -> None:
        """Look for a copy now: a good state of a service cannot be gone back to."""
        if any(layer_snapshots.elsewhere for (name, _), layer_snapshots in self._by_layer.items() if name == service):
            self._poked.set()

    async def _until_poked(self, length: timedelta) -> None:
        await until_first(self._poked.wait(), self._clock.sleep(length))
        self._poked.clear()

    async def stop(self) -> None:
        """Finish what a person ordered; the next process goes on with what was on the calendar."""
        await self._timetable.stop()
        if not self._opened.is_set():
            for order in self._orders:
                order.cancel()
        if self._orders:
            await asyncio.wait(set(self._orders))

    # -- reading --------------------------------------------------------------------------------
    def kept(self, service: str = "", layer: str = "") -> list[tuple[str, str]]:
        """Services and layers that keep snapshots, of one service or one layer when it is named."""
        return [key for key in self._by_layer if service in {"", key[0]} and layer in {"", key[1]}]

    def all_layers(self) -> list[LayerSnapshots]:
        return list(self._by_layer.values())

    async def view(self, service: str, layer: str) -> KeptView:
        """A layer with all its snapshots; one that cannot be asked says why."""
        layer_snapshots = self._layer_snapshots(service, layer)
        problem = ""
        found: list[Snapshot] = []
        try:
            found = await layer_snapshots.snapshots()
        except AdapterError as error:
            problem = str(error)
        present = await layer_snapshots.present() if found else ""
        good = good_releases(layer_snapshots.ledger, layer)
        return KeptView(
            service,
            layer,
            self._adapters[service, layer],
            tuple(_view(layer_snapshots, one, present, good) for one in found),
            problem,
            layer_snapshots.past.ended,
            layer_snapshots.past.problems(layer_snapshots.schedules),
            self._timetable.next(layer_snapshots),
            layer_snapshots.at_work,
        )

    async def diff(self, service: str, layer: str, older: str, newer: str) -> Sequence[Difference]:
        """What differs, with secrets masked. :raises NotKept:"""
        layer_snapshots = self._layer_snapshots(service, layer)
        return await _answered(layer_snapshots, layer_snapshots.ask(layer_snapshots.adapter.diff(older, newer)))

    async def lost(self, service: str, layer: str, *, export: bool) -> Sequence[Difference]:
        """What the last restore of data left behind. :raises NotKept:"""
        layer_snapshots = self._layer_snapshots(service, layer)
        if not isinstance(layer_snapshots.adapter, KeepsReplaced):
            raise NotKept(f"{layer_snapshots.name} cannot say what a restore left behind: it is no layer of rows")
        return await _answered(layer_snapshots, layer_snapshots.ask(layer_snapshots.adapter.lost(export=export)))

    # -- orders ---------------------------------------------------------------------------------
    async def take(self, service: str, layer: str, name: str, actor: str) -> TakenView:
        """Take a snapshot, and read it. :raises NotKept: JournalUnavailable:"""
        return await self._to_the_end(self._take(self._layer_snapshots(service, layer), name, actor))

    async def _take(self, layer_snapshots: LayerSnapshots, name: str, actor: str) -> TakenView:
        async with layer_snapshots.for_order():
            run = await layer_snapshots.begin(KEEP, actor, name=name)
            copies: list[str] = []
            try:
                one = await layer_snapshots.take(run, _MANUAL)
                problems = await layer_snapshots.verify(one, actor, run.fact.run)
            except AdapterError as error:
                await layer_snapshots.note(
                    actor, facts.SnapshotEnded(layer_snapshots.layer, run.fact.run, (str(error),))
                )
                raise NotKept(f"no snapshot of {layer_snapshots.name} was taken: {error}") from error
            if not problems:
                copies, problems = await self._send(layer_snapshots, one, run)
            await layer_snapshots.note(actor, facts.SnapshotEnded(layer_snapshots.layer, run.fact.run, tuple(problems)))
        return self._taken(layer_snapshots, one, problems, copies)

    async def verify(self, service: str, layer: str, name: str, actor: str, *, rehearse: bool) -> TakenView:
        """Read all of a snapshot, and restore it into a scratch place if that is wanted. :raises NotKept:"""
        layer_snapshots = self._layer_snapshots(service, layer)
        found = await _answered(layer_snapshots, layer_snapshots.snapshots())
        one = next((each for each in found if each.name == name), None)
        if one is None:
            raise NotKept(f'{layer_snapshots.name} has no snapshot "{name}"; `rollbackd snapshot list` has their names')
        problems = await _answered(layer_snapshots, layer_snapshots.verify(one, actor, rehearse=rehearse))
        return self._taken(layer_snapshots, one, problems)

    async def restore(self, service: str, layer: str, name: str, only: Sequence[str], actor: str) -> RestoredView:
        """Take a layer to a snapshot; what is there is saved first. :raises NotKept: JournalUnavailable:"""
        layer_snapshots = self._layer_snapshots(service, layer)

        async def work() -> RestoredView:
            async with layer_snapshots.for_order():
                if (acting := layer_snapshots.ledger.acting) is not None:
                    raise NotKept(
                        f"{layer_snapshots.name} is not restored: {acting.incident} is at work; again when it has ended"
                    )
                return await self._restoring.restore(layer_snapshots, name, only, actor)

        return await self._to_the_end(work())

    async def prune(self, service: str, layer: str, actor: str) -> tuple[str, ...]:
        """Drop what nothing keeps; the names. :raises NotKept:"""
        layer_snapshots = self._layer_snapshots(service, layer)

        async def work() -> tuple[str, ...]:
            async with layer_snapshots.for_order():
                dropped = await _answered(layer_snapshots, layer_snapshots.prune())
                await layer_snapshots.note(actor, facts.SnapshotEnded(layer_snapshots.layer, "prune", dropped=dropped))
            return dropped

        return await self._to_the_end(work())

    @asynccontextmanager
    async def exported(self, service: str, layer: str, name: str) -> AsyncIterator[Path]:
        """A snapshot as one file, until the end of the block. :raises NotKept:"""
        layer_snapshots = self._layer_snapshots(service, layer)
        async with self.place_for_file() as file:
            await _answered(layer_snapshots, layer_snapshots.ask(layer_snapshots.adapter.export_to(name, str(file))))
            yield file

    async def take_in(self, service: str, layer: str, file: Path, actor: str) -> TakenView:
        """Take in what `exported` gave, here or elsewhere, and read it. :raises NotKept:"""
        layer_snapshots = self._layer_snapshots(service, layer)

        async def work() -> TakenView:
            async with layer_snapshots.for_order():
                try:
                    one = await layer_snapshots.ask(layer_snapshots.adapter.import_from(str(file)))
                except AdapterError as error:  # whoever sent it knows the file by another name
                    raise NotKept(f"{layer_snapshots.name}: {str(error).replace(str(file), 'the file')}") from error
                fact = facts.Snapshotted(
                    layer, one.name, one.release, one.created, why="import", size=one.size, files=one.files
                )
                await layer_snapshots.note(actor, fact)
                problems = await _answered(layer_snapshots, layer_snapshots.verify(one, actor))
                return self._taken(layer_snapshots, one, problems)

        return await self._to_the_end(work())

    @asynccontextmanager
    async def place_for_file(self) -> AsyncIterator[Path]:
        """Where a file may lie until the end of the block; nobody else reads there."""
        directory = self._scratch / f"file-{secrets.token_hex(8)}"
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True)
        try:
            yield directory / "snapshot"
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    # -- what they share ------------------------------------------------------------------------
    def _layer_snapshots(self, service: str, layer: str) -> LayerSnapshots:
        layer_snapshots = self._by_layer.get((service, layer))
        if layer_snapshots is None:
            raise NotKept(f"{service}/{layer} keeps no snapshots")
        return layer_snapshots

    async def _send(
        self, layer_snapshots: LayerSnapshots, one: Snapshot, run: SnapshotRun
    ) -> tuple[list[str], list[str]]:
        """Send a snapshot to every place that the calendar has for it; the copies, and what went wrong."""
        copies, problems = [], []
        for place in layer_snapshots.elsewhere.values():
            try:
                copies.append(await layer_snapshots.send(one, place, run))
            except AdapterError as error:
                problems.append(str(error))
        return copies, problems

    def _taken(
        self, layer_snapshots: LayerSnapshots, one: Snapshot, problems: Sequence[str], copies: Sequence[str] = ()
    ) -> TakenView:
        good = good_releases(layer_snapshots.ledger, layer_snapshots.layer)
        return TakenView(
            layer_snapshots.service,
            layer_snapshots.layer,
            _view(layer_snapshots, one, "", good),
            tuple(problems),
            tuple(copies),
        )

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do an order to its end, also when whoever gave it goes away."""
        task = asyncio.create_task(self._once_opened(work))
        self._orders.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def _once_opened(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            await self._opened.wait()
        except asyncio.CancelledError:
            work.close()
            raise
        return await work

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._orders.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.info("an order ended", error=str(error))  # whoever still waits hears it, too


async def _answered(layer_snapshots: LayerSnapshots, question: Coroutine[Any, Any, T]) -> T:
    try:
        return await question
    except AdapterError as error:
        raise NotKept(f"{layer_snapshots.name}: {error}") from error


def _view(layer_snapshots: LayerSnapshots, one: Snapshot, present: str, good: frozenset[str]) -> SnapshotView:
    seen = layer_snapshots.past.verified.get(one.name)
    return SnapshotView(
        one.name,
        one.release,
        one.created,
        one.why,
        one.size,
        one.files,
        one.restorable,
        one.kind,
        present=bool(present) and one.release == present,
        good=one.release in good,
        verified=seen.at if seen is not None else None,
        rehearsed=seen.fact.rehearsed if seen is not None else False,
        problems=seen.fact.problems if seen is not None else (),
    )
