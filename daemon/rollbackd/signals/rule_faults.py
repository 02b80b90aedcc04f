"""Tells of rules that cannot be judged: each once for a service, and again when it could be judged between."""

from collections.abc import Mapping

from rollbackd import facts
from rollbackd.rules.spec import Rule
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel


class RuleFaults:
    """What people were told of rules that say nothing, or nothing that can be told apart."""

    def __init__(self, read_model: ReadModel, rule_states: RuleStates) -> None:
        self._read_model = read_model
        self._rule_states = rule_states
        self._told: dict[str, set[str]] = {}
        """The services that were told of, by rule, each until the rule says something of it."""

    async def look(self, rule: Rule, faults: Mapping[str, str] = {}) -> None:
        """Tell of the rule when it is at fault, or has said nothing of a service too often in a row.

        :param faults: services, and why their answers cannot be told apart; there is no need to wait for others.
        """
        told = {one for one in self._told.get(rule.name, ()) if not self._rule_states.says_something(rule, one)}
        every = {**self._rule_states.unjudged(rule), **faults}
        self._told[rule.name] = told | every.keys()
        found = {service: reason for service, reason in every.items() if service not in told}
        if not found:
            return
        service, reason = next(iter(found.items()))
        more = f" (and {len(found) - 1} more services)" if len(found) > 1 else ""
        text = f"rule {rule.name} cannot be judged: {service}: {reason}{more}"
        await self._read_model.tell(facts.Notice("rule_fault", text))
