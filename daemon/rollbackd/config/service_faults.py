"""Services: what each says of its own layers, plans and checks. Pure: data in."""

from collections.abc import Iterable, Iterator, Mapping

from rollbackd.adapter import Discovers, RestsOn, is_moved_by
from rollbackd.config.outline import NO_PROMETHEUS, Complaint, Outline, ServiceOutline
from rollbackd.config.positions import Loc, entries, mapping, names
from rollbackd.config.references import scope
from rollbackd.config.rule_faults import compared
from rollbackd.plugins import unknown


def complaints(outline: Outline) -> Iterator[Complaint]:
    """What a service says of its own layers, plans and checks, and cannot be."""
    if outline.file.get("services") in (None, []):
        yield ("services",), "there are no services, so nothing is watched; add one under `services`"
    for loc, entry in entries(outline.file.get("services_from"), ("services_from",)):
        kind = outline.shape.plugins.adapters.get(str(entry.get("adapter", "kubernetes")))
        if kind is not None and not isinstance(kind, Discovers):
            yield (*loc, "adapter"), f"adapter {entry['adapter']} cannot say what there is; write kubernetes"
    for service in outline.services:
        for part in (_mode, _host, _defaults, _plans, _foundations, _checks):
            for loc, text in part(outline, service):
                yield (*service.loc, *loc), text


def _mode(outline: Outline, service: ServiceOutline) -> Iterator[Complaint]:
    if outline.section("daemon").get("mode") is None and service.raw.get("mode") is None:
        yield ("name",), f'"{service.name}" has no mode; add mode: act or mode: shadow to it, or to `daemon`'


def _host(outline: Outline, service: ServiceOutline) -> Iterator[Complaint]:
    """Where several hosts may drive, a layer of one host says of which."""
    if outline.section("daemon").get("standby") is not True or service.raw.get("on"):
        return
    for name, layer in service.layers.items():
        if layer is not None and layer.traits.local:
            text = f'layer "{name}" is another one on every host; say which with `on: HOST` at "{service.name}"'
            yield ("layers", name), text


def _defaults(_: Outline, service: ServiceOutline) -> Iterator[Complaint]:
    """A plan `default` where nothing else is named, and what it can be made of."""
    if service.raw.get("plan") is None and "default" not in service.plan_names:
        first = next(iter(service.plans))
        yield ("plans",), f'"{service.name}" has no plan "default" and does not say which to use; add plan: {first}'
    steps = [layer for layer in service.layers.values() if layer is not None and layer.traits.step]
    complete = service.layers and None not in service.layers.values()
    if not service.plans and complete and not [layer for layer in steps if not layer.traits.data]:
        yield ("layers",), f'no layer of "{service.name}" can be a step of a plan `default`; add one, or write plans'


def _plans(outline: Outline, service: ServiceOutline) -> Iterator[Complaint]:
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
        yield from _verify(outline, service, verify, (*loc, "verify"))
        yield from _skipped(outline, service, names(verify.get("skip_rules"), (*loc, "verify", "skip_rules")))
        if verify.get("skip_rules") and not any(fixed for _, _, fixed in steps):
            text = f'no step of "{name}" is {{LAYER: RELEASE}}, so it switches nothing off; leave `skip_rules` out'
            yield (*loc, "verify", "skip_rules"), text
        if verify.get("skip_rules") and _only_warns(service, verify.get("checks")):
            text = "these checks only warn, and the rules are left out: nothing could say that it is well"
            yield (*loc, "verify", "checks"), f"{text}; let one of them count"


def _foundations(_: Outline, service: ServiceOutline) -> Iterator[Complaint]:
    """Layers that rest on others: on the right one, and no plan moves that first."""
    layers: Mapping[str, object] = service.layers
    listed = list(names(service.raw.get("plan"), ("plan",)))
    order = [plan for _, plan in listed if plan in service.plans]
    for layer, adapter in layers.items():
        if not isinstance(adapter, RestsOn):
            continue
        if text := adapter.misfit():
            yield ("layers", layer), text
        for name, plan in service.plans.items():
            earlier = order[: order.index(name)] if name in order else []  # its steps are done when this one begins
            before = [step for each in earlier for step in _moved(service, each)]
            for place, step, _fixed in _steps(plan.get("steps"), ("plans", name, "steps")):
                if step == layer and (first := _first_moved(service, before, adapter)):
                    text = f'"{first}" is moved before it, with the code that "{layer}" needs as it is now'
                    yield place, f'{text}; name "{layer}" first'
                before.append(step)


def _moved(service: ServiceOutline, plan: str) -> Iterator[str]:
    yield from (step for _, step, _ in _steps(service.plans.get(plan, {}).get("steps"), ()))


def _first_moved(service: ServiceOutline, steps: Iterable[str], adapter: RestsOn) -> str:
    """The first of the layers that moves what a layer rests on; empty: none does."""
    for step in steps:
        other = service.layers.get(step)
        if other is not None and any(is_moved_by(other, path) for path in adapter.rests_on):
            return step
    return ""


def _skipped(outline: Outline, service: ServiceOutline, skipped: Iterable[tuple[Loc, str]]) -> Iterator[Complaint]:
    """Rules that a plan's verification leaves out and that are not for the service."""
    rules = {rule.name: rule for rule in outline.rules}
    for loc, name in skipped:
        if name not in rules:
            yield loc, unknown("rule", name, rules)
        elif service not in scope(outline, rules[name]):
            yield loc, f'rule "{name}" is not for "{service.name}"; leave it out here'


def _only_warns(service: ServiceOutline, checks: object) -> bool:
    """Whether there are checks, and none of them counts."""
    listed = checks if isinstance(checks, list) else []
    written = [service.checks.get(each) if isinstance(each, str) else each for each in listed]
    return bool(written) and all(mapping(each).get("warn") is True for each in written)


def _steps(value: object, loc: Loc) -> Iterator[tuple[Loc, str, bool]]:
    """Where a step stands, its layer, and whether its release is fixed."""
    for n, each in enumerate(value if isinstance(value, list) else []):
        if isinstance(each, str):
            yield (*loc, n), each, False
        elif isinstance(each, dict) and len(each) == 1:
            yield (*loc, n), next(iter(each)), True


def _usable(service: ServiceOutline, used: list[tuple[Loc, str]], role: str) -> Iterator[Complaint]:
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


def _checks(outline: Outline, service: ServiceOutline) -> Iterator[Complaint]:
    for name, check in service.checks.items():
        yield from _check(outline, service, check, ("checks", name))
    yield from _verify(outline, service, service.raw.get("verify"), ("verify",))
    yield from _listed(outline, service, service.raw.get("evidence"), ("evidence",))


def _verify(outline: Outline, service: ServiceOutline, verify: object, loc: Loc) -> Iterator[Complaint]:
    for key in ("gate", "checks"):
        yield from _listed(outline, service, mapping(verify).get(key), (*loc, key))


def _listed(outline: Outline, service: ServiceOutline, checks: object, loc: Loc) -> Iterator[Complaint]:
    for n, check in enumerate(checks if isinstance(checks, list) else []):
        yield from _check(outline, service, check, (*loc, n))


def _check(outline: Outline, service: ServiceOutline, check: object, loc: Loc) -> Iterator[Complaint]:
    """What a check, written in place, needs: a Prometheus to ask, the layer that it names."""
    if "prometheus" not in outline.file and isinstance(check, Mapping) and outline.asks_prometheus(check):
        yield (*loc, "query"), NO_PROMETHEUS
    yield from compared(outline, mapping(check), [service.name], loc)
    layer = mapping(check).get("layer")
    if isinstance(layer, str) and layer not in service.layers:
        yield (*loc, "layer"), unknown("layer", layer, service.layers)
    elif isinstance(layer, str) and (adapter := service.layers[layer]) is not None and not adapter.traits.releases:
        yield (*loc, "layer"), f'layer "{layer}" has no releases to compare with; name the layer of what is served'
