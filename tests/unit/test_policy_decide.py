"""Decisions: which finding wins, what binds a person, which plan, and what is decided again."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.facts import Announced, Ended, MarkedGood, MarkTaken, Opening, Quarantined, Rising
from rollbackd.model import Action, Decision, Outcome, Priority, Request, Trigger
from rollbackd.policy.decide import asks_again, decide
from rollbackd.policy.guards import GUARDS, Situation, When, names
from rollbackd.policy.ledger import Rollback, ServiceLedger
from rollbackd.policy.spec import Asking, Budget, Limits, PolicyRow
from tests.fakes.clock import START
from tests.unit.builders import (
    at,
    changed,
    decided,
    fold_service,
    good,
    minutes,
    records,
    released,
    service_of,
    situation,
    state,
    trigger,
)

OPEN = ServiceLedger(rollbacks=(Rollback("checkout-1", START),))


def manual(**more: Any) -> Trigger:
    """A person's own rollback."""
    request = Request("checkout", "unix:ann", **more)
    return trigger(rule="manual", onset=at(2), episode="manual/checkout/1", request=request)


def guards_against(decision: Decision) -> set[str]:
    return {finding.guard for finding in decision.against}


def test_when_nothing_stands_against_it_the_service_goes_back() -> None:
    decision = decide(trigger(), situation())
    assert decision.action is Action.ROLL_BACK
    assert decision.against == ()
    assert (decision.present, decision.target) == (state("v2"), state("v1"))
    assert (decision.plans, decision.joins, decision.escalate) == (("default",), "", False)


def test_every_guard_leaves_a_finding_with_a_reason_whatever_is_decided() -> None:
    for given in (situation(), situation(present=None, target=None, mode="shadow", ledger=OPEN)):
        findings = decide(trigger(), given).findings
        assert len({finding.guard for finding in findings}) == len(GUARDS)
        assert all(finding.reason for finding in findings)


def test_what_was_found_of_an_episode_stays_found_until_a_second_change_mended_nothing() -> None:
    told = [changed("v1", -600, -600), good("v1", -500), changed("v2", -10.5, -10), changed("v3", 1.5, 1.7)]
    asked = decide(trigger(), situation(ledger=service_of(*told), behind=minutes(5)))
    assert "same_state" in guards_against(asked)
    for now, goes_on in ((6.7, True), (6.8, False)):
        ledger = service_of(*told, (at(2), facts.Decided(asked)))
        again = decide(trigger(), situation(ledger=ledger, now=at(now), behind=minutes(5)))
        assert ("same_state" in guards_against(again)) is goes_on


ASK: dict[str, Any] = {"jumped": at(2)}
OBSERVE: dict[str, Any] = {"mode": "shadow"}
REFUSE: dict[str, Any] = {"holds": ("HOLD",)}
STRONGER = {"ask": ASK, "observe": OBSERVE, "refuse": REFUSE}


@pytest.mark.parametrize("names", [names for size in (1, 2, 3) for names in combinations(STRONGER, size)])
def test_refuse_beats_observe_beats_ask_beats_roll_back(names: tuple[str, ...]) -> None:
    given: dict[str, Any] = {}
    for name in names:
        given |= STRONGER[name]
    decision = decide(trigger(), situation(**given))
    assert decision.action == Action(names[-1])
    assert len(decision.against) == len(names)


def test_a_refusal_that_pages_escalates_the_decision() -> None:
    assert decide(trigger(), situation(target=None)).escalate
    assert not decide(trigger(), situation(**REFUSE)).escalate


def test_no_limit_pages_for_trouble_with_what_is_switched_off() -> None:
    """It was rolled back three minutes ago, no target is left, and it is held: nothing would be done anyway."""
    after = facts.Changed(state("v2"), at(-3), at(-3), "checkout-1", fixed=("code",), unasked=("errors",))
    ended = Ended("checkout", "checkout-1", Outcome.RECOVERED, acted=True)
    ledger = fold_service(
        [
            *records("fleet", (at(-9), Opening("checkout", "checkout-1")), (at(-3), ended)),
            *records("service:checkout", (at(-3), after)),
        ]
    )
    given = situation(ledger=ledger, target=None, holds=("HOLD by unix:ann",), mode="shadow")
    decision = decide(trigger(), given)
    assert (decision.action, decision.escalate, decision.needs_person) == (Action.OBSERVE, False, False)
    assert guards_against(decision) == {"switched_off"}
    silenced = {finding.guard for finding in decision.findings if finding.against is not None and not finding.counted}
    assert silenced >= {"hold", "target", "ineffective", "cooldown", "shadow"}
    other = decide(trigger("latency"), given)
    assert (other.action, other.escalate) == (Action.REFUSE, True)


def test_trouble_during_an_incident_joins_it_and_pages_nobody_again() -> None:
    busy = replace(released(), rollbacks=OPEN.rollbacks)
    decision = decide(trigger(), situation(ledger=busy, target=None))
    assert (decision.joins, decision.escalate, decision.needs_person) == ("checkout-1", False, False)
    assert decide(trigger(), situation(ledger=busy)).action is Action.OBSERVE


@pytest.mark.parametrize(
    ("given", "needs"),
    [({}, False), (ASK, True), (OBSERVE, False), (REFUSE, False), ({"target": None}, True), (ASK | OBSERVE, False)],
)
def test_a_person_is_needed_where_somebody_must_answer_or_mend(given: dict[str, Any], needs: bool) -> None:
    assert decide(trigger(), situation(**given)).needs_person is needs


# -- a person's own -----------------------------------------------------------------------------------
AGAINST_A_PERSON: dict[str, dict[str, Any]] = {
    "hold": {"holds": ("HOLD",)},
    "open_incident": {"ledger": OPEN},
    "target": {"target": None},
    "irreversible": {},
    "data_loss": {},
    "ready": {"problems": ("code: no space",)},
}


@pytest.mark.parametrize("guard", sorted(set(AGAINST_A_PERSON) - {"irreversible", "data_loss"}))
def test_some_findings_bind_a_person_too(guard: str) -> None:
    decision = decide(manual(), situation(**AGAINST_A_PERSON[guard]))
    assert decision.action is Action.REFUSE
    assert guard in guards_against(decision)


def test_these_bind_a_person() -> None:
    assert set(AGAINST_A_PERSON) == names(lambda guard: guard.binds_people is When.ALWAYS)


def test_all_other_findings_are_shown_to_a_person_and_do_not_bind() -> None:
    sick = service_of(changed("v1", -600, -600), changed("v2", -90, -90), changed("v1", -5, -5, "checkout-1"))
    cooling = ServiceLedger(
        spells=sick.spells, good={"x": ""}, rollbacks=(Rollback("checkout-1", at(-6), ended=at(-5), acted=True),)
    )
    given = situation(
        ledger=cooling,
        mode="shadow",
        jumped=at(2),
        policy=(PolicyRow(action=Action.REFUSE),),
        target=situation().target,
        limits=Limits(stale_after=minutes(1)),
    )
    decision = decide(manual(), given)
    assert decision.action is Action.ROLL_BACK
    shown = {finding.guard for finding in decision.findings if finding.against is not None}
    assert {"shadow", "clock", "change", "ineffective", "cooldown", "policy"} <= shown
    assert decision.against == ()
    assert not decision.escalate


def test_a_persons_own_rollback_needs_to_know_what_runs_now() -> None:
    decision = decide(manual(), situation(present=None))
    assert decision.action is Action.REFUSE
    assert guards_against(decision) == {"same_state"}


def test_a_person_may_go_back_from_a_state_that_came_after_the_onset() -> None:
    fresh = service_of(changed("v1", -600, -600), good("v1", -500), changed("v2", 2.1, 2.2))
    decision = decide(manual(), situation(ledger=fresh, now=at(3), jumped=at(3)))
    assert decision.action is Action.ROLL_BACK
    shown = {finding.guard for finding in decision.findings if finding.against is not None}
    assert {"same_state", "clock"} <= shown
    unknown = decide(manual(), situation(ledger=fresh, now=at(3), jumped=at(3), present=None))
    assert guards_against(unknown) == {"same_state"}


def test_a_person_may_go_over_a_hold_by_saying_so() -> None:
    assert decide(manual(over_hold=True), situation(holds=("HOLD",), over_hold=True)).action is Action.ROLL_BACK


# -- plans --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "row", "rule", "plans"),
    [
        ("full", ("config",), ("code",), ("full",)),
        ("", ("config", "full"), ("code",), ("config", "full")),
        ("", (), ("code",), ("code",)),
        ("", (), (), ("config", "default")),
    ],
)
def test_a_persons_plan_goes_before_the_rows_before_the_rules_before_the_services(
    asked: str, row: tuple[str, ...], rule: tuple[str, ...], plans: tuple[str, ...]
) -> None:
    table = (PolicyRow(action=Action.ROLL_BACK, plan=row),)
    request = Request("checkout", "unix:ann", plan=asked) if asked else None
    by = trigger(plan=rule, request=request)
    assert decide(by, situation(policy=table), ("config", "default")).plans == plans


def test_a_row_that_does_not_match_gives_no_plan() -> None:
    other = PolicyRow.model_validate({"when": {"priority": "P3"}, "action": "roll_back", "plan": "full"})
    assert decide(trigger(), situation(policy=(other,))).plans == ("default",)
    assert decide(trigger(priority=Priority.P3), situation(policy=(other,))).plans == ("full",)


# -- again --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "now", "again"),
    [
        (set(), {}, False),
        ({"hold"}, {"hold": Action.REFUSE}, False),
        ({"hold"}, {}, True),
        ({"hold"}, {"cooldown": Action.REFUSE}, True),
        ({"hold"}, {"hold": Action.REFUSE, "stale": Action.ASK}, False),
        ({"hold", "stale"}, {"stale": Action.ASK}, True),
        (set(), {"cooldown": Action.REFUSE}, True),
    ],
)
def test_an_episode_is_decided_again_when_something_that_stood_against_it_does_no_longer(
    before: set[str], now: dict[str, Action], again: bool
) -> None:
    assert asks_again(frozenset(before), decided(against=now)) is again


# -- asking -------------------------------------------------------------------------------------------
QUIET = service_of(changed("v1", -6000, -6000), good("v1", -5900), changed("v2", -600, -600))
"""The last change was ten hours before the trouble: people are asked."""


def test_what_is_asked_says_why_and_how_long_it_stands() -> None:
    decision = decide(trigger(), situation(ledger=QUIET))
    assert decision.action is Action.ASK
    question = decision.question
    assert question is not None
    assert question.why == tuple(finding.reason for finding in decision.against)
    assert "not within 2h before" in question.why[0]
    assert question.expires == at(2) + minutes(30)
    assert (question.approvals, question.by, question.otherwise, question.over) == (1, (), "escalate", False)


def test_the_row_says_how_it_is_asked_and_the_configuration_the_rest() -> None:
    row = PolicyRow.model_validate({"action": "ask", "by": ["tech", "product"], "expires": "10m"})
    asking = Asking.model_validate({"approvals": 1, "otherwise": "roll_back", "expires": "1h"})
    groups = {"tech": ("unix:ann",), "product": ("unix:bob",), "other": ("unix:eve",)}
    question = decide(trigger(), situation(policy=(row,), asking=asking, groups=groups)).question
    assert question is not None
    assert (question.approvals, question.by, question.otherwise) == (2, ("tech", "product"), "roll_back")
    assert question.members == {"tech": ("unix:ann",), "product": ("unix:bob",)}
    assert question.expires == at(2) + minutes(10)


def test_a_row_says_how_it_is_asked_also_when_a_guard_asks() -> None:
    row = PolicyRow.model_validate(
        {"action": "roll_back", "approvals": 3, "otherwise": "escalate", "start_within": "7m"}
    )
    decision = decide(trigger(), situation(ledger=QUIET, policy=(row,), asking=Asking(otherwise="roll_back")))
    assert decision.question is not None
    assert (decision.question.approvals, decision.question.otherwise) == (3, "escalate")
    assert decision.start_within == minutes(7)


def test_who_announced_the_change_may_be_left_out() -> None:
    told = ((at(-9.9), Announced("a", kind="hotfix"), "unix:ann"), (at(-9.8), Announced("b"), "unix:bob"))
    ledger = fold_service(records("service:checkout", *told, after=10), released())
    row = PolicyRow(action=Action.ASK)
    free = decide(trigger(), situation(ledger=ledger, policy=(row,)))
    bound = decide(trigger(), situation(ledger=ledger, policy=(row,), asking=Asking(announcer_approves=False)))
    assert free.change is not None
    assert free.change.by == "unix:bob"
    assert free.question is not None
    assert bound.question is not None
    assert (free.question.excluded, bound.question.excluded) == ((), ("unix:bob", "unix:ann"))


def test_nothing_is_asked_while_there_is_nothing_to_say_yes_to() -> None:
    for given in (situation(ledger=QUIET, present=None), situation(ledger=QUIET, target=None)):
        decision = decide(trigger(), given)
        assert (decision.action, decision.question) == (Action.REFUSE, None)
    assert decide(trigger(), situation()).question is None


def test_what_waits_is_decided_as_if_nothing_was_open_and_spends_no_budget() -> None:
    waiting = fold_service(
        records("fleet", *((at(n - 3), Opening("checkout", f"checkout-{n}", asks=True)) for n in (1, 2))), released()
    )
    decision = decide(
        trigger(), situation(ledger=waiting, limits=Limits(per_service=Budget(rollbacks=1, per=minutes(60))))
    )
    assert (decision.action, decision.joins) == (Action.ROLL_BACK, "checkout-2")
    risen = fold_service(records("fleet", (at(1), Rising("checkout", "checkout-2")), after=5), waiting)
    assert risen.acting == risen.open == Rollback("checkout-2", at(1))
    assert waiting.acting is None
    assert released().acting is None


# -- stories ------------------------------------------------------------------------------------------
def test_the_same_trouble_of_another_service_is_decided_by_its_own_ledger() -> None:
    sick = situation(ledger=released())
    unknown = situation(ledger=service_of(changed("w1", -600, -600)))
    assert decide(trigger(), sick).action is Action.ROLL_BACK
    assert decide(trigger(service="search"), unknown).action is Action.REFUSE


def test_after_the_rollback_of_a_bad_release_the_next_one_may_go_back_too() -> None:
    """S0 and S1 were good; S1 fails later and goes back to S0; S2 is deployed and fails at once: back to S0."""
    history = records(
        "service:checkout",
        changed("s0", -6000, -6000),
        good("s0", -5900),
        changed("s1", -700, -699),
        good("s1", -660),
    )
    ledger = fold_service(history)
    first = decide(trigger(onset=at(-600)), story(ledger, now=-599))
    assert (first.action, first.target) == (Action.ROLL_BACK, state("s0"))

    ledger = fold_service(records("service:checkout", *went_back("s1", "s0", -599, -590), after=len(history)), ledger)
    relapsed = decide(trigger(onset=at(-585)), story(ledger, now=-584))
    assert {"ineffective", "target"} <= guards_against(relapsed)

    deployed = fold_service(records("service:checkout", changed("s2", -20.5, -20), after=20), ledger)
    second = decide(trigger(onset=at(-19)), story(deployed, now=-18))
    assert (second.action, second.target) == (Action.ROLL_BACK, state("s0"))


def story(ledger: ServiceLedger, now: float) -> Situation:
    return situation(ledger=ledger, now=at(now), troubled=())


def went_back(bad: str, target: str, opened: float, closed: float) -> list[Any]:
    """What an incident leaves in the ledger of its service."""
    return [
        (at(opened), Opening("checkout", "checkout-1")),
        (at(opened), MarkTaken(state(bad), "errors (checkout-1)")),
        (at(closed), Ended("checkout", "checkout-1", Outcome.RECOVERED, True, at(closed + 15))),
        changed(target, closed, closed, "checkout-1"),
        (at(closed), MarkedGood(state(target), "verified after checkout-1")),
        (at(closed), Quarantined({"code": bad}, "left behind by checkout-1")),
    ]
