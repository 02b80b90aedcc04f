"""How a Kubernetes cluster is reached, and how it is known from any other. No I/O."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.syntax.connections import File
from rollbackd.syntax.units import Duration, Spec, show

_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _uid(text: str) -> str:
    if _UID.fullmatch(text) is None:
        raise ValueError(
            f"{show(text)} is no uid; write what `kubectl get namespace kube-system -o jsonpath={{.metadata.uid}}` says"
        )
    return text


def _some_limit(limit: timedelta) -> timedelta:
    if not timedelta(milliseconds=100) <= limit <= timedelta(minutes=1):
        raise ValueError("a request's limit is between 100ms and 1m; write it like 10s")
    return limit


class ClusterSettings(Spec):
    """A Kubernetes cluster, and who asks it."""

    kubeconfig: File | None = None
    """The file that says where it is and who asks. It is only read, and read again when it changes."""
    context: str = ""
    """Which of the file's contexts; its `current-context` is whatever somebody used last, and is not looked at."""
    in_cluster: bool = False
    """Instead of `kubeconfig`: rollbackd runs in a pod of the cluster, as its service account."""
    uid: Annotated[str, AfterValidator(_uid)]
    """The uid of its namespace `kube-system`. A cluster with another one is never touched, whatever its address."""
    request_timeout: Annotated[Duration, AfterValidator(_some_limit)] = Field(default=timedelta(seconds=10))
    """For each request, and for a program that the kubeconfig names to get credentials."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.in_cluster == (self.kubeconfig is not None):
            raise ValueError("nothing says where it is, or two things do; give `kubeconfig`, or `in_cluster: true`")
        if self.kubeconfig is not None and not self.context:
            raise ValueError("the file may have several contexts; give `context`, one of `kubectl config get-contexts`")
        if self.in_cluster and self.context:
            raise ValueError("`context` is one of a kubeconfig's; take it away")
        return self


def each_once(clusters: Mapping[str, ClusterSettings]) -> Mapping[str, ClusterSettings]:
    """The clusters. :raises ValueError: one has two names, so that two steps could meet in it."""
    names: dict[str, str] = {}
    for name, cluster in clusters.items():
        if (other := names.setdefault(cluster.uid, name)) != name:
            raise ValueError(f'"{other}" and "{name}" are one cluster; give it one name')
    return clusters
