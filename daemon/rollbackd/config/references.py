"""References: names of things that stand elsewhere in the file, declared at the fields as `Ref`. Pure: data in.

Fields are walked along the data as it is written, so that an unknown name is told although other parts are wrong.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel

from rollbackd.config.models import Config, Service
from rollbackd.config.outline import Outline, ServiceOutline
from rollbackd.config.packs import Placed
from rollbackd.config.positions import ConfigFault, Loc, entries, mapping, names, quoted
from rollbackd.config.schedules import DrillSchedule, ReportSchedule
from rollbackd.notification_events import EVENTS
from rollbackd.plugins import unknown
from rollbackd.policy.changes import UNCONFIRMED
from rollbackd.policy.spec import PolicyRow
from rollbackd.rules.spec import Rule
from rollbackd.syntax.units import Ref

_LACKING = {"plan": "add it there, or name the services this is for", "check": "add it there"}
"""What to do about a service without it. These kinds of things each service has for itself."""

Reference = tuple[Loc, str, str]
"""Where a name stands, the kind of thing that it names, the name."""


def references(annotation: object, value: object, loc: Loc) -> Iterator[Reference]:
    """The references in data that was written for a type, and may be anything."""
    base, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    origin, parts = get_origin(base), get_args(base)
    for ref in (note for note in notes if isinstance(note, Ref) and (origin is tuple or isinstance(value, str))):
        yield from ((place, ref.kind, name) for place, name in names(value, loc))
    if origin in {Union, UnionType}:
        for part in parts:
            yield from references(part, value, loc)
    elif origin is tuple:
        for n, each in enumerate(value if isinstance(value, list) else []):
            yield from references(parts[0], each, (*loc, n))
    elif origin is dict:
        for key, each in mapping(value).items():
            yield from references(parts[0], key, (*loc, key))
            yield from references(parts[1], each, (*loc, key))
    elif isinstance(base, type) and issubclass(base, BaseModel):
        for name, field in base.model_fields.items():
            key = field.alias or name
            if (written := mapping(value).get(key, field.default)) != field.default:  # empty by default: no name
                yield from references(field.rebuild_annotation(), written, (*loc, key))


def faults(outline: Outline) -> Iterator[ConfigFault]:
    """Every name of something that the file does not have."""
    file, at = outline.file, outline.main.fault
    known = everywhere(outline)
    rest = {key: value for key, value in file.items() if key not in {"rules", "policy", "schedules", "services"}}
    yield from _unknown(known, references(Config, rest, ()), at)
    for loc, row in entries(file.get("policy"), ("policy",)):
        yield from _unknown(known, references(PolicyRow, row, loc), at, _services_of(outline, row))
    for loc, entry in outline.schedules("drill"):
        drilled = [service for service in outline.services if service.name == entry["drill"]]
        yield from _unknown(known, references(DrillSchedule, entry, loc), at, drilled)
    for loc, entry in outline.schedules("report"):
        yield from _unknown(known, references(ReportSchedule, entry, loc), at)
    for service in outline.services:
        yield from _unknown(known, references(Service, service.raw, service.loc), at, [service])
        yield from _unknown(known, _of_layers(outline, service), at, [service])
    for rule in outline.rules:
        in_each = ("plan", "check") if mapping(rule.raw).get("services") else ("plan",)
        found = references(Rule, rule.raw, ())
        yield from _unknown(known, found, rule.point, scope(outline, rule), in_each)


def _of_layers(outline: Outline, service: ServiceOutline) -> Iterator[Reference]:
    """Those in the settings of layers, whose models are the adapters' own."""
    for layer, raw in mapping(service.raw.get("layers")).items():
        adapter = outline.shape.plugins.adapters.get(str(mapping(raw).get("adapter")))
        if adapter is not None:
            yield from references(adapter.settings_model, raw, (*service.loc, "layers", layer))


def everywhere(outline: Outline) -> Mapping[str, Collection[str]]:
    """What there is of each kind, but for what services have for themselves."""
    receivers = [entry.get("name") for _, entry in entries(outline.section("notify").get("receivers"), ())]
    return {
        "service": {service.name for service in outline.services if service.name not in outline.followed},
        # A table that asks about all it does not name would ask about a change that nobody confirmed, too.
        "rule": {*(rule.name for rule in outline.rules), UNCONFIRMED},
        "group": outline.section("groups").keys(),
        "receiver": [name for name in receivers if isinstance(name, str)],
        "event": EVENTS,
        "adapter": outline.shape.plugins.adapters.keys() | outline.shape.plugins.others,
        "cluster": outline.section("clusters").keys(),
    }


def _unknown(
    known: Mapping[str, Collection[str]],
    found: Iterable[Reference],
    at: Callable[[Loc, str], ConfigFault],
    services: Collection[ServiceOutline] = (),
    in_each: Collection[str] = ("plan",),
) -> Iterator[ConfigFault]:
    """References to nothing. `in_each`: kinds that each of these services must have, not only one of them."""
    for loc, kind, name in found:
        if kind in known:
            if name not in known[kind]:
                yield at(loc, unknown(kind, name, known[kind]))
            continue
        lacking = [service.name for service in services if name not in service.has(kind)]
        if lacking and len(lacking) == len(services):
            yield at(loc, unknown(kind, name, {each for service in services for each in service.has(kind)}))
        elif lacking and kind in in_each:
            yield at(loc, f'{kind} "{name}" is not in {quoted(lacking)}; {_LACKING[kind]}')


def scope(outline: Outline, rule: Placed) -> list[ServiceOutline]:
    """The services that a rule is for."""
    named = {name for _, name in names(mapping(rule.raw).get("services"), ())}
    return [service for service in outline.services if not named or service.name in named]


def _services_of(outline: Outline, row: Mapping[str, object]) -> list[ServiceOutline]:
    """The services that a row of the policy is for: those that it names, else those of its rules."""
    when = mapping(row.get("when"))
    named = {name for _, name in names(when.get("service"), ())}
    if not when.get("service"):
        rules = {rule.name: rule for rule in outline.rules}
        asked = [rules[name] for _, name in names(when.get("rule"), ()) if name in rules]
        named = {service.name for rule in asked for service in scope(outline, rule)}
    return [service for service in outline.services if service.name in named or not named]
