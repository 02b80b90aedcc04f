"""The figures of what is shipped are those of the runbooks: each that a row names, and none that nothing binds."""

from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollbackd.config.load import load
from rollbackd.config.models import Config, Service
from rollbackd.incident.spec import VerifySpec
from rollbackd.rules.reach import reach
from rollbackd.rules.spec import CheckWhen, QueryWhen, Rule
from tests.unit.builders import minutes, seconds

EXAMPLES = Path(__file__).parents[2] / "examples"
SHIPPED = {path.parent.name: path for path in EXAMPLES.glob("*/config.yaml")}
HOSTS = sorted(SHIPPED)
ROWS = Path(__file__).parent / "example_rows"
PLACES = {
    "adapter", "apply", "command", "confirm", "current", "directory", "file", "from", "headers", "http", "link", "list",
    "listen", "maintenance", "match", "name", "paths", "progress", "pull", "push", "ready", "redis", "releases",
    "reload", "repo", "restore_from", "routing_key", "serves", "smtp", "test", "then", "to", "units", "url",
    "webhook_url",
}  # fmt: skip
"""Keys whose values say where something is, who somebody is, or what is run: the stories use them."""
TABLE = "policy"
"""Its cells are decided in `test_example_policies`."""


@cache
def raw(host: str) -> Any:
    return yaml.safe_load(SHIPPED[host].read_text())


@cache
def rows(host: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROWS / f"{host}.yaml").read_text())
    return found


def child(value: Any, key: str) -> Any:
    """A value's part of this name; of a list the item that is called so, or its place."""
    if isinstance(value, dict):
        return value[key]
    return value[int(key)] if key.isdigit() else next(one for one in value if one["name"] == key)


def at_path(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = child(value, key)
    return value


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to each value that has no parts; an item of a list is called by its name where it has one."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, str(key)))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from leaves(part, (*path, part["name"] if isinstance(part, dict) and "name" in part else str(place)))
    else:
        yield path


def lacks(shipped: Any, wanted: Any) -> bool:
    """Whether something that is wanted is not so; of a mapping only what is named."""
    if isinstance(wanted, dict) and isinstance(shipped, dict):
        return any(lacks(shipped.get(key), value) for key, value in wanted.items())
    return bool(shipped != wanted or type(shipped) is not type(wanted))


@pytest.mark.parametrize(("host", "row"), [(host, row) for host in HOSTS for row in rows(host)])
def test_what_is_shipped_is_what_the_row_says(host: str, row: str) -> None:
    wrong = [path for path, wanted in rows(host)[row].items() if lacks(at_path(raw(host), path), wanted)]
    assert wrong == []


@pytest.mark.parametrize("host", HOSTS)
def test_no_figure_is_without_a_row(host: str) -> None:
    """Neither a number nor a word that decides: a change of any of them is a change of the runbook."""
    bound = {
        (*path.split("."), *leaf)
        for row in rows(host).values()
        for path, wanted in row.items()
        for leaf in leaves(wanted)
    }
    free = [path for path in leaves(raw(host)) if path not in bound and path[0] != TABLE and not PLACES & set(path)]
    assert [".".join(path) for path in free] == []


# -- what the waits add up to ------------------------------------------------------------------------
@cache
def config_of(host: str) -> Config:
    return load(SHIPPED[host], look_for=None).config


def noticed(config: Config, rule: Rule) -> timedelta:
    """The longest from the trouble until its rule is met, of what it waits for itself; who reports takes their time."""
    found = timedelta()
    for leaf in rule.leaves:
        if isinstance(leaf, CheckWhen):
            found = max(
                found, leaf.failures * leaf.every + (config.daemon.look_every if leaf.after_change else timedelta())
            )
        elif isinstance(leaf, QueryWhen) and config.prometheus is not None:
            found = max(found, leaf.for_ + config.prometheus.poll_every)
    return found


def looks_back(rule: Rule) -> timedelta:
    """How long nothing can be concluded after the last step: its query still sees what was before."""
    return max((reach(leaf.query) for leaf in rule.leaves if isinstance(leaf, QueryWhen)), default=timedelta())


def verified(verify: VerifySpec, back: timedelta) -> timedelta:
    """From the last step until enough good rounds, when each is good that can be."""
    rounds = [verify.settle]
    while rounds[-1] < back:
        rounds.append(rounds[-1] + verify.every)
    return rounds[-1] + verify.every * (verify.passes - 1)


def way(service: Service, rule: Rule, *plans: str) -> timedelta:
    """All waits of plans one after the other, of which only the last helps."""
    total = timedelta()
    for place, name in enumerate(plans, 1):
        plan = service.plans[name]
        verify = plan.verify or service.verify
        back = timedelta() if rule.name in plan.unasked else looks_back(rule)
        assert verified(verify, back) <= verify.deadline, f"{rule.name} could never be verified by {name}"
        total += verified(verify, back) if place == len(plans) else verify.deadline
    return total


def plans_of(config: Config, rule: Rule) -> tuple[str, ...]:
    """As the policy's first row for it says."""
    return next(row.plan for row in config.policy if not row.when.rule or rule.name in row.when.rule)


def ways(host: str, *names: str) -> dict[str, timedelta]:
    """By rule, from the trouble to the end when all plans but the last do not help; without the steps themselves."""
    config = config_of(host)
    (service,) = config.services
    wanted = [rule for rule in config.rules if not names or rule.name in names]
    return {rule.name: noticed(config, rule) + way(service, rule, *plans_of(config, rule)) for rule in wanted}


def test_a_career_hero_is_well_in_a_quarter_of_an_hour_though_people_have_ten_minutes() -> None:
    """D2, D9: asked, degraded twice, and all the way back; what is left are the restarts."""
    asked = config_of("career-hero").asking.expires
    found = {rule: asked + waits for rule, waits in ways("career-hero").items()}
    assert len(found) == 9
    assert {rule: waits for rule, waits in found.items() if waits > minutes(15) - seconds(30)} == {}


def test_a_smartalk_is_well_in_the_time_of_its_level() -> None:
    """C2, C3, C5, C7: ten minutes for the configuration and thirty for all of it, after a quarter of one for the leads."""
    config = config_of("smartalk")
    (service,) = config.services
    for rule in config.rules:
        assert noticed(config, rule) <= minutes(2), rule.name
        assert way(service, rule, "config") <= minutes(10), rule.name
        assert way(service, rule, "full") <= minutes(30), rule.name
    assert {row.expires for row in config.policy} == {minutes(15)}
    assert service.verify.every * (service.verify.passes - 1) == minutes(4.5), "ten rounds, half a minute apart"


def may_choose(config: Config, rule: Rule, row: Any) -> bool:
    """Whether a row can be the first that fits a rule, by the impact that it has always."""
    if not isinstance(rule.impact, str):
        return True
    first = next(
        one for one in config.policy if not one.when.rule and rule.impact in (one.when.impact or (rule.impact,))
    )
    return config.policy.index(row) <= config.policy.index(first)


def test_a_platform_recovers_within_its_clocks_whichever_plan_helps() -> None:
    """A1, A7, A13: what the targets allow the steps is counted, and half as much again."""
    config = config_of("layered-recovery")
    (service,) = config.services
    steps = config.targets.steps
    clocks = {name: clock.recover_within for name, clock in config.priorities.items()}
    adapters = {name: layer.adapter for name, layer in service.layers.items()}

    def takes(plan: str) -> timedelta:
        own = sum(
            (steps[adapters[layer]] for layer in service.plans[plan].layers if adapters[layer] in steps), timedelta()
        )
        return 1.5 * (config.targets.hotfix if plan == "hotfix" else own)

    for rule in config.rules:
        for row in config.policy:
            took = noticed(config, rule) + way(service, rule, *row.plan) + sum(map(takes, row.plan), timedelta())
            limit = clocks[rule.priority or service.priority]
            assert took <= limit or not may_choose(config, rule, row), f"{rule.name}: {row.plan}"
    assert service.verify.deadline + steps["files"] + steps["git"] <= minutes(15), (
        "a plan that helps is well in this time"
    )
    assert config.targets.recovery <= minutes(30)


def test_a_shop_is_well_in_five_minutes() -> None:
    """B1, B2, B6: errors above 10 %, detected, switched back and verified; a canary goes down in stages meanwhile."""
    config = config_of("blue-green-canary")
    (service,) = config.services
    rules = {rule.name: rule for rule in config.rules}
    errors = rules["errors-above-10"]
    colour: Any = service.layers["colour"]
    weights: Any = service.layers["weights"]
    detected = noticed(config, errors)
    switched = detected + colour.every * (colour.times - 1) + way(service, errors, "blue-green")
    assert switched <= minutes(5)
    alone = seconds(75) + weights.every * (len(weights.stages) - 1) + way(service, rules["canary-errors"], "canary")
    assert alone <= minutes(5), "the alert's own minute, and a quarter of one until it is told"
    assert config.targets.recovery <= minutes(5)


def test_a_workstation_is_back_in_the_time_of_each_scenario() -> None:
    """E9: detected, drained and verified; where an earlier plan is tried first, with its whole time."""
    config = config_of("ai-workstation")
    (service,) = config.services
    rules = {rule.name: rule for rule in config.rules}
    smoke, corruption = rules["smoke-failed"], rules["data-corruption"]
    sessions: Any = service.layers["sessions"]
    drained: timedelta = sessions.limit
    alone = noticed(config, smoke) + drained
    assert alone + way(service, smoke, "config") <= minutes(1), "deleted by accident; a damaged configuration has two"
    assert alone + way(service, smoke, "config", "whole") <= minutes(5), "the repository is damaged"
    assert alone + way(service, smoke, "config", "whole", "everything") <= minutes(10), "all is gone"
    assert noticed(config, corruption) + drained + way(service, corruption, "everything") <= minutes(10)
    assert seconds(5) + drained + way(service, smoke, "config") <= minutes(1), "a crash: systemd waits five seconds"
    for rule in config.rules:
        way(service, rule, *plans_of(config, rule))
