"""The situations as they are written down, and how one is played."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, RootModel

from rollbackd.syntax.units import Duration, OneOrMany, Spec
from tests.unit.judgement import script, told
from tests.unit.judgement.script import SHOP
from tests.unit.judgement.stage import Stage
from tests.unit.judgement.told import Told, name_of

_HERE = Path(__file__).parent
SHELF: Mapping[str, Any] = yaml.load((_HERE / "rules.yaml").read_text(), yaml.CSafeLoader)
"""Rules that situations name."""
_HISTORY = "Sun 10:00 ran v1, good"
_USUAL = {"errors": 0.01, "requests": 1000.0, "orders": 40.0, "latency": 0.2, "down": 0.0}


def _script(text: str) -> str:
    script.parse(text)
    return text


def _expected(text: str) -> str:
    told.parse(text)
    return text


class Situation(Spec):
    """One situation."""

    name: str
    why: str = ""
    """What an on-call engineer would say to it."""
    layers: dict[str, Annotated[tuple[str, ...], OneOrMany()]] = {SHOP: ("code",)}
    """The services, with their layers."""
    crowd: int = 0
    """So many services more, that exist only to be counted."""
    rules: Annotated[tuple[str, ...], OneOrMany()] = ("errors",)
    """From the shelf in `rules.yaml`."""
    settings: dict[str, Any] = {}
    """Parts of the configuration, and under a service's name parts of the service."""
    before: Annotated[str, AfterValidator(_script)] = _HISTORY
    """What was before the daemon is started."""
    happens: Annotated[str, AfterValidator(_script)]
    expect: Annotated[str, AfterValidator(_expected)]
    """All that is made of it, in order."""
    lasts: Duration = timedelta(minutes=12)
    """So long after the last thing that happens."""
    ends: dict[str, str] = {}
    """What runs at the end, by service; `good`, `bad`: releases of the shop."""


class Chapter(Spec):
    """Situations of one kind."""

    title: str
    settings: dict[str, Any] = {}
    """Parts of the configuration of all its situations; where both have a mapping, both count."""
    situations: tuple[Situation, ...] = Field(min_length=1)


class _File(RootModel[Chapter]):
    pass


def chapters() -> tuple[Chapter, ...]:
    """All of them, in the order of their files' names."""
    paths = sorted((_HERE / "situations").glob("*.yaml"))
    return tuple(_shared(_File.model_validate(yaml.load(path.read_text(), yaml.CSafeLoader)).root) for path in paths)


def _shared(chapter: Chapter) -> Chapter:
    """With its settings in each of its situations."""
    situations = tuple(
        one.model_copy(update={"settings": _merged(chapter.settings, one.settings)}) for one in chapter.situations
    )
    return chapter.model_copy(update={"situations": situations})


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    shared = [key for key in common.keys() & own.keys() if isinstance(own[key], dict)]
    both = {key: {**common[key], **own[key]} for key in shared}
    return {**common, **own, **both}


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a situation, and what is wrong with that."""

    told: tuple[Told, ...]
    faults: tuple[str, ...] = field(default=())


async def play(situation: Situation, directory: Path) -> Played:
    """Let it happen, and compare."""
    rules = [{"name": name, **SHELF[name]} for name in situation.rules]
    stage = Stage(directory, situation.layers, {"rules": rules, **situation.settings}, situation.crowd)
    for query, value in _USUAL.items():
        for service in (*situation.layers, *stage.crowd):
            stage.world.measure(query, service, value)
    for line in script.parse(situation.before):
        await stage.clock.go(line.at)
        await script.perform(stage, line)
    lines = script.parse(situation.happens)
    history = len(stage.journal.records)
    await stage.clock.go(max(stage.clock.true, lines[0].at - timedelta(minutes=2)))
    await stage.up()
    try:
        for line in lines:
            await stage.clock.go(line.at)
            await script.perform(stage, line)
        await stage.clock.go(lines[-1].at + situation.lasts)
        made = told.told(stage, history)
        return Played(made, (*_differences(situation, made), *_ends(situation, stage)))
    finally:
        await stage.down()


def _differences(situation: Situation, made: tuple[Told, ...]) -> list[str]:
    wanted = told.parse(situation.expect)
    faults = [f"expected {one.text}, was {was}" for one, was in zip(wanted, made, strict=False) if not one.fits(was)]
    faults += [f"expected {one.text}, and nothing came" for one in wanted[len(made) :]]
    return faults + [f"was not expected: {was}" for was in made[len(wanted) :]]


def _ends(situation: Situation, stage: Stage) -> list[str]:
    ledger = stage.daemon.read_model.of(SHOP)
    faults = []
    known = {name_of(spell.state): spell.state.key for spell in ledger.spells}
    for what, text in situation.ends.items():
        if what in {"good", "bad"}:
            wanted = what == "good"
            is_good = known.get(text) in ledger.good
            faults += [f"{text} is {'' if is_good else 'not '}good"] if is_good is not wanted else []
            continue
        if what == "quarantined":
            layer, _, release = text.rpartition("=")
            there = (layer or "code", release) in ledger.quarantined
            faults += [] if there else [f"{text} is not quarantined"]
            continue
        layers = stage.world.layers[what]
        runs = ",".join(f"{name}={layer.present.id}" for name, layer in sorted(layers.items()))
        runs = runs if len(layers) > 1 else runs.removeprefix("code=")
        faults += [f"{what} runs {runs} at the end, not {text}"] if runs != text else []
    return faults
