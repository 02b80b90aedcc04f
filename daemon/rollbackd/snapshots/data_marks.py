"""Marks in layers of data: at each change that is announced, and where a state has become good.

A mark is no fact: what goes back to a time finds it where it is, and without it loses a little more.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial

from rollbackd import facts
from rollbackd.adapter import AdapterError, Marks
from rollbackd.calendar import CalendarEntry
from rollbackd.execution.layers import Layers
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import FLEET
from rollbackd.snapshots.layer_snapshots import GOOD
from rollbackd.snapshots.schedule import BACKUP_FAILED
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration
from rollbackd.system import log
from rollbackd.system.clock import Clock

CHANGE = "change"
"""Why a change is marked."""
_WITHIN = timedelta(seconds=5)
"""How long whoever announces a change waits for its mark."""


class DataMarks:
    """All layers that can be marked."""

    def __init__(self, layers: Mapping[str, Layers], read_model: ReadModel, clock: Clock) -> None:
        self._by_service: dict[str, dict[str, Marks]] = {}
        for service, found in layers.items():
            own: dict[str, Marks] = {name: each for name, each in found.adapters.items() if isinstance(each, Marks)}
            if own:
                self._by_service[service] = own
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
            for service in self._by_service
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
        found = self._by_service.get(service, {})
        await asyncio.gather(*(self._set(service, layer, each, at, why) for layer, each in found.items()))

    async def _set(self, service: str, layer: str, adapter: Marks, at: datetime, why: str) -> None:
        problem = ""
        try:
            async with asyncio.timeout(_WITHIN.total_seconds()):
                await adapter.mark(at, why)
        except TimeoutError:
            problem = f"no answer within {format_duration(_WITHIN)}"
        except AdapterError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001  # it may be anybody's adapter, and no announcement fails by it
            self._log.exception("adapter failed", service=service, layer=layer)
            problem = f"its adapter failed: {type(error).__name__}: {error}"
        await self._tell(service, layer, problem)

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
