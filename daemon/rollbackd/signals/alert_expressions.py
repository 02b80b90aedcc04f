"""What an alert's own expression says over the time since a rollback's last step, asked of Prometheus.

An alert lags behind by its window, its `for`, its `keep_firing_for` and Alertmanager's intervals. Its expression over a
window that begins after the last step says sooner whether what triggered is over.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rollbackd.model import Verdict
from rollbackd.rules.reach import as_truth, metrics, reach, within
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import Rule
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_answers import AlertingRule, RulesAnswer
from rollbackd.signals.rule_state import RuleStates
from rollbackd.syntax.units import format_duration, whole_seconds

_LEAST = timedelta(minutes=1)
"""The shortest window that an expression is asked over: a scrape a quarter of a minute has four samples in it."""


_DEEPEST = 10
"""Recorded metrics may be made of recorded ones, also in a circle."""


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
        meant = [_rule_of(labels, answer.alerting) for labels in alerts]
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


def lags(answer: RulesAnswer) -> dict[str, timedelta]:
    """How long each alert may fire for what was before, by its name: what it looks back over, and waits for."""
    found: dict[str, timedelta] = {}
    for rule in answer.alerting:
        lag = reach(rule.query) + _behind(rule.query, answer.recorded) + rule.waits
        found[rule.name] = max(found.get(rule.name, timedelta()), lag)
    return found


def _rule_of(labels: Mapping[str, str], rules: Sequence[AlertingRule]) -> AlertingRule | None:
    """The one rule that such an alert comes of; a label that is a template fits any."""
    found = [one for one in rules if one.name == labels.get("alertname") and _fits(one, labels)]
    return found[0] if len(found) == 1 else None


def _fits(rule: AlertingRule, labels: Mapping[str, str]) -> bool:
    return all("{{" in value or labels.get(name) == value for name, value in rule.labels.items())


def _query(query: str, recorded: Mapping[str, str], length: timedelta) -> str | None:
    """The condition over at most so long; None where it cannot be asked so."""
    back = reach(query) + _behind(query, recorded)
    short = query if back <= length else None if back > reach(query) else within(query, length)
    return as_truth(short) if short is not None and length >= _LEAST else None


def _behind(query: str, recorded: Mapping[str, str], depth: int = 0) -> timedelta:
    """How far back the recorded metrics of an expression look themselves."""
    named = (recorded[name] for name in metrics(query) if name in recorded)
    if depth > _DEEPEST:
        return timedelta()
    return max((reach(one) + _behind(one, recorded, depth + 1) for one in named), default=timedelta())
