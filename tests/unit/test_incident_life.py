"""An incident as its facts tell it."""

from dataclasses import replace

import pytest

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.incident.fold import evolve, fold, opened
from rollbackd.incident.life import Failure, Flight
from rollbackd.model import NO_RELEASE, Change, Decision, Outcome, Plan, Release, Verdict
from tests.unit.builders import (
    PRESENT,
    TARGET,
    Story,
    at,
    change,
    decided,
    minutes,
    plan,
    records,
    seconds,
    state,
    trigger,
)

RESTART = Change("process", NO_RELEASE, NO_RELEASE)


def record(fact: object, stream: str = "incident:checkout-7") -> Record:
    return Record(41, stream, 1, at(3), "daemon", fact)


def opening(decision: Decision) -> facts.Opened:
    return facts.Opened("checkout", decision, {"name": "checkout"}, ("config", "default"))


def test_an_incident_begins_with_all_that_it_needs() -> None:
    decision = decided(present=PRESENT, target=TARGET)
    found = opened(record(opening(decision)))
    assert (found.id, found.service, found.opened, found.n) == ("checkout-7", "checkout", at(3), 1)
    assert (found.decision, found.present) == (decision, PRESENT)
    assert (found.plans, found.running, found.key) == (("config", "default"), "config", "checkout-7/20260302T100300.0")
    assert found.config == {"name": "checkout"}


@pytest.mark.parametrize("fact", [facts.Adopted("p"), opening(decided(present=None))])
def test_nothing_else_begins_an_incident(fact: object) -> None:
    with pytest.raises(ValueError, match="incident:checkout-7 begins with"):
        opened(record(fact))


def test_an_empty_stream_is_no_incident() -> None:
    assert fold([]) is None


def test_the_fold_of_a_stream_is_what_was_folded_live() -> None:
    story = Story().planned("code", traffic="gate").did("enter", "traffic").failed("apply", "code").verified().closed()
    assert fold(story.told) == story.incident
    assert story.incident.n == len(story.told)


def test_facts_that_were_stored_and_read_again_tell_the_same() -> None:
    story = Story().planned("code", traffic="gate").did("enter", "traffic").did("apply", "code").gated().verified()
    again = [
        Record(one.seq, one.stream, one.n, one.at, one.actor, facts.decode(*facts.encode(one.fact)))
        for one in story.told
    ]
    assert fold(again) == story.incident


@pytest.mark.parametrize(
    ("what", "fact"),
    [("enter", facts.Entering("x", 2)), ("apply", facts.ApplyStarted("x", 2)), ("leave", facts.Leaving("x", 2))],
)
def test_what_was_begun_is_in_flight_until_it_is_reported(what: str, fact: object) -> None:
    story = Story().tell(fact, took=minutes(1))
    assert story.incident.flight == Flight(what, "x", 2, at(1))
    assert story.incident.acted


@pytest.mark.parametrize(
    ("what", "fact"),
    [
        ("enter", facts.EnterFailed("x", "no", permanent=True)),
        ("apply", facts.ApplyFailed("x", "no", permanent=True)),
        ("leave", facts.LeaveFailed("x", "no", permanent=True)),
    ],
)
def test_a_failure_is_that_of_the_attempt_in_flight(what: str, fact: object) -> None:
    started = {"enter": facts.Entering, "apply": facts.ApplyStarted, "leave": facts.Leaving}[what]("x", 3)
    found = Story().tell(started).tell(fact, took=minutes(2)).incident
    assert found.flight is None
    assert found.failure == Failure(what, "x", 3, "no", True, at(2))
    assert (found.attempts(what, "x"), found.attempts(what, "y"), found.attempts("other", "x")) == (3, 0, 0)
    assert Story().tell(fact).incident.attempts(what, "x") == 1


def test_a_success_forgets_the_failures_before_it() -> None:
    story = Story().planned("code", traffic="gate")
    for what, layer in (("enter", "traffic"), ("apply", "code"), ("leave", "traffic")):
        story.failed(what, layer)
        assert story.incident.attempts(what, layer) == 1
        assert story.did(what, layer, 2).incident.failure is None


def test_brackets_are_entered_in_order_and_left_by_name() -> None:
    story = Story().did("enter", "a").did("enter", "b").did("enter", "c")
    assert story.incident.entered == ("a", "b", "c")
    assert story.did("leave", "b").incident.entered == ("a", "c")
    assert story.did("enter", "a").incident.entered == ("c", "a")


def test_a_step_moves_its_layer_and_remembers_what_was_left() -> None:
    story = Story().planned("config", "code", "process").did("apply", "config")
    assert story.incident.present == state("v2", config="c1")
    assert (story.incident.done, story.incident.moved) == (("config",), {"config": Release("c2")})
    story.did("apply", "code").did("apply", "process")
    assert story.incident.present == TARGET
    assert story.incident.moved == {"config": Release("c2"), "code": Release("v2")}


def test_a_layer_that_two_plans_move_was_left_at_what_it_had_before_the_first() -> None:
    story = Story(plans=("one", "two")).planned("config", name="one").did("apply", "config")
    story.tell(facts.PlanEnded("one", Outcome.INEFFECTIVE))
    second = plan("code", name="two")
    again = change("config", "c1", "c0")
    story.tell(facts.Planned(type(second)("two", (again,)), story.incident.present)).did("apply", "config")
    assert story.incident.moved == {"config": Release("c2")}
    assert story.incident.present == state("v2", config="c0")


def test_a_step_of_no_plan_moves_nothing() -> None:
    story = Story().did("apply", "code")
    assert (story.incident.present, story.incident.moved) == (PRESENT, {})


def test_a_step_begins_verification_anew() -> None:
    story = Story().planned("config", "code").did("apply", "config").round()
    assert (story.incident.rounds, story.incident.looked) == (1, at(0))
    story.wait(minutes(1)).did("apply", "code")
    assert (story.incident.rounds, story.incident.looked, story.incident.stepped) == (0, None, at(1))


@pytest.mark.parametrize(
    ("verdicts", "rounds", "conclusive"),
    [
        ("g", 1, Verdict.GOOD),
        ("gg", 2, Verdict.GOOD),
        ("gig", 2, Verdict.GOOD),
        ("ggb", 0, Verdict.BAD),
        ("ggbi", 0, Verdict.BAD),
        ("bg", 1, Verdict.GOOD),
        ("i", 0, None),
    ],
)
def test_good_rounds_count_in_a_row_and_inconclusive_ones_neither_count_nor_break(
    verdicts: str, rounds: int, conclusive: Verdict | None
) -> None:
    story = Story()
    for letter in verdicts:
        story.round({"g": Verdict.GOOD, "b": Verdict.BAD, "i": Verdict.INCONCLUSIVE}[letter])
    assert (story.incident.rounds, story.incident.conclusive) == (rounds, conclusive)


def test_a_round_of_the_gate_is_no_round_of_verification() -> None:
    story = Story().gated(Verdict.BAD).wait(minutes(1)).gated(Verdict.INCONCLUSIVE)
    found = story.incident
    assert (found.gate, found.gated, found.conclusive) == (Verdict.INCONCLUSIVE, at(1), Verdict.BAD)
    assert (found.rounds, found.looked) == (0, None)


def test_who_takes_it_over_in_flight_is_counted() -> None:
    story = Story().tell(facts.Adopted("p1"), facts.ApplyStarted("code"))
    assert story.incident.flight == Flight("apply", "code", 1, at(0), adoptions=0)
    story.tell(facts.Adopted("p2"), facts.Adopted("p3"), took=minutes(1))
    assert story.incident.flight == Flight("apply", "code", 1, at(0), adoptions=2)
    assert story.incident.adopted == at(2)


def test_each_effect_counts_its_own_adoptions() -> None:
    story = Story().tell(facts.ApplyStarted("code"), facts.Adopted("p2"), facts.Applied("code"), facts.Leaving("x"))
    assert story.incident.flight is not None
    assert story.incident.flight.adoptions == 0


def test_after_a_hold_verification_begins_again_and_the_gate_stays() -> None:
    story = Story().planned("code").did("apply", "code").gated().round().round()
    story.tell(facts.Paused("HOLD by unix:ann"))
    assert story.incident.paused == "HOLD by unix:ann"
    story.tell(facts.Unpaused(), took=minutes(9))
    found = story.incident
    assert (found.paused, found.resumed, found.rounds, found.looked) == ("", at(9), 0, None)
    assert found.gate is Verdict.GOOD


def test_a_plan_that_ended_leaves_brackets_and_moves_to_the_next() -> None:
    story = Story(plans=("config", "default")).planned("config", name="config", traffic="verified")
    story.did("enter", "traffic").did("apply", "config").gated().round(Verdict.BAD)
    story.tell(facts.PlanEnded("config", Outcome.INEFFECTIVE))
    found = story.incident
    assert (found.running, found.key, found.tried) == ("default", "checkout-1/20260302T100000.1", 1)
    assert (found.plan, found.done, found.gate, found.gated, found.conclusive) == (None, (), None, None, None)
    assert (found.stepped, found.looked, found.rounds, found.failure) == (None, None, 0, None)
    assert (found.entered, found.moved) == (("traffic",), {"config": Release("c2")})


def test_after_the_last_plan_the_last_is_the_one_that_ran() -> None:
    story = Story(plans=("config", "default"))
    story.tell(facts.PlanEnded("config", Outcome.PASSED), facts.PlanEnded("default", Outcome.PASSED))
    assert story.incident.running == "default"


def test_a_plan_without_a_step_to_take_makes_nothing_more_urgent() -> None:
    story = Story(plans=("config", "default"))
    before = story.incident.priority
    story.tell(facts.PlanEnded("config", Outcome.PASSED))
    assert (story.incident.tried, story.incident.priority) == (1, before)
    story.tell(facts.PlanEnded("default", Outcome.INEFFECTIVE))
    assert story.incident.priority < before


def test_words_of_people_are_kept_with_their_names() -> None:
    story = Story().tell(facts.AbortRequested("wrong release"), actor="unix:ann")
    assert (story.incident.aborted, story.incident.abort_reason) == ("unix:ann", "wrong release")
    story.tell(facts.Acknowledged(), actor="token:desk")
    assert (story.incident.acknowledged, story.incident.leave_all) == ("token:desk", False)
    story.tell(facts.Acknowledged(leave=True), actor="unix:ann").tell(facts.Acknowledged(), actor="unix:bob")
    assert (story.incident.acknowledged, story.incident.leave_all) == ("unix:bob", True)


def test_who_takes_a_layer_away_is_remembered() -> None:
    story = Story().tell(facts.ApplyStarted("code"), facts.StepSuperseded("code"))
    assert (story.incident.superseded, story.incident.flight) == ("code", None)


def test_twenty_triggers_that_joined_are_remembered() -> None:
    many = [trigger(f"r{n}") for n in range(25)]
    story = Story().tell(*(facts.Joined(one) for one in many))
    assert story.incident.joined == tuple(many[-20:])


def test_what_is_parked_is_in_flight_no_more_and_will_not_be_tried_by_itself() -> None:
    story = Story().tell(facts.ApplyStarted("code", 2)).tell(facts.Parked("cut off"), took=minutes(1))
    assert (story.incident.parked, story.incident.flight) == ("cut off", None)
    assert story.incident.failure == Failure("apply", "code", 2, "cut off", True, at(1))
    assert Story().tell(facts.Parked("why")).incident.failure is None


def test_a_late_result_of_a_host_that_drove_before_is_noted_and_changes_nothing_else() -> None:
    story = Story().planned("code").tell(facts.Adopted("boot/1", "ops-a"), facts.ApplyStarted("code"))
    before = story.tell(facts.Adopted("boot/2", "ops-b"), facts.Parked("cut off")).incident
    late = [facts.ReportedLate("apply", "code", "ops-a", at(9), failed) for failed in ("", "no room")]
    after = story.tell(*late).incident
    assert after.notes == (
        "code: apply was done on ops-a, as is known only now",
        "code: apply failed: no room on ops-a, as is known only now",
    )
    assert replace(after, notes=(), n=before.n) == before


def test_the_end_is_kept_and_a_relapse_overrules_it() -> None:
    story = Story().wait(minutes(9)).closed()
    assert (story.incident.outcome, story.incident.closed) == (Outcome.RECOVERED, at(9))
    story.wait(minutes(1)).tell(facts.Relapsed(trigger("latency")))
    assert (story.incident.outcome, story.incident.closed) == (Outcome.INEFFECTIVE, at(9))
    assert story.incident.reason == "in trouble again: latency"


def test_what_was_told_changes_nothing_but_its_place() -> None:
    story = Story()
    before = story.incident
    after = evolve(before, Record(9, story.stream, 2, at(1) + seconds(1), "daemon", facts.Told("room", "opened", "k")))
    assert after.n == 2
    assert fold(records(story.stream, (at(0), story.told[0].fact))) == before


def off(story: Story) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The rules that are not asked, and the layers that its plans fixed."""
    return story.incident.unasked, story.incident.fixed


def test_rules_are_not_asked_while_what_they_ask_is_switched_off() -> None:
    """From the step that does it until a later plan of the list takes that back."""
    story = Story(plans=("degrade", "code", "whole"), present=state("v2", flags="f1"), target=state("v1", flags="f1"))
    degrade = Plan("degrade", (change("flags", "f1", "off"), RESTART), unasked=("search", "page"))
    story.tell(facts.Planned(degrade, story.incident.present))
    assert off(story) == ((), ())
    story.did("apply", "flags")
    assert off(story) == (("search", "page"), ("flags",))
    story.tell(facts.PlanEnded("degrade", Outcome.INEFFECTIVE)).planned("code").did("apply", "code")
    assert off(story) == (("search", "page"), ("flags",))
    story.tell(facts.PlanEnded("code", Outcome.INEFFECTIVE))
    whole = Plan("whole", (change("flags", "off", "f1"),))
    story.tell(facts.Planned(whole, story.incident.present)).did("apply", "flags")
    assert off(story) == ((), ())
