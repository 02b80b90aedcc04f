"""The guards that keep automatic rollbacks few: cooldown, budgets, breaker, common cause, windows, what layers say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from rollbackd.facts import BreakerReset, Ended, Opening
from rollbackd.model import Action, Change, Outcome, Priority, Release
from rollbackd.policy import guards
from rollbackd.policy.ledger import Rollback, ServiceLedger
from rollbackd.policy.spec import Breaker, Budget, CommonCause, Limits, Reach, Window
from tests.fakes.clock import START
from tests.unit.builders import (
    ASKS,
    ESCALATES,
    PASSED,
    against,
    at,
    fleet_of,
    minutes,
    released,
    situation,
    trigger,
)


# -- how often ----------------------------------------------------------------------------------------
def rolled_back(*ends: float, acted: bool = True, manual: bool = False) -> ServiceLedger:
    """Incidents that were open for a minute each."""
    return ServiceLedger(
        rollbacks=tuple(
            Rollback(f"checkout-{n}", at(end - 1), manual, at(end), Outcome.RECOVERED, acted)
            for n, end in enumerate(ends, 1)
        )
    )


@pytest.mark.parametrize(("ended", "found"), [(-8, PASSED), (-7.99, ESCALATES), (2, ESCALATES), (3, ESCALATES)])
def test_a_service_is_left_alone_after_a_rollback(ended: float, found: tuple[Action | None, bool]) -> None:
    """For ten minutes; the decision is at minute two. An end in the future is a clock set back."""
    assert against(guards.cooldown(trigger(), situation(ledger=rolled_back(ended)))) == found


def test_an_incident_that_touched_nothing_cools_nothing_down() -> None:
    assert against(guards.cooldown(trigger(), situation(ledger=rolled_back(1, acted=False)))) == PASSED


def test_the_last_rollback_counts() -> None:
    finding = guards.cooldown(trigger(), situation(ledger=rolled_back(-300, -3)))
    assert finding.reason == "rolled back 5m ago, waits 10m"


@pytest.mark.parametrize(
    ("opened", "found"),
    [((), PASSED), ((-10,), PASSED), ((-30, -10), ESCALATES), ((-57, -10), ESCALATES), ((-58, -10), PASSED)],
)
def test_a_service_has_a_budget(opened: tuple[float, ...], found: tuple[Action | None, bool]) -> None:
    """Two in an hour by default; the decision is at minute two."""
    ledger = rolled_back(*(one + 1 for one in opened))
    assert against(guards.service_budget(trigger(), situation(ledger=ledger))) == found


def test_what_touched_nothing_uses_up_no_budget() -> None:
    assert against(guards.service_budget(trigger(), situation(ledger=rolled_back(-3, -2, -1, acted=False)))) == PASSED
    openings = [(at(-n), Opening("a", f"a-{n}")) for n in range(6, 0, -1)]
    ended = Ended("a", "a-6", Outcome.PASSED, acted=False)
    fleet = fleet_of(*openings, (at(0), ended))
    assert guards.fleet_budget(trigger(), situation(fleet=fleet)).reason.startswith("5 of 5 rollbacks")


def test_a_persons_own_rollbacks_use_up_no_budget() -> None:
    assert against(guards.service_budget(trigger(), situation(ledger=rolled_back(-3, -2, -1, manual=True)))) == PASSED
    fleet = fleet_of(*((at(-n), Opening("a", f"a-{n}", manual=True)) for n in range(9)))
    assert against(guards.fleet_budget(trigger(), situation(fleet=fleet))) == PASSED


@pytest.mark.parametrize(("count", "found"), [(4, PASSED), (5, ESCALATES)])
def test_the_fleet_has_a_budget(count: int, found: tuple[Action | None, bool]) -> None:
    fleet = fleet_of(*((at(-n), Opening(f"s{n}", f"s{n}-1")) for n in range(count)))
    finding = guards.fleet_budget(trigger(), situation(fleet=fleet))
    assert against(finding) == found
    assert finding.reason.startswith(f"{count} of 5 rollbacks of the fleet in 1h")


def test_an_hour_later_the_fleets_budget_is_there_again() -> None:
    fleet = fleet_of(*((at(-58), Opening(f"s{n}", f"s{n}-1")) for n in range(5)))
    assert against(guards.fleet_budget(trigger(), situation(fleet=fleet))) == PASSED


def ends(*outcomes: Outcome, acted: bool = True, manual: bool = False) -> Any:
    return fleet_of(*((at(-9), Ended("s", f"s-{n}", one, acted, None, manual)) for n, one in enumerate(outcomes)))


BAD = (Outcome.FAILED, Outcome.INEFFECTIVE, Outcome.UNVERIFIED)


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        ((), PASSED),
        (BAD[:2], PASSED),
        (BAD, ESCALATES),
        ((Outcome.RECOVERED, *BAD), ESCALATES),
        ((*BAD, Outcome.RECOVERED), PASSED),
        ((*BAD[:2], Outcome.RECOVERED, *BAD[:2]), PASSED),
    ],
)
def test_failures_in_a_row_trip_the_breaker(outcomes: tuple[Outcome, ...], found: tuple[Action | None, bool]) -> None:
    assert against(guards.breaker(trigger(), situation(fleet=ends(*outcomes)))) == found


def test_only_automatic_rollbacks_that_acted_trip_the_breaker() -> None:
    assert against(guards.breaker(trigger(), situation(fleet=ends(*BAD, manual=True)))) == PASSED
    assert against(guards.breaker(trigger(), situation(fleet=ends(*BAD, acted=False)))) == PASSED


def test_a_person_resets_the_breaker() -> None:
    told = [(at(-9), Ended("s", f"s-{n}", one, acted=True)) for n, one in enumerate(BAD)]
    assert against(guards.breaker(trigger(), situation(fleet=fleet_of(*told, (at(-1), BreakerReset()))))) == PASSED


# -- the others ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("troubled", "services", "found"),
    [
        ((0, 0, 0), 3, PASSED),  # three are not more than three
        ((0, 0, 0, 0), 4, ASKS),
        ((0, 0, 0, 0), 80, PASSED),  # four are not more than 5 % of 80
        ((0, 0, 0, 0), 79, ASKS),
        ((-2, 0, 0, 2), 4, ASKS),
        ((-2.01, 0, 0, 2), 4, PASSED),
        ((-2, 0, 0, 2.01), 4, PASSED),
    ],
)
def test_many_services_in_trouble_at_once_are_no_releases_fault(
    troubled: tuple[float, ...], services: int, found: tuple[Action | None, bool]
) -> None:
    """More than three services and more than 5 %, within two minutes of the onset."""
    given = situation(troubled=tuple(at(one) for one in troubled), services=services)
    assert against(guards.common_cause(trigger(), given)) == found


def test_the_common_cause_can_be_switched_off() -> None:
    many = {"troubled": (START,) * 50, "services": 50}
    assert against(guards.common_cause(trigger(), situation(**many))) == ASKS
    off = Limits(common_cause=False)
    assert against(guards.common_cause(trigger(), situation(limits=off, **many))) == PASSED


OFFICE = Window.model_validate({"days": "mon-fri", "from": "08:00", "to": "20:00", "zone": "Europe/Berlin"})
NIGHT = Window.model_validate({"days": "fri", "from": "22:00", "to": "06:00"})


@pytest.mark.parametrize(
    ("now", "inside"),
    [
        ("2026-03-02 06:59", False),  # a Monday; Berlin is an hour ahead
        ("2026-03-02 07:00", True),
        ("2026-03-02 18:59", True),
        ("2026-03-02 19:00", False),
        ("2026-03-07 12:00", False),  # a Saturday
        ("2026-07-06 06:00", True),  # in summer two hours
    ],
)
def test_a_window_is_in_its_own_zone(now: str, inside: bool) -> None:
    given = situation(windows=(OFFICE,), now=datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert (guards.window(trigger(), given).against is None) is inside


@pytest.mark.parametrize(
    ("now", "inside"),
    [
        ("2026-03-06 21:59", False),
        ("2026-03-06 22:00", True),  # a Friday
        ("2026-03-07 05:59", True),
        ("2026-03-07 06:00", False),
        ("2026-03-07 22:00", False),
        ("2026-03-06 05:00", False),  # the night before was a Thursday's
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_that_it_begins_on(now: str, inside: bool) -> None:
    given = situation(windows=(NIGHT,), now=datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert (guards.window(trigger(), given).against is None) is inside


@pytest.mark.parametrize(("minute", "inside"), [(29, False), (30, True), (44, True), (45, False)])
def test_a_window_is_exact_to_the_minute(minute: int, inside: bool) -> None:
    short = Window.model_validate({"from": "08:30", "to": "08:45"})
    given = situation(windows=(short,), now=datetime(2026, 3, 2, 8, minute, 59, tzinfo=UTC))
    assert (guards.window(trigger(), given).against is None) is inside


def test_any_window_will_do_none_at_all_is_always_and_p0_always_acts() -> None:
    saturday = datetime(2026, 3, 7, 12, tzinfo=UTC)
    weekend = Window(days="sat-sun")
    assert against(guards.window(trigger(), situation(windows=(), now=saturday))) == PASSED
    assert against(guards.window(trigger(), situation(windows=(OFFICE, weekend), now=saturday))) == PASSED
    assert against(guards.window(trigger(), situation(windows=(OFFICE,), now=saturday))) == ASKS
    urgent = trigger(priority=Priority.P0)
    assert against(guards.window(urgent, situation(windows=(OFFICE,), now=saturday))) == PASSED


def step(layer: str, *, reversible: bool) -> Change:
    return Change(layer, Release("2"), Release("1"), reversible=reversible)


def test_an_irreversible_step_asks_unless_it_is_allowed_by_name() -> None:
    steps = (step("code", reversible=True), step("schema", reversible=False))
    finding = guards.irreversible(trigger(), situation(changes=steps))
    assert finding == guards.against("irreversible", Action.ASK, "cannot be taken back: schema")
    assert against(guards.irreversible(trigger(), situation(changes=steps, irreversible=("schema",)))) == PASSED
    assert against(guards.irreversible(trigger(), situation(changes=steps[:1]))) == PASSED


def test_layers_that_are_not_ready_escalate() -> None:
    finding = guards.ready(trigger(), situation(problems=("code: no space", "config: not a directory")))
    assert against(finding) == ESCALATES
    assert finding.reason == "code: no space; config: not a directory"
    assert against(guards.ready(trigger(), situation())) == PASSED


def test_limits_of_ones_own_are_kept() -> None:
    tight = Limits(
        cooldown=minutes(1),
        per_service=Budget(rollbacks=1, per=minutes(5)),
        fleet=Budget(rollbacks=1, per=minutes(5)),
        breaker=Breaker(failures=1),
        reach=Reach(changes=1, age=minutes(5)),
        common_cause=CommonCause(services=1, share=0.0, within=minutes(1)),
    )
    ledger, fleet = rolled_back(-1.5), fleet_of((at(-1), Opening("a", "a-1")))
    assert against(guards.cooldown(trigger(), situation(limits=tight, ledger=ledger))) == PASSED
    assert against(guards.service_budget(trigger(), situation(limits=tight, ledger=ledger))) == ESCALATES
    assert against(guards.fleet_budget(trigger(), situation(limits=tight, fleet=fleet))) == ESCALATES
    assert against(guards.breaker(trigger(), situation(limits=tight, fleet=ends(Outcome.FAILED)))) == ESCALATES
    assert against(guards.within_reach(trigger(), situation(limits=tight, ledger=released()))) == ASKS
    assert against(guards.common_cause(trigger(), situation(limits=tight, troubled=(START, START)))) == ASKS
