"""The decision engine: from triggers to decisions to opened incidents. Who loses a race to the journal decides
again."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any

from rollbackd import facts
from rollbackd.config.load import dump_service
from rollbackd.config.models import Config, Service
from rollbackd.decision.situation import SituationReader
from rollbackd.incident.drill import broken_off
from rollbackd.incident.ending import relapse
from rollbackd.journal import Conflict, Entry, JournalUnavailable, until_written
from rollbackd.model import (
    FLEET,
    Action,
    CheckResult,
    Decision,
    Outcome,
    State,
    Trigger,
    incident_stream,
    service_stream,
)
from rollbackd.policy.changes import began_later
from rollbackd.policy.decide import asks_again, decide
from rollbackd.policy.guards import INEFFECTIVE, SAME_STATE, SHADOW, Situation, When, names
from rollbackd.policy.ledger import LastDecision, Rollback, ServiceLedger
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

_SHOWN_AT_ONCE = 8
"""How many services have their checks run for people at the same time: a storm must not start a thousand programs."""
_AGAIN = timedelta(seconds=5)
"""How often episodes that were refused and go on are decided again."""
_DISK = timedelta(seconds=2)
"""The pause before a decision is written again, while the journal cannot be written."""
_FEW = 5
"""How many episodes of one service are decided again each time; the others have their turn the next times."""
_BESIDE = 4
"""How many triggers of one service are decided on at the same time."""
_NEW = 16
"""How many that were not decided on yet are each time."""
_REST = 40
"""How long a service rests after its episodes were decided again, as a multiple of what that took: others come in."""
_RACES = 20
_MANY = 10_000
_GOODBYE = timedelta(seconds=10)
"""How long a stop waits for decisions under way. What is cut off stays unhandled, and is decided on next time."""
_PATIENCE = timedelta(seconds=60)
"""The pause before an episode is looked at again whose full look changed nothing."""
_INNOCENT = names(lambda guard: guard.innocent)


class DecisionEngine:
    """Decides on triggers, and opens incidents."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        situations: SituationReader,
        opened: Callable[[str], None],
        drive: Callable[[str], None],
        run_checks: Callable[[Service], Awaitable[tuple[CheckResult, ...]]],
        due: Callable[[str], Sequence[Trigger]] = lambda _: (),
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._situations = situations
        self._opened = opened
        self._drive = drive
        self._run_checks = run_checks
        self._due = due
        """Gives the triggers of a service that no rule makes: changes that nobody confirmed in time."""
        self._showing = asyncio.Semaphore(_SHOWN_AT_ONCE)
        self._deciding = asyncio.Lock()
        self._service_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thinking: dict[str, list[int]] = {}
        """Episodes under decision, with the rows of the inbox that the decision will have handled."""
        self.behind = False
        """Whether alerts wait that were not brought here yet, perhaps of episodes that nobody decided on."""
        self._patience: dict[str, float] = {}
        self._turn = 0
        self._waiting = defaultdict[str, deque[Trigger]](deque)
        """Triggers that were not looked at yet, by service."""
        self._deciders: Counter[str] = Counter()
        """How many tasks decide on those of a service: one for each trigger of a storm would wait and end with all."""
        by_row = When.BY_ROW if any(row.when.needs_a_look for row in config.policy) else When.ALWAYS
        self._unsettled = names(lambda guard: guard.needs_a_look in {When.ALWAYS, by_row})
        """The guards whose findings from memory settle nothing."""
        self._log = log.get("decision")

    def consider_soon(self, trigger: Trigger, handled: Sequence[int] = (), *, again: bool = False) -> None:
        """Decide on a trigger in a task of its own, so that one slow service delays no other.

        An episode that is being decided on is left alone. One that was decided before is left alone unless `again`.
        """
        known = trigger.episode in self._read_model.of(trigger.service).episodes
        if trigger.episode in self._thinking:
            self._thinking[trigger.episode] += handled
        elif again or handled or not known:
            self._thinking[trigger.episode] = list(handled)
            self._waiting[trigger.service].append(trigger)
            if self._deciders[trigger.service] < _BESIDE:
                self._deciders[trigger.service] += 1
                self.run_soon(self._decide_waiting(trigger.service))

    @property
    def deciding(self) -> int:
        """How many episodes are under decision."""
        return len(self._thinking)

    @property
    def services_deciding(self) -> int:
        """How many services they are of."""
        return len(self._deciders)

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something short beside; `settle` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _decide_waiting(self, service: str) -> None:
        try:
            while waiting := self._waiting[service]:
                await self._guarded(waiting.popleft())
        finally:
            self._deciders[service] -= 1
            if not self._deciders[service]:
                del self._deciders[service]

    async def _guarded(self, trigger: Trigger) -> None:
        say = partial(self._log.error, "a decision could not be written; nothing was started")
        try:
            await until_written(partial(self._consider_all, trigger), self._clock, _DISK, say)
        except Exception:  # noqa: BLE001  # one trigger must not end the daemon; its signal stays unhandled until the next start
            self._log.exception("a trigger could not be judged", service=trigger.service, rule=trigger.rule)
        finally:
            self._thinking.pop(trigger.episode, None)

    async def _consider_all(self, trigger: Trigger) -> None:
        rows = self._thinking[trigger.episode]
        done = len(rows)
        await self.consider(trigger, tuple(rows))
        while late := rows[done:]:  # came while it was decided on
            done += len(late)
            await self._read_model.journal.handled(late)

    async def settle(self) -> None:
        """Wait until no decision is under way, or the time for that is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE.total_seconds()):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
        await end(self._tasks)

    async def idle(self) -> None:
        """Wait until no decision is under way, however long that takes."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def consider(self, trigger: Trigger, handled: Sequence[int] = ()) -> Decision:
        """Decide on a trigger and write the decision down; open an incident when it says so.

        :raises JournalUnavailable: nothing was written or started.
        """
        async with self._service_locks[trigger.service]:
            given = self._situations.quick(trigger)
            decision = decide(trigger, given, self._plan(trigger.service))
            if not self._is_settled(decision, given.ledger):
                given, decision = self._decide(trigger, await self._situations.looked(trigger))
            return await self._write(decision, given, handled)

    def _is_settled(self, decision: Decision, ledger: ServiceLedger) -> bool:
        """Whether what is known without a look decides: a guard of the present refuses already.

        A look is worth it where the findings rest on the state, the target or the rows of policy. So a storm of refused
        triggers costs next to nothing, nor does one that would ask where people are asked already. What would take a
        mark is looked at, since nothing is concluded of a state that was not; and what shadow mode only records, since
        people read it.
        """
        if decision.trigger.request is not None:
            return False
        shadowed = any(one.guard == SHADOW.name for one in decision.against)
        if shadowed or _blamed(decision, ledger) is not None or _relapsed(decision, ledger):
            return False
        enough = {Action.REFUSE, Action.OBSERVE, *([Action.ASK] if decision.joins else [])}
        firm = {one.guard for one in decision.against if one.against in enough}
        return not firm <= self._unsettled

    def _plan(self, service: str) -> tuple[str, ...]:
        found = self._config.service(service)
        return found.plan if found is not None else ("default",)

    async def _write(self, decision: Decision, given: Situation, handled: Sequence[int]) -> Decision:
        """Write a decision that was made just now; decide on the newest ledger until the journal agrees.

        What acts goes one at a time: each spends a budget.

        Questions spend none. Those of a storm are written together, and wait only for a decision about to act.
        """
        trigger = decision.trigger
        for _ in range(_RACES):
            opens = _opens(decision, given.ledger)
            try:
                async with self._deciding if opens else nullcontext():
                    if opens:
                        given, decision = self._decide(trigger, given)
                    if decision.action is Action.ROLL_BACK:
                        return await self._append(decision, given, handled)
                return await self._append(decision, given, handled)
            except Conflict:
                await self._read_model.refresh()
                given, decision = self._decide(trigger, given)
        raise JournalUnavailable(f"lost {_RACES} races for an opening in a row")

    def _decide(self, trigger: Trigger, given: Situation) -> tuple[Situation, Decision]:
        """What the journal says now, with the layers as they were looked at, and the decision on it."""
        now = given.renewed(self._situations.quick(trigger, given.present))
        return now, decide(trigger, now, self._plan(trigger.service))

    async def _append(self, decision: Decision, given: Situation, handled: Sequence[int]) -> Decision:
        trigger, ledger = decision.trigger, given.ledger
        before = ledger.episodes.get(trigger.episode)
        if before is not None and not _is_news(before, decision, ledger):
            await self._read_model.journal.handled(handled)
            return decision
        actor = trigger.actor
        if _opens(decision, ledger):
            return await self._open(decision, ledger, handled, actor)
        stream = service_stream(trigger.service)
        if not given.looked and not self._situations.is_known(trigger):  # the record blames nothing that was not seen
            decision = replace(decision, present=None, change=None)
        entries = [Entry(stream, facts.Decided(decision), actor)]
        if decision.joins and trigger.request is None:
            entries.append(Entry(incident_stream(decision.joins), facts.Joined(trigger)))
            entries += [Entry(where, fact) for where, fact in broken_off(ledger.open, trigger)]
        elif (relapsed := _relapsed(decision, ledger)) and (incident := await self._read_model.incident(relapsed)):
            parts = relapse(incident, trigger, self._clock.now())
            entries += [Entry(where, fact) for where, fact in parts]
        elif given.looked and (blamed := _blamed(decision, ledger)) is not None:
            entries.append(Entry(stream, facts.MarkTaken(blamed, f"{trigger.rule}, not rolled back")))
        await self._read_model.append(*entries, handled=handled)
        against = [finding.reason for finding in decision.against]
        self._log.info("decided", service=trigger.service, rule=trigger.rule, action=decision.action, against=against)
        if ledger.open is not None and not ledger.open.waits:
            self._opened(ledger.open.incident)
        return decision

    async def _open(self, decision: Decision, ledger: ServiceLedger, handled: Sequence[int], actor: str) -> Decision:
        trigger = decision.trigger
        service = self._config.service(trigger.service)
        assert service is not None
        assert decision.present is not None
        if ledger.open is not None:
            return await self._rise(decision, ledger, handled)
        name = f"{trigger.service}-{incident_number(ledger)}"
        asks = decision.action is Action.ASK
        decision = replace(decision, joins=name)
        stream = service_stream(trigger.service)
        opening = facts.Opening(trigger.service, name, trigger.request is not None, asks, trigger.drill)
        entries = [
            Entry(FLEET, opening, actor, follows=None if asks else self._read_model.fleet.n),
            Entry(
                incident_stream(name),
                facts.Opened(trigger.service, decision, dump_service(service), decision.plans),
                actor,
                follows=0,
            ),
            Entry(stream, facts.Decided(decision), actor),
        ]
        blamed = _blamed(decision, ledger) if asks else decision.present
        if trigger.request is None and blamed is not None:
            entries.append(Entry(stream, facts.MarkTaken(blamed, f"{trigger.rule} ({name})")))
        await self._read_model.append(*entries, handled=handled)
        self._log.info("opened", incident=name, rule=trigger.rule, action=decision.action, target=_target(decision))
        self._opened(name)
        self.run_soon(self._show_checks(name, service))
        return decision

    async def _rise(self, decision: Decision, ledger: ServiceLedger, handled: Sequence[int]) -> Decision:
        """Make the incident that waits for people act from now on: worse trouble came, nothing stands against going
        back any more, or a person ordered it.
        """
        trigger = decision.trigger
        assert ledger.open is not None
        name, actor = ledger.open.incident, trigger.actor
        decision = replace(decision, joins=name)
        fleet = self._read_model.fleet.n
        incident = await self._read_model.incident(name)
        if incident is None or not incident.waits or incident.denied or incident.aborted:
            raise Conflict(incident_stream(name))  # it is about to end, and what was denied is not this trouble
        ordered = trigger.request is not None
        goes_on = "goes on" if trigger.episode in ledger.episodes else "came"
        why = f"ordered by {actor}" if ordered else f"{trigger.rule} {goes_on}"
        risen = facts.Risen(decision, why, by_people=ordered)
        decided = Entry(service_stream(trigger.service), facts.Decided(decision), actor)
        await self._read_model.rise(incident, risen, decided, fleet=fleet, actor=actor, handled=handled)
        self._log.info("rose", incident=name, rule=trigger.rule, why=why, target=_target(decision))
        self._opened(name)
        return decision

    async def _show_checks(self, name: str, service: Service) -> None:
        """Run the service's checks once, for people who read of a decision to ask or act. No rollback waits for it."""
        if not service.checks:
            return
        async with self._showing:
            results = await self._run_checks(service)
        try:
            await self._read_model.append(Entry(incident_stream(name), facts.Examined(results)))
        except JournalUnavailable as error:
            self._log.warning("what the checks say could not be written", incident=name, error=str(error))

    # -- episodes that go on --------------------------------------------------------------------
    async def run(self) -> None:
        """Decide again on refused episodes that go on, for ever, and see that every open incident is driven."""
        while True:
            await self._clock.sleep(_AGAIN)
            await self._read_model.refresh()
            for name in self._read_model.open_incidents():
                self._drive(name)
            if len(self._patience) > _MANY:
                self._patience.clear()
            self._turn += _FEW
            for service in self._config.services:
                begun = self._clock.monotonic()
                if self.think_again(service.name):
                    await self._clock.sleep(timedelta(seconds=_REST * (self._clock.monotonic() - begun)))

    def think_again(self, service: str) -> bool:
        """Decide again on episodes where other reasons stand against it now, such as a hold lifted or a cooldown over.

        Returns whether there was any episode. Of many episodes of one service only a few have their turn.
        """
        ledger = self._read_model.of(service)
        triggers = [*self._rule_states.all_triggers(service, self._clock.now()), *self._due(service)]
        if not self.behind:
            for trigger in islice((one for one in triggers if one.episode not in ledger.episodes), _NEW):
                self.consider_soon(trigger)
        first = self._turn % len(triggers) if triggers else 0
        for trigger in (*triggers[first:], *triggers[:first])[:_FEW]:
            before = ledger.episodes.get(trigger.episode)
            if before is not None and _unspent(before, ledger) and self._patient(trigger.episode):
                decision = decide(trigger, self._situations.quick(trigger), self._plan(service))
                if _is_news(before, decision, ledger):
                    self._patience[trigger.episode] = self._clock.monotonic()
                    self.consider_soon(trigger, again=True)
        return bool(triggers)

    def _patient(self, episode: str) -> bool:
        last = self._patience.get(episode)
        return last is None or self._clock.monotonic() - last >= _PATIENCE.total_seconds()


def _opens(decision: Decision, ledger: ServiceLedger) -> bool:
    """Whether a decision opens an incident, or makes one act that waits. A second question is only evidence."""
    return decision.action is Action.ROLL_BACK or (decision.action is Action.ASK and ledger.open is None)


def _target(decision: Decision) -> str:
    return decision.target.name if decision.target is not None else ""


def _blamed(decision: Decision, ledger: ServiceLedger) -> State | None:
    """The good state that a trigger blames although nothing is rolled back; that state loses its mark.

    It is the state that the trouble began in, also when another one, perhaps a fix, runs by now.
    """
    stands = {finding.guard for finding in decision.against}
    onset = decision.trigger.onset
    began = next((spell.state for spell in reversed(ledger.spells) if spell.by <= onset), None)
    blamed = began if SAME_STATE.name in stands else decision.present
    if blamed is None or blamed.key not in ledger.good or decision.trigger.request is not None:
        return None
    offered = decision.target is not None and decision.target.key == blamed.key  # nobody is offered what is to blame
    return None if offered or _INNOCENT & stands else blamed


def _is_news(before: LastDecision, decision: Decision, ledger: ServiceLedger) -> bool:
    """Whether an episode that was decided on is worth another record."""
    return asks_again(before.against, decision) or _only_joined(before, ledger)


def _its(before: LastDecision, ledger: ServiceLedger) -> Rollback | None:
    """The incident that an episode opened or joined."""
    return next((one for one in ledger.rollbacks if one.incident == before.incident), None)


def _only_joined(before: LastDecision, ledger: ServiceLedger) -> bool:
    """Whether an episode joined a question about an older state, which has ended: it was never asked about itself."""
    its = _its(before, ledger)
    if its is None or its.ended is None or its.acted:
        return False
    return began_later(ledger, its.opened, before.onset)


def _unspent(before: LastDecision, ledger: ServiceLedger) -> bool:
    """Whether an episode may be decided again: it was refused, its incident waits, or that ended untouched.

    What a person denied stays denied. What came during a drill is decided on after it.
    """
    if not before.incident:
        return before.action is not Action.ROLL_BACK
    its = _its(before, ledger)
    if its is None or its.denied:
        return _only_joined(before, ledger)
    if its.drill:
        return its.ended is not None
    if its.outcome is Outcome.SUPERSEDED and its.acted:
        return _of_the_next(before, its, ledger)
    return its.waits or (its.ended is not None and not its.acted)


def _of_the_next(before: LastDecision, its: Rollback, ledger: ServiceLedger) -> bool:
    """Whether trouble that joined an incident began after all that the incident led to: it is of somebody's change."""
    led = next((spell for spell in reversed(ledger.spells) if spell.incident == its.incident), None)
    return led is not None and before.onset is not None and before.onset >= led.by


def incident_number(ledger: ServiceLedger) -> int:
    """The number of the service's next incident."""
    return int(ledger.rollbacks[-1].incident.rpartition("-")[2]) + 1 if ledger.rollbacks else 1


def _relapsed(decision: Decision, ledger: ServiceLedger) -> str:
    """The incident in whose watch time this trouble began; empty when there is none."""
    last = ledger.rollbacks[-1] if ledger.rollbacks else None
    if last is None or last.outcome is not Outcome.RECOVERED or last.watch_until is None:
        return ""
    guards = {finding.guard for finding in decision.against}
    ineffective = INEFFECTIVE.name in guards and SAME_STATE.name not in guards
    same = bool(ledger.spells) and ledger.spells[-1].incident == last.incident
    return last.incident if ineffective and same and decision.trigger.reached <= last.watch_until else ""
