"""What the end of an incident means for its service and for the fleet."""

from datetime import timedelta
from typing import Any, Literal

import pytest

from rollbackd import facts
from rollbackd.incident.ending import ending, relapse
from rollbackd.model import Outcome, Plan, Release, Request, State
from tests.unit.builders import PRESENT, TARGET, VERIFY, Story, change, minutes, state, trigger

STREAM, SERVICE, FLEET = "incident:checkout-1", "service:checkout", "fleet"


def recovered() -> Story:
    """Code and configuration went from release 2 to release 1."""
    return Story().planned("config", "code").did("apply", "config").did("apply", "code").verified()


def degraded() -> Story:
    """Search was switched off by a plan after which its rule is not asked."""
    story = Story(plans=("degrade", "default"), present=state("v2", flags="f1"), target=state("v1", flags="f1"))
    preset = Plan("degrade", (change("flags", "f1", "no-search"),), unasked=("search",))
    return story.tell(facts.Planned(preset, story.incident.present)).did("apply", "flags").verified()


def ended(story: Story, outcome: Outcome = Outcome.RECOVERED) -> list[tuple[str, Any]]:
    return ending(story.incident, outcome, "so", VERIFY, story.now)


def test_a_recovered_incident_leaves_its_state_good_and_what_it_left_in_quarantine() -> None:
    story = recovered()
    assert ended(story) == [
        (STREAM, facts.Closed(Outcome.RECOVERED, "so")),
        (
            FLEET,
            facts.Ended(
                "checkout",
                "checkout-1",
                Outcome.RECOVERED,
                acted=True,
                watch_until=story.now + minutes(15),
                stepped=story.incident.stepped,
            ),
        ),
        (SERVICE, facts.Changed(TARGET, story.now, story.now, "checkout-1")),
        (SERVICE, facts.MarkedGood(TARGET, "verified after checkout-1")),
        (SERVICE, facts.Quarantined({"config": "c2", "code": "v2"}, "left behind by checkout-1")),
    ]


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.RECOVERED])
def test_any_other_end_says_where_the_service_is_and_marks_nothing(outcome: Outcome) -> None:
    story = Story().planned("config", "code").did("apply", "config").failed("apply", "code")
    broke_off = outcome in {Outcome.FAILED, Outcome.ABORTED}
    left, toward = (("code",), TARGET.key) if broke_off else ((), "")
    assert ended(story, outcome) == [
        (STREAM, facts.Closed(outcome, "so")),
        (FLEET, facts.Ended("checkout", "checkout-1", outcome, acted=True, unfinished=left, toward=toward)),
        (SERVICE, facts.Changed(state("v2", config="c1"), story.now, story.now, "checkout-1")),
    ]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_incident_that_moved_nothing_changes_nothing(outcome: Outcome) -> None:
    untouched = Story()
    assert [type(fact) for _, fact in ended(untouched, outcome)] == [facts.Closed, facts.Ended]
    (_, over) = ended(untouched, outcome)[1]
    assert isinstance(over, facts.Ended)
    assert not over.acted


def test_of_a_layer_whose_parts_differed_all_that_was_left_is_in_quarantine() -> None:
    mixture = Release("mixed-1", parts=(("web1", "v1"), ("web2", "v2"), ("web3", "v3"), ("web4", "v3")))
    present = State({"config": Release("c2"), "code": mixture})
    story = Story(present=present).planned("config", "code").did("apply", "config").did("apply", "code").verified()
    assert [fact for _, fact in ended(story)[2:]] == [
        facts.Changed(TARGET, story.now, story.now, "checkout-1"),
        facts.MarkedGood(TARGET, "verified after checkout-1"),
        facts.Quarantined({"config": "c2", "code": "v2"}, "left behind by checkout-1"),
        facts.Quarantined({"code": "v3"}, "left behind by checkout-1"),
    ]
    failed = Story(present=present).planned("config", "code").did("apply", "config").failed("apply", "code")
    assert len(ended(failed, Outcome.FAILED)) == 2, "what runs then is no state"


def test_a_bracket_alone_is_an_act_and_no_move() -> None:
    story = Story().planned("code", traffic="gate").did("enter", "traffic")
    closed, over = ended(story, Outcome.ABORTED)
    assert closed[1] == facts.Closed(Outcome.ABORTED, "so")
    assert over[1] == facts.Ended("checkout", "checkout-1", Outcome.ABORTED, acted=True)


_WAYS: tuple[Literal["there", "back"], ...] = ("there", "back")


def test_where_it_broke_off_is_left_to_be_done() -> None:
    def left(story: Story, outcome: Outcome = Outcome.FAILED) -> tuple[tuple[str, ...], str]:
        over = ended(story, outcome)[1][1]
        assert isinstance(over, facts.Ended)
        return over.unfinished, over.toward

    begun = Story().planned("config", "code", "process").did("apply", "config")
    assert left(begun.failed("apply", "code")) == (("code", "process"), TARGET.key)
    assert left(begun, Outcome.ABORTED) == (("code", "process"), TARGET.key)
    assert left(begun, Outcome.SUPERSEDED) == ((), "")
    assert left(Story().planned("code").failed("apply", "code")) == (("code",), TARGET.key)
    there, back = (Request("checkout", "unix:ann", drill=drill) for drill in _WAYS)
    for request, layers in ((there, ()), (back, ("code",))):
        story = Story(by=trigger("drill", request=request)).planned("code").failed("apply", "code")
        assert left(story)[0] == layers


def test_a_restart_alone_moves_no_release() -> None:
    story = Story().planned("process").did("apply", "process").verified()
    assert [type(fact) for _, fact in ended(story)] == [facts.Closed, facts.Ended]


def test_a_persons_own_rollback_is_one_to_the_fleet() -> None:
    by = trigger("manual", request=Request("checkout", "unix:ann"))
    (_, over) = ended(Story(by=by).planned("code").did("apply", "code"))[1]
    assert isinstance(over, facts.Ended)
    assert over.manual


def test_a_state_on_the_way_is_not_the_target_and_not_good() -> None:
    """Only the configuration went back, which sufficed: the state is new and has not baked."""
    story = Story().planned("config").did("apply", "config").verified()
    facts_of_it = [fact for _, fact in ended(story)]
    assert facts_of_it[2:] == [
        facts.Changed(state("v2", config="c1"), story.now, story.now, "checkout-1"),
        facts.Quarantined({"config": "c2"}, "left behind by checkout-1"),
    ]


def test_a_preset_that_a_plan_fixed_is_neither_good_nor_leaves_anything_in_quarantine() -> None:
    story = Story(present=state("v2", flags="f1"), target=state("v1", flags="f1"))
    preset = Plan("degrade", (change("flags", "f1", "no-search"),))
    story.tell(facts.Planned(preset, story.incident.present)).did("apply", "flags").verified()
    assert [fact for _, fact in ended(story)[2:]] == [
        facts.Changed(state("v2", flags="no-search"), story.now, story.now, "checkout-1", fixed=("flags",))
    ]


@pytest.mark.parametrize("outcome", [Outcome.RECOVERED, Outcome.INEFFECTIVE])
def test_a_state_in_which_something_is_switched_off_says_which_rules_ask_that(outcome: Outcome) -> None:
    story = degraded()
    changed = facts.Changed(state("v2", flags="no-search"), story.now, story.now, "checkout-1", ("flags",), ("search",))
    assert [fact for _, fact in ended(story, outcome)[2:]] == [changed]


def test_a_plan_that_failed_before_it_switched_anything_off_leaves_every_rule_asked() -> None:
    story = Story(present=state("v2", flags="f1", config="c2"), target=state("v1", flags="f1", config="c1"))
    preset = Plan("degrade", (change("config"), change("flags", "f1", "no-search")), unasked=("search",))
    story.tell(facts.Planned(preset, story.incident.present)).did("apply", "config").failed("apply", "flags")
    changed = facts.Changed(state("v2", flags="f1", config="c1"), story.now, story.now, "checkout-1")
    assert [fact for _, fact in ended(story, Outcome.FAILED)[2:]] == [changed]


def test_a_release_that_a_later_plan_took_back_is_not_left_behind() -> None:
    """Flags went to a preset, which did not help, and back with the whole: the target's own flags are not to blame."""
    story = Story(plans=("degrade", "default"), present=state("v2", flags="f1"), target=state("v1", flags="f1"))
    preset = Plan("degrade", (change("flags", "f1", "no-search"),))
    story.tell(facts.Planned(preset, story.incident.present)).did("apply", "flags")
    story.tell(facts.PlanEnded("degrade", Outcome.INEFFECTIVE))
    whole = Plan("default", (change("flags", "no-search", "f1"), change("code")))
    story.tell(facts.Planned(whole, story.incident.present)).did("apply", "flags").did("apply", "code").verified()
    assert [fact for _, fact in ended(story)[2:]] == [
        facts.Changed(state("v1", flags="f1"), story.now, story.now, "checkout-1"),
        facts.MarkedGood(state("v1", flags="f1"), "verified after checkout-1"),
        facts.Quarantined({"code": "v2"}, "left behind by checkout-1"),
    ]


@pytest.mark.parametrize("target", [None, state("v1")])
def test_layers_that_the_target_does_not_know_are_not_left_behind(target: State | None) -> None:
    story = Story(target=target).planned("config").did("apply", "config").verified()
    assert [fact for _, fact in ended(story)[2:]] == [
        facts.Changed(state("v2", config="c1"), story.now, story.now, "checkout-1", fixed=("config",))
    ]


def test_the_watch_is_as_long_as_the_plan_says() -> None:
    story = recovered()
    (_, over) = ending(
        story.incident, Outcome.RECOVERED, "so", VERIFY.model_copy(update={"watch": timedelta()}), story.now
    )[1]
    assert isinstance(over, facts.Ended)
    assert over.watch_until == story.now


def test_trouble_again_makes_it_ineffective_and_takes_the_mark() -> None:
    story = recovered().closed()
    again = trigger("latency")
    assert relapse(story.incident, again, story.now) == [
        (STREAM, facts.Relapsed(again)),
        (FLEET, facts.Ended("checkout", "checkout-1", Outcome.INEFFECTIVE, True, story.now, manual=False)),
        (SERVICE, facts.MarkTaken(TARGET, "in trouble again: latency")),
    ]


def test_nothing_of_the_present_state_is_in_quarantine_after_any_of_it() -> None:
    for story in (recovered(), Story().planned("config").did("apply", "config").verified()):
        blocked = {
            pair for _, fact in ended(story) if isinstance(fact, facts.Quarantined) for pair in fact.releases.items()
        }
        assert not blocked & {(layer, release.id) for layer, release in story.incident.present.releases.items()}
        assert story.incident.decision.present == PRESENT
