"""A guard is a record: all that follows from its finding is decided in it, and followed everywhere."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

import rollbackd
import rollbackd_adapters
from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import Action, Finding, Request, Trigger
from rollbackd.policy import decide, guards
from rollbackd.policy.guards import GUARDS, Guard, Situation, When
from rollbackd.policy.ledger import fold_service
from tests.unit.builders import situation, trigger
from tests.unit.judgement.shop import PAGE, Shop
from tests.unit.test_decision_engine import SHOP, count_looks
from tests.unit.test_preflight_guards import Court

NAMES = {guard.name for guard in GUARDS}
REFUSED = "it stands against it"
each = pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
WORDS_OF_OTHERS = frozenset(
    {
        "hold",
        "shadow",
        "clock",
        "change",
        "target",
        "window",
        "ready",
        "policy",
        "ineffective",
        "irreversible",
        "first_minutes",
    }
)
"""Names of guards that are also keys, options, outcomes or kinds of messages."""


@pytest.fixture
def stands(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """That guard refuses everything."""

    def refuses(_trigger: Trigger, _given: Situation) -> Finding:
        return Finding(guard.name, Action.REFUSE, REFUSED)

    others = [replace(one, ask=refuses) if one is guard else one for one in GUARDS]
    monkeypatch.setattr(decide, "GUARDS", tuple(others))


# -- the table ----------------------------------------------------------------------------------------
def test_the_guards_are_these_in_this_order() -> None:
    assert [guard.name for guard in GUARDS] == [
        "hold", "open_incident", "shadow", "clock", "stale", "over", "change", "same_state", "target", "reach", "ineffective",
        "switched_off", "cooldown", "service_budget", "fleet_budget", "breaker", "common_cause", "others_worsened", "traffic_level",
        "same_time_before", "first_minutes", "window", "irreversible", "data_loss", "ready", "policy",
    ]  # fmt: skip


def test_whoever_adds_a_guard_decides_everything_about_it() -> None:
    assert all(field.default is field.default_factory is MISSING for field in fields(Guard))


def test_every_guard_and_every_function_of_one_is_in_the_table() -> None:
    shape = inspect.signature(guards.hold).replace(parameters=[])
    asked = {
        one
        for name, one in inspect.getmembers(guards, inspect.isfunction)
        if not name.startswith("_")
        and [each.annotation for each in inspect.signature(one).parameters.values()] == [Trigger, Situation]
        and inspect.signature(one).return_annotation == shape.return_annotation
    }
    assert asked == {guard.ask for guard in GUARDS}
    assert [one for _, one in inspect.getmembers(guards) if isinstance(one, Guard) and one not in GUARDS] == []


@each
def test_a_guards_finding_has_its_name(guard: Guard) -> None:
    assert guard.ask(trigger(), situation()).guard == guard.name
    assert guard.ask(trigger(), situation(present=None, target=None, mode="shadow")).guard == guard.name


@each
def test_a_hint_is_filled_with_the_service_alone(guard: Guard) -> None:
    assert "{" not in guard.hint.format(service="shop")
    assert not guard.hint or guard.binds_people is When.ALWAYS, "a hint is for whom it stops"


# -- what follows from it -------------------------------------------------------------------------------
@each
@pytest.mark.usefixtures("stands")
def test_a_guard_binds_people_or_is_only_shown(guard: Guard) -> None:
    order = trigger(rule="manual", request=Request("checkout", "unix:ann"))
    known = decide.decide(order, situation()).against
    assert bool(known) is (guard.binds_people is When.ALWAYS)
    unseen = {one.guard for one in decide.decide(order, situation(present=None)).against}
    assert (guard.name in unseen) is (guard.binds_people in {When.ALWAYS, When.UNSEEN})


@each
@pytest.mark.usefixtures("stands")
async def test_a_guard_is_asked_again_before_the_first_step_or_said_not_to_be(guard: Guard, tmp_path: Path) -> None:
    court = Court(tmp_path)
    await court.opened()
    objection = await court.recheck.confirm(await court.incident())
    assert (objection is not None) is (guard.asked_again is When.ALWAYS)
    assert objection is None or objection.reason == f"{guard.name}: {REFUSED}"


@each
@pytest.mark.parametrize("risen", ["", "unix:ann said yes"])
@pytest.mark.usefixtures("stands")
async def test_what_waiting_alone_turned_against_it_does_not_count_after_that(
    guard: Guard, risen: str, tmp_path: Path
) -> None:
    court = Court(tmp_path)
    await court.opened()
    objection = await court.recheck.confirm(replace(await court.incident(), risen=risen))
    assert (objection is not None) is (guard.asked_again is When.ALWAYS and not (risen and guard.ages))


@each
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.usefixtures("stands")
async def test_a_guard_that_needs_a_look_has_one_and_an_innocent_state_stays_good(
    guard: Guard, by_row: bool, tmp_path: Path
) -> None:
    rows = [{"when": {"layers": "code"}, "action": "roll_back"}] if by_row else []
    shop = Shop(tmp_path, PAGE, policy=rows)
    await shop.open()
    await shop.let("10:02 unix:ann marks v2 good")
    read_model, looks = shop.daemon.read_model, count_looks(shop.world.layers[SHOP]["code"])
    key = read_model.of(SHOP).spells[-1].state.key
    assert (await shop.daemon.decision_engine.consider(shop.trigger())).action is Action.REFUSE
    needs = guard.needs_a_look in {When.ALWAYS, *([When.BY_ROW] if by_row else [])}
    assert bool(looks) is (needs or not guard.innocent)  # no mark is taken of a state that was not looked at
    assert (key in read_model.of(SHOP).good) is guard.innocent
    await shop.down()


@each
def test_what_a_guard_found_about_the_onset_stays_found(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Finding(guard.name, Action.ASK, "as it was then")

    def first(_trigger: Trigger, _given: Situation) -> Finding:
        return found

    others = [replace(one, ask=first) if one is guard else one for one in GUARDS]
    monkeypatch.setattr(decide, "GUARDS", tuple(others))
    given = replace(situation(), looked=True)
    before = decide.decide(trigger(), given)
    assert (guard.name in before.lasting) is guard.lasts
    monkeypatch.undo()
    ledger = fold_service(given.ledger, [Record(1, "service:shop", 1, given.now, "daemon", facts.Decided(before))])
    again = decide.decide(trigger(), replace(given, ledger=ledger))
    assert (found in again.findings) is guard.lasts
    another = decide.decide(replace(trigger(), episode="another"), replace(given, ledger=ledger))
    assert found not in another.findings


# -- no list of names beside the table --------------------------------------------------------------------
def named(path: Path) -> Iterator[str]:
    """The names of guards that a file has as strings; others' words only where they are compared with guards."""
    tree = ast.parse(path.read_text())
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare) and "guard" in ast.unparse(node)]
    sets = [node for node in ast.walk(tree) if isinstance(node, ast.Set) and set(strings(node)) <= NAMES]
    yield from (text for text in strings(tree) if text in NAMES - WORDS_OF_OTHERS)
    yield from (text for node in (*compared, *sets) for text in strings(node) if text in NAMES)


def strings(tree: ast.AST) -> list[str]:
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.reads_sources
def test_nobody_else_has_a_guards_name_as_a_string() -> None:
    """What follows from a guard is asked of the table: a list of names beside it would not know the next one."""
    found = set()
    for root in (Path(one.__path__[0]) for one in (rollbackd, rollbackd_adapters)):
        for path in root.rglob("*.py"):
            if path != Path(guards.__file__):
                found |= {(path.relative_to(root.parent).as_posix(), name) for name in named(path)}
    assert found == set()
