"""What the rules say of each service right now, and the triggers that follow."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from rollbackd.adapter import CheckSettings, Settings
from rollbackd.config.models import Config, PrometheusSettings, Service
from rollbackd.model import Action, Alert, Outcome, Priority, Release, State, Verdict
from rollbackd.policy.ledger import Rollback, ServiceLedger, Spell
from rollbackd.policy.spec import Limits
from rollbackd.rules.spec import Rule
from rollbackd.rules.tracks import Standing
from rollbackd.signals.rule_state import AlertSeen, RuleStates, gap
from tests.unit.builders import VERIFY, at, minutes, seconds

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
ALERT = {"alert": 'alertname="HighErrorRate"'}
POLL = seconds(15)
QUERY = {"query": "errors", "above": 0.1}
SMOKE = {"check": "smoke", "failures": 2}
AFTER_CHANGE = SMOKE | {"after_change": "10m"}


def rule(when: Any, name: str = "errors", **more: Any) -> Rule:
    return Rule.model_validate({"name": name, "when": when} | more)


def service(name: str, **more: Any) -> Service:
    values: dict[str, Any] = {
        "name": name,
        "match": ({"service": name},),
        "layers": {"code": Settings(adapter="git")},
        "checks": {"smoke": CheckSettings()},
        "verify": VERIFY,
    }
    return Service(**values | more)


def rule_states(
    *rules: Rule,
    poll_every: timedelta = POLL,
    undone: Callable[[str], Rollback | None] = lambda _: None,
    spells: tuple[Spell, ...] = (),
) -> RuleStates:
    return RuleStates(
        Config(
            rules=rules,
            services=(service("checkout", priority=Priority.P1), service("search")),
            prometheus=PrometheusSettings(url="http://127.0.0.1:9090", poll_every=poll_every),
            limits=Limits(stale_after=minutes(15)),
        ),
        lambda name: ServiceLedger(spells, rollbacks=(last,) if (last := undone(name)) is not None else ()),
    )


def alert(
    name: str = "HighErrorRate", starts: float = 0, ends: float | None = None, fingerprint: str = "f1", **labels: str
) -> Alert:
    named = {"alertname": name, "service": "checkout"} | labels
    return Alert(fingerprint, named, {}, at(starts), None if ends is None else at(ends))


def episodes(one: RuleStates, now: float = 1, of: str = "checkout") -> list[str]:
    return [trigger.episode for trigger in one.all_triggers(of, at(now))]


def look(
    one: RuleStates, of: Rule, *verdicts: Verdict, position: int = 0, begin: float = 0, service: str = "checkout"
) -> None:
    """A look a minute."""
    for n, verdict in enumerate(verdicts):
        one.observe(of, position, service, verdict, f"{verdict}", at(begin + n))


# -- alerts -------------------------------------------------------------------------------------------
def test_an_alert_that_a_rule_asks_for_is_a_trigger_of_its_own() -> None:
    one = rule_states(rule(ALERT, plan=["config"], without_change="observe"))
    one.hear(alert(severity="page"), "checkout", at(1))
    (trigger,) = one.all_triggers("checkout", at(2))
    assert (trigger.service, trigger.rule, trigger.priority) == ("checkout", "errors", Priority.P1)
    assert trigger.episode == f"errors/alert/f1/{at(0).isoformat()}"
    assert (trigger.onset, trigger.reached) == (at(0), at(2))
    assert (trigger.plan, trigger.without_change) == (("config",), Action.OBSERVE)
    assert trigger.labels == {"alertname": "HighErrorRate", "service": "checkout", "severity": "page"}
    assert [evidence.value for evidence in trigger.evidence] == ["firing"]


def test_a_rules_own_priority_goes_before_its_services() -> None:
    one = rule_states(rule(ALERT, priority="P0"))
    one.hear(alert(), "checkout", at(1))
    assert one.all_triggers("checkout", at(1))[0].priority is Priority.P0


def test_each_alert_is_an_episode() -> None:
    one = rule_states(rule(ALERT))
    one.hear(alert(fingerprint="f1"), "checkout", at(1))
    one.hear(alert(fingerprint="f2", starts=1), "checkout", at(1))
    assert len(set(episodes(one))) == 2


def test_an_alert_that_fires_again_later_is_another_episode() -> None:
    one = rule_states(rule(ALERT))
    one.hear(alert(), "checkout", at(1))
    before = episodes(one)
    one.hear(alert(starts=30), "checkout", at(31))
    assert len(episodes(one)) == 1
    assert episodes(one) != before


def test_a_resolved_alert_is_over() -> None:
    one = rule_states(rule(ALERT))
    one.hear(alert(), "checkout", at(1))
    one.hear(alert(ends=5), "checkout", at(5))
    assert episodes(one) == []
    assert one.standing("checkout", at(5)) is Standing.GOOD


def test_an_old_end_does_not_end_what_fires_since() -> None:
    """Deliveries overtake each other."""
    one = rule_states(rule(ALERT))
    one.hear(alert(starts=10), "checkout", at(11))
    one.hear(alert(starts=0, ends=5), "checkout", at(12))
    assert len(episodes(one)) == 1


def test_the_end_of_an_alert_nobody_heard_of_is_nothing() -> None:
    one = rule_states(rule(ALERT))
    one.hear(alert(ends=5), "checkout", at(5))
    assert episodes(one) == []


def test_an_alert_that_no_rule_asks_for_triggers_nothing() -> None:
    one = rule_states(rule(ALERT))
    one.hear(alert("DiskFull"), "checkout", at(1))
    assert episodes(one) == []
    assert one.triggers_of(alert("DiskFull"), "checkout", at(1)) == []


def test_alerts_are_forgotten_by_their_fingerprint_and_when_they_were_heard_of_last() -> None:
    one = rule_states(rule(ALERT))
    one.hear(alert(fingerprint="f1"), "checkout", at(1))
    one.hear(alert(fingerprint="f2"), "checkout", at(2))
    one.hear(alert(fingerprint="f1", service="search"), "search", at(3))
    one.forget_alerts(lambda fingerprint, seen: fingerprint == "f1" and seen < at(3))
    assert [episode.split("/")[2] for episode in episodes(one)] == ["f2"]
    assert len(episodes(one, of="search")) == 1
    one.forget_alerts(lambda _fingerprint, _seen: True)
    assert (episodes(one), episodes(one, of="search"), one.troubled()) == ([], [], ())


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ({"service": "checkout", "alertname": "HighErrorRate"}, "checkout"),
        ({"service": "checkout", "alertname": "DiskFull"}, None),
        ({"service": "search", "alertname": "HighErrorRate"}, "search"),
        ({"service": "search", "alertname": "E2eFailed"}, None),
        ({"service": "checkout", "alertname": "E2eFailed"}, "checkout"),
        ({"alertname": "E2eFailed"}, "checkout"),
        ({"alertname": "HighErrorRate"}, None),
        ({"alertname": "Both"}, None),
    ],
)
def test_an_alert_is_wanted_by_a_rule_for_its_service(labels: Mapping[str, str], wanted: str | None) -> None:
    """One without labels of a service belongs to the service of a rule that is for one alone."""
    one = rule_states(
        rule(ALERT),
        rule({"any": [QUERY, {"alert": "alertname=E2eFailed"}]}, "e2e", services="checkout"),
        rule({"alert": "alertname=Both"}, "both", services=["checkout", "search"]),
    )
    assert one.wanted(labels) == wanted


def test_labels_place_a_signal() -> None:
    one = rule_states()
    assert one.service_of({"service": "search", "pod": "a"}) == "search"
    assert one.service_of({"pod": "a"}) is None


def test_series_are_spread_over_services() -> None:
    series: list[Mapping[str, str]] = [{"service": "search"}, {"service": "other"}, {}]
    assert rule_states().spread(series, rule(QUERY)) == ["search", None, None]
    assert rule_states().spread(series, rule(QUERY, services="checkout")) == ["search", None, "checkout"]
    assert rule_states().spread(series, rule(QUERY, services=["checkout", "search"])) == ["search", None, None]


# -- queries and checks -------------------------------------------------------------------------------
def test_a_query_that_is_met_is_one_episode_from_its_first_bad_sample() -> None:
    asked = rule(QUERY | {"for": "2m"})
    one = rule_states(asked)
    look(one, asked, BAD, BAD)
    assert (episodes(one), one.standing("checkout", at(1))) == ([], Standing.PENDING)
    look(one, asked, BAD, BAD, begin=2)
    assert episodes(one) == [f"errors/checkout/{at(0).isoformat()}"]
    assert one.all_triggers("checkout", at(3))[0].onset == at(0)


def test_what_is_met_at_one_service_says_nothing_of_another() -> None:
    asked = rule(QUERY)
    one = rule_states(asked)
    look(one, asked, BAD)
    assert episodes(one, of="search") == []
    assert one.standing("search", at(0)) is Standing.INCONCLUSIVE


def test_while_nothing_is_known_nothing_is_triggered_and_the_episode_keeps_its_name() -> None:
    asked = rule(QUERY)
    one = rule_states(asked)
    look(one, asked, BAD)
    before = episodes(one)
    look(one, asked, UNKNOWN, begin=1)
    assert episodes(one) == []
    look(one, asked, BAD, begin=2)
    assert episodes(one) == before


def test_a_for_shorter_than_the_time_between_polls_can_be_met() -> None:
    asked = rule(QUERY | {"for": "30s"})
    one = rule_states(asked, poll_every=minutes(1))
    look(one, asked, BAD, BAD)
    assert len(episodes(one)) == 1


def test_a_rule_for_some_services_says_nothing_of_others() -> None:
    one = rule_states(rule(ALERT, services="search"))
    one.hear(alert(), "checkout", at(1))
    assert episodes(one) == []
    assert one.triggers_of(alert(), "checkout", at(1)) == []
    assert one.seen("checkout", at(1)) == []
    assert one.standing("checkout", at(1)) is Standing.GOOD


def test_a_run_that_was_known_before_a_restart_keeps_its_name() -> None:
    asked = rule(QUERY)
    one = rule_states(asked)
    look(one, asked, BAD, begin=10)
    one.begin_at(asked, 0, "checkout", at(3))
    look(one, asked, BAD, begin=11)
    assert episodes(one) == [f"errors/checkout/{at(3).isoformat()}"]
    assert one.track(asked, 0, "checkout").since == at(3)


def test_a_check_that_is_asked_only_after_a_change_is_good_while_it_is_not_asked() -> None:
    asked = rule(AFTER_CHANGE)
    one = rule_states(asked)
    assert one.standing("checkout", at(0)) is Standing.INCONCLUSIVE
    look(one, asked, BAD, BAD)
    assert (one.standing("checkout", at(1)), one.troubled()) == (Standing.BAD, (at(0),))
    one.clear(asked, 0, "checkout")
    assert (one.standing("checkout", at(1)), one.troubled()) == (Standing.GOOD, ())
    look(one, asked, BAD, begin=5)
    assert one.standing("checkout", at(5)) is Standing.PENDING


# -- composed -----------------------------------------------------------------------------------------
def test_all_of_them_make_one_episode_that_begins_with_the_last() -> None:
    both = rule({"all": [ALERT, QUERY]})
    one = rule_states(both)
    one.hear(alert(starts=0), "checkout", at(0))
    assert episodes(one) == []
    look(one, both, BAD, position=1, begin=2)
    assert episodes(one, now=2) == [f"errors/checkout/{at(2).isoformat()}"]
    assert len(one.all_triggers("checkout", at(2))[0].evidence) == 2


def test_an_alert_in_all_without_news_triggers_nothing() -> None:
    both = rule({"all": [ALERT, QUERY]})
    one = rule_states(both)
    one.hear(alert(starts=0), "checkout", at(0))
    look(one, both, *[BAD] * 20, position=1)
    assert len(episodes(one, now=15)) == 1
    assert episodes(one, now=15.1) == []
    assert one.standing("checkout", at(15.1)) is Standing.INCONCLUSIVE


def test_a_composed_episode_keeps_its_name_while_its_conditions_take_turns() -> None:
    either = rule({"any": [QUERY, SMOKE | {"failures": 1}]})
    one = rule_states(either)
    look(one, either, BAD, begin=0)
    before = episodes(one)
    look(one, either, BAD, position=1, begin=3)
    look(one, either, GOOD, begin=4)
    assert episodes(one) == before


def test_a_composed_episode_keeps_its_name_over_a_poll_that_says_nothing() -> None:
    either = rule({"any": [QUERY, SMOKE | {"failures": 1}]})
    one = rule_states(either)
    look(one, either, BAD, begin=0)
    look(one, either, BAD, position=1, begin=3)
    before = episodes(one)
    look(one, either, UNKNOWN, begin=4)
    look(one, either, UNKNOWN, position=1, begin=4)
    assert episodes(one) == []
    look(one, either, GOOD, begin=5)
    look(one, either, BAD, position=1, begin=5)
    assert episodes(one) == before


def test_a_composed_episode_that_was_over_is_another_when_it_begins_again() -> None:
    either = rule({"any": [QUERY, SMOKE]})
    one = rule_states(either)
    look(one, either, BAD)
    look(one, either, GOOD, position=1)
    before = episodes(one)
    look(one, either, GOOD, begin=1)
    assert episodes(one) == []
    look(one, either, BAD, begin=2)
    assert episodes(one) != before
    assert len(episodes(one)) == 1


def test_an_alert_meets_a_composed_rule_together_with_what_was_seen_before() -> None:
    both = rule({"all": [ALERT, QUERY]})
    one = rule_states(both, rule(ALERT, "plain"), rule(QUERY, "query"))
    look(one, both, BAD, position=1)
    one.hear(alert(starts=1), "checkout", at(1))
    found = one.triggers_of(alert(starts=1), "checkout", at(1))
    assert [trigger.rule for trigger in found] == ["errors", "plain"]


# -- what is asked about it ---------------------------------------------------------------------------
def test_what_goes_on_is_known_by_its_episode() -> None:
    asked = rule(QUERY)
    one = rule_states(asked)
    look(one, asked, BAD)
    (episode,) = episodes(one)
    assert one.goes_on("checkout", episode, at(1))
    assert not one.goes_on("search", episode, at(1))
    assert not one.goes_on("checkout", "gone/checkout/x", at(1))
    look(one, asked, GOOD, begin=1)
    assert not one.goes_on("checkout", episode, at(1))


def test_that_an_episode_is_over_is_said_only_where_it_is_known() -> None:
    asked = rule(QUERY)
    one = rule_states(asked)
    look(one, asked, BAD)
    (episode,) = episodes(one)
    assert one.over("checkout", episode, at(1)) == ""
    look(one, asked, UNKNOWN, begin=1)
    assert one.over("checkout", episode, at(2)) == "", "no evidence ends nothing"
    assert rule_states(asked).over("checkout", episode, at(2)) == "", "a start has seen nothing yet"
    look(one, asked, GOOD, begin=3)
    assert one.over("checkout", episode, at(3)) == f"{GOOD}"
    look(one, asked, BAD, begin=4)
    assert "another trouble" in one.over("checkout", episode, at(4))
    assert one.over("checkout", "gone/checkout/x", at(4)) == "rule gone is no longer in the configuration"


def test_one_alert_of_several_is_over_by_itself() -> None:
    one = rule_states(rule(ALERT))
    for fingerprint in ("f1", "f2"):
        one.hear(alert(fingerprint=fingerprint), "checkout", at(0))
    first, second = episodes(one)
    one.hear(alert(ends=1), "checkout", at(1))
    assert one.over("checkout", first, at(1)) != ""
    assert one.over("checkout", second, at(1)) == ""


def test_a_check_that_is_not_asked_any_more_has_not_got_well() -> None:
    asked = rule(AFTER_CHANGE)
    one = rule_states(asked)
    look(one, asked, BAD, BAD)
    (episode,) = episodes(one, 2)
    one.clear(asked, 0, "checkout")
    assert one.over("checkout", episode, at(3)) == ""


def test_what_each_rule_says_is_shown_with_its_reason() -> None:
    asked = rule(QUERY)
    one = rule_states(asked, rule(ALERT, "alerts"))
    look(one, asked, BAD)
    assert one.seen("checkout", at(1)) == [
        AlertSeen("errors", Standing.BAD, "bad", at(0)),
        AlertSeen("alerts", Standing.GOOD, "no such alert fires", None),
    ]
    assert one.standing("checkout", at(1)) is Standing.BAD


def test_rules_are_known_by_name() -> None:
    asked = rule(QUERY)
    assert rule_states(asked).rule("errors") is asked
    assert rule_states(asked).rule("other") is None


def test_a_rule_knows_whether_one_of_its_alerts_fires() -> None:
    both = rule({"any": [QUERY, ALERT]})
    one = rule_states(both)
    assert one.firing(both, "checkout") == [None, None]
    one.hear(alert(), "checkout", at(0))
    assert one.firing(both, "checkout") == [None, at(0)]
    assert one.firing(rule(QUERY), "checkout") == [None]


def since(*times: float) -> tuple[datetime, ...]:
    return tuple(at(time) for time in times)


def test_every_service_in_trouble_counts_once_since_its_newest_trouble() -> None:
    """An old warning does not hide that a service shares a new trouble with others."""
    asked, checked = rule(QUERY | {"for": "5m"}), rule(SMOKE, "smoke")
    one = rule_states(asked, checked, rule(ALERT, "alerts"))
    assert one.troubled() == ()
    look(one, asked, BAD, begin=1)
    assert one.troubled() == since(1)
    look(one, checked, BAD, begin=2)
    assert one.troubled() == since(2)
    one.hear(alert(starts=3), "checkout", at(4))
    assert one.troubled() == since(3)
    look(one, asked, BAD, begin=0, service="search")
    assert one.troubled() == since(0, 3)
    one.hear(alert(starts=3, ends=5), "checkout", at(5))
    assert one.troubled() == since(0, 2)
    look(one, checked, GOOD, begin=5)
    look(one, asked, GOOD, begin=5)
    assert one.troubled() == since(0)
    assert one.troubled() is one.troubled()


def test_services_in_trouble_since_the_same_moment_count_each() -> None:
    asked = rule(QUERY)
    one = rule_states(asked)
    for name in ("checkout", "search"):
        look(one, asked, BAD, begin=3, service=name)
    assert one.troubled() == since(3, 3)
    look(one, asked, GOOD, begin=4)
    assert one.troubled() == since(3)


def test_an_inconclusive_look_makes_no_trouble_and_ends_none() -> None:
    asked = rule(QUERY | {"for": "5m"})
    one = rule_states(asked)
    look(one, asked, UNKNOWN)
    assert one.troubled() == ()
    look(one, asked, BAD, UNKNOWN, begin=1)
    assert one.troubled() == since(1)


@pytest.mark.parametrize(
    ("when", "back"),
    [
        (ALERT, seconds(30)),
        (SMOKE, seconds(30)),
        (QUERY, seconds(30)),
        (QUERY | {"for": "5m"}, minutes(10) + seconds(15)),
        (QUERY | {"bad": {"times": 4, "of": 6}}, seconds(15 * 7)),
        ({"all": [QUERY | {"for": "1m"}, QUERY | {"for": "5m"}, ALERT]}, minutes(10) + seconds(15)),
    ],
)
def test_a_restart_looks_back_far_enough_to_rebuild_what_is_pending(when: Any, back: timedelta) -> None:
    assert gap(rule(when), POLL) == back


# -- storms -------------------------------------------------------------------------------------
def test_a_storm_of_alerts_of_one_service_is_looked_at_in_bounds_and_none_is_mistaken_for_another() -> None:
    count = 20_000
    one = rule_states(rule({"alert": 'alertname=~"High.*Rate"'}), rule({"all": [ALERT, ALERT]}, "both"))
    alerts = [alert(fingerprint=f"{number:016x}", number=str(number)) for number in range(count)]
    began = time.thread_time()
    for each in alerts:
        assert one.hear(each, "checkout", at(1))
    assert time.thread_time() - began < 4
    began = time.thread_time()
    assert len(one.all_triggers("checkout", at(2))) == 251
    assert one.standing("checkout", at(2)) is Standing.BAD
    assert time.thread_time() - began < 0.25
    began = time.thread_time()
    named = [f"errors/{each.episode}" for each in alerts]
    assert all(one.goes_on("checkout", name, at(2)) for name in named)
    assert not any(one.over("checkout", name, at(2)) for name in named)
    assert time.thread_time() - began < 2
    for each in alerts[1:]:
        one.hear(replace(each, ends_at=at(3)), "checkout", at(3))
    assert [one.goes_on("checkout", name, at(4)) for name in named] == [True] + [False] * (count - 1)
    assert all(one.over("checkout", name, at(4)) for name in named[1:])
    one.forget_alerts(lambda *_: True)
    assert one.standing("checkout", at(5)) is Standing.GOOD


def test_an_alert_whose_labels_changed_is_asked_for_by_another_rule() -> None:
    one = rule_states(rule(ALERT), rule({"alert": 'alertname="Other"'}, "other"))
    one.hear(alert(), "checkout", at(0))
    one.hear(alert("Other"), "checkout", at(1))
    assert episodes(one) == [f"other/{alert().episode}"]


def test_an_alert_that_outlives_its_lag_after_a_rollback_is_an_episode_of_what_runs_now_and_goes_on() -> None:
    asked = rule(ALERT)
    v1, v2 = (State({"code": Release(name)}) for name in ("v1", "v2"))
    spells = (Spell(v1, at(-60), at(-60)), Spell(v2, at(-5), at(-5)), Spell(v1, at(3), at(3), "checkout-1"))
    rolled = Rollback("checkout-1", at(1), ended=at(3), outcome=Outcome.RECOVERED, acted=True, stepped=at(2))
    one = rule_states(asked, undone=lambda _: rolled, spells=spells)
    one.hear(alert(), "checkout", at(0))
    assert episodes(one, 10) == []
    assert one.condition(asked, "checkout", at(10)).standing is Standing.INCONCLUSIVE
    assert one.over("checkout", f"errors/{alert().episode}", at(10)) == "", "while it may lag nothing is known"
    (episode,) = episodes(one, 30)
    assert episode == f"errors/{alert().episode}/checkout-1"
    assert one.goes_on("checkout", episode, at(30))
    assert one.over("checkout", episode, at(30)) == ""
    assert [trigger.onset for trigger in one.all_triggers("checkout", at(30))] == [at(3)]
    one.hear(alert(ends=31), "checkout", at(31))
    assert not one.goes_on("checkout", episode, at(32))
