"""Smoke checks: the checks that rules name, asked for each service that has them."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from rollbackd.config.models import Config, Service
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.rules.spec import CheckWhen, Rule
from rollbackd.signals.rule_faults import RuleFaults
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.triggers import TriggerSink
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.rounds import Recurring

Watched = tuple[Rule, int, CheckWhen, Service]


class SmokeChecks:
    """One loop for each rule's check at each service."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        triggers: TriggerSink,
        clock: Clock,
        check_runner: CheckRunner,
    ) -> None:
        self._read_model = read_model
        self._rule_states = rule_states
        self._triggers = triggers
        self._clock = clock
        self._check_runner = check_runner
        self.watched: tuple[Watched, ...] = tuple(
            (rule, position, leaf, service)
            for rule in config.rules
            for position, leaf in enumerate(rule.leaves)
            if isinstance(leaf, CheckWhen)
            for service in config.services
            if leaf.check in service.checks and rule_states.applies(rule, service.name)
        )
        self._faults = RuleFaults(read_model, rule_states)
        self._log = log.get("smoke")

    def turns(self) -> Iterator[Recurring]:
        """Each rule's check of each of its services, spread over the time between two."""
        for number, watched in enumerate(self.watched):
            leaf, service = watched[2:]
            offset = leaf.every * number / len(self.watched)
            yield Recurring(f"check {leaf.check} {service.name}", leaf.every, partial(self.ask, *watched), offset)

    async def ask(self, rule: Rule, position: int, leaf: CheckWhen, service: Service) -> None:
        """Ask once, when it is time for it, and for as long as it fails or people are asked; while a rollback of the
        service runs, its verification looks instead.
        """
        ledger = self._read_model.of(service.name)
        if ledger.acting is not None:
            return
        goes_on = ledger.open is not None or self._rule_states.track(rule, position, service.name).since is not None
        if leaf.after_change is not None and not goes_on and not self._just_changed(service.name, leaf.after_change):
            self._rule_states.clear(rule, position, service.name)
            return
        result = await self._check_runner.ask(service, leaf.check)
        now = self._clock.now()
        self._rule_states.observe(rule, position, service.name, result.verdict, result.reason, now)
        await self._faults.look(rule)
        for trigger in self._rule_states.triggers(rule, service.name, now):
            self._triggers.consider_soon(trigger)

    def _just_changed(self, service: str, within: timedelta) -> bool:
        spells = self._read_model.of(service).spells
        last = spells[-1] if len(spells) > 1 else None
        return last is not None and not last.incident and self._clock.now() - last.by <= within
