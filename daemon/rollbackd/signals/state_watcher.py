"""The state watcher looks at the layers' present releases, and writes down when a state replaced another.

A state is what two looks one after the other agree on. While an incident acts, the layers are the runner's.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from rollbackd import facts
from rollbackd.execution.layers import Layers, LookFailed
from rollbackd.incident.plan import reached
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import FLEET, Outcome, State, service_stream
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.rounds import Recurring

_KEPT_EVERY = timedelta(seconds=15)
"""How often the time of a look that found nothing new is written down, for the life after this one."""


async def _settled(_service: str) -> str:
    return ""


class StateWatcher:
    """Looks at the layers, one look at a time for each service."""

    def __init__(
        self,
        read_model: ReadModel,
        layers: Mapping[str, Layers],
        clock: Clock,
        every: timedelta,
        between: Callable[[str], Awaitable[str]] = _settled,
    ) -> None:
        """:param between: why what a service's layers hold right now is no state; empty when they do."""
        self._read_model = read_model
        self._between = between
        self._layers = layers
        self._clock = clock
        self._every = every
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._last: dict[str, datetime] = {}
        """When the present state was seen last."""
        self._kept: dict[str, datetime] = {}
        """The same, as it was written down last."""
        self._refs_read: set[str] = set()
        self.problems: dict[str, str] = {}
        """Services whose last look failed, and why."""
        self._log = log.get("states")

    def turns(self) -> Iterator[Recurring]:
        """A look at each service every so often, the services spread over that time."""
        for number, service in enumerate(self._layers):
            offset = self._every * number / len(self._layers)
            yield Recurring(f"states {service}", self._every, partial(self.look, service, told=True), offset)

    async def look(self, service: str, *, mixed: bool = False, told: bool = False) -> State | None:
        """The present state, written down when it is new.

        None in transition, after a failed look, and while an incident acts.

        :param mixed: also what is no state because the parts of a layer differ; that is never written down.
        :param told: that nothing has changed may be what a layer was told last.
        """
        async with self._locks[service]:
            before = self._read_model.of(service)
            if before.acting is not None:
                return None
            try:
                await self._check_settled(service)
                state = await self._twice(service, mixed=mixed, told=told)
                await self._check_settled(service)
            except LookFailed as error:
                if self.problems.get(service) != str(error):
                    self._log.warning("a look failed", service=service, error=str(error))
                self.problems[service] = str(error)
                return None
            if state is not None and state.mixed:
                return state
            self.problems.pop(service, None)
            if state is not None and self._read_model.of(service).rollbacks == before.rollbacks:
                await self._take_in(service, state)
                return state
            return None

    def seen(self, service: str) -> datetime | None:
        """When the state that is known to run was seen last, in this life; None: not yet."""
        return self._last.get(service)

    async def peek(self, service: str) -> State | None:
        """What runs right now, whoever changed it; nothing is written down.

        None in transition, or after a failed look.
        """
        async with self._locks[service]:
            try:
                return await self._twice(service)
            except LookFailed as error:
                self.problems[service] = str(error)
                return None

    async def _check_settled(self, service: str) -> None:
        if why := await self._between(service):
            raise LookFailed(why)

    async def _twice(self, service: str, *, mixed: bool = False, told: bool = False) -> State | None:
        known = self._read_model.of(service).present
        key = known.key if known is not None else ""
        return await self._layers[service].steady(key, self._clock, mixed=mixed, told=told)

    async def _take_in(self, service: str, state: State) -> None:
        now = self._clock.now()
        ledger = self._read_model.of(service)
        if ledger.present is None or ledger.present.key != state.key:
            last = ledger.spells[-1] if ledger.spells else None
            after = await self._last_look(service, last.by if last is not None else now)
            by = _left_by(ledger, after)
            if by and last is not None and await self._is_overtaken(by, state.differing(last.state)):
                by = ""
            entries = [Entry(service_stream(service), facts.Changed(state, min(after, now), now, by))]
            blocked = ledger.blocked(state)
            if blocked:
                names = ", ".join(f"{layer} {state.releases[layer].name}" for layer in blocked)
                text = f"{service}: a quarantined release runs again: {names}"
                entries.append(Entry(FLEET, facts.Notice("quarantined_release", text, service)))
            await self._read_model.append(*entries)
            self._log.info("state", service=service, state=state.name, key=state.key)
        self._last[service] = now
        await self._keep_look(service, now)
        await self._mark_by_refs(service, state)

    async def _is_overtaken(self, name: str, moved: Collection[str]) -> bool:
        """Whether an incident ended since somebody else moved a layer, and no other layer is another now."""
        incident = await self._read_model.incident(name)
        return incident is not None and bool(incident.superseded) and {*moved} <= {*incident.superseded.split(" and ")}

    async def _last_look(self, service: str, since: datetime) -> datetime:
        """When the present state, which runs since then, was seen last: by this life, or coarsely by the one before."""
        seen = self._last.get(service)
        if seen is None and (seconds := await self._read_model.journal.cursor(_look(service))):
            seen = datetime.fromtimestamp(seconds, UTC)
        return max(seen, since) if seen is not None else since

    async def _keep_look(self, service: str, now: datetime) -> None:
        """Write down when it was seen, so that a restart is no gap in which everything may have happened."""
        if service in self._kept and abs(now - self._kept[service]) < _KEPT_EVERY:
            return
        with suppress(JournalUnavailable):  # a look is no less true for it
            await self._read_model.journal.enqueue((), _look(service), int(now.timestamp()))
            self._kept[service] = now

    async def _mark_by_refs(self, service: str, state: State) -> None:
        """Mark states that a layer's ref marks good; one that never ran here only where one layer makes the state."""
        marks = []
        if state.releases and any(release.good for release in state.releases.values()):
            marks.append(state)
        if service not in self._refs_read and len(state.releases) == 1:
            self._refs_read.add(service)
            try:
                there = await self._layers[service].there()
            except LookFailed:
                there = {}
            for layer, releases in there.items():
                marks += [reached(state, {layer: release}) for release in reversed(releases) if release.good]
        ledger = self._read_model.of(service)
        entries = []
        for marked in marks:
            known = marked.key in ledger.good or marked.key in ledger.taken
            if not (known or ledger.switched(marked) or ledger.blocked(marked)):
                refs = ", ".join(release.label for release in marked.releases.values() if release.good)
                entries.append(Entry(service_stream(service), facts.MarkedGood(marked, f"ref {refs}")))
        if entries:
            await self._read_model.append(*entries)


def _look(service: str) -> str:
    """The name under which the journal keeps the last look at a service, in seconds since 1970."""
    return f"look {service}"


def _left_by(ledger: ServiceLedger, looked: datetime) -> str:
    """The incident that left the layers like this: one that acted and did not recover, at the first look since.

    `looked` is the look before this one. After a look that found the layers as the incident said, a change is
    somebody's own.
    """
    last = next((one for one in reversed(ledger.rollbacks) if one.acted or not one.drill), None)
    if last is None or last.ended is None or not last.acted:
        return ""
    if last.outcome is Outcome.RECOVERED and last.drill != "there":  # a drill that was ended there never came back
        return ""
    if ledger.spells and ledger.spells[-1].incident == last.incident and last.outcome is Outcome.SUPERSEDED:
        return ""  # its work was seen whole, and what runs now is somebody's own
    return last.incident if looked <= last.ended else ""
