"""Events that were reported, and what the rules say of a service by them."""

import pytest

from rollbackd.model import Alert, Event, Outcome, Verdict
from rollbackd.policy.ledger import Rollback
from rollbackd.rules.spec import MOST_EVENTS, Rule
from rollbackd.rules.tracks import Standing
from rollbackd.signals.rule_state import RuleStates
from tests.unit.builders import at
from tests.unit.test_rule_state import ALERT, QUERY, alert, episodes, look, rule, rule_states, since

E2E = {"event": "e2e_failed", "times": 2, "within": "30m"}
ONCE = {"event": "e2e_failed"}


def event(when: float, /, key: str = "", name: str = "e2e_failed", service: str = "", **labels: str) -> Event:
    return Event(name, key or f"{when:g}", at(when), service=service, labels=labels)


def over(when: float, **labels: str) -> Event:
    return Event("e2e_failed", f"over {when:g}", at(when), firing=False, labels=labels)


def report(one: RuleStates, *told: Event, service: str = "checkout") -> None:
    for each in told:
        one.report(each, service, each.at)


# -- where they belong --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "service", "why"),
    [
        (event(0, service="checkout"), "checkout", ""),
        (event(0, service="search"), "search", ""),
        (event(0), None, "its labels are of no service"),
        (Event("e2e_failed", "1", at(0), labels={"service": "search", "suite": "a"}), "search", ""),
        (event(0, service="basket"), None, "there is no service basket in the configuration"),
        (event(0, name="e2e_faild"), None, "no rule asks for the event e2e_faild with such labels; rules ask for: "),
        (event(0, name="complaint", severity="low"), None, "no rule asks for the event complaint with such labels"),
        (event(0, name="complaint", severity="high"), "search", ""),
        (event(0, name="complaint", severity="high", service="checkout"), None, "are not for checkout"),
        (event(0, name="both"), None, "its labels are of no service"),
    ],
)
def test_an_event_belongs_to_a_service_that_a_rule_asks_for(given: Event, service: str | None, why: str) -> None:
    one = rule_states(
        rule(E2E),
        rule({"any": [ALERT, {"event": "complaint", "where": 'severity="high"'}]}, "desk", services="search"),
        rule({"event": "both"}, "both", services=["checkout", "search"]),
    )
    found, said = one.placed(given)
    assert found == service
    assert why in said
    assert bool(said) is (service is None)


def test_where_no_rule_asks_for_events_that_is_said() -> None:
    assert rule_states().placed(event(0))[1].endswith("rules ask for: none")


# -- what they lead to --------------------------------------------------------------------------------
def test_enough_of_them_are_a_trigger_from_the_first() -> None:
    one = rule_states(rule(E2E, "e2e", impact="high", components={"label": "parts"}, users={"label": "share"}))
    report(one, event(0, suite="a"), event(10, parts="cart,search", share="25%"))
    (trigger,) = one.triggers_of_event(event(10), "checkout", at(10))
    assert trigger.episode == f"e2e/checkout/{at(0).isoformat()}"
    assert (trigger.onset, trigger.reached) == (at(0), at(10))
    assert trigger.labels == {"parts": "cart,search", "share": "25%"}
    assert (trigger.impact, trigger.scope, trigger.components) == ("high", "", ("cart", "search"))
    assert trigger.users == 0.25
    assert len(trigger.evidence) == 2
    assert one.all_triggers("checkout", at(10)) == [trigger]
    assert one.goes_on("checkout", trigger.episode, at(29))
    assert not one.goes_on("checkout", trigger.episode, at(30))


def test_too_few_are_pending_and_none_is_good() -> None:
    one = rule_states(rule(E2E))
    assert one.standing("checkout", at(0)) is Standing.GOOD
    report(one, event(0))
    assert (episodes(one), one.standing("checkout", at(1))) == ([], Standing.PENDING)
    assert one.standing("search", at(1)) is Standing.GOOD


def test_the_episode_is_the_same_over_later_events_though_the_first_are_forgotten() -> None:
    one = rule_states(rule(E2E))
    report(one, event(0), event(5))
    before = episodes(one, now=5)
    report(one, *(event(when) for when in range(10, 300, 10)))
    assert episodes(one, now=291) == before


def test_a_start_that_hears_them_again_comes_to_the_same_episode() -> None:
    first, again = rule_states(rule(E2E)), rule_states(rule(E2E))
    told = [*(event(when) for when in range(0, 200, 10)), event(3), event(195)]
    for one in (first, again):
        report(one, *told)
    assert episodes(first, now=200) == episodes(again, now=200) == [f"errors/checkout/{at(0).isoformat()}"]


def test_what_is_resolved_ends_the_run_and_is_another_when_it_begins_again() -> None:
    one = rule_states(rule(ONCE))
    report(one, event(0))
    before = episodes(one)
    report(one, over(1))
    assert (episodes(one), one.standing("checkout", at(1))) == ([], Standing.GOOD)
    report(one, event(2))
    assert episodes(one, now=2) != before


def after(outcome: Outcome, stepped: float | None, ended: float) -> Rollback:
    at_step = at(stepped) if stepped is not None else None
    return Rollback("checkout-1", at(0), ended=at(ended), outcome=outcome, acted=True, stepped=at_step)


def test_what_was_reported_before_a_rollback_that_recovered_is_over_with_it() -> None:
    """It was of another state: what fails after the last step is trouble of its own."""
    rollbacks: list[Rollback] = []
    one = rule_states(rule(E2E), undone=lambda name: rollbacks[-1] if rollbacks and name == "checkout" else None)
    report(one, event(0), event(5), event(8, key="during"))
    report(one, event(1), event(2), service="search")
    before = episodes(one, now=9)
    assert (len(before), one.standing("checkout", at(9))) == (1, Standing.BAD)
    rollbacks.append(after(Outcome.RECOVERED, stepped=7, ended=9))
    assert (episodes(one, now=9), one.standing("checkout", at(9))) == ([], Standing.PENDING)
    assert one.troubled() == since(1, 8)
    assert len(episodes(one, now=9, of="search")) == 1
    report(one, event(6, key="late"))
    assert one.standing("checkout", at(10)) is Standing.PENDING
    report(one, event(11))
    found = episodes(one, now=11)
    assert found == [f"errors/checkout/{at(8).isoformat()}"] != before
    report(one, event(13))
    assert episodes(one, now=13) == found


def test_trouble_that_goes_on_over_the_end_of_a_rollback_is_another_from_its_last_step_on() -> None:
    rollbacks: list[Rollback] = []
    one = rule_states(rule(ONCE), rule(E2E, "twice"), undone=lambda _: rollbacks[-1] if rollbacks else None)
    report(one, event(0), event(8), event(9))
    rollbacks.append(after(Outcome.RECOVERED, stepped=7, ended=10))
    assert episodes(one, now=10) == [f"{name}/checkout/{at(8).isoformat()}" for name in ("errors", "twice")]
    rollbacks.append(after(Outcome.RECOVERED, stepped=7.5, ended=11))
    assert episodes(one, now=10) == [f"{name}/checkout/{at(8).isoformat()}" for name in ("errors", "twice")]


def test_what_a_rollback_did_not_mend_stays_until_something_is_reported_again() -> None:
    rollbacks: list[Rollback] = []
    one = rule_states(rule(E2E), undone=lambda _: rollbacks[-1] if rollbacks else None)
    report(one, event(0), event(5))
    before = episodes(one, now=5)
    rollbacks.append(after(Outcome.INEFFECTIVE, stepped=None, ended=9))
    assert episodes(one, now=9) == before
    one.report(event(6), "checkout", at(10))
    assert (episodes(one, now=10), one.standing("checkout", at(10))) == ([], Standing.GOOD)
    report(one, event(11))
    assert one.standing("checkout", at(11)) is Standing.PENDING
    report(one, event(12))
    assert episodes(one, now=12) == [f"errors/checkout/{at(11).isoformat()}"] != before


def test_no_more_than_a_bounded_number_is_kept_of_a_service() -> None:
    one = rule_states(rule(ONCE | {"within": "1d"}))
    report(one, *(event(number / 100) for number in range(1000)))
    (trigger,) = one.all_triggers("checkout", at(10))
    assert trigger.onset == at(0)
    assert one.seen("checkout", at(10))[0].reason == f"{MOST_EVENTS} within 1d"


def test_what_nobody_reports_any_more_is_forgotten_everywhere() -> None:
    one = rule_states(rule(E2E))
    report(one, event(0), event(1))
    report(one, event(2), service="search")
    assert one.troubled() == since(0, 2)
    report(one, event(40), service="search")
    assert one.troubled() == since(40)


def test_two_rules_may_count_the_same_events_in_their_own_ways() -> None:
    one = rule_states(rule(E2E, "two"), rule(ONCE | {"where": 'suite="cart"'}, "cart"))
    report(one, event(0), event(1, suite="cart"))
    assert episodes(one) == [f"two/checkout/{at(0).isoformat()}", f"cart/checkout/{at(1).isoformat()}"]
    report(one, over(2, suite="cart"))
    assert episodes(one, now=2) == []
    report(one, event(3))
    assert episodes(one, now=3) == []


def test_services_in_trouble_by_events_count_since_their_run_or_its_beginning() -> None:
    one = rule_states(rule(E2E))
    report(one, event(3))
    assert one.troubled() == since(3)
    report(one, event(5))
    report(one, event(6), service="search")
    assert one.troubled() == since(3, 6)
    report(one, over(7))
    assert one.troubled() == since(6)


# -- together with others -----------------------------------------------------------------------------
def test_events_count_inside_composed_rules() -> None:
    both = rule({"all": [E2E, QUERY]})
    one = rule_states(both)
    report(one, event(0), event(1))
    assert episodes(one, now=1) == []
    look(one, both, Verdict.BAD, position=1, begin=2)
    assert episodes(one, now=2) == [f"errors/checkout/{at(2).isoformat()}"]
    assert len(one.all_triggers("checkout", at(2))[0].evidence) == 3


def test_the_leaves_of_nested_groups_keep_their_places() -> None:
    deep = rule({"all": [ALERT, {"any": [QUERY, {"all": [E2E, {"check": "smoke", "failures": 1}]}]}]})
    one = rule_states(deep)
    one.hear(alert(), "checkout", at(0))
    report(one, event(0), event(1))
    assert episodes(one) == []
    look(one, deep, Verdict.BAD, position=3, begin=2)
    assert episodes(one, now=2) == [f"errors/checkout/{at(2).isoformat()}"]
    look(one, deep, Verdict.GOOD, position=3, begin=3)
    look(one, deep, Verdict.BAD, position=1, begin=3)
    assert episodes(one, now=3) == [f"errors/checkout/{at(2).isoformat()}"]
    assert [one_.source for one_ in one.all_triggers("checkout", at(3))[0].evidence][1:] == ["errors"]


def test_an_alert_beside_a_nested_all_does_not_go_stale_and_one_in_it_does() -> None:
    either = rule({"any": [{"alert": "alertname=Alone"}, {"all": [QUERY, ALERT]}]})
    one = rule_states(either)
    one.hear(alert("Alone"), "checkout", at(0))
    assert len(episodes(one, now=100)) == 1
    other = rule_states(either)
    other.hear(alert(), "checkout", at(0))
    look(other, either, Verdict.BAD, position=1, begin=0)
    assert len(episodes(other, now=15)) == 1
    assert episodes(other, now=16) == []


def test_how_many_came_since_then_is_known() -> None:
    both = rule({"any": [E2E, ONCE | {"where": 'suite="cart"'}, QUERY]})
    one = rule_states(both)
    report(one, event(0), event(5, suite="cart"), event(6))
    assert one.events.after(both, "checkout", at(0)) == 2
    assert one.events.after(both, "checkout", at(6)) == 0
    assert one.events.after(both, "search", at(0)) == 0


# -- alerts whose rules wait --------------------------------------------------------------------------
def test_trouble_that_an_alert_tells_of_began_before_it_fired() -> None:
    one = rule_states(rule(ALERT | {"for": "5m"}, impact={"label": "impact"}, scope={"label": "scope"}))
    loud = alert(starts=10, impact="critical", scope="all")
    one.hear(loud, "checkout", at(10))
    (trigger,) = one.all_triggers("checkout", at(11))
    assert trigger.onset == at(5)
    assert trigger.episode == f"errors/{loud.episode}"
    assert (trigger.impact, trigger.scope) == ("critical", "all")
    assert one.troubled() == since(5), "as the trigger says: the guard against common causes compares the two"
    assert one.triggers_of(loud, "checkout", at(11)) == [trigger]


def test_an_alert_that_another_rule_asks_for_did_not_wait() -> None:
    one = rule_states(rule(ALERT | {"for": "5m"}), rule({"alert": "alertname=Other"}, "other"))
    one.hear(alert("Other", starts=10), "checkout", at(10))
    assert one.troubled() == since(10)


def _rules(count: int) -> list[Rule]:
    return [rule(E2E, f"e2e-{number}") for number in range(count)]


def test_ten_thousand_services_report_at_once() -> None:
    """Each event costs the same, however many services there are."""
    one = rule_states(*_rules(3))
    for number in range(10_000):
        one.report(event(number / 1000), f"s{number}", at(number / 1000))
    assert len(one.troubled()) == 10_000
    one.report(event(100), "checkout", at(100))
    assert one.troubled() == since(100)


def test_an_alert_and_an_event_of_one_rule_are_each_heard() -> None:
    either = rule({"any": [ALERT, ONCE]})
    one = rule_states(either)
    heard = Alert("f1", {"alertname": "HighErrorRate", "service": "checkout"}, {}, at(0), None)
    one.hear(heard, "checkout", at(0))
    first = episodes(one)
    report(one, event(1))
    assert episodes(one, now=1) == first
    assert len(one.all_triggers("checkout", at(1))[0].evidence) == 2
