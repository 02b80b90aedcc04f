"""Approvals: what a question becomes once it is answered or expires. The world may have moved since it was asked."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.decision.situation import SituationReader
from rollbackd.execution.preflight import Objection
from rollbackd.incident.life import Incident
from rollbackd.model import Action, ApprovalRequest, Decision, Outcome, Trigger
from rollbackd.policy.changes import UNCONFIRMED, began_later, unconfirmed
from rollbackd.policy.decide import decide, question_of
from rollbackd.policy.guards import DATA_LOSS, IRREVERSIBLE, Situation, names, over_by_now
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock

_AGING = names(lambda guard: guard.ages)
_AT_ONCE = 32
"""How many questions have their layers looked at again at the same time."""


class Approvals:
    """Looks at the layers, the trouble and the guards again before a question becomes anything."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        situations: SituationReader,
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._situations = situations
        self._looking = asyncio.Semaphore(_AT_ONCE)

    async def rise(self, incident: Incident, why: str, by_people: bool) -> facts.Risen | facts.AskedAgain | Objection:
        """What the incident becomes: a rollback, another question, or its end."""
        if self._config.service(incident.service) is None:
            return Objection(Outcome.DECLINED, f"{why}, but the service is no longer in the configuration")
        trigger = self._standing(incident)
        async with self._looking:
            given = await self._situations.full(trigger)
        given = self._as_of_now(incident, trigger, given)
        service = self._config.service(incident.service)
        now = replace(decide(trigger, given, service.plan if service else ()), joins=incident.id)
        over = self._over(incident, given.ledger, given.now) or self._by_now(incident, trigger, given)
        return self._answered(incident, now, given, why, over) if by_people else self._late(incident, now, why, over)

    def _standing(self, incident: Incident) -> Trigger:
        """The trigger that the question is about now: the first that goes on, else the one that it began with."""
        first = incident.decision.trigger
        ledger, now = self._read_model.of(incident.service), self._clock.now()
        others = (one for one in incident.joined if one.request is None)
        return next((one for one in (first, *others) if not self._is_over(one, ledger, now)), first)

    def _as_of_now(self, incident: Incident, trigger: Trigger, given: Situation) -> Situation:
        """The situation as the journal has it after the look, without the incident itself.

        Nothing is awaited between this and the write, so that two questions that end at once do not spend one budget.
        """
        return given.renewed(self._situations.quick(trigger, given.present)).without(incident.id)

    def over(self, incident: Incident) -> str:
        """Why a question's trouble counts as over now, known without a look; empty for a question about just that.

        What joined it and began in a later state is no trouble of its own: it is asked about by itself.
        """
        if incident.decision.question is not None and incident.decision.question.over:
            return ""
        ledger = self._read_model.of(incident.service)
        own = (one for one in incident.joined if not began_later(ledger, incident.opened, one.onset))
        return self._all_over((incident.decision.trigger, *own), ledger, self._clock.now())

    def _over(self, incident: Incident, ledger: ServiceLedger, now: datetime) -> str:
        """Why all of the trouble counts as over; empty while any of it goes on, or while nobody can say."""
        return self._all_over((incident.decision.trigger, *incident.joined), ledger, now)

    def _all_over(self, triggers: Sequence[Trigger], ledger: ServiceLedger, now: datetime) -> str:
        said = [self._is_over(trigger, ledger, now) for trigger in triggers]
        return "; ".join(dict.fromkeys(said)) if all(said) else ""

    def _by_now(self, incident: Incident, trigger: Trigger, given: Situation) -> str:
        """Why the only trouble that goes on is over by what was asked of the last minute."""
        others = (one for one in (incident.decision.trigger, *incident.joined) if one is not trigger)
        if not all(self._is_over(one, given.ledger, given.now) for one in others):
            return ""
        seen = over_by_now(given.recent)
        return f"the trouble is over by now: {seen}" if seen else ""

    def _is_over(self, trigger: Trigger, ledger: ServiceLedger, now: datetime) -> str:
        """Why one trigger's trouble counts as over; empty while it goes on."""
        if trigger.rule == UNCONFIRMED and unconfirmed(ledger, now) is None:
            return "it was confirmed, or runs no more"
        rule = self._rule_states.rule(trigger.rule)
        well = self._rule_states.well(rule, trigger.service, now) if rule is not None else ""
        return f"the trouble is over: {well}" if well else ""

    def _late(self, incident: Incident, now: Decision, why: str, over: str) -> facts.Risen | Objection:
        """What a question becomes that nobody answered: only reasons that it was not asked for stand in the way."""
        before, question = incident.decision, incident.decision.question
        if over:
            return Objection(Outcome.PASSED, over)
        if question is None or question.otherwise == "escalate":
            return Objection(Outcome.EXPIRED, why)
        if now.present is None or before.present is None or now.present.key != before.present.key:
            return Objection(Outcome.SUPERSEDED, f"{why}, and somebody else changed the layers meanwhile")
        asked = {one.guard for one in before.against if one.against is Action.ASK} | _AGING
        stands = [one for one in now.against if one.against is not Action.ASK or one.guard not in asked]
        if stands or now.target is None:
            return Objection(Outcome.EXPIRED, f"{why}, and {'; '.join(one.reason for one in stands)}")
        return facts.Risen(_acts(now), why)

    def _answered(
        self, incident: Incident, now: Decision, given: Situation, why: str, over: str
    ) -> facts.Risen | facts.AskedAgain | Objection:
        """What a question becomes after a yes: a rollback when that is what people saw, else another question."""
        before, question = incident.decision, incident.decision.question
        if now.target is None and not given.problems:  # anything else may pass by itself, so people are asked once more
            return Objection(Outcome.FAILED, f"{why}, but nothing was touched: {given.no_target}")
        moved = _moved(before, now, given)
        if over and not (question is not None and question.over):
            moved.append(over)
        if not moved:
            return facts.Risen(_acts(now), why, by_people=True)
        again = self._again(before, now, given, over=bool(over))
        return facts.AskedAgain(again, f"{why}, but {'; '.join(moved)}")

    def _again(self, before: Decision, now: Decision, given: Situation, *, over: bool) -> Decision:
        """The same question as of now. Where the layers or the target cannot be told, it is asked as before."""
        now = replace(now, present=now.present or before.present, target=now.target or before.target)
        findings = tuple(one for one in now.against if one.against is Action.ASK)
        question: ApprovalRequest = question_of(now.trigger, given, findings, now.change)
        return replace(now, action=Action.ASK, question=replace(question, over=over))


def _unseen(given: Situation) -> str:
    """Why it cannot be told what runs."""
    if given.problems:
        return f"it cannot be seen what runs: {'; '.join(given.problems)}"
    return "the layers are being changed right now"


def _moved(before: Decision, now: Decision, given: Situation) -> list[str]:
    """What is different from when the question was asked."""
    moved = []
    if now.present is None:
        moved.append(_unseen(given))
    elif before.present is None or now.present.key != before.present.key:
        moved.append(f"now {now.present.name} runs")
    if now.target is None:
        moved.append(given.no_target)
    elif before.target is None or now.target.key != before.target.key:
        moved.append(f"it would go back to {now.target.name} now")
    shown = _final(before)
    return [*moved, *(reason for reason in _final(now) if reason not in shown)]


def _final(decision: Decision) -> list[str]:
    """What cannot be taken back, and what data is lost; a yes covers what people were asked about, and no more."""
    return [one.reason for one in decision.against if one.guard in {IRREVERSIBLE.name, DATA_LOSS.name}]


def _acts(decision: Decision) -> Decision:
    return replace(decision, action=Action.ROLL_BACK)
