"""Tells of rules that cannot be judged: each once, and again when it could be judged between."""

from rollbackd import facts
from rollbackd.rules.spec import Rule
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel


class RuleFaults:
    """What people were told of rules that say nothing, or nothing that can be told apart."""

    def __init__(self, read_model: ReadModel, rule_states: RuleStates) -> None:
        self._read_model = read_model
        self._rule_states = rule_states
        self._told: set[str] = set()

    async def look(self, rule: Rule, fault: str = "") -> None:
        """Tell of the rule when it is at fault, or has said nothing of a service too often in a row.

        :param fault: the service, and why its answer cannot be told apart; there is no need to wait for another.
        """
        if not self._rule_states.unjudged(rule, 1):
            self._told.discard(rule.name)
            return
        silent = [f"{service}: {reason}" for service, reason in self._rule_states.unjudged(rule).items()]
        found = [fault] if fault else silent
        if not found or rule.name in self._told:
            return
        self._told.add(rule.name)
        more = f" (and {len(found) - 1} more services)" if len(found) > 1 else ""
        text = f"rule {rule.name} cannot be judged: {found[0]}{more}"
        await self._read_model.tell(facts.Notice("rule_fault", text))
