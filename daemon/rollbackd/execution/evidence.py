"""Evidence of a rollback that does not help: what stands around the service, for people; nothing is decided by it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

from rollbackd import facts
from rollbackd.config.models import Config, Service
from rollbackd.incident.outcomes import BAD_ENDS
from rollbackd.incident.spec import CheckRef
from rollbackd.journal import Entry, until_written
from rollbackd.model import CheckResult, Verdict, incident_stream, name_in
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock

RunChecks = Callable[[Service, Sequence[CheckRef]], Awaitable[tuple[CheckResult, ...]]]
_BAD_ROUNDS = 2
"""Bad rounds of verification in a row after which it is asked, once an incident."""
_FRESH = timedelta(minutes=10)
"""How long after an end it is still asked, by a start that finds that nobody had: later it would say nothing of it."""
_AGAIN = timedelta(seconds=5)


class EvidenceTaker:
    """The root task `evidence`."""

    def __init__(self, config: Config, read_model: ReadModel, run_checks: RunChecks, clock: Clock) -> None:
        self._config = config
        self._read_model = read_model
        self._run_checks = run_checks
        self._clock = clock
        self._wanted: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        """Incidents, each with whether it has ended."""
        self._bad: Counter[str] = Counter()
        """Bad rounds in a row, by stream."""
        self._log = log.get("evidence")
        read_model.subscribe(self._heard)

    def _heard(self, record: facts.Record) -> None:
        fact, stream = record.fact, record.stream
        if isinstance(fact, facts.Closed):
            self._bad.pop(stream, None)
            if fact.outcome in BAD_ENDS:
                self._wanted.put_nowait((name_in(stream), True))
        elif isinstance(fact, facts.Round):
            self._bad[stream] = self._bad[stream] + 1 if fact.verdict is Verdict.BAD else 0
            if self._bad[stream] == _BAD_ROUNDS:
                self._wanted.put_nowait((name_in(stream), False))

    async def run(self) -> None:
        """Take it for ever; first of what ended badly while nobody did."""
        for incident in self._read_model.last_incidents():
            found = await self._read_model.incident(incident)
            if found is None or found.outcome not in BAD_ENDS or found.closed is None or found.evidence_at_end:
                continue
            if self._clock.now() - found.closed < _FRESH:
                self._wanted.put_nowait((incident, True))
        while True:
            incident, ended = await self._wanted.get()
            say = partial(self._log.error, "evidence waits for the journal", incident=incident)
            await until_written(partial(self._take, incident, ended=ended), self._clock, _AGAIN, say)

    async def _take(self, incident: str, *, ended: bool) -> None:
        """Ask and write it down, unless that was done. :raises JournalUnavailable:"""
        found = await self._read_model.incident(incident)
        service = self._config.service(found.service) if found is not None else None
        if found is None or service is None or not service.evidence:
            return
        if found.evidence_at_end if ended else found.evidence:
            return
        results = await self._run_checks(service, service.evidence)
        fact = facts.EvidenceTaken(results, at_end=ended)
        await self._read_model.append(Entry(incident_stream(incident), fact))
