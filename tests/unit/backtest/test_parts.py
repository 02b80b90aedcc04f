"""The parts of a backtest: changes as they are written down, what is fetched and kept, sweeps, verdicts, the page."""

import re
from array import array
from collections.abc import Mapping
from datetime import timedelta
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbackd.backtest import verdicts
from rollbackd.backtest.bake import PlayedBake
from rollbackd.backtest.cache import CacheUnusable, HistoryCache
from rollbackd.backtest.grid import Grid
from rollbackd.backtest.history import History, HistoryUnavailable
from rollbackd.backtest.recorded import ChangesUnreadable, MetricChanges, from_text
from rollbackd.backtest.sweep import Sweep
from rollbackd.model import Verdict
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track, step
from rollbackd.signals.query_answers import MISSING, Row, Unusable, rows
from rollbackd.syntax.units import format_duration
from rollbackd.system.clock import SystemClock
from rollbackd.views.markup import Markup, element
from rollbackd.views.plot import Line, Moment, bars, timeline
from tests.unit.backtest.past import BEGIN, PACE, PastServer, at

LAYERS: Mapping[str, list[str]] = {"shop": ["code"], "bank": ["code", "config"]}


# -- changes ----------------------------------------------------------------------------------------
def test_changes_of_a_file_are_states_and_a_way_back_is_one() -> None:
    text = """
    # TIME SERVICE RELEASE
    2026-03-02T10:00Z shop v1
    2026-03-02T12:00+01:00 shop v2     # eleven o'clock
    2026-03-02T12:00Z shop v1
    2026-03-02T09:00Z bank code=b1,config=c1
    2026-03-02T13:00Z bank config=c2 rollback
    2026-03-02T14:00Z bank config=c2
    """
    found = [(f"{one.at:%H:%M}", one.state.name, one.rollback) for one in from_text(text, "f", LAYERS)]
    assert found == [
        ("09:00", "code b1, config c1", False),
        ("10:00", "code v1", False),
        ("11:00", "code v2", False),
        ("12:00", "code v1", True),
        ("13:00", "code b1, config c2", True),
    ]


def test_every_wrong_line_is_told_with_its_number() -> None:
    text = "2026-03-02 shop\nsoon shop v1\n2026-03-02 shp v1\n2026-03-02 bank b1\n2026-03-02 shop x=1\n2026-03-02 shop code="
    with pytest.raises(ChangesUnreadable) as caught:
        from_text(text, "changes.txt", LAYERS)
    assert str(caught.value).splitlines() == [
        "changes.txt:1: a line is `TIME SERVICE RELEASE`, with the word rollback behind it where people went back",
        "changes.txt:2: soon is no time; write it like 2026-03-01T10:00:00Z",
        "changes.txt:3: there is no service shp in the configuration",
        "changes.txt:4: which layer has b1? write LAYER=b1; layers: code, config",
        "changes.txt:5: no layer x with releases; there is: code",
        "changes.txt:6: code= names no release",
    ]


def _metric(label: str, *series: tuple[str, list[float]]) -> list[tuple[str, str]]:
    count = len(series[0][1])
    grid = Grid.over(BEGIN, BEGIN + PACE * (count - 1), PACE)
    changes = MetricChanges(label, grid, LAYERS)
    half = count // 2
    for polls in (range(grid.first, grid.first + half), range(grid.first + half, grid.end)):
        part = slice(polls[0] - grid.first, polls[-1] + 1 - grid.first)
        changes.take("shop", [Row({"version": name}, array("d", values[part])) for name, values in series], polls)
    return [(format_duration(one.at - BEGIN), one.state.name) for one in changes.changes()]


def test_a_rollout_counts_from_the_first_instance_of_the_new_release_on() -> None:
    no = MISSING
    old, new = ("v1", [1.0, 1, 1, 1, no, no, 1, 1]), ("v2", [no, no, 1, 1, 1, 1, 1, no])
    assert _metric("version", old, new) == [("0s", "code v1"), ("30s", "code v2"), ("1m30s", "code v1")]
    assert _metric("", ("", [1.0, 1, 1, 2, no, 2, 3, 3])) == [("0s", "code 1"), ("45s", "code 2"), ("1m30s", "code 3")]


# -- history ----------------------------------------------------------------------------------------
def history(server: PastServer, directory: Path, hours: float = 2) -> History:
    grid = Grid.over(BEGIN, at(hours), PACE)
    return History(server, "here", timedelta(seconds=5), HistoryCache(directory), grid, SystemClock())


def climbing(when: Any) -> float | None:
    return None if at(1) <= when < at(1.1) else (when - BEGIN).total_seconds()


async def _fetched(made: History) -> list[float]:
    await made.fetch({"q": timedelta()}, lambda _done, _of: None)
    (chunk,) = made.grid.chunks()
    ((row),) = made.rows("q", chunk)
    return list(row.values)


async def test_a_server_that_takes_fewer_points_is_asked_for_fewer_at_once(tmp_path: Path) -> None:
    server = PastServer({"q": {"shop": climbing}}, most=100)
    expected = [MISSING if climbing(BEGIN + PACE * n) is None else PACE.total_seconds() * n for n in range(481)]
    assert await _fetched(history(server, tmp_path / "cache")) == expected
    assert max(count for _, _, count in server.asked if count <= 100) == 60


async def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    server = PastServer({"q": {"shop": climbing}, "other": {"shop": climbing}})
    begun = history(server, tmp_path / "cache")
    await begun.fetch({"q": timedelta()}, lambda _done, _of: None)
    server.down = True
    with pytest.raises(HistoryUnavailable, match=r"Connection refused.*other.*what was fetched is kept"):
        await begun.fetch({"q": timedelta(), "other": timedelta()}, lambda _done, _of: None)
    server.down = False
    server.asked.clear()
    told: list[tuple[int, int]] = []
    again = history(server, tmp_path / "cache")
    await again.fetch({"q": timedelta(), "other": timedelta()}, lambda *far: told.append(far))
    assert [query for query, _, _ in server.asked] == ["other"]
    assert told == [(1, 2), (2, 2)]


async def test_a_server_that_hangs_is_given_up_after_two_tries(tmp_path: Path) -> None:
    class Slow(SystemClock):
        passed = 0.0

        def monotonic(self) -> float:
            Slow.passed += 5.0
            return Slow.passed

    server = PastServer({"q": {"shop": climbing}}, down=True)
    grid = Grid.over(BEGIN, at(2), PACE)
    made = History(server, "here", timedelta(seconds=5), HistoryCache(tmp_path / "cache"), grid, Slow())
    with pytest.raises(HistoryUnavailable, match="run it again to go on"):
        await made.fetch({"q": timedelta()}, lambda _done, _of: None)
    assert [count for _, _, count in server.asked] == [481, 240]


def test_a_time_that_no_calendar_has_is_told() -> None:
    for text in ("9999-12-31T23:59-12:00", "0001-01-01T00:00+12:00", "2026-13-01"):
        with pytest.raises(ChangesUnreadable, match="is no time"):
            from_text(f"{text} shop v1", "f", LAYERS)


async def test_the_present_is_asked_for_again_until_it_is_settled(tmp_path: Path) -> None:
    server, clock = PastServer({"q": {"shop": lambda _: 1.0}}), SystemClock()
    for _ in range(2):
        grid = Grid.over(clock.now() - timedelta(minutes=30), clock.now().replace(microsecond=0), timedelta(minutes=1))
        made = History(server, "here", timedelta(seconds=5), HistoryCache(tmp_path / "cache"), grid, clock)
        await made.fetch({"q": timedelta()}, lambda _done, _of: None)
    assert len(server.asked) >= 2


async def test_a_query_without_any_series_is_told(tmp_path: Path) -> None:
    made = history(PastServer({"q": {"shop": lambda _: None}}), tmp_path / "cache")
    await made.fetch({"q": timedelta()}, lambda _done, _of: None)
    assert made.silent == {"q"}


def test_a_cache_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    HistoryCache(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "new").chmod(0o750)
    with pytest.raises(CacheUnusable, match="others may use it; chmod 700 it"):
        HistoryCache(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(CacheUnusable, match="--cache"):
        HistoryCache(tmp_path / "file")


def test_what_is_damaged_or_old_is_not_read(tmp_path: Path) -> None:
    cache, now = HistoryCache(tmp_path / "cache"), SystemClock().now()
    kept = (Row({"service": "shop"}, array("d", [1.0, MISSING, nan])),)
    cache.write("one", kept, 3, now)
    (read,) = cache.read("one", 3) or ()
    assert (read.labels, repr(read.values)) == (kept[0].labels, repr(kept[0].values))
    assert cache.read("one", 4) is None
    assert cache.read("one", 3, now + timedelta(seconds=1)) is None
    path = tmp_path / "cache" / "one.rows"
    assert path.stat().st_mode & 0o777 == 0o600
    body = path.read_bytes()
    path.write_bytes(body[:-1] + b"\x01")
    assert cache.read("one", 3) is None
    path.write_bytes(b"nonsense\n")
    assert cache.read("one", 3) is None
    cache.use("one", now - timedelta(days=15))
    cache.prune(now)
    assert not path.exists()


def test_rows_are_what_prometheus_says_and_nothing_else() -> None:
    def data(*values: Any) -> dict[str, Any]:
        return {"resultType": "matrix", "result": [{"metric": {"a": "b"}, "values": list(values)}]}

    ((whole),) = rows(data([60, "1"], [75, "NaN"], [90, "-Inf"], [120, "2"]), 60, 15, 6)
    assert repr(list(whole.values)) == "[1.0, nan, nan, -inf, 2.0, -inf]"
    ((short),) = rows(data([75, "1.5"]), 60, 15, 3)
    assert list(short.values) == [MISSING, 1.5, MISSING]
    for wrong in (
        data([60, "x"]),
        data([0, "1"]),
        data([600, "1"]),
        data([60]),
        {"resultType": "vector", "result": []},
    ):
        with pytest.raises(Unusable):
            rows(wrong, 60, 15, 3)


# -- verdicts ---------------------------------------------------------------------------------------
NUMBERS = st.sampled_from([0.0, 0.05, 0.1, 0.2, 50.0, -1.0, nan, inf, MISSING])
COLUMNS = st.lists(st.lists(NUMBERS, min_size=6, max_size=6), max_size=2)


@given(
    columns=COLUMNS,
    counted=COLUMNS,
    limit=st.sampled_from([{"above": 0.1}, {"below": 0.1}]),
    aggregate=st.sampled_from([None, "any", "sum"]),
    samples=st.booleans(),
)
def test_verdicts_of_many_polls_are_those_of_each(
    columns: Any, counted: Any, limit: Any, aggregate: Any, samples: bool
) -> None:
    given_ = {"samples": {"query": "n", "at_least": 0.1}} if samples else {}
    leaf = QueryWhen.model_validate({"query": "q", "aggregate": aggregate, **limit, **given_})
    own, rests = ([array("d", column) for column in each] for each in (columns, counted))
    each = [verdicts.observed(leaf, own, rests, place).verdict for place in range(6)]
    many = verdicts.codes(leaf, own, rests, 6)
    assert [(Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE)[code] for code in many] == each
    starts, found = verdicts.runs(many)
    assert b"".join(
        bytes((code,)) * (end - start)
        for start, end, code in zip(starts, [*starts[1:], 6], found, strict=True)
    ) == many  # fmt: skip


COUNTS = st.lists(st.lists(st.sampled_from([0.0, 1.0, 50.0, -1.0, nan, MISSING]), min_size=6, max_size=6), max_size=2)


@given(columns=COUNTS, counted=COUNTS, around=st.sampled_from([0.01, 0.1, 0.5]))
def test_a_scores_codes_say_what_one_look_alone_comes_to(columns: Any, counted: Any, around: float) -> None:
    leaf = QueryWhen.model_validate({"query": "q[1m]", "score": {"of": "n[1m]", "around": around}})
    own, rests = ([array("d", column) for column in each] for each in (columns, counted))
    for place, code in enumerate(verdicts.codes(leaf, own, rests, 6)):
        seen = verdicts.observed(leaf, own, rests, place)
        track = step(Track(), leaf, seen.verdict, seen.reason, at(place), timedelta(seconds=15), seen)
        assert (code in (verdicts.GOOD, verdicts.BAD)) == (track.verdict is not Verdict.INCONCLUSIVE)
        assert (code == verdicts.BAD) == (track.scored > 0)
        assert (code == verdicts.UNSURE) == (track.scored_at is None)


@given(st.lists(st.sampled_from([Standing.GOOD, Standing.GOOD, Standing.INCONCLUSIVE, Standing.BAD]), min_size=1))
def test_bake_time_counted_for_many_polls_is_that_of_each(standings: list[Standing]) -> None:
    each = PlayedBake("k", 0, standings[0])
    for poll, standing in enumerate(standings[1:], 1):
        each.count(poll, standing, PACE)
    many = PlayedBake("k", 0, standings[0])
    for poll, standing in enumerate(standings[1:], 1):
        if standing is not standings[poll - 1] or poll == len(standings) - 1:
            many.count(poll, standing, PACE)
    assert many == each


# -- sweeps -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("error_rate=1%..20%", ["1%", "3.7%", "6.4%", "9.1%", "12%", "15%", "17%", "20%"]),
        ("error_rate=1%..3%/3", ["1%", "2%", "3%"]),
        ("lasting=1m,5m,1h", ["1m", "5m", "1h"]),
        ("min_samples=10..50/5", ["10", "20", "30", "40", "50"]),
    ],
)
def test_a_sweep_has_values_of_its_kind(text: str, shown: list[str]) -> None:
    sweep = Sweep.parse(text)
    assert [sweep.shown(value) for value in sweep.values] == shown


@pytest.mark.parametrize(
    "text", ["error_rate", "=1%", "a=", "a=1%..", "a=1%..5m", "a=5..1", "a=1..2/1", "a=1..2/x", "a=1,2m", "a=x"]
)
def test_a_sweep_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=f"--sweep {re.escape(text)}: "):
        Sweep.parse(text)


@pytest.mark.parametrize(
    ("text", "shares", "threshold"),
    [("score=20%", (0.1, 0.4), 10.0), ("score=5", (0.01, 0.3), 5.0)],
)
def test_a_sweep_of_a_score_moves_what_it_counts_against(
    text: str, shares: tuple[float, float], threshold: float
) -> None:
    score = {"of": "increase(all[1m])", "good": "1%", "bad": "30%"}
    rule = Rule.model_validate({"name": "score", "when": {"query": "increase(failed[1m])", "score": score}})
    sweep = Sweep.parse(text)
    assert sweep.fits(rule)
    moved = sweep.moved(rule, sweep.values[0]).when
    assert isinstance(moved, QueryWhen)
    assert moved.score is not None
    assert (moved.score.shares, moved.score.threshold) == (shares, threshold)
    with pytest.raises(ValueError, match=r"^0\.5 cannot be: Input should be greater"):
        Sweep.parse("score=0.5").moved(rule, 0.5)


# -- the page ---------------------------------------------------------------------------------------
def test_no_text_becomes_markup() -> None:
    hostile = "<script>alert('x')</script>\x00\u202e"
    made = element("p", hostile, element("b", "&"), title=hostile)
    assert "<script" not in made
    assert "\x00" not in made
    assert "\u202e" not in made
    assert made.count("&lt;script&gt;") == 2
    assert element("p", Markup("<i></i>")) == "<p><i></i></p>"


def test_a_plot_has_a_line_for_each_stretch_and_a_mark_for_each_moment() -> None:
    points = [(at(0, n), nan if n == 30 else n / 60) for n in range(60)]
    marks = [Moment(at(0, 10), "v2 <b>", "change"), Moment(at(9), "later", "ask")]
    made = timeline("errors", [Line(points)], 0.5, marks, (at(0), at(1)))
    assert made.count("<polyline") == 2
    assert made.count('class="threshold"') == 1
    assert "v2 &lt;b&gt;" in made
    assert "later" not in made
    long = timeline(
        "errors", [Line([(at(0, n / 60), float(n == 7000)) for n in range(20_000)])], 0.5, [], (at(0), at(6))
    )
    (places,) = re.findall(r'points="([^"]*)"', long)
    assert len(places.split()) <= 900
    assert min(float(place.partition(",")[2]) for place in places.split()) < 30
    assert bars("b", [("1%", [(3, "shared"), (0, "alone")])]).count("<rect") == 1
