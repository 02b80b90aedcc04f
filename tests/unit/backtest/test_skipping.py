"""A play that skips comes to the same as one that looks at every poll, whatever happened: hypothesis tries to differ."""

import asyncio
import tempfile
from bisect import bisect_right
from datetime import timedelta
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from rollbackd import facts
from tests.unit.backtest.past import Course, PastServer, at, configured, played

BEGIN, HOURS = at(-2), 4
"""Over midnight, where one chunk ends and the next begins."""
MINUTES = HOURS * 60
SERVICES = ("shop", "bank")
ERRORS = st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.9, nan, inf, None])
COUNTS = st.sampled_from([0.0, 49.0, 50.0, 400.0, nan, None])
FAILED, ALL = "increase(failed[1m])", "increase(all[1m])"
FAILURES = st.sampled_from([0.0, 0.0, 1.0, 5.0, 50.0, 500.0, -1.0, nan, inf, None])
LENGTHS = st.sampled_from([1, 2, 5, 9, 30, 61, 240, 500])
"""Polls that a value lasts."""


def rules_() -> st.SearchStrategy[list[dict[str, Any]]]:
    lasting = st.sampled_from([{"for": "2m"}, {"for": "5m"}, {"bad": {"times": 3, "of": 5}}, {}])
    samples = st.sampled_from([{}, {"samples": {"query": "requests", "at_least": 50}}])
    clear = st.sampled_from([{}, {"clear": {"below": "5%", "for": "2m"}}])
    above = st.builds(
        lambda *more: {"query": "errors", "above": "10%"} | more[0] | more[1] | more[2], lasting, samples, clear
    )
    looking = st.builds(lambda a: {"query": "rate(errors[5m])", "above": "10%", **a}, lasting)
    below = st.builds(lambda a: {"query": "orders", "below": 0.05, **a}, lasting)
    score = st.builds(
        lambda more: {"query": FAILED, "score": {"of": ALL, **more}},
        st.sampled_from([{}, {"around": "30%"}, {"threshold": 3, "lasting": "1m"}]),
    )
    alert = st.just({"alert": 'alertname="Sick"'})
    leaf = st.one_of(above, looking, below, score, alert)
    group = st.builds(
        lambda kind, parts: {kind: parts}, st.sampled_from(["any", "all"]), st.lists(leaf, min_size=2, max_size=2)
    )
    made = st.lists(st.one_of(above, score, leaf, group), min_size=1, max_size=3)
    return made.map(lambda whens: [{"name": f"rule-{n}", "when": when} for n, when in enumerate(whens)])


def course(values: st.SearchStrategy[float | None]) -> st.SearchStrategy[list[tuple[int, float | None]]]:
    return st.lists(st.tuples(LENGTHS, values), min_size=1, max_size=14)


def following(steps: list[tuple[int, float | None]]) -> Any:
    ends: list[int] = []
    for length, _ in steps:
        ends.append(length + (ends[-1] if ends else 0))

    def value(when: Any) -> float | None:
        poll = (when - BEGIN) // timedelta(seconds=15)
        return steps[bisect_right(ends, max(0, poll) % ends[-1])][1]

    return value


def changes_() -> st.SearchStrategy[str]:
    one = st.tuples(st.integers(-60, MINUTES), st.sampled_from(SERVICES), st.sampled_from(["v1", "v2", "v3"]))
    return st.lists(one, max_size=6).map(
        lambda lines: "\n".join(f"{(BEGIN + timedelta(minutes=m)).isoformat()} {s} {v}" for m, s, v in lines)
    )


def alerts_() -> st.SearchStrategy[list[Any]]:
    one = st.tuples(st.sampled_from(SERVICES), st.integers(0, MINUTES), st.integers(1, 60))
    return st.lists(one, max_size=3).map(
        lambda found: [
            ({"alertname": "Sick", "service": s}, BEGIN + timedelta(minutes=m), BEGIN + timedelta(minutes=m + n))
            for s, m, n in found
        ]
    )


@example(
    rules=[{"name": "rule-0", "when": {"query": FAILED, "score": {"of": ALL}}}],
    errors=([(5, 0.05)], [(5, 0.05)]),
    counts=[(30, 0.0), (2, None), (30, 49.0), (9, 400.0)],
    failures=([(1, 50.0)], [(500, 0.0)]),
    changes=f"{at(-1, -8).isoformat()} bank v2",
    alerts=[],
    bake="10m",
)
@settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))
@given(
    rules=rules_(),
    errors=st.tuples(course(ERRORS), course(ERRORS)),
    counts=course(COUNTS),
    failures=st.tuples(course(FAILURES), course(FAILURES)),
    changes=changes_(),
    alerts=alerts_(),
    bake=st.sampled_from(["2m", "10m"]),
)
def test_skipping_makes_no_difference(
    rules: Any, errors: Any, counts: Any, failures: Any, changes: str, alerts: Any, bake: str
) -> None:
    own = dict(zip(SERVICES, map(following, errors), strict=True))
    requests = dict.fromkeys(SERVICES, following(counts))
    failed = dict(zip(SERVICES, map(following, failures), strict=True))
    courses = {
        "errors": own,
        "rate(errors[5m])": own,
        "orders": own,
        "requests": requests,
        FAILED: failed,
        ALL: requests,
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        config = configured(path, rules, SERVICES)
        config = config.model_copy(
            update={"services": tuple(
                one.model_copy(update={"bake": timedelta(minutes=int(bake[:-1]))}) for one in config.services
            )}
        )  # fmt: skip
        server = PastServer(courses, alerts)

        async def both() -> list[Any]:
            return [
                (await played(path, config, server, changes, HOURS, begin=BEGIN, every_poll=whole)).records
                for whole in (False, True)
            ]

        quick, whole = asyncio.run(both())
    assert quick == whole


class AnyMetric(dict[str, dict[str, Course]]):
    """One service's course for every query there is: as usual, and from 00:45 to 01:30 bad, above or below."""

    def __init__(self, usual: float, bad: float) -> None:
        super().__init__()
        self.usual, self.bad = usual, bad

    def __missing__(self, query: str) -> dict[str, Course]:
        return {"shop": lambda when: self.bad if at(0, 45) <= when < at(1, 30) else self.usual}

    def get(self, query: str, default: Any = None) -> Any:
        return self[query]


PACKS = sorted(one.stem for one in (Path(__file__).parents[3] / "rules").glob("*.yaml"))
ALSO = [("http", {"version_label": "version"})]


@pytest.mark.parametrize(("usual", "bad"), [(0.0, 1e9), (1e9, 0.0), (10.0, nan), (nan, inf)])
@pytest.mark.parametrize(("pack", "settings_"), [*((pack, {}) for pack in PACKS), *ALSO])
def test_every_shipped_pack_is_played_and_skipping_makes_no_difference(
    tmp_path: Path, pack: str, settings_: dict[str, Any], usual: float, bad: float
) -> None:
    config = configured(tmp_path, [{"pack": pack, **settings_}])
    changes = f"{at(-12).isoformat()} shop v1\n{at(0, 30).isoformat()} shop v2\n"
    server = PastServer(AnyMetric(usual, bad))
    quick, whole = (
        asyncio.run(played(tmp_path, config, server, changes, 2, every_poll=every_poll)).records
        for every_poll in (False, True)
    )
    assert quick == whole
    assert any(isinstance(one.fact, facts.Changed) for one in quick)
