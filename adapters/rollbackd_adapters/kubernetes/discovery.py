"""What of a namespace could be a service: each workload, as a layer. Nothing is changed, and nothing is taken over."""

import re
from collections.abc import Iterator

from rollbackd.adapter import AdapterError, Discovered, Place
from rollbackd.system.spawner import one_line
from rollbackd_adapters.kubernetes.client import KubernetesClient, Object, identified_client
from rollbackd_adapters.kubernetes.owners import owners_of, rivals
from rollbackd_adapters.kubernetes.settings import NAMESPACE, is_workload

_LONGEST = 63
"""Characters of a service's name."""
_KINDS = ("deployment", "statefulset", "daemonset")
RIGHTS = tuple(("list", "apps", f"{kind}s") for kind in _KINDS)
"""Verb, API group and resource."""


async def discovered(place: Place, cluster: str, namespace: str, label: str = "") -> list[Discovered]:
    """The workloads of a namespace.

    :param label: only those with this label, whose value is their name.
    :raises AdapterError: the cluster cannot be asked.
    """
    if re.fullmatch(NAMESPACE, namespace) is None:
        raise AdapterError(f"{one_line(namespace)!r} is no namespace; write it like shop", permanent=True)
    client = await identified_client(place, cluster)
    return [found for kind in _KINDS for found in await _of_kind(client, cluster, namespace, kind, label)]


async def _of_kind(client: KubernetesClient, cluster: str, namespace: str, kind: str, label: str) -> list[Discovered]:
    chosen = {"labelSelector": label} if label else {}
    listed = await client.items(f"/apis/apps/v1/namespaces/{namespace}/{kind}s", **chosen)
    found = []
    for each in sorted(listed, key=lambda each: str(each["metadata"].get("name"))):
        name = str(each["metadata"].get("name"))
        if not is_workload(workload := f"{kind}/{name}"):
            continue  # no API server takes such a name, so this is none
        layer = {"adapter": "kubernetes", "cluster": cluster, "namespace": namespace, "workload": workload}
        remarks = tuple(one_line(remark) for remark in _remarks(each, workload))
        ways = (name, f"{name}-{namespace}", f"{name}-{kind}-{namespace}")
        names = (str(each["metadata"]["labels"][label]),) if label else tuple(way[:_LONGEST] for way in ways)
        found.append(Discovered(names, {"namespace": namespace, "service": name}, layer, remarks))
    return found


def _remarks(found: Object, workload: str) -> Iterator[str]:
    """What stands against a rollback, or may undo one; each a sentence."""
    for owner in owners_of(found):
        yield owner.refusal
    yield from rivals(found, workload)
