"""Lists of kinds of facts: each kind is in them, or said not to be; a new one fails here until that is decided."""

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import rollbackd
import rollbackd_adapters
from rollbackd import facts
from rollbackd.cli import incident_text, outcome_report
from rollbackd.execution import incident_clocks
from rollbackd.facts import Record
from rollbackd.incident.clocks import due, next_due
from rollbackd.incident.fold import evolve
from rollbackd.incident.life import Incident
from rollbackd.journal import unwritten
from rollbackd.policy import ledger
from rollbackd.snapshots import history
from tests.unit.builders import Story, at, entered, minutes, plain, stepped, whole
from tests.unit.test_incident_clocks import PEOPLE, asking, story
from tests.unit.test_presenters import SENTENCES

PRODUCT = [Path(one.__path__[0]) for one in (rollbackd, rollbackd_adapters)]
ALL = set(get_args(facts.Fact))


def folded(module: ModuleType) -> set[str]:
    """The kinds that a module tells apart."""
    patterns = (node.cls for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.MatchClass))
    return {one.attr for one in patterns if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "facts"}


def kinds_in_words() -> Iterator[tuple[str, str]]:
    """Every kind of fact that the product has as a string, with the file."""
    for root in PRODUCT:
        for path in sorted(root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in facts.KINDS:
                    yield path.relative_to(root.parent).as_posix(), node.value


def test_every_class_of_facts_is_of_an_incident_of_a_service_or_of_the_fleet() -> None:
    classes = {one for _, one in inspect.getmembers(facts, inspect.isclass) if one.__module__ == facts.__name__}
    assert {one for one in classes if is_dataclass(one)} - {facts.Record} == ALL


@pytest.mark.reads_sources
def test_no_list_of_kinds_is_written_in_words_but_by_what_reads_json() -> None:
    """A list that is written with the classes cannot name a kind that there is not."""
    read_json = ("rollbackd/cli/", "rollbackd/views/report_text.py")
    others = {(file, word) for file, word in kinds_in_words() if not file.startswith(read_json)}
    lines = {f"rollbackd/notify/messages/{name}.py" for name in ("approvals", "arrangement")}
    assert others == {(name, "Changed") for name in lines}, "a line's name in a message"


def test_the_ledger_is_made_of_every_kind_that_it_folds_and_of_all_of_the_fleets() -> None:
    of_it = {one for one in ALL if one.__name__ in ledger.LEDGER_KINDS}
    assert folded(ledger) <= set(ledger.LEDGER_KINDS)
    assert set(get_args(facts.FleetFact)) <= of_it
    assert set(get_args(facts.ServiceFact)) - of_it == {
        facts.Proposed, facts.SnapshotBegun, facts.Snapshotted, facts.SnapshotVerified,
        facts.SnapshotCopied, facts.SnapshotRestored, facts.SnapshotEnded,
    }  # fmt: skip


def test_the_timekeeper_reads_every_fact_of_an_incident_but_those_that_nothing_comes_due_by() -> None:
    assert {one.__name__ for one in get_args(facts.IncidentFact)} - set(incident_clocks._KINDS) == {
        "Adopted",
        "Told",
        "Measured",
    }
    measured = facts.Measured("errors", at(0), minutes(1), (0.1, None))
    for told in (story(), asking()):
        before = (due(told.incident, PEOPLE, None, at(31)), next_due(told.incident, PEOPLE, at(0)))
        told.wait(minutes(1)).tell(facts.Adopted("boot/1"), facts.Told("pager", "opened", "1"), measured)
        assert (due(told.incident, PEOPLE, None, at(31)), next_due(told.incident, PEOPLE, at(0))) == before


@pytest.mark.parametrize(
    "begun",
    [
        lambda: whole().tell(facts.Entering("traffic")),
        lambda: entered().tell(facts.ApplyStarted("code")),
        lambda: stepped().tell(facts.Leaving("traffic")),
    ],
    ids=["enter", "apply", "leave"],
)
def test_what_could_not_be_written_is_missing_until_nothing_is_in_flight(begun: Callable[[], Story]) -> None:
    def flying(incident: Incident) -> set[type]:
        """The kinds after which something is in flight."""
        told = [Record(99, "incident:shop-1", incident.n + 1, at(20), "daemon", fact) for fact, _ in SENTENCES]
        return {type(record.fact) for record in told if evolve(incident, record).flight is not None}

    kinds = set(get_args(facts.IncidentFact))
    assert flying(plain().incident) == set(unwritten._BEGUN)
    assert kinds - flying(begun().incident) == set(unwritten._OVER)


def test_the_past_of_snapshots_is_made_of_every_kind_that_it_folds() -> None:
    read = {*history.RUN_KINDS, *history.FINDING_KINDS}
    assert read == folded(history)
    of_snapshots = {one.__name__ for one in ALL if one.__name__.startswith("Snapshot")}
    assert of_snapshots - read == {"SnapshotCopied", "SnapshotRestored"}


def test_what_people_are_shown_names_every_kind_that_failed_and_every_round_of_checks() -> None:
    has = {one.__name__: {field.name for field in fields(one)} for one in ALL}
    assert {kind for kind, names in has.items() if "evidence" in names} == incident_text._FAILED
    rounds = {kind for kind, names in has.items() if {"verdict", "results"} <= names}
    assert all(outcome_report.last_round([{"kind": kind, "fact": {"results": [{}]}}]) == [{}] for kind in rounds)
