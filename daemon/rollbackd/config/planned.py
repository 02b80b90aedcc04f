"""What `schedules` names: services, their layers, their plans. Pure: data in, faults out."""

from collections.abc import Iterator, Mapping
from typing import Any

from rollbackd.adapter import Snapshots, is_exported
from rollbackd.config.positions import Loc
from rollbackd.config.sketch import Scene, Sketch, entries, names
from rollbackd.plugins import unknown

Complaint = tuple[Loc, str]


def faults(scene: Scene) -> Iterator[Complaint]:
    """All that is wrong with `schedules` beyond the shape of each entry."""
    services = {service.name: service for service in scene.services}
    seen: set[tuple[str, ...]] = set()
    for loc, entry in entries(scene.main.data.get("schedules"), ("schedules",)):
        kind = next((key for key in ("snapshot", "drill") if isinstance(entry.get(key), str)), None)
        if kind is None:
            continue
        same = (kind, entry[kind], *(str(entry.get(key)) for key in ("cron", "every", "when", "plan")))
        if same in seen:
            yield (*loc, kind), "this is on the calendar at these times already; take one away"
        seen.add(same)
        if kind == "snapshot":
            yield from _snapshot(services, entry[kind], (*loc, kind))
            if entry.get("offsite") is not None:
                yield from _offsite(services, entry[kind], (*loc, "offsite"))
        else:
            yield from _drill(services, entry, loc)


def _snapshot(services: Mapping[str, Sketch], written: str, loc: Loc) -> Iterator[Complaint]:
    name, slash, layer = written.partition("/")
    service = services.get(name)
    if service is None:
        yield loc, unknown("service", name, services)
        return
    keeping = [each for each, adapter in service.layers.items() if adapter is None or isinstance(adapter, Snapshots)]
    if slash and layer not in service.layers:
        yield loc, unknown("layer", layer, service.layers)
    elif slash and layer not in keeping:
        kept = f"those that do are {', '.join(keeping)}" if keeping else "none of this service does"
        yield loc, f'layer "{layer}" keeps no snapshots; {kept}'
    elif not slash and not keeping:
        yield loc, f'no layer of "{name}" keeps snapshots; take this entry away, or add a layer that does'


def _offsite(services: Mapping[str, Sketch], written: str, loc: Loc) -> Iterator[Complaint]:
    """A copy is made of a file on this host: a layer that writes none cannot be sent from here."""
    name, slash, layer = written.partition("/")
    layers = services[name].layers if name in services else {}
    for each, adapter in layers.items():
        if (each == layer or not slash) and not is_exported(adapter):
            others = "" if slash else ", and give the other layers an entry for each"
            text = f'snapshots of layer "{each}" are on another host and cannot be sent from here'
            yield loc, f"{text}; take `offsite` away and copy them over there{others}"


def _drill(services: Mapping[str, Sketch], entry: Mapping[str, Any], loc: Loc) -> Iterator[Complaint]:
    service = services.get(entry["drill"])
    if service is None:
        yield (*loc, "drill"), unknown("service", entry["drill"], services)
        return
    for place, plan in names(entry.get("plan"), (*loc, "plan")):
        if plan and plan not in service.plan_names:
            yield place, unknown("plan", plan, service.plan_names)
    if entry.get("execute") is True and service.raw.get("drill") is not True:
        yield (
            (*loc, "execute"),
            f'"{service.name}" may not be drilled for real; say drill: true there, or leave this out',
        )
