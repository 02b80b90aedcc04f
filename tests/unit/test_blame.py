"""Was it bad already before the change? From Prometheus's memory, by the rule's own queries and matchers alone."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd.config.load import load
from rollbackd.decision.blame import Blame
from rollbackd.journal import Journal
from rollbackd.model import Action, Verdict
from rollbackd.policy.ledger import LastDecision, ServiceLedger
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.prometheus import TimedPrometheus
from tests.unit.builders import minutes

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
CHANGE = START - minutes(10)
"""The last look at the old state."""
SLOW = {"query": "q", "above": 1, "for": "5m"}
SICK = {"alert": 'alertname=~"Sick|Ill", severity="page"'}
ALERTS = 'ALERTS{alertname=~"Sick|Ill",severity="page",alertstate=~"pending|firing"}'


class Inquiry:
    """One rule about the shop, and what Prometheus remembers."""

    def __init__(self, directory: Path, when: Mapping[str, Any], *, alone: bool = False) -> None:
        self.clock = ManualClock()
        self.prometheus = TimedPrometheus(self.clock)
        rule = {"name": "sick", "when": when, **({"services": ["shop"]} if alone else {})}
        layer = {"adapter": "command", "current": ["x"], "releases": ["x"], "apply": ["x"]}
        document = {
            "daemon": {"mode": "act", "open_on_loopback": True},
            "prometheus": {"url": "http://127.0.0.1:9090", "poll_every": "1m"},
            "peers": {"fronts": ["shop", "basket", "search"]},
            "rules": [rule],
            "services": [
                {
                    "name": name,
                    "match": {"service": name},
                    "layers": {"code": layer},
                    "checks": {"health": {"command": ["true"]}},
                    "verify": {"checks": ["health"]},
                }
                for name in ("shop", "basket", "search")
            ],
        }
        path = directory / "config.yaml"
        path.write_text(json.dumps(document))
        self.config = load(path).config
        self.read_model = ReadModel(cast("Journal", MemoryJournal(self.clock)))
        self.rule_states = RuleStates(self.config)

    async def ask(self, *, asked: bool = True, ran: float | None = None, **labels: str) -> tuple[Verdict, str]:
        """`ran`: how many minutes the old state ran."""
        since = CHANGE - minutes(ran) if ran is not None else None
        prometheus = cast("Prometheus", self.prometheus) if asked else None
        before = Blame(self.config, self.read_model, self.rule_states, self.clock, prometheus)
        return await before.before(self.config.rules[0], "shop", CHANGE, minutes(30), labels, since)

    def tell(self, course: Callable[[float], float | None] | float, query: str = "q", **labels: str) -> None:
        """The value at so many minutes before the change, negative after it."""
        steady = course if callable(course) else lambda _: course

        def at(time: datetime) -> float | None:
            return steady((CHANGE - time) / timedelta(minutes=1))

        self.prometheus.tell(query, at, **({"service": "shop"} | labels))


Made = Callable[..., Inquiry]


@pytest.fixture
def inquiry(tmp_path: Path) -> Made:
    def made(when: Mapping[str, Any], *, alone: bool = False) -> Inquiry:
        return Inquiry(tmp_path, when, alone=alone)

    return made


# -- queries ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("course", "verdict", "said"),
    [
        (lambda _: 0.5, GOOD, "0.5, not above 1"),
        (lambda ago: 2.0 if ago <= 12 else 0.5, BAD, "since 12m before the change: 2, above 1"),
        (lambda ago: 2.0 if ago <= 3 else 0.5, GOOD, "since 3m before the change: 2, above 1"),
        (lambda ago: 2.0 if 3 <= ago <= 20 else 0.5, BAD, "since 20m before the change: 2, above 1"),
        (lambda ago: 2.0 if 16 <= ago <= 20 else 0.5, GOOD, "0.5, not above 1"),
        (lambda ago: 2.0 if 31 <= ago <= 40 else 0.5, GOOD, "0.5, not above 1"),
        (lambda ago: 0.5 if ago > 0 else 2.0, GOOD, "since 0s before the change: 2, above 1"),
        (lambda ago: 0.5 if ago > 4 else None, UNKNOWN, "nothing is known of the last 5m before the change"),
        (lambda ago: 2.0 if ago > 4 else float("nan"), BAD, "since 41m before the change: 2, above 1"),
        (lambda ago: 0.5 if ago > 4 else float("nan"), UNKNOWN, "nothing is known of the last 5m before the change"),
        (lambda ago: 2.0 if ago > 1 else None, BAD, "since 41m before the change: 2, above 1"),
        (lambda ago: 2.0 if ago < 0 else None, UNKNOWN, "no data before the change"),
        (lambda _: float("nan"), UNKNOWN, "no number: NaN"),
    ],
)
async def test_a_query_is_judged_as_it_would_have_been_polled(
    inquiry: Made, course: Any, verdict: Verdict, said: str
) -> None:
    one = inquiry(SLOW)
    one.tell(course)
    assert await one.ask() == (verdict, said)
    assert one.prometheus.ranges == [("q", CHANGE - minutes(30 + 11), CHANGE, minutes(1))]


@pytest.mark.parametrize(
    ("ran", "verdict", "said"),
    [
        (60, BAD, "since 29m before the change: 2, above 1"),
        (15, GOOD, "0.5, not above 1"),  # it was the state before that was sick
        (25, BAD, "since 29m before the change: 2, above 1"),  # sick before and on into this one
        (0, UNKNOWN, "the old state did not run long enough"),
    ],
)
async def test_trouble_of_an_older_state_is_not_the_old_ones(
    inquiry: Made, ran: float, verdict: Verdict, said: str
) -> None:
    one = inquiry(SLOW)
    one.tell(lambda ago: 2.0 if 17 <= ago <= 29 else 0.5)
    assert await one.ask(ran=ran) == (verdict, said)


async def test_what_a_query_looks_back_over_belongs_to_the_older_state(inquiry: Made) -> None:
    one = inquiry(SLOW | {"query": "rate(q[5m])", "for": "0s"})
    one.tell(lambda ago: 2.0 if ago >= 11 else 0.5, "rate(q[5m])")
    assert (await one.ask(ran=15))[0] is GOOD
    assert (await one.ask(ran=25))[0] is BAD


@pytest.mark.parametrize(("first", "last", "verdict"), [(29, 24, GOOD), (29, 17, BAD), (4, 1, GOOD), (8, 3, BAD)])
async def test_trouble_counts_that_was_there_at_the_change_or_for_a_good_share_of_the_time(
    inquiry: Made, first: float, last: float, verdict: Verdict
) -> None:
    """It must have lasted for the rule's five minutes in any case."""
    one = inquiry(SLOW | {"for": "5m"})
    one.tell(lambda ago: 2.0 if last <= ago <= first else 0.5)
    assert (await one.ask(ran=60))[0] is verdict


async def test_a_past_that_cannot_be_asked_says_nothing(inquiry: Made) -> None:
    one = inquiry(SLOW)
    one.prometheus.past_problem = "down"
    assert await one.ask() == (UNKNOWN, "down")
    assert await one.ask(asked=False) == (UNKNOWN, "no Prometheus to ask")


async def test_samples_count_in_the_past_too(inquiry: Made) -> None:
    one = inquiry({**SLOW, "samples": {"query": "n", "at_least": 50}})
    one.tell(2)
    one.tell(49, "n")
    assert await one.ask() == (UNKNOWN, "2, but on 49 samples only, wants 50")
    one.tell(50, "n")
    assert (await one.ask())[0] is BAD


async def test_another_services_series_say_nothing(inquiry: Made) -> None:
    one = inquiry(SLOW)
    one.tell(2, service="basket")
    assert (await one.ask())[0] is UNKNOWN


# -- comparisons --------------------------------------------------------------------------------
async def test_a_drop_against_another_time_is_replayed(inquiry: Made) -> None:
    one = inquiry({"query": "q", "drops_by": "50%", "against": {"offset": "1d"}, "for": "5m"})
    one.tell(lambda ago: 1.0 if ago < 12 else 5.0)
    assert await one.ask() == (BAD, "since 11m before the change: 1, 80% below 5 1d ago (drops_by 50%)")
    one.tell(lambda ago: 1.0 if ago < -2 else 5.0)
    assert (await one.ask())[0] is GOOD


async def test_one_that_was_unlike_its_peers_before_was_bad_before(inquiry: Made) -> None:
    one = inquiry({"query": "q", "rises_by": "50%", "against": {"peers": "fronts"}})
    for name in ("basket", "search"):
        one.tell(0.1, service=name)
    one.tell(0.4)
    assert (await one.ask())[0] is BAD
    one.tell(lambda ago: 0.4 if ago < 0 else 0.1)
    assert (await one.ask())[0] is GOOD


@pytest.mark.parametrize("against", [{"before_change": "30m"}, {"peers": {"label": "version"}}])
async def test_what_is_compared_with_before_the_change_cannot_have_been_bad_then(inquiry: Made, against: Any) -> None:
    one = inquiry({"query": "q", "rises_by": "50%", "against": against})
    assert await one.ask() == (GOOD, "it compares with the time before the change")


@pytest.mark.parametrize(("high", "verdict"), [(0.6, BAD), (0.3, GOOD)])
async def test_a_test_of_samples_is_made_once_at_the_change(inquiry: Made, high: float, verdict: Verdict) -> None:
    samples = {"query": "n", "at_least": 1}
    one = inquiry({"query": "q", "differs": {}, "against": {"offset": "1d"}, "samples": samples})
    one.tell(lambda ago: (high if ago < 60 else 0.3) + ago % 7 / 1000)
    one.tell(5, "n")
    found, said = await one.ask()
    assert found is verdict
    assert "of 16 samples against 0.3" in said
    assert one.prometheus.instants == [("n", CHANGE)]


# -- alerts -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("course", "verdict", "said"),
    [
        (lambda ago: 1.0 if ago < 0 else None, GOOD, "the alert did not fire in the 30m before the change"),
        (lambda ago: 1.0 if ago < 12 else None, BAD, "since 11m before the change: the alert fired"),
        (lambda ago: 1.0 if ago < 12 and ago != 5 else None, BAD, "since 11m before the change: the alert fired"),
        (lambda ago: 1.0 if ago < 12 and not 4 < ago < 8 else None, BAD, "since 4m before the change: the alert fired"),
        (lambda ago: 1.0 if ago > 7 else None, BAD, "since 30m before the change: the alert fired"),
        (lambda _: None, UNKNOWN, "this Prometheus knows no such alert"),
    ],
)
async def test_an_alert_is_looked_up_among_those_that_fired(
    inquiry: Made, course: Any, verdict: Verdict, said: str
) -> None:
    one = inquiry(SICK)
    one.tell(course, ALERTS, alertname="Sick")
    assert await one.ask(alertname="Sick") == (verdict, said)


def _one_where(there: Callable[[float], bool], ago: float) -> float | None:
    return 1.0 if there(ago) else None


@pytest.mark.parametrize(
    ("pending", "fired", "verdict"),
    [
        (lambda ago: -2 < ago < 3, lambda ago: ago <= -2, BAD),  # it waited at the change, and fired after it
        (lambda ago: -2 < ago < 0, lambda ago: ago <= -2, GOOD),  # it waits since the change
        (lambda ago: 2 < ago < 6, lambda ago: ago <= -2, GOOD),  # it waited before, and that was over
        (lambda ago: ago < 3, lambda _: False, UNKNOWN),  # it never fired, and nothing is known of what did
    ],
)
async def test_an_alert_that_waited_to_fire_at_the_change_is_of_the_old_state(
    inquiry: Made, pending: Any, fired: Any, verdict: Verdict
) -> None:
    one = inquiry(SICK)
    for state, there in (("pending", pending), ("firing", fired)):
        one.tell(partial(_one_where, there), ALERTS, alertname="Sick", alertstate=state)
    assert (await one.ask(alertname="Sick"))[0] is verdict


async def test_only_alerts_of_the_same_name_and_service_count(inquiry: Made) -> None:
    one = inquiry(SICK)
    one.tell(1, ALERTS, alertname="Ill")
    one.tell(1, ALERTS, alertname="Sick", service="basket")
    one.tell(lambda ago: 1.0 if ago < 0 else None, ALERTS, alertname="Sick")
    assert (await one.ask(alertname="Sick"))[0] is GOOD
    assert (await one.ask(alertname="Ill"))[0] is BAD
    assert (await one.ask())[0] is BAD


async def test_an_alerts_labels_never_become_part_of_the_query(inquiry: Made) -> None:
    one = inquiry(SICK)
    await one.ask(alertname='"} or vector(1) #', severity="page")
    assert {query for query, *_ in one.prometheus.ranges} == {ALERTS}


async def test_a_rule_for_one_service_alone_takes_alerts_without_its_labels(inquiry: Made) -> None:
    one = inquiry(SICK, alone=True)
    one.prometheus.tell(ALERTS, 1, alertname="Sick")
    assert (await one.ask())[0] is BAD
    many = inquiry(SICK)
    many.prometheus.tell(ALERTS, 1, alertname="Sick")
    assert (await many.ask())[0] is UNKNOWN


async def test_an_alert_whose_past_cannot_be_asked_says_nothing(inquiry: Made) -> None:
    one = inquiry(SICK)
    one.prometheus.past_problem = "down"
    assert await one.ask() == (UNKNOWN, "down")


# -- put together -------------------------------------------------------------------------------
async def test_of_all_one_that_was_good_suffices_and_of_any_one_that_was_bad(inquiry: Made) -> None:
    for kind, verdict in (("all", GOOD), ("any", BAD)):
        one = inquiry({kind: [SICK, SLOW]})
        one.tell(1, ALERTS, alertname="Sick")
        one.tell(0.5)
        assert (await one.ask())[0] is verdict


@pytest.mark.parametrize("other", [{"check": "health"}, {"event": "e2e_failed"}])
async def test_what_nobody_keeps_is_not_known(inquiry: Made, other: dict[str, str]) -> None:
    assert await inquiry(other).ask() == (UNKNOWN, "nobody keeps what a check or an event said")
    both = inquiry({"all": [other, SLOW]})
    both.tell(2)
    assert (await both.ask())[0] is UNKNOWN
    both.tell(0.5)
    assert (await both.ask())[0] is GOOD


# -- our own journal ----------------------------------------------------------------------------
def remembered(onset: float, reached: float, rule: str = "sick", alertname: str = "Sick") -> LastDecision:
    """An episode, by minutes before the change."""
    begun, seen = CHANGE - minutes(onset), CHANGE - minutes(reached)
    return LastDecision(START, Action.REFUSE, frozenset(), "", rule, alertname, begun, seen)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (remembered(5, 5), BAD),
        (remembered(29, 0), BAD),
        (remembered(5, -1), UNKNOWN),  # heard of after the change
        (remembered(61, 20), UNKNOWN),  # of the state before the old one
        (remembered(50, 40), UNKNOWN),  # longer ago than is looked
        (remembered(5, 5, rule="other"), UNKNOWN),
        (remembered(5, 5, alertname="Ill"), UNKNOWN),
    ],
)
@pytest.mark.parametrize("asked", [True, False])
async def test_what_the_journal_saw_under_the_old_state_counts_as_the_past(
    inquiry: Made, seen: LastDecision, verdict: Verdict, asked: bool
) -> None:
    one = inquiry(SICK)
    one.read_model._projection.services["shop"] = ServiceLedger(episodes={"sick/x": seen})
    found, said = await one.ask(asked=asked, ran=60, alertname="Sick")
    assert found is verdict
    assert ("under the old state" in said) is (verdict is BAD)


async def test_trouble_of_a_young_old_state_is_seen_in_the_journal_alone(inquiry: Made) -> None:
    one = inquiry(SICK)
    assert (await one.ask(ran=5, alertname="Sick"))[0] is UNKNOWN
    one.read_model._projection.services["shop"] = ServiceLedger(episodes={"sick/x": remembered(3, 3)})
    assert (await one.ask(ran=5, alertname="Sick"))[0] is BAD
