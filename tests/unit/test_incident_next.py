"""What comes next in an incident: a table of places and steps, and what holds whatever happens."""

import pytest

from rollbackd import facts
from rollbackd.incident.life import Flight
from rollbackd.incident.next import (
    ATTEMPTS,
    Close,
    EndPlan,
    Look,
    LookAtGate,
    Perform,
    Prepare,
    Step,
    Stop,
    Wait,
    verification_times,
)
from rollbackd.model import Outcome, Plan, Verdict
from tests.unit.builders import (
    GATED,
    VERIFY,
    Story,
    at,
    change,
    entered,
    minutes,
    plain,
    seconds,
    start,
    state,
    stepped,
)

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
WELL = Close(Outcome.RECOVERED, "3 good rounds in a row")


# -- the whole life -----------------------------------------------------------------------------------
def test_a_rollback_from_its_opening_to_its_end() -> None:
    story = Story(verify=GATED)
    assert story.next() == Prepare()
    story.planned("config", "code", traffic="gate")
    assert story.next() == start("enter", "traffic")
    story.tell(facts.Entering("traffic"))
    assert story.next() == Perform(Flight("enter", "traffic", 1, at(0)))
    story.tell(facts.Entered("traffic"))
    assert story.next() == start("apply", "config")
    story.tell(facts.ApplyStarted("config"))
    assert story.next() == Perform(Flight("apply", "config", 1, at(0)))
    story.tell(facts.Applied("config"))
    assert story.next() == start("apply", "code")
    story.did("apply", "code")
    assert story.next() == LookAtGate()
    story.gated()
    assert story.next() == start("leave", "traffic")
    story.tell(facts.Leaving("traffic"))
    assert story.next() == Perform(Flight("leave", "traffic", 1, at(0)))
    story.tell(facts.Left("traffic"))
    assert story.next() == Wait(at(0) + seconds(15))
    story.wait(seconds(15))
    assert story.next() == Look()
    story.round()
    assert story.next() == Wait(story.now + seconds(30))
    story.round(took=seconds(30)).round(took=seconds(30))
    assert story.next() == WELL
    story.closed()
    assert story.next() == Stop()


def test_the_next_round_is_announced_for_when_it_comes_and_the_deadline_for_when_it_ends() -> None:
    story = Story()
    assert verification_times(story.incident, VERIFY) is None
    story.planned("code")
    assert verification_times(story.incident, VERIFY) is None
    story.did("apply", "code")
    for _ in range(2):
        times = verification_times(story.incident, VERIFY)
        assert times is not None
        assert story.next() == Wait(times[0])
        assert times[1] == at(0) + VERIFY.deadline
        story.wait(times[0] - story.now)
        assert story.next() == Look()
        story.round()
    story.closed()
    assert verification_times(story.incident, VERIFY) is None


# -- brackets -----------------------------------------------------------------------------------------
def test_brackets_are_entered_in_order_and_left_in_reverse() -> None:
    story = Story().planned("code", freeze="steps", traffic="steps")
    assert story.next() == start("enter", "freeze")
    assert story.did("enter", "freeze").next() == start("enter", "traffic")
    assert story.did("enter", "traffic").next() == start("apply", "code")
    assert story.did("apply", "code").next() == start("leave", "traffic")
    assert story.did("leave", "traffic").next() == start("leave", "freeze")
    assert story.did("leave", "freeze").next() == Wait(at(0) + seconds(15))


def test_a_bracket_that_was_left_is_not_entered_again() -> None:
    story = stepped("steps")
    assert story.next() == start("leave", "traffic")
    assert story.did("leave", "traffic").next() == LookAtGate()


def test_left_after_the_steps_it_does_not_wait_for_the_gate() -> None:
    assert stepped("steps").next() == start("leave", "traffic")


def test_left_after_the_gate_it_waits_for_the_gate() -> None:
    story = stepped("gate")
    assert story.next() == LookAtGate()
    assert story.gated(BAD).next() == Wait(story.now + seconds(5))
    assert story.wait(seconds(5)).gated().next() == start("leave", "traffic")


def test_without_a_gate_it_is_left_after_the_steps() -> None:
    story = stepped("gate")
    story.verify = VERIFY
    assert story.next() == start("leave", "traffic")


def test_left_when_verified_it_stays_until_the_last_good_round() -> None:
    story = stepped("verified").gated()
    assert story.next() == Wait(at(0) + seconds(15))
    assert story.verified().next() == start("leave", "traffic")
    assert story.did("leave", "traffic").next() == WELL


def test_left_when_acknowledged_it_stays_after_the_end() -> None:
    story = stepped("acknowledged").gated().verified()
    assert story.next() == WELL
    assert story.closed().next() == Stop()
    assert story.tell(facts.Acknowledged(), actor="unix:ann").next() == start("leave", "traffic")
    assert story.did("leave", "traffic").next() == Stop()


def test_each_kind_in_its_own_time() -> None:
    story = Story(verify=GATED).planned("code", a="acknowledged", b="verified", c="gate", d="steps")
    for layer in "abcd":
        story.did("enter", layer)
    assert story.did("apply", "code").next() == start("leave", "d")
    assert story.did("leave", "d").next() == LookAtGate()
    assert story.gated().next() == start("leave", "c")
    assert isinstance(story.did("leave", "c").next(), Wait)
    assert story.verified().next() == start("leave", "b")
    assert story.did("leave", "b").next() == WELL
    assert story.closed().tell(facts.Acknowledged()).next() == start("leave", "a")


@pytest.mark.parametrize("leave", ["steps", "gate", "verified"])
def test_a_bracket_that_an_earlier_plan_entered_is_left_in_its_time_too(leave: str) -> None:
    """The second plan does not name it; nobody else would take the maintenance page away."""
    story = Story(plans=("config", "default"), verify=GATED)
    story.planned("config", name="config", traffic=leave).did("enter", "traffic").did("apply", "config")
    story.tell(facts.PlanEnded("config", Outcome.INEFFECTIVE)).planned("code").did("apply", "code")
    if leave != "steps":
        assert story.next() == LookAtGate()
        story.gated()
    if leave == "verified":
        story.verified()
    assert story.next() == start("leave", "traffic")


def test_a_bracket_of_an_earlier_plan_waits_for_an_acknowledgement_if_it_said_so() -> None:
    story = Story(plans=("config", "default")).planned("config", name="config", traffic="acknowledged")
    story.did("enter", "traffic").did("apply", "config").tell(facts.PlanEnded("config", Outcome.INEFFECTIVE))
    story.planned("code").did("apply", "code").verified()
    assert story.next() == WELL
    assert story.closed().tell(facts.Acknowledged()).next() == start("leave", "traffic")


def test_recovered_with_something_switched_off_says_what_and_which_rules_were_not_asked() -> None:
    story = Story(present=state("v2", flags="f1"), target=state("v1", flags="f1"))
    off = Plan("degrade", (change("flags", "f1", "off"),), unasked=("search", "page"))
    story.tell(facts.Planned(off, story.incident.present)).did("apply", "flags").verified()
    said = "3 good rounds in a row, with flags at off; not asked again, since that is switched off: search, page"
    assert story.next() == Close(Outcome.RECOVERED, said)


# -- after the end ------------------------------------------------------------------------------------
@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.RECOVERED])
def test_an_acknowledgement_leaves_nothing_of_an_incident_that_did_not_recover(outcome: Outcome) -> None:
    story = stepped("acknowledged").closed(outcome).tell(facts.Acknowledged())
    assert story.next() == Stop()


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_person_can_have_every_bracket_left_after_any_end(outcome: Outcome) -> None:
    story = Story().planned("code", freeze="verified", traffic="gate").did("enter", "freeze").did("enter", "traffic")
    story.closed(outcome).tell(facts.Acknowledged(leave=True))
    assert story.next() == start("leave", "traffic")
    assert story.did("leave", "traffic").next() == start("leave", "freeze")
    assert story.did("leave", "freeze").next() == Stop()


def test_a_hold_stops_what_is_left_after_the_end_and_it_goes_on_when_it_is_lifted() -> None:
    story = stepped().closed(Outcome.FAILED).tell(facts.Acknowledged(leave=True))
    assert story.next(held="HOLD") == Wait(None)
    assert story.next() == start("leave", "traffic")
    story.tell(facts.Leaving("traffic"))
    assert story.next(held="HOLD") == Wait(None)
    assert story.next() == Perform(Flight("leave", "traffic", 1, at(0)))
    assert story.tell(facts.Left("traffic")).next(held="HOLD") == Stop()


def test_leaving_after_the_end_pauses_between_attempts_and_gives_up() -> None:
    story = stepped().closed(Outcome.FAILED).tell(facts.Acknowledged(leave=True))
    for attempt in range(1, ATTEMPTS):
        assert story.next() == start("leave", "traffic", attempt)
        waits = story.failed("leave", "traffic", attempt).next()
        assert isinstance(waits, Wait)
        assert waits.until is not None
        story.now = waits.until
    assert story.failed("leave", "traffic", ATTEMPTS).next() == Stop()


def test_what_can_never_be_left_is_not_tried_again() -> None:
    story = stepped().closed(Outcome.FAILED).tell(facts.Acknowledged(leave=True))
    assert story.failed("leave", "traffic", permanent=True).next() == Stop()


def test_a_person_who_mended_it_can_have_it_left_again() -> None:
    """Also when leaving it was what the incident failed of."""
    story = stepped().gated().failed("leave", "traffic", ATTEMPTS)
    assert story.next() == Close(Outcome.FAILED, "leave traffic: it broke")
    assert story.closed(Outcome.FAILED).next() == Stop()
    assert story.tell(facts.Acknowledged(leave=True)).next() == start("leave", "traffic")
    story.failed("leave", "traffic", permanent=True)
    assert story.next() == Stop()
    assert story.tell(facts.Acknowledged()).next() == start("leave", "traffic")


def test_an_acknowledgement_of_a_running_incident_takes_no_failure_back() -> None:
    story = stepped().gated().failed("leave", "traffic", ATTEMPTS).tell(facts.Acknowledged())
    assert story.next() == Close(Outcome.FAILED, "leave traffic: it broke")


def test_an_acknowledgement_says_nothing_about_the_step_that_failed() -> None:
    story = entered().failed("apply", "config", permanent=True).closed(Outcome.FAILED).tell(facts.Acknowledged())
    assert story.incident.attempts("apply", "config") == 1


# -- gate and verification ----------------------------------------------------------------------------
def test_the_gate_is_asked_at_once_and_then_every_five_seconds() -> None:
    story = stepped()
    assert story.next() == LookAtGate()
    assert story.gated(UNKNOWN).next() == Wait(at(0) + seconds(5))
    assert story.wait(seconds(5)).next() == LookAtGate()


def test_the_gate_is_asked_as_often_as_rounds_are_when_these_are_quicker() -> None:
    story = stepped()
    story.verify = GATED.model_copy(update={"every": seconds(1)})
    assert story.gated(BAD).next() == Wait(at(0) + seconds(1))


LATE = "did not reach a verdict in 10m"


@pytest.mark.parametrize(
    ("verdict", "end"),
    [
        (BAD, Close(Outcome.INEFFECTIVE, "the gate checks still failed after 10m")),
        (UNKNOWN, Close(Outcome.UNVERIFIED, f"the gate checks {LATE}")),
    ],
)
def test_a_gate_that_does_not_open_in_time_ends_it_and_the_bracket_stays(verdict: Verdict, end: Step) -> None:
    story = stepped().gated(verdict)
    assert story.wait(minutes(10) - seconds(1)).next() == LookAtGate()
    assert story.wait(seconds(1)).next() == end
    assert story.incident.entered == ("traffic",)


def test_a_gate_that_was_never_asked_is_asked_however_late_it_is() -> None:
    assert stepped().wait(minutes(60)).next() == LookAtGate()


def test_verification_settles_first() -> None:
    story = plain()
    assert story.next() == Wait(at(0) + seconds(15))
    assert story.wait(seconds(14.999)).next() == Wait(at(0) + seconds(15))
    assert story.wait(seconds(0.001)).next() == Look()


@pytest.mark.parametrize(
    ("rounds", "well"), [("gg", False), ("ggg", True), ("gig", False), ("gbgg", False), ("gigg", True)]
)
def test_it_recovers_by_so_many_good_rounds_in_a_row_and_by_nothing_less(rounds: str, well: bool) -> None:
    story = plain()
    for letter in rounds:
        story.round({"g": GOOD, "b": BAD, "i": UNKNOWN}[letter], took=seconds(30))
    assert (story.next() == WELL) is well


@pytest.mark.parametrize(
    ("rounds", "end"),
    [
        ("b", Close(Outcome.INEFFECTIVE, "verification still failed after 10m")),
        ("gb", Close(Outcome.INEFFECTIVE, "verification still failed after 10m")),
        ("bi", Close(Outcome.INEFFECTIVE, "verification still failed after 10m")),
        ("i", Close(Outcome.UNVERIFIED, f"verification {LATE}")),
        ("gi", Close(Outcome.UNVERIFIED, f"verification {LATE}")),
        ("bg", Close(Outcome.UNVERIFIED, f"verification {LATE}")),
    ],
)
def test_at_the_deadline_the_last_round_that_said_anything_decides(rounds: str, end: Step) -> None:
    story = plain()
    for letter in rounds:
        story.round({"g": GOOD, "b": BAD, "i": UNKNOWN}[letter], took=seconds(30))
    story.now = at(10)
    assert story.next() == end
    story.now -= seconds(1)
    assert story.next() == Look()


def test_the_third_good_round_counts_also_at_the_deadline() -> None:
    story = plain().round().round()
    story.now = at(10)
    assert story.round().next() == WELL


def test_nothing_ends_before_it_was_looked_at_once() -> None:
    assert plain().wait(minutes(60)).next() == Look()


def test_the_deadline_counts_from_the_last_step() -> None:
    story = Story().planned("config", "code").did("apply", "config").wait(minutes(60)).did("apply", "code")
    assert story.next() == Wait(at(60) + seconds(15))
    story.round(BAD, took=minutes(9))
    assert story.next() == Wait(story.now + seconds(30))


def test_the_deadline_counts_over_restarts_and_who_takes_over_late_has_time_to_look() -> None:
    story = plain().round(BAD).tell(facts.Adopted("p2"), took=minutes(5))
    story.now = at(10)
    assert story.next() == Close(Outcome.INEFFECTIVE, "verification still failed after 10m")
    story = plain().round(BAD).tell(facts.Adopted("p2"), took=minutes(40))
    assert story.next() == Look()
    for _ in range(3):
        story.round(took=seconds(20))
    assert story.next() == WELL
    story = plain().round(BAD).tell(facts.Adopted("p2"), took=minutes(40)).round(BAD, took=minutes(2))
    assert story.next() == Close(Outcome.INEFFECTIVE, "verification still failed after 10m")


# -- several plans ------------------------------------------------------------------------------------
def test_a_plan_that_did_not_help_is_followed_by_the_next() -> None:
    story = Story(plans=("config", "default")).planned("config", name="config").did("apply", "config")
    story.round(BAD).wait(minutes(10))
    assert story.next() == EndPlan("config", Outcome.INEFFECTIVE)
    assert story.tell(facts.PlanEnded("config", Outcome.INEFFECTIVE)).next() == Prepare()
    story.planned("code").did("apply", "code")
    assert story.next() == Wait(story.now + seconds(15))
    assert story.round(BAD).wait(minutes(10)).next() == Close(
        Outcome.INEFFECTIVE, "verification still failed after 10m"
    )


def test_a_gate_that_stays_bad_tries_the_next_plan_too() -> None:
    story = Story(plans=("config", "default"), verify=GATED).planned("config", name="config", traffic="gate")
    story.did("enter", "traffic").did("apply", "config").gated(BAD).wait(minutes(10))
    assert story.next() == EndPlan("config", Outcome.INEFFECTIVE)
    story.tell(facts.PlanEnded("config", Outcome.INEFFECTIVE)).planned("code", traffic="gate")
    assert story.next() == start("apply", "code")  # the bracket is entered already


def test_without_evidence_no_further_plan_is_tried() -> None:
    story = Story(plans=("config", "default")).planned("config", name="config").did("apply", "config")
    assert story.round(UNKNOWN).wait(minutes(10)).next() == Close(Outcome.UNVERIFIED, f"verification {LATE}")


def test_a_step_that_failed_tries_no_further_plan() -> None:
    story = Story(plans=("config", "default")).planned("config", name="config")
    assert story.failed("apply", "config", permanent=True).next() == Close(Outcome.FAILED, "apply config: it broke")


def test_what_the_plan_before_saw_does_not_count_for_the_next() -> None:
    story = Story(plans=("config", "default")).planned("config", name="config").did("apply", "config")
    story.round().round().round(BAD).tell(facts.PlanEnded("config", Outcome.INEFFECTIVE))
    story.planned("code").did("apply", "code").round(UNKNOWN).wait(minutes(10))
    assert story.next() == Close(Outcome.UNVERIFIED, f"verification {LATE}")
