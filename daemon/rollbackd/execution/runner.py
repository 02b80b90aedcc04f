"""The runner: the only loop that changes the world. It asks `next_step`, does the one thing named, and writes it down.

A start is on disk before its effect, and the effect always asks the world first. So the first run and the run after a
crash are the same code.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import assert_never

from rollbackd import facts
from rollbackd.config.load import load_service
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.execution.effects import Effects
from rollbackd.execution.layers import LayerFactory, Layers, LookFailed
from rollbackd.execution.preflight import Confirm, Objection, Preflight, untouched
from rollbackd.facts import IncidentFact, Record
from rollbackd.incident import next as steps
from rollbackd.incident.ending import ending
from rollbackd.incident.fold import evolve
from rollbackd.incident.life import Flight, Incident
from rollbackd.incident.spec import VerifySpec
from rollbackd.journal import (
    Conflict,
    Entry,
    JournalTaken,
    JournalUnavailable,
    Unwritten,
    UnwrittenResult,
    until_written,
)
from rollbackd.model import DAEMON, CheckResult, Outcome, Verdict, incident_stream, verdict_of
from rollbackd.rules.tracks import CALM
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration, whole_seconds
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock, JumpWatch
from rollbackd.system.tasks import until_first

_Start = facts.Entering | facts.ApplyStarted | facts.Leaving
_STARTS: Mapping[str, type[_Start]] = {"enter": facts.Entering, "apply": facts.ApplyStarted, "leave": facts.Leaving}
_TOUCHES_NOTHING = (steps.Pause, steps.Park, steps.Close, steps.Rise, steps.LookAtGate, steps.Look)
_GLANCE = timedelta(seconds=1)
"""How often an incident that waits looks whether a hold came or went."""
_LONGEST_GLANCE = timedelta(seconds=30)
"""How often an incident looks that only waits for an answer; the answer itself wakes it."""
_DISK = timedelta(seconds=2)
"""The pause before a fact is written again, while the journal cannot be written."""
_LOOKS = 3
_LOOK_AGAIN = timedelta(seconds=5)
"""The pause before the layers are looked at again, when one could not be looked at or was not ready."""
_PARKED = timedelta(seconds=30)
"""How often it is looked at whether somebody moved a layer of an incident that is parked."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the runner asks of the side that decides; it knows nothing else of it."""

    held: Callable[[Incident], Awaitable[str]]
    """What holds the service right now, read afresh; empty for nothing."""
    confirm: Confirm
    """Asks the guards once more, right before the first step, and whether the trouble is still there."""
    condition: Callable[[Incident, datetime | None], Awaitable[tuple[CheckResult, ...]]]
    """Asks the query or check that triggered again; a query that reaches back before the last step is inconclusive."""
    rise: Callable[[Incident, str, bool], Awaitable[facts.Risen | facts.AskedAgain | Objection]]
    """What an answered or expired question becomes in the world of now; given why, and whether people said yes."""
    over: Callable[[Incident], str] = lambda _: ""
    """Why all of the trouble of a question is over now; empty while any of it goes on, or nobody can say."""


def process_name() -> str:
    """Boot id, the container's number and process id: no two processes ever share them, and it outlives an execve."""
    with suppress(OSError):
        container = Path("/proc/self/ns/pid").stat().st_ino
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{container}/{os.getpid()}"
    return f"-/{os.getpid()}"


@dataclass(frozen=True, slots=True)
class DriverParts:
    """What the drivers of all incidents share."""

    read_model: ReadModel
    clock: Clock
    check_runner: CheckRunner
    judgement: Judgement
    slots: asyncio.Semaphore
    """One for each rollback that may act at once."""
    freed: Callable[[], None]
    """Called when one of them became free."""
    stopping: asyncio.Event
    unwritten: Unwritten | None
    """Where the journal is on another host: what was done here, until it is written there."""


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
        unwritten: Unwritten | None = None,
    ) -> None:
        self._factory = factory
        slots, stopping = asyncio.Semaphore(concurrent), asyncio.Event()
        self._parts = DriverParts(read_model, clock, check_runner, judgement, slots, self.wake_all, stopping, unwritten)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._log = log.get("runner")

    @property
    def driving(self) -> tuple[str, ...]:
        """The incidents that have a task."""
        return tuple(self._tasks)

    def start(self, name: str) -> None:
        """Drive an incident, if it is not driven already."""
        if name not in self._tasks and not self._parts.stopping.is_set():
            self._wakes[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._drive_guarded(name), name=f"incident {name}")

    def poke(self, name: str) -> None:
        """Look at an incident now: something was written about it, or a hold changed. Drives it if need be."""
        if name in self._wakes:
            self._wakes[name].set()
        self.start(name)

    async def stop(self) -> None:
        """Stop at the next boundary of each: an effect in hand is finished."""
        self._parts.stopping.set()
        self.wake_all()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def wake_all(self) -> None:
        """Have every incident looked at now: a place became free, or a hold changed."""
        for wake in self._wakes.values():
            wake.set()

    async def _drive_guarded(self, name: str) -> None:
        say = partial(self._log.error, "the journal cannot be used; trying again", incident=name)
        try:
            await until_written(partial(self._drive, name), self._parts.clock, _DISK, say)
        except JournalTaken:
            self._log.warning("incident is left to the daemon that drives now", incident=name)
            self._parts.stopping.set()
        except Exception as error:  # noqa: BLE001  # one incident must not end the daemon; it stays open, is told, and is tried again
            self._log.exception("incident stopped being driven", incident=name)
            await self._give_to_person(name, error)
        finally:
            poked = self._wakes.pop(name).is_set()
            del self._tasks[name]
            if poked:
                self.start(name)

    async def _drive(self, name: str) -> None:
        if self._parts.stopping.is_set():
            return
        incident = await self._parts.read_model.incident(name)
        if incident is None:
            raise LookupError(f"no incident {name}")
        layers = self._factory.build(load_service(dict(incident.config)))
        await IncidentDriver(self._parts, incident, layers, self._wakes[name]).run()

    async def _give_to_person(self, name: str, error: Exception) -> None:
        with suppress(JournalUnavailable, Conflict):
            reason = f"rollbackd itself failed: {type(error).__name__}: {error}"
            await self._parts.read_model.append(Entry(incident_stream(name), facts.Parked(reason)))


class IncidentDriver:
    """One incident, from adoption until nothing is left to do."""

    def __init__(self, parts: DriverParts, incident: Incident, layers: Layers, wake: asyncio.Event) -> None:
        self._parts = parts
        self._read_model = parts.read_model
        self._clock = parts.clock
        self._judgement = parts.judgement
        self._incident = incident
        self._layers = layers
        self._wake = wake
        self._stream = incident_stream(incident.id)
        self._log = log.get("runner").bind(incident=incident.id)
        self._preflight = Preflight(layers, parts.judgement.confirm)
        self._effects = Effects(
            layers,
            parts.clock,
            parts.check_runner,
            parts.judgement.held,
            self._barred,
            self._aborted,
            parts.stopping,
            self._log,
        )
        self._adopted = False
        self._has_slot = False
        self._unprepared = 0
        self._calm_since: float | None = None
        """Since when the trouble of the question was over at every look; monotonic."""
        self._parked_looked = parts.clock.monotonic()
        self._jumps = JumpWatch(parts.clock)

    async def run(self) -> None:
        """Until nothing is left to do, or the daemon stops."""
        try:
            await self._loop()
        finally:
            self._free()

    async def _loop(self) -> None:
        while not self._parts.stopping.is_set():
            if self._jumps.look() is not None and self._incident.carried_out:
                self._adopted = False  # who comes late has time to look, after a sleep as after a restart
            step = await self._next(self._incident)
            if isinstance(step, steps.Stop):
                if not self._wake.is_set():
                    return
                await self._woken()
            elif isinstance(step, steps.Wait) or not (self._incident.drill or await self._slot(step)):
                incident = self._incident
                if incident.paused or incident.parked or incident.outcome is not None or incident.carried_out:
                    self._free()
                until = step.until if isinstance(step, steps.Wait) else None
                await self._wait(until, asking=incident.waits and until is not None)
                await self._woken()
                if self._incident.waits and (over := self._calm()):
                    await self._end_question(Objection(Outcome.PASSED, over))
                elif self._incident.parked and (layers := await self._overtaken()):
                    await self._fact(facts.StepSuperseded(layers))
            elif self._adopted or isinstance(step, steps.Prepare | steps.Start):
                await self._do(step)
            else:
                await self._intend()

    def _calm(self) -> str:
        """Why the trouble of the question has ended: it was over at every look for `CALM`. Empty: it has not."""
        over, now = self._judgement.over(self._incident), self._clock.monotonic()
        self._calm_since = (now if self._calm_since is None else self._calm_since) if over else None
        return over if self._calm_since is not None and now - self._calm_since >= CALM.total_seconds() else ""

    async def _overtaken(self) -> str:
        """The layers that somebody moved since the incident is parked; empty for none, or while that cannot be told."""
        incident, now = self._incident, self._clock.monotonic()
        if incident.outcome is not None or incident.waits or now - self._parked_looked < _PARKED.total_seconds():
            return ""
        self._parked_looked = now
        try:
            for layer, since in incident.stepping.items():
                if await self._effects.was_overtaken(incident, Flight("apply", layer, 1, since)):
                    return layer
            present = await self._layers.steady(incident.present.key, self._clock)
        except Exception as error:  # noqa: BLE001  # an adapter of somebody else's may raise anything
            self._log.info("parked, and it cannot be told what runs", error=self._layers.clean(str(error)))
            return ""
        moved = present.differing(incident.present) if present is not None else ()
        return " and ".join(one for one in moved if not {one, self._layers.part_of(one)} & incident.stepping.keys())

    async def _next(self, incident: Incident) -> steps.Step:
        """The next step. An incident that only waits for people does not ask what holds it: there may be thousands."""
        for ask in (not incident.waits, True):
            held = await self._judgement.held(incident) if ask else ""
            step = steps.next_step(incident, self._verify, held, self._clock.now())
            if ask or isinstance(step, steps.Wait):
                break
        return step

    async def _slot(self, step: steps.Step) -> bool:
        """Whether the incident may act now. Only so many act at once; one that waits for people takes no place.

        Nor does one that only looks, or leaves a bracket, which ends what stands still for it; nor a drill, since no
        real rollback may wait for it.
        """
        if self._has_slot or self._incident.waits or isinstance(step, _TOUCHES_NOTHING) or _leaves(step):
            return True
        if self._parts.slots.locked():
            return False
        await self._parts.slots.acquire()
        self._has_slot = True
        return True

    def _free(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._parts.slots.release()
            self._parts.freed()

    @property
    def _verify(self) -> VerifySpec:
        return self._layers.service.verified_by(self._incident.running)

    async def _wait(self, until: datetime | None, *, asking: bool = False) -> None:
        """Wait until then, or until somebody pokes; whether a hold came is looked for every second."""
        now = self._clock.now()
        glance = _LONGEST_GLANCE if asking else _GLANCE
        length = glance if until is None else min(until - now, glance)
        await until_first(self._clock.sleep(length), self._wake.wait())

    # -- what is in the journal -----------------------------------------------------------------
    async def _woken(self) -> None:
        """Take in the news. What is written meanwhile wakes it again: an answer must not wait for the next glance."""
        self._wake.clear()
        await self._news()

    async def _news(self) -> None:
        """Take in what others wrote meanwhile: an abort, an acknowledgement, evidence, deliveries."""
        self._incident = await self._read_model.incident(self._incident.id) or self._incident

    def _barred(self) -> str:
        return self._read_model.journal.trouble

    async def _aborted(self) -> bool:
        await self._news()
        return bool(self._incident.aborted)

    @property
    def _adoption(self) -> tuple[IncidentFact, ...]:
        """The first fact of every driver, written together with what it does first."""
        return () if self._adopted else (facts.Adopted(process_name(), self._read_model.journal.host),)

    async def _intend(self, *intended: IncidentFact) -> bool:
        """Journal what starts an effect; False when another fact came first: decide again."""
        after = enumerate((*self._adoption, *intended), self._incident.n)
        entries = [Entry(self._stream, fact, follows=n) for n, fact in after]
        try:
            await self._read_model.append(*entries, urgent=self._incident.acted, heeding=self._read_model.seq)
            self._adopted = won = True
        except Conflict:
            won = False
        await self._news()
        return won

    async def _report(self, *entries: Entry, enough: Callable[[], bool] = bool) -> None:
        """Journal what happened. It did happen: when the disk is full this is tried until it is written.

        :raises JournalUnavailable: it was given up, since it is `enough` as it is, or another daemon drives.
        """
        say = partial(self._log.error, "cannot write what was done; trying again")
        adoption = (Entry(self._stream, fact) for fact in self._adoption)
        write = partial(self._read_model.append, *adoption, *entries, urgent=True)
        await until_written(write, self._clock, _DISK, say, enough)
        self._adopted = True
        await self._news()

    async def _fact(self, fact: IncidentFact) -> None:
        await self._report(Entry(self._stream, fact))

    async def _result(self, flight: Flight, fact: IncidentFact) -> None:
        """Journal what an effect came to. Where the journal is on another host it is on this one's disk before."""
        if (unwritten := self._parts.unwritten) is None:
            await self._fact(fact)
            return
        kind, body = facts.encode(fact)
        result = UnwrittenResult(
            stream=self._stream,
            what=flight.what,
            layer=flight.layer,
            since=flight.since,
            host=self._read_model.journal.host,
            ended=self._clock.now(),
            kind=kind,
            body=body.decode(),
        )
        kept = await asyncio.to_thread(unwritten.keep, result)
        boundary("runner.kept")
        await self._report(Entry(self._stream, fact), enough=lambda: kept and self._parts.stopping.is_set())
        unwritten.forget(result)

    # -- one step -------------------------------------------------------------------------------
    async def _do(self, step: steps.Step) -> None:
        incident, verify = self._incident, self._verify
        match step:
            case steps.Rise(why, by_people):
                await self._rise(await self._judgement.rise(incident, why, by_people))
            case steps.Prepare():
                await self._prepare()
            case steps.Start():
                await self._intend(_intent(step))
            case steps.Perform(flight, last):
                while self._barred() and not self._parts.stopping.is_set():
                    await self._clock.sleep(_GLANCE)
                await self._perform(flight, last=last)
            case steps.LookAtGate():
                results = await self._parts.check_runner.run(self._layers.service, verify.gate, incident.stepped)
                await self._fact(facts.Gated(verdict_of(results), results))
            case steps.Look():
                await self._fact(await self._round(incident, verify))
            case steps.Close():
                await self._close(step)
            case _:
                await self._fact(_note(step))

    async def _perform(self, flight: Flight, *, last: bool) -> None:
        incident = self._incident
        if last and (limit := self._effects.waits_for(flight)):
            await self._read_model.tell(_waiting(incident, flight, limit))
        fact = await (self._effects.finish(incident, flight) if last else self._effects.perform(incident, flight))
        if fact is None:
            await self._news()
        elif isinstance(fact, facts.Parked):
            await self._fact(fact)
        else:
            await self._result(flight, fact)

    async def _round(self, incident: Incident, verify: VerifySpec) -> facts.Round | facts.StepSuperseded:
        """One round of verification; it is of what the rollback led to only if that still runs when all was asked."""
        checks, condition = await asyncio.gather(
            self._parts.check_runner.run(self._layers.service, verify.checks, incident.stepped),
            self._judgement.condition(incident, incident.stepped),
        )
        results = (*checks, *condition)
        why = "two looks differ: it is being changed"
        try:
            present = await self._layers.steady(incident.present.key, self._clock, mixed=bool(incident.present.mixed))
        except LookFailed as error:
            present, why = None, str(error)
        if present is None:
            unseen = CheckResult("what runs", Verdict.INCONCLUSIVE, why)
            return facts.Round(verdict_of((*results, unseen)), (*results, unseen))
        if present.key != incident.present.key:
            return facts.StepSuperseded(" and ".join(present.differing(incident.present)))
        return facts.Round(verdict_of(results), results)

    async def _rise(self, found: facts.Risen | facts.AskedAgain | Objection) -> None:
        """Write down what the question became; whoever answers, or opens, at the same time comes first."""
        if isinstance(found, Objection):
            await self._end_question(found)
        elif isinstance(found, facts.AskedAgain):
            self._log.info("asked again", changed=found.changed)
            await self._intend(found)
        else:
            try:
                await self._read_model.rise(self._incident, found, fleet=self._read_model.fleet.n)
            except Conflict:
                await self._read_model.refresh()
            await self._news()

    async def _end_question(self, found: Objection) -> None:
        """Close it, unless an answer came while the world was looked at: no answer that was taken is lost."""
        (stream, closed), *others = ending(self._incident, found.outcome, found.reason, self._verify, self._clock.now())
        with suppress(Conflict):
            await self._read_model.append(
                Entry(stream, closed, follows=self._incident.n), *(Entry(where, fact) for where, fact in others)
            )
            self._log.info("closed", outcome=found.outcome, reason=found.reason)
        await self._news()

    async def _close(self, end: steps.Close | Objection) -> None:
        parts = ending(self._incident, end.outcome, end.reason, self._verify, self._clock.now())
        self._log.info("closed", outcome=end.outcome, reason=end.reason)
        await self._report(*(Entry(stream, fact) for stream, fact in parts))

    # -- before the first step ------------------------------------------------------------------
    async def _prepare(self) -> None:
        try:
            found = await self._preflight.of(self._incident)
        except LookFailed as error:
            await self._not_prepared(str(error))
            return
        if isinstance(found, Objection):
            await self._close(found)
        elif isinstance(found, facts.PlanEnded) or not await self._begin(found):
            await self._fact(found)

    async def _begin(self, planned: facts.Planned) -> bool:
        """Journal a plan in one unit with the start of its first step; False when they cannot be written together."""
        await self._news()
        with suppress(JournalUnavailable):  # then the plan alone is written as soon as there is room
            while not self._parts.stopping.is_set():
                after = Record(0, self._stream, self._incident.n + 1, self._clock.now(), DAEMON, planned)
                step = await self._next(evolve(self._incident, after))
                if not isinstance(step, steps.Start):
                    break
                if await self._intend(planned, _intent(step)):
                    return True
        return False

    async def _not_prepared(self, why: str) -> None:
        """What may be passing, such as a lock of somebody's git, is looked at again before the incident fails."""
        self._unprepared += 1
        if self._unprepared < _LOOKS:
            self._log.warning("not ready; looking again", error=why)
            await self._clock.sleep(_LOOK_AGAIN)
            await self._news()
            return
        await self._close(untouched(self._incident, Outcome.FAILED, why))


def _intent(step: steps.Start) -> _Start:
    return _STARTS[step.what](step.layer, step.attempt)


def _waiting(incident: Incident, flight: Flight, limit: timedelta) -> facts.Notice:
    text = (
        f"{incident.id} waits: {flight.what} {flight.layer} was begun on {flight.elsewhere}, and may still run there. "
        f"It goes on once that is done, and is yours after {format_duration(whole_seconds(limit))}; to stop waiting: "
        f"`rollbackd abort {incident.id}`"
    )
    return facts.Notice("taken_over", text, incident.service, details={"subject": incident.id})


def _leaves(step: steps.Step) -> bool:
    """Whether it leaves a bracket."""
    what = step.what if isinstance(step, steps.Start) else step.flight.what if isinstance(step, steps.Perform) else ""
    return what == "leave"


def _note(step: steps.EndPlan | steps.Park | steps.Pause | steps.Unpause | steps.Wait | steps.Stop) -> IncidentFact:
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
