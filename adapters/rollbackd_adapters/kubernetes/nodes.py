"""Nodes that are down: what a DaemonSet has on them is neither replaced nor waited for."""

import math
from collections.abc import Iterable, Sequence

from rollbackd_adapters.kubernetes import lacking, rollout
from rollbackd_adapters.kubernetes.client import KubernetesClient, Object, segment


async def down_nodes(client: KubernetesClient, pods: Iterable[Object]) -> list[str]:
    """The nodes that are down among those of these pods. :raises KubernetesError: that cannot be asked."""
    names = sorted({rollout.node_of(pod) for pod in pods if _may_be_down(pod)} - {""})
    down = await lacking.together(_is_down(client, name) for name in names)
    return [name for name, is_down in zip(names, down, strict=True) if is_down]


def _may_be_down(pod: Object) -> bool:
    """Whether its node may not answer: it is not ready though no container waits for anything, or it never ends."""
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    waits = any((each.get("state") or {}).get("waiting") for each in containers)
    return not rollout.is_ready(pod) and (bool(pod["metadata"].get("deletionTimestamp")) or not waits)


async def _is_down(client: KubernetesClient, name: str) -> bool:
    node = await client.if_there(f"/api/v1/nodes/{segment(name)}")
    return node is None or not rollout.is_ready(node)


def down_told(workload: Object, down: Sequence[str]) -> list[str]:
    """A sentence about the nodes that are down; nothing when none is."""
    if not down:
        return []
    rolling = (workload["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    wanted = rollout.pods_wanted("daemonset", workload)
    spare = lacking.share(rolling.get("maxUnavailable", 1), wanted, math.ceil)
    surge = lacking.share(rolling.get("maxSurge", 0), wanted, math.ceil)
    told = f"not waited for, since they are down: {', '.join(down)}"
    if len(down) >= spare and not surge:
        return [f"{told}; that is all of maxUnavailable ({spare}), so the rollout stops there: raise it, or drain them"]
    return [told]
