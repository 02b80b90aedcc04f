"""What of a configuration can be played: its rules, the queries that they ask, the layers that have releases."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rollbackd.backtest.alerts import alert_queries
from rollbackd.backtest.conditions import why_unplayed
from rollbackd.config.models import Config
from rollbackd.execution.layers import LayerFactory
from rollbackd.model import Traits
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.signals.query_conditions import queries
from rollbackd.system.clock import Clock


@dataclass(frozen=True, slots=True)
class Playable:
    """A configuration as it is played."""

    config: Config
    unplayed: Mapping[str, str]
    """Rules that cannot be, each with the reason."""

    @property
    def queries(self) -> dict[str, timedelta]:
        """All queries of the rules, each with how much earlier than the play it is needed."""
        found: dict[str, timedelta] = {}
        for rule in self.config.rules:
            for leaf in rule.leaves:
                if isinstance(leaf, QueryWhen):
                    offset = leaf.against.offset if leaf.against is not None else None
                    for query in queries(leaf):
                        found[query] = max(found.get(query, timedelta()), offset or timedelta())
        return found | dict.fromkeys(alert_queries(self.config), timedelta())


def playable(config: Config) -> Playable:
    """The configuration as if it acted: what shadow mode would have done is the question."""
    unplayed = {rule.name: why for rule in config.rules if (why := why_unplayed(rule))}
    rules: tuple[Rule, ...] = tuple(rule for rule in config.rules if rule.name not in unplayed)
    services = tuple(service.model_copy(update={"mode": "act"}) for service in config.services)
    return Playable(config.model_copy(update={"rules": rules, "services": services}), unplayed)


def traits_of(config: Config, clock: Clock) -> dict[str, dict[str, Traits]]:
    """What each layer of each service can be used for; nothing is asked of any."""
    factory = LayerFactory(Path("/nonexistent"), None, clock)
    return {service.name: factory.build(service).traits for service in config.services}


def layers_with_releases(traits: Mapping[str, Mapping[str, Traits]]) -> dict[str, list[str]]:
    """The names of those layers, by service."""
    return {service: [name for name, one in own.items() if one.releases] for service, own in traits.items()}
