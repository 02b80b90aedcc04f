"""The outline of a file: what can be read of it, so that names are looked up although other parts are wrong. No I/O."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from rollbackd.adapter import Adapter, AdapterError, Place
from rollbackd.config.models import Daemon
from rollbackd.config.packs import Placed
from rollbackd.config.positions import ConfigFault, Document, Loc, entries, mapping
from rollbackd.config.schedules import SCHEDULES
from rollbackd.config.shape import Shape, kind_among
from rollbackd.plugins import build_adapter, other_layer

Complaint = tuple[Loc, str]
"""A place in the main file, and what is wrong there."""
NO_PROMETHEUS = "this asks Prometheus and none is configured; add prometheus: {url: http://127.0.0.1:9090}"


@dataclass(frozen=True, slots=True)
class ServiceOutline:
    """One service, as far as it can be read."""

    name: str
    loc: Loc
    raw: Mapping[str, object]
    layers: Mapping[str, Adapter | None]
    """None: its settings are wrong, which is told already."""
    plans: Mapping[str, Mapping[str, object]]
    checks: Mapping[str, object]

    @property
    def plan_names(self) -> Collection[str]:
        return self.plans.keys() or {"default"}

    def has(self, kind: str) -> Collection[str]:
        """The names of its plans, or of its checks."""
        return self.plan_names if kind == "plan" else self.checks.keys()


@dataclass(slots=True)
class Outline:
    """All that names can refer to."""

    main: Document
    shape: Shape
    rules: Sequence[Placed]
    followed: Collection[str] = ()
    """Those of the services that follow a cluster: they come and go, so nothing else in the file may name them."""
    services: list[ServiceOutline] = field(default_factory=list)
    faults: list[ConfigFault] = field(default_factory=list)

    @property
    def file(self) -> Mapping[str, object]:
        """The main file, by section."""
        return mapping(self.main.data)

    def section(self, name: str) -> Mapping[str, object]:
        """A part of the file; empty when it is not there or no mapping."""
        return mapping(self.file.get(name))

    def schedules(self, kind: str) -> Iterator[tuple[Loc, Mapping[str, object]]]:
        """The entries of `schedules` of one kind, each with its location."""
        for loc, entry in entries(self.file.get("schedules"), ("schedules",)):
            if kind == next((key for key in SCHEDULES if isinstance(entry.get(key), str)), None):
                yield loc, entry

    def asks_prometheus(self, check: object) -> bool:
        """Whether a check, written in place, is a query."""
        models = {kind: each.settings_model for kind, each in self.shape.plugins.checks.items()}
        return kind_among(check, models) == "query"


def outline_of(main: Document, shape: Shape, rules: Sequence[Placed], followed: Collection[str] = ()) -> Outline:
    """The outline of a file; a layer of which no adapter can be made is among its faults."""
    outline = Outline(main, shape, rules, followed)
    scratch = outline.section("daemon").get("scratch")
    root = Path(scratch) if isinstance(scratch, str) else Daemon().scratch
    if not root.is_absolute():  # which is told by itself
        root = Daemon().scratch
    for loc, raw in entries(outline.file.get("services"), ("services",)):
        name = raw.get("name")
        name = name if isinstance(name, str) else ""
        layers: dict[str, Adapter | None] = {}
        for layer, settings in mapping(raw.get("layers")).items():
            place = Place(name, layer, root, None, None, other=partial(other_layer, layers))
            layers[layer] = _layer(outline, (*loc, "layers", layer), settings, place)
        plans = {plan: _plan(each) for plan, each in mapping(raw.get("plans")).items()}
        outline.services.append(ServiceOutline(name, loc, raw, layers, plans, mapping(raw.get("checks"))))
    return outline


def _layer(outline: Outline, loc: Loc, raw: object, place: Place) -> Adapter | None:
    try:
        settings = outline.shape.layer.validate_python(raw)
    except ValidationError:
        return None
    try:
        return build_adapter(settings, place, outline.shape.plugins)
    except (ValueError, AdapterError) as error:
        outline.faults.append(outline.main.fault(loc, str(error)))
        return None


def _plan(raw: object) -> Mapping[str, object]:
    return {"steps": raw} if isinstance(raw, list) else mapping(raw)
