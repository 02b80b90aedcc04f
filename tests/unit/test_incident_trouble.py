"""What comes next when a person stops it, a crash cuts it off, or a step fails: at each place."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rollbackd import facts
from rollbackd.incident.life import Flight
from rollbackd.incident.next import (
    ADOPTIONS,
    ATTEMPTS,
    Close,
    Look,
    LookAtGate,
    Pause,
    Perform,
    Stop,
    Unpause,
    Wait,
)
from rollbackd.model import Outcome, Verdict
from tests.unit.builders import (
    STARTED,
    Story,
    at,
    entered,
    minutes,
    plain,
    seconds,
    start,
    stepped,
    whole,
)

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
WELL = Close(Outcome.RECOVERED, "3 good rounds in a row")


# -- a hold -------------------------------------------------------------------------------------------
PLACES: dict[str, Callable[[], Story]] = {
    "opened": Story,
    "planned": whole,
    "entering": lambda: whole().tell(facts.Entering("traffic")),
    "entered": entered,
    "applying": lambda: entered().tell(facts.ApplyStarted("config")),
    "half way": lambda: entered().did("apply", "config"),
    "a step failed": lambda: entered().failed("apply", "config"),
    "given up": lambda: entered().failed("apply", "config", permanent=True),
    "stepped": stepped,
    "gate bad": lambda: stepped().gated(BAD),
    "gated": lambda: stepped().gated(),
    "leaving": lambda: stepped().gated().tell(facts.Leaving("traffic")),
    "verifying": lambda: stepped().gated().did("leave", "traffic").round(),
    "verified": lambda: stepped().gated().did("leave", "traffic").verified(),
    "too late": lambda: stepped().gated().did("leave", "traffic").round(BAD).wait(minutes(11)),
    "superseded": lambda: entered().tell(facts.ApplyStarted("config"), facts.StepSuperseded("config")),
    "parked": lambda: entered().tell(facts.ApplyStarted("config"), facts.Parked("cut off")),
    "aborted": lambda: entered().tell(facts.AbortRequested()),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_hold_stops_it_at_every_place_and_it_goes_on_from_there(place: str) -> None:
    story = PLACES[place]()
    before = story.next()
    assert story.next(held="HOLD by unix:ann") == Pause("HOLD by unix:ann")
    story.tell(facts.Paused("HOLD by unix:ann"))
    assert story.next(held="HOLD by unix:ann") == Wait(None)
    assert story.next(held="another") == Wait(None)
    assert story.next() == Unpause()
    story.tell(facts.Unpaused())
    after = story.next()
    if place in {"verified", "too late", "verifying"}:
        assert after == Wait(story.now + seconds(15))  # what was seen before the hold says nothing now
    else:
        assert after == before


def test_the_deadline_begins_again_after_a_hold() -> None:
    story = plain().round(BAD, took=seconds(15)).tell(facts.Paused("HOLD")).wait(minutes(60)).tell(facts.Unpaused())
    assert story.next() == Wait(at(60) + seconds(30))
    assert story.wait(minutes(9)).round(BAD).wait(seconds(59)).next() == Look()


# -- an abort -----------------------------------------------------------------------------------------
IN_HAND = {"entering", "applying", "leaving"}


@pytest.mark.parametrize("place", sorted(set(PLACES) - IN_HAND - {"aborted"}))
def test_an_abort_leaves_the_brackets_and_ends_it_at_every_place(place: str) -> None:
    story = PLACES[place]().tell(facts.AbortRequested("wrong release"), actor="unix:ann")
    while story.incident.entered:
        layer = story.incident.entered[-1]
        assert story.next() == start("leave", layer)
        story.tell(facts.Leaving(layer))
        assert story.next() == Perform(Flight("leave", layer, 1, story.now))
        story.tell(facts.Left(layer))
    assert story.next() == Close(Outcome.ABORTED, "by unix:ann: wrong release")


@pytest.mark.parametrize("place", sorted(IN_HAND))
def test_what_is_in_hand_is_finished_before_an_abort(place: str) -> None:
    story = PLACES[place]()
    before = story.next()
    assert isinstance(before, Perform)
    assert story.tell(facts.AbortRequested()).next() == before


def test_an_abort_without_a_reason_says_who() -> None:
    assert Story().tell(facts.AbortRequested(), actor="unix:ann").next() == Close(Outcome.ABORTED, "by unix:ann")


def test_an_abort_waits_for_the_hold() -> None:
    story = entered().tell(facts.AbortRequested())
    assert story.next(held="HOLD") == Pause("HOLD")


def test_an_aborted_incident_starts_no_step_when_leaving_fails_and_ends_when_it_cannot() -> None:
    story = entered().tell(facts.AbortRequested(), actor="unix:ann").failed("leave", "traffic")
    assert story.next() == Wait(story.now + seconds(5))
    assert story.wait(seconds(5)).next() == start("leave", "traffic", 2)
    story.failed("leave", "traffic", 2, permanent=True)
    reason = "by unix:ann; traffic could not be left: leave traffic: it broke"
    assert story.next() == Close(Outcome.ABORTED, reason)


def test_a_step_that_failed_does_not_stand_in_the_way_of_an_abort() -> None:
    story = entered().failed("apply", "config", permanent=True).tell(facts.AbortRequested())
    assert story.next() == start("leave", "traffic")


# -- a crash ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("what", "layer"), [("enter", "traffic"), ("apply", "config"), ("leave", "traffic")])
def test_what_was_begun_is_performed_again_by_whoever_takes_it_over_until_it_may_be_a_poison(
    what: str, layer: str
) -> None:
    story = {"enter": whole, "apply": entered, "leave": lambda: stepped().gated()}[what]()
    story.tell(STARTED[what](layer))
    for adoptions in range(1, ADOPTIONS):
        assert story.tell(facts.Adopted("p")).next() == Perform(Flight(what, layer, 1, at(0), adoptions))
    story.tell(facts.Adopted("p"))
    assert story.next() == Perform(Flight(what, layer, 1, at(0), ADOPTIONS), last=True)
    assert story.tell(facts.Parked("it may kill whoever runs it")).next() == Wait(None)


def test_what_was_begun_on_another_host_is_only_asked_about_whoever_goes_on() -> None:
    story = entered().tell(facts.Adopted("p", "ops-1"), STARTED["apply"]("config"))
    assert story.tell(facts.Adopted("q", "ops-1")).next() == Perform(Flight("apply", "config", 1, at(0), 1))
    there = Flight("apply", "config", 1, at(0), 2, "ops-1")
    assert story.tell(facts.Adopted("r", "ops-2")).next() == Perform(there, last=True)
    assert story.tell(facts.Adopted("s", "ops-2")).next() == Perform(replace(there, adoptions=3), last=True)
    assert story.tell(facts.Applied("config")).next() == start("apply", "code")


def test_taking_it_over_between_two_effects_changes_nothing_but_the_clock() -> None:
    story = entered()
    before = story.next()
    for _ in range(ADOPTIONS + 2):
        assert story.tell(facts.Adopted("p")).next() == before


def test_after_a_late_restart_verification_has_time_for_as_many_rounds_as_must_pass() -> None:
    story = plain().round(BAD, took=seconds(15)).wait(minutes(60)).tell(facts.Adopted("p2"))
    assert story.next() == Look()
    assert story.round(BAD).next() == Wait(story.now + seconds(30))


@pytest.mark.parametrize("what", ["apply", "leave"])
def test_a_parked_incident_can_be_aborted(what: str) -> None:
    """Once: it neither spins nor tries again what killed its driver."""
    layer = {"apply": "config", "leave": "traffic"}[what]
    story = entered().tell(STARTED[what](layer)).tell(*(facts.Adopted("p") for _ in range(ADOPTIONS)))
    assert story.next() == Perform(Flight(what, layer, 1, at(0), ADOPTIONS), last=True)
    story.tell(facts.Parked("cut off 3 times")).tell(facts.AbortRequested(), actor="unix:ann")
    if what == "apply":
        assert story.next() == start("leave", "traffic")
        story.tell(facts.Leaving("traffic"))
        assert isinstance(story.next(), Perform)
        assert story.tell(facts.Left("traffic")).next() == Close(Outcome.ABORTED, "by unix:ann")
    else:
        reason = "by unix:ann; traffic could not be left: leave traffic: cut off 3 times"
        assert story.next() == Close(Outcome.ABORTED, reason)


def test_leaving_that_kills_its_driver_after_the_end_is_parked_once() -> None:
    story = stepped().closed(Outcome.FAILED).tell(facts.Acknowledged(leave=True), facts.Leaving("traffic"))
    story.tell(*(facts.Adopted("p") for _ in range(ADOPTIONS)))
    assert story.next() == Perform(Flight("leave", "traffic", 1, story.now, ADOPTIONS), last=True)
    assert story.tell(facts.Parked("cut off")).next() == Stop()
    assert story.tell(facts.Acknowledged(leave=True)).next() == start("leave", "traffic")


def test_a_layer_that_somebody_else_moved_ends_it_and_keeps_the_brackets() -> None:
    story = entered().tell(facts.ApplyStarted("config"), facts.StepSuperseded("config"))
    assert story.next() == Close(Outcome.SUPERSEDED, "somebody else changed config meanwhile")
    assert story.closed(Outcome.SUPERSEDED).next() == Stop()
    assert story.incident.entered == ("traffic",)


# -- a clock set back --------------------------------------------------------------------------------
def test_no_pause_lasts_longer_because_the_clock_was_set_back() -> None:
    for story, step in (
        (entered().failed("apply", "config"), start("apply", "config", 2)),
        (stepped().gated(BAD), LookAtGate()),
        (plain(), Look()),
        (plain().round(BAD), Look()),
    ):
        assert isinstance(story.next(), Wait)
        assert story.wait(-minutes(60)).next() == step


# -- failures -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("attempt", "pause"), [(1, 5), (2, 10), (3, 20), (4, 40)])
def test_a_step_that_failed_is_tried_again_after_a_growing_pause(attempt: int, pause: int) -> None:
    story = entered().failed("apply", "config", attempt)
    due = story.now + seconds(pause)
    assert story.next() == Wait(due)
    assert story.wait(seconds(pause) - seconds(0.001)).next() == Wait(due)
    assert story.wait(seconds(0.001)).next() == start("apply", "config", attempt + 1)


@pytest.mark.parametrize("what", ["enter", "apply", "leave"])
def test_what_cannot_help_or_did_not_help_five_times_fails_the_incident(what: str) -> None:
    layer = "config" if what == "apply" else "traffic"
    for attempt, permanent in ((1, True), (ATTEMPTS, False)):
        story = {"enter": whole, "apply": entered, "leave": lambda: stepped().gated()}[what]()
        story.failed(what, layer, attempt, permanent=permanent).wait(minutes(60))
        assert story.next() == Close(Outcome.FAILED, f"{what} {layer}: it broke")


def test_a_failure_keeps_what_is_entered() -> None:
    story = entered().failed("apply", "config", permanent=True).closed(Outcome.FAILED)
    assert (story.next(), story.incident.entered) == (Stop(), ("traffic",))


def test_the_failure_of_one_effect_does_not_count_for_another() -> None:
    story = entered().failed("apply", "config", 4).did("apply", "config", 5)
    assert story.next() == start("apply", "code", 1)
