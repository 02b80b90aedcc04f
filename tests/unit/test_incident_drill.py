"""An executed drill: what comes next in it, and that it leaves no trace in what decides on real trouble."""

from dataclasses import replace

import pytest

from rollbackd import facts
from rollbackd.incident.clocks import due
from rollbackd.incident.drill import (
    INTERRUPTED,
    NOT_READY,
    READY,
    Cut,
    DrillWait,
    End,
    Leave,
    Return,
    broken_off,
    next_of_drill,
)
from rollbackd.incident.ending import ending
from rollbackd.incident.life import Incident
from rollbackd.model import DAEMON, Action, Change, Outcome, Priority, Request, State
from rollbackd.policy.decide import decide
from rollbackd.policy.guards import cooldown, open_incident
from rollbackd.policy.ledger import Rollback, fold_fleet
from tests.unit.builders import (
    PRESENT,
    SERVICE,
    TARGET,
    VERIFY,
    Story,
    at,
    change,
    fleet_of,
    minutes,
    plan,
    service_of,
    situation,
    state,
    trigger,
)
from tests.unit.test_incident_clocks import PEOPLE

ANN = "unix:ann"


def way(drill: str, **more: str) -> Story:
    """One of its two incidents, from release 2 to release 1 there, and back."""
    there = drill == "there"
    by = trigger("drill", priority=Priority.P3, request=Request(SERVICE, ANN, drill="there" if there else "back"))
    story = Story(by=by, present=PRESENT if there else TARGET, target=TARGET if there else PRESENT)
    if there:
        return story.planned("config", "code", **more)
    return story.tell(facts.Planned(replace(plan(), steps=_home()), story.incident.present))


def _home() -> tuple[Change, ...]:
    return tuple(change(layer, f"{letter}1", f"{letter}2") for layer, letter in (("config", "c"), ("code", "v")))


def stepped(drill: str, **more: str) -> Story:
    return way(drill, **more).did("apply", "config").did("apply", "code")


def recovered(drill: str, **more: str) -> Story:
    return stepped(drill, **more).verified().closed()


def step(there: Story, back: Story | None = None, present: State | None = TARGET, *, trouble: bool = False) -> object:
    return next_of_drill(there.incident, back.incident if back is not None else None, present, trouble=trouble)


# -- there and back -------------------------------------------------------------------------------
def test_it_goes_there_then_back_and_is_over_when_both_are_verified() -> None:
    assert step(way("there")) == DrillWait()
    assert step(stepped("there")) == DrillWait()
    assert step(recovered("there")) == Return()
    assert step(recovered("there"), way("back")) == DrillWait()
    assert step(recovered("there"), recovered("back")) == End(READY)


def test_while_the_layers_cannot_be_told_it_waits() -> None:
    assert step(recovered("there"), present=None) == DrillWait()


def test_what_touched_nothing_need_not_return() -> None:
    assert step(way("there").closed(Outcome.SUPERSEDED)) == End(
        INTERRUPTED, ("checkout-1 ended superseded: it is over",)
    )
    failed = End(NOT_READY, ("checkout-1 ended failed: it is over",))
    assert step(way("there").closed(Outcome.FAILED)) == failed


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.INEFFECTIVE, Outcome.UNVERIFIED])
def test_a_way_there_that_did_not_work_returns_all_the_same_and_says_what_a_rollback_would_do(outcome: Outcome) -> None:
    there = stepped("there").closed(outcome)
    assert step(there) == Return()
    assert step(there, recovered("back")) == End(NOT_READY, (f"checkout-1 ended {outcome}: it is over",))


def test_a_step_that_failed_before_anything_moved_needs_no_return() -> None:
    there = way("there").failed("apply", "config").closed(Outcome.FAILED)
    assert step(there, present=PRESENT) == End(NOT_READY, ("checkout-1 ended failed: it is over",))


def test_what_a_failed_step_left_behind_is_the_drills_and_is_taken_back() -> None:
    there = way("there").did("apply", "config").failed("apply", "code").closed(Outcome.FAILED)
    assert step(there, present=state(code="half", config="c1")) == Return()


def test_an_aborted_one_returns_and_says_nothing_of_readiness() -> None:
    there = way("there").did("apply", "config").tell(facts.AbortRequested("enough"), actor=ANN).closed(Outcome.ABORTED)
    assert step(there, present=state(code="v2", config="c1")) == Return()
    assert step(there, recovered("back")) == End(INTERRUPTED, ("checkout-1 ended aborted: it is over",))


# -- what is somebody else's ----------------------------------------------------------------------
def test_what_somebody_else_deployed_meanwhile_is_never_taken_back() -> None:
    assert step(recovered("there"), present=state(code="v3", config="c1")) == End(
        INTERRUPTED,
        ("somebody else changed code meanwhile; the drill had moved code, config, and that stays",),
    )


def test_somebody_elses_change_in_the_middle_ends_it_there() -> None:
    there = way("there").did("apply", "config").tell(facts.ApplyStarted("code"), facts.StepSuperseded("code"))
    there.closed(Outcome.SUPERSEDED)
    assert step(there) == End(INTERRUPTED, ("it is over; the drill had moved config, and that stays",))


def test_an_old_incident_without_a_present_state_is_only_compared_with_where_it_went() -> None:
    there = recovered("there")
    there.incident = replace(there.incident, decision=replace(there.incident.decision, present=None))
    assert step(there) == Return()
    assert step(there, present=PRESENT) == End(
        INTERRUPTED,
        ("somebody else changed code, config meanwhile; the drill had moved code, config, and that stays",),
    )


# -- a return that does not work ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("outcome", "result"),
    [(Outcome.FAILED, NOT_READY), (Outcome.INEFFECTIVE, NOT_READY), (Outcome.ABORTED, INTERRUPTED)],
)
def test_a_return_that_did_not_come_back_is_said_with_what_runs_now(outcome: Outcome, result: str) -> None:
    back = way("back").did("apply", "config")
    if outcome is Outcome.ABORTED:
        back.tell(facts.AbortRequested(), actor=ANN)
    back.closed(outcome)
    text = f"it did not return: checkout-1 ended {outcome} (it is over); now code v1, config c2 runs"
    assert step(recovered("there"), back) == End(result, (text,))


# -- brackets -------------------------------------------------------------------------------------
def test_what_the_way_there_left_entered_is_left_once_the_service_is_back() -> None:
    there = way("there", traffic="gate").did("enter", "traffic").failed("apply", "config").closed(Outcome.FAILED)
    assert step(there, present=PRESENT) == Leave()
    there.tell(facts.Acknowledged(leave=True))
    assert step(there, present=PRESENT) == DrillWait()
    there.failed("leave", "traffic", 1)
    assert step(there, present=PRESENT) == DrillWait()
    there.failed("leave", "traffic", 2, permanent=True)
    assert step(there, present=PRESENT) == End(
        NOT_READY,
        (
            "checkout-1 ended failed: it is over",
            "traffic could not be left; `rollbackd ack checkout-1 --leave` tries again",
        ),
    )


def test_a_return_that_failed_keeps_what_is_entered() -> None:
    there = way("there", traffic="gate").did("enter", "traffic").did("apply", "config").closed(Outcome.FAILED)
    assert isinstance(step(there, stepped("back").closed(Outcome.FAILED)), End)


# -- real trouble ---------------------------------------------------------------------------------
def test_a_return_in_real_trouble_is_cut_short_once_it_is_back() -> None:
    there = recovered("there")
    assert step(there, way("back"), trouble=True) == DrillWait()
    assert step(there, way("back").tell(facts.ApplyStarted("config")), trouble=True) == DrillWait()
    back = stepped("back")
    assert step(there, back) == DrillWait()
    assert step(there, back, trouble=True) == Cut()
    back.tell(facts.AbortRequested("in real trouble"), actor=DAEMON)
    assert step(there, back, trouble=True) == DrillWait()
    assert step(there, back.closed(Outcome.ABORTED), trouble=True) == End(READY)


def test_it_breaks_off_the_way_there_and_nothing_else() -> None:
    stop = [("incident:checkout-1", facts.AbortRequested("errors came during the drill"))]
    assert broken_off(Rollback("checkout-1", at(0), drill="there"), trigger()) == stop
    for other in (None, Rollback("checkout-1", at(0)), Rollback("checkout-1", at(0), drill="back")):
        assert broken_off(other, trigger()) == []


# -- no trace -------------------------------------------------------------------------------------
@pytest.mark.parametrize("drill", ["there", "back"])
def test_its_end_marks_quarantines_and_moves_nothing(drill: str) -> None:
    story = recovered(drill)
    assert [type(fact) for _, fact in _ended(story.incident, Outcome.RECOVERED)] == [facts.Closed, facts.Ended]
    ended = _ended(story.incident, Outcome.RECOVERED)[1][1]
    assert isinstance(ended, facts.Ended)
    assert (ended.manual, ended.watch_until) == (True, None)


def _ended(incident: Incident, outcome: Outcome) -> list[tuple[str, object]]:
    return ending(incident, outcome, "so", VERIFY, at(20))


def _drilled(*told: tuple[object, ...]) -> list[tuple[object, ...]]:
    """v2 replaced v1, and a drill begins."""
    return [
        (at(-60), facts.Changed(state("v1"), at(-60), at(-60))),
        (at(-50), facts.MarkedGood(state("v1"), "ran 30m without a trigger")),
        (at(-10), facts.Changed(state("v2"), at(-10.5), at(-10))),
        (at(-5), facts.Opening(SERVICE, "checkout-1", manual=True, drill="there")),
        *told,
    ]


def test_it_is_under_way_until_its_result_is_written() -> None:
    begun = service_of(*_drilled())  # type: ignore[arg-type]
    assert (begun.drill, begun.ready) == ("checkout-1", None)
    between = service_of(*_drilled((at(-3), facts.Ended(SERVICE, "checkout-1", Outcome.RECOVERED, acted=True))))  # type: ignore[arg-type]
    assert between.open is None
    assert between.acting == between.rollbacks[-1]
    assert (between.present, between.drill) == (state("v2"), "checkout-1")
    asked = service_of(*_drilled((at(-4), facts.Drilled(("default",), NOT_READY))))  # type: ignore[arg-type]
    assert (asked.drill, asked.ready) == ("checkout-1", False)
    over = service_of(
        *_drilled((at(-3), facts.Drilled(("default",), READY, incident="checkout-1")))  # type: ignore[arg-type]
    )
    assert (over.drill, over.ready) == ("", True)


def test_one_that_was_interrupted_leaves_readiness_as_it_was() -> None:
    lost = [(at(-9), facts.Drilled(("default",), NOT_READY)), (at(-8), facts.Drilled(("default",), INTERRUPTED))]
    assert service_of(*lost).ready is False


def test_it_spends_no_budget_and_starts_no_cooldown() -> None:
    told = [(at(-5), facts.Opening(SERVICE, "checkout-1", manual=True, drill="there")),
            (at(-3), facts.Ended(SERVICE, "checkout-1", Outcome.FAILED, acted=True, manual=True))]  # fmt: skip
    assert all(manual for _, _, manual in fleet_of(*told).openings)
    assert fleet_of(*told).ends == ()
    assert fold_fleet(fleet_of(), ()).ends == ()
    ledger = service_of(*_drilled(told[1]))  # type: ignore[arg-type]
    assert cooldown(trigger(), situation(ledger=ledger)).against is None


def test_between_there_and_back_real_trouble_waits_and_the_return_does_not() -> None:
    ended = (at(-3), facts.Ended(SERVICE, "checkout-1", Outcome.RECOVERED, acted=True, manual=True))
    given = situation(ledger=service_of(*_drilled(ended)))  # type: ignore[arg-type]
    found = open_incident(trigger(), given)
    assert found.against is Action.OBSERVE
    assert found.reason == "checkout-1, a drill, has not returned yet; decided again when it has"
    back = trigger("drill", request=Request(SERVICE, ANN, drill="back"))
    assert open_incident(back, given).against is None


def test_nobody_is_asked_whether_a_drill_may_do_what_cannot_be_taken_back() -> None:
    final = replace(change("code", "v2", "v1"), reversible=False)
    drill = trigger("drill", request=Request(SERVICE, ANN, drill="there"))
    assert decide(drill, situation(changes=(final,))).action is Action.REFUSE
    person = trigger("manual", request=Request(SERVICE, ANN))
    assert decide(person, situation(changes=(final,))).action is Action.ASK


# -- clocks ---------------------------------------------------------------------------------------
def test_nobody_is_called_for_a_drill_but_when_it_cannot_come_back() -> None:
    hours = at(60 * 30)
    earlier = Rollback("checkout-0", at(-20), ended=at(-10), acted=True)
    assert due(way("there").incident, PEOPLE, earlier, hours) == ()
    there = stepped("there").closed(Outcome.FAILED)
    assert due(there.incident, PEOPLE, None, at(1)) == ()
    back = stepped("back").closed(Outcome.FAILED)
    assert [type(fact) for fact in due(back.incident, PEOPLE, None, at(1))] == [facts.Escalated, facts.Escalated]
    seen = back.tell(facts.Acknowledged(), actor=ANN)
    assert due(seen.incident, PEOPLE, None, at(1) + minutes(200)) == ()
