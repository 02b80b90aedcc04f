"""What Prometheus knows of a rule at a service besides its polls: the time before a change, the users affected."""

from collections.abc import Mapping
from datetime import timedelta
from math import isfinite

from rollbackd.decision.blame import Blame
from rollbackd.model import Replaced, Verdict
from rollbackd.rules.spec import Rule
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.rule_state import RuleStates


class RuleHistory:
    """Answers with nothing, in words, when Prometheus does not answer or none is configured."""

    def __init__(self, rule_states: RuleStates, before: Blame, prometheus: Prometheus | None) -> None:
        self._rule_states = rule_states
        self._before = before
        self._prometheus = prometheus

    async def before(
        self, rule: Rule, service: str, change: Replaced, length: timedelta, labels: Mapping[str, str]
    ) -> tuple[Verdict, str]:
        """What the rule said of the old state in the time before a change; never raises for an answer."""
        return await self._before.before(rule, service, change.start, length, labels, change.old_since)

    async def users(self, rule: Rule, service: str) -> float | None:
        """The share of users that the rule's own query says is affected, 0 to 1; None when it says nothing."""
        query = getattr(rule.users, "query", "")
        if not query or self._prometheus is None:
            return None
        answer = await self._prometheus.instant(query)
        owners = self._rule_states.spread([one.labels for one in answer.series], rule)
        values = [one.value for one, owner in zip(answer.series, owners, strict=True) if owner == service]
        if answer.problem or len(values) != 1 or not isfinite(values[0]):
            return None
        return values[0]
