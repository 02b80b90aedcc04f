"""What is put to rest in a cluster: which field of which object, what it was, and whose rest it is. No I/O.

KEDA: https://keda.sh/docs/latest/concepts/scaling-deployments/#pausing-autoscaling
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rollbackd_adapters.kubernetes.client import Object

MARK = "rollbackd/at-rest"
"""The annotation that says for which incident an object is at rest, and what it was before."""
PAUSED = "autoscaling.keda.sh/paused-replicas"
"""KEDA's own pause: it scales there, and nowhere else."""


class RestingField(NamedTuple):
    """A field of one object that is set to rest, and back."""

    name: str
    """For people: `deployment/web`."""
    path: str
    """Of the object in the API."""
    field: tuple[str, ...]
    rest: Any
    drives: str = ""
    """Of a ScaledObject: the workload that it scales."""

    def value(self, of: Object) -> Any:
        """What it is now; None where it is not there."""
        found: Any = of
        for key in self.field:
            found = (found or {}).get(key)
        return found

    def is_at_rest(self, of: Object) -> bool:
        return bool(self.value(of) == self.rest)

    def to(self, of: Object, value: Any, mark: str | None) -> list[dict[str, Any]]:
        """The JSON patch that sets the field and the mark of an object that is still as it was read; None: not there.

        What is compared is what is set; where nothing is there yet, all of the object.
        """
        annotations = of["metadata"].get("annotations")
        guards = [_tested(("metadata", "uid"), of["metadata"]["uid"])]
        if annotations is None or self.value(of) is None:
            guards.append(_tested(("metadata", "resourceVersion"), of["metadata"]["resourceVersion"]))
        if annotations is None:
            guards.append({"op": "add", "path": _pointer(("metadata", "annotations")), "value": {}})
        sets = [*_set(self.field, self.value(of), value)]
        return [*guards, *sets, *_set(("metadata", "annotations", MARK), (annotations or {}).get(MARK), mark)]


class Rest(NamedTuple):
    """Why an object is at rest."""

    key: str
    was: Any
    now: Any
    """What we set."""

    def __str__(self) -> str:
        return json.dumps(self._asdict())


def rest_of(of: Object) -> Rest | None:
    """What an object's mark says; None for none, and for one that nobody of ours wrote."""
    try:
        said = json.loads((of["metadata"].get("annotations") or {}).get(MARK, ""))
        return Rest(str(said["key"]), said["was"], said["now"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def scales(scaler: Object, kind: str, name: str) -> bool:
    """Whether an HPA or a ScaledObject scales that workload."""
    target = (scaler.get("spec") or {}).get("scaleTargetRef") or {}
    return str(target.get("kind") or "Deployment").lower() == kind and target.get("name") == name


def wakes_from_zero(scalers: Iterable[Object], kind: str, name: str) -> str:
    """The HPA of a workload that scales it up from 0 by itself; empty when there is none."""
    for scaler in scalers:
        if scales(scaler, kind, name) and (scaler.get("spec") or {}).get("minReplicas") == 0:
            return str(scaler["metadata"]["name"])
    return ""


def scaled_to_zero(workload: Object) -> list[dict[str, object]]:
    """The JSON patch that scales a workload to 0, from wherever it is by then."""
    replicas = {"op": "replace", "path": "/spec/replicas", "value": 0}
    return [_tested(("metadata", "uid"), workload["metadata"]["uid"]), replicas]


def _set(field: tuple[str, ...], present: object, value: object) -> list[dict[str, object]]:
    """The operations that take a field from one value to another; None: it is not there."""
    if present == value:
        return []
    tested = [] if present is None else [_tested(field, present)]
    if value is None:
        return [*tested, {"op": "remove", "path": _pointer(field)}]
    return [*tested, {"op": "add", "path": _pointer(field), "value": value}]


def _tested(field: tuple[str, ...], value: object) -> dict[str, object]:
    return {"op": "test", "path": _pointer(field), "value": value}


def _pointer(field: tuple[str, ...]) -> str:
    """As RFC 6901 writes it."""
    return "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in field)


def told(was: Mapping[str, Any]) -> str:
    """A sentence about what is at rest, by the names of its objects; empty for nothing."""
    parts = []
    for name, value in was.items():
        kind = name.partition("/")[0]
        if kind == "cronjob":
            parts.append(f"{name} is suspended; jobs of it that run already go on")
        elif kind == "scaledobject":
            parts.append(f"{name} is paused at 0" + (f", it was at {value}" if value is not None else ""))
        else:
            parts.append(f"{name} is at 0, it was at {value}")
    return "; ".join(parts)
