"""Holds drills, and brings executed ones to their end. The way there and the return are ordinary incidents.

That an executed drill is under way is a fact (its opening), so that no start forgets the return.
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Literal

from rollbackd import facts
from rollbackd.config.models import Config, Service
from rollbackd.decision.engine import DecisionEngine
from rollbackd.drills.preconditions import DrillNotAllowed, DrillPreconditions
from rollbackd.drills.readiness import ReadinessFindings, ReadinessReview
from rollbackd.execution.runner import Runner
from rollbackd.incident import drill as steps
from rollbackd.incident.life import Incident
from rollbackd.journal import Entry, JournalUnavailable
from rollbackd.model import FLEET, Action, Priority, Request, Trigger, incident_stream, name_in, service_stream
from rollbackd.rules.tracks import Standing
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.state_watcher import StateWatcher
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end
from rollbackd.views.presenters import check_view, drill_view, state_view
from rollbackd.views.shapes import DrillView

DRILL = "drill"
"""The name that stands for a rule in what a drill opens; no rule of the configuration may have it."""
STUCK = "drill_stuck"
LOST = "readiness"
_EVERY = timedelta(seconds=1)
_AGAIN = timedelta(seconds=30)
"""The pause before a return that could not begin is tried again."""
_GLANCE = timedelta(milliseconds=200)
_GIVES_WAY = timedelta(seconds=60)
"""How long a person's order waits until a drill has ended the step in hand."""


class DrillRunner:
    """The root task `drills`, and the orders."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        clock: Clock,
        rule_states: RuleStates,
        preconditions: DrillPreconditions,
        decision_engine: DecisionEngine,
        state_watcher: StateWatcher,
        runner: Runner,
        readiness_review: ReadinessReview,
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._clock = clock
        self._rule_states = rule_states
        self._preconditions = preconditions
        self._decision_engine = decision_engine
        self._state_watcher = state_watcher
        self._runner = runner
        self._readiness_review = readiness_review
        self._reviewing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stepping: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._beginning = asyncio.Lock()
        self._in_hand: dict[str, asyncio.Task[None]] = {}
        self._rest: dict[str, float] = {}
        """Until when a return that could not begin is left alone, by service."""
        self._stuck: dict[str, str] = {}
        """Why a drill cannot return, as told last."""
        self.found: dict[str, DrillView] = {}
        """What a drill that asks all plans of a service found last, in this life."""
        self._log = log.get("drills")

    # -- orders ---------------------------------------------------------------------------------
    async def hold(self, service: Service, plan: str, actor: str) -> DrillView:
        """Ask everything that a rollback rests on. Nothing is touched, and the result is a fact.

        :param plan: empty: all plans of the service's list.
        :raises DrillNotAllowed: a rollback of it is under way.
        """
        async with self._reviewing[service.name]:
            self._preconditions.check_idle(service.name)
            began = self._clock.monotonic()
            found = await self._undisturbed(
                service.name,
                self._readiness_review.hold(service, (plan,) if plan else service.plan, self._trial(service, actor)),
            )
            return await self._found(service, found, began, actor)

    def is_ready(self, service: str) -> bool:
        """Whether a drill that asks all plans of it said so last, in this life."""
        found = self.found.get(service)
        return found is not None and found.result == steps.READY

    async def glance(self, service: Service, actor: str) -> DrillView:
        """Ask as `hold` does, and write it down only where it is no longer as the last drill said.

        Snapshots are read only to see whether what a drill found is mended. What is ready is not asked again.

        :raises DrillNotAllowed: a rollback of it is under way.
        """
        async with self._reviewing[service.name]:
            self._preconditions.check_idle(service.name)
            if self.is_ready(service.name):  # somebody asked meanwhile
                return self.found[service.name]
            began, known = self._clock.monotonic(), self._read_model.of(service.name).ready
            trial = self._trial(service, actor)
            asked = self._readiness_review.hold(service, service.plan, trial, rehearse=known is False)
            found = await self._undisturbed(service.name, asked)
            if known is not None and known is bool(found.problems):
                return await self._found(service, found, began, actor)
            result = steps.NOT_READY if found.problems else steps.READY
            took = timedelta(seconds=self._clock.monotonic() - began)
            view = self.found[service.name] = self._view(service, found, result, actor, took=took)
            return view

    async def execute(self, service: Service, plan: str, actor: str) -> DrillView:
        """Go back for real and return, when all that `hold` asks is ready; `incident` is empty when it was not.

        :param plan: empty: the first of the service's list.
        :raises DrillNotAllowed: it may not be drilled, or not now.
        """
        plan = plan or service.plan[0]
        async with self._reviewing[service.name]:
            self._preconditions.check(service)
            began = self._clock.monotonic()
            found = await self._undisturbed(
                service.name, self._readiness_review.hold(service, (plan,), self._trial(service, actor, plan, "there"))
            )
            if found.irreversible:
                cannot = ", ".join(found.irreversible)
                raise DrillNotAllowed(
                    f"a drill does nothing that cannot be taken back: {cannot}; name another plan with --plan"
                )
            if found.no_return:
                raise DrillNotAllowed(
                    f"{service.name} is not drilled, it would not come back as it is: {'; '.join(found.no_return)}"
                )
            if found.problems or found.target is None:
                return await self._found(service, found, began, actor, execute=True)
            async with self._beginning:
                self._preconditions.check(service)
                incident = await self._begin(service, plan, found.target.key, actor)
            return self._view(service, found, "running", actor, incident)

    async def listed(self, service: str, limit: int) -> list[DrillView]:
        """Drills, newest first, of one service or of all; one that is under way comes first."""
        stream = service_stream(service) if service else ""
        records = await self._read_model.journal.latest(facts.kinds(facts.Drilled), stream, limit)
        ended = [drill_view(name_in(one.stream), one.fact, one.at, one.actor) for one in records]
        running = []
        for name, incident in self._read_model.drills():
            there = await self._read_model.incident(incident)
            if service in {"", name} and there is not None:
                running.append(_under_way(there, self._stuck.get(name, "")))
        return [*running, *ended][:limit]

    async def give_way(self, service: str, actor: str) -> str:
        """End an executed drill where it is, for a person's order; the state that it went to, empty: there is none.

        :raises DrillNotAllowed: its step in hand goes on; order again when it has ended.
        """
        async with self._stepping[service]:
            ledger = self._read_model.of(service)
            running = ledger.open if ledger.open is not None and ledger.open.drill else None
            name = ledger.drill or (running.incident if running is not None else "")
            if not name:
                return ""
            if running is not None:
                stop = facts.AbortRequested(f"a rollback was ordered by {actor}")
                await self._read_model.append(Entry(incident_stream(running.incident), stop, actor))
            there = await self._read_model.incident(name)
            if ledger.drill and there is not None:
                why = f"{actor} ordered a rollback: it did not return"
                await self.note(
                    service, facts.Drilled(there.plans, steps.INTERRUPTED, (why,), incident=name, execute=True), actor
                )
        if running is not None:
            await self._until_ended(running.incident)
        target = there.decision.target if there is not None and there.drill == "there" else None
        return target.key if target is not None else ""

    async def _until_ended(self, incident: str) -> None:
        self._runner.poke(incident)
        end = self._clock.monotonic() + _GIVES_WAY.total_seconds()
        while (found := await self._read_model.incident(incident)) and found.outcome is None:
            if self._clock.monotonic() < end:
                await self._clock.sleep(_GLANCE)
                continue
            held = f" ({found.paused})" if found.paused else ""
            see = f"`rollbackd incidents {incident}`"
            raise DrillNotAllowed(f"{incident}, a drill, is being ended{held}; order again when it has: {see}")

    def _trial(self, service: Service, actor: str, plan: str = "", drill: Literal["", "there"] = "") -> Trigger:
        now = self._clock.now()
        episode = f"{DRILL}/{service.name}/{now.isoformat()}"
        request = Request(service.name, actor, plan=plan, drill=drill)
        return Trigger(service.name, DRILL, Priority.P3, episode, now, now, request=request)

    async def _begin(self, service: Service, plan: str, target: str, actor: str) -> str:
        """Open the way there; its incident. :raises DrillNotAllowed: something stands against it."""
        trial = self._trial(service, actor, plan)
        reason = "a drill: it goes there and comes back"
        request = Request(service.name, actor, reason, to=target, plan=plan, drill="there")
        trigger = Trigger(service.name, DRILL, Priority.P3, trial.episode, trial.onset, trial.reached, request=request)
        decision = await self._decision_engine.consider(trigger)
        if decision.action is not Action.ROLL_BACK:
            reasons = "; ".join(finding.reason for finding in decision.against)
            raise DrillNotAllowed(f"{service.name} is not drilled: {reasons}")
        return decision.joins

    # -- to the end -----------------------------------------------------------------------------
    async def run(self) -> None:
        """See every executed drill to its end, for ever."""
        try:
            while True:
                for service, incident in self._read_model.drills():
                    if service not in self._in_hand:
                        work = self._guarded(service, incident)
                        self._in_hand[service] = asyncio.create_task(work, name=f"drill of {service}")
                await self._clock.sleep(_EVERY)
        finally:
            await end(self._in_hand.values())

    async def _guarded(self, service: str, incident: str) -> None:
        try:
            async with self._stepping[service]:
                if self._read_model.of(service).drill == incident:
                    await self.step(service, incident)
        except JournalUnavailable as error:
            self._log.error("a drill waits for the journal", service=service, error=str(error))
        except Exception:  # noqa: BLE001  # one drill must not end the others; it is tried again, and stays under way
            self._log.exception("a drill could not go on", service=service)
            self._rest[service] = self._clock.monotonic() + _AGAIN.total_seconds()
        finally:
            self._in_hand.pop(service, None)

    async def step(self, service: str, incident: str) -> None:
        """One step of an executed drill that is under way."""
        there = await self._read_model.incident(incident)
        if there is None or self._clock.monotonic() < self._rest.get(service, 0):
            return
        if self._config.service(service) is None:
            text = f"{service} is no longer in the configuration: it was not brought back"
            await self._end(service, there, None, steps.End(steps.INTERRUPTED, (text,)))
            return
        back = await self._back(service, incident)
        look = there.outcome is not None and there.acted and back is None
        present = await self._state_watcher.peek(service) if look else None
        trouble = self._rule_states.standing(service, self._clock.now()) is Standing.BAD
        match steps.next_of_drill(there, back, present, trouble=trouble):
            case steps.Return():
                await self._return(service, there)
            case steps.Cut():
                assert back is not None
                why = facts.AbortRequested("it is back, and in real trouble")
                await self._read_model.append(Entry(incident_stream(back.id), why))
                self._runner.poke(back.id)
            case steps.Leave():
                seen = facts.Acknowledged(leave=True)
                await self._read_model.append(Entry(incident_stream(incident), seen))
                self._runner.poke(incident)
            case steps.End() as end:
                await self._end(service, there, back, end)
            case steps.DrillWait():
                pass

    async def _back(self, service: str, there: str) -> Incident | None:
        """The drill's return, once it was opened."""
        last = self._read_model.of(service).rollbacks[-1]
        found = last.drill == "back" and last.incident != there
        return await self._read_model.incident(last.incident) if found else None

    async def _return(self, service: str, there: Incident) -> None:
        """Open the return. What stands against it is told once, and it is tried again."""
        before, now = there.decision.present, self._clock.now()
        own = self._config.service(service)
        assert before is not None
        assert own is not None
        plan = there.plans[0]
        request = Request(
            service,
            there.decision.trigger.actor,
            f"the return of {there.id}, a drill",
            to=before.key,
            plan=plan,
            irreversible=own.plans[plan].layers if plan in own.plans else (),
            drill="back",
        )
        trigger = Trigger(service, DRILL, own.priority, f"{DRILL}/{there.id}/back", now, now, request=request)
        if plan not in own.plans:
            problem = f"there is no plan {plan} any more"
        else:
            decision = await self._decision_engine.consider(trigger)
            problem = "; ".join(finding.reason for finding in decision.against)
        if problem:
            self._rest[service] = self._clock.monotonic() + _AGAIN.total_seconds()
        await self._tell_stuck(service, there.id, problem)

    async def _tell_stuck(self, service: str, incident: str, problem: str) -> None:
        """Tell people that a drill cannot return: once for each reason, and once that it is over."""
        if problem == self._stuck.get(service, ""):
            return
        text = f"{incident}, a drill of {service}, cannot return: {problem}; it is tried again" if problem else ""
        over = f"{incident}, a drill of {service}, returns"
        await self._read_model.append(Entry(FLEET, facts.Notice(STUCK, text or over, service, over=not problem)))
        self._stuck[service] = problem

    async def _end(self, service: str, there: Incident, back: Incident | None, end: steps.End) -> None:
        took = there.closed - there.begun if there.closed is not None and there.begun is not None else timedelta()
        limit = self._config.targets.recovery
        slow = (f"it took {round(took.total_seconds())}s, its target is {round(limit.total_seconds())}s",)
        fact = facts.Drilled(
            there.plans,
            end.result,
            end.problems,
            took,
            target=limit,
            incident=there.id,
            returned=back.id if back is not None else "",
            slow=slow if took > limit else (),
            execute=True,
        )
        await self._tell_stuck(service, there.id, "")
        await self.note(service, fact, there.decision.trigger.actor)
        self._log.info("drilled", service=service, incident=there.id, result=end.result, problems=end.problems)
        if self._config.service(service) is not None:
            await self._state_watcher.look(service)

    async def _undisturbed(self, service: str, asked: Coroutine[Any, Any, ReadinessFindings]) -> ReadinessFindings:
        """The findings of an exercise that stops for rollbacks, whose steps must not wait for what is read here."""
        asking, watching = asyncio.create_task(asked), asyncio.create_task(self._until_opened(service))
        try:
            await asyncio.wait({asking, watching}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            raise DrillNotAllowed(f"the drill of {service} was broken off: {watching.result()} goes first")
        finally:
            await end((asking, watching))

    async def _until_opened(self, service: str) -> str:
        """The incident that was opened meanwhile."""
        while (running := self._read_model.of(service).open) is None:
            await self._clock.sleep(_GLANCE)
        return running.incident

    # -- results --------------------------------------------------------------------------------
    async def _found(
        self, service: Service, found: ReadinessFindings, began: float, actor: str, *, execute: bool = False
    ) -> DrillView:
        result = steps.NOT_READY if found.problems else steps.READY
        took = timedelta(seconds=self._clock.monotonic() - began)
        fact = facts.Drilled(
            found.plans, result, found.problems, took, found.expected, found.limit, slow=found.slow, execute=execute
        )
        await self.note(service.name, fact, actor)
        view = self._view(service, found, result, actor, took=took)
        if found.plans == service.plan:
            self.found[service.name] = view
        return view

    async def note(self, service: str, fact: facts.Drilled, actor: str) -> DrillView:
        """Write a result down, and tell people that readiness was lost or is back."""
        entries = [Entry(service_stream(service), fact, actor)]
        before = self._read_model.of(service).ready
        if fact.result == steps.NOT_READY and before is not False:
            text = f"a rollback of {service} would not work: {'; '.join(fact.problems)}"
            entries.append(Entry(FLEET, facts.Notice(LOST, text, service)))
        elif fact.result == steps.READY and before is False:
            text = f"a rollback of {service} would work again"
            entries.append(Entry(FLEET, facts.Notice(LOST, text, service, over=True)))
        written = await self._read_model.append(*entries)
        return drill_view(service, fact, written[0].at, actor)

    def _view(
        self,
        service: Service,
        found: ReadinessFindings,
        result: str,
        actor: str,
        incident: str = "",
        took: timedelta = timedelta(),
    ) -> DrillView:
        ledger = self._read_model.of(service.name)
        return DrillView(
            service=service.name,
            at=self._clock.now(),
            actor=actor,
            plans=found.plans,
            result=result,
            problems=found.problems,
            slow=found.slow,
            took=took,
            expected=found.expected,
            target=found.limit,
            incident=incident,
            layers=found.layers,
            checks=tuple(check_view(one) for one in found.checks),
            present=state_view(ledger, found.present) if found.present is not None else None,
            goes_to=state_view(ledger, found.target) if found.target is not None else None,
        )


def _under_way(there: Incident, stuck: str) -> DrillView:
    actor, problems = there.decision.trigger.actor, (f"cannot return: {stuck}",) if stuck else ()
    return DrillView(there.service, there.opened, actor, there.plans, "running", problems, incident=there.id)
