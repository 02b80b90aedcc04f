"""The judge: its corpus, its world and its figures."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.judge.classes import CLASSES
from tests.judge.configurations import CONFIGURATIONS
from tests.judge.corpus import HELD_OUT, Case, cases, play, play_all
from tests.judge.figures import HALVES, Result, Score, failing, score
from tests.judge.incident import SHOP, Host, Incident
from tests.judge.page import BOUNDS, page, table
from tests.judge.peers import PEERS
from tests.judge.play import Played, Rollback
from tests.judge.traffic import BUCKETS, REQUESTS, UP, Traffic, Turn, hash_of

_PAGE = Path(__file__).parents[2] / "docs" / "judgement-figures.md"
_PACK = CONFIGURATIONS[0].name
_EVERYBODY = (*(one.name for one in CONFIGURATIONS), *(one.name for one in PEERS))


def _played(kind: str, *rollbacks: Rollback, missed: tuple[int, ...] = ()) -> Result:
    return Result(kind, 0, False, dict.fromkeys(_EVERYBODY, Played(rollbacks, missed)))


# -- the corpus ---------------------------------------------------------------------------------
def test_there_are_forty_classes_and_about_half_of_them_are_wrong_to_roll_back() -> None:
    wrong = sum(1 for one in CLASSES if not one.right)
    assert len(CLASSES) >= 40
    assert 0.45 <= wrong / len(CLASSES) <= 0.55
    assert {one.half for one in CLASSES} == set(HALVES)
    assert len({hash_of(one.name) for one in CLASSES}) == len(CLASSES), "two classes would have the same seeds"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda one: one.name)
def test_the_label_of_a_class_is_argued_in_a_sentence_and_its_incidents_agree(kind: object) -> None:
    one = next(each for each in CLASSES if each is kind)
    assert one.why.endswith(".")
    for number in range(5):
        incident = Case(one.name, number, 7).made()
        assert any(right.required for right in incident.rights) is one.right
        assert incident.hosts[0].name == SHOP


def test_the_same_seed_is_the_same_incident_and_another_is_another() -> None:
    kind = CLASSES[0].name
    assert Case(kind, 3, 1).made() == Case(kind, 3, 1).made()
    assert Case(kind, 3, 1).made() != Case(kind, 4, 1).made()
    assert Case(kind, 3, 1).made() != Case(kind, 3, 1 + HELD_OUT).made()


def test_the_same_incident_is_judged_the_same_again(tmp_path: Path) -> None:
    case = Case("fails in part", 2, 5)
    assert play(case, tmp_path, (_PACK,)) == play(case, tmp_path, (_PACK,))


def test_classes_are_played_in_turn() -> None:
    given = cases(len(CLASSES) + 1, 1)
    assert [one.kind for one in given[:-1]] == [one.name for one in CLASSES]
    assert (given[-1].kind, given[-1].number) == (CLASSES[0].name, 1)
    assert {one.kind for one in cases(5, 1, ("spikes that are each over",))} == {"spikes that are each over"}


# -- its world ----------------------------------------------------------------------------------
def _traffic(**more: object) -> tuple[Traffic, dict[tuple[str, str], tuple[Turn, ...]]]:
    host = Host(SHOP, 20.0, instances=2, **more)  # type: ignore[arg-type]
    turns: dict[tuple[str, str], tuple[Turn, ...]] = {(SHOP, "code"): (Turn(-1e6, "v0"), Turn(-1e5, "v1"))}
    return Traffic(Incident((host,), 0.0), (1, 2, 3), turns, 3600.0), turns


@pytest.mark.parametrize("versioned", [True, False])
def test_what_was_scraped_stays_when_another_release_runs(versioned: bool) -> None:
    traffic, turns = _traffic(versioned=versioned)
    before = {}
    for name in (REQUESTS, BUCKETS, UP):
        metric = traffic.metric(name, 0.0)
        assert metric is not None
        before[name] = {
            tuple(sorted(one.items())): row.copy() for one, row in zip(metric.labels, metric.samples, strict=True)
        }
    now = 601.0
    traffic.turned(now, {(SHOP, "code"): (*turns[SHOP, "code"], Turn(now, "v2"))})
    for name, rows in before.items():
        metric = traffic.metric(name, 0.0)
        assert metric is not None
        seen = int((now - metric.begin) // 15) + 1
        for labels, samples in zip(metric.labels, metric.samples, strict=True):
            was = rows.get(tuple(sorted(labels.items())))
            expected = was[:seen] if was is not None else np.full(seen, np.nan)
            np.testing.assert_array_equal(samples[:seen], expected)


def test_a_restart_begins_a_counter_anew_and_a_version_begins_another_series() -> None:
    for versioned in (True, False):
        traffic, turns = _traffic(versioned=versioned)
        now = 601.0
        traffic.turned(now, {(SHOP, "code"): (*turns[SHOP, "code"], Turn(now, "v2"))})
        metric = traffic.metric(REQUESTS, 0.0)
        assert metric is not None
        versions = {one.get("version", "") for one in metric.labels}
        assert versions == ({"v1", "v2"} if versioned else {""})
        falls = [
            any(later < earlier for earlier, later in pairwise(row[~np.isnan(row)]))
            for one, row in zip(metric.labels, metric.samples, strict=True)
            if one["code"] == "200"
        ]
        assert all(falls) is not versioned


def test_a_release_is_taken_back_for_what_the_pack_itself_asks_for(tmp_path: Path) -> None:
    played = play(Case("fails everything", 0, 1), tmp_path, (_PACK,)).by[_PACK]
    (made,) = played.rollbacks
    assert (made.service, made.before, made.after, made.right) == (SHOP, "code=v2", "code=v1", 0)
    assert made.outcome == "recovered"
    assert 0 < made.delay < 600
    pack = yaml.safe_load((Path(__file__).parents[2] / "rules" / "http.yaml").read_text())
    assert any(line for line in played.reasons if any(f"{rule['name']}: " in line for rule in pack["rules"]))


# -- its figures --------------------------------------------------------------------------------
def test_what_is_counted() -> None:
    right = Rollback(100.0, SHOP, "code=v2", "code=v1", 0, 90.0, "recovered")
    wrong = Rollback(50.0, "bank", "code=v1", "code=v0", None)
    results = [
        _played("fails everything", right),
        _played(
            "fails in part", replace(right, delay=30.0, outcome="ineffective"), wrong, replace(wrong, service="mail")
        ),
        _played("slow leak", missed=(0,)),
        _played("a weekly job"),
    ]
    found = score(results, _PACK)
    assert (found.right, found.wrong, found.missed, found.recovered) == (2, 1, 1, 1)
    assert (found.precision, found.recall) == (2 / 3, 2 / 3)
    assert (found.typical, found.late) == (60.0, 90.0)
    assert [one.kind.name for one in failing(results, _PACK)] == ["fails in part", "slow leak"]
    assert "bank code=v1 -> code=v0 after 50s" in failing(results, _PACK)[0].reason
    nothing = Score()
    assert (nothing.precision, nothing.recall, nothing.typical, nothing.late) == (None, None, None, None)
    assert any("--class 'slow leak' --number 0" in line for line in table(results, 1))


def test_the_published_page_is_what_the_code_writes() -> None:
    """All but the figures: the sentences, the heads, who judges, and the classes with their labels."""
    results = [_played(one.name) for one in CLASSES]
    held_out = [replace(one, by={who: made for who, made in one.by.items() if who != "alert rules"}) for one in results]
    assert _shape(_PAGE.read_text().splitlines()) == _shape(list(page(results, held_out)))


def _shape(lines: list[str]) -> list[str]:
    names = {one.name: one for one in CLASSES}
    found = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] in names:
            found.append(" ".join([*cells[:3], cells[4]]))
        elif line.startswith("| "):
            found.append(" ".join(cells if cells[1:3] == ["half", "right"] else cells[:2]))
        elif line.startswith("## "):
            found.append(line.partition(":")[0])
        else:
            found.append(line)
    return found


@pytest.mark.parametrize("half", HALVES)
def test_a_small_run_meets_its_bounds(half: str) -> None:
    results = play_all(cases(12, 11, [one.name for one in CLASSES if one.half == half][::3]), (_PACK,))
    found = score(results, _PACK)
    precision, recall = BOUNDS[half]
    assert found.precision is not None
    assert found.recall is not None
    assert found.precision >= precision, list(table(results, 11))
    assert found.recall >= recall, list(table(results, 11))
