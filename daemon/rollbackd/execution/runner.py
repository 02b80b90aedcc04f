"""The only loop that changes the world: asks `next_step`, does the one thing it names, writes down what happened.

A start is on disk before its effect; the effect always asks the world first. So the first run and the run after a
crash are the same code.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from rollbackd import facts
from rollbackd.config.load import load_service
from rollbackd.config.models import Service
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.execution.effects import Effects
from rollbackd.execution.layers import LayerFactory, Layers, LookFailed
from rollbackd.execution.preflight import Confirm, Objection, Preflight, untouched
from rollbackd.incident import next as steps
from rollbackd.incident.ending import ending
from rollbackd.incident.life import Incident
from rollbackd.incident.spec import VerifySpec
from rollbackd.journal import Conflict, Entry, JournalUnavailable, until_written
from rollbackd.model import CheckResult, Outcome, incident_stream, verdict_of
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import until_first

_GLANCE = timedelta(seconds=1)
"""How often a waiting incident looks whether a hold came or went."""
_LONGEST_GLANCE = timedelta(seconds=30)
"""The same for one that only asks: an answer pokes it."""
_DISK = timedelta(seconds=2)
"""Between tries to write down what was done while the journal cannot be written."""
_LOOKS = 3
_LOOK_AGAIN = timedelta(seconds=5)
"""Before the layers are looked at again when one could not be looked at, or was not ready."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the runner asks of the side that decides; it knows nothing else of it."""

    held: Callable[[Incident], Awaitable[str]]
    """What holds the service right now, read afresh; empty for nothing."""
    confirm: Confirm
    """The guards once more, right before the first step, and whether the trouble is still there."""
    condition: Callable[[Incident, datetime | None], Awaitable[tuple[CheckResult, ...]]]
    """The query or check that triggered, asked again; what reaches back before the last step is inconclusive."""
    rise: Callable[[Incident, str, bool], Awaitable[facts.Risen | facts.AskedAgain | Objection]]
    """What an answered or expired question becomes in the world of now; why, and whether people said yes."""


def process_name() -> str:
    """Boot id and process id: two processes never share it."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.getpid()}"
    return f"-/{os.getpid()}"


class Runner:
    """Drives incidents, each in a task of its own."""

    def __init__(
        self,
        read_model: ReadModel,
        clock: Clock,
        factory: LayerFactory,
        check_runner: CheckRunner,
        judgement: Judgement,
        concurrent: int,
    ) -> None:
        self._read_model = read_model
        self._clock = clock
        self._factory = factory
        self._check_runner = check_runner
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
        say = partial(self._log.error, "the journal cannot be used; trying again", incident=name)
        try:
            await until_written(partial(self._drive, name), self._clock, _DISK, say)
        except Exception as error:  # noqa: BLE001  # one incident must not end the daemon; it stays open, is told, and is tried again
            self._log.exception("incident stopped being driven", incident=name)
            await self._give_to_person(name, error)
        finally:
            poked = self._wakes.pop(name).is_set()
            del self._tasks[name]
            if poked:
                self.start(name)

    async def _drive(self, name: str) -> None:
        if not self._stopping.is_set():
            await Drive(self, name).run()

    async def _give_to_person(self, name: str, error: Exception) -> None:
        with suppress(JournalUnavailable, Conflict):
            reason = f"rollbackd itself failed: {type(error).__name__}: {error}"
            await self._read_model.append(Entry(incident_stream(name), facts.Parked(reason)))


class Drive:
    """One incident, from adoption until nothing is left to do."""

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._name = name
        self._stream = incident_stream(name)
        self._clock = runner._clock  # noqa: SLF001  # two halves of one thing
        self._read_model = runner._read_model  # noqa: SLF001
        self._judgement = runner._judgement  # noqa: SLF001
        self._check_runner = runner._check_runner  # noqa: SLF001
        self._wake = runner._wakes[name]  # noqa: SLF001
        self._stopping = runner._stopping  # noqa: SLF001
        self._slots = runner._slots  # noqa: SLF001
        self._log = log.get("runner").bind(incident=name)
        self._layers: Layers
        self._effects: Effects
        self._preparation: Preflight
        self._has_slot = False
        self._unprepared = 0

    async def run(self) -> None:
        incident = await self._news()
        self._layers = self._runner._factory.build(load_service(dict(incident.config)))  # noqa: SLF001
        self._effects = Effects(
            self._layers,
            self._clock,
            self._check_runner,
            self._judgement.held,
            self._aborted,
            self._stopping,
            self._log,
        )
        self._preparation = Preflight(self._layers, self._judgement.confirm)
        try:
            await self._loop(incident)
        finally:
            self._free()

    async def _loop(self, incident: Incident) -> None:
        adopted = False
        while not self._stopping.is_set():
            step = await self._next(incident)
            if isinstance(step, steps.Stop):
                if not self._wake.is_set():
                    return
                incident = await self._woken()
                continue
            if isinstance(step, steps.Wait) or not (incident.drill or await self._slot(step)):
                if incident.paused or incident.parked or incident.outcome is not None:
                    self._free()
                until = step.until if isinstance(step, steps.Wait) else None
                await self._wait(until, asking=incident.waits and until is not None)
                incident = await self._woken()
            elif not adopted:
                incident, adopted = await self._intend(incident, facts.Adopted(process_name()))
            else:
                incident = await self._do(incident, step)

    async def _next(self, incident: Incident) -> steps.Step:
        """A question that only waits asks nothing of what holds it: there may be thousands of them."""
        for ask in (not incident.waits, True):
            held = await self._judgement.held(incident) if ask else ""
            step = steps.next_step(incident, self._verify(incident), held, self._clock.now())
            if ask or not isinstance(step, steps.Rise):
                break
        return step

    async def _slot(self, step: steps.Step) -> bool:
        """Whether this may act now: so many rollbacks at once, and one that waits for a person takes no place.

        A drill takes none either: no real rollback waits for it.
        """
        if self._has_slot or isinstance(step, steps.Pause | steps.Park | steps.Close | steps.Rise):
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

    def _verify(self, incident: Incident) -> VerifySpec:
        service = self._layers.service
        plan = service.plans.get(incident.running)
        return plan.verify if plan is not None and plan.verify is not None else service.verify

    async def _wait(self, until: datetime | None, *, asking: bool = False) -> None:
        """Until then, or until somebody pokes; a hold is looked for every second."""
        now = self._clock.now()
        glance = _LONGEST_GLANCE if asking else _GLANCE
        length = glance if until is None else min(until - now, glance)
        await until_first(self._clock.sleep(length), self._wake.wait())

    async def _woken(self) -> Incident:
        """Its news. What is written from now on wakes it again: an answer must not wait for the next glance."""
        self._wake.clear()
        return await self._news()

    async def _news(self) -> Incident:
        """The incident with what others wrote meanwhile: an abort, an acknowledgement, evidence, deliveries."""
        incident = await self._read_model.incident(self._name)
        if incident is None:
            raise LookupError(f"no incident {self._name}")
        return incident

    async def _aborted(self, _incident: Incident) -> bool:
        return bool((await self._news()).aborted)

    async def _intend(self, incident: Incident, fact: Any) -> tuple[Incident, bool]:
        """Journal something that starts an effect; False when another fact came first: decide again."""
        won = True
        try:
            await self._read_model.append(Entry(self._stream, fact, follows=incident.n), urgent=incident.acted)
        except Conflict:
            won = False
        return await self._news(), won

    async def _report(self, *entries: Entry) -> Incident:
        """Journal what happened. It did happen: when the disk is full this is tried until it is written."""
        say = partial(self._log.error, "cannot write what was done; trying again")
        await until_written(partial(self._read_model.append, *entries, urgent=True), self._clock, _DISK, say)
        return await self._news()

    async def _fact(self, fact: Any) -> Incident:
        return await self._report(Entry(self._stream, fact))

    async def _do(self, incident: Incident, step: steps.Step) -> Incident:
        match step:
            case steps.Rise(why, by_people):
                return await self._rise(incident, await self._judgement.rise(incident, why, by_people))
            case steps.Prepare():
                return await self._prepare(incident)
            case steps.Start(what, layer, attempt):
                starts = {"enter": facts.Entering, "apply": facts.ApplyStarted, "leave": facts.Leaving}
                return (await self._intend(incident, starts[what](layer, attempt)))[0]
            case steps.Perform(flight):
                fact = await self._effects.perform(incident, flight)
                return await (self._news() if fact is None else self._fact(fact))
            case steps.LookAtGate():
                results = await self._check_runner.run(self._service, self._verify(incident).gate, incident.stepped)
                return await self._fact(facts.Gated(verdict_of(results), results))
            case steps.Look():
                results = await self._look(incident)
                return await self._fact(facts.Round(verdict_of(results), results))
            case steps.Close(outcome, reason):
                return await self._close(incident, outcome, reason)
            case _:
                return await self._fact(_note(step))

    async def _rise(self, incident: Incident, found: facts.Risen | facts.AskedAgain | Objection) -> Incident:
        """Write down what the question became; whoever answers, or opens, at the same time comes first."""
        if isinstance(found, Objection):
            return await self._end_question(incident, found)
        if isinstance(found, facts.AskedAgain):
            self._log.info("asked again", changed=found.changed)
            return (await self._intend(incident, found))[0]
        try:
            await self._read_model.rise(incident, found, fleet=self._read_model.fleet.n)
        except Conflict:
            await self._read_model.refresh()
        return await self._news()

    async def _end_question(self, incident: Incident, found: Objection) -> Incident:
        """Close it, unless an answer came while the world was looked at: no answer that was taken is lost."""
        (stream, closed), *others = ending(
            incident, found.outcome, found.reason, self._verify(incident), self._clock.now()
        )
        with suppress(Conflict):
            await self._read_model.append(
                Entry(stream, closed, follows=incident.n), *(Entry(where, fact) for where, fact in others)
            )
            self._log.info("closed", outcome=found.outcome, reason=found.reason)
        return await self._news()

    @property
    def _service(self) -> Service:
        return self._layers.service

    async def _close(self, incident: Incident, outcome: Outcome, reason: str) -> Incident:
        parts = ending(incident, outcome, reason, self._verify(incident), self._clock.now())
        self._log.info("closed", outcome=outcome, reason=reason)
        return await self._report(*(Entry(stream, fact) for stream, fact in parts))

    async def _look(self, incident: Incident) -> tuple[CheckResult, ...]:
        checks, condition = await asyncio.gather(
            self._check_runner.run(self._service, self._verify(incident).checks, incident.stepped),
            self._judgement.condition(incident, incident.stepped),
        )
        return (*checks, *condition)

    # -- before the first step ------------------------------------------------------------------
    async def _prepare(self, incident: Incident) -> Incident:
        try:
            found = await self._preparation.of(incident)
        except LookFailed as error:
            return await self._not_prepared(incident, str(error))
        if isinstance(found, Objection):
            return await self._close(incident, found.outcome, found.reason)
        return await self._fact(found)

    async def _not_prepared(self, incident: Incident, why: str) -> Incident:
        """What may be passing, such as a lock of somebody's git, is looked at again before the incident fails."""
        self._unprepared += 1
        if self._unprepared < _LOOKS:
            self._log.warning("not ready; looking again", error=why)
            await self._clock.sleep(_LOOK_AGAIN)
            return await self._news()
        failed = untouched(incident, Outcome.FAILED, why)
        return await self._close(incident, failed.outcome, failed.reason)


def _note(step: steps.EndPlan | steps.Park | steps.Pause | steps.Unpause | steps.Wait | steps.Stop) -> Any:
    """The fact of a step that does nothing but be known."""
    match step:
        case steps.EndPlan(name, outcome):
            return facts.PlanEnded(name, outcome)
        case steps.Park(reason):
            return facts.Parked(reason)
        case steps.Pause(reason):
            return facts.Paused(reason)
        case steps.Unpause():
            return facts.Unpaused()
        case steps.Wait() | steps.Stop():
            raise AssertionError(f"{step} is not carried out")
        case _:
            assert_never(step)
