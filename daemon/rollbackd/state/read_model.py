"""The projection of the journal, kept in step with what is written. No other memory of what was."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from rollbackd.facts import ClockPassed, Decided, Escalated, Notice, Record, Risen, kinds
from rollbackd.incident.approval import rising
from rollbackd.incident.fold import fold
from rollbackd.incident.life import Incident
from rollbackd.journal import Conflict, Entry, Journal, JournalUnavailable, Receipt, Received
from rollbackd.model import DAEMON, FLEET, incident_stream
from rollbackd.policy.ledger import LEDGER_KINDS, FleetLedger, ServiceLedger
from rollbackd.state.checkpoint import Checkpoint
from rollbackd.state.projection import Counts, Projection
from rollbackd.system import log
from rollbackd.system.redaction import without_passwords

_DECISIONS = 2000
"""The newest decisions that are read at the start: what recognises an episode that goes on."""
_WORTH_SAVING = 1000
"""Facts after a checkpoint that make another one worth its room."""
_DECIDED = kinds(Decided)
_AT_THE_START = (*(one for one in LEDGER_KINDS if one not in _DECIDED), *kinds(ClockPassed, Escalated))
"""The kinds of facts that are all read at the start."""


class ReadModel:
    """What the journal says, folded. What this process writes is in it before whoever wrote it goes on."""

    def __init__(self, journal: Journal, checkpoint: Checkpoint | None = None, known: Projection | None = None) -> None:
        """:param known: what another one knew of the same journal, instead of a checkpoint."""
        self.journal = journal
        self._known = known
        self._checkpoint = checkpoint
        self._saved = 0
        """The place that the checkpoint stands for."""
        self._trouble = ""
        """Why the last write failed; empty when it did not."""
        self._projection = Projection()
        self._subscribers: list[Callable[[Record], None]] = []
        self._behind = False
        """Whether something was written that was not heard of in its order, and must be read."""
        self._reading = asyncio.Lock()
        self._log = log.get("state")
        journal.subscribe(self._heard)

    # -- what it knows --------------------------------------------------------------------------
    @property
    def trouble(self) -> str:
        """Why nothing can be written now, as far as is known; empty while it can."""
        return self._trouble or self.journal.trouble

    @property
    def known(self) -> Projection:
        """All that it knows, for another one of the same journal."""
        return self._projection

    @property
    def seq(self) -> int:
        """The place of the last fact that it knows."""
        return self._projection.seq

    @property
    def fleet(self) -> FleetLedger:
        return self._projection.fleet

    @property
    def counts(self) -> Counts:
        return self._projection.counts

    def of(self, service: str) -> ServiceLedger:
        """A service's ledger; an empty one when nothing was ever written of it."""
        return self._projection.of(service)

    async def incident(self, name: str) -> Incident | None:
        """An incident as all facts so far have made it; None when there is none of that name.

        Only one that ended long ago is read from its stream. :raises JournalUnavailable: that cannot be read.
        """
        if self._behind:
            await self.refresh()
        stream = incident_stream(name)
        incidents = self._projection.incidents
        found = incidents.of(stream)
        if found is None:
            seq, read = self.seq, fold(await self.journal.read(stream))
            found = incidents.of(stream) or read
            if found is not None and seq == self.seq:  # else it may lack what was written meanwhile
                incidents.keep(found)
        return found

    def open_incidents(self) -> list[str]:
        """The ids of all open ones."""
        return [one.open.incident for one in self._projection.services.values() if one.open is not None]

    def drills(self) -> list[tuple[str, str]]:
        """Executed drills under way: the service, and the incident that it began with."""
        return [(name, one.drill) for name, one in self._projection.services.items() if one.drill]

    def last_incidents(self) -> list[str]:
        """Those whose brackets may still be entered: the newest incident of each service, and questions that ended."""
        return [
            rollback.incident
            for one in self._projection.services.values()
            for rollback in one.rollbacks
            if rollback is one.rollbacks[-1] or (rollback.ended is not None and not rollback.acted)
        ]

    # -- how it comes to know -------------------------------------------------------------------
    async def open(self) -> None:
        """Fold what is there. Decisions only as far back as an episode can go on."""
        saved = await self._checkpoint.read(self.journal.hash_of) if self._checkpoint and not self._known else None
        known = self._known or saved
        newest = await self.journal.changed(0, timedelta())
        self._saved = saved.seq if saved is not None else 0
        if known is not None:
            found = await self.journal.since(known.seq)
        else:
            records, decisions = await asyncio.gather(
                self.journal.since(0, _AT_THE_START), self.journal.latest(_DECIDED, limit=_DECISIONS)
            )
            found = sorted([*records, *decisions], key=lambda record: record.seq)
        self._projection = known or Projection()
        self._projection.apply([record for record in found if record.seq <= newest])
        self._projection.seq = newest
        await asyncio.gather(*(self.incident(name) for name in self.open_incidents()))

    async def save(self) -> None:
        """Write a checkpoint, when enough came since the last one. A start without it is slower, and no different."""
        if self._checkpoint is None or self._behind or self.trouble or self.seq - self._saved < _WORTH_SAVING:
            return
        copy = self._projection.copy()
        with suppress(JournalUnavailable):
            if await self._checkpoint.write(copy, self.journal.hash_of):
                self._saved = copy.seq

    async def audit(self) -> list[str]:
        """All that is wrong with the journal and its checkpoint, a sentence each."""
        report = await self.journal.audit()
        misfits = await asyncio.to_thread(self._checkpoint.misfits) if self._checkpoint else []
        return [*report.broken, *misfits]

    def subscribe(self, heard: Callable[[Record], None]) -> None:
        """Hand `heard` each fact, once and in order, right after it was folded. It must not raise."""
        self._subscribers.append(heard)

    async def refresh(self) -> None:
        """Take in what was written since, by whomever."""
        async with self._reading:
            while (newest := await self.journal.look()) > self.seq:
                self._apply(await self.journal.since(self.seq))
                self._projection.seq = max(newest, self.seq)
            self._behind = False

    def _heard(self, records: Sequence[Record]) -> None:
        """What this process wrote. It is taken in only when nothing is missing before it."""
        if records[0].seq <= self.seq + 1:
            self._apply(records)
        else:
            self._behind = True

    def _apply(self, records: Sequence[Record]) -> None:
        new = [record for record in records if record.seq > self.seq]
        self._projection.apply(new)
        for record in new:
            for heard in self._subscribers:
                heard(record)

    # -- what it writes -------------------------------------------------------------------------
    async def append(
        self, *entries: Entry, handled: Sequence[int] = (), urgent: bool = False, heeding: int | None = None
    ) -> tuple[Record, ...]:
        """Write a unit, and know it; after a `Conflict` what came first is known. Raises as `Journal.append` does."""
        try:
            records = await self.journal.append(*entries, handled=handled, urgent=urgent, heeding=heeding)
        except Conflict:
            with suppress(JournalUnavailable):
                await self.refresh()
            raise
        except JournalUnavailable as error:
            self._trouble = str(error)
            raise
        if not urgent:  # what is urgent also goes into the reserve's room
            self._trouble = ""
        if records and records[-1].seq > self.seq:
            with suppress(JournalUnavailable):  # it is written; the next refresh takes it in
                await self.refresh()
        return records

    async def tell(self, notice: Notice) -> None:
        """Tell people of something, without the passwords of URLs; while nothing can be written it goes to the log."""
        notice = replace(notice, text=without_passwords(notice.text))
        try:
            await self.append(Entry(FLEET, notice))
        except JournalUnavailable as error:
            self._log.error("a notice could not be written", notice=notice.text, error=str(error))

    async def rise(
        self,
        incident: Incident,
        risen: Risen,
        *beside: Entry,
        fleet: int,
        actor: str = DAEMON,
        handled: Sequence[int] = (),
    ) -> None:
        """Write a question that becomes a rollback, as a unit; `fleet`: the place of the last opening decided on.

        :raises Conflict: another incident opened, or something was written of this one, meanwhile. Else as `append`.
        """
        opening, rises, *others = rising(incident.id, risen.decision, risen.why, by_people=risen.by_people)
        await self.append(
            Entry(*opening, actor, follows=fleet),
            Entry(*rises, actor, follows=incident.n),
            *(Entry(stream, fact, actor) for stream, fact in others),
            *beside,
            handled=handled,
        )

    async def attend(self, host: str, process: str, version: str, configuration: str) -> timedelta:
        """See `Journal.attend`. :raises JournalUnavailable: nobody heard, and nothing can be written now."""
        try:
            ahead = await self.journal.attend(host, process, version, configuration)
        except JournalUnavailable as error:
            self._trouble = str(error)
            raise
        self._trouble = ""
        return ahead

    async def receive(self, items: Sequence[Received]) -> Receipt:
        """Put a delivery into the inbox. :raises JournalUnavailable: nothing was kept."""
        try:
            receipt = await self.journal.receive(items)
        except JournalUnavailable as error:
            self._trouble = str(error)
            raise
        self._trouble = ""
        return receipt
