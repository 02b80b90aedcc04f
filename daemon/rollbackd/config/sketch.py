"""What the file says as far as it can be read: enough to follow its names although other parts are wrong. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rollbackd.adapter import Adapter, AdapterError, Place
from rollbackd.config.models import Daemon
from rollbackd.config.packs import Placed
from rollbackd.config.positions import Document, Fault, Loc
from rollbackd.config.shape import Shape, kind_among
from rollbackd.plugins import build_adapter

NO_PROMETHEUS = "this asks Prometheus and none is configured; add prometheus: {url: http://127.0.0.1:9090}"


@dataclass(frozen=True, slots=True)
class Sketch:
    """One service, as far as it can be read."""

    name: str
    loc: Loc
    raw: Mapping[str, Any]
    layers: Mapping[str, Adapter | None]
    """None: its settings are wrong, which is told already."""
    plans: Mapping[str, Mapping[str, Any]]
    checks: Mapping[str, Any]

    @property
    def plan_names(self) -> frozenset[str]:
        return frozenset(self.plans) or frozenset({"default"})


@dataclass(slots=True)
class Scene:
    """All that names can refer to."""

    main: Document
    shape: Shape
    rules: Sequence[Placed]
    services: list[Sketch] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def section(self, name: str) -> Mapping[str, Any]:
        """A part of the file; empty when it is not there or no mapping."""
        return mapping(self.main.data.get(name))

    def asks_prometheus(self, check: Any) -> bool:
        """Whether a check, written in place, is a query."""
        models = {kind: each.settings_model for kind, each in self.shape.plugins.checks.items()}
        return kind_among(check, models) == "query"


def draw(main: Document, shape: Shape, rules: Sequence[Placed]) -> Scene:
    """Read what can be read; layers that no adapter can be made of are faults here."""
    scene = Scene(main, shape, rules)
    scratch = scene.section("daemon").get("scratch")
    root = Path(scratch) if isinstance(scratch, str) else Daemon().scratch
    if not root.is_absolute():  # which is told by itself
        root = Daemon().scratch
    for loc, raw in entries(main.data.get("services"), ("services",)):
        name = raw.get("name") if isinstance(raw.get("name"), str) else ""
        layers = {
            layer: _layer(scene, (*loc, "layers", layer), settings, Place(str(name), layer, root, None, None))
            for layer, settings in mapping(raw.get("layers")).items()
        }
        plans = {plan: _plan(each) for plan, each in mapping(raw.get("plans")).items()}
        scene.services.append(Sketch(str(name), loc, raw, layers, plans, mapping(raw.get("checks"))))
    return scene


def _layer(scene: Scene, loc: Loc, raw: Any, place: Place) -> Adapter | None:
    try:
        settings = scene.shape.layer.validate_python(raw)
    except ValidationError:
        return None
    try:
        return build_adapter(settings, place, scene.shape.plugins)
    except (ValueError, AdapterError) as error:
        scene.faults.append(scene.main.fault(loc, str(error)))
        return None


def _plan(raw: Any) -> Mapping[str, Any]:
    return {"steps": raw} if isinstance(raw, list) else mapping(raw)


# -- data that may be anything -----------------------------------------------------------------------
def mapping(value: Any) -> Mapping[str, Any]:
    """The mapping, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def entries(value: Any, loc: Loc) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    """The mappings in a list, each with its location."""
    for n, each in enumerate(value if isinstance(value, list) else []):
        if isinstance(each, dict):
            yield (*loc, n), each


def names(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """One text, or the texts in a list, each with its location."""
    if isinstance(value, str):
        yield loc, value
    for n, each in enumerate(value if isinstance(value, list) else []):
        if isinstance(each, str):
            yield (*loc, n), each


def quoted(found: Sequence[str]) -> str:
    """At most three names for a sentence."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(f'"{each}"' for each in found[:3]) + more
