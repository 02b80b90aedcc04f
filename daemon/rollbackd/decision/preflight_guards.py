"""What the runner asks the deciding side: what holds a service, what guards say now, whether the trouble goes on."""

from collections.abc import Sequence
from datetime import datetime

from rollbackd.config.models import Config
from rollbackd.decision.situation import HoldSource, SituationReader
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.execution.preflight import Objection
from rollbackd.incident.life import Incident
from rollbackd.model import CheckResult, Outcome, Trigger, Verdict
from rollbackd.policy.changes import UNCONFIRMED, unconfirmed
from rollbackd.policy.decide import decide
from rollbackd.policy.guards import HOLD, When, ago, names, over_by_now
from rollbackd.rules.conditions import threshold, together
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Observation, inconclusive
from rollbackd.rules.spec import AlertWhen, CheckWhen, EventWhen, QueryWhen, Rule
from rollbackd.rules.tracks import Standing
from rollbackd.signals.alert_expressions import AlertExpressions
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_conditions import QueryConditions, all_since_step, since_step
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration
from rollbackd.system.clock import Clock

_ASKED_AGAIN = names(lambda guard: guard.asked_again is When.ALWAYS)
_ASKED_OF_JOINED = names(lambda guard: guard.asked_again is When.JOINED)
_MISSED = 5
"""After so many asks in a row that Alertmanager did not answer, nobody knows whether an alert still fires."""
_AGING = names(lambda guard: guard.ages)


class PreflightGuards:
    """Answers right before the first step, and looks at the trigger's own condition in each verification."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        situations: SituationReader,
        holds: HoldSource,
        check_runner: CheckRunner,
        prometheus: Prometheus | None,
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._situations = situations
        self._holds = holds
        self._check_runner = check_runner
        self._queries = QueryConditions(config, read_model, rule_states, prometheus) if prometheus is not None else None
        self._expressions = AlertExpressions(rule_states, prometheus) if prometheus is not None else None

    async def held(self, incident: Incident) -> str:
        """What holds the incident's service now. A person's own rollback may go over the holds of when it was ordered.

        A silence, often made by reflex, holds only an incident that has not begun; it stops nothing midway.
        """
        trigger = incident.decision.trigger
        silences = not incident.acted
        found = self._holds(incident.service, trigger.labels, silences=silences)
        if trigger.request is not None and trigger.request.over_hold:
            known = next((one.reason for one in incident.decision.findings if one.guard == HOLD.name), "")
            found = tuple(text for text in found if text not in known)
        return "; ".join(found)

    async def confirm(self, incident: Incident) -> Objection | None:
        """Why the incident must not begin: its trouble is gone, or a guard is against it. A person's order is not
        asked.

        Trouble that joined keeps it going alone when it would go back by the same plans; else that is decided anew.
        """
        trigger = incident.decision.trigger
        if incident.by_people or any(one.request is not None for one in (trigger, *incident.joined)):
            return None
        service = self._config.service(incident.service)
        if service is None:
            return Objection(Outcome.DECLINED, "the service is no longer in the configuration")
        gone, guards = await self._gone(trigger), _ASKED_AGAIN
        if gone is not None:
            guards |= _ASKED_OF_JOINED
            for one in incident.joined:
                if await self._gone(one) is None:
                    trigger = one
                    break
            else:
                return gone
        target = incident.decision.target
        if target is not None and (blocked := self._read_model.of(incident.service).blocked(target)):
            return Objection(Outcome.DECLINED, f"{', '.join(blocked)} of the target was quarantined meanwhile")
        given = self._situations.quick(trigger, incident.present).without(incident.id)
        decision = decide(trigger, given, service.plan)
        asked = {finding.guard for finding in incident.decision.against} | (_AGING if incident.risen else set())
        stands = [one for one in decision.against if one.guard in guards and one.guard not in asked]
        if gone is not None and (stands or decision.plans != incident.plans):
            return gone
        if not stands:
            return None
        return Objection(Outcome.DECLINED, "; ".join(f"{finding.guard}: {finding.reason}" for finding in stands))

    async def _gone(self, trigger: Trigger) -> Objection | None:
        """Why a trigger's trouble is not there any more, by what its rule says and by what is asked of right now."""
        if (known := self._known_gone(trigger)) is not None:
            return known
        if seen := over_by_now(await self._situations.recent(trigger)):
            return Objection(Outcome.PASSED, f"the trouble went away by itself: {seen}")
        return None

    def _known_gone(self, trigger: Trigger) -> Objection | None:
        rule = self._rule_states.rule(trigger.rule)
        if trigger.rule == UNCONFIRMED:
            due = unconfirmed(self._read_model.of(trigger.service), self._clock.now())
            return None if due is not None else Objection(Outcome.PASSED, "it was confirmed, or runs no more")
        if rule is None:
            return Objection(Outcome.DECLINED, f"rule {trigger.rule} is no longer in the configuration")
        now = self._clock.now()
        if well := self._rule_states.well(rule, trigger.service, now):
            return Objection(Outcome.PASSED, f"the trouble went away by itself: {well}")
        condition = self._rule_states.condition(rule, trigger.service, now)
        late = now - trigger.reached > self._config.limits.stale_after
        if condition.standing is not Standing.BAD and late:
            return Objection(Outcome.EXPIRED, f"the trouble cannot be confirmed any more: {condition.reason}")
        return None

    async def condition(self, incident: Incident, since: datetime | None) -> tuple[CheckResult, ...]:
        """What the rules of the triggers say now, one result each, those that joined included.

        An alert that fires on may only lag behind: until the deadline it is inconclusive. That it fires no more is no
        proof that all is well, so then it decides nothing. Events decide when enough of them came since the last step.
        A rule that asks what is switched off is not asked.
        """
        names = dict.fromkeys([incident.decision.trigger.rule, *(trigger.rule for trigger in incident.joined)])
        results: list[CheckResult] = []
        for rule in (self._rule_states.rule(name) for name in names):
            if rule is not None and rule.name in incident.unasked:
                off = "not asked: what it looks at is switched off"
                results.append(CheckResult(f"rule {rule.name}", Verdict.INCONCLUSIVE, off, warn=True))
            elif rule is not None:
                results += await self._rule(rule, incident, since)
        return tuple(results)

    async def _rule(self, rule: Rule, incident: Incident, since: datetime | None) -> list[CheckResult]:
        asked: list[CheckResult | None] = []
        told = []
        for leaf in rule.leaves:
            result = None
            if isinstance(leaf, QueryWhen):
                result = await self._query(rule, leaf, incident, since)
            elif isinstance(leaf, CheckWhen):
                service = self._config.service(incident.service)
                if service is not None and leaf.check in service.checks:
                    result = await self._check_runner.ask(service, leaf.check, since)
            elif isinstance(leaf, EventWhen):
                result = self._reported(rule, leaf, incident, since)
            asked.append(result)
        verdicts = [result.verdict if result is not None else None for result in asked]
        verdict = together(rule, verdicts)
        if any(isinstance(leaf, AlertWhen) for leaf in rule.leaves):
            told.append(await self._alert(rule, incident.service, verdicts, since))
        if any(isinstance(leaf, EventWhen) for leaf in rule.leaves):
            told.append(self._events(rule, incident, since))
        if verdict is None:
            return told
        reason = "; ".join(result.reason for result in asked if result is not None)
        return [*told, CheckResult(f"rule {rule.name}", verdict, reason)]

    async def _alert(
        self, rule: Rule, service: str, others: Sequence[Verdict | None], since: datetime | None
    ) -> CheckResult:
        """What the rule's alerts say beside its other conditions: a warning where those decide without them."""
        name, firing = f"alert of {rule.name}", self._rule_states.firing(rule, service)
        heard = max((seen for seen in firing if seen is not None), default=None)
        if heard is None and self._rule_states.is_unheard(service, self._clock.now()):
            return CheckResult(name, Verdict.INCONCLUSIVE, "it is gone, and Prometheus was away, which says so")
        if heard is None:
            return CheckResult(name, Verdict.GOOD, "it fires no more", warn=True)
        both = [Verdict.BAD if seen is not None else other for seen, other in zip(firing, others, strict=True)]
        if together(rule, others) is Verdict.BAD or together(rule, both) is not Verdict.BAD:
            return CheckResult(name, Verdict.BAD, "it still fires", warn=True)
        now = self._clock.now()
        if self._expressions is not None and since is not None:
            alerts = self._rule_states.alerts_of(rule, service)
            seen_since = await self._expressions.observe(rule, service, alerts, since, now)
            if seen_since is not None:
                return CheckResult(name, seen_since.verdict, f"it still fires, but {seen_since.reason}")
        silent = now - heard
        if self._config.alertmanager is not None and silent > self._config.daemon.look_every * _MISSED:
            said = f"it fired, and Alertmanager has not said anything of it for {ago(silent)}"
            return CheckResult(name, Verdict.INCONCLUSIVE, said)
        return CheckResult(name, Verdict.INCONCLUSIVE, "it still fires", lags=True)

    def _events(self, rule: Rule, incident: Incident, since: datetime | None) -> CheckResult:
        count = self._rule_states.events.after(rule, incident.service, since or incident.opened)
        words = "the last step" if since is not None else "the incident was opened"
        said = f"{count or 'none'} came since {words}"
        return CheckResult(f"events of {rule.name}", Verdict.BAD if count else Verdict.GOOD, said, warn=True)

    def _reported(self, rule: Rule, leaf: EventWhen, incident: Incident, since: datetime | None) -> CheckResult | None:
        """Bad when enough came since the last step; that nothing came says nothing."""
        if since is None or not self._rule_states.events.met_after(leaf, incident.service, since, self._clock.now()):
            return None
        said = ", ".join(filter(None, (f"{leaf.event} was reported again", threshold(leaf))))
        return CheckResult(f"rule {rule.name}", Verdict.BAD, said)

    async def _query(self, rule: Rule, leaf: QueryWhen, incident: Incident, since: datetime | None) -> CheckResult:
        name = f"rule {rule.name}"
        if self._queries is None:
            return CheckResult(name, Verdict.INCONCLUSIVE, "no Prometheus is configured any more")
        back = reach(leaf.query)
        now, whole = self._clock.now(), leaf
        if since is not None and now - back < since:
            short = since_step(leaf, now - since)
            if short is None:
                text = f"looks back {format_duration(back)}, to before the last step"
                return CheckResult(name, Verdict.INCONCLUSIVE, text)
            leaf = short
        seen = await self._asked(self._queries, rule, leaf, incident.service, since)
        if seen.quiet and since is not None and (longer := all_since_step(whole, now - since)) is not None:
            seen = await self._asked(self._queries, rule, longer, incident.service, since)
        return CheckResult(name, seen.verdict, seen.reason)

    async def _asked(
        self, queries: QueryConditions, rule: Rule, leaf: QueryWhen, service: str, since: datetime | None
    ) -> Observation:
        answers = await queries.ask([leaf])
        found = await queries.observe(rule, leaf, answers, [service], self._clock.now(), since)
        return found.get(service, inconclusive("there is no change any more to compare with"))
