"""Queries: asked once for all, inconclusive when they say nothing, and known again after a restart."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from rollbackd import facts
from rollbackd.decision.engine import DecisionEngine
from rollbackd.journal import Entry
from rollbackd.model import Action, Trigger, service_stream
from rollbackd.rules.tracks import Standing
from rollbackd.signals.polls import PrometheusPolls
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.rule_state import RuleStates
from tests.fakes.clock import START
from tests.unit.builders import decided
from tests.unit.house import DOWN, FakePrometheus, House, trigger

MINUTE = timedelta(minutes=1)


class FakeJudge:
    """Notes what it is to consider."""

    def __init__(self) -> None:
        self.triggers: list[Trigger] = []
        self.beside: list[Any] = []

    def consider_soon(self, trigger: Trigger, *_: Any, **__: Any) -> None:
        self.triggers.append(trigger)

    def run_soon(self, work: Any) -> None:
        self.beside.append(work)


SLOW = {"name": "slow", "when": {"query": "latency", "above": 1, "for": "5m"}}


class Watch(House):
    """The house with a poll loop; a new life of it has nothing but the journal."""

    def __init__(self, directory: Path, *rules: Mapping[str, Any]) -> None:
        super().__init__(
            directory, rules=rules or (SLOW,), prometheus={"url": "http://127.0.0.1:9090", "poll_every": "1m"}
        )
        self.prometheus = FakePrometheus()
        self.prometheus.values["latency"] = [({"service": "shop"}, 0.5)]
        self.begin()

    def begin(self) -> None:
        self.rule_states = RuleStates(self.config)
        self.decision_engine = FakeJudge()
        prometheus, decision_engine = cast("Prometheus", self.prometheus), cast("DecisionEngine", self.decision_engine)
        self.polls = PrometheusPolls(
            self.config, self.read_model, self.rule_states, decision_engine, self.clock, prometheus
        )

    def says(self, value: float, query: str = "latency") -> None:
        self.prometheus.values[query] = [({"service": "shop"}, value)]

    async def poll(self, times: int = 1) -> None:
        for _ in range(times):
            await self.polls.poll()
            for work in self.decision_engine.beside:
                await work
            self.decision_engine.beside.clear()
            self.prometheus.past.setdefault("latency", []).extend(
                (self.clock.now(), value) for _, value in self.prometheus.values.get("latency", ())
            )
            self.clock.advance(MINUTE)

    @property
    def standing(self) -> Standing:
        return self.rule_states.standing("shop", self.clock.now())

    @property
    def notices(self) -> list[str]:
        return [one.fact.text for one in self.journal.records if isinstance(one.fact, facts.Notice)]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


async def test_a_rule_is_met_when_it_was_bad_for_its_time(watch: Watch) -> None:
    await watch.poll(3)
    assert watch.standing is Standing.GOOD
    watch.says(2)
    await watch.poll(5)
    assert (watch.standing, watch.decision_engine.triggers) == (Standing.PENDING, [])
    await watch.poll()
    (met,) = watch.decision_engine.triggers
    assert (met.rule, met.service, met.onset) == ("slow", "shop", START + 3 * MINUTE)
    assert met.episode == f"slow/shop/{met.onset.isoformat()}"
    assert met.evidence[0].threshold == "> 1 for 5m"


async def test_an_episode_keeps_its_name_as_long_as_it_goes_on(watch: Watch) -> None:
    watch.says(2)
    await watch.poll(10)
    assert len({one.episode for one in watch.decision_engine.triggers}) == 1
    watch.says(0.5)
    await watch.poll()
    watch.says(2)
    await watch.poll(10)
    assert len({one.episode for one in watch.decision_engine.triggers}) == 2


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ([], "no data"),
        ([({"service": "shop"}, float("nan"))], "NaN"),
        ([({"service": "shop", "pod": "a"}, 5.0), ({"service": "shop", "pod": "b"}, 5.0)], "2 series"),
        ([({"service": "other"}, 5.0)], "no data"),
    ],
)
async def test_what_says_nothing_of_the_service_is_inconclusive(watch: Watch, series: Any, reason: str) -> None:
    watch.prometheus.values["latency"] = series
    await watch.poll(20)
    assert (watch.standing, watch.decision_engine.triggers) == (Standing.INCONCLUSIVE, [])
    assert reason.lower() in watch.rule_states.seen("shop", watch.clock.now())[0].reason.lower()


async def test_an_answer_that_cannot_be_told_apart_is_a_fault_of_the_rule_and_told_once(watch: Watch) -> None:
    watch.prometheus.values["latency"] = [({"service": "shop", "pod": pod}, 5.0) for pod in "ab"]
    await watch.poll(5)
    assert len(watch.notices) == 1
    assert watch.notices[0].startswith("rule slow cannot be judged: shop: ")
    watch.says(0.5)
    await watch.poll()
    watch.prometheus.values["latency"] = [({"service": "shop", "pod": pod}, 5.0) for pod in "ab"]
    await watch.poll()
    assert len(watch.notices) == 2


async def test_a_new_state_mends_no_rule_and_is_not_told_of_it_again(watch: Watch) -> None:
    """Right after a change nothing was seen of the new state yet: that is no answer."""
    watch.prometheus.values["latency"] = [({"service": "shop", "pod": pod}, 5.0) for pod in "ab"]
    await watch.poll(5)
    rule = watch.rule_states.rule("slow")
    assert rule is not None
    for _ in range(3):
        watch.rule_states.clear(rule, 0, "shop")
        await watch.polls._look_for_faults({"slow": {}})
        await watch.poll(2)
    assert len(watch.notices) == 1
    watch.says(0.5)
    await watch.poll()
    watch.prometheus.values["latency"] = [({"service": "shop", "pod": pod}, 5.0) for pod in "ab"]
    await watch.poll(2)
    assert len(watch.notices) == 2, "it could be judged between"


async def test_a_rule_that_is_at_fault_is_not_mended_by_no_answer(watch: Watch) -> None:
    watch.prometheus.values["latency"] = [({"service": "shop", "pod": pod}, 5.0) for pod in "ab"]
    await watch.poll()
    watch.prometheus.problem["latency"] = DOWN
    await watch.poll()
    watch.prometheus.problem.clear()
    await watch.poll()
    assert len(watch.notices) == 1


async def test_prometheus_failing_is_told_after_five_polls_and_again_when_it_is_over(watch: Watch) -> None:
    watch.says(2)
    await watch.poll(3)
    watch.prometheus.problem["latency"] = DOWN
    await watch.poll(4)
    assert watch.notices == []
    await watch.poll(20)
    assert watch.notices == [f"Prometheus did not answer 5 polls in a row: {DOWN}; nothing is judged by it"]
    assert watch.decision_engine.triggers == []
    assert watch.polls.problem == DOWN
    watch.prometheus.problem.clear()
    await watch.poll()
    assert watch.notices[1:] == ["Prometheus answers again"]
    assert watch.polls.problem == ""


@pytest.mark.parametrize(
    ("series", "problem", "says"),
    [
        ([], "", "no data"),
        ([({"service": "other"}, 1.0)], "", "no data"),
        ([({"service": "shop"}, float("nan"))], "", "no number: NaN"),
        ([({"service": "shop"}, float("inf"))], "", "no number: Inf"),
        ([], "the answer came with warnings, so it may be partial: x", "may be partial"),
    ],
)
async def test_a_rule_that_says_nothing_for_five_polls_is_told_whatever_the_others_do(
    tmp_path: Path, series: Any, problem: str, says: str
) -> None:
    fine = {"name": "errors", "when": {"query": "errors", "above": 1}}
    watch = Watch(tmp_path, SLOW, fine)
    watch.says(0.5, "errors")
    watch.prometheus.values["latency"] = series
    if problem:
        watch.prometheus.problem["latency"] = problem
    await watch.poll(4)
    assert watch.notices == []
    await watch.poll(10)
    (told,) = watch.notices
    assert told.startswith("rule slow cannot be judged: shop: ")
    assert says in told
    (unjudged,) = watch.rule_states.all_unjudged()
    assert (unjudged[:2], unjudged[3]) == (("slow", "shop"), bool(problem))
    assert "(14 times in a row)" in next(one.reason for one in watch.rule_states.seen("shop", watch.clock.now()))
    watch.prometheus.problem.clear()
    watch.says(0.5)
    await watch.poll()
    assert list(watch.rule_states.all_unjudged()) == []
    watch.prometheus.values["latency"] = []
    await watch.poll(5)
    assert len(watch.notices) == 2


async def test_too_few_samples_are_no_trouble_of_a_rule_that_asks_for_more(tmp_path: Path) -> None:
    rule = {"name": "slow", "when": {"query": "latency", "above": 1, "samples": {"query": "n", "at_least": 50}}}
    watch = Watch(tmp_path, rule)
    for value in (0.5, float("nan")):
        watch.says(value)
        watch.says(0, "n")
        await watch.poll(10)
    assert watch.standing is Standing.INCONCLUSIVE
    assert (watch.notices, list(watch.rule_states.all_unjudged())) == ([], [])


async def test_a_query_is_asked_once_for_all_rules(tmp_path: Path) -> None:
    other = {"name": "very-slow", "when": {"query": "latency", "above": 10, "samples": {"query": "n", "at_least": 5}}}
    watch = Watch(tmp_path, SLOW, other)
    await watch.poll()
    assert watch.prometheus.asked == {"latency": 1, "n": 1}


async def test_too_few_samples_say_nothing_for_bad_as_for_good(tmp_path: Path) -> None:
    rule = {"name": "slow", "when": {"query": "latency", "above": 1, "samples": {"query": "n", "at_least": 50}}}
    watch = Watch(tmp_path, rule)
    for value in (0.5, 5.0):
        watch.says(value)
        watch.says(49, "n")
        await watch.poll()
        assert watch.standing is Standing.INCONCLUSIVE
    watch.says(50, "n")
    await watch.poll()
    assert len(watch.decision_engine.triggers) == 1


async def test_one_of_two_requests_that_fails_says_nothing(tmp_path: Path) -> None:
    rule = {"name": "slow", "when": {"query": "latency", "above": 1, "samples": {"query": "n", "at_least": 50}}}
    watch = Watch(tmp_path, rule)
    watch.says(5)
    watch.prometheus.problem["n"] = DOWN
    await watch.poll()
    assert (watch.standing, watch.decision_engine.triggers) == (Standing.INCONCLUSIVE, [])


# -- after a restart ----------------------------------------------------------------------------
async def test_what_was_pending_does_not_wait_twice(watch: Watch) -> None:
    await watch.poll(3)
    watch.says(2)
    await watch.poll(4)
    watch.begin()
    await watch.polls.rebuild()
    assert watch.standing is Standing.PENDING
    await watch.poll(2)
    assert [one.onset for one in watch.decision_engine.triggers] == [START + 3 * MINUTE]


async def test_what_was_well_again_before_the_restart_is_not_pending(watch: Watch) -> None:
    watch.says(2)
    await watch.poll(4)
    watch.says(0.5)
    await watch.poll()
    watch.begin()
    await watch.polls.rebuild()
    assert watch.standing is Standing.GOOD


async def test_a_known_episode_that_goes_on_keeps_its_name_also_beyond_its_for(watch: Watch) -> None:
    watch.says(2)
    await watch.poll(10)
    episode = watch.decision_engine.triggers[-1].episode
    known = facts.Decided(decided(Action.REFUSE, by=trigger(episode=episode)))
    await watch.read_model.append(Entry(service_stream("shop"), known))
    await watch.poll(40)
    watch.begin()
    await watch.polls.rebuild()
    await watch.poll()
    assert {one.episode for one in watch.decision_engine.triggers} == {episode}


async def test_a_known_episode_that_ended_meanwhile_is_another_when_it_comes_again(watch: Watch) -> None:
    watch.says(2)
    await watch.poll(10)
    episode = watch.decision_engine.triggers[-1].episode
    known = facts.Decided(decided(Action.REFUSE, by=trigger(episode=episode)))
    await watch.read_model.append(Entry(service_stream("shop"), known))
    watch.says(0.5)
    await watch.poll(2)
    watch.says(2)
    await watch.poll(8)
    watch.begin()
    await watch.polls.rebuild()
    await watch.poll()
    assert {one.onset for one in watch.decision_engine.triggers} == {START + 12 * MINUTE}


async def test_when_prometheus_is_down_at_the_start_it_is_rebuilt_when_it_answers(watch: Watch) -> None:
    watch.says(2)
    await watch.poll(4)
    watch.begin()
    watch.prometheus.problem["latency"] = DOWN
    await watch.polls.rebuild()
    await watch.poll()
    assert watch.standing is Standing.INCONCLUSIVE
    watch.prometheus.problem.clear()
    await watch.polls.rebuild()
    await watch.poll()
    assert [one.onset for one in watch.decision_engine.triggers] == [START]
    asked = len(watch.prometheus.ranges)
    await watch.polls.rebuild()
    assert len(watch.prometheus.ranges) == asked
