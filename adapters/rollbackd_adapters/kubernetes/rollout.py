"""How far a rollout is, from what the API says of a workload and its pods. No I/O.

The numbers are those that `kubectl rollout status` looks at, and besides them no pod of another revision is left.
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#complete-deployment
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rollbackd.system.spawner import one_line

_STUCK = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Why a container waits that does not end by waiting."""
_ENDED = frozenset({"Failed", "Succeeded"})


class RolloutCounts(NamedTuple):
    """What a workload's status says."""

    done: bool
    words: str


class PodTrouble(NamedTuple):
    """Why a pod of the target does not come up."""

    pod: str
    reason: str
    message: str

    def __str__(self) -> str:
        said = f": {self.message}" if self.message else ""
        return f"pod {self.pod}: {self.reason}{said}"


def counts(kind: str, workload: Mapping[str, Any]) -> RolloutCounts:
    """How many pods are as the template wants them."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    observed = _number(status, "observedGeneration") >= _number(workload.get("metadata") or {}, "generation")
    if kind == "daemonset":
        wanted = _number(status, "desiredNumberScheduled")
        updated, available = _number(status, "updatedNumberScheduled"), _number(status, "numberAvailable")
        present = wanted
    else:
        wanted = spec.get("replicas", 1)
        updated, available = _number(status, "updatedReplicas"), _number(status, "availableReplicas")
        present = _number(status, "replicas")
    must = max(0, wanted - partition_of(workload)) if kind == "statefulset" else wanted
    done = observed and updated >= must and available >= wanted and present == wanted
    left = f", {present - updated} of another revision" if present > max(updated, wanted - must + updated) else ""
    seen = "" if observed else "; its controller has not seen the change yet"
    return RolloutCounts(done, f"{updated} of {must} pods updated, {available} of {wanted} available{left}{seen}")


def pods_wanted(kind: str, workload: Mapping[str, Any]) -> int:
    """How many pods it is to have."""
    if kind == "daemonset":
        return _number(workload.get("status") or {}, "desiredNumberScheduled")
    replicas = (workload.get("spec") or {}).get("replicas", 1)
    return replicas if isinstance(replicas, int) else 0


def available(workload: Mapping[str, Any]) -> int:
    """How many of its pods serve."""
    status = workload.get("status") or {}
    return _number(status, "numberAvailable") or _number(status, "availableReplicas")


def partition_of(workload: Mapping[str, Any]) -> int:
    """Of a StatefulSet: pods with a lower ordinal keep their revision."""
    strategy = (workload.get("spec") or {}).get("updateStrategy") or {}
    return _number(strategy.get("rollingUpdate") or {}, "partition")


def troubles(pods: Iterable[Mapping[str, Any]]) -> Iterator[PodTrouble]:
    """What keeps pods from becoming ready that does not pass by waiting a moment."""
    for pod in pods:
        metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
        name = str(metadata.get("name", ""))
        if metadata.get("deletionTimestamp"):
            continue
        if status.get("phase") == "Failed":
            yield PodTrouble(name, str(status.get("reason") or "Failed"), one_line(str(status.get("message") or "")))
        for condition in status.get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
                yield PodTrouble(name, "Unschedulable", one_line(str(condition.get("message") or "")))
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            waiting = (container.get("state") or {}).get("waiting") or {}
            if (reason := waiting.get("reason")) in _STUCK:
                words = f"container {container.get('name')}: {waiting.get('message') or ''}".rstrip(": ")
                yield PodTrouble(name, str(reason), one_line(words))


def refused_pods(workload: Mapping[str, Any]) -> str:
    """Why pods are not even made, as a ReplicaSet or Deployment says it; else empty."""
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return one_line(f"{condition.get('reason')}: {condition.get('message')}")
    return ""


def deadline_mark(workload: Mapping[str, Any]) -> str:
    """The time at which a Deployment said last that its rollout takes too long; empty when it does not say so now."""
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return str(condition.get("lastUpdateTime") or condition.get("lastTransitionTime") or "unknown")
    return ""


def others(pods: Iterable[Mapping[str, Any]], label: str, revision: str, spared: Collection[str] = ()) -> list[str]:
    """The pods that are there and of another revision, also while they end; those that are spared are not counted."""
    found = []
    for pod in pods:
        metadata = pod.get("metadata") or {}
        ended = (pod.get("status") or {}).get("phase") in _ENDED
        if not ended and (metadata.get("labels") or {}).get(label) != revision and metadata.get("name") not in spared:
            found.append(str(metadata.get("name")))
    return sorted(found)


def node_of(pod: Mapping[str, Any]) -> str:
    """The node that it is on; empty while it has none."""
    return str((pod.get("spec") or {}).get("nodeName") or "")


def done_but_for(
    workload: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], revision: str, down: Collection[str]
) -> bool:
    """Of a DaemonSet: whether each node that is not down has a ready pod of a revision, and none of another.

    A node that is down is not among the desired ones either, unless its pods tolerate that: its taint makes them
    misscheduled.
    """
    status, label = workload.get("status") or {}, "controller-revision-hash"
    up = [pod for pod in pods if node_of(pod) not in down]
    own = [pod for pod in up if ((pod.get("metadata") or {}).get("labels") or {}).get(label) == revision]
    wanted = _number(status, "desiredNumberScheduled") - max(0, len(down) - _number(status, "numberMisscheduled"))
    observed = _number(status, "observedGeneration") >= _number(workload.get("metadata") or {}, "generation")
    return observed and len(own) == len(up) >= wanted and all(map(is_ready, own))


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod says that it is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def ordinal(pod: Mapping[str, Any]) -> int:
    """The number at the end of a StatefulSet's pod's name; -1 for another name."""
    number = str((pod.get("metadata") or {}).get("name", "")).rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() else -1


def selector(workload: Mapping[str, Any]) -> str:
    """A workload's selector as a query writes it."""
    chosen = (workload.get("spec") or {}).get("selector") or {}
    parts = [f"{key}={value}" for key, value in (chosen.get("matchLabels") or {}).items()]
    for each in chosen.get("matchExpressions") or ():
        key, values = each["key"], ",".join(each.get("values") or ())
        words = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        parts.append(words.get(each["operator"], f"!{key}"))
    return ",".join(parts)


def _number(of: Mapping[str, Any], key: str) -> int:
    value = of.get(key)
    return value if isinstance(value, int) else 0
