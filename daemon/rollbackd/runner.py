"""The only loop that changes the world: asks `next_step`, does the one thing it names, writes down what happened.

A start is on disk before its effect; the effect always asks the world first. So the first run and the run after a
crash are the same code.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, assert_never

from rollbackd import facts, log
from rollbackd.adapter import Adapter, AdapterError, Bracket
from rollbackd.book import Book
from rollbackd.boundary import boundary
from rollbackd.clock import Clock
from rollbackd.config.load import load_service
from rollbackd.config.models import Service
from rollbackd.examine import Examiner
from rollbackd.incident import next as steps
from rollbackd.incident.ending import ending
from rollbackd.incident.life import Flight, Incident, evolve
from rollbackd.incident.spec import VerifySpec
from rollbackd.journal import Conflict, Entry, JournalUnavailable
from rollbackd.layers import ASKING, LayerFactory, Layers, LookFailed
from rollbackd.model import (
    Change,
    CheckResult,
    Outcome,
    Plan,
    Progress,
    State,
    Verdict,
    incident_stream,
    verdict_of,
)

_GLANCE = timedelta(seconds=1)
"""How often a waiting incident looks whether a hold came or went."""
_STILL_RUNNING = timedelta(milliseconds=200)
_DISK = timedelta(seconds=2)
"""Between tries to write down what was done while the journal cannot be written."""
_LOOKS = 3
_LOOK_AGAIN = timedelta(seconds=5)
"""Before the layers are looked at again when one could not be looked at, or was not ready."""
_LONGEST_WAIT = timedelta(minutes=10)
_LONGEST_STEP = timedelta(hours=1)
"""For an adapter without a time limit of its own."""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why an incident ends before its first step."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the runner asks of the side that decides; it knows nothing else of it."""

    held: Callable[[Incident], Awaitable[str]]
    """What holds the service right now, read afresh; empty for nothing."""
    confirm: Callable[[Incident], Awaitable[Objection | None]]
    """The guards once more, right before the first step, and whether the trouble is still there."""
    condition: Callable[[Incident, datetime | None], Awaitable[tuple[CheckResult, ...]]]
    """The query or check that triggered, asked again; what reaches back before the last step is inconclusive."""


def process_name() -> str:
    """Boot id and process id: two processes never share it."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.getpid()}"
    return f"-/{os.getpid()}"


class Runner:
    """Drives incidents, each in a task of its own."""

    def __init__(
        self, book: Book, clock: Clock, factory: LayerFactory, examiner: Examiner, judgement: Judgement, concurrent: int
    ) -> None:
        self._book = book
        self._clock = clock
        self._factory = factory
        self._examiner = examiner
        self._judgement = judgement
        self._slots = asyncio.Semaphore(concurrent)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._stopping = asyncio.Event()
        self._log = log.get("runner")

    @property
    def driving(self) -> tuple[str, ...]:
        """The incidents that have a task."""
        return tuple(self._tasks)

    def start(self, name: str) -> None:
        """Drive an incident, if it is not driven already."""
        if name not in self._tasks and not self._stopping.is_set():
            self._wakes[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._drive_guarded(name), name=f"incident {name}")

    def poke(self, name: str) -> None:
        """Something was written about it, or a hold changed: look again now. Drives it when it is not driven."""
        if name in self._wakes:
            self._wakes[name].set()
        self.start(name)

    async def wait(self, name: str) -> None:
        """Until it is driven no more."""
        task = self._tasks.get(name)
        if task is not None:
            await asyncio.shield(asyncio.wait({task}))

    async def stop(self) -> None:
        """Stop at the next boundary of each: an effect in hand is finished."""
        self._stopping.set()
        self.wake_all()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def wake_all(self) -> None:
        """A place became free, a hold changed: all look again now."""
        for wake in self._wakes.values():
            wake.set()

    async def _drive_guarded(self, name: str) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    return await Drive(self, name).run()
                except JournalUnavailable as error:
                    self._log.error("the journal cannot be used; trying again", incident=name, error=str(error))
                    await self._clock.sleep(_DISK)
        except Exception as error:  # noqa: BLE001  # one incident must not end the daemon; it stays open, is told, and is tried again
            self._log.exception("incident stopped being driven", incident=name)
            await self._give_to_person(name, error)
        finally:
            poked = self._wakes.pop(name).is_set()
            del self._tasks[name]
            if poked:
                self.start(name)

    async def _give_to_person(self, name: str, error: Exception) -> None:
        with suppress(JournalUnavailable, Conflict):
            reason = f"rollbackd itself failed: {type(error).__name__}: {error}"
            await self._book.append(Entry(incident_stream(name), facts.Parked(reason)))


class Drive:
    """One incident, from adoption until nothing is left to do."""

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._name = name
        self._stream = incident_stream(name)
        self._clock = runner._clock  # noqa: SLF001  # two halves of one thing
        self._book = runner._book  # noqa: SLF001
        self._judgement = runner._judgement  # noqa: SLF001
        self._examiner = runner._examiner  # noqa: SLF001
        self._wake = runner._wakes[name]  # noqa: SLF001
        self._stopping = runner._stopping  # noqa: SLF001
        self._slots = runner._slots  # noqa: SLF001
        self._log = log.get("runner").bind(incident=name)
        self._layers: Layers
        self._has_slot = False
        self._unprepared = 0

    async def run(self) -> None:
        incident = await self._read()
        self._layers = self._runner._factory.build(load_service(dict(incident.config)))  # noqa: SLF001
        try:
            await self._loop(incident)
        finally:
            self._free()

    async def _loop(self, incident: Incident) -> None:
        adopted = False
        while not self._stopping.is_set():
            self._wake.clear()
            held = await self._judgement.held(incident)
            step = steps.next_step(incident, self._verify(incident), held, self._clock.now())
            if isinstance(step, steps.Stop):
                incident = await self._news(incident)
                if not self._wake.is_set():
                    return
                continue
            if isinstance(step, steps.Wait) or not await self._slot(step):
                if incident.paused or incident.parked or incident.outcome is not None:
                    self._free()
                await self._wait(step.until if isinstance(step, steps.Wait) else None)
                incident = await self._news(incident)
            elif not adopted:
                incident, adopted = await self._intend(incident, facts.Adopted(process_name()))
            else:
                incident = await self._do(incident, step)

    async def _slot(self, step: steps.Step) -> bool:
        """Whether this may act now: so many rollbacks at once, and one that waits for a person takes no place."""
        if self._has_slot or isinstance(step, steps.Pause | steps.Park | steps.Close):
            return True
        if self._slots.locked():
            return False
        await self._slots.acquire()
        self._has_slot = True
        return True

    def _free(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._slots.release()
            self._runner.wake_all()

    async def _read(self) -> Incident:
        incident = await self._book.incident(self._name)
        if incident is None:
            raise LookupError(f"no incident {self._name}")
        return incident

    def _verify(self, incident: Incident) -> VerifySpec:
        service = self._layers.service
        plan = service.plans.get(incident.running)
        return plan.verify if plan is not None and plan.verify is not None else service.verify

    async def _wait(self, until: datetime | None) -> None:
        """Until then, or until somebody pokes; a hold is looked for every second."""
        now = self._clock.now()
        length = _GLANCE if until is None else min(until - now, _GLANCE)
        sleeping = asyncio.ensure_future(self._clock.sleep(length))
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waking.cancel()

    async def _news(self, incident: Incident) -> Incident:
        """The incident with what others wrote meanwhile: an abort, an acknowledgement, evidence, deliveries."""
        for record in await self._book.journal.read(self._stream, after=incident.n):
            incident = evolve(incident, record)
        return incident

    async def _intend(self, incident: Incident, fact: Any) -> tuple[Incident, bool]:
        """Journal something that starts an effect; False when another fact came first: decide again."""
        won = True
        try:
            await self._book.append(Entry(self._stream, fact, follows=incident.n), urgent=incident.acted)
        except Conflict:
            won = False
        return await self._news(incident), won

    async def _report(self, incident: Incident, *entries: Entry) -> Incident:
        """Journal what happened. It did happen: when the disk is full this is tried until it is written."""
        while True:
            try:
                await self._book.append(*entries, urgent=True)
            except JournalUnavailable as error:
                self._log.error("cannot write what was done; trying again", error=str(error))
                await self._clock.sleep(_DISK)
            else:
                return await self._news(incident)

    async def _fact(self, incident: Incident, fact: Any) -> Incident:
        return await self._report(incident, Entry(self._stream, fact))

    async def _do(self, incident: Incident, step: steps.Step) -> Incident:
        match step:
            case steps.Prepare():
                return await self._prepare(incident)
            case steps.Start(what, layer, attempt):
                starts = {"enter": facts.Entering, "apply": facts.ApplyStarted, "leave": facts.Leaving}
                return (await self._intend(incident, starts[what](layer, attempt)))[0]
            case steps.Perform(flight):
                fact = await self._perform(incident, flight)
                return await (self._news(incident) if fact is None else self._fact(incident, fact))
            case steps.LookAtGate():
                results = await self._examiner.run(self._service, self._verify(incident).gate, incident.stepped)
                return await self._fact(incident, facts.Gated(verdict_of(results), results))
            case steps.Look():
                results = await self._look(incident)
                return await self._fact(incident, facts.Round(verdict_of(results), results))
            case steps.EndPlan(name, outcome):
                return await self._fact(incident, facts.PlanEnded(name, outcome))
            case steps.Close(outcome, reason):
                return await self._close(incident, outcome, reason)
            case steps.Park(reason):
                return await self._fact(incident, facts.Parked(reason))
            case steps.Pause(reason):
                return await self._fact(incident, facts.Paused(reason))
            case steps.Unpause():
                return await self._fact(incident, facts.Unpaused())
            case steps.Wait() | steps.Stop():
                return incident
            case _:
                assert_never(step)

    @property
    def _service(self) -> Service:
        return self._layers.service

    async def _close(self, incident: Incident, outcome: Outcome, reason: str) -> Incident:
        parts = ending(incident, outcome, reason, self._verify(incident), self._clock.now())
        self._log.info("closed", outcome=outcome, reason=reason)
        return await self._report(incident, *(Entry(stream, fact) for stream, fact in parts))

    async def _look(self, incident: Incident) -> tuple[CheckResult, ...]:
        checks, condition = await asyncio.gather(
            self._examiner.run(self._service, self._verify(incident).checks, incident.stepped),
            self._judgement.condition(incident, incident.stepped),
        )
        return (*checks, *condition)

    # -- before the first step ------------------------------------------------------------------
    async def _prepare(self, incident: Incident) -> Incident:
        """Nothing is touched unless every layer planned its step and is ready, and the guards still agree."""
        try:
            present = await self._layers.look()
            if present.key != incident.present.key:
                moved = ", ".join(present.differing(incident.present))
                return await self._close(incident, Outcome.SUPERSEDED, f"somebody else changed {moved}")
            objection = await self._judgement.confirm(incident) if incident.tried == 0 else None
            if objection is not None:
                return await self._close(incident, objection.outcome, objection.reason)
            plan = await self._planned(incident, present)
        except LookFailed as error:
            return await self._not_prepared(incident, str(error))
        if not plan.steps:
            return await self._nothing_to_do(incident, plan.name)
        final = self._irreversible(incident, plan.steps)
        if final:
            return await self._end_early(incident, Outcome.DECLINED, f"cannot be taken back, and not allowed: {final}")
        return await self._fact(incident, facts.Planned(plan, present))

    async def _planned(self, incident: Incident, present: State) -> Plan:
        """The plan with its steps. :raises LookFailed: when a layer cannot plan its step, or is not ready."""
        target = incident.decision.target
        if target is None:
            raise LookFailed("there is no target")
        plan, problems = await self._layers.prepare(incident.running, present, target, incident.key)
        if plan.steps and problems:
            raise LookFailed("; ".join(f"{problem.layer}: {problem.text}" for problem in problems))
        return plan

    async def _not_prepared(self, incident: Incident, why: str) -> Incident:
        """What may be passing, such as a lock of somebody's git, is looked at again before the incident fails."""
        self._unprepared += 1
        if self._unprepared < _LOOKS:
            self._log.warning("not ready; looking again", error=why)
            await self._clock.sleep(_LOOK_AGAIN)
            return await self._news(incident)
        return await self._end_early(incident, Outcome.FAILED, why)

    async def _nothing_to_do(self, incident: Incident, name: str) -> Incident:
        if incident.tried + 1 < len(incident.plans):
            return await self._fact(incident, facts.PlanEnded(name, Outcome.PASSED))
        return await self._end_early(incident, Outcome.FAILED, f"plan {name} has no step to take: nothing differs")

    async def _end_early(self, incident: Incident, outcome: Outcome, reason: str) -> Incident:
        """Before the first step of a plan: nothing was touched, unless a plan before it did not help."""
        if incident.moved:
            return await self._close(incident, Outcome.INEFFECTIVE, f"{reason}; the plan before it did not help")
        return await self._close(incident, outcome, f"nothing was touched: {reason}")

    def _irreversible(self, incident: Incident, changes: tuple[Change, ...]) -> str:
        request = incident.decision.trigger.request
        allowed = {*self._service.plans[incident.running].irreversible, *(request.irreversible if request else ())}
        return ", ".join(change.layer for change in changes if not change.reversible and change.layer not in allowed)

    # -- effects --------------------------------------------------------------------------------
    async def _perform(self, incident: Incident, flight: Flight) -> Any:
        """Do what is left of an effect, and say what became of it; None when it is to be begun again later."""
        adapter = self._layers.adapters[flight.layer]
        self._log.info("performing", step=flight.layer, what=flight.what, attempt=flight.attempt)
        boundary(f"runner.{flight.what}")
        try:
            if flight.what == "apply":
                fact = await self._apply(incident, flight, adapter)
            else:
                fact = await self._cross(incident, flight, adapter)
        except AdapterError as error:
            fact = _failed(flight, str(error), permanent=error.permanent, evidence=error.evidence)
        except TimeoutError:
            fact = _failed(flight, "did not end in its time", permanent=False)
        except Exception as error:  # noqa: BLE001  # an adapter of somebody else's may raise anything; the incident goes on to its end
            self._log.exception("adapter failed", step=flight.layer)
            fact = _failed(flight, f"its adapter failed: {type(error).__name__}: {error}", permanent=False)
        boundary(f"runner.{flight.what}.done")
        return fact

    async def _apply(self, incident: Incident, flight: Flight, adapter: Adapter) -> Any:
        assert incident.plan is not None
        planned = next(change for change in incident.plan.steps if change.layer == flight.layer)
        change = replace(planned, intended=flight.since)
        deadline = self._clock.monotonic() + self._limit(flight.layer).total_seconds()
        progress = await _quickly(adapter.progress(change))
        if progress is Progress.NOT_STARTED:
            if await self._judgement.held(incident):
                return None
            async with asyncio.timeout(self._limit(flight.layer).total_seconds()):
                await adapter.apply(change)
            progress = await _quickly(adapter.progress(change))
        while progress is Progress.RUNNING:
            if self._clock.monotonic() > deadline:
                return _failed(flight, "still running after its time limit", permanent=False)
            await self._clock.sleep(_STILL_RUNNING)
            progress = await _quickly(adapter.progress(change))
        if progress is Progress.SUPERSEDED:
            return facts.StepSuperseded(flight.layer)
        if progress is Progress.NOT_STARTED:
            return _failed(flight, "it ended, and yet the layer says that nothing was done", permanent=False)
        return await self._done_when(incident, flight)

    async def _done_when(self, incident: Incident, flight: Flight) -> Any:
        """A step stays running until the check that its layer names passes; an abort ends the waiting."""
        name = self._service.layers[flight.layer].done_when
        deadline = self._clock.monotonic() + self._own_limit(flight.layer).total_seconds()
        while name:
            result = await self._examiner.ask(self._service, name)
            if result.verdict is Verdict.GOOD:
                break
            if self._stopping.is_set():
                return None
            if (await self._news(incident)).aborted or self._clock.monotonic() > deadline:
                return _failed(flight, f"{name} does not pass: {result.reason}", permanent=True)
            await self._clock.sleep(_GLANCE)
        return facts.Applied(flight.layer)

    def _own_limit(self, layer: str) -> timedelta:
        own = getattr(self._service.layers[layer], "timeout", None)
        return own if isinstance(own, timedelta) else _LONGEST_WAIT

    def _limit(self, layer: str) -> timedelta:
        """From outside, over all that a step does; its adapter limits each single command."""
        own = getattr(self._service.layers[layer], "timeout", None)
        return own * 6 + ASKING if isinstance(own, timedelta) else _LONGEST_STEP

    async def _cross(self, incident: Incident, flight: Flight, adapter: Adapter) -> Any:
        if not isinstance(adapter, Bracket):
            return _failed(flight, "it cannot be entered", permanent=True)
        wanted = flight.what == "enter"
        if await _quickly(adapter.inside(incident.id)) is not wanted:
            async with asyncio.timeout(self._limit(flight.layer).total_seconds()):
                await (adapter.enter(incident.id) if wanted else adapter.leave(incident.id))
            if await _quickly(adapter.inside(incident.id)) is not wanted:
                state = "outside" if wanted else "inside"
                return _failed(flight, f"it ended, and yet the layer says it is {state}", permanent=False)
        return facts.Entered(flight.layer) if wanted else facts.Left(flight.layer)


def _failed(flight: Flight, reason: str, *, permanent: bool, evidence: str = "") -> Any:
    kinds = {"enter": facts.EnterFailed, "apply": facts.ApplyFailed, "leave": facts.LeaveFailed}
    return kinds[flight.what](flight.layer, reason, permanent, evidence)


async def _quickly(question: Any) -> Any:
    async with asyncio.timeout(ASKING.total_seconds()):
        return await question
