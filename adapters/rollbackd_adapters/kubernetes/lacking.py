"""What a template's pods would lack, asked before anything is touched. Read only; every sentence says what to do."""

import asyncio
import math
import re
from collections.abc import Collection, Coroutine, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from rollbackd.system.spawner import one_line
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object, segment
from rollbackd_adapters.kubernetes.templates import NeededObject, Template, kind_of, needed_objects

T = TypeVar("T")
_AT_ONCE = 8
"""Questions to the API server."""
_UNITS = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][+-]?\d{1,2})?)(?P<unit>[numkMGTPE]|[KMGTPE]i)?"
)


async def missing_objects(
    client: KubernetesClient, namespace: str, template: Template, spared: Collection[str] = ()
) -> list[str]:
    """ConfigMaps, Secrets, claims and accounts that it names and that are not there.

    :param spared: ConfigMaps that are not looked at.
    :raises KubernetesError: that cannot be asked.
    """
    asked = await together(
        _missing(client, namespace, needed)
        for needed in needed_objects(template)
        if needed.resource != "configmaps" or needed.name not in spared
    )
    return [text for texts in asked for text in texts]


async def _missing(client: KubernetesClient, namespace: str, needed: NeededObject) -> list[str]:
    path = f"/api/v1/namespaces/{namespace}/{needed.resource}/{segment(needed.name)}"
    kind, name = kind_of(needed), one_line(needed.name)
    try:
        if needed.keys:
            found = await client.get(path)
        else:
            found = await client.metadata(path)
    except KubernetesError as error:
        if not error.is_absent:
            raise
        return [f"{kind} {name}, which its pods need, is not in namespace {namespace}; bring it back first"]
    entries = {**(found.get("data") or {}), **(found.get("binaryData") or {})}
    lacking = sorted(needed.keys - entries.keys())
    if lacking:
        return [f"{kind} {name} has no entry {one_line(', '.join(lacking))}, which its pods need; bring it back first"]
    return []


async def over_quota(client: KubernetesClient, namespace: str, workload: Object, template: Template) -> list[str]:
    """A sentence for each quota of the namespace that has no room for the pods that a rollout adds.

    :raises KubernetesError: that cannot be asked.
    """
    surge = surge_of(workload)
    if not surge:
        return []
    quotas = await client.items(f"/api/v1/namespaces/{namespace}/resourcequotas")
    return [text for quota in quotas for text in _over(quota, template, surge)]


def _over(quota: Object, template: Template, surge: int) -> Iterator[str]:
    if (quota.get("spec") or {}).get("scopes") or (quota.get("spec") or {}).get("scopeSelector"):
        return  # it may not count these pods
    status = quota.get("status") or {}
    used = status.get("used") or {}
    for resource, hard in (status.get("hard") or {}).items():
        more = surge * _wanted(template, resource)
        if more and quantity(used.get(resource, "0")) + more > quantity(hard):
            name = quota["metadata"]["name"]
            now = f"{used.get(resource, '0')} of {hard} {resource}"
            yield f"quota {name} has {now} in use, and {more:f} more are needed"


def _wanted(template: Template, resource: str) -> Decimal:
    """How much one pod counts in a quota."""
    if resource in {"pods", "count/pods"}:
        return Decimal(1)
    kind, _, name = resource.rpartition(".")
    kind, name = (kind, name) if kind in {"requests", "limits"} else ("requests", resource)
    total = Decimal(0)
    for container in template["spec"].get("containers") or ():
        resources = container.get("resources") or {}
        wanted = (resources.get(kind) or {}).get(name)
        if wanted is None and kind == "requests":
            wanted = (resources.get("limits") or {}).get(name)
        total += quantity(wanted or "0")
    return total


def quantity(text: object) -> Decimal:
    """An amount as the API writes it: `2`, `500m`, `1Gi`; what cannot be one counts as nothing.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        return Decimal(0)
    unit = found["unit"] or ""
    return Decimal(found["number"]) * Decimal(1024 if unit.endswith("i") else 1000) ** _UNITS[unit[:1]]


def surge_of(workload: Object) -> int:
    """How many pods a rollout adds before it takes any away."""
    return _rolling(workload, "maxSurge", math.ceil)


def spare_of(workload: Object) -> int:
    """How many pods a rollout may take away before new ones are there."""
    return _rolling(workload, "maxUnavailable", math.floor)


def _rolling(workload: Object, key: str, rounded: Any) -> int:
    """What a workload's strategy says of its rollouts, as a number of pods."""
    spec = workload.get("spec") or {}
    rolling = (spec.get("strategy") or spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    return share(rolling.get(key, 0), spec.get("replicas", 1), rounded)


def share(value: object, of: int, rounded: Any) -> int:
    """A number of pods, or a percentage of all."""
    if isinstance(value, int):
        return value
    text = str(value)
    digits = text.removesuffix("%")
    return int(rounded(int(digits) * of / 100)) if text.endswith("%") and digits.isdecimal() and len(digits) < 5 else 0


_READ: Sequence[tuple[str, str, str]] = (
    ("list", "", "pods"),
    ("list", "", "events"),
    ("list", "", "resourcequotas"),
    ("get", "", "configmaps"),
    ("get", "", "secrets"),
    ("get", "", "persistentvolumeclaims"),
    ("get", "", "serviceaccounts"),
)


CLUSTER_WIDE = frozenset({"nodes"})
"""Resources that are in no namespace."""


def rights(kind: str, *, unstick: bool, config_maps: bool = False) -> list[tuple[str, str, str]]:
    """Verb, API group and resource of all that a layer of that kind asks and does."""
    kept = "replicasets" if kind == "deployment" else "controllerrevisions"
    own = [("get", "apps", f"{kind}s"), ("patch", "apps", f"{kind}s"), ("list", "apps", kept), *_READ]
    own += [("get", "", "nodes")] if kind == "daemonset" else []
    own += [("patch", "", "configmaps")] if config_maps else []
    return [*own, ("delete", "", "pods")] if unstick else own


async def missing_rights(client: KubernetesClient, namespace: str, wanted: Sequence[tuple[str, str, str]]) -> list[str]:
    """A sentence for each right that we do not have. :raises KubernetesError: that cannot be asked."""
    allowed = await together(
        client.may(verb, resource, "" if resource in CLUSTER_WIDE else namespace, group=group)
        for verb, group, resource in wanted
    )
    role = f"Role in namespace {namespace}"
    return [
        f'the {"ClusterRole" if resource in CLUSTER_WIDE else role} has no line {{apiGroups: ["{group}"], '
        f"resources: [{resource}], verbs: [{verb}]}}; add it"
        for (verb, group, resource), has in zip(wanted, allowed, strict=True)
        if not has
    ]


async def together(asks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What they answer, in their order; a few at a time, for a template may name thousands."""
    few = asyncio.Semaphore(_AT_ONCE)

    async def one(ask: Coroutine[Any, Any, T]) -> T:
        async with few:
            return await ask

    return await asyncio.gather(*map(one, asks))
