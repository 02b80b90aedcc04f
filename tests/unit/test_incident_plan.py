"""Which layers a plan moves, and what it reaches."""

import pytest

from rollbackd.incident.plan import Move, default_plan, moves, reached
from rollbackd.incident.spec import PlanSpec
from rollbackd.model import NO_RELEASE, Release, State, Traits
from tests.unit.builders import state

TRAITS = {
    "traffic": Traits(step=False, bracket=True, releases=False),
    "flags": Traits(),
    "config": Traits(),
    "code": Traits(),
    "data": Traits(data=True),
    "process": Traits(releases=False),
}
PRESENT = state("v2", config="c2", flags="f1", data="d2")
TARGET = state("v1", config="c2", flags="f1", data="d1")


def moved(*steps: str | dict[str, str], present: State = PRESENT, target: State = TARGET) -> list[tuple[str, str]]:
    fixed = {layer: Release(text) for step in steps if isinstance(step, dict) for layer, text in step.items()}
    return [(one.layer, one.to.id) for one in moves(PlanSpec(steps=steps), present, target, TRAITS, fixed)]


def test_by_default_every_layer_is_a_step_but_data_and_what_cannot_be_one() -> None:
    assert default_plan(TRAITS).steps == ("flags", "config", "code", "process")


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (("config", "code"), [("code", "v1")]),  # the configuration is there already
        (("code", "process"), [("code", "v1"), ("process", "-")]),
        (("config", "process"), []),  # nothing before the process moved
        (("process", "code"), [("code", "v1")]),
        (("code", "data"), [("code", "v1"), ("data", "d1")]),  # data by name
        (({"flags": "no-search"}, "process"), [("flags", "no-search"), ("process", "-")]),
        (({"flags": "f1"}, "process"), []),
        (({"flags": "no-search"}, "code", "process"), [("flags", "no-search"), ("code", "v1"), ("process", "-")]),
    ],
)
def test_a_layer_moves_that_differs_and_a_process_after_something_that_moved(
    steps: tuple[str | dict[str, str], ...], found: list[tuple[str, str]]
) -> None:
    assert moved(*steps) == found


def test_a_layer_that_the_target_does_not_know_stays() -> None:
    assert moved("code", "config", target=state("v1")) == [("code", "v1")]


def test_a_layer_that_is_new_since_the_target_and_absent_now_is_taken_there() -> None:
    assert moved("config", present=state("v2"), target=state("v1", config="c1")) == [("config", "c1")]


def test_a_process_has_no_release() -> None:
    assert moves(PlanSpec(steps=("code", "process")), PRESENT, TARGET, TRAITS, {})[-1] == Move("process", NO_RELEASE)


def test_the_state_that_steps_reach_keeps_all_other_layers() -> None:
    assert reached(PRESENT, {"code": Release("v1"), "process": NO_RELEASE}) == state(
        "v1", config="c2", flags="f1", data="d2"
    )
