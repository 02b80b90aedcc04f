"""The query check: what it makes of Prometheus's answers, and of samples from before the last step."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import CheckPlace
from rollbackd.checks.query import QueryCheck, QuerySettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import QueryWhen
from rollbackd.signals.query_answers import QueryAnswer, Series

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LABELS = {"service": "checkout"}


class StillClock:
    """It is always noon."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, length: timedelta) -> None:
        raise AssertionError(length)

    async def sleep_until(self, when: datetime) -> None:
        raise AssertionError(when)


@dataclass
class FakePrometheus:
    """Answers each query from a table, and refuses any other."""

    answers: dict[str, QueryAnswer]
    asked: list[str] = field(default_factory=list)

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        assert at is None
        self.asked.append(query)
        return self.answers[query]


def answer(*series: tuple[dict[str, str], float]) -> QueryAnswer:
    return QueryAnswer(tuple(Series(labels, value, NOW) for labels, value in series))


async def ask(
    prometheus: FakePrometheus | QueryAnswer | None, since: datetime | None = None, **settings: Any
) -> CheckResult:
    fake = FakePrometheus({"q": prometheus}) if isinstance(prometheus, QueryAnswer) else prometheus
    place = CheckPlace("errors", "checkout", LABELS, None, StillClock(), lambda: None, fake)
    return await QueryCheck(QuerySettings(**({"query": "q"} | settings)), place).run(since)


@pytest.mark.parametrize(
    ("value", "settings", "verdict", "reason"),
    [
        (0.004, {"below": "1%"}, GOOD, "0.004, below 0.01"),
        (0.01, {"below": "1%"}, BAD, "0.01, not below 0.01"),
        (0.34, {"below": "1%"}, BAD, "0.34, not below 0.01"),
        (1.0, {"above": "99%"}, GOOD, "1, above 0.99"),
        (0.99, {"above": "99%"}, BAD, "0.99, not above 0.99"),
    ],
)
async def test_a_threshold_says_what_is_good(
    value: float, settings: dict[str, Any], verdict: Verdict, reason: str
) -> None:
    result = await ask(answer((LABELS, value)), **settings)
    assert (result.verdict, result.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("got", "said"),
    [
        (QueryAnswer(), "no data"),
        (QueryAnswer(problem="Prometheus at x: no answer within 5s"), "Prometheus at x: no answer within 5s"),
        (answer((LABELS, math.nan)), "no number: NaN"),
        (answer((LABELS, 0.0), (LABELS, 0.0)), "ambiguous: 2 series"),
        (answer(({"service": "search"}, 0.0)), "no data"),
    ],
)
async def test_what_is_no_evidence_is_inconclusive(got: QueryAnswer, said: str) -> None:
    result = await ask(got, below=1)
    assert result.verdict is UNKNOWN
    assert result.reason.startswith(said)


async def test_an_answer_for_all_services_is_narrowed_to_this_one() -> None:
    result = await ask(answer(({"service": "search"}, 9.0), (LABELS, 0.0)), below=1)
    assert result.verdict is GOOD


@pytest.mark.parametrize(
    ("aggregate", "verdict"), [("any", GOOD), ("all", BAD), ("max", BAD), ("min", GOOD), ("sum", BAD)]
)
async def test_an_aggregate_says_which_of_several_must_be_good(aggregate: str, verdict: Verdict) -> None:
    got = answer(({**LABELS, "pod": "a"}, 0.5), ({**LABELS, "pod": "b"}, 1.5))
    assert (await ask(got, below=1, aggregate=aggregate)).verdict is verdict


async def test_without_a_prometheus_it_is_inconclusive() -> None:
    assert (await ask(None, below=1)).reason == "no Prometheus to ask; give `prometheus: {url: …}`"


@pytest.mark.parametrize(
    ("settings", "ago", "verdict"),
    [
        ({"range": "5m"}, 299, UNKNOWN),
        ({"range": "5m"}, 300, GOOD),
        ({"query": "rate(x[5m])"}, 299, UNKNOWN),
        ({"query": "rate(x[5m])"}, 300, GOOD),
        ({"query": "rate(x[5m])", "range": "1m"}, 299, UNKNOWN),
        ({"query": "rate(x[5m])", "range": "10m"}, 300, UNKNOWN),
        ({}, 0, GOOD),
    ],
)
async def test_samples_from_before_the_last_step_say_nothing(
    settings: dict[str, Any], ago: int, verdict: Verdict
) -> None:
    fake = FakePrometheus({settings.get("query", "q"): answer((LABELS, 0.0))})
    result = await ask(fake, NOW - timedelta(seconds=ago), below=1, **settings)
    assert result.verdict is verdict
    assert bool(fake.asked) is (verdict is GOOD), "nothing is asked that would not count"


async def test_it_says_when_it_will_be_conclusive() -> None:
    result = await ask(answer(), NOW - timedelta(seconds=30), below=1, range="5m")
    assert result.reason == "looks 5m back, to before the last step; conclusive in 4m30s"


@pytest.mark.parametrize(
    ("samples", "verdict", "said"),
    [
        (answer((LABELS, 50)), GOOD, "0, below 1"),
        (answer((LABELS, 49)), UNKNOWN, "0, but on 49 samples only, wants 50"),
        (answer(({"service": "search"}, 90)), UNKNOWN, "0, but it is not known on how many samples"),
        (answer((LABELS, 50), (LABELS, 50)), UNKNOWN, "ambiguous: 2 series of samples"),
        (QueryAnswer(problem="down"), UNKNOWN, "down"),
    ],
)
async def test_a_value_on_too_few_samples_says_nothing(samples: QueryAnswer, verdict: Verdict, said: str) -> None:
    fake = FakePrometheus({"q": answer((LABELS, 0.0)), "n": samples})
    result = await ask(fake, below=1, samples={"query": "n", "at_least": 50})
    assert result.verdict is verdict
    assert result.reason.startswith(said)


async def test_the_samples_range_counts_as_well() -> None:
    fake = FakePrometheus({"q": answer((LABELS, 0.0)), "n[5m]": answer((LABELS, 90))})
    result = await ask(fake, NOW - timedelta(minutes=4), below=1, samples={"query": "n[5m]", "at_least": 50})
    assert result.verdict is UNKNOWN


@pytest.mark.parametrize(
    "settings", [{}, {"above": 1, "below": 2}, {"below": 1, "query": ""}, {"below": 1, "aggregate": "avg"}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QuerySettings(**({"query": "q"} | settings))


# -- comparisons --------------------------------------------------------------------------------
DROP: dict[str, Any] = {"query": "rate(x[5m])", "drops_by": "50%", "against": {"before_change": "30m"}}


async def compared(since: datetime | None = None, **settings: Any) -> tuple[CheckResult, list[tuple[QueryWhen, Any]]]:
    asked: list[tuple[QueryWhen, Any]] = []

    async def compare(when: QueryWhen, since: datetime | None) -> Observation:
        asked.append((when, since))
        return Observation(BAD, 1.0, "1, 80% below 5")

    place = CheckPlace("errors", "checkout", LABELS, None, StillClock(), lambda: None, None, compare=compare)
    return await QueryCheck(QuerySettings(**(DROP | settings)), place).run(since), asked


async def test_a_comparison_is_asked_of_who_knows_the_changes_and_says_what_is_bad() -> None:
    samples = {"query": "n", "at_least": 5}
    result, asked = await compared(samples=samples)
    assert (result.verdict, result.reason) == (BAD, "1, 80% below 5")
    assert asked == [(QueryWhen.model_validate(DROP | {"samples": samples}), None)]


async def test_what_the_text_hides_of_its_reach_counts_after_the_last_step() -> None:
    since = NOW - timedelta(minutes=10)
    assert (await compared(since))[1][0][1] == since
    assert (await compared(since, range="8m"))[1][0][1] == since + timedelta(minutes=3)
    result, asked = await compared(since, range="11m")
    assert (result.verdict, asked) == (UNKNOWN, [])


async def test_without_anybody_to_compare_it_is_inconclusive() -> None:
    result = await ask(None, **DROP)
    assert (result.verdict, result.reason) == (UNKNOWN, "no Prometheus to ask; give `prometheus: {url: …}`")


@pytest.mark.parametrize("settings", [{"against": None}, {"below": 1}, {"aggregate": "any"}])
def test_comparisons_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QuerySettings(**(DROP | settings))
