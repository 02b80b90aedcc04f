"""An incident that asks: who may say yes, what becomes of it, what a person's no does."""

from dataclasses import replace
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.incident import next as steps
from rollbackd.incident.approval import may_answer, missing, rising
from rollbackd.incident.ending import ending
from rollbackd.incident.life import Yes
from rollbackd.model import (
    FLEET,
    Action,
    ApprovalRequest,
    Outcome,
    Priority,
    Request,
    Verdict,
    incident_stream,
    service_stream,
)
from tests.unit.builders import (
    PRESENT,
    TARGET,
    VERIFY,
    Story,
    at,
    checked,
    decided,
    minutes,
    plan,
    seconds,
    start,
    trigger,
)

ANN, BOB, CAT = "unix:ann", "unix:bob", "unix:cat"
MEMBERS = {"tech": (ANN, BOB), "product": (BOB, CAT)}


def question(**more: Any) -> ApprovalRequest:
    return ApprovalRequest(**{"why": ("no change is known",), "expires": at(15), **more})


BOTH = question(by=("tech", "product"), members=MEMBERS, approvals=2)


# -- who may say yes ---------------------------------------------------------------------------------------
def test_anybody_may_say_yes_when_nobody_is_named() -> None:
    assert may_answer(question(), ANN) == ""
    assert missing(question(), []) == "1 more person"
    assert missing(question(), [ANN]) == ""


def test_two_yeses_of_one_person_are_one() -> None:
    two = question(approvals=2)
    assert missing(two, [ANN, ANN]) == "1 more person"
    assert missing(two, [ANN, BOB]) == ""
    assert missing(question(approvals=3), [ANN]) == "2 more people"


def test_each_group_gives_one_person_of_its_own() -> None:
    assert missing(BOTH, []) == "one of tech and one of product"
    assert missing(BOTH, [ANN]) == "one of product"
    assert missing(BOTH, [CAT]) == "one of tech"
    assert missing(BOTH, [ANN, CAT]) == ""


def test_who_is_in_two_groups_speaks_for_one_whichever_helps() -> None:
    assert missing(BOTH, [BOB]) == "one of product"
    assert missing(BOTH, [BOB, ANN]) == ""
    assert missing(BOTH, [BOB, CAT]) == ""
    assert missing(BOTH, [ANN, BOB]) == ""


def test_more_people_than_groups_may_be_wanted() -> None:
    three = replace(BOTH, approvals=3)
    assert missing(three, [ANN, CAT]) == "1 more person"
    assert missing(three, [ANN, BOB, CAT]) == ""


def test_who_is_in_no_group_and_who_announced_the_change_may_not() -> None:
    assert may_answer(BOTH, "unix:eve") == "unix:eve is in none of the groups that are asked: tech, product"
    assert missing(BOTH, ["unix:eve", ANN]) == "one of product"
    deployer = replace(BOTH, excluded=(ANN,))
    assert may_answer(deployer, ANN) == f"{ANN} announced the change; somebody else must approve going back from it"
    assert missing(deployer, [ANN, CAT]) == "one of tech"


def test_two_names_of_one_person_are_one_person() -> None:
    who = {
        ANN: "ann",
        "slack:ann": "ann",
        "token:laptop": "ann",
        "slack:U0123ABCD": "ann",
        BOB: "bob",
        "slack:bob": "bob",
    }
    two = question(approvals=2, persons=who)
    assert missing(two, [ANN, "slack:ann", "token:laptop"]) == "1 more person"
    assert missing(two, [ANN, "slack:bob"]) == ""
    assert missing(two, [ANN, "unix:stranger"]) == ""
    groups = replace(BOTH, persons=who)
    assert missing(groups, ["slack:bob", BOB]) == "one of product"
    assert missing(groups, ["slack:bob", ANN]) == ""
    assert may_answer(groups, "slack:cat") == "slack:cat is in none of the groups that are asked: tech, product"
    here = replace(groups, of_hosts=True)
    assert missing(here, [f"{BOB}@ops-2", f"{ANN}@ops-1", "token:a@b"]) == ""
    assert missing(replace(two, of_hosts=True, persons={}), [f"{ANN}@ops-1", f"{ANN}@ops-2"]) == "1 more person"
    assert missing(replace(two, persons={}), [f"{ANN}@corp", f"{ANN}@other"]) == ""
    own = replace(two, of_hosts=True, persons={}, excluded=(f"{ANN}@ops-1", f"{BOB}@corp"))
    assert "announced the change" in may_answer(own, f"{ANN}@ops-2")
    assert "announced the change" in may_answer(own, f"{BOB}@corp@ops-1"), "a name of its own has an @, too"
    announced = replace(groups, excluded=("slack:U0123ABCD",))
    assert may_answer(announced, ANN) == f"{ANN} announced the change; somebody else must approve going back from it"
    assert missing(announced, [ANN, "slack:bob"]) == "one of product"


# -- what becomes of it ---------------------------------------------------------------------------------------
def asking(asks: ApprovalRequest | None = None, config: Any = None, **more: Any) -> Story:
    """An incident that was opened to ask."""
    story = Story(**more)
    asked = replace(story.incident.decision, action=Action.ASK, question=asks or question())
    opened = facts.Opened("checkout", asked, config or {}, ("default",))
    story.told, story.incident = [], story.incident
    from rollbackd.facts import Record
    from rollbackd.incident.fold import opened as first

    record = Record(1, story.stream, 1, story.now, "daemon", opened)
    story.told.append(record)
    story.incident = first(record)
    return story


def test_it_waits_until_it_expires() -> None:
    story = asking()
    assert story.incident.waits
    assert story.incident.asked == at(0)
    assert story.next() == steps.Wait(at(15))
    assert story.wait(minutes(15)).next() == steps.Rise("nobody answered in 15m", by_people=False)


def test_enough_yeses_make_it_rise() -> None:
    story = asking(question(approvals=2)).tell(facts.Approved("looks bad"), actor=ANN)
    assert story.next() == steps.Wait(at(15))
    assert story.incident.approvals == (Yes(ANN, at(0), "looks bad"),)
    story.tell(facts.Approved(), actor=BOB)
    assert story.next() == steps.Rise("approved by unix:ann, unix:bob", by_people=True)


def test_an_answer_in_time_counts_also_when_it_is_seen_late() -> None:
    story = asking().tell(facts.Approved(), actor=ANN).wait(minutes(30))
    assert story.next() == steps.Rise("approved by unix:ann", by_people=True)


def test_what_joins_a_question_answers_nothing() -> None:
    """An order neither: a person's order to a question makes it rise, and is not written as evidence."""
    order = replace(trigger("manual"), request=Request("checkout", ANN))
    for joins in (trigger("other"), order):
        story = asking(BOTH).tell(facts.Joined(joins), actor=ANN)
        assert (story.next(), story.incident.joined) == (steps.Wait(at(15)), (joins,))


def test_a_no_ends_it_whatever_else_was_said() -> None:
    story = asking().tell(facts.Approved(), actor=ANN).tell(facts.Denied("it is the load test"), actor=BOB)
    assert story.next("held") == steps.Close(Outcome.DECLINED, "denied by unix:bob: it is the load test")
    assert asking().tell(facts.Denied(), actor=BOB).next() == steps.Close(Outcome.DECLINED, "denied by unix:bob")


def test_a_no_that_came_as_something_worse_made_it_rise_still_counts_before_the_first_step() -> None:
    story = asking().tell(facts.Denied(), actor=BOB).tell(facts.Risen(decided(present=PRESENT), "worse came"))
    assert isinstance(story.next(), steps.Close)
    acted = story.tell(facts.Planned(plan("code"), PRESENT)).did("apply", "code")
    assert not isinstance(acted.next(), steps.Close)


def test_a_hold_lets_no_answer_through_and_loses_none() -> None:
    story = asking().tell(facts.Approved(), actor=ANN)
    assert story.next("held by unix:bob") == steps.Wait(None)
    assert isinstance(story.next(), steps.Rise)


def test_an_abort_ends_it() -> None:
    assert asking().tell(facts.AbortRequested("no"), actor=ANN).next() == steps.Close(
        Outcome.ABORTED, "by unix:ann: no"
    )


def test_a_question_that_is_missing_is_given_to_a_person() -> None:
    story = asking()
    story.incident = replace(story.incident, decision=replace(story.incident.decision, question=None))
    assert isinstance(story.next(), steps.Park)


def test_when_too_few_said_yes_in_time_it_says_who_did_and_who_is_missing() -> None:
    story = asking(BOTH).tell(facts.Approved(), actor=ANN)
    why = "only unix:ann said yes in 15m, not one of product"
    assert story.wait(minutes(15)).next() == steps.Rise(why, by_people=False)


def test_it_is_asked_again_from_the_start() -> None:
    moved = replace(decided(Action.ASK, present=TARGET, target=PRESENT), question=question(expires=at(40)))
    story = asking().tell(facts.Approved(), actor=ANN).tell(facts.AskedAgain(moved, "another runs"), took=minutes(10))
    assert story.incident.approvals == ()
    assert story.incident.asked == at(10)
    assert story.incident.present == TARGET
    assert story.next() == steps.Wait(at(40))
    assert story.wait(minutes(30)).next() == steps.Rise("nobody answered in 30m", by_people=False)


def test_what_rose_goes_on_like_any_rollback() -> None:
    acts = replace(decided(present=PRESENT, target=TARGET), plans=("config",))
    story = asking().tell(facts.Risen(acts, "approved by unix:ann", by_people=True))
    assert not story.incident.waits
    assert (story.incident.risen, story.incident.by_people) == ("approved by unix:ann", True)
    assert story.incident.plans == ("config",)
    assert story.next() == steps.Prepare()


def test_a_decision_without_a_present_state_leaves_what_was_known() -> None:
    assert asking().tell(facts.Risen(decided(), "x")).incident.present == PRESENT


# -- what is entered while it asks ---------------------------------------------------------------------------
FREEZES = {
    "plans": {"default": {"within": ["frozen", "page"], "steps": ["code"]}, "config": {"steps": ["config"]}},
    "layers": {"frozen": {"enter": "asked", "leave": "acknowledged"}, "page": {"leave": "gate"}},
}


def freezing(asks: ApprovalRequest | None = None) -> Story:
    """A question within what is entered while it asks; the page is not."""
    return asking(asks, config=FREEZES)


def left(story: Story) -> Story:
    """What is entered is left after the end; nothing else happens then."""
    assert story.next("held by unix:bob") == steps.Wait(None)
    assert story.next() == start("leave", "frozen")
    assert story.did("leave", "frozen").next() == steps.Stop()
    assert story.incident.inside == ()
    return story


def test_a_question_is_within_its_brackets_and_that_is_no_act() -> None:
    story = freezing()
    assert story.next("held by unix:bob") == steps.Wait(at(15))
    assert story.next() == start("enter", "frozen")
    story.tell(facts.Entering("frozen"))
    assert isinstance(story.next(), steps.Perform)
    assert story.next("held by unix:bob") == steps.Wait(at(15))
    story.tell(facts.Entered("frozen"))
    assert story.next() == steps.Wait(at(15))
    assert (story.incident.entered, story.incident.acted, story.incident.begun) == (("frozen",), False, None)


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_no_and_an_abort_leave_them(cut_off: bool) -> None:
    """Cut off while it is entered: that is finished first, so that it is known what is to be left."""
    denied = freezing().tell(facts.Entering("frozen")).tell(facts.Denied(), actor=BOB)
    if cut_off:
        assert isinstance(denied.next(), steps.Perform)
        assert denied.next("held by unix:bob") == steps.Close(Outcome.DECLINED, "denied by unix:bob")
    else:
        denied.tell(facts.Entered("frozen"))
        assert denied.next() == steps.Close(Outcome.DECLINED, "denied by unix:bob")
    left(denied.closed(Outcome.DECLINED))
    aborted = freezing().did("enter", "frozen").tell(facts.AbortRequested("no"), actor=ANN)
    assert aborted.next() == start("leave", "frozen")
    assert aborted.did("leave", "frozen").next() == steps.Close(Outcome.ABORTED, "by unix:ann: no")
    assert not aborted.incident.acted


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.RECOVERED])
@pytest.mark.parametrize("risen", [False, True])
def test_however_a_question_ends_without_a_step_they_are_left(outcome: Outcome, risen: bool) -> None:
    story = freezing().did("enter", "frozen")
    if risen:
        story.tell(facts.Risen(decided(present=PRESENT, target=TARGET), "nobody answered"))
        assert story.next() == steps.Prepare()
    story.closed(outcome)
    over = next(
        fact for _, fact in ending(story.incident, outcome, "x", VERIFY, at(1)) if isinstance(fact, facts.Ended)
    )
    assert not over.acted
    left(story)


def test_what_cannot_be_left_after_a_question_is_given_up_and_tried_again_by_name() -> None:
    story = freezing().did("enter", "frozen").tell(facts.Denied(), actor=BOB).closed(Outcome.DECLINED)
    story.failed("leave", "frozen", permanent=True)
    assert story.next() == steps.Stop()
    assert story.tell(facts.Acknowledged(leave=True), actor=BOB).next() == start("leave", "frozen")


def test_what_rose_goes_on_within_them() -> None:
    story = freezing().did("enter", "frozen").tell(facts.Risen(decided(present=PRESENT, target=TARGET), "approved"))
    story.tell(facts.Planned(plan("code", frozen="acknowledged", page="gate"), PRESENT))
    assert story.next() == start("enter", "page")
    assert not story.incident.acted
    assert story.did("enter", "page").next() == start("apply", "code")
    assert story.incident.acted


def test_a_plan_that_was_not_asked_about_leaves_them_in_their_time() -> None:
    """What runs in the end has no such bracket; it is left as its layer says all the same."""
    acts = replace(decided(present=PRESENT, target=TARGET), plans=("config",))
    story = freezing().did("enter", "frozen").tell(facts.Risen(acts, "approved"))
    story.planned("config", name="config").did("apply", "config").verified().closed()
    assert story.next() == steps.Stop()
    assert story.tell(facts.Acknowledged(), actor=ANN).next() == start("leave", "frozen")


def test_what_cannot_be_entered_stops_no_question_and_is_tried_again_when_it_rises() -> None:
    story = freezing().failed("enter", "frozen")
    assert story.next() == steps.Wait(at(0) + seconds(5))
    assert story.wait(seconds(5)).next() == start("enter", "frozen", 2)
    story.failed("enter", "frozen", 2, permanent=True)
    assert story.next() == steps.Wait(at(15))
    assert story.incident.notes == ("frozen: not entered while it asks: it broke",)
    short = freezing(question(expires=at(0) + seconds(2))).failed("enter", "frozen")
    assert short.next() == steps.Wait(at(0) + seconds(2)), "an answer, and the end of its time, wait for nothing"
    story.tell(facts.Risen(decided(present=PRESENT, target=TARGET), "approved"))
    story.tell(facts.Planned(plan("code", frozen="acknowledged"), PRESENT))
    assert story.next() == start("enter", "frozen")


def test_an_answer_waits_for_none_of_them() -> None:
    approved = freezing().tell(facts.Approved(), actor=ANN)
    assert isinstance(approved.next(), steps.Rise)
    assert isinstance(freezing().wait(minutes(15)).next(), steps.Rise)


# -- beside it ---------------------------------------------------------------------------------------------
def test_its_priority_is_the_most_urgent_of_its_triggers_and_rises_with_each_plan_that_failed() -> None:
    story = asking(by=trigger(priority=Priority.P3), plans=("config", "default"))
    assert story.incident.priority is Priority.P3
    assert story.tell(facts.Joined(trigger("b", priority=Priority.P2))).incident.priority is Priority.P2
    assert story.tell(facts.PlanEnded("config", Outcome.INEFFECTIVE)).incident.priority is Priority.P1
    urgent = asking(by=trigger(priority=Priority.P0)).tell(facts.PlanEnded("config", Outcome.INEFFECTIVE))
    assert urgent.incident.priority is Priority.P0


def test_what_came_beside_it_is_kept() -> None:
    story = asking().tell(facts.Examined(checked(Verdict.BAD)))
    story.tell(
        facts.ClockPassed("start_within", minutes(5), "late"), facts.Escalated(1, "late"), facts.Escalated(0, "x")
    )
    assert story.incident.examined == checked(Verdict.BAD)
    assert story.incident.clocks == {"start_within"}
    assert story.incident.tier == 1
    story.tell(facts.EvidenceTaken(checked(Verdict.GOOD), at_end=True), facts.EvidenceTaken(checked(Verdict.BAD)))
    assert (story.incident.evidence, story.incident.evidence_at_end) == (checked(Verdict.BAD), True)
    kept = facts.Measured("errors", at(0), minutes(1), (0.1,))
    for fact, at_end in ((kept, False), (replace(kept, at_end=True), True), (kept, True)):
        story.tell(fact)
        assert (story.incident.measured, story.incident.measured_at_end) == (True, at_end)


def test_it_began_with_its_first_effect() -> None:
    story = Story().planned("code").tell(facts.ApplyStarted("code"), took=seconds(3)).tell(facts.Applied("code"))
    assert story.incident.begun == at(0) + seconds(3)


# -- the facts of its turns -----------------------------------------------------------------------------------
def test_rising_spends_the_budget_now_and_blames_the_state() -> None:
    acts = decided(present=PRESENT, target=TARGET)
    found = rising("checkout-1", acts, "approved", by_people=True)
    assert found == [
        (FLEET, facts.Rising("checkout", "checkout-1", True)),
        (incident_stream("checkout-1"), facts.Risen(acts, "approved", True)),
        (service_stream("checkout"), facts.MarkTaken(PRESENT, "errors (checkout-1)")),
    ]


def test_an_order_blames_nothing() -> None:
    order = decided(by=replace(trigger("manual"), request=Request("checkout", ANN)), present=PRESENT)
    assert len(rising("checkout-1", order, "ordered", by_people=True)) == 2
    assert len(rising("checkout-1", decided(), "x", by_people=False)) == 2


def test_the_end_says_whether_a_person_denied_it() -> None:
    denied = asking().tell(facts.Denied(), actor=BOB).incident
    for outcome, said in ((Outcome.DECLINED, True), (Outcome.ABORTED, False)):
        ended = next(fact for _, fact in ending(denied, outcome, "x", VERIFY, at(1)) if isinstance(fact, facts.Ended))
        assert ended.denied is said
    approved = asking().tell(facts.Risen(decided(present=PRESENT), "x", by_people=True)).incident
    ended = next(
        fact for _, fact in ending(approved, Outcome.FAILED, "x", VERIFY, at(1)) if isinstance(fact, facts.Ended)
    )
    assert (ended.manual, ended.denied) == (True, False)


@pytest.mark.parametrize("text", ["escalate", "roll_back"])
def test_what_happens_without_an_answer_is_for_the_side_that_decides(text: Any) -> None:
    """The world is asked first: trouble that is over is nobody's silence."""
    assert isinstance(asking(question(otherwise=text)).wait(minutes(15)).next(), steps.Rise)
