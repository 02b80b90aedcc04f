"""Comparisons with other times, with the time before a change, with peers and with old instances, as they are polled."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.config.load import load
from rollbackd.decision.engine import DecisionEngine
from rollbackd.execution.check_runner import CheckRunner, CheckSurroundings
from rollbackd.journal import Entry, Journal
from rollbackd.model import FLEET, Action, Trigger, Verdict, service_stream
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import QueryWhen
from rollbackd.rules.tracks import Standing
from rollbackd.signals.baselines import turn_of
from rollbackd.signals.polls import PrometheusPolls
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_conditions import ComparisonQueries, QueryConditions
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.system.spawner import Spawner
from tests.fakes.clock import START, ManualClock
from tests.fakes.journal import MemoryJournal
from tests.fakes.prometheus import TimedPrometheus
from tests.unit.builders import changed, decided, minutes, trigger

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
MINUTE = timedelta(minutes=1)
NAMES = ("shop", "basket", "search", "login")
DAY = {"offset": "1d"}
BEFORE = {"before_change": "30m"}
PEERS = {"peers": "fronts"}
VERSION = {"peers": {"label": "version"}}


class FakeJudge:
    """Notes what it is to consider."""

    def __init__(self) -> None:
        self.triggers: list[Trigger] = []

    def consider_soon(self, trigger: Trigger, *_: Any, **__: Any) -> None:
        self.triggers.append(trigger)

    def run_soon(self, work: Any) -> None:
        work.close()


class Street:
    """Four services alike, one rule about them, a Prometheus that knows its past."""

    def __init__(self, directory: Path, when: Mapping[str, Any], services: Sequence[str] = ()) -> None:
        self.clock = ManualClock()
        self.prometheus = TimedPrometheus(self.clock)
        rule: dict[str, Any] = {"name": "moved", "when": {"query": "q", **when}}
        document = {
            "daemon": {"mode": "act", "open_on_loopback": True},
            "prometheus": {"url": "http://127.0.0.1:9090", "poll_every": "1m"},
            "peers": {"fronts": list(NAMES)},
            "rules": [rule | ({"services": list(services)} if services else {})],
            "services": [
                {
                    "name": name,
                    "match": {"service": name},
                    "layers": {"code": {"adapter": "command", "current": ["x"], "releases": ["x"], "apply": ["x"]}},
                    "checks": {"same": {"query": "q", "drops_by": "50%", "against": DAY}},
                    "verify": {"checks": ["same"]},
                }
                for name in NAMES
            ],
        }
        path = directory / "config.yaml"
        path.write_text(json.dumps(document))
        self.config = load(path).config
        self.read_model = ReadModel(cast("Journal", MemoryJournal(self.clock)))
        self.begin()

    def begin(self) -> None:
        """A life: it has nothing but the journal."""
        self.rule_states = RuleStates(self.config)
        self.decision_engine = FakeJudge()
        asked = cast("Prometheus", self.prometheus)
        self.polls = PrometheusPolls(
            self.config,
            self.read_model,
            self.rule_states,
            cast("DecisionEngine", self.decision_engine),
            self.clock,
            asked,
        )
        self.queries = QueryConditions(self.config, self.read_model, self.rule_states, asked)

    async def change(self, service: str = "shop", ago: float = 10, incident: str = "") -> None:
        """v1, seen an hour before, became v2 so many minutes ago; or a rollback made it v1 again."""
        if not self.read_model.of(service).spells:
            await self.read_model.append(Entry(service_stream(service), changed("v1", -ago - 600, -ago - 600)[1]))
        _, fact = changed("v1" if incident else "v2", -ago - 0.5, -ago, incident)
        await self.read_model.append(Entry(service_stream(service), fact))

    async def poll(self, times: int = 1) -> None:
        for _ in range(times):
            await self.polls.poll()
            self.clock.advance(MINUTE)

    @property
    def said(self) -> str:
        return self.rule_states.seen("shop", self.clock.now())[0].reason

    def stands(self, standing: Standing) -> bool:
        return self.rule_states.standing("shop", self.clock.now()) is standing

    async def verified(self, since: datetime) -> Observation:
        """What verification sees after a last step."""
        rule = self.config.rules[0]
        leaf = rule.leaves[0]
        assert isinstance(leaf, QueryWhen)
        answers = await self.queries.ask([leaf])
        found = await self.queries.observe(rule, leaf, answers, ["shop"], self.clock.now(), since)
        return found["shop"]


Built = Callable[..., Street]


@pytest.fixture
def street(tmp_path: Path) -> Built:
    def built(services: Sequence[str] = (), **when: Any) -> Street:
        return Street(tmp_path, when, services)

    return built


def turning(minute: float, before: float, after: float) -> Callable[[datetime], float]:
    """A value that becomes another so many minutes after the start."""
    return lambda time: before if time < START + minutes(minute) else after


def spread(low: float, high: float, minute: float = -10) -> Callable[[datetime], float]:
    """Values that differ from minute to minute by a few per cent, around another level from a minute on."""

    def value(time: datetime) -> float:
        noise = (time.minute * 7 % 11) / 200
        return (low if time < START + minutes(minute) else high) * (1 + noise)

    return value


# -- another time -------------------------------------------------------------------------------
async def test_a_drop_against_yesterday_is_bad_and_shows_its_numbers(street: Built) -> None:
    town = street(drops_by="50%", against=DAY)
    town.prometheus.tell("q", turning(-60, 0.26, 0.12), service="shop")
    await town.poll()
    assert town.stands(Standing.BAD)
    assert town.said == "0.12, 54% below 0.26 1d ago (drops_by 50%)"
    (met,) = town.decision_engine.triggers
    assert met.evidence[0].threshold == "drops by 50% against 1d ago"


async def test_one_question_a_poll_and_one_for_the_other_time_serve_all_services(street: Built) -> None:
    town = street(drops_by="50%", against=DAY)
    for name in NAMES:
        town.prometheus.tell("q", 5, service=name)
    await town.poll()
    assert town.prometheus.instants == [("q", None), ("q", START - timedelta(days=1))]
    assert town.prometheus.ranges == []


@pytest.mark.parametrize(
    ("yesterday", "reason"),
    [(None, "5, but 1d ago there is no data"), (float("nan"), "5, but 1d ago there is no number: NaN")],
)
async def test_without_a_number_of_yesterday_nothing_is_said(
    street: Built, yesterday: float | None, reason: str
) -> None:
    town = street(drops_by="50%", against=DAY)
    town.prometheus.tell("q", lambda time: yesterday if time < START else 5.0, service="shop")
    await town.poll()
    assert town.stands(Standing.INCONCLUSIVE)
    assert town.said == reason


async def test_too_few_samples_and_no_data_now_say_nothing_either(street: Built) -> None:
    town = street(drops_by="50%", against=DAY, samples={"query": "n", "at_least": 50})
    town.prometheus.tell("q", turning(-60, 5, 1), service="shop")
    town.prometheus.tell("n", 49, service="shop")
    await town.poll()
    assert town.said == "1, but on 49 samples only, wants 50"
    town.prometheus.tell("n", 50, service="shop")
    await town.poll()
    assert town.stands(Standing.BAD)
    town.prometheus.courses["q"].clear()
    await town.poll()
    assert town.said == "no data"


async def test_prometheus_failing_for_one_of_the_two_times_is_inconclusive(street: Built) -> None:
    town = street(drops_by="50%", against=DAY)
    town.prometheus.tell("q", 5, service="shop")
    town.prometheus.problems["q"] = "down"
    await town.poll()
    assert town.stands(Standing.INCONCLUSIVE)
    assert town.said == "down"


async def test_after_a_rollback_the_other_time_is_never_the_sick_one(street: Built) -> None:
    town = street(rises_by="50%", against={"offset": "10m"})
    await town.change(ago=20)
    town.prometheus.tell("q", lambda time: 0.9 if -20 <= (time - START) / MINUTE < 0 else 0.1, service="shop")
    town.clock.advance(5 * MINUTE)
    seen = await town.verified(since=START)
    assert (seen.verdict, seen.reason) == (
        GOOD,
        "0.1, the same as 0.1 before the change that was rolled back (rises_by 50%)",
    )
    town.prometheus.tell("q", lambda time: 0.9 if (time - START) / MINUTE >= -20 else 0.1, service="shop")
    assert (await town.verified(since=START)).verdict is BAD
    await town.change(ago=0, incident="shop-1")
    await town.poll()
    assert town.stands(Standing.BAD)


# -- before the change --------------------------------------------------------------------------
async def test_a_rise_over_the_time_before_the_change_is_bad(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    await town.change()
    town.prometheus.tell("q", turning(-10, 0.2, 0.4), service="shop")
    await town.poll(3)
    assert town.stands(Standing.BAD)
    assert town.said == "0.4, 100% above 0.2, the median of 30m before the change (rises_by 50%)"
    assert len(town.prometheus.ranges) == 1, "the past does not move"
    (_, begin, end, _), *_ = town.prometheus.ranges
    assert (begin, end) == (START - minutes(40.5), START - minutes(10.5))


async def test_a_value_that_looks_back_over_the_change_is_not_of_after_it(street: Built) -> None:
    town = street(query="rate(x[12m])", rises_by="50%", against=BEFORE)
    await town.change()
    town.prometheus.tell("rate(x[12m])", turning(-10, 0.2, 0.4), service="shop")
    await town.poll()
    assert town.said == "looks 12m back, to before the change; conclusive in 2m"
    await town.poll(2)
    assert town.stands(Standing.BAD)


async def test_without_a_change_it_is_not_asked_and_stops_nothing_from_becoming_good(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    town.prometheus.tell("q", 0.2, service="shop")
    await town.poll()
    assert town.stands(Standing.GOOD)
    assert town.said == "asked only after a change"
    await town.change(ago=121)
    await town.poll()
    assert town.stands(Standing.GOOD)
    assert town.prometheus.ranges == []


async def test_trouble_that_began_in_the_change_window_is_followed_beyond_it(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    await town.change(ago=118)
    town.prometheus.tell("q", turning(-10, 0.2, 0.4), service="shop")
    await town.poll(10)
    assert town.stands(Standing.BAD)
    town.prometheus.tell("q", 0.2, service="shop")
    await town.poll(2)
    assert town.stands(Standing.GOOD)
    assert town.said == "asked only after a change"


async def test_only_the_state_that_ran_right_before_is_compared_with(street: Built) -> None:
    """v1 ran well, v2 was sick for long, v3 mended half of it: against v2, not against v1."""
    town = street(rises_by="50%", against=BEFORE)
    await town.change(ago=20)
    _, third = changed("v3", -10.5, -10)
    await town.read_model.append(Entry(service_stream("shop"), third))
    town.prometheus.tell("q", lambda time: 0.1 if time < START - minutes(20) else 0.4, service="shop")
    await town.poll()
    assert town.said == "0.4, the same as 0.4, the median of 30m before the change (rises_by 50%)"
    assert town.prometheus.ranges[0][1:3] == (START - minutes(20), START - minutes(10.5))


async def test_what_ran_too_short_is_nothing_to_compare_with(street: Built) -> None:
    town = street(query="rate(x[15m])", rises_by="50%", against=BEFORE)
    await town.change(ago=30)
    _, third = changed("v3", -20.5, -20)
    await town.read_model.append(Entry(service_stream("shop"), third))
    town.prometheus.tell("rate(x[15m])", 0.4, service="shop")
    await town.poll()
    assert town.said == "0.4, but what ran before the change ran too short to compare with"


async def test_few_or_ambiguous_points_before_the_change_are_nothing_to_compare_with(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    await town.change()
    town.prometheus.tell("q", lambda time: 0.4 if time > START - minutes(12) else None, service="shop")
    await town.poll()
    assert town.said == "0.4, but there are 2 values of 30m before the change"
    town.prometheus.tell("q", turning(-11, 0.1, 0.4), service="shop", pod="a")
    town.prometheus.tell("q", lambda time: 0.4 if time < START - minutes(11) else None, service="shop", pod="b")
    town.prometheus.tell("q", lambda _: None, service="shop")
    await town.poll()
    town.begin()
    await town.poll()
    assert "ambiguous: 2 series" in town.said


async def test_the_past_of_many_services_is_asked_in_few_ranges(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    for place, name in enumerate(NAMES):
        await town.change(name, ago=10 + place)
        town.prometheus.tell("q", 0.2, service=name)
    await town.poll()
    assert len(town.prometheus.ranges) == 1
    assert all(town.rule_states.standing(name, town.clock.now()) is Standing.GOOD for name in NAMES)


async def test_a_past_that_cannot_be_asked_is_asked_again(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    await town.change()
    town.prometheus.tell("q", turning(-10, 0.2, 0.4), service="shop")
    town.prometheus.past_problem = "down"
    await town.poll()
    assert town.stands(Standing.INCONCLUSIVE)
    assert town.said == "0.4, but down"
    town.prometheus.past_problem = ""
    await town.poll()
    assert town.stands(Standing.BAD)


async def test_what_prometheus_learns_late_of_the_past_is_taken_in_and_later_not(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    await town.change(ago=1)
    town.prometheus.tell("q", lambda time: 0.4 if time > START else None, service="shop")
    town.clock.advance(MINUTE)
    await town.poll(2)
    assert len(town.prometheus.ranges) == 2
    town.clock.advance(5 * MINUTE)
    await town.poll(3)
    assert len(town.prometheus.ranges) == 3


async def test_after_a_rollback_it_is_compared_with_before_the_change_that_was_rolled_back(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    await town.change(ago=20)

    def sick(time: datetime) -> float:
        return 0.9 if -20 <= (time - START) / MINUTE < 0 else 0.1

    town.prometheus.tell("q", sick, service="shop")
    town.clock.advance(3 * MINUTE)
    seen = await town.verified(since=START)
    assert seen.reason == "0.1, the same as 0.1, the median of 30m before the change (rises_by 50%)"
    await town.change(ago=0, incident="shop-1")
    await town.poll()
    assert town.stands(Standing.GOOD)
    assert town.said == seen.reason
    town.prometheus.tell("q", lambda time: 0.9 if time > START else sick(time), service="shop")
    await town.poll()
    assert town.stands(Standing.BAD)


async def test_a_turn_is_the_last_change_of_somebodys_own(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    assert turn_of(town.read_model.of("shop")) is None
    await town.change(ago=60)
    found = turn_of(town.read_model.of("shop"))
    assert found is not None
    assert (found.start, found.end, found.began) == (START - minutes(60.5), START - minutes(60), None)
    assert (found.settled, found.undone) == (START - minutes(60), False)
    await town.change(ago=30, incident="shop-1")
    undone = turn_of(town.read_model.of("shop"))
    assert undone is not None
    assert (undone.start, undone.settled, undone.undone) == (found.start, START - minutes(30), True)
    await town.change(ago=10)
    again = turn_of(town.read_model.of("shop"))
    assert again is not None
    assert (again.start, again.began, again.undone) == (START - minutes(10.5), START - minutes(30), False)


# -- peers --------------------------------------------------------------------------------------
def alike(town: Street, **values: float) -> None:
    for name in NAMES:
        town.prometheus.tell("q", values.get(name, 0.1), service=name)


async def test_one_that_is_unlike_its_peers_is_bad(street: Built) -> None:
    town = street(rises_by="50%", against=PEERS)
    alike(town, shop=0.4, login=0.2)
    await town.poll()
    assert town.stands(Standing.BAD)
    assert town.said == "0.4, 300% above 0.1, the median of 3 peers (rises_by 50%)"
    assert town.rule_states.standing("basket", town.clock.now()) is Standing.GOOD
    assert len(town.prometheus.instants) == 1


async def test_when_all_move_together_nobody_is_bad(street: Built) -> None:
    town = street(rises_by="50%", against=PEERS)
    alike(town, **dict.fromkeys(NAMES, 0.9))
    await town.poll()
    assert town.stands(Standing.GOOD)


async def test_peers_in_trouble_or_freshly_changed_do_not_count(street: Built) -> None:
    town = street(rises_by="50%", against=PEERS)
    alike(town, shop=0.4)
    await town.change("basket", ago=30)
    await town.poll()
    assert town.said.endswith("the median of 2 peers (rises_by 50%)")
    await town.read_model.append(Entry(FLEET, facts.Opening("search", "search-1")))
    await town.poll()
    few = "only 1 of the other services in fronts have data, no incident and no fresh change; wants 2"
    assert town.stands(Standing.INCONCLUSIVE)
    assert town.said == f"0.4, but {few}"
    town.clock.advance(2 * 60 * MINUTE)
    await town.poll()
    assert town.stands(Standing.BAD)


# -- instances ----------------------------------------------------------------------------------
def instance(town: Street, version: str, value: float, since: float = -6000, pod: str = "a") -> None:
    course = lambda time: value if time >= START + minutes(since) else None  # noqa: E731
    town.prometheus.tell("q", course, service="shop", version=version, pod=pod)


async def test_new_instances_unlike_the_old_ones_are_bad(street: Built) -> None:
    town = street(rises_by="50%", against=VERSION)
    await town.change()
    instance(town, "v1", 0.1)
    instance(town, "v1", 0.2, pod="b")
    instance(town, "v2", 0.5, since=-10)
    await town.poll(2)
    assert town.stands(Standing.BAD)
    assert town.said == "0.5, 233% above 0.15, the median of 2 unchanged by version (rises_by 50%)"
    assert len(town.prometheus.ranges) == 1


async def test_without_an_old_or_a_new_instance_nothing_is_said(street: Built) -> None:
    town = street(rises_by="50%", against=VERSION)
    await town.change()
    instance(town, "v1", 0.1)
    await town.poll()
    assert town.stands(Standing.INCONCLUSIVE)
    assert town.said == "no instance is changed by version"
    town.prometheus.courses["q"] = [
        ({"service": "shop", "version": "v1"}, lambda time: 0.1 if time < START - minutes(10) else None)
    ]
    instance(town, "v2", 0.5, since=-10)
    await town.poll()
    assert town.said == "every instance is changed by version: none is left to compare with"


async def test_without_the_label_before_the_change_nothing_is_said(street: Built) -> None:
    town = street(rises_by="50%", against=VERSION)
    await town.change()
    town.prometheus.tell("q", 0.1, service="shop")
    await town.poll()
    assert town.said == "no series had the label version right before the change"
    town.begin()
    town.prometheus.past_problem = "down"
    await town.poll()
    assert town.said == "down"


async def test_after_a_rollback_that_leaves_no_new_instance_it_is_good(street: Built) -> None:
    town = street(rises_by="50%", against=VERSION)
    await town.change()
    instance(town, "v1", 0.1)
    assert (await town.verified(since=START)).reason == "no instance is changed by version any more"
    await town.change(ago=0, incident="shop-1")
    await town.poll()
    assert town.stands(Standing.GOOD)


async def test_a_query_for_one_service_need_not_keep_its_labels(street: Built) -> None:
    town = street(services=["shop"], rises_by="50%", against=VERSION)
    await town.change()
    town.prometheus.tell("q", 0.1, version="v1")
    town.prometheus.tell("q", lambda time: 0.5 if time >= START - minutes(10) else None, version="v2")
    town.prometheus.tell("q", 0.9, service="stranger", version="v2")
    await town.poll()
    assert town.said.startswith("0.5, 400% above 0.1")


# -- tests of samples ---------------------------------------------------------------------------
async def test_samples_after_the_change_that_differ_from_those_before_are_bad(street: Built) -> None:
    town = street(differs={"window": "20m"}, against=BEFORE)
    await town.change(ago=12)
    town.prometheus.tell("q", spread(0.3, 0.42, -12), service="shop")
    await town.poll()
    assert town.stands(Standing.BAD)
    assert "of 13 samples against 0.3" in town.said
    assert "before the change (31 samples): 4" in town.said
    assert [query for query, _ in town.prometheus.instants] == [], "a test asks ranges"
    town.prometheus.tell("q", spread(0.3, 0.3), service="shop")
    town.begin()
    await town.poll()
    assert town.stands(Standing.GOOD)


async def test_a_test_waits_for_enough_samples_of_after_the_change(street: Built) -> None:
    town = street(query="rate(x[2m])", differs={}, against=BEFORE)
    await town.change(ago=5)
    town.prometheus.tell("rate(x[2m])", spread(0.3, 0.6, -5), service="shop")
    await town.poll()
    assert town.said == "4 samples so far, wants 10"
    await town.poll(6)
    assert town.stands(Standing.BAD)


@pytest.mark.parametrize(
    ("against", "words"), [(DAY, "1d ago (16 samples)"), (PEERS, "of peers in fronts (48 samples)")]
)
async def test_samples_against_another_time_and_against_peers(
    street: Built, against: dict[str, Any], words: str
) -> None:
    town = street(differs={}, against=against)
    for name in NAMES:
        town.prometheus.tell("q", spread(0.3, 0.3), service=name)
    town.prometheus.tell("q", spread(0.3, 0.6, -60), service="shop")
    await town.poll()
    assert town.stands(Standing.BAD)
    assert words in town.said
    assert town.rule_states.standing("basket", town.clock.now()) is Standing.GOOD


async def test_samples_of_new_instances_against_those_of_old_ones(street: Built) -> None:
    town = street(differs={}, against=VERSION)
    await town.change(ago=12)
    town.prometheus.tell("q", spread(0.3, 0.3), service="shop", version="v1")
    fresh = spread(0.6, 0.6)
    town.prometheus.tell(
        "q", lambda time: fresh(time) if time >= START - minutes(12) else None, service="shop", version="v2"
    )
    await town.poll()
    assert town.stands(Standing.BAD)
    assert "of instances unchanged by version" in town.said


async def test_a_test_after_a_rollback_is_against_before_the_change(street: Built) -> None:
    town = street(differs={}, against=BEFORE)
    await town.change(ago=30)
    well = spread(0.3, 0.3)
    town.prometheus.tell("q", lambda time: 0.9 if -30 <= (time - START) / MINUTE < 0 else well(time), service="shop")
    town.clock.advance(8 * MINUTE)
    assert (await town.verified(since=START)).reason == "9 samples so far, wants 10"
    town.clock.advance(4 * MINUTE)
    assert (await town.verified(since=START)).verdict is GOOD
    day = street(differs={}, against={"offset": "20m"})
    day.prometheus, day.clock = town.prometheus, town.clock
    day.begin()
    await day.change(ago=30)
    seen = await day.verified(since=START)
    assert seen.verdict is GOOD
    assert "before the change that was rolled back" in seen.reason


@pytest.mark.parametrize("against", [DAY, BEFORE, PEERS, VERSION])
async def test_a_test_says_why_it_cannot_be_made(street: Built, against: dict[str, Any]) -> None:
    town = street(differs={}, against=against, samples={"query": "n", "at_least": 50})
    await town.change()
    town.prometheus.tell("n", 9, service="shop")
    await town.poll()
    assert town.said == "on 9 samples only, wants 50"
    town.prometheus.tell("n", 90, service="shop")
    town.prometheus.past_problem = "down"
    await town.poll()
    assert town.stands(Standing.INCONCLUSIVE)
    assert town.said == "down"
    town.prometheus.past_problem = ""
    for pod in "ab":
        town.prometheus.tell("q", 1, service="shop", pod=pod, version="v1")
    await town.poll()
    assert town.stands(Standing.INCONCLUSIVE)
    assert ("ambiguous: 2 series" in town.said) is (against is not VERSION)


@pytest.mark.parametrize("moved", [{"rises_by": "50%"}, {"differs": {}}])
async def test_a_server_that_does_not_answer_is_a_problem_whatever_is_asked(street: Built, moved: Any) -> None:
    town = street(against=DAY, **moved)
    town.prometheus.problems["q"] = "down"
    await town.poll()
    assert town.polls.problem == "down"
    town.prometheus.problems.clear()
    await town.poll()
    assert town.polls.problem == ""


# -- after a restart ----------------------------------------------------------------------------
@pytest.mark.parametrize("against", [DAY, BEFORE, PEERS])
async def test_a_drop_or_rise_that_was_pending_does_not_wait_twice(street: Built, against: dict[str, Any]) -> None:
    town = street(rises_by="50%", against=against, **{"for": "5m"})
    await town.change(ago=10)
    for name in NAMES:
        town.prometheus.tell("q", 0.2, service=name)
    town.prometheus.tell("q", turning(-3, 0.2, 0.4), service="shop")
    await town.polls.rebuild()
    await town.poll(1)
    assert town.stands(Standing.PENDING)
    await town.poll(2)
    assert [one.onset for one in town.decision_engine.triggers] == [START - minutes(3)]


async def test_what_was_before_the_change_is_no_part_of_trouble_after_it(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE, **{"for": "8m"})
    await town.change(ago=6)
    town.prometheus.tell("q", turning(-9, 0.2, 0.4), service="shop")
    await town.polls.rebuild()
    await town.poll(3)
    assert [one.onset for one in town.decision_engine.triggers] == [START - minutes(6)]


async def test_a_change_too_old_to_blame_is_not_asked_about_at_a_start(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE, **{"for": "8m"})
    await town.change(ago=200)
    town.prometheus.tell("q", turning(-9, 0.2, 0.4), service="shop")
    await town.polls.rebuild()
    assert town.prometheus.ranges == []


async def test_a_past_that_is_not_known_at_the_start_is_rebuilt_when_it_is(street: Built) -> None:
    town = street(rises_by="50%", against=DAY, **{"for": "5m"})
    town.prometheus.tell("q", turning(-6, 0.2, 0.4), service="shop")
    town.prometheus.past_problem = "down"
    await town.polls.rebuild()
    assert town.stands(Standing.INCONCLUSIVE)
    town.prometheus.past_problem = ""
    await town.polls.rebuild()
    assert town.stands(Standing.BAD)


async def test_a_yesterday_without_data_is_nothing_to_rebuild_from(street: Built) -> None:
    town = street(rises_by="50%", against=DAY)
    town.prometheus.tell("q", lambda time: 0.2 if time > START - timedelta(hours=20) else None, service="shop")
    await town.polls.rebuild()
    assert town.stands(Standing.INCONCLUSIVE)
    assert town.said == "0.2, but 1d ago there is no data"


async def test_an_episode_of_a_test_that_goes_on_keeps_its_name(street: Built) -> None:
    town = street(differs={}, against=DAY, samples={"query": "n", "at_least": 1})
    town.prometheus.tell("q", spread(0.3, 0.6, -60), service="shop")
    town.prometheus.tell("n", 5, service="shop")
    await town.poll()
    (first,) = town.decision_engine.triggers
    by = trigger("moved", service="shop", episode=first.episode)
    await town.read_model.append(Entry(service_stream("shop"), facts.Decided(decided(Action.REFUSE, by=by))))
    town.begin()
    town.prometheus.problems["n"] = "down"
    await town.polls.rebuild()
    assert town.stands(Standing.INCONCLUSIVE)
    town.prometheus.problems.clear()
    await town.polls.rebuild()
    await town.poll()
    assert [one.episode for one in town.decision_engine.triggers] == [first.episode]


# -- checks -------------------------------------------------------------------------------------
async def test_a_check_compares_as_a_rule_does(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    compare = ComparisonQueries(
        town.config, town.read_model, town.rule_states, town.clock, cast("Prometheus", town.prometheus)
    )
    check_runner = CheckRunner(CheckSurroundings(Spawner(), town.clock, lambda: None, town.prometheus, compare=compare))
    shop = town.config.services[0]
    town.prometheus.tell("q", turning(-60, 5, 1), service="shop")
    result = await check_runner.ask(shop, "same")
    assert (result.verdict, result.reason) == (BAD, "1, 80% below 5 1d ago (drops_by 50%)")
    town.prometheus.tell("q", 5, service="shop")
    assert (await check_runner.ask(shop, "same")).verdict is GOOD


async def test_a_check_has_nothing_to_say_of_what_did_not_change(street: Built) -> None:
    town = street(rises_by="50%", against=BEFORE)
    compare = ComparisonQueries(
        town.config, town.read_model, town.rule_states, town.clock, cast("Prometheus", town.prometheus)
    )
    when = QueryWhen.model_validate({"query": "q", "rises_by": 0.5, "against": BEFORE})
    town.prometheus.tell("q", 5, service="shop")
    seen = await compare("shop", when, None)
    assert seen == Observation(GOOD, None, "there is no fresh change to compare with")
    verified = await compare("shop", when, START - MINUTE)
    assert verified is not None
    assert (verified.verdict, verified.reason) == (UNKNOWN, "5, but no change to compare with")
    assert (
        await ComparisonQueries(town.config, town.read_model, town.rule_states, town.clock, None)("shop", when, None)
        is None
    )
