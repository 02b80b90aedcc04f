"""Every guard: what passes it, what stands against, where exactly the line is."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from rollbackd.facts import Changed
from rollbackd.model import Action, Priority, Release, Request, State, Verdict
from rollbackd.policy import guards
from rollbackd.policy.ledger import MendingTime, Rollback, ServiceLedger
from rollbackd.policy.spec import PolicyRow
from tests.fakes.clock import START
from tests.unit.builders import (
    ASKS,
    ESCALATES,
    OBSERVES,
    PASSED,
    against,
    at,
    candidate,
    changed,
    good,
    minutes,
    seconds,
    service_of,
    situation,
    state,
    trigger,
)


# -- a person, and what runs already ----------------------------------------------------------------
def test_what_nobody_holds_passes() -> None:
    assert guards.hold(trigger(), situation()) == guards.passed("hold", "nothing holds it")


def test_a_hold_refuses_with_every_reason_there_is() -> None:
    finding = guards.hold(trigger(), situation(holds=("HOLD by unix:ann", "silenced by bob")))
    assert finding == guards.against("hold", Action.REFUSE, "HOLD by unix:ann; silenced by bob")


def test_a_person_may_go_over_a_hold_and_it_is_said() -> None:
    finding = guards.hold(trigger(), situation(holds=("HOLD by unix:ann",), over_hold=True))
    assert finding == guards.passed("hold", "over the hold by request: HOLD by unix:ann")


MENDED = ServiceLedger(mending=MendingTime("unix:ann", minutes(8), at(2), at(10)))


def test_mending_that_is_over_is_in_the_record_of_what_it_held_up() -> None:
    said = guards.hold(trigger(onset=at(0)), situation(ledger=MENDED, now=at(11))).reason
    assert said == "nothing holds it; unix:ann mended it, and estimated 8m"
    later = guards.hold(trigger(onset=at(30)), situation(ledger=MENDED, now=at(31)))
    assert later == guards.passed("hold", "nothing holds it")


def test_the_time_of_mending_makes_no_trouble_stale() -> None:
    known = trigger(onset=at(0))
    finding = guards.stale(known, situation(ledger=MENDED, now=at(23)))
    assert finding == guards.passed("stale", "the trouble began 23m ago, 8m of it mending")
    late = guards.stale(known, situation(ledger=MENDED, now=at(23) + seconds(1)))
    assert late.reason == "the trouble began 23m1s ago, 8m of it mending, longer than 15m"
    before = guards.stale(trigger(onset=at(30)), situation(ledger=MENDED, now=at(46)))
    assert before.reason == "the trouble began 16m ago, longer than 15m"


def test_an_open_incident_is_joined() -> None:
    running = ServiceLedger(rollbacks=(Rollback("checkout-1", START),))
    finding = guards.open_incident(trigger(), situation(ledger=running))
    assert finding == guards.against("open_incident", Action.OBSERVE, "joined checkout-1, which is open")


def test_an_incident_that_only_asks_is_decided_again() -> None:
    waiting = ServiceLedger(rollbacks=(Rollback("checkout-1", START, waits=True),))
    finding = guards.open_incident(trigger(), situation(ledger=waiting))
    assert finding == guards.passed("open_incident", "checkout-1 waits for people; decided again")


def test_a_closed_incident_is_not_in_the_way() -> None:
    over = ServiceLedger(rollbacks=(Rollback("checkout-1", START, ended=at(1)),))
    assert against(guards.open_incident(trigger(), situation(ledger=over))) == PASSED


def test_in_shadow_mode_nothing_is_touched() -> None:
    assert against(guards.shadow(trigger(), situation(mode="act"))) == PASSED
    assert against(guards.shadow(trigger(), situation(mode="shadow"))) == OBSERVES


# -- time -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("jumped", "found"),
    [
        (None, PASSED),
        (START, PASSED),
        (START + seconds(1), ASKS),
        (at(14), ASKS),
        (at(15) + seconds(1), ASKS),
        (at(30), PASSED),
    ],
)
def test_right_after_a_jump_of_our_clock_no_age_is_trusted(
    jumped: datetime | None, found: tuple[Action | None, bool]
) -> None:
    """A jump back makes the moment of the jump lie in the future."""
    assert against(guards.clock(trigger(onset=at(14)), situation(now=at(15), jumped=jumped))) == found
    apart = guards.clock(trigger(onset=at(14)), situation(now=at(15), astray="our clock is 3.0s behind the database's"))
    assert (apart.against, apart.reason) == (Action.ASK, "our clock is 3.0s behind the database's")


@pytest.mark.parametrize(("ahead", "found"), [(60, PASSED), (61, ASKS)])
def test_an_onset_in_the_future_is_somebodys_wrong_clock(ahead: int, found: tuple[Action | None, bool]) -> None:
    assert against(guards.clock(trigger(onset=at(2) + seconds(ahead)), situation(now=at(2)))) == found


@pytest.mark.parametrize(("age", "found"), [(0, PASSED), (15 * 60, PASSED), (15 * 60 + 1, ASKS)])
def test_old_trouble_asks(age: int, found: tuple[Action | None, bool]) -> None:
    assert against(guards.stale(trigger(), situation(now=START + seconds(age)))) == found


def test_how_stale_trouble_is_counts_from_when_enough_was_seen_of_it() -> None:
    known = trigger(met=at(20))
    assert against(guards.stale(known, situation(now=at(35)))) == PASSED
    late = guards.stale(known, situation(now=at(35) + seconds(1)))
    assert late.reason == "the trouble began 35m1s ago, and was known 15m1s ago, longer than 15m"
    assert against(late) == ASKS


def test_what_passed_while_nobody_watched_asks() -> None:
    finding = guards.stale(trigger(missed="nobody confirmed it, and rollbackd was down then"), situation())
    assert finding == guards.against("stale", Action.ASK, "nobody confirmed it, and rollbackd was down then")


# -- the change ---------------------------------------------------------------------------------------
def test_a_change_shortly_before_the_trouble_is_likely_its_cause() -> None:
    finding = guards.change(trigger(), situation())
    seen = "changed: code v1 -> v2, 10m before the onset; what was before it is not known: not asked"
    assert finding == guards.passed("change", seen)


@pytest.mark.parametrize(
    ("onset", "found"),
    [
        (-10.51, ASKS),  # before the last look at the old state
        (-10.5, PASSED),
        (-10.2, PASSED),  # between the two looks
        (-10, PASSED),
        (110, PASSED),
        (110.01, ASKS),  # two hours after the first look at the new state
    ],
)
def test_the_change_must_have_come_within_the_window_before_the_onset(
    onset: float, found: tuple[Action | None, bool]
) -> None:
    assert against(guards.change(trigger(onset=at(onset)), situation())) == found


@pytest.mark.parametrize(
    ("onset", "words"),
    [
        (-10.5, "changed: code v1 -> v2, right at the onset"),
        (-10.2, "changed: code v1 -> v2, right at the onset"),
        (-10, "changed: code v1 -> v2, 0s before the onset"),
        (-20.5, "the last change was code v1 -> v2, 10m after the onset, not within 2h before"),
        (130, "the last change was code v1 -> v2, 2h20m before the onset, not within 2h before"),
    ],
)
def test_it_is_said_when_the_change_was(onset: float, words: str) -> None:
    assert words in guards.change(trigger(onset=at(onset)), situation()).reason


@pytest.mark.parametrize(
    ("verdict", "found", "words"),
    [
        (Verdict.BAD, ASKS, "already bad before the change: 34%, above 10%; the change was code v1 -> v2, 10m before"),
        (Verdict.GOOD, PASSED, "; well before it: 34%, above 10%"),
        (Verdict.INCONCLUSIVE, PASSED, "; what was before it is not known: 34%, above 10%"),
    ],
)
def test_trouble_that_was_there_before_the_change_is_not_its_fault(
    verdict: Verdict, found: tuple[Action | None, bool], words: str
) -> None:
    finding = guards.change(trigger(), situation(earlier=(verdict, "34%, above 10%")))
    assert against(finding) == found
    assert words in finding.reason


@pytest.mark.parametrize(
    ("wanted", "found"),
    [(Action.ROLL_BACK, PASSED), (Action.ASK, ASKS), (Action.OBSERVE, OBSERVES)],
)
def test_without_a_change_the_rule_says_what_to_do(wanted: Action, found: tuple[Action | None, bool]) -> None:
    only = service_of(changed("v1", -600, -600))
    finding = guards.change(trigger(without_change=wanted), situation(ledger=only))
    assert against(finding) == found
    assert "no change is known" in finding.reason


def test_what_our_own_rollback_changed_is_no_change() -> None:
    back = service_of(changed("v1", -600, -600), changed("v2", -90, -90), changed("v1", -5, -5, "checkout-1"))
    assert against(guards.change(trigger(), situation(ledger=back))) == ASKS


# -- the state ----------------------------------------------------------------------------------------
def test_the_state_that_the_trouble_began_in_may_go_back() -> None:
    assert against(guards.same_state(trigger(), situation())) == PASSED


def test_in_transition_it_asks() -> None:
    finding = guards.same_state(trigger(), situation(present=None))
    assert against(finding) == ASKS
    assert "in transition" in finding.reason


def test_from_parts_that_differ_only_a_person_goes_back() -> None:
    mixed = State({"code": Release("mixed-1", "web1 v2, web2 v1", parts=(("web1", "v2"), ("web2", "v1")))})
    finding = guards.same_state(trigger(), situation(present=mixed))
    assert against(finding) == (Action.REFUSE, False)
    assert finding.reason == "the parts of code differ: only a person's own order brings them together"


def test_a_state_that_nobody_wrote_down_was_not_there_at_the_onset() -> None:
    assert against(guards.same_state(trigger(), situation(present=state("v3")))) == ASKS
    assert against(guards.same_state(trigger(), situation(ledger=ServiceLedger(), present=state("v3")))) == ASKS


def test_a_fix_that_somebody_deployed_twenty_seconds_ago_is_not_rolled_back() -> None:
    mended = service_of(changed("v1", -600, -600), good("v1", -500), changed("v2", -10.5, -10), changed("v3", 1.5, 1.7))
    finding = guards.same_state(trigger(), situation(ledger=mended, now=at(2)))
    assert finding == guards.against("same_state", Action.ASK, "changed 1m30s after the onset: a fix?")


@pytest.mark.parametrize(("before_was_good", "found"), [(True, PASSED), (False, ASKS)])
def test_a_change_right_at_the_onset_is_the_cause_only_if_the_state_before_was_good(
    before_was_good: bool, found: tuple[Action | None, bool]
) -> None:
    told = [changed("v1", -600, -600), changed("v2", -0.5, 0.5)]
    ledger = service_of(*told, good("v1", 1)) if before_was_good else service_of(*told)
    assert against(guards.same_state(trigger(), situation(ledger=ledger))) == found


@pytest.mark.parametrize(("before_the_onset", "found"), [(4.5, PASSED), (4.51, ASKS)])
def test_a_change_that_nobody_looked_at_closely_may_be_the_fix(
    before_the_onset: float, found: tuple[Action | None, bool]
) -> None:
    """The first look at the new state is half a minute after the onset; two looks are at most five minutes apart."""
    ledger = service_of(changed("v1", -600, -600), good("v1", -500), changed("v2", -before_the_onset, 0.5))
    assert against(guards.same_state(trigger(), situation(ledger=ledger))) == found


@pytest.mark.parametrize(("after", "found"), [(0, PASSED), (0.01, ASKS)])
def test_a_state_whose_predecessor_was_seen_after_the_onset_is_not_the_one_it_began_in(
    after: float, found: tuple[Action | None, bool]
) -> None:
    ledger = service_of(changed("v1", -600, -600), good("v1", -500), changed("v2", after, 1))
    assert against(guards.same_state(trigger(), situation(ledger=ledger))) == found


@pytest.mark.parametrize(("by", "found"), [(0, PASSED), (0.01, ASKS)])
def test_a_state_seen_exactly_at_the_onset_is_the_one_it_began_in(by: float, found: tuple[Action | None, bool]) -> None:
    ledger = service_of(changed("v1", -600, -600), changed("v2", -1, by))
    assert against(guards.same_state(trigger(), situation(ledger=ledger))) == found


def test_the_first_state_ever_may_have_been_there_at_the_onset_or_not() -> None:
    seen_before, seen_after = service_of(changed("v1", -1, -1)), service_of(changed("v1", 1, 1))
    assert against(guards.same_state(trigger(), situation(ledger=seen_before))) == PASSED
    assert against(guards.same_state(trigger(), situation(ledger=seen_after))) == ASKS
    started_meanwhile = service_of(changed("v1", -1, 1))
    assert against(guards.same_state(trigger(), situation(ledger=started_meanwhile))) == PASSED


def test_a_second_change_that_mends_nothing_for_as_long_as_the_rule_looks_back_is_no_fix() -> None:
    told = [changed("v1", -600, -600), good("v1", -500), changed("v2", -10.5, -10), changed("v3", 1.5, 1.7)]
    for now, found in ((6.7, ASKS), (6.8, PASSED)):
        given = situation(ledger=service_of(*told), now=at(now), behind=minutes(5))
        assert against(guards.same_state(trigger(), given)) == found


@pytest.mark.parametrize(
    ("recent", "found"),
    [((Verdict.GOOD, "1 %"), OBSERVES), ((Verdict.BAD, "20 %"), PASSED), ((Verdict.INCONCLUSIVE, ""), PASSED), (None, PASSED)],
)  # fmt: skip
def test_what_is_over_by_now_is_only_noted(
    recent: tuple[Verdict, str] | None, found: tuple[Action | None, bool]
) -> None:
    assert against(guards.over(trigger(), situation(recent=recent))) == found
    assert against(guards.over(trigger(request=Request("checkout", "unix:ann")), situation(recent=recent))) == PASSED


# -- the target ---------------------------------------------------------------------------------------
def test_without_a_good_state_it_escalates_and_says_what_to_do() -> None:
    assert against(guards.target(trigger(), situation(target=None))) == ESCALATES
    finding = guards.target(trigger(), situation(target=None, no_target="name one with --to"))
    assert finding.reason == "name one with --to"
    assert guards.target(trigger(), situation(target=None)).reason == "no good state to go back to"


def test_the_target_is_named() -> None:
    assert guards.target(trigger(), situation()).reason == "back to code v1"


@pytest.mark.parametrize(
    ("changes", "left", "found"),
    [
        (5, at(0), PASSED),
        (6, at(0), ASKS),
        (1, at(0) - timedelta(days=7) + minutes(2), PASSED),
        (1, at(0) - timedelta(days=7) + minutes(2) - seconds(1), ASKS),
        (0, None, PASSED),
    ],
)
def test_a_target_far_back_asks(changes: int, left: datetime | None, found: tuple[Action | None, bool]) -> None:
    """Five changes and seven days, by default; the decision is at minute two."""
    given = situation(target=candidate(changes=changes, left=left))
    assert against(guards.within_reach(trigger(), given)) == found


def test_without_a_target_its_distance_is_no_question() -> None:
    assert guards.within_reach(trigger(), situation(target=None)) == guards.passed("reach", "no target")


def test_a_rollback_is_never_rolled_back() -> None:
    back = service_of(changed("v1", -600, -600), changed("v2", -90, -90), changed("v1", -5, -5, "checkout-1"))
    finding = guards.not_a_rollback(trigger(), situation(ledger=back))
    assert against(finding) == ESCALATES
    assert "checkout-1" in finding.reason


@pytest.mark.parametrize("present", [None, state("v3")])
def test_a_state_that_came_after_the_rollback_is_somebody_elses(present: Any) -> None:
    back = service_of(changed("v1", -600, -600), changed("v2", -90, -90), changed("v1", -5, -5, "checkout-1"))
    assert against(guards.not_a_rollback(trigger(), situation(ledger=back, present=present))) == PASSED


def test_a_state_that_somebody_deployed_was_not_reached_by_a_rollback() -> None:
    assert against(guards.not_a_rollback(trigger(), situation())) == PASSED
    assert against(guards.not_a_rollback(trigger(), situation(ledger=ServiceLedger(), present=state("v1")))) == PASSED


def degraded(incident: str = "checkout-1") -> ServiceLedger:
    """Search was switched off by a rollback, after which its rule is not asked."""
    after = state("v2", flags="no-search")
    fact = Changed(after, at(-5), at(-5), incident, fixed=("flags",), unasked=("errors",))
    return service_of(changed(state("v2", flags="f1"), -90, -90), (at(-5), fact))


@pytest.mark.parametrize("present", [state("v2", flags="no-search"), None])
def test_trouble_with_what_is_switched_off_is_observed(present: Any) -> None:
    finding = guards.switched_off(trigger(), situation(ledger=degraded(), present=present))
    assert against(finding) == OBSERVES
    assert finding.reason == "it asks what checkout-1 switched off: flags at no-search"


@pytest.mark.parametrize(
    ("by", "ledger", "present"),
    [
        (trigger("latency"), degraded(), state("v2", flags="no-search")),
        (trigger(request=Request("checkout", "unix:ann")), degraded(), state("v2", flags="no-search")),
        (trigger(), degraded(), state("v2", flags="f1")),
        (trigger(), ServiceLedger(), state("v2")),
    ],
)
def test_another_rule_a_person_and_another_state_are_not_switched_off(by: Any, ledger: Any, present: Any) -> None:
    assert against(guards.switched_off(by, situation(ledger=ledger, present=present))) == PASSED


# -- the table ----------------------------------------------------------------------------------------
def row(action: str, **when: Any) -> PolicyRow:
    return PolicyRow.model_validate({"when": when, "action": action})


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ({}, True),
        ({"priority": "P1"}, True),
        ({"priority": ["P0", "P1"]}, True),
        ({"priority": "P0"}, False),
        ({"rule": "errors", "service": "checkout"}, True),
        ({"rule": "errors", "service": "search"}, False),
        ({"rule": "latency"}, False),
        ({"labels": {"severity": "page"}}, True),
        ({"labels": {"severity": "page", "team": "x"}}, False),
        ({"impact": ["high", "critical"], "scope": "all"}, True),
        ({"impact": "low"}, False),
        ({"scope": "some"}, False),
        ({"components": ["api"]}, True),
        ({"components": {"only": ["api"]}}, False),
        ({"layers": {"only": ["code"]}}, True),
        ({"layers": ["config"]}, False),
        ({"users": {"above": "20%"}}, True),
        ({"users": {"below": "20%"}}, False),
        ({"windows": {"from": "00:00", "to": "23:59"}}, True),
        ({"windows": [{"days": "sun"}]}, False),
    ],
)
def test_a_row_matches_when_all_that_it_names_does(when: dict[str, Any], matches: bool) -> None:
    given = situation(policy=(row("observe", **when),))
    told: dict[str, Any] = {"impact": "high", "scope": "all", "components": ("api", "web"), "users": 0.3}
    finding = guards.policy(trigger(labels={"severity": "page"}, **told), given)
    assert (finding.against is Action.OBSERVE) is matches


def test_a_row_about_what_is_not_known_never_matches() -> None:
    users = situation(policy=(row("observe", users={"above": "1%"}),))
    assert against(guards.policy(trigger(), users)) == PASSED
    assert against(guards.policy(trigger(), replace(users, users=0.02))) == OBSERVES
    assert against(guards.policy(trigger(users=0.5), replace(users, users=0.0))) == PASSED  # a query says it now
    layers = situation(policy=(row("observe", layers=["code"]),))
    assert against(guards.policy(trigger(), layers)) == OBSERVES
    assert against(guards.policy(trigger(), replace(layers, target=None))) == PASSED
    assert against(guards.policy(trigger(), replace(layers, present=None))) == PASSED


def test_the_first_row_that_matches_wins() -> None:
    table = (row("refuse", priority="P0"), row("roll_back", rule="errors"), row("observe"))
    assert guards.policy(trigger(), situation(policy=table)) == guards.passed(
        "policy", "row 2 of the policy says roll_back"
    )
    observed = guards.policy(trigger(rule="latency"), situation(policy=table))
    assert observed == guards.against("policy", Action.OBSERVE, "row 3 of the policy says observe")
    refused = guards.policy(trigger(priority=Priority.P0), situation(policy=table))
    assert refused == guards.against("policy", Action.REFUSE, "row 1 of the policy says refuse")


def test_no_row_is_roll_back() -> None:
    assert guards.policy(trigger(), situation()) == guards.passed("policy", "no row matches: roll_back")


# -- words --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("length", "text"),
    [
        (seconds(-5), "0s"),
        (seconds(35.4), "35s"),
        (minutes(12), "12m"),
        (minutes(59) + seconds(59), "59m59s"),
        (minutes(200) + seconds(40), "3h20m"),
        (timedelta(days=2, minutes=59), "2d"),
    ],
)
def test_a_time_ago_is_as_exact_as_people_say_it(length: timedelta, text: str) -> None:
    assert guards.ago(length) == text


@pytest.mark.parametrize("guard", [guards.traffic_level, guards.same_time_before, guards.first_minutes])
def test_what_something_else_explains_is_asked_about(guard: Any) -> None:
    name = guard.__name__
    explained = guard(trigger(), situation(circumstances={name: (Verdict.BAD, "seen")}))
    assert against(explained) == ASKS
    assert explained.reason.startswith("seen: ")
    for verdict in (Verdict.GOOD, Verdict.INCONCLUSIVE):
        assert against(guard(trigger(), situation(circumstances={name: (verdict, "seen")}))) == PASSED
    assert guard(trigger(), situation()).reason == "not asked"
