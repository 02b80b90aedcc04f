"""Watches the clocks of incidents that are open, or ended badly, and writes down what comes due. Facts forget nothing.

Each incident is folded once and kept as facts come; its next time is remembered, so that a thousand of them that wait
cost nothing until one is due.
"""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import get_args

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.facts import Record
from rollbackd.incident.clocks import BAD_ENDS, due, next_due
from rollbackd.incident.fold import evolve, opened
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, until_written
from rollbackd.model import DAEMON, incident_stream, name_in
from rollbackd.policy.ledger import Rollback
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock

_PACE = timedelta(seconds=1)
"""Between two looks, however much is written."""
_GLANCE = timedelta(seconds=30)
"""The longest that it sleeps: wall time may be set meanwhile."""
_DISK = timedelta(seconds=5)
_AT_ONCE = 200
"""Incidents whose facts are written together: they share a commit."""
_UNTIMED = (facts.Adopted, facts.Told)
"""Facts of an incident that nothing comes due by."""
_KINDS = facts.kinds(*(one for one in get_args(facts.IncidentFact) if one not in _UNTIMED), facts.MarkedGood)


class IncidentClocks:
    """The root task `timekeeper`."""

    def __init__(self, config: Config, read_model: ReadModel, clock: Clock) -> None:
        self._terms = config.terms
        self._services = tuple(service.name for service in config.services)
        self._read_model = read_model
        self._clock = clock
        self._seq = 0
        self._known: dict[str, Incident] = {}
        self._next: dict[str, datetime] = {}
        """When each is to be looked at; an incident that nothing can come due for is not in it."""
        self.passed: Counter[str] = Counter()
        """How often each clock was passed, ever."""
        self.escalations: Counter[int] = Counter()
        """How often each tier was told, ever."""
        self._log = log.get("timekeeper")

    async def run(self) -> None:
        """For ever. :raises JournalUnavailable: it cannot be read; begin anew."""
        say = partial(self._log.error, "a clock that passed could not be written; trying again")
        await self.begin()
        while True:
            await until_written(self.look, self._clock, _DISK, say)
            await self._clock.sleep(_PACE)
            now = self._clock.now()
            until = min((*self._next.values(), now + _GLANCE))
            await self._read_model.journal.changed(self._seq, max(until - now, timedelta()))

    async def begin(self) -> None:
        """Know what the journal says now. Counts what was ever passed once; a start reads each open incident."""
        journal = self._read_model.journal
        self._seq = await journal.changed(0, timedelta())
        self._known, self._next = {}, {}
        self.passed, self.escalations = Counter(), Counter()
        for record in await journal.since(0, facts.kinds(facts.ClockPassed, facts.Escalated)):
            self._count(record.fact)
        await self._read_model.refresh()
        for service in self._services:
            ledger = self._read_model.of(service)
            last = {one.drill != "": one for one in ledger.rollbacks}  # the newest of each
            well = ledger.present is not None and ledger.present.key in ledger.good
            for one in last.values():
                if one.ended is None or (one.outcome in BAD_ENDS and not well):
                    await self._read(one.incident)

    async def _read(self, name: str) -> None:
        found = await self._read_model.incident(name)
        if found is not None:
            self._keep(found)

    def _keep(self, incident: Incident) -> None:
        """It is looked at next time."""
        self._known[incident.id] = incident
        self._next[incident.id] = incident.opened

    async def look(self) -> int:
        """Take in what was written, and write what is due; how many facts.

        :raises JournalUnavailable: what is left comes with the next look.
        """
        await self._take_in()
        now = self._clock.now()
        names = [name for name, at in self._next.items() if at <= now]
        written = 0
        for first in range(0, len(names), _AT_ONCE):
            together = [self._write_due(self._known[name], now) for name in names[first : first + _AT_ONCE]]
            found = await asyncio.gather(*together, return_exceptions=True)
            for one in found:
                if isinstance(one, BaseException):
                    raise one
                written += one
        return written

    async def _write_due(self, incident: Incident, now: datetime) -> int:
        found = due(incident, self._terms, self._earlier(incident), now)
        if found:
            stream = incident_stream(incident.id)
            await self._read_model.append(*(Entry(stream, fact) for fact in found))
            for fact in found:  # with the next look they come back, and it is looked at again
                self._count(fact)
            self._log.info("time is over", incident=incident.id, passed=[str(_name(fact)) for fact in found])
            return len(found)
        at = next_due(incident, self._terms, now)
        if at is not None:
            self._next[incident.id] = at
            return 0
        del self._next[incident.id]
        if incident.outcome is not None:
            del self._known[incident.id]
        return 0

    def _earlier(self, incident: Incident) -> Rollback | None:
        """The service's last rollback before this one that touched anything, drills aside; a drill has none."""
        if incident.drill:
            return None
        before = []
        for one in self._read_model.of(incident.service).rollbacks:
            if one.incident == incident.id:
                break
            before.append(one)
        return next((one for one in reversed(before) if one.acted and not one.drill), None)

    # -- what was written -----------------------------------------------------------------------
    async def _take_in(self) -> None:
        newest = await self._read_model.journal.changed(0, timedelta())
        if newest <= self._seq:
            return
        records = await self._read_model.journal.since(self._seq, _KINDS)
        for record in records:
            await self._take(record)
        self._seq = max([newest, *(record.seq for record in records)])

    async def _take(self, record: Record) -> None:
        if isinstance(record.fact, facts.MarkedGood):
            self._well(record)
            return
        name = name_in(record.stream)
        known = self._known.get(name)
        if isinstance(record.fact, facts.Opened):
            begun = opened(record)
            if not begun.drill:
                self._forget_ended(begun.service)
            self._keep(begun)
        elif known is not None:
            if record.n > known.n:
                self._keep(evolve(known, record))
        elif isinstance(record.fact, facts.Relapsed):
            await self._read(name)

    def _count(self, fact: facts.ClockPassed | facts.Escalated) -> None:
        if isinstance(fact, facts.ClockPassed):
            self.passed[fact.clock] += 1
        else:
            self.escalations[fact.tier] += 1

    def _well(self, record: Record) -> None:
        """The state that runs is good, or somebody says so of another: only the first ends what ended badly."""
        service = name_in(record.stream)
        present = self._read_model.of(service).present
        if record.actor == DAEMON and present is not None and present.key == record.fact.state.key:
            self._forget_ended(service)

    def _forget_ended(self, service: str) -> None:
        ended = [one.id for one in self._known.values() if one.service == service and one.outcome is not None]
        for name in ended:
            del self._known[name]
            self._next.pop(name, None)


def _name(fact: facts.ClockPassed | facts.Escalated) -> str:
    return fact.clock if isinstance(fact, facts.ClockPassed) else f"tier {fact.tier}"
