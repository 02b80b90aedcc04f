"""Effects, which change the world: one at a time, and what became of it.

The world is asked first, so that none is repeated. An effect never raises: whatever an adapter does, a fact says it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from rollbackd import facts
from rollbackd.adapter import Adapter, AdapterError, Bracket, Noting, Staged, refuses_older
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.execution.layers import ASKING, Layers, LookFailed
from rollbackd.facts import IncidentFact
from rollbackd.incident.life import Flight, Incident
from rollbackd.incident.next import ADOPTIONS
from rollbackd.model import Change, Progress, Verdict
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import one_line

T = TypeVar("T")
_Failure = facts.EnterFailed | facts.ApplyFailed | facts.LeaveFailed
_FAILURES: Mapping[str, type[_Failure]] = {
    "enter": facts.EnterFailed,
    "apply": facts.ApplyFailed,
    "leave": facts.LeaveFailed,
}
_CROSSED: Mapping[str, type[facts.Entered | facts.Left]] = {"enter": facts.Entered, "leave": facts.Left}
_STILL_RUNNING = timedelta(milliseconds=200)
_LOOK_AGAIN = timedelta(seconds=1)
_LONGEST_WAIT = timedelta(minutes=10)
_NOTE = 1000
"""How many characters are kept of what a bracket says about its crossing."""
_LONGEST_STEP = timedelta(hours=1)
"""The limit of a step whose adapter has no time limit of its own."""


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of one incident, on the layers of its configuration."""

    layers: Layers
    clock: Clock
    check_runner: CheckRunner
    held: Callable[[Incident], Awaitable[str]]
    """What holds the service right now; empty for nothing."""
    barred: Callable[[], str]
    """Why nothing may be begun here now, since another daemon may drive by now; empty for nothing."""
    aborted: Callable[[], Awaitable[bool]]
    """Whether somebody aborted the incident meanwhile."""
    stopping: asyncio.Event
    log: FilteringBoundLogger

    async def perform(self, incident: Incident, flight: Flight) -> IncidentFact | None:
        """Do what is left of an effect, and say what became of it; None when it is to be begun again later."""
        adapter = self.layers.adapters[flight.layer]
        self.log.info("performing", step=flight.layer, what=flight.what, attempt=flight.attempt)
        boundary(f"runner.{flight.what}")
        try:
            if flight.what == "apply":
                fact = await self._apply(incident, flight, adapter)
            else:
                fact = await self._cross(incident, flight, adapter)
        except AdapterError as error:
            said = self.layers.clean(str(error))
            fact = _failed(flight, said, permanent=error.permanent, evidence=error.evidence)
        except TimeoutError:
            fact = _failed(flight, "did not end in its time", permanent=False)
        except Exception as error:  # an adapter of somebody else's may raise anything; the incident goes on to its end
            self.log.exception("adapter failed", step=flight.layer)
            said = self.layers.clean(f"{type(error).__name__}: {error}")
            fact = _failed(flight, f"its adapter failed: {said}", permanent=False)
        boundary(f"runner.{flight.what}.done")
        return fact

    def waits_for(self, flight: Flight) -> timedelta:
        """How long an effect is waited for that another host has begun, and may still do."""
        if not flight.elsewhere or refuses_older(self.layers.adapters[flight.layer]):
            return timedelta()
        return timedelta(seconds=self._limit(flight.layer))

    async def finish(self, incident: Incident, flight: Flight) -> IncidentFact | None:
        """What became of an effect that was cut off too often, or with its host: done by now, or a person's.

        What another host began and may still do is waited for; None when we are to stop meanwhile.
        """
        if flight.elsewhere and flight.adoptions < ADOPTIONS and refuses_older(self.layers.adapters[flight.layer]):
            return await self.perform(incident, flight)
        why = f"{flight.what} {flight.layer} was cut off {flight.adoptions} times: it may kill whoever runs it"
        if flight.elsewhere:
            why = f"{flight.what} {flight.layer} was begun on {flight.elsewhere}, and may still run there"
        self.log.warning("cut off; only looking whether it is done", step=flight.layer, what=flight.what, why=why)
        deadline = self.clock.monotonic() + self.waits_for(flight).total_seconds()
        while True:
            untold = ""
            try:
                if await self._is_done(incident, flight, self.layers.adapters[flight.layer]):
                    if flight.what == "apply":
                        brought = await self.layers.brought(flight.layer, incident.present)
                        return facts.Applied(flight.layer, brought=brought)
                    return _CROSSED[flight.what](flight.layer)
            except Exception as error:  # noqa: BLE001  # an adapter of somebody else's may raise anything
                untold = f"; whether it is done cannot be told: {self.layers.clean(str(error))}"
            if self.clock.monotonic() >= deadline or await self.aborted():
                return facts.Parked(why + untold)
            if self.stopping.is_set():
                return None
            await self.clock.sleep(_LOOK_AGAIN)

    async def was_overtaken(self, incident: Incident, flight: Flight) -> bool:
        """Whether somebody moved the layer of a step that was begun, and is not tried again, to something else.

        Raises whatever the adapter does.
        """
        progress = await _quickly(self.layers.adapters[flight.layer].progress(_change(incident, flight)))
        return progress is Progress.SUPERSEDED

    async def _is_done(self, incident: Incident, flight: Flight, adapter: Adapter) -> bool:
        if flight.what != "apply":
            return isinstance(adapter, Bracket) and await _quickly(adapter.inside(incident.mark)) is (
                flight.what == "enter"
            )
        progress = await _quickly(adapter.progress(_change(incident, flight)))
        name = self.layers.service.layers[flight.layer].done_when
        if progress is not Progress.DONE or not name:
            return progress is Progress.DONE
        return (await self.check_runner.ask(self.layers.service, name)).verdict is Verdict.GOOD

    async def _apply(self, incident: Incident, flight: Flight, adapter: Adapter) -> IncidentFact | None:
        change = _change(incident, flight)
        deadline = self.clock.monotonic() + self._limit(flight.layer)
        progress = await _quickly(adapter.progress(change))
        if progress is Progress.NOT_STARTED:
            if await self.held(incident) or self.barred():
                return None
            async with asyncio.timeout(self._limit(flight.layer)):
                await self._move(change, adapter)
            progress = await _quickly(adapter.progress(change))
        while progress is Progress.RUNNING:
            if self.clock.monotonic() > deadline:
                return _failed(flight, "still running after its time limit", permanent=False)
            await self.clock.sleep(_STILL_RUNNING)
            progress = await _quickly(adapter.progress(change))
        if progress is Progress.SUPERSEDED:
            return facts.StepSuperseded(flight.layer)
        if progress is Progress.NOT_STARTED:
            return _failed(flight, "it ended, and yet the layer says that nothing was done", permanent=False)
        return await self._done_when(incident, flight, change.key, adapter)

    async def _move(self, change: Change, adapter: Adapter) -> None:
        """Apply a change; a layer that goes in stages may ask checks of its service between them."""
        if isinstance(adapter, Staged):
            await adapter.apply_in_stages(change, partial(self.check_runner.ask, self.layers.service))
        else:
            await adapter.apply(change)

    async def _done_when(self, incident: Incident, flight: Flight, key: str, adapter: Adapter) -> IncidentFact | None:
        """A step stays running until the check that its layer names passes; an abort ends the waiting."""
        name = self.layers.service.layers[flight.layer].done_when
        own = self._own_limit(flight.layer)
        deadline = self.clock.monotonic() + (_LONGEST_WAIT if own is None else own).total_seconds()
        while name:
            result = await self.check_runner.ask(self.layers.service, name)
            if result.verdict is Verdict.GOOD:
                break
            if self.stopping.is_set():
                return None
            if await self.aborted() or self.clock.monotonic() > deadline:
                return _failed(flight, f"{name} does not pass: {result.reason}", permanent=True)
            await self.clock.sleep(_LOOK_AGAIN)
        try:
            brought = await self.layers.brought(flight.layer, incident.present)
        except LookFailed as error:
            return _failed(flight, f"it is done, and what it took along cannot be seen: {error}", permanent=False)
        return facts.Applied(flight.layer, await self._note(key, flight, adapter), brought)

    def _own_limit(self, layer: str) -> timedelta | None:
        own = getattr(self.layers.service.layers[layer], "timeout", None)
        return own if isinstance(own, timedelta) else None

    def _limit(self, layer: str) -> float:
        """Seconds, from outside, over all that a step does; its adapter limits each single command."""
        own = self._own_limit(layer)
        return (own * 6 + ASKING if own is not None else _LONGEST_STEP).total_seconds()

    async def _cross(self, incident: Incident, flight: Flight, adapter: Adapter) -> IncidentFact | None:
        if not isinstance(adapter, Bracket):
            return _failed(flight, "it cannot be entered", permanent=True)
        wanted = flight.what == "enter"
        if await _quickly(adapter.inside(incident.mark)) is not wanted:
            if self.barred():
                return None
            async with asyncio.timeout(self._limit(flight.layer)):
                await (adapter.enter(incident.mark) if wanted else adapter.leave(incident.mark))
            if await _quickly(adapter.inside(incident.mark)) is not wanted:
                state = "outside" if wanted else "inside"
                return _failed(flight, f"it ended, and yet the layer says it is {state}", permanent=False)
        return _CROSSED[flight.what](flight.layer, await self._note(incident.mark, flight, adapter))

    async def _note(self, key: str, flight: Flight, adapter: Adapter) -> str:
        """What the layer says about what was done. Where it cannot say it that has been done all the same."""
        if not isinstance(adapter, Noting):
            return ""
        try:
            said = await _quickly(adapter.note(key))
        except Exception as error:  # noqa: BLE001  # an adapter of somebody else's may raise anything
            self.log.info("a layer has no note", step=flight.layer, error=self.layers.clean(str(error)))
            return ""
        return one_line(self.layers.clean(said)[:_NOTE])


def _change(incident: Incident, flight: Flight) -> Change:
    """The step in flight, as it was planned."""
    assert incident.plan is not None
    planned = next(change for change in incident.plan.steps if change.layer == flight.layer)
    return replace(planned, intended=flight.since)


def _failed(flight: Flight, reason: str, *, permanent: bool, evidence: str = "") -> _Failure:
    return _FAILURES[flight.what](flight.layer, reason, permanent, evidence)


async def _quickly(question: Awaitable[T]) -> T:
    async with asyncio.timeout(ASKING.total_seconds()):
        return await question
