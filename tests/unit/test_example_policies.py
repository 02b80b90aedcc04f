"""The runbooks' decision tables as policy: what is shipped is loaded, and each cell is decided as its runbook says."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import Settings
from rollbackd.config.load import load
from rollbackd.config.models import Config
from rollbackd.model import Action, Decision, Priority, Release, Request, State, Trigger
from rollbackd.policy.changes import UNCONFIRMED
from rollbackd.policy.decide import decide
from rollbackd.policy.guards import Situation
from rollbackd.policy.target import Candidate
from tests.fakes.clock import START
from tests.unit.builders import at, changed, good, minutes, service_of, situation

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTS = {path.parent.name: path for path in EXAMPLES.glob("*/config.yaml")}
BY_NAME = {"smartalk": {"data"}}
"""Plans that only a person's own order reaches."""
ACT, ASK, OBSERVE = Action.ROLL_BACK, Action.ASK, Action.OBSERVE
NOW = at(2)
SUNDAY = datetime.fromisoformat("2026-03-08T12:00:00+00:00")
assert START.weekday() == 0, "a Monday"


@cache
def runbook(name: str) -> Config:
    return load(HOSTS[name], look_for=None).config


@dataclass(frozen=True, slots=True)
class Cell:
    """What a runbook says of one case."""

    action: Action
    plans: tuple[str, ...] = ()
    approvals: int = 0
    by: tuple[str, ...] = ()
    expires: timedelta = timedelta()
    """How long people have; nothing when they are not asked."""
    otherwise: str = ""
    start_within: timedelta | None = None


def said(decision: Decision) -> Cell:
    """A decision as a cell."""
    asks = decision.question
    plans = () if decision.action is OBSERVE else decision.plans
    if asks is None:
        return Cell(decision.action, plans, start_within=decision.start_within)
    left = asks.expires - at(2)
    return Cell(decision.action, plans, asks.approvals, asks.by, left, asks.otherwise, decision.start_within)


def trouble(config: Config, rule: str, **more: Any) -> Trigger:
    """As the rule makes it, with what its labels or queries say."""
    (service,) = config.services
    found = next(one for one in config.rules if one.name == rule)
    fixed = {
        name: value
        for name, value in (("impact", found.impact), ("scope", found.scope))
        if isinstance(value, str) and value
    }
    usual = {"priority": found.priority or service.priority, "plan": found.plan, "without_change": found.without_change}
    given: dict[str, Any] = {**usual, **fixed, **more}
    return Trigger(service.name, rule, episode=f"{rule}/{service.name}", onset=START, reached=START, **given)


def has_releases(layer: Settings) -> bool:
    """As its adapter says of itself; a command's settings say it."""
    return (
        layer.adapter in {"blue_green", "canary", "env", "files", "git", "kubernetes", "releases"}
        or getattr(layer, "current", None) is not None
    )


def moved(config: Config, *layers: str, ago: float = 10, **more: Any) -> Situation:
    """These layers were changed so many minutes before the trouble, all of them when none is named."""
    (service,) = config.services
    released = [name for name, one in service.layers.items() if has_releases(one)]
    before = State({layer: Release(f"{layer}-1") for layer in released})
    after = State({**before.releases, **{layer: Release(f"{layer}-2") for layer in layers or released}})
    gone = (more.get("now", NOW) - NOW) / minutes(1)
    ledger = service_of(
        changed(before, gone - 600, gone - 600), good(before, gone - 500), changed(after, gone - ago - 0.5, gone - ago)
    )
    given = {"target": Candidate(before, 1, None), "ledger": ledger, "limits": config.limits}
    asked = {"policy": config.policy, "asking": config.asking, "groups": config.groups, "windows": config.windows}
    return situation(**{**given, **asked, **more})


def decided(name: str, rule: str, layers: tuple[str, ...] = (), now: datetime = NOW, **more: Any) -> Decision:
    config = runbook(name)
    users = more.pop("share", None)
    given = moved(config, *layers, users=users, now=now)
    onset = now - minutes(2)
    trigger = trouble(config, rule, **more)
    return decide(replace(trigger, onset=onset, reached=onset), given, config.services[0].plan)


def ordered(name: str, **more: Any) -> Decision:
    """A person's own rollback."""
    config = runbook(name)
    (service,) = config.services
    order = Request(service.name, "unix:ann", **more)
    trigger = Trigger(service.name, "manual", service.priority, "manual", at(2), at(2), request=order)
    return decide(trigger, moved(config), service.plan)


@pytest.mark.parametrize("name", HOSTS)
def test_every_row_of_an_example_names_plans_that_there_are(name: str) -> None:
    config = runbook(name)
    (service,) = config.services
    assert config.policy
    assert {plan for row in config.policy for plan in row.plan} <= set(service.plans)
    listed = {plan for row in config.policy for plan in row.plan} | set(service.plan)
    assert set(service.plans) - listed == BY_NAME.get(name, set())


# -- A8: from the affected components and the severity to a plan -----------------------------------------
PARTS = ("api", "config", "database", "workers")
AFFECTED = [names for count in range(len(PARTS) + 1) for names in combinations(PARTS, count)]
SEVERITIES = ("low", "medium", "high", "critical", "")
OPEN = Cell(ASK, ("several",), 1, (), minutes(30), "escalate")
"""What the runbook leaves to a person."""


def affected(components: tuple[str, ...], severity: str) -> Cell:
    """What the runbook says."""
    if severity == "critical":
        return Cell(ACT, ("hotfix", "whole"))
    if components == ("config",):
        return Cell(ACT, ("config", "component"))
    if "database" in components:  # data integrity before everything: people see what would be lost
        return replace(OPEN, plans=("migration", "database") if components == ("database",) else ("several", "whole"))
    if len(components) <= 1 and severity in {"low", "medium"}:
        return Cell(ACT, ("component",)) if components else OPEN
    return Cell(ACT, ("several", "whole")) if len(components) >= 2 and severity == "high" else OPEN


@pytest.mark.parametrize(("components", "severity"), list(product(AFFECTED, SEVERITIES)), ids=str)
def test_components_and_severity_choose_the_plan(components: tuple[str, ...], severity: str) -> None:
    rule = "platform-critical" if severity == "critical" else "platform-trouble"
    decision = decided("layered-recovery", rule, components=components, impact=severity)
    assert said(decision) == affected(components, severity)


def test_what_fails_after_a_change_and_what_endangers_data_has_its_cell() -> None:
    config = runbook("layered-recovery")
    found = {
        one.name: (one.components, one.impact) for one in config.rules if one.name in {"data-at-risk", "api-failing"}
    }
    assert found == {"data-at-risk": (("database",), "critical"), "api-failing": (("api",), "medium")}
    assert trouble(config, "data-at-risk").priority is Priority.P0
    assert trouble(config, "platform-critical").priority is Priority.P0


def test_a_hotfix_that_nobody_confirmed_goes_back_though_the_rest_is_asked() -> None:
    config = runbook("layered-recovery")
    late = Trigger("platform", UNCONFIRMED, Priority.P0, "unconfirmed/platform/job-7", at(2), at(2))
    assert said(decide(late, moved(config, "code"), config.services[0].plan)) == Cell(ACT, ("component",))


# -- B3 and B4: impact by scope, and who may say yes -----------------------------------------------------
TECH, BOTH = ("tech",), ("tech", "business")
SHARES: dict[float | None, tuple[str, ...]] = {0.1: TECH, 0.49: TECH, 0.5: BOTH, 0.9: BOTH, None: BOTH}
MATRIX = {
    ("high", "all"): ("blue-green", minutes(5)),
    ("high", "some"): ("canary", minutes(10)),
    ("medium", "all"): ("blue-green", minutes(15)),
}


@pytest.mark.parametrize(("cell", "share"), list(product(MATRIX, SHARES)), ids=str)
def test_what_is_not_automatic_wants_two_people_by_the_share_of_users(
    cell: tuple[str, str], share: float | None
) -> None:
    plan, limit = MATRIX[cell]
    decision = decided("blue-green-canary", "trouble", impact=cell[0], scope=cell[1], share=share)
    assert said(decision) == Cell(ASK, (plan,), 2, SHARES[share], limit, "escalate", limit)


@pytest.mark.parametrize("share", SHARES)
def test_above_ten_percent_of_errors_it_acts_by_itself(share: float | None) -> None:
    everywhere = decided("blue-green-canary", "errors-above-10", share=share)
    assert said(everywhere) == Cell(ACT, ("blue-green",), start_within=minutes(5))
    in_the_canary = decided("blue-green-canary", "canary-errors", share=share)
    assert said(in_the_canary) == Cell(ACT, ("canary",), start_within=minutes(10))


@pytest.mark.parametrize("share", SHARES)
def test_medium_impact_on_some_is_observed_and_low_gets_the_hotfix(share: float | None) -> None:
    observed = decided("blue-green-canary", "trouble", impact="medium", scope="some", share=share)
    assert said(observed) == Cell(OBSERVE)
    for scope in ("some", "all", ""):
        low = decided("blue-green-canary", "trouble", impact="low", scope=scope, share=share)
        assert said(low) == Cell(ACT, ("hotfix",), start_within=minutes(30))


@pytest.mark.parametrize("share", SHARES)
def test_a_security_signal_wants_one_person_whoever_it_is(share: float | None) -> None:
    decision = decided("blue-green-canary", "security", share=share)
    assert said(decision) == Cell(ASK, ("blue-green",), 1, (), minutes(5), "escalate", minutes(5))
    assert decision.trigger.priority is Priority.P0


def test_lost_data_and_a_regulator_want_one_of_each() -> None:
    """B14: data goes back, with what wrote it; of what a regulator demands, both ends."""
    lost = decided("blue-green-canary", "data-lost")
    assert said(lost) == Cell(ASK, ("database",), 2, BOTH, minutes(5), "escalate", minutes(5))
    demanded = decided("blue-green-canary", "regulator")
    assert said(demanded) == Cell(ASK, ("blue-green",), 2, BOTH, minutes(15), "escalate", minutes(15))
    assert {one.trigger.priority for one in (lost, demanded)} == {Priority.P0}


def test_how_bad_it_is_may_not_be_known() -> None:
    decision = decided("blue-green-canary", "trouble")
    assert said(decision) == Cell(ASK, ("blue-green",), 2, BOTH, minutes(15), "escalate")


def test_who_is_asked_is_written_down_with_the_question() -> None:
    question = decided("blue-green-canary", "trouble", impact="high", scope="all", share=0.9).question
    assert question is not None
    assert question.members == {
        "tech": ("unix:tina", "unix:tom", "token:tech-desk"),
        "business": ("unix:bea", "token:business-desk"),
    }


def test_outside_the_windows_it_asks_and_p0_acts_all_the_same() -> None:
    asks = decided("blue-green-canary", "errors-above-10", now=SUNDAY)
    assert (asks.action, [one.guard for one in asks.against]) == (ASK, ["window"])
    acts = decided("blue-green-canary", "errors-above-10", now=SUNDAY, priority=Priority.P0)
    assert acts.action is ACT


# -- C5: both leads, one of each, in a quarter of an hour ------------------------------------------------
LEADS: dict[str, Any] = {"approvals": 2, "by": ("tech", "product"), "expires": minutes(15), "otherwise": "escalate"}
LEVELS = {("config",): ("config",), ("code",): ("full",), ("config", "code"): ("full",)}
"""What differs, and the plans."""


@pytest.mark.parametrize("layers", LEVELS, ids=str)
@pytest.mark.parametrize("rule", [one.name for one in runbook("smartalk").rules])
def test_each_level_wants_a_technical_and_a_product_lead(rule: str, layers: tuple[str, ...]) -> None:
    assert said(decided("smartalk", rule, layers)) == Cell(ASK, LEVELS[layers], **LEADS)


def test_the_one_key_emergency_asks_nobody() -> None:
    assert said(ordered("smartalk", to="last-stable", plan="full")) == Cell(ACT, ("full",))
    assert said(ordered("smartalk", to="db=stable", plan="data")) == Cell(ACT, ("data",))


# -- D2 and D4: goes back when nobody denies it in ten minutes, degrading first ----------------------------
DEGRADE = ("stable-index", "no-retrieval", "whole")
D = {
    "server-errors": (("whole",), "roll_back"),
    "refused": (("legacy-login", "whole"), "roll_back"),
    "refresh-failing": (("legacy-login", "whole"), "roll_back"),
    "e2e-failing": (DEGRADE, "roll_back"),
    "retrieval-failing": (DEGRADE, "roll_back"),
    "retrieval-slow": (DEGRADE, "roll_back"),
    "main-flow-gone": (("whole",), "roll_back"),
    "contract-broken": (("whole",), "roll_back"),
    "data-deleted": (("data",), "escalate"),
}


@pytest.mark.parametrize("rule", D)
def test_silence_for_ten_minutes_is_a_yes_but_not_where_data_is_gone(rule: str) -> None:
    plans, otherwise = D[rule]
    assert said(decided("career-hero", rule)) == Cell(ASK, plans, 1, (), minutes(10), otherwise)
    assert {one.name for one in runbook("career-hero").rules} == set(D)


# -- E1: nobody is asked -------------------------------------------------------------------------------
E = {
    "e2e-failed": Cell(ACT, ("config", "whole", "everything"), start_within=minutes(5)),
    "errors": Cell(ACT, ("config", "whole", "everything"), start_within=minutes(5)),
    "data-corruption": Cell(ACT, ("everything",), start_within=minutes(10)),
    "smoke-failed": Cell(ACT, ("config", "whole", "everything"), start_within=minutes(2)),
}


@pytest.mark.parametrize("rule", E)
def test_each_trigger_goes_back_unasked(rule: str) -> None:
    assert said(decided("ai-workstation", rule)) == E[rule]
    assert {one.name for one in runbook("ai-workstation").rules} == set(E)


def test_a_person_goes_back_to_what_they_name() -> None:
    assert said(ordered("ai-workstation", to="config-1")) == Cell(ACT, ("config", "whole"))
    assert said(ordered("ai-workstation", plan="everything")) == Cell(ACT, ("everything",))


def test_without_a_good_backup_a_person_is_called() -> None:
    config = runbook("ai-workstation")
    given = moved(config, target=None, no_target="no good state to go back to")
    decision = decide(trouble(config, "data-corruption"), given, config.services[0].plan)
    assert (decision.action, decision.escalate, decision.needs_person) == (Action.REFUSE, True, True)


@pytest.mark.parametrize("name", HOSTS)
def test_trouble_that_no_change_brought_is_asked_about_but_damaged_data_comes_back(name: str) -> None:
    config = runbook(name)
    for rule in config.rules:
        action = decide(trouble(config, rule.name), moved(config, ago=300), config.services[0].plan).action
        assert action is (ACT if rule.name == "data-corruption" else ASK), rule.name
