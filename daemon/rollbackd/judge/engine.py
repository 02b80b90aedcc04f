"""From triggers to decisions to opened incidents. One decision at a time; who loses a race decides again."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rollbackd import facts, log
from rollbackd.book import Book
from rollbackd.clock import Clock
from rollbackd.config.load import dump_service
from rollbackd.config.models import Config
from rollbackd.incident.ending import relapse
from rollbackd.journal import Conflict, Entry, JournalUnavailable
from rollbackd.judge.live import Live
from rollbackd.judge.situation import Situations
from rollbackd.model import (
    DAEMON,
    FLEET,
    Action,
    Decision,
    Outcome,
    State,
    Trigger,
    incident_stream,
    service_stream,
)
from rollbackd.policy.decide import asks_again, decide
from rollbackd.policy.guards import Situation
from rollbackd.policy.ledger import ServiceLedger, Verdicted

_AT_ONCE = 32
"""Services that are looked at for a decision at the same time."""
_AGAIN = timedelta(seconds=5)
"""How often refused episodes that go on are thought about again."""
_FEW = 5
"""Episodes of one service that are thought about each time; the others have their turn the next times."""
_REST = 40
"""So many times as long as that took for a service the next one waits: a storm must not hold up what comes in."""
_RACES = 20
_MANY = 10_000
_GOODBYE = timedelta(seconds=10)
"""How long a stop waits for what is under consideration; what is cut off stays unhandled, and is judged next time."""
_PATIENCE = timedelta(seconds=60)
"""Before an episode whose full look changed nothing is looked at again."""


class Judge:
    """Decides, and opens."""

    def __init__(
        self,
        config: Config,
        book: Book,
        live: Live,
        clock: Clock,
        situations: Situations,
        opened: Callable[[str], None],
    ) -> None:
        self._config = config
        self._book = book
        self._live = live
        self._clock = clock
        self._situations = situations
        self._opened = opened
        self._looking = asyncio.Semaphore(_AT_ONCE)
        self._deciding = asyncio.Lock()
        self._service_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thinking: dict[str, list[int]] = {}
        """Episodes under consideration, with the inbox rows that the decision will have handled."""
        self.behind = False
        """Alerts wait to be brought here: what was never decided may be one of them."""
        self._patience: dict[str, float] = {}
        self._turn = 0
        self._log = log.get("judge")

    def consider_soon(self, trigger: Trigger, handled: Sequence[int] = (), *, again: bool = False) -> None:
        """Consider it in a task of its own, so that one slow service delays no other.

        An episode that is being thought about is left alone, and unless `again` one that was decided before.
        """
        known = trigger.episode in self._book.of(trigger.service).episodes
        if trigger.episode in self._thinking:
            self._thinking[trigger.episode] += handled
        elif again or handled or not known:
            self._thinking[trigger.episode] = list(handled)
            self.run_soon(self._guarded(trigger))

    def run_soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something short go on beside; `settle` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, trigger: Trigger) -> None:
        rows = self._thinking[trigger.episode]
        try:
            while True:
                try:
                    done = len(rows)
                    await self.consider(trigger, tuple(rows))
                    while late := rows[done:]:  # came while it was thought about
                        done += len(late)
                        await self._book.journal.handled(late)
                except JournalUnavailable as error:
                    self._log.error("a decision could not be written; nothing was started", error=str(error))
                    await self._clock.sleep(timedelta(seconds=2))
                else:
                    return
        except Exception:  # noqa: BLE001  # one trigger must not end the daemon; its signal stays unhandled until the next start
            self._log.exception("a trigger could not be judged", service=trigger.service, rule=trigger.rule)
        finally:
            self._thinking.pop(trigger.episode, None)

    async def settle(self) -> None:
        """Until nothing is under consideration, or the time for that is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE.total_seconds()):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
        left = set(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def consider(self, trigger: Trigger, handled: Sequence[int] = ()) -> Decision:
        """Decide on a trigger and write it down; open the incident when it says so.

        :raises JournalUnavailable: nothing was written or started.
        """
        async with self._service_locks[trigger.service]:
            given = self._situations.quick(trigger)
            first = decide(trigger, given, self._plan(trigger.service))
            if first.action is not Action.ROLL_BACK and trigger.request is None and not _worth_a_look(first):
                return await self._append(_not_asking(first), given.ledger, handled)
            async with self._looking:
                given = await self._situations.full(trigger)
            return await self._write(trigger, given, handled)

    def _plan(self, service: str) -> tuple[str, ...]:
        found = self._config.service(service)
        return found.plan if found is not None else ("default",)

    async def _write(self, trigger: Trigger, given: Situation, handled: Sequence[int]) -> Decision:
        """Decide on the newest ledger until the journal agrees; what would open an incident, one at a time."""
        decision, ledger = self._decide(trigger, given)
        if decision.action is not Action.ROLL_BACK:
            return await self._append(decision, ledger, handled)
        async with self._deciding:
            for _ in range(_RACES):
                decision, ledger = self._decide(trigger, given)
                try:
                    return await self._append(decision, ledger, handled)
                except Conflict:
                    await self._book.refresh()
            raise JournalUnavailable(f"lost {_RACES} races for an opening in a row")

    def _decide(self, trigger: Trigger, given: Situation) -> tuple[Decision, ServiceLedger]:
        """On what the journal says now, the layers as they were looked at; with the service's ledger."""
        quick = self._situations.quick(trigger, given.present)
        now = replace(given, ledger=quick.ledger, fleet=quick.fleet, holds=quick.holds, troubled=quick.troubled)
        return _not_asking(decide(trigger, now, self._plan(trigger.service))), now.ledger

    async def _append(self, decision: Decision, ledger: ServiceLedger, handled: Sequence[int]) -> Decision:
        trigger = decision.trigger
        before = ledger.episodes.get(trigger.episode)
        if before is not None and not asks_again(before.against, decision):
            await self._book.journal.handled(handled)
            return decision
        actor = trigger.request.actor if trigger.request is not None else DAEMON
        if decision.action is Action.ROLL_BACK:
            return await self._open(decision, ledger, handled, actor)
        stream = service_stream(trigger.service)
        entries = [Entry(stream, facts.Decided(decision), actor)]
        if decision.joins and trigger.request is None:
            entries.append(Entry(incident_stream(decision.joins), facts.Joined(trigger)))
        elif (relapsed := _relapsed(decision, ledger)) and (incident := await self._book.incident(relapsed)):
            parts = relapse(incident, trigger, self._clock.now())
            entries += [Entry(where, fact) for where, fact in parts]
        elif (blamed := _blamed(decision, ledger)) is not None:
            entries.append(Entry(stream, facts.MarkTaken(blamed, f"{trigger.rule}, not rolled back")))
        await self._book.append(*entries, handled=handled)
        self._log.info(
            "decided",
            service=trigger.service,
            rule=trigger.rule,
            action=decision.action,
            against=[finding.reason for finding in decision.against],
        )
        if decision.joins:
            self._opened(decision.joins)
        return decision

    async def _open(self, decision: Decision, ledger: ServiceLedger, handled: Sequence[int], actor: str) -> Decision:
        trigger = decision.trigger
        service = self._config.service(trigger.service)
        assert service is not None
        assert decision.present is not None
        name = f"{trigger.service}-{_number(ledger)}"
        present = decision.present
        decision = replace(decision, joins=name)
        stream = service_stream(trigger.service)
        opening = facts.Opening(trigger.service, name, trigger.request is not None)
        entries = [
            Entry(FLEET, opening, actor, follows=self._book.fleet.n),
            Entry(
                incident_stream(name),
                facts.Opened(trigger.service, decision, dump_service(service), decision.plans),
                actor,
                follows=0,
            ),
            Entry(stream, facts.Decided(decision), actor),
        ]
        if trigger.request is None:
            entries.append(Entry(stream, facts.MarkTaken(present, f"{trigger.rule} ({name})")))
        await self._book.append(*entries, handled=handled)
        self._log.info("opened", incident=name, rule=trigger.rule, target=decision.target and decision.target.name)
        self._opened(name)
        return decision

    # -- episodes that go on --------------------------------------------------------------------
    async def run(self) -> None:
        """Think again about refused episodes that go on, for ever; see that every open incident is driven."""
        while True:
            await self._clock.sleep(_AGAIN)
            await self._book.refresh()
            for name in self._book.open_incidents():
                self._opened(name)
            if len(self._patience) > _MANY:
                self._patience.clear()
            self._turn += _FEW
            for service in self._config.services:
                begun = self._clock.monotonic()
                if self._think_again(service.name):
                    await self._clock.sleep(timedelta(seconds=_REST * (self._clock.monotonic() - begun)))

    def _think_again(self, service: str) -> bool:
        """An episode is decided again when what stood against it is another set now: a hold lifted, a cooldown over.

        Whether there was anything to think about. Of many episodes of one service only a few have their turn.
        """
        ledger = self._book.of(service)
        triggers = self._live.all_triggers(service, self._clock.now())
        if not self.behind:
            for trigger in triggers:
                if trigger.episode not in ledger.episodes:
                    self.consider_soon(trigger)
        first = self._turn % len(triggers) if triggers else 0
        for trigger in (*triggers[first:], *triggers[:first])[:_FEW]:
            before = ledger.episodes.get(trigger.episode)
            if before is not None and _unspent(before, ledger) and self._patient(trigger.episode):
                decision = decide(trigger, self._situations.quick(trigger), self._plan(service))
                if asks_again(before.against, decision):
                    self._patience[trigger.episode] = self._clock.monotonic()
                    self.consider_soon(trigger, again=True)
        return bool(triggers)

    def _patient(self, episode: str) -> bool:
        last = self._patience.get(episode)
        return last is None or self._clock.monotonic() - last >= _PATIENCE.total_seconds()


def _worth_a_look(decision: Decision) -> bool:
    """Whether only a fresh look can say: all that stands against it is about the state and the target."""
    return {finding.guard for finding in decision.against} <= {"same_state", "target", "reach", "change", "ineffective"}


def _blamed(decision: Decision, ledger: ServiceLedger) -> State | None:
    """The good state that a trigger blames, though nothing is rolled back: it is good no more."""
    innocent = {"same_state", "change", "common_cause", "clock", "stale"}
    present = decision.present
    if present is None or present.key not in ledger.good or decision.trigger.request is not None:
        return None
    return None if innocent & {finding.guard for finding in decision.against} else present


def _not_asking(decision: Decision) -> Decision:
    """Nobody can be asked yet: what would ask is refused, and its findings tell a person."""
    return replace(decision, action=Action.REFUSE) if decision.action is Action.ASK else decision


def _unspent(before: Verdicted, ledger: ServiceLedger) -> bool:
    """Whether an episode may be decided again: it was refused, or its incident ended before it touched anything."""
    if not before.incident:
        return before.action is not Action.ROLL_BACK
    its = next((one for one in ledger.rollbacks if one.incident == before.incident), None)
    return its is not None and its.ended is not None and not its.acted


def _number(ledger: ServiceLedger) -> int:
    """The next number of the service's incidents."""
    return int(ledger.rollbacks[-1].incident.rpartition("-")[2]) + 1 if ledger.rollbacks else 1


def _relapsed(decision: Decision, ledger: ServiceLedger) -> str:
    """The incident whose watch time this trouble falls into; empty when there is none."""
    last = ledger.rollbacks[-1] if ledger.rollbacks else None
    if last is None or last.outcome is not Outcome.RECOVERED or last.watch_until is None:
        return ""
    guards = {finding.guard for finding in decision.against}
    ineffective = "ineffective" in guards and "same_state" not in guards
    same = bool(ledger.spells) and ledger.spells[-1].incident == last.incident
    return last.incident if ineffective and same and decision.trigger.reached <= last.watch_until else ""
