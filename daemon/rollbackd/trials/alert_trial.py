"""An alert tried out: whose it is, which rules ask for it, what would be decided, done and told. Nothing is written.

It is heard by a copy of what the rules know, judged by the decision's own guards, and told to nobody by the presenter.
"""

from bisect import insort
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rollbackd import facts
from rollbackd.config.load import dump_service
from rollbackd.config.models import Config, Service
from rollbackd.decision.engine import incident_number
from rollbackd.decision.situation import SituationReader
from rollbackd.facts import Record
from rollbackd.incident.fold import fold
from rollbackd.model import DAEMON, Action, Alert, Decision, Trigger, incident_stream, service_stream
from rollbackd.notify.messages import presenter
from rollbackd.notify.messages.troubles import Troubles
from rollbackd.notify.routes import addressed, worded
from rollbackd.notify.wording import Wording
from rollbackd.policy.decide import decide
from rollbackd.policy.guards import Situation
from rollbackd.rules.matchers import Matcher, all_match, parse_matchers
from rollbackd.rules.spec import AlertWhen, Rule
from rollbackd.signals.alertmanager_webhook import fingerprint_of
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state import step_durations
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration
from rollbackd.system.clock import Clock
from rollbackd.views.presenters import decision_view, step_view
from rollbackd.views.shapes import AlertTrialView, HeardView, RuleTrialView, TriggerTrialView

_FEW = 20


class AlertTrials:
    """Tries alerts, any number of them; it keeps nothing."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        situations: SituationReader,
        wording: Wording,
    ) -> None:
        self._config = config
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._situations = situations
        self._wording = wording

    async def judge(self, labels: Mapping[str, str], at: datetime | None = None) -> AlertTrialView:
        """What an alert with these labels would lead to, were it to begin and to reach us at this time; now: None."""
        now = at or self._clock.now()
        alert = Alert(fingerprint_of(labels), labels, {}, now, None)
        name = self._rule_states.wanted(labels) or self._rule_states.service_of(labels) or ""
        service = self._config.service(name)
        if service is None:
            return AlertTrialView(labels, now, "", self._nobodys(labels))
        heard = self._rule_states.with_alert(alert, name, now)
        triggers = {one.rule: one for one in heard.triggers_of(alert, name, now)}
        rules = tuple(
            _rule_view(rule, labels, triggers.get(rule.name), heard, name, now)
            for rule in self._config.rules
            if heard.applies(rule, name) and any(isinstance(leaf, AlertWhen) for leaf in rule.leaves)
        )
        took = await step_durations.of_steps(self._read_model.journal, name)
        found = [await self._trigger(service, trigger, now, took) for trigger in triggers.values()]
        return AlertTrialView(labels, now, name, _unmet(name, rules, triggers), rules, tuple(found))

    def _nobodys(self, labels: Mapping[str, str]) -> str:
        """Why the labels are of no service, with the one that they miss by the least."""
        near = min(
            (
                ([f'{key}="{value}"' for key, value in match.items() if labels.get(key, "") != value], service.name)
                for service in self._config.services
                for match in service.match
            ),
            key=lambda one: len(one[0]),
            default=None,
        )
        if near is None:
            return "no service is configured, so no alert leads to anything"
        return f"no service has these labels: {near[1]}, the nearest, needs {', '.join(near[0])}; see its `match`"

    async def _trigger(
        self, service: Service, trigger: Trigger, now: datetime, took: Mapping[str, timedelta]
    ) -> TriggerTrialView:
        given = await self._situations.full(trigger, trial=True)
        given = replace(given, now=now, troubled=_with_own(given, trigger, self._rule_states, service.name))
        decision = decide(trigger, given, service.plan)
        spec = service.plans.get(decision.plans[0]) if decision.plans else None
        verify = service.verified_by(next(iter(decision.plans), "")).shortest
        return TriggerTrialView(
            decision=decision_view(decision, now),
            plan=", then ".join(decision.plans),
            brackets=spec.within if spec is not None else (),
            steps=tuple(step_view(change, took) for change in given.changes),
            problems=given.problems,
            expected=step_durations.expected(given.changes, took, verify),
            heard=tuple(self._heard(service, decision, given, now)),
        )

    def _heard(self, service: Service, decision: Decision, given: Situation, now: datetime) -> Iterator[HeardView]:
        """Who would hear of it at once, and in which words; then the tiers, while nobody acknowledges it."""
        opens = decision.action is Action.ROLL_BACK or (decision.action is Action.ASK and given.ledger.open is None)
        if opens:
            name = f"{service.name}-{incident_number(given.ledger)}"
            decision = replace(decision, joins=name)
            fact: facts.Opened | facts.Decided
            fact = facts.Opened(service.name, decision, dump_service(service), decision.plans)
            record = Record(0, incident_stream(name), 1, now, DAEMON, fact)
        else:
            fact = facts.Decided(decision)
            record = Record(0, service_stream(service.name), 1, now, DAEMON, fact)
        notify = self._config.notify
        known = {receiver.name: receiver for receiver in notify.receivers}
        after = fold((record,)) if opens else None
        for envelope in presenter.envelopes(record, None, after, Troubles(), self._config.daemon.signals):
            for receiver in addressed(notify, envelope, tuple(known)):
                if (message := worded(known[receiver], envelope.message)) is not None:
                    yield HeardView(receiver, message.event, self._wording.of(receiver, message)[0].title)
        if opens or decision.escalate:
            for tier in notify.escalation:
                after_ = f"after {format_duration(tier.after)}" if tier.after else "at once"
                yield from (HeardView(name, "escalated", f"{after_}, until somebody acknowledges") for name in tier.to)


def _unmet(service: str, rules: Sequence[RuleTrialView], triggers: Collection[str]) -> str:
    """Why nothing comes of an alert; empty when something does."""
    if triggers:
        return ""
    if not rules:
        return f"no rule asks for any alert of {service}; write one with `when: {{alert: …}}`"
    if any(rule.asks for rule in rules):
        return f"no rule of {service} is met by this alert alone; see below what each one waits for"
    return f"no rule asks for this alert of {service}, so nothing comes of it; see below what each one wants"


def _with_own(given: Situation, trigger: Trigger, rule_states: RuleStates, service: str) -> tuple[datetime, ...]:
    """Since when each service in trouble is, this one among them, as the guard against common causes counts them."""
    times = list(given.troubled)
    if (before := rule_states.trouble_of(service)) in times:
        times.remove(before)
    insort(times, trigger.onset)
    return tuple(times)


def _rule_view(
    rule: Rule, labels: Mapping[str, str], trigger: Trigger | None, heard: RuleStates, service: str, now: datetime
) -> RuleTrialView:
    if trigger is not None:
        return RuleTrialView(rule.name, asks=True, reason="met")
    asked = [parse_matchers(leaf.alert) for leaf in rule.leaves if isinstance(leaf, AlertWhen)]
    if not any(all_match(matchers, labels) for matchers in asked):
        wrong = min(([one for one in matchers if not one.matches(labels)] for matchers in asked), key=len)
        return RuleTrialView(rule.name, asks=False, reason="; ".join(_misfit(one, labels) for one in wrong[:_FEW]))
    condition = heard.condition(rule, service, now)
    return RuleTrialView(rule.name, asks=True, reason=f"not met yet: {condition.standing.value}, {condition.reason}")


def _misfit(matcher: Matcher, labels: Mapping[str, str]) -> str:
    has = f'it is "{labels[matcher.name]}"' if matcher.name in labels else "the alert has no such label"
    return f"it wants {matcher}: {has}"
