"""What an alert's own expression says over the time since a rollback's last step, asked of Prometheus.

An alert lags behind by its window, its `for`, its `keep_firing_for` and Alertmanager's intervals. Its expression over a
window that begins after the last step says sooner whether what triggered is over.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rollbackd.config.models import Config
from rollbackd.model import Verdict
from rollbackd.rules.matchers import Matcher, parse_matchers
from rollbackd.rules.reach import as_truth, metrics, reach, recent
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import AlertWhen, Rule
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_answers import AlertingRule, RulesAnswer
from rollbackd.signals.rule_state import RuleStates
from rollbackd.syntax.units import format_duration, whole_seconds
from rollbackd.system.tasks import in_turns

_DEEPEST = 100
"""How many recorded metrics are followed, one made of the other."""
_LONGEST = 10_000
"""Characters of an expression that is asked."""


class AlertExpressions:
    """Finds the alerting rules of alerts in Prometheus's own files, and asks their expressions."""

    def __init__(self, rule_states: RuleStates, prometheus: Prometheus) -> None:
        self._rule_states = rule_states
        self._prometheus = prometheus

    async def observe(
        self, rule: Rule, service: str, alerts: Sequence[Mapping[str, str]], since: datetime, now: datetime
    ) -> Observation | None:
        """What the expressions of these alerts say of the service; None where they cannot be asked, or not yet.

        :param rule: the one of ours that asks for the alerts.
        :param alerts: the labels of each.
        :param since: when the last step ended.
        """
        answer = await self._prometheus.rules()
        meant = [rule_of(labels, answer.alerting) for labels in alerts]
        queries = [_query(one.query, answer.recorded, now - since) for one in meant if one is not None]
        asked = [query for query in queries if query is not None]
        if answer.problem or None in meant or len(asked) < len(queries):
            return None
        found = await asyncio.gather(*(self._ask(rule, service, query) for query in dict.fromkeys(asked)))
        if None in found:
            return None
        length = format_duration(whole_seconds(now - since))
        if any(found):
            return Observation(Verdict.BAD, None, f"its expression is met, also over the {length} after the last step")
        return Observation(Verdict.GOOD, None, f"its expression is met no more, over the {length} after the last step")

    async def _ask(self, rule: Rule, service: str, query: str) -> bool | None:
        """Whether the condition is met for the service; None when nothing is known of that."""
        answer = await self._prometheus.instant(query)
        owners = self._rule_states.spread([one.labels for one in answer.series], rule)
        values = [one.value for one, owner in zip(answer.series, owners, strict=True) if owner == service]
        return any(value == 1 for value in values) if values and not answer.problem else None


async def lags(answer: RulesAnswer) -> dict[str, timedelta]:
    """How long each alert may fire for what was before, by its name: what it looks back over, and waits for."""
    found: dict[str, timedelta] = {}
    behind = _Behind(answer.recorded)
    async for rule in in_turns(answer.alerting):
        lag = reach(rule.query) + behind.of(rule.query) + rule.waits
        found[rule.name] = max(found.get(rule.name, timedelta()), lag)
    return found


async def outlasting(config: Config, answer: RulesAnswer) -> list[str]:
    """A sentence for each plan whose verification may end before an alert that the service goes back for can end."""
    behind = await lags(answer)
    found = []
    for service in config.services:
        rules = [rule for rule in config.rules if not rule.services or service.name in rule.services]
        asked = [parse_matchers(leaf.alert) for rule in rules for leaf in rule.leaves if isinstance(leaf, AlertWhen)]
        late = {one.name: behind[one.name] for one in answer.alerting if any(_may_be(one, of) for of in asked)}
        for name, plan in service.plans.items():
            deadline = (plan.verify or service.verify).deadline
            over = {alert: length for alert, length in late.items() if length > deadline}
            if over:
                longest = max(over, key=over.__getitem__)
                found.append(
                    f"{service.name}: the alert {longest} may fire for {format_duration(over[longest])} after its "
                    f"cause is gone (its window and its `for`), and {name} is verified for "
                    f"{format_duration(deadline)}: give `verify: deadline` more than that, or the alert less"
                )
    return found


def _may_be(rule: AlertingRule, matchers: Sequence[Matcher]) -> bool:
    """Whether alerts of the rule can be what is asked for, by the labels that it gives all of them."""
    given = {"alertname": rule.name, **{name: value for name, value in rule.labels.items() if "{{" not in value}}
    return all(one.matches(given) for one in matchers if one.name in given)


def rule_of(labels: Mapping[str, str], rules: Sequence[AlertingRule]) -> AlertingRule | None:
    """The one rule that such an alert comes of; a label that is a template fits any."""
    found = [one for one in rules if one.name == labels.get("alertname") and _fits(one, labels)]
    return found[0] if len(found) == 1 else None


def _fits(rule: AlertingRule, labels: Mapping[str, str]) -> bool:
    return all("{{" in value or labels.get(name) == value for name, value in rule.labels.items())


def _query(query: str, recorded: Mapping[str, str], length: timedelta) -> str | None:
    """The condition over at most so long; None where it cannot be asked so."""
    behind = _Behind(recorded).of(query)
    if len(query) > _LONGEST or (behind and reach(query) + behind > length):
        return None
    short = recent(query, length)
    return as_truth(short) if short is not None else None


class _Behind:
    """How far back recorded metrics look themselves, which may be made of recorded ones, also in a circle."""

    def __init__(self, recorded: Mapping[str, str]) -> None:
        self._recorded = recorded
        self._known: dict[str, timedelta] = {}

    def of(self, query: str, depth: int = 0) -> timedelta:
        """The farthest of the metrics that an expression names. Each is worked out once."""
        named = metrics(query) & self._recorded.keys() if depth < _DEEPEST else ()
        return max((self._of_metric(name, depth) for name in named), default=timedelta())

    def _of_metric(self, name: str, depth: int) -> timedelta:
        if name not in self._known:
            query = self._recorded[name]
            self._known[name] = reach(query)  # for who comes back to it
            self._known[name] += self.of(query, depth + 1)
        return self._known[name]
