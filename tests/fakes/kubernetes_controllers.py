"""What the controllers and the kubelet of a cluster do, for the fake API: one pass after each write, until nothing moves.

Written after the real ones: ReplicaSets get a hash label and the revision, an undo numbers the old one anew, a
StatefulSet waits for each pod in turn, and a broken one blocks it.
"""

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fakes.kubernetes_api import Store

Object = dict[str, Any]
DEPLOYMENT_REVISION = "deployment.kubernetes.io/revision"
NOT_COPIED = {DEPLOYMENT_REVISION, "kubectl.kubernetes.io/last-applied-configuration"}
PASSES = 500
ENDED = {"Succeeded", "Failed"}
"""Phases of pods that run no more."""
NODES = ("node-a", "node-b")


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def without_hash(template: Object) -> Object:
    made = copy.deepcopy(template)
    (made.get("metadata", {}).get("labels") or {}).pop("pod-template-hash", None)
    return made


def owned(store: "Store", kind: str, owner: Object) -> list[Object]:
    uid = owner["metadata"]["uid"]
    found = store.all(kind, owner["metadata"]["namespace"])
    return [each for each in found if any(r["uid"] == uid for r in each["metadata"].get("ownerReferences", ()))]


def active(store: "Store", owner: Object) -> list[Object]:
    """The pods of a ReplicaSet that do not end already."""
    return [pod for pod in owned(store, "pods", owner) if "deletionTimestamp" not in pod["metadata"]]


def reference(owner: Object) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def share(value: int | str, of: int, up: bool) -> int:
    if isinstance(value, int):
        return value
    exact = int(value.rstrip("%")) * of / 100
    return math.ceil(exact) if up else math.floor(exact)


def is_ready(pod: Object) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def set_condition(workload: Object, kind: str, status: str, reason: str, message: str, now: str) -> None:
    conditions = workload.setdefault("status", {}).setdefault("conditions", [])
    found = next((each for each in conditions if each["type"] == kind), None)
    made = {"type": kind, "status": status, "reason": reason, "message": message}
    if found is None:
        conditions.append({**made, "lastUpdateTime": now, "lastTransitionTime": now})
    elif any(found[key] != value for key, value in made.items()):
        found.update(made, lastUpdateTime=now)


class Controllers:
    """All of them, over one store."""

    def __init__(self, store: "Store") -> None:
        self.store = store
        self.down: set[str] = set()
        """Nodes whose kubelet does not answer."""
        self.pushed: dict[str, int] = {}
        """How often an image was pushed again under the same tag."""
        self.kubelet_elsewhere = False
        """Somebody else says of pods what a kubelet says."""

    def run(self, namespace: str) -> None:
        for _ in range(PASSES):
            before = self.store.version
            for kind, step in (
                ("scaledobjects", self.keda),
                ("deployments", self.deployment),
                ("replicasets", self.replica_set),
                ("statefulsets", self.stateful_set),
                ("daemonsets", self.daemon_set),
                ("pods", self.kubelet),
                ("services", self.endpoints),
                ("httproutes", self.gateway),
                ("resourcequotas", self.quota),
            ):
                for each in list(self.store.all(kind, namespace)):
                    if self.store.has(each):
                        step(copy.deepcopy(each))
            if self.store.version == before:
                return
        raise AssertionError("the controllers never come to rest")

    # -- Deployments ----------------------------------------------------------------------------
    def deployment(self, workload: Object) -> None:
        store, spec = self.store, workload["spec"]
        sets = owned(store, "replicasets", workload)
        new = next((each for each in sets if without_hash(each["spec"]["template"]) == spec["template"]), None)
        if not spec.get("paused"):
            new = self._newest(workload, sets, new)
        old = [
            each
            for each in owned(store, "replicasets", workload)
            if new is None or each["metadata"]["uid"] != new["metadata"]["uid"]
        ]
        self._scale(workload, new, old)
        self._deployment_status(workload, new)
        kept = [each for each in old if not each["spec"]["replicas"] and not each.get("status", {}).get("replicas")]
        kept.sort(key=lambda each: int(each["metadata"]["annotations"][DEPLOYMENT_REVISION]))
        for each in kept[: max(0, len(kept) - spec["revisionHistoryLimit"])]:
            store.remove(each)

    def _newest(self, workload: Object, sets: list[Object], new: Object | None) -> Object:
        """The ReplicaSet of the present template, with the highest revision, as the deployment controller has it."""
        revisions = [int(each["metadata"]["annotations"][DEPLOYMENT_REVISION]) for each in sets]
        highest = max(revisions, default=0)
        copied = {k: v for k, v in workload["metadata"].get("annotations", {}).items() if k not in NOT_COPIED}
        if new is None:
            template = copy.deepcopy(workload["spec"]["template"])
            mark = digest(template)
            template.setdefault("metadata", {}).setdefault("labels", {})["pod-template-hash"] = mark
            new = {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": f"{workload['metadata']['name']}-{mark}",
                    "namespace": workload["metadata"]["namespace"],
                    "labels": template["metadata"]["labels"],
                    "annotations": {**copied, DEPLOYMENT_REVISION: str(highest + 1)},
                    "ownerReferences": [reference(workload)],
                },
                "spec": {
                    "replicas": 0,
                    "selector": {
                        "matchLabels": {**workload["spec"]["selector"]["matchLabels"], "pod-template-hash": mark}
                    },
                    "template": template,
                },
            }
            new = self.store.add("replicasets", new)
        else:
            new = copy.deepcopy(new)
            own = int(new["metadata"]["annotations"][DEPLOYMENT_REVISION])
            number = own if own == highest else highest + 1
            new["metadata"]["annotations"] = {
                **new["metadata"]["annotations"],
                **copied,
                DEPLOYMENT_REVISION: str(number),
            }
            new = self.store.put("replicasets", new)
        revision = new["metadata"]["annotations"][DEPLOYMENT_REVISION]
        workload["metadata"].setdefault("annotations", {})[DEPLOYMENT_REVISION] = revision
        self.store.put("deployments", workload)
        return new

    def _scale(self, workload: Object, new: Object | None, old: list[Object]) -> None:
        spec = workload["spec"]
        wanted = spec["replicas"]
        if new is None:
            return
        if spec["strategy"]["type"] == "Recreate":
            for each in old:
                self._set_replicas(each, 0)
            if not any(owned(self.store, "pods", each) for each in old):
                self._set_replicas(new, wanted)
            return
        rolling = spec["strategy"]["rollingUpdate"]
        surge = share(rolling["maxSurge"], wanted, up=True)
        spare = share(rolling["maxUnavailable"], wanted, up=False)
        total = new["spec"]["replicas"] + sum(each["spec"]["replicas"] for each in old)
        room = wanted + surge - total
        if new["spec"]["replicas"] > wanted:
            self._set_replicas(new, wanted)
        elif room > 0 and new["spec"]["replicas"] < wanted:
            self._set_replicas(new, min(wanted, new["spec"]["replicas"] + room))
        pods = [pod for each in (new, *old) for pod in active(self.store, each)]
        for each in old:  # those that are not ready are no loss
            ready = sum(map(is_ready, active(self.store, each)))
            if each["spec"]["replicas"] > ready:
                self._set_replicas(each, ready)
        excess = sum(map(is_ready, pods)) - (wanted - spare)
        for each in old:
            taken = min(max(0, excess), each["spec"]["replicas"])
            if taken:
                self._set_replicas(each, each["spec"]["replicas"] - taken)
                excess -= taken

    def _set_replicas(self, of: Object, number: int) -> None:
        if of["spec"]["replicas"] != number:
            of["spec"]["replicas"] = number
            self.store.put("replicasets", of)

    def _deployment_status(self, workload: Object, new: Object | None) -> None:
        sets = owned(self.store, "replicasets", workload)
        pods = [pod for each in sets for pod in active(self.store, each)]
        own = [] if new is None else active(self.store, new)
        status = workload.setdefault("status", {})
        status.update(
            observedGeneration=workload["metadata"]["generation"],
            replicas=len(pods),
            updatedReplicas=len(own),
            readyReplicas=sum(map(is_ready, pods)),
            availableReplicas=sum(map(is_ready, pods)),
            unavailableReplicas=max(0, workload["spec"]["replicas"] - sum(map(is_ready, pods))),
        )
        complete = len(own) == len(pods) == workload["spec"]["replicas"] == sum(map(is_ready, own))
        reason = "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated"
        deadline = any(c.get("reason") == "ProgressDeadlineExceeded" for c in status.get("conditions", ()))
        if complete or not deadline:
            set_condition(workload, "Progressing", "True", reason, "", self.store.now())
        self.store.put("deployments", workload)

    def replica_set(self, workload: Object) -> None:
        pods = active(self.store, workload)
        wanted = workload["spec"]["replicas"]
        for pod in sorted(pods, key=is_ready)[: max(0, len(pods) - wanted)]:
            self.store.remove(pod)
        refused = ""
        for n in range(wanted - len(pods)):
            name = f"{workload['metadata']['name']}-{digest([self.store.version, n])[:5]}"
            refused = self._pod(workload, name, workload["spec"]["template"], {})
            if refused:
                break
        count = len(active(self.store, workload))
        status = workload.setdefault("status", {})
        ready = sum(map(is_ready, active(self.store, workload)))
        generation = workload["metadata"]["generation"]
        status.update(replicas=count, availableReplicas=ready, observedGeneration=generation)
        conditions = [c for c in status.get("conditions", ()) if refused or c["type"] != "ReplicaFailure"]
        if refused and not conditions:  # the first refusal stays, as long as there are any
            conditions.append(
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": refused}
            )
        status["conditions"] = conditions
        self.store.put("replicasets", workload)

    def _pod(self, owner: Object, name: str, template: Object, more: dict[str, str], node: str = "") -> str:
        """Make a pod; why it was refused, or nothing."""
        namespace = owner["metadata"]["namespace"]
        for quota in self.store.all("resourcequotas", namespace):
            hard = quota["spec"]["hard"].get("pods")
            if hard is not None and len(self.store.all("pods", namespace)) >= int(hard):
                return f'pods "{name}" is forbidden: exceeded quota: {quota["metadata"]["name"]}'
        metadata = copy.deepcopy(template.get("metadata", {}))
        metadata.update(name=name, namespace=namespace, ownerReferences=[reference(owner)])
        metadata.setdefault("labels", {}).update(more)
        spec = {**copy.deepcopy(template["spec"]), **({"nodeName": node} if node else {})}
        self.store.add(
            "pods",
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}},
        )
        return ""

    # -- StatefulSets and DaemonSets ------------------------------------------------------------
    def _revision(self, workload: Object) -> Object:
        kept = sorted(owned(self.store, "controllerrevisions", workload), key=lambda each: each["revision"])
        template = {**copy.deepcopy(workload["spec"]["template"]), "$patch": "replace"}
        template["metadata"] = {"creationTimestamp": None, **template.get("metadata", {})}
        data = {"spec": {"template": template}}
        found = next((each for each in kept if each["data"] == data), None)
        highest = kept[-1]["revision"] if kept else 0
        if found is None:
            mark = digest(data)
            labels = {**workload["spec"]["template"]["metadata"]["labels"], "controller-revision-hash": mark}
            made = {
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": {
                    "name": f"{workload['metadata']['name']}-{mark}",
                    "namespace": workload["metadata"]["namespace"],
                    "labels": labels,
                    "ownerReferences": [reference(workload)],
                },
                "data": data,
                "revision": highest + 1,
            }
            return self.store.add("controllerrevisions", made)
        if found["revision"] != highest:
            return self.store.put("controllerrevisions", {**copy.deepcopy(found), "revision": highest + 1})
        return found

    def stateful_set(self, workload: Object) -> None:
        spec, name = workload["spec"], workload["metadata"]["name"]
        update = self._revision(workload)["metadata"]["name"]
        status = workload.setdefault("status", {})
        current = status.get("currentRevision", update)
        partition = (spec["updateStrategy"].get("rollingUpdate") or {}).get("partition", 0)
        pods = {pod["metadata"]["name"]: pod for pod in owned(self.store, "pods", workload)}
        self._step_of_set(workload, pods, update, current, partition)
        pods = {pod["metadata"]["name"]: pod for pod in owned(self.store, "pods", workload)}
        updated = [pod for pod in pods.values() if pod["metadata"]["labels"]["controller-revision-hash"] == update]
        ready = sum(map(is_ready, pods.values()))
        if len(updated) == len(pods) == spec["replicas"] == ready:
            current = update
        status.update(
            observedGeneration=workload["metadata"]["generation"],
            replicas=len(pods),
            readyReplicas=ready,
            availableReplicas=ready,
            updatedReplicas=len(updated),
            currentRevision=current,
            updateRevision=update,
        )
        self.store.put("statefulsets", workload)
        assert all(each.startswith(name) for each in pods)

    def _step_of_set(
        self, workload: Object, pods: dict[str, Object], update: str, current: str, partition: int
    ) -> None:
        spec, name = workload["spec"], workload["metadata"]["name"]
        if surplus := sorted(set(pods) - {f"{name}-{n}" for n in range(spec["replicas"])}):
            self.store.remove(pods[surplus[-1]])  # one at a time, the last first
            return
        for n in range(spec["replicas"]):
            pod = pods.get(f"{name}-{n}")
            if pod is None:
                mark = update if n >= partition else self._template_name(workload, current, update)
                keeper = next(
                    e for e in owned(self.store, "controllerrevisions", workload) if e["metadata"]["name"] == mark
                )
                template = {k: v for k, v in keeper["data"]["spec"]["template"].items() if k != "$patch"}
                template["metadata"] = {k: v for k, v in template["metadata"].items() if k != "creationTimestamp"}
                self._pod(workload, f"{name}-{n}", template, {"controller-revision-hash": mark})
                return
            if not is_ready(pod):
                return  # each waits for the one before it; a broken one blocks all
        if spec["updateStrategy"]["type"] == "OnDelete":
            return
        for n in reversed(range(partition, spec["replicas"])):
            pod = pods[f"{name}-{n}"]
            if pod["metadata"]["labels"]["controller-revision-hash"] != update:
                self.store.remove(pod)
                return

    def _template_name(self, workload: Object, current: str, update: str) -> str:
        names = {each["metadata"]["name"] for each in owned(self.store, "controllerrevisions", workload)}
        return current if current in names else update

    def daemon_set(self, workload: Object) -> None:
        name = workload["metadata"]["name"]
        revision = self._revision(workload)
        mark = revision["metadata"]["labels"]["controller-revision-hash"]
        pods = {pod["spec"]["nodeName"]: pod for pod in owned(self.store, "pods", workload)}
        up = [node for node in NODES if node not in self.down]  # the others have a taint that nobody here tolerates
        for node in up:
            if node not in pods:
                self._pod(
                    workload, f"{name}-{node}", workload["spec"]["template"], {"controller-revision-hash": mark}, node
                )
        old = [pod for pod in pods.values() if pod["metadata"]["labels"]["controller-revision-hash"] != mark]
        unready = [pod for pod in owned(self.store, "pods", workload) if not is_ready(pod)]
        spare = share(workload["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], len(up), up=True)
        replaced = [pod for pod in old if not is_ready(pod)]  # what is no loss, and as many others as may be lost
        replaced += [pod for pod in old if is_ready(pod)][: max(0, spare - len(unready))]
        for pod in replaced:
            self._end(pod)
        pods_now = [pod for pod in owned(self.store, "pods", workload) if pod["spec"]["nodeName"] in up]
        updated = [pod for pod in pods_now if pod["metadata"]["labels"]["controller-revision-hash"] == mark]
        workload.setdefault("status", {}).update(
            observedGeneration=workload["metadata"]["generation"],
            desiredNumberScheduled=len(up),
            currentNumberScheduled=len(pods_now),
            numberMisscheduled=len(owned(self.store, "pods", workload)) - len(pods_now),
            updatedNumberScheduled=len(updated),
            numberReady=sum(map(is_ready, pods_now)),
            numberAvailable=sum(map(is_ready, pods_now)),
        )
        self.store.put("daemonsets", workload)

    def _end(self, pod: Object) -> None:
        """Delete a pod; on a node that is down nobody ends it."""
        if pod["spec"].get("nodeName") not in self.down:
            self.store.remove(pod)
        elif "deletionTimestamp" not in pod["metadata"]:
            metadata = {**pod["metadata"], "deletionTimestamp": self.store.now()}
            self.store.put("pods", {**copy.deepcopy(pod), "metadata": metadata})

    # -- scaling --------------------------------------------------------------------------------
    def keda(self, scaled: Object) -> None:
        """Scales to its pause while there is one, and up from 0 otherwise."""
        target, namespace = scaled["spec"]["scaleTargetRef"], scaled["metadata"]["namespace"]
        kind = f"{target.get('kind', 'Deployment').lower()}s"
        found = self.store.get(kind, namespace, target["name"])
        annotations = scaled["metadata"].get("annotations", {})
        paused = annotations.get("autoscaling.keda.sh/paused-replicas")
        if found is None or (paused is None and annotations.get("autoscaling.keda.sh/paused") == "true"):
            return
        present = found["spec"]["replicas"]
        wanted = max(present, scaled["spec"].get("minReplicaCount", 0)) if paused is None else int(paused)
        if present != wanted:
            self.store.put(kind, {**copy.deepcopy(found), "spec": {**copy.deepcopy(found["spec"]), "replicas": wanted}})

    # -- routes ---------------------------------------------------------------------------------
    def gateway(self, route: Object) -> None:
        there = {each["metadata"]["name"] for each in self.store.all("services", route["metadata"]["namespace"])}
        self.store.put("httproutes", {**route, "status": route_status(route, there)})

    # -- quotas ---------------------------------------------------------------------------------
    def quota(self, of: Object) -> None:
        used = {"pods": str(len(self.store.all("pods", of["metadata"]["namespace"])))}
        hard = of["spec"]["hard"]
        status = {"hard": hard, "used": {key: used[key] for key in hard}}
        self.store.put("resourcequotas", {**of, "status": status})

    # -- Services -------------------------------------------------------------------------------
    def endpoints(self, service: Object) -> None:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        chosen = service["spec"]["selector"].items()
        endpoints = [
            {
                "addresses": [pod.get("status", {}).get("podIP", "10.0.0.1")],
                "conditions": {"ready": is_ready(pod)},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
            }
            for pod in self.store.all("pods", namespace)
            if chosen <= pod["metadata"]["labels"].items()
        ]
        found = self.store.get("endpointslices", namespace, f"{name}-x")
        if found is None:
            metadata = {
                "name": f"{name}-x",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
                "ownerReferences": [reference(service)],
            }
            made = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata}
            self.store.add("endpointslices", {**made, "endpoints": endpoints})
        elif found["endpoints"] != endpoints:
            self.store.put("endpointslices", {**copy.deepcopy(found), "endpoints": endpoints})

    # -- pods -----------------------------------------------------------------------------------
    def kubelet(self, pod: Object) -> None:
        if self.kubelet_elsewhere or pod.get("status", {}).get("phase") in ENDED:
            return
        if pod["spec"].get("nodeName") in self.down:  # the node controller says so
            status = {**pod.get("status", {}), "conditions": [{"type": "Ready", "status": "False"}]}
        else:
            status = pod_status(pod, set(self._configured(pod)), self.pushed)
        if {key: pod.get("status", {}).get(key) for key in status} != status:
            pod.setdefault("status", {}).update(status)
            self.store.put("pods", pod)

    def _configured(self, pod: Object) -> Iterator[str]:
        for each in self.store.all("configmaps", pod["metadata"]["namespace"]):
            yield each["metadata"]["name"]


def route_status(route: Object, services: set[str]) -> Object:
    """What a gateway says: it accepts each generation, and resolves what it refers to when all of that is there."""
    named = {ref["name"] for rule in route["spec"].get("rules", ()) for ref in rule.get("backendRefs", ())}
    resolved = "True" if named <= services else "False"
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": kind,
            "message": "",
            "observedGeneration": route["metadata"]["generation"],
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, status in (("Accepted", "True"), ("ResolvedRefs", resolved))
    ]
    parents = route["spec"].get("parentRefs", ())
    controller = "example.com/gateway"
    return {"parents": [{"parentRef": ref, "controllerName": controller, "conditions": conditions} for ref in parents]}


def digest_of(image: str, pushed: int = 0) -> str:
    """What a registry has under a tag."""
    return f"sha256:{hashlib.sha256(f'{image} {pushed}'.encode()).hexdigest()}"


def pod_status(pod: Object, config_maps: set[str], pushed: Mapping[str, int] = MappingProxyType({})) -> Object:
    """What a kubelet says of a pod, by the words in its image's name: `absent`, `crash`, `slow`, or all is well."""
    container = pod["spec"]["containers"][0]
    image, waiting = container["image"], ""
    told = pod.get("status", {}).get("containerStatuses", ())
    for source in container.get("envFrom", ()):
        name = source.get("configMapRef", {}).get("name")
        if name and name not in config_maps and not any("running" in each["state"] for each in told):
            waiting = "CreateContainerConfigError"
    if "absent" in image:
        waiting = "ImagePullBackOff"
    elif "crash" in image:
        waiting = "CrashLoopBackOff"
    elif "slow" in image:
        waiting = "ContainerCreating"
    known = [each["imageID"] for each in told if each["imageID"]]
    tag, _, named = image.partition("@")
    pulled = f"{tag.rpartition(':')[0]}@{named or digest_of(tag, pushed.get(tag, 0))}"
    state: Object = {"waiting": {"reason": waiting, "message": f"{image}: {waiting}"}} if waiting else {"running": {}}
    ready = "False" if waiting else "True"
    return {
        "phase": "Pending" if waiting else "Running",
        "conditions": [{"type": "Ready", "status": ready}],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": image,
                "imageID": known[0] if known else "" if waiting else pulled,
                "ready": not waiting,
                "restartCount": 0,
                "state": state,
            }
        ],
    }
