"""The ledger, kept in step with the journal: folded at the start, and after each fact. No other memory of what was."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from rollbackd.facts import Decided, Ended, Notice, Opening, Record, Risen, Rising, kinds
from rollbackd.incident.approval import rising
from rollbackd.incident.fold import fold
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, Journal, JournalUnavailable, Receipt, Received
from rollbackd.model import DAEMON, FLEET, incident_stream, service_stream
from rollbackd.policy.ledger import LEDGER_KINDS, FleetLedger, Rollback, ServiceLedger, fold_fleet, fold_service
from rollbackd.system import log

_DECISIONS = 2000
"""The newest decisions that are read at the start: what recognises an episode that goes on."""
_UNKNOWN = ServiceLedger()
_SERVICE = service_stream("")


class ReadModel:
    """What the journal says, folded."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.fleet = FleetLedger()
        self.trouble = ""
        """Why the last write failed; empty when it did not."""
        self._services: dict[str, ServiceLedger] = {}
        self._began = Counter[str]()
        self._asked = Counter[str]()
        self._outcomes: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._of_drills: set[str] = set()
        """Incidents that nobody counts as rollbacks."""
        self._seq = 0
        self._reading = asyncio.Lock()
        self._log = log.get("book")

    def of(self, service: str) -> ServiceLedger:
        """A service's ledger; an empty one when nothing was ever written of it."""
        return self._services.get(service, _UNKNOWN)

    def undone(self, service: str) -> Rollback | None:
        """A service's newest rollback that has ended."""
        return self.of(service).undone

    async def open(self) -> None:
        """Fold what is there. Decisions only as far back as an episode can go on."""
        newest = await self.journal.changed(0, timedelta())
        decided = kinds(Decided)
        others = tuple(kind for kind in LEDGER_KINDS if kind not in decided)
        records, decisions = await asyncio.gather(
            self.journal.since(0, others), self.journal.latest(decided, limit=_DECISIONS)
        )
        self._fold(sorted([*records, *decisions], key=lambda record: record.seq))
        self._seq = max([newest, *(record.seq for record in records)])

    async def refresh(self) -> None:
        """Take in what was written since, by whomever."""
        async with self._reading:
            newest = await self.journal.changed(0, timedelta())
            if newest > self._seq:
                records = await self.journal.since(self._seq, LEDGER_KINDS)
                self._fold(records)
                self._seq = max([newest, *(record.seq for record in records)])

    async def append(self, *entries: Entry, handled: Sequence[int] = (), urgent: bool = False) -> tuple[Record, ...]:
        """Write a unit and take it in. Raises as `Journal.append` does."""
        try:
            records = await self.journal.append(*entries, handled=handled, urgent=urgent)
        except JournalUnavailable as error:
            self.trouble = str(error)
            raise
        if not urgent:  # what is urgent also goes into the reserve's room
            self.trouble = ""
        with suppress(JournalUnavailable):  # it is written; the next refresh takes it in
            await self._take_in(records)
        return records

    async def tell(self, notice: Notice) -> None:
        """Tell people of something; while nothing can be written it is in the log."""
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

    async def _take_in(self, records: Sequence[Record]) -> None:
        """Fold what was just written; it is read back only when something else was written before it."""
        async with self._reading:
            if records and records[0].seq == self._seq + 1:
                self._fold(records)
                self._seq = records[-1].seq
        if records and records[-1].seq > self._seq:
            await self.refresh()

    async def receive(self, items: Sequence[Received]) -> Receipt:
        """Put a delivery into the inbox. :raises JournalUnavailable: nothing was kept."""
        try:
            receipt = await self.journal.receive(items)
        except JournalUnavailable as error:
            self.trouble = str(error)
            raise
        self.trouble = ""
        return receipt

    async def incident(self, name: str) -> Incident | None:
        """An incident, folded from its stream; None when there is none of that name."""
        return fold(await self.journal.read(incident_stream(name)))

    def open_incidents(self) -> list[str]:
        """The ids of all open ones."""
        return [ledger.open.incident for ledger in self._services.values() if ledger.open is not None]

    def drills(self) -> list[tuple[str, str]]:
        """Executed drills under way: the service, and the incident that it began with."""
        return [(name, ledger.drill) for name, ledger in self._services.items() if ledger.drill]

    def last_incidents(self) -> list[str]:
        """The newest incident of each service."""
        return [ledger.rollbacks[-1].incident for ledger in self._services.values() if ledger.rollbacks]

    def ended(self, service: str) -> Counter[str]:
        """How a service's incidents ended, by their last outcome; all that there ever were, without drills."""
        return Counter(self._outcomes[service].values())

    def began(self, service: str) -> int:
        """How many rollbacks of a service there ever were, no drills; a question is one from when it became one."""
        return self._began[service]

    def asked(self, service: str) -> int:
        """How often people were asked about a service, ever."""
        return self._asked[service]

    def _fold(self, records: Sequence[Record]) -> None:
        by_service: defaultdict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.stream == FLEET:
                self._count(record.fact)
            service = _service_of(record)
            if service:
                by_service[service].append(record)
        self.fleet = fold_fleet(self.fleet, (record for record in records if record.stream == FLEET))
        for service, own in by_service.items():
            self._services[service] = fold_service(self.of(service), own)

    def _count(self, fact: Any) -> None:
        match fact:
            case Opening() if fact.drill:
                self._of_drills.add(fact.incident)
            case Opening() | Rising():
                waits = isinstance(fact, Opening) and fact.asks
                (self._asked if waits else self._began)[fact.service] += 1
            case Ended() if fact.incident not in self._of_drills:
                self._outcomes[fact.service][fact.incident] = fact.outcome.value


def _service_of(record: Record) -> str:
    if record.stream.startswith(_SERVICE):
        return record.stream.removeprefix(_SERVICE)
    return str(getattr(record.fact, "service", "")) if record.stream == FLEET else ""
