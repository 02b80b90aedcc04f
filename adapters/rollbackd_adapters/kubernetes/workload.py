"""A workload as the API has it: its object, its pods, and the revisions that its controller keeps."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from rollbackd.adapter import AdapterError
from rollbackd_adapters.kubernetes.client import KubernetesClient, KubernetesError, Object
from rollbackd_adapters.kubernetes.rollout import selector
from rollbackd_adapters.kubernetes.template_history import KnownTemplate
from rollbackd_adapters.kubernetes.templates import HASH_LABEL, Template, is_template, own_template, template_id
from rollbackd_adapters.listed import time_told

MARK = "rollbackd/change"
"""The annotation that says which change set the template: its key, and the release that it goes to."""
_REVISION = "deployment.kubernetes.io/revision"
_REVISION_HASH = "controller-revision-hash"
_LONGEST_NUMBER = 18
"""Digits: revisions are 64-bit numbers."""


class Revision(NamedTuple):
    """A template that a controller keeps."""

    number: int
    pod_hash: str
    """What its pods have as the label `Workload.hash_label`."""
    uid: str
    """Of the object that keeps it; a Deployment's pods are owned by that."""
    known: KnownTemplate
    keeper: Object

    @property
    def id(self) -> str:
        return template_id(self.known.template)


class Workload:
    """One workload, asked anew each time."""

    def __init__(self, client: KubernetesClient, namespace: str, workload: str) -> None:
        """:param workload: `deployment/NAME` and the like."""
        self.kind = workload.partition("/")[0]
        self.client = client
        self._named = f"{workload} in namespace {namespace}"
        self._core = f"/api/v1/namespaces/{namespace}"
        self._apps = f"/apis/apps/v1/namespaces/{namespace}"
        self.path = path_of(namespace, workload)
        self.hash_label = HASH_LABEL if self.kind == "deployment" else _REVISION_HASH

    async def read(self) -> Object:
        """The object. :raises AdapterError: it is not there, or is no such workload."""
        found = await self.client.existing(self.path, self._named, "correct its name, or bring it back")
        if not is_template((found.get("spec") or {}).get("template")):
            text = f"cluster {self.client.name}: GET {self.path}: there is no pod template in the answer"
            raise AdapterError(text, permanent=False)
        return found

    async def revisions(self, workload: Object) -> list[Revision]:
        """What its controller keeps, newest first. What is not its own, though it has its labels, is left out."""
        kept = "replicasets" if self.kind == "deployment" else "controllerrevisions"
        listed = await self.client.items(f"{self._apps}/{kept}", labelSelector=selector(workload))
        uid = workload["metadata"]["uid"]
        found = [self._revision(each) for each in listed if _owner(each) == uid]
        return sorted(filter(None, found), key=lambda each: each.number, reverse=True)

    def _revision(self, keeper: Object) -> Revision | None:
        metadata = keeper["metadata"]
        if self.kind == "deployment":
            template = (keeper.get("spec") or {}).get("template")
            number = (metadata.get("annotations") or {}).get(_REVISION, "")
            pod_hash = (metadata.get("labels") or {}).get(HASH_LABEL, "")
        else:
            template = ((keeper.get("data") or {}).get("spec") or {}).get("template")
            number = str(keeper.get("revision", ""))
            labels = metadata.get("labels") or {}
            pod_hash = metadata["name"] if self.kind == "statefulset" else labels.get(_REVISION_HASH, "")
        if not is_template(template):
            return None
        known = KnownTemplate(own_template(template), _created(metadata), number)
        counted = int(number) if number.isascii() and number.isdigit() and len(number) <= _LONGEST_NUMBER else 0
        return Revision(counted, pod_hash, metadata["uid"], known, keeper)

    async def pods(self, workload: Object, revisions: list[Revision]) -> list[Object]:
        """Its pods, of whatever revision, also those that end."""
        return self.own_pods(workload, await self.selected_pods(workload), revisions)

    async def selected_pods(self, workload: Object) -> list[Object]:
        """The pods that have its labels; mostly, though not always, its own."""
        return await self.client.items(f"{self._core}/pods", labelSelector=selector(workload))

    def own_pods(self, workload: Object, pods: list[Object], revisions: list[Revision]) -> list[Object]:
        """Those among pods that its controller made."""
        owners = {workload["metadata"]["uid"], *(revision.uid for revision in revisions)}
        return [pod for pod in pods if _owner(pod) in owners]

    async def events(self, uid: str) -> str:
        """The last events of an object, a line each: evidence; empty when they cannot be had."""
        try:
            listed = await self.client.items(f"{self._core}/events", fieldSelector=f"involvedObject.uid={uid}")
        except KubernetesError:
            return ""
        listed.sort(key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
        return "\n".join(f"{each.get('reason')}: {each.get('message')}" for each in listed[-5:])


def path_of(namespace: str, workload: str) -> str:
    """Of a workload in the API."""
    kind, _, name = workload.partition("/")
    return f"/apis/apps/v1/namespaces/{namespace}/{kind}s/{name}"


def present_template(workload: Object) -> Template:
    """The template that runs, or that its controller goes to."""
    return own_template(workload["spec"]["template"])


def known_template(workload: Object) -> KnownTemplate:
    """The same, as one to remember."""
    metadata = workload["metadata"]
    revision = (metadata.get("annotations") or {}).get(_REVISION, "")
    return KnownTemplate(present_template(workload), _created(metadata) if not revision else None, revision)


def patch_of(workload: Object, template: Template, mark: str) -> list[dict[str, Any]]:
    """The JSON patch that sets a template, in a workload that is still as it was read.

    Its uid and template are compared: its status is written all the time, so that its resource version says nothing.
    """
    metadata = workload["metadata"]
    guards: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/spec/template", "value": workload["spec"]["template"]},
    ]
    marked: dict[str, Any] = {"op": "add", "path": f"/metadata/annotations/{MARK.replace('/', '~1')}", "value": mark}
    if not metadata.get("annotations"):  # where there are none yet, nobody may add the first ones meanwhile
        guards.append({"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]})
        marked = {"op": "add", "path": "/metadata/annotations", "value": {MARK: mark}}
    return [*guards, {"op": "replace", "path": "/spec/template", "value": template}, marked]


def is_marked(workload: Object, mark: str) -> bool:
    """Whether its template was set with that mark."""
    return bool((workload["metadata"].get("annotations") or {}).get(MARK) == mark)


def _owner(of: Object) -> str:
    """The uid of the controller that owns it."""
    references: Iterator[Any] = iter((of.get("metadata") or {}).get("ownerReferences") or ())
    return next((str(each.get("uid")) for each in references if each.get("controller")), "")


def _created(metadata: Object) -> Any:
    try:
        return time_told(metadata.get("creationTimestamp"))
    except ValueError:
        return None
