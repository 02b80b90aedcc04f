"""Which layers a plan moves, and to what. No I/O; how each gets there its adapter says."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rollbackd.incident.spec import PlanSpec
from rollbackd.model import NO_RELEASE, Release, State, Traits


@dataclass(frozen=True, slots=True)
class Move:
    """A layer and the release that it is to have."""

    layer: str
    to: Release


def default_plan(traits: Mapping[str, Traits]) -> PlanSpec:
    """The layers that can be a step, in order; a layer that holds data goes back only where a plan names it."""
    return PlanSpec(steps=tuple(layer for layer, trait in traits.items() if trait.step and not trait.data))


def moves(
    spec: PlanSpec,
    present: State,
    target: State,
    traits: Mapping[str, Traits],
    fixed: Mapping[str, Release],
    unfinished: Collection[str] = (),
) -> tuple[Move, ...]:
    """The steps of a plan: a layer that differs, and one without releases when something before it moved.

    `fixed` are the releases that the plan's `{LAYER: RELEASE}` steps name, resolved; `unfinished` are layers whose last
    step broke off, whatever they have.
    """
    found: list[Move] = []
    for step in spec.steps:
        layer = step if isinstance(step, str) else next(iter(step))
        if not isinstance(step, str):
            if layer in unfinished or present.releases.get(layer) != fixed[layer]:
                found.append(Move(layer, fixed[layer]))
        elif not traits[layer].releases:
            if found or layer in unfinished:
                found.append(Move(layer, NO_RELEASE))
        elif layer in target.releases and (
            layer in unfinished or present.releases.get(layer) != target.releases[layer]
        ):
            found.append(Move(layer, target.releases[layer]))
    return tuple(found)


def reached(present: State, steps: Mapping[str, Release]) -> State:
    """The state after these layers have moved."""
    return State({layer: steps.get(layer, release) for layer, release in present.releases.items()})
