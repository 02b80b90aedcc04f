"""Schedules, as far as they are about services: snapshots of layers that keep some, drills that are allowed. Pure."""

from collections.abc import Iterator, Mapping

from rollbackd.adapter import KeepsSchemas, Snapshots, is_exported
from rollbackd.config.outline import Complaint, Outline, ServiceOutline
from rollbackd.config.positions import Loc
from rollbackd.plugins import unknown


def complaints(outline: Outline) -> Iterator[Complaint]:
    """All that is wrong with `schedules` beyond the shape of each entry."""
    services = {service.name: service for service in outline.services}
    for loc, entry in outline.schedules("snapshot"):
        yield from _snapshot(services, str(entry["snapshot"]), (*loc, "snapshot"))
        if entry.get("kind") == "schema":
            yield from _schema(services, str(entry["snapshot"]), entry, loc)
        elif entry.get("offsite") is not None:
            yield from _offsite(services, str(entry["snapshot"]), (*loc, "offsite"))
    for loc, entry in outline.schedules("drill"):
        service = services.get(str(entry["drill"]))
        if service is not None and entry.get("execute") is True and service.raw.get("drill") is not True:
            text = f'"{service.name}" may not be drilled for real; say drill: true there, or leave this out'
            yield (*loc, "execute"), text


def _snapshot(services: Mapping[str, ServiceOutline], written: str, loc: Loc) -> Iterator[Complaint]:
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


def _schema(
    services: Mapping[str, ServiceOutline], written: str, entry: Mapping[str, object], loc: Loc
) -> Iterator[Complaint]:
    """Entries for the schema alone: of a layer that has one, and without what needs its rows."""
    name, _, layer = written.partition("/")
    adapter = services[name].layers.get(layer) if name in services else None
    if adapter is not None and not isinstance(adapter, KeepsSchemas):
        yield (*loc, "kind"), f'layer "{layer}" has no schema that is kept alone; a layer of adapter postgres has'
    elif name in services and not layer:
        yield (*loc, "kind"), "the schema alone is kept of one layer; write SERVICE/LAYER"
    for key in ("restore_test", "offsite", "when"):
        if entry.get(key) is not None:
            yield (*loc, key), f"copies of the schema alone have no `{key}`; take it away, or leave `kind` out"


def _offsite(services: Mapping[str, ServiceOutline], written: str, loc: Loc) -> Iterator[Complaint]:
    """Layers whose snapshots are not files on this host, of which copies are made."""
    name, slash, layer = written.partition("/")
    layers = services[name].layers if name in services else {}
    for each, adapter in layers.items():
        if (each == layer or not slash) and not is_exported(adapter):
            others = "" if slash else ", and give the other layers an entry for each"
            text = f'snapshots of layer "{each}" are on another host and cannot be sent from here'
            yield loc, f"{text}; take `offsite` away and copy them over there{others}"
