"""Marks in layers of data: at each change that is announced, and where a state has become good.

A mark is no fact: what goes back to a time finds it where it is, and without it loses a little more.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from functools import partial

from rollbackd import facts
from rollbackd.calendar import CalendarEntry
from rollbackd.execution.layers import Layers, LookFailed
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import FLEET
from rollbackd.snapshots.layer_snapshots import GOOD
from rollbackd.snapshots.schedule import BACKUP_FAILED
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock

CHANGE = "change"
"""Why a change is marked."""


class DataMarks:
    """All layers that can be marked."""

    def __init__(self, layers: Mapping[str, Layers], read_model: ReadModel, clock: Clock) -> None:
        self._layers = {name: found for name, found in layers.items() if found.marked}
        self._read_model = read_model
        self._clock = clock
        self._good: dict[str, str] = {}
        """For each service, the key of the good state that was marked last; a start marks what runs once more."""
        self._failing: set[str] = set()
        self._log = log.get("marks")

    def planned(self) -> list[CalendarEntry]:
        """Entries of the calendar that mark states which have become good."""
        return [
            CalendarEntry(
                f"mark {service}",
                None,
                lambda: None,
                partial(self._mark_good, service),
                partial(self._to_mark, service),
            )
            for service in self._layers
        ]

    def _to_mark(self, service: str) -> str | None:
        """The key of a good state that runs and is not marked."""
        ledger = self._read_model.of(service)
        state = ledger.present
        if state is None or state.key not in ledger.good or ledger.acting is not None:
            return None
        return state.key if self._good.get(service) != state.key else None

    async def _mark_good(self, service: str) -> None:
        if (key := self._to_mark(service)) is not None:
            self._good[service] = key
            await self.set(service, self._clock.now(), GOOD)

    async def set(self, service: str, at: datetime, why: str) -> None:
        """Mark the layers of a service. One that cannot be marked stops nothing: people are told."""
        if (found := self._layers.get(service)) is not None:
            await asyncio.gather(*(self._set(found, layer, at, why) for layer in found.marked))

    async def _set(self, layers: Layers, layer: str, at: datetime, why: str) -> None:
        problem = ""
        try:
            await layers.mark(layer, at, why)
        except LookFailed as error:
            problem = str(error).removeprefix(f"{layer}: ")
        await self._tell(layers.service.name, layer, problem)

    async def _tell(self, service: str, layer: str, problem: str) -> None:
        name = f"{service}/{layer}"
        if bool(problem) == (name in self._failing):
            return
        text = f"{name} is marked again"
        if problem:
            text = f"{name} was not marked: {problem}; a rollback goes to the time, and loses a little more"
        fact = facts.Notice(BACKUP_FAILED, text, service, over=not problem, details={"subject": f"{layer} marks"})
        try:
            await self._read_model.append(Entry(FLEET, fact))
        except JournalUnavailable as error:
            self._log.warning("a notice waits for the next mark", service=service, layer=layer, error=str(error))
            return
        (self._failing.add if problem else self._failing.discard)(name)
