"""Who else moves a workload: owners that would take a change back, and tools that may. No I/O.

Each is known by what it writes on the objects that it manages, as its documentation says.
"""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rollbackd.system.spawner import one_line

_ARGO = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance")
_IMAGE_LIST = "argocd-image-updater.argoproj.io/image-list"
_FLUX = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
_MANAGERS = {
    "argocd-controller": "argo",
    "argocd-application-controller": "argo",
    "kustomize-controller": "flux",
    "helm-controller": "flux",
    "helm": "helm",
    "flagger": "flagger",
    "rollouts-controller": "rollouts",
}
_DEALING = {
    "argo": "suspend its automatic sync in the plan, or roll its repository back",
    "flux": "suspend it in the plan, or roll its repository back",
    "helm": "its next upgrade takes the change back; roll its release back instead",
    "rollouts": "abort that instead, `kubectl argo rollouts abort`",
    "flagger": "it runs the rollout of this workload; roll back the Canary's target",
    "controller": "that is what is rolled back",
}


class WorkloadOwner(NamedTuple):
    """Somebody who would take a change of the workload back."""

    kind: str
    """As `despite` names it."""
    name: str
    """For people: which of them, and how it is known."""

    @property
    def refusal(self) -> str:
        return (
            f"it belongs to {one_line(self.name)}, which would take the change back; {_DEALING[self.kind]}, "
            f"then name it in `despite: [{self.kind}]`"
        )


def owners_of(workload: Mapping[str, Any], field: str = "f:template") -> list[WorkloadOwner]:
    """All owners of a workload, or of another object, each kind once.

    :param field: the part of it, or of its spec, that is to change: whoever manages that owns it.
    """
    found: dict[str, WorkloadOwner] = {}
    for owner in _owners(workload.get("metadata") or {}, field):
        found.setdefault(owner.kind, owner)
    return list(found.values())


def owner_refusals(owners: Iterable[WorkloadOwner], despite: Collection[str]) -> list[str]:
    """What stands against a change, a sentence for each owner that nobody deals with.

    :param despite: the kinds of those that the plan deals with.
    """
    return [owner.refusal for owner in owners if owner.kind not in despite]


def _owners(metadata: Mapping[str, Any], field: str) -> Iterator[WorkloadOwner]:
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    for key in _ARGO:
        if key in marks:
            yield WorkloadOwner("argo", f"the Argo CD application {marks[key].partition(':')[0]} ({key})")
    for key in _FLUX:
        if key in marks:
            yield WorkloadOwner("flux", f"Flux's {marks[key]} ({key})")
    if release := marks.get("meta.helm.sh/release-name"):
        yield WorkloadOwner("helm", f"the Helm release {release}")
    elif marks.get("app.kubernetes.io/managed-by") == "Helm":
        yield WorkloadOwner("helm", "a Helm release (app.kubernetes.io/managed-by)")
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            kind = "flagger" if str(reference.get("apiVersion", "")).startswith("flagger.app/") else "controller"
            yield WorkloadOwner(kind, f"{reference.get('kind')} {reference.get('name')} (its owner reference)")
    for entry in metadata.get("managedFields") or ():
        manager = str(entry.get("manager", ""))
        if manager in _MANAGERS and _manages(entry, field):
            yield WorkloadOwner(_MANAGERS[manager], f"{manager} (it manages what would change)")


def rivals(workload: Mapping[str, Any], named: str) -> list[str]:
    """A sentence for each tool that may move the template again, or meet a conflict with us later, with the command
    that settles it.

    :param named: the workload as kubectl is given it, `deployment/web`.
    """
    metadata = workload.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    found = []
    if any(key.startswith("argocd-image-updater.argoproj.io/") for key in annotations):
        application = str(annotations.get(_ARGO[0], "APPLICATION")).partition(":")[0]
        command = f"kubectl annotate --namespace=argocd application {_quoted(application)} {_IMAGE_LIST}-"
        found.append(f"Argo CD Image Updater may set its images again; stop it meanwhile: {command}")
    if any(key.startswith("keel.sh/") for key in {**annotations, **(metadata.get("labels") or {})}):
        place = f"--namespace={metadata.get('namespace')} --overwrite {named}"
        found.append(f"Keel may set its images again; stop it meanwhile: kubectl annotate {place} keel.sh/policy=never")
    for entry in metadata.get("managedFields") or ():
        manager = str(entry.get("manager", ""))
        if entry.get("operation") == "Apply" and _manages(entry, "f:template") and manager not in _MANAGERS:
            found.append(
                f"the next server-side apply by {one_line(manager)} conflicts with this change; settle it then with "
                f"kubectl apply --server-side --field-manager={_quoted(manager)} --force-conflicts"
            )
    return found


def _quoted(text: str) -> str:
    """As a shell takes it: whoever writes to a cluster must not write a command that people paste."""
    return shlex.quote(one_line(text))


def _manages(entry: Mapping[str, Any], field: str) -> bool:
    fields = entry.get("fieldsV1") or {}
    return field in fields or field in (fields.get("f:spec") or {})


def rollouts_of(rollouts: Iterable[Mapping[str, Any]], kind: str, name: str) -> list[WorkloadOwner]:
    """The Argo Rollouts that move the weights of a route.

    :param kind: `virtualservice` or `httproute`.
    """
    key = {"virtualservice": "virtualService", "httproute": "httpRoute"}[kind]
    found = []
    for rollout in rollouts:
        canary = (((rollout.get("spec") or {}).get("strategy") or {}).get("canary")) or {}
        routing = canary.get("trafficRouting") or {}
        for part in (routing.get("istio"), *(routing.get("plugins") or {}).values()):
            one, several = (part or {}).get(key), (part or {}).get(f"{key}s") or ()
            named = {each.get("name") if isinstance(each, dict) else each for each in (one, *several)}
            if name in named:
                found.append(WorkloadOwner("rollouts", f"the Rollout {(rollout.get('metadata') or {}).get('name')}"))
    return found
