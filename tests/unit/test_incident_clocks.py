"""When clocks pass, targets are missed and the next people are told: each once, whatever was slept through."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.facts import ClockPassed, Escalated
from rollbackd.incident.clocks import AT_ONCE, Terms, due, next_due
from rollbackd.model import Action, ApprovalRequest, Outcome, Priority, Replaced, Request, Verdict
from rollbackd.policy.ledger import Rollback
from rollbackd.policy.spec import PRIORITIES
from tests.unit.builders import PRESENT, TARGET, Story, at, minutes, seconds, trigger

LAYERS: Mapping[str, Any] = {
    "layers": {"code": {"adapter": "git"}, "config": {"adapter": "files"}, "process": {"adapter": "systemd"}}
}
TERMS = Terms(PRIORITIES, {"git": minutes(2), "files": minutes(1)}, hotfix=minutes(3), recovery=minutes(10))
PEOPLE = replace(TERMS, tiers=(timedelta(), minutes(30), minutes(120)))
"""P1 starts within 15m and recovers within 2h."""


def story(**more: Any) -> Story:
    """A rollback that was just opened; `more` replaces parts of its decision."""
    told = Story(by=more.pop("by", None))
    decision = replace(told.incident.decision, **more)
    told.incident = replace(told.incident, config=LAYERS, decision=decision)
    return told


def asking() -> Story:
    question = ApprovalRequest(("no change is known",), expires=at(30))
    return story(action=Action.ASK, question=question)


def found(told: Story, when: datetime, terms: Terms = TERMS, earlier: Rollback | None = None) -> list[str]:
    """What is due, in short: a clock's name, or a tier."""
    return [
        one.clock if isinstance(one, ClockPassed) else f"tier {one.tier}"
        for one in due(told.incident, terms, earlier, when)
    ]


def passing(told: Story, when: datetime, terms: Terms = TERMS) -> list[str]:
    """The same, and written down."""
    facts_due = due(told.incident, terms, None, when)
    names = found(told, when, terms)
    told.wait(when - told.now).tell(*facts_due)
    return names


# -- response -----------------------------------------------------------------------------------------------
QUICK = replace(
    PEOPLE, clocks={one: clock.model_copy(update={"respond_within": minutes(5)}) for one, clock in PRIORITIES.items()}
)


def test_nobody_has_to_respond_where_no_time_is_given() -> None:
    assert "respond_within" not in found(asking(), at(10_000))


def test_a_response_that_does_not_come_passes_its_clock_once_and_calls_the_next_people() -> None:
    told = asking()
    assert found(told, at(4.9), QUICK) == ["tier 0"]
    assert next_due(told.incident, QUICK, at(0)) == at(5)
    (passed,) = [one for one in due(told.incident, QUICK, None, at(5)) if isinstance(one, ClockPassed)]
    assert passed == ClockPassed("respond_within", minutes(5), "nobody responded to the trouble of checkout within 5m")
    assert passing(told, at(5), QUICK) == ["respond_within", "tier 0", "tier 1"]
    assert "respond_within" not in found(told, at(500), QUICK)


@pytest.mark.parametrize(
    "word",
    [
        facts.Acknowledged(), facts.Approved(), facts.Denied(), facts.AbortRequested(""), facts.Escalated(1, "ann did"),
        facts.Joined(trigger(request=Request("checkout", "unix:ann"))), facts.Mending(minutes(8), ""),
    ],
)  # fmt: skip
def test_whatever_a_person_says_or_orders_is_a_response(word: Any) -> None:
    told = asking().wait(minutes(4)).tell(word, actor="unix:ann")
    assert told.incident.responded == at(4)
    assert "respond_within" not in found(told, at(60), QUICK)
    late = asking().wait(minutes(6)).tell(word, actor="unix:ann")
    assert "respond_within" in found(late, at(60), QUICK), "it came too late, and nobody saw the clock pass"
    ours = asking().wait(minutes(4)).tell(word)
    assert ours.incident.responded is None


def test_whoever_orders_a_rollback_is_on_it_and_what_recovers_in_time_needs_nobody() -> None:
    ordered = story(by=trigger(request=Request("checkout", "unix:ann")))
    assert "respond_within" not in found(ordered, at(60), QUICK)
    well = story().planned("code").did("apply", "code").closed()
    assert found(well, at(60), QUICK) == []
    failed = story().planned("code").did("apply", "code").closed(Outcome.FAILED)
    assert "respond_within" in found(failed, at(60), QUICK)


# -- clocks -------------------------------------------------------------------------------------------------
def test_a_rollback_that_does_not_start_passes_its_clock_once() -> None:
    told = story()
    assert found(told, at(14.9)) == []
    assert next_due(told.incident, TERMS, at(0)) == at(15)
    assert passing(told, at(15)) == ["start_within"]
    assert passing(told, at(60)) == []
    assert next_due(told.incident, TERMS, at(60)) == at(120)


def test_waiting_for_people_counts_and_is_said() -> None:
    (passed,) = due(asking().incident, TERMS, None, at(15))
    assert passed == ClockPassed(
        "start_within", minutes(15), "the rollback of checkout did not start within 15m, it waits for people"
    )


def test_one_that_started_in_time_passes_nothing_and_one_too_late_does_even_unseen() -> None:
    assert found(story().planned("code").tell(facts.ApplyStarted("code"), took=minutes(14)), at(16)) == []
    late = story().planned("code").tell(facts.ApplyStarted("code"), facts.Applied("code"), took=minutes(16))
    assert "start_within" in found(late, at(33))


def test_what_makes_it_worse_later_does_not_make_its_start_late() -> None:
    told = story().planned("code").wait(minutes(10)).did("apply", "code")
    told.tell(facts.PlanEnded("default", Outcome.INEFFECTIVE)).wait(minutes(1))
    told.tell(facts.Joined(replace(trigger(priority=Priority.P0), reached=told.now)))
    assert told.incident.priority is Priority.P0
    assert "start_within" not in found(told, told.now)


def test_one_that_ended_without_a_step_did_not_start_late() -> None:
    ended = story().wait(minutes(40)).closed(Outcome.PASSED)
    assert found(ended, at(300), PEOPLE) == []
    assert next_due(ended.incident, PEOPLE, at(300)) is None


def test_the_decisions_own_limit_overrides_the_priorities() -> None:
    assert found(story(start_within=minutes(3)), at(3)) == ["start_within"]
    assert found(story(start_within=minutes(60)), at(59)) == []


def test_a_priority_that_rises_brings_its_own_clocks_counted_from_the_opening() -> None:
    told = story().wait(minutes(6)).tell(facts.Joined(trigger(priority=Priority.P0)))
    assert found(told, told.now) == ["start_within"]
    told = (
        story()
        .planned("code")
        .did("apply", "code")
        .wait(minutes(31))
        .tell(facts.PlanEnded("default", Outcome.INEFFECTIVE))
    )
    assert told.incident.priority is Priority.P0
    assert "recover_within" in found(told, told.now)


def test_recovery_has_its_clock_until_the_end_however_it_ends() -> None:
    told = story().planned("process").did("apply", "process")
    assert "recover_within" not in found(told, at(119))
    assert "recover_within" in found(told, at(120))
    in_time = story().planned("process").did("apply", "process").wait(minutes(100)).closed(Outcome.RECOVERED)
    assert "recover_within" not in found(in_time, at(999))
    late = story().planned("process").did("apply", "process").wait(minutes(121)).closed(Outcome.RECOVERED)
    assert "recover_within" in found(late, at(999))


# -- targets ------------------------------------------------------------------------------------------------
def test_a_step_is_told_at_half_as_much_again_as_its_target() -> None:
    told = story().planned("code").tell(facts.ApplyStarted("code"))
    assert next_due(told.incident, TERMS, at(0)) == at(3)
    (passed,) = due(told.incident, TERMS, None, at(3))
    assert passed == ClockPassed("target:code", minutes(2), "the step of code takes longer than 3m; its target is 2m")


def test_a_step_that_ended_between_two_looks_is_told_with_how_long_it_took() -> None:
    told = story().planned("code", "config").tell(facts.ApplyStarted("code"))
    told.tell(facts.Applied("code"), took=seconds(190)).did("apply", "config")
    (passed,) = due(told.incident, TERMS, None, told.now)
    assert passed == ClockPassed("target:code", minutes(2), "the step of code took 3m10s; its target is 2m")


def test_a_step_within_its_target_or_without_one_is_not_told() -> None:
    told = story().planned("code", "process").tell(facts.ApplyStarted("code"))
    told.tell(facts.Applied("code"), took=minutes(3)).tell(facts.ApplyStarted("process"))
    assert found(told, at(14)) == []


def test_attempts_count_together_and_the_longest_of_several_plans_counts() -> None:
    told = story().planned("config").failed("apply", "config").wait(minutes(1))
    told.tell(facts.ApplyStarted("config", 2)).tell(facts.Applied("config"), took=minutes(1))
    assert told.incident.took == {"config": minutes(2)}
    told.tell(facts.PlanEnded("default", Outcome.INEFFECTIVE)).planned("config").did("apply", "config")
    assert told.incident.took == {"config": minutes(2)}
    assert "target:config" in found(told, told.now)


def test_a_hold_and_a_parking_are_not_the_works_own_time() -> None:
    told = story().planned("code").tell(facts.ApplyStarted("code")).wait(minutes(1)).tell(facts.Paused("HOLD"))
    assert [name for name in found(told, at(14)) if "target" in name] == []
    told.tell(facts.Unpaused(), took=minutes(10))
    assert found(told, at(12.9)) == []
    assert found(told, at(13)) == ["target:code"]
    told.tell(facts.Applied("code"))
    assert "recovery_target" not in found(told, at(29.9))
    assert "recovery_target" in found(told, at(30))
    told.tell(facts.Parked("it killed its driver 3 times"))
    assert "recovery_target" not in found(told, at(100))


def test_a_hold_before_the_first_step_shifts_nothing() -> None:
    told = story().tell(facts.Paused("HOLD")).tell(facts.Unpaused(), took=minutes(5)).tell(facts.Unpaused())
    assert told.incident.working is None
    assert told.incident.stepping == {}


def test_the_whole_recovery_is_told_at_twice_its_target_from_the_first_step_on() -> None:
    told = story().wait(minutes(10)).planned("process").did("apply", "process")
    assert found(told, at(29.9)) == []
    assert found(told, at(30)) == ["recovery_target"]
    late = told.wait(minutes(21)).closed(Outcome.RECOVERED)
    assert found(late, at(500)) == ["recovery_target"]


@pytest.mark.parametrize(("kind", "clock"), [("hotfix", ["hotfix_target"]), ("deployment", [])])
def test_all_steps_back_from_a_hotfix_have_a_target_together(kind: str, clock: list[str]) -> None:
    change = Replaced(TARGET, PRESENT, at(-1), at(0), "x", "unix:ann", kind)
    told = story(change=change).planned("process", "config")
    assert found(told, at(14)) == []
    told.tell(facts.ApplyStarted("process")).tell(facts.Applied("process"), took=minutes(4))
    told.tell(facts.ApplyStarted("config"))
    assert found(told, at(4.4)) == []
    assert found(told, at(4.5)) == clock
    told.tell(facts.Applied("config"), took=seconds(50))
    assert found(told, told.now) == clock


def test_a_layer_that_the_configuration_does_not_tell_of_has_no_target() -> None:
    told = story().planned("code").tell(facts.ApplyStarted("code"))
    without: tuple[Mapping[str, Any], ...] = ({}, {"layers": {}}, {"layers": {"code": "git"}})
    for config in without:
        told.incident = replace(told.incident, config=config)
        assert found(told, at(14)) == []


# -- people -------------------------------------------------------------------------------------------------
def test_tiers_are_told_by_time_until_somebody_acknowledges_it() -> None:
    told = asking()
    assert due(told.incident, PEOPLE, None, at(0)) == (Escalated(0, AT_ONCE),)
    assert passing(told, at(0), PEOPLE) == ["tier 0"]
    assert next_due(told.incident, replace(PEOPLE, clocks=_slow()), at(0)) == at(30)
    told.incident = replace(told.incident, clocks=frozenset({"start_within", "recover_within"}))
    (escalated,) = due(told.incident, PEOPLE, None, at(30))
    assert escalated == Escalated(1, "nobody acknowledged it in 30m")
    told.tell(facts.Acknowledged(), actor="unix:ann")
    assert found(told, at(500), PEOPLE) == []
    assert next_due(told.incident, PEOPLE, at(31)) is None


def _slow() -> dict[Priority, Any]:
    return {name: clocks.model_copy(update={"start_within": minutes(9999)}) for name, clocks in PRIORITIES.items()}


def test_without_tiers_nobody_is_escalated_to() -> None:
    assert found(asking(), at(500)) == ["start_within", "recover_within"]


def test_a_passed_clock_tells_the_next_people() -> None:
    told = asking()
    passing(told, at(0), PEOPLE)
    assert passing(told, at(15), PEOPLE) == ["start_within", "tier 1"]
    assert passing(told, at(31), PEOPLE) == []


def test_what_was_slept_through_is_told_in_order_and_never_past_the_last_tier() -> None:
    assert found(asking(), at(500), PEOPLE) == ["start_within", "recover_within", "tier 0", "tier 1", "tier 2"]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.INEFFECTIVE, Outcome.UNVERIFIED, Outcome.EXPIRED])
def test_a_bad_end_tells_the_next_people_at_once_and_once_and_the_others_by_time(outcome: Outcome) -> None:
    told = story().planned("process").did("apply", "process")
    passing(told, at(0), PEOPLE)
    told.wait(minutes(2)).closed(outcome)
    assert passing(told, told.now, PEOPLE) == ["tier 1"]
    assert found(told, at(119), PEOPLE) == []
    assert next_due(told.incident, PEOPLE, at(60)) == at(120)
    assert passing(told, at(120), PEOPLE) == ["tier 2"]


@pytest.mark.parametrize("outcome", [Outcome.RECOVERED, Outcome.ABORTED, Outcome.DECLINED, Outcome.SUPERSEDED])
def test_a_calm_end_tells_nobody_else(outcome: Outcome) -> None:
    told = story().planned("process").did("apply", "process").closed(outcome)
    assert found(told, at(500), PEOPLE) == []


def test_a_relapse_tells_the_next_people() -> None:
    told = story().planned("process").did("apply", "process")
    passing(told, at(0), PEOPLE)
    told.closed().tell(facts.Relapsed(trigger()))
    assert found(told, told.now, PEOPLE) == ["tier 1"]


def test_what_was_parked_tells_the_next_people() -> None:
    told = story().tell(facts.Parked("it killed its driver 3 times"))
    assert passing(told, at(0), PEOPLE) == ["tier 0", "tier 1"]
    assert passing(told, at(1), PEOPLE) == []


def earlier(ended: float) -> Rollback:
    return Rollback("checkout-0", at(-300), ended=at(ended), outcome=Outcome.RECOVERED, acted=True)


def test_a_second_rollback_within_an_hour_tells_the_next_people_when_it_begins() -> None:
    told = story().planned("process")
    passing(told, at(0), PEOPLE)
    assert found(told, at(1), PEOPLE, earlier(-50)) == []
    told.tell(facts.ApplyStarted("process"))
    (escalated,) = due(told.incident, PEOPLE, earlier(-50), at(1))
    assert escalated == Escalated(1, "it is the second rollback of checkout within 1h, after checkout-0")
    told.tell(escalated)
    assert found(told, at(1), PEOPLE, earlier(-50)) == []


def test_one_after_more_than_an_hour_does_not() -> None:
    told = story().planned("process").tell(facts.ApplyStarted("process"))
    assert found(told, at(0), PEOPLE, earlier(-60)) == ["tier 0"]
    still = replace(earlier(-60), opened=at(-10), ended=None)
    assert found(told, at(0), PEOPLE, still) == ["tier 0", "tier 1"]


def test_a_drill_has_no_clock_of_a_priority_and_only_its_return_is_worth_waking_people_for() -> None:
    change = Replaced(TARGET, PRESENT, at(-1), at(0), "x", "unix:ann", "hotfix")
    for way, people in (("there", []), ("back", ["tier 0", "tier 1"])):
        order = Request("checkout", "unix:ann", drill=way)  # type: ignore[arg-type]
        told = story(by=trigger("manual", request=order), change=change).planned("code").did("apply", "code")
        assert found(told, at(19), PEOPLE) == []
        assert found(told.wait(minutes(19)).closed(Outcome.FAILED), at(19), PEOPLE) == people


def test_what_is_due_next_is_never_past_and_comes_due_at_that_very_time() -> None:
    told = story().planned("code").tell(facts.ApplyStarted("code"))
    now, names = at(0), list[str]()
    names += passing(told, now, PEOPLE)
    while (when := next_due(told.incident, PEOPLE, now)) is not None:
        assert when > now
        now = when
        names += passing(told, now, PEOPLE)
    assert names == [
        "tier 0", "target:code", "recovery_target", "tier 1", "recover_within", "tier 2",
    ]  # fmt: skip


def test_the_last_round_and_how_long_steps_took_are_known_afterwards() -> None:
    told = story().planned("code").tell(facts.ApplyStarted("code")).tell(facts.Applied("code"), took=seconds(40))
    told.round(Verdict.BAD)
    assert told.incident.took == {"code": seconds(40)}
    assert [result.verdict for result in told.incident.results] == [Verdict.BAD]


def test_a_bracket_counts_as_inside_from_when_entering_it_was_begun() -> None:
    told = story().planned("code", traffic="gate").failed("enter", "traffic")
    assert (told.incident.entered, told.incident.inside) == ((), ("traffic",))
    assert told.did("enter", "traffic", 2).did("leave", "traffic").incident.inside == ()
