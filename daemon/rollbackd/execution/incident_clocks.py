"""The clocks of incidents that are open or ended badly: what comes due is written down, so that no restart forgets it.

Only the next time of each incident is remembered, so that a thousand of them that wait cost nothing until one is due.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import get_args

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.facts import Record
from rollbackd.incident.clocks import due, next_due
from rollbackd.incident.life import Incident
from rollbackd.incident.outcomes import BAD_ENDS
from rollbackd.journal import Entry, until_written
from rollbackd.model import DAEMON, incident_stream, name_in
from rollbackd.policy.ledger import Rollback
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock

_PACE = timedelta(seconds=1)
"""The pause between two looks, however much is written meanwhile."""
_GLANCE = timedelta(seconds=30)
"""The longest sleep, since wall time may be set meanwhile."""
_DISK = timedelta(seconds=5)
_NOW = datetime.min.replace(tzinfo=UTC)
_AT_ONCE = 200
"""How many incidents have their facts written together, in one commit."""
_UNTIMED = (facts.Adopted, facts.Told, facts.Measured)
"""Facts of an incident that nothing comes due by."""
_KINDS = facts.kinds(*(one for one in get_args(facts.IncidentFact) if one not in _UNTIMED), facts.MarkedGood)


class IncidentClocks:
    """The root task `timekeeper`."""

    def __init__(self, config: Config, read_model: ReadModel, clock: Clock) -> None:
        self._terms = config.terms
        self._services = tuple(service.name for service in config.services)
        self._read_model = read_model
        self._clock = clock
        self._watched: set[str] = set()
        """Incidents that are open, or ended badly."""
        self._next: dict[str, datetime] = {}
        """When each is to be looked at; an incident that nothing can come due for is not in it."""
        self._log = log.get("incident_clocks")
        read_model.subscribe(self._heard)

    async def run(self) -> None:
        """Look for ever. :raises JournalUnavailable: the journal cannot be read; begin anew."""
        say = partial(self._log.error, "a clock that passed could not be written; trying again")
        await self.begin()
        while True:
            await until_written(self.look, self._clock, _DISK, say)
            await self._clock.sleep(_PACE)
            now = self._clock.now()
            until = min((*self._next.values(), now + _GLANCE))
            await self._read_model.journal.changed(self._read_model.seq, max(until - now, timedelta()))

    async def begin(self) -> None:
        """Look next time at each incident that is open, or ended badly."""
        await self._read_model.refresh()
        self._watched, self._next = set(), {}
        for service in self._services:
            ledger = self._read_model.of(service)
            last = {one.drill != "": one for one in ledger.rollbacks}  # the newest of each
            well = ledger.present is not None and ledger.present.key in ledger.good
            for one in last.values():
                if one.ended is None or (one.outcome in BAD_ENDS and not well):
                    self._watched.add(one.incident)
                    self._next[one.incident] = _NOW

    async def look(self) -> int:
        """Take in what was written, and write what is due; returns how many facts that were.

        :raises JournalUnavailable: what is left comes with the next look.
        """
        await self._read_model.refresh()
        now = self._clock.now()
        names = [name for name, at in self._next.items() if at <= now]
        written = 0
        for first in range(0, len(names), _AT_ONCE):
            together = [self._look_at(name, now) for name in names[first : first + _AT_ONCE]]
            found = await asyncio.gather(*together, return_exceptions=True)
            for one in found:
                if isinstance(one, BaseException):
                    raise one
                written += one
        return written

    async def _look_at(self, name: str, now: datetime) -> int:
        incident = await self._read_model.incident(name)
        if name not in self._next:  # it ended well meanwhile
            return 0
        if incident is None:
            self._forget([name])
            return 0
        return await self._write_due(incident, now)

    async def _write_due(self, incident: Incident, now: datetime) -> int:
        found = due(incident, self._terms, self._earlier(incident), now)
        if found:
            stream = incident_stream(incident.id)
            await self._read_model.append(*(Entry(stream, fact) for fact in found))
            self._log.info("time is over", incident=incident.id, passed=[str(_name(fact)) for fact in found])
            return len(found)
        at = next_due(incident, self._terms, now)
        if at is not None:
            self._next[incident.id] = at
            return 0
        del self._next[incident.id]
        if incident.outcome is not None:
            self._watched.discard(incident.id)
        return 0

    def _earlier(self, incident: Incident) -> Rollback | None:
        """The service's last rollback before this incident that touched anything, without drills; a drill has none."""
        if incident.drill:
            return None
        before = []
        for one in self._read_model.of(incident.service).rollbacks:
            if one.incident == incident.id:
                break
            before.append(one)
        return next((one for one in reversed(before) if one.acted and not one.drill), None)

    # -- what was written -----------------------------------------------------------------------
    def _heard(self, record: Record) -> None:
        """An incident of which something is written is looked at next time."""
        fact, name = record.fact, name_in(record.stream)
        if isinstance(fact, facts.MarkedGood):
            self._well(record)
            return
        if isinstance(fact, facts.Opened) and not fact.decision.trigger.drill:
            self._forget_ended(fact.service)
        if isinstance(fact, facts.Opened | facts.Relapsed):
            self._watched.add(name)
        if name in self._watched and type(fact).__name__ in _KINDS:
            self._next[name] = _NOW

    def _well(self, record: Record) -> None:
        """A state was marked good. Only the daemon's mark on the one that runs ends what ended badly."""
        service = name_in(record.stream)
        present = self._read_model.of(service).present
        if record.actor == DAEMON and present is not None and present.key == record.fact.state.key:
            self._forget_ended(service)

    def _forget_ended(self, service: str) -> None:
        self._forget([one.incident for one in self._read_model.of(service).rollbacks if one.ended is not None])

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._watched.discard(name)
            self._next.pop(name, None)


def _name(fact: facts.ClockPassed | facts.Escalated) -> str:
    return fact.clock if isinstance(fact, facts.ClockPassed) else f"tier {fact.tier}"
