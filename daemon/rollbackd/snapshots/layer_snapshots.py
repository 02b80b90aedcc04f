"""The snapshots of one layer: each thing that is done about them, and the fact that says so. Callers hold its lock."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from rollbackd import facts
from rollbackd.adapter import (
    Adapter,
    AdapterError,
    KeepsSchemas,
    PointInTime,
    Rehearses,
    Snapshot,
    SnapshotProblem,
    Snapshots,
)
from rollbackd.decision.refusals import OrderRefused
from rollbackd.execution.layers import LookFailed
from rollbackd.journal import Entry
from rollbackd.model import DAEMON, State, service_stream
from rollbackd.policy.changes import newest
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.policy.target import candidates
from rollbackd.snapshots.history import SnapshotHistory, SnapshotRun
from rollbackd.snapshots.offsite import OffsiteStore
from rollbackd.snapshots.retention import Retention
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock

_LONGEST = timedelta(hours=6)
"""The limit of one thing that an adapter does; the adapter's own limits are far shorter."""
_COPIES_READ = 5000
"""How many copies of a service the journal is asked for; older ones need the key."""
_SHOWN = 20
"""How many problems of one snapshot are written down."""
SCHEDULE = "schedule"
"""Why a snapshot on the calendar is taken."""
GOOD = "good"
"""Why a snapshot is taken of a state that became good."""

T = TypeVar("T")


class NotKept(OrderRefused):
    """An order that was not carried out; the sentence says why, and what to do."""


class LayerSnapshots:
    """One layer, and what is known of its snapshots."""

    def __init__(
        self,
        service: str,
        layer: str,
        adapter: Adapter,
        read_model: ReadModel,
        clock: Clock,
        elsewhere: Mapping[str, OffsiteStore],
        retention: Retention,
    ) -> None:
        self.service = service
        self.layer = layer
        self.name = f"{service}/{layer}"
        self.adapter = cast("Snapshots", adapter)
        self.elsewhere = elsewhere
        """The copies elsewhere, by the entry of the calendar that sends them."""
        self.schedules: tuple[str, ...] = ()
        """The entries of the calendar that the layer has."""
        self.past = SnapshotHistory()
        self.ordered = 0
        """How many orders of people wait or are carried out; the calendar makes way for them."""
        self._releases = adapter
        self._read_model = read_model
        self._clock = clock
        self._retention = retention
        self._lock = asyncio.Lock()
        self._log = log.get("snapshots").bind(service=service, layer=layer)

    # -- who is at work -------------------------------------------------------------------------
    @property
    def at_work(self) -> bool:
        return self._lock.locked()

    @asynccontextmanager
    async def for_calendar(self) -> AsyncIterator[None]:
        """Hold the layer's lock, for a run on the calendar."""
        async with self._lock:
            yield

    @asynccontextmanager
    async def for_order(self) -> AsyncIterator[None]:
        """Hold the layer's lock, for a person's order, before anything on the calendar."""
        self.ordered += 1
        try:
            async with self._lock:
                yield
        finally:
            self.ordered -= 1

    @property
    def ledger(self) -> ServiceLedger:
        return self._read_model.of(self.service)

    # -- facts ----------------------------------------------------------------------------------
    async def note(self, actor: str, *said: facts.ServiceFact, more: tuple[Entry, ...] = ()) -> datetime:
        """Write facts of this layer, and remember them; when that was. :raises JournalUnavailable: none was written."""
        stream = service_stream(self.service)
        records = await self._read_model.append(*(Entry(stream, fact, actor) for fact in said), *more)
        for record in records[: len(said)]:
            self.past.take(record)
        return records[0].at

    def new_run(self) -> str:
        """A name for work that is about to begin."""
        return f"{self._clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"

    async def begin(
        self, what: str, actor: str = DAEMON, more: tuple[Entry, ...] = (), *, run: str = "", **given: Any
    ) -> SnapshotRun:
        """Write the intent. :raises JournalUnavailable:"""
        fact = facts.SnapshotBegun(self.layer, run or self.new_run(), what, **given)
        begun = SnapshotRun(await self.note(actor, fact, more=more), actor, fact)
        boundary("snapshots.begun")
        return begun

    async def ask(self, question: Awaitable[T]) -> T:
        """The answer of an adapter's method. :raises AdapterError: whatever it fails with."""
        try:
            async with asyncio.timeout(_LONGEST.total_seconds()):
                return await question
        except AdapterError:
            raise
        except TimeoutError as error:
            text = f"{self.layer}: did not end in {format_duration(_LONGEST)}"
            raise AdapterError(text, permanent=False) from error
        except Exception as error:  # an adapter of somebody else's may raise anything, and must not end the calendar
            self._log.exception("adapter failed")
            text = f"{self.layer}: its adapter failed: {type(error).__name__}: {error}"
            raise AdapterError(text, permanent=False) from error

    # -- one thing at a time --------------------------------------------------------------------
    async def snapshots(self) -> list[Snapshot]:
        """All of them, newest first. :raises AdapterError:"""
        return list(await self.ask(self.adapter.snapshots()))

    @property
    def is_data(self) -> bool:
        """Whether its snapshots are copies of data, of which a release has any number."""
        return isinstance(self._releases, PointInTime)

    def kept_for(self, state: State) -> str:
        """What a snapshot of a state that became good is kept for: the layer's release, or of data the whole state."""
        release = state.releases.get(self.layer)
        return "" if release is None else state.key if self.is_data else release.id

    async def still_runs(self, kept_for: str) -> bool:
        """Whether what a snapshot is kept for is still there."""
        if self.is_data:
            return self.ledger.present is not None and self.ledger.present.key == kept_for
        return await self.present() == kept_for

    async def wanted(self) -> list[str]:
        """The names of the snapshots that a rollback would go to; none where it cannot be told."""
        there = await self.snapshots()
        if isinstance(self._releases, PointInTime):
            change = newest(self.ledger)
            if change is None:
                return []
            try:
                return [(await self.ask(self._releases.as_of(change.start))).label]
            except AdapterError:
                return []
        goals = [each.state.releases.get(self.layer) for each in candidates(self.ledger, self.ledger.present)[:1]]
        return [one.name for goal in goals if goal is not None for one in there if one.release == goal.id][:1]

    async def present(self) -> str:
        """The id of the release that is there now; empty when it cannot be told."""
        try:
            return (await self.ask(self._releases.current())).id
        except AdapterError:
            return ""

    async def restorable(self) -> set[str]:
        """The ids of the releases that can be gone back to. :raises AdapterError:"""
        return {release.id for release in await self.ask(self._releases.releases())}

    async def take(self, run: SnapshotRun, why: str) -> Snapshot:
        """Take a snapshot, or find the one that this run took before. :raises AdapterError:"""
        if (name := self.past.taken.get(run.fact.run)) is not None:
            for one in await self.snapshots():
                if one.name == name:
                    return one
        taken = await self._taken(run, why)
        if taken is None and run.fact.kind:
            taken = await self.ask(cast("KeepsSchemas", self.adapter).take_schema(why))
        elif taken is None:
            taken = await self.ask(self.adapter.take(run.fact.name, why))
        fact = facts.Snapshotted(
            self.layer, taken.name, taken.release, taken.created, run.fact.run, taken.why, taken.size, taken.files
        )
        await self.note(run.actor, fact)
        boundary("snapshots.taken")
        return taken

    async def _taken(self, run: SnapshotRun, why: str) -> Snapshot | None:
        if run.fact.name:  # the adapter takes the same name again
            return None
        if run.fact.release and not self.is_data:  # it may have become good before, too
            same = (one for one in await self.snapshots() if (one.why, one.release) == (why, run.fact.release))
            return next((one for one in same if one.restorable), None)
        begun = run.at.replace(microsecond=0)  # what git says of a tag's time has whole seconds
        of_why = [one for one in await self.snapshots() if (one.why, one.kind) == (why, run.fact.kind)]
        new = [one for one in of_why if one.name not in self.past.names]
        found = [one for one in new if one.created >= begun]  # known ones may be of a later time: clocks are set back
        return found[-1] if found else None

    async def verify(self, one: Snapshot, actor: str = DAEMON, run: str = "", *, rehearse: bool = False) -> list[str]:
        """Read all of a snapshot, and restore it into a scratch place if wanted and possible; what is wrong with it.

        :raises AdapterError: it could not be tried.
        """
        problems = list(await self.ask(self.adapter.verify(one.name)))
        rehearsed = rehearse and not problems and not one.kind and isinstance(self.adapter, Rehearses)
        if rehearsed:
            problems += await self.ask(cast("Rehearses", self.adapter).rehearse(one.name))
        texts = [_sentence(problem) for problem in problems]
        shown = [*texts[:_SHOWN], *([f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else [])]
        if one.kind:  # nothing is gone back to by it, so nobody waits for such a finding
            return shown
        created = one.created.astimezone(UTC)
        await self.note(actor, facts.SnapshotVerified(self.layer, one.name, created, tuple(shown), rehearsed, run))
        boundary("snapshots.verified")
        return shown

    async def send(self, one: Snapshot, place: OffsiteStore, run: SnapshotRun) -> str:
        """Copy a snapshot elsewhere; returns the copy's name. :raises AdapterError: it is not there."""
        copy = await self.ask(place.send(self.adapter, one))
        await self.note(run.actor, facts.SnapshotCopied(self.layer, one.name, copy.name, run.fact.run, copy.digest))
        boundary("snapshots.copied")
        return copy.name

    async def sent(self) -> dict[str, set[str]]:
        """The hashes of the copies that were sent last, by their names. :raises JournalUnavailable:"""
        kinds = facts.kinds(facts.SnapshotCopied)
        found: dict[str, set[str]] = {}
        for record in await self._read_model.journal.latest(kinds, service_stream(self.service), _COPIES_READ):
            if record.fact.layer == self.layer and record.fact.digest:
                found.setdefault(record.fact.copy, set()).add(record.fact.digest)
        return found

    async def prune_schemas(self, keep: int = 0) -> tuple[str, ...]:
        """Drop the oldest copies of the schema alone. :raises AdapterError:"""
        return tuple(await self.ask(cast("KeepsSchemas", self.adapter).prune_schemas(keep)))

    async def prune(self, keep: int = 0) -> tuple[str, ...]:
        """Drop what nothing keeps, and nothing that a rollback may need. :raises AdapterError:"""
        try:
            spare = await self._retention.spared(self.service, self.layer)
        except LookFailed as error:
            raise AdapterError(str(error), permanent=False) from error
        dropped = await self.ask(self.adapter.prune(spare, keep) if keep else self.adapter.prune(spare))
        boundary("snapshots.pruned")
        return tuple(dropped)


def _sentence(problem: SnapshotProblem) -> str:
    where = f"{problem.path}: " if problem.path else ""
    return f"snapshot {problem.snapshot}: {where}{problem.text}"
