"""Names that a service uses for its own layers, plans and checks. Pure: the file's data in, faults out."""

from collections.abc import Iterator, Mapping
from typing import Any

from rollbackd.config import alike
from rollbackd.config.positions import Fault, Loc
from rollbackd.config.sketch import NO_PROMETHEUS, Scene, Sketch, mapping, names
from rollbackd.plugins import unknown


def faults_inside(scene: Scene, service: Sketch) -> Iterator[Fault]:
    """Everything that refers to something the service does not have, or cannot use that way."""
    for part in (_mode, _plan_names, _layers, _plans, _checks):
        for loc, text in part(scene, service):
            yield scene.main.fault((*service.loc, *loc), text)


Complaint = tuple[Loc, str]


def _mode(scene: Scene, service: Sketch) -> Iterator[Complaint]:
    if scene.section("daemon").get("mode") is None and service.raw.get("mode") is None:
        yield ("name",), f'"{service.name}" has no mode; add mode: act or mode: shadow to it, or to `daemon`'


def _plan_names(_: Scene, service: Sketch) -> Iterator[Complaint]:
    written = service.raw.get("plan")
    if written is None and "default" not in service.plan_names:
        first = next(iter(service.plans))
        yield ("plans",), f'"{service.name}" has no plan "default" and does not say which to use; add plan: {first}'
    seen: set[str] = set()
    for loc, name in names(written, ("plan",)):
        if name not in service.plan_names:
            yield loc, unknown("plan", name, service.plan_names)
        elif name in seen:
            yield loc, f'plan "{name}" is named twice; a plan that did not help is not run again'
        seen.add(name)


def _layers(_: Scene, service: Sketch) -> Iterator[Complaint]:
    steps = [layer for layer in service.layers.values() if layer is not None and layer.traits.step]
    complete = service.layers and None not in service.layers.values()
    if not service.plans and complete and not [layer for layer in steps if not layer.traits.data]:
        yield ("layers",), f'no layer of "{service.name}" can be a step of a plan `default`; add one, or write plans'
    for name in service.layers:
        done_when = mapping(mapping(service.raw["layers"])[name]).get("done_when")
        if isinstance(done_when, str) and done_when and done_when not in service.checks:
            yield ("layers", name, "done_when"), unknown("check", done_when, service.checks)


def _plans(scene: Scene, service: Sketch) -> Iterator[Complaint]:
    for name, plan in service.plans.items():
        loc: Loc = ("plans", name)
        steps = list(_steps(plan.get("steps"), (*loc, "steps")))
        within = list(names(plan.get("within"), (*loc, "within")))
        yield from _usable(service, within, "bracket")
        yield from _usable(service, [(place, layer) for place, layer, _ in steps], "step")
        for place, layer, fixed in steps:
            adapter = service.layers.get(layer)
            if fixed and adapter is not None and not adapter.traits.releases:
                yield place, f'layer "{layer}" has no releases to name; write the step as {layer}'
        for place, layer in within:
            if layer in {each for _, each, _ in steps}:
                yield place, f'layer "{layer}" is a bracket and a step of one plan; make it one of them'
        for place, layer in names(plan.get("irreversible"), (*loc, "irreversible")):
            if layer not in {each for _, each, _ in steps}:
                yield place, unknown("step of this plan", layer, {each for _, each, _ in steps})
        verify = mapping(plan.get("verify"))
        yield from _verify(scene, service, verify, (*loc, "verify"))
        if verify.get("skip_rules") and not any(fixed for _, _, fixed in steps):
            text = f'no step of "{name}" is {{LAYER: RELEASE}}, so it switches nothing off; leave `skip_rules` out'
            yield (*loc, "verify", "skip_rules"), text
        if verify.get("skip_rules") and _only_warns(service, verify.get("checks")):
            text = "these checks only warn, and the rules are left out: nothing could say that it is well"
            yield (*loc, "verify", "checks"), f"{text}; let one of them count"


def _only_warns(service: Sketch, checks: Any) -> bool:
    """Whether there are checks, and none of them counts."""
    listed = checks if isinstance(checks, list) else []
    written = [service.checks.get(each) if isinstance(each, str) else each for each in listed]
    return bool(written) and all(mapping(each).get("warn") is True for each in written)


def _steps(value: Any, loc: Loc) -> Iterator[tuple[Loc, str, bool]]:
    """Where a step stands, its layer, and whether its release is fixed."""
    for n, each in enumerate(value if isinstance(value, list) else []):
        if isinstance(each, str):
            yield (*loc, n), each, False
        elif isinstance(each, dict) and len(each) == 1:
            yield (*loc, n), next(iter(each)), True


def _usable(service: Sketch, used: list[tuple[Loc, str]], role: str) -> Iterator[Complaint]:
    seen: set[str] = set()
    for loc, layer in used:
        if layer not in service.layers:
            yield loc, unknown("layer", layer, service.layers)
        elif layer in seen:
            yield loc, f'layer "{layer}" is here twice; a plan has one {role} of a layer'
        elif (adapter := service.layers[layer]) is not None and not getattr(adapter.traits, role):
            kind = mapping(mapping(service.raw["layers"])[layer]).get("adapter")
            yield loc, f'layer "{layer}" cannot be a {role} with its settings for {kind}; {_REMEDIES[role]}'
        seen.add(layer)


_REMEDIES = {
    "bracket": "give it what enters and leaves it, or move it to `steps`",
    "step": "give it what applies a release, or move it to `within`",
}


def _checks(scene: Scene, service: Sketch) -> Iterator[Complaint]:
    for name, check in service.checks.items():
        yield from _check(scene, service, check, ("checks", name))
    yield from _verify(scene, service, service.raw.get("verify"), ("verify",))


def _verify(scene: Scene, service: Sketch, verify: Any, loc: Loc) -> Iterator[Complaint]:
    for key in ("gate", "checks"):
        listed = mapping(verify).get(key)
        for place, name in names(listed if isinstance(listed, list) else [], (*loc, key)):
            if name not in service.checks:
                yield place, unknown("check", name, service.checks)
        for n, check in enumerate(listed if isinstance(listed, list) else []):
            yield from _check(scene, service, check, (*loc, key, n))


def _check(scene: Scene, service: Sketch, check: Any, loc: Loc) -> Iterator[Complaint]:
    """What a check, written in place, needs: a Prometheus to ask, the layer that it names."""
    if "prometheus" not in scene.main.data and isinstance(check, Mapping) and scene.asks_prometheus(check):
        yield (*loc, "query"), NO_PROMETHEUS
    yield from alike.compared(scene, mapping(check), [service.name], loc)
    layer = mapping(check).get("layer")
    if isinstance(layer, str) and layer not in service.layers:
        yield (*loc, "layer"), unknown("layer", layer, service.layers)
    elif isinstance(layer, str) and (adapter := service.layers[layer]) is not None and not adapter.traits.releases:
        yield (*loc, "layer"), f'layer "{layer}" has no releases to compare with; name the layer of what is served'
