"""Workloads in a namespace of their own, for the contract and what else is tested on them."""

from pathlib import Path
from typing import Any

from rollbackd.model import Release
from rollbackd.testing import World
from rollbackd_adapters.kubernetes import KubernetesAdapter, KubernetesSettings
from rollbackd_adapters.kubernetes.blue_green import ServiceColours
from rollbackd_adapters.kubernetes.settings import BlueGreenSettings
from rollbackd_adapters.kubernetes.templates import template_id
from tests.clusters import APPS, JSON_PATCH, Cluster
from tests.fakes.kubernetes_controllers import Object
from tests.servers import wait_until


def template(image: str) -> Object:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "containers": [
                {
                    "name": "web",
                    "image": f"registry.example/shop/{image}",
                    "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
                }
            ]
        },
    }


class WorkloadWorld(World):
    """A workload that ran 1, 2 and now 3."""

    kind = "deployment"

    def __init__(
        self, cluster: Cluster, path: Path, *, history: tuple[str, ...] = ("web:1", "web:2", "web:3"), **spec: Any
    ) -> None:
        cluster.thaw()
        self.cluster, self.path = cluster, path
        self.namespace = cluster.namespace()
        self.base = f"{APPS}/namespaces/{self.namespace}"
        self.at = f"{self.base}/{self.kind}s/web"
        self.settings: dict[str, Any] = {
            "adapter": "kubernetes",
            "cluster": "prod",
            "namespace": self.namespace,
            "workload": f"{self.kind}/web",
            "every": "50ms",
            "failing_for": "100ms",
            "timeout": "20s",
        }
        self.changed: dict[str, Any] = {}
        core = f"/api/v1/namespaces/{self.namespace}"
        for kind, name, data in (("ConfigMap", "settings", {"data": {"A": "1"}}), ("Secret", "keys", {"data": {}})):
            made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **data}
            cluster.api("POST", f"{core}/{kind.lower()}s", made)
        self.create(history[0], **spec)
        for image in history[1:]:
            self.settled()
            self.deploy(image)
        self.settled()
        self.generation = int(self.read()["metadata"]["generation"])

    def create(self, image: str, **spec: Any) -> None:
        body = {
            "apiVersion": "apps/v1",
            "kind": {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}[self.kind],
            "metadata": {"name": "web"},
            "spec": {**self.scale(), "selector": {"matchLabels": {"app": "web"}}, "template": template(image), **spec},
        }
        self.cluster.api("POST", f"{self.base}/{self.kind}s", body)

    def scale(self) -> Object:
        more = {"serviceName": "web"} if self.kind == "statefulset" else {}
        return {} if self.kind == "daemonset" else {"replicas": 2, **more}

    def deploy(self, image: str) -> None:
        value = f"registry.example/shop/{image}"
        self.patch({"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": value})

    def patch(self, *operations: Object) -> Object:
        found: Object = self.cluster.api("PATCH", self.at, operations, JSON_PATCH)
        return found

    def read(self) -> Object:
        found: Object = self.cluster.api("GET", self.at)
        return found

    def settled(self) -> None:
        """Wait until its rollout is done and its controller has nothing more to write."""
        wait_until(self.is_settled, "a rollout")

    def is_settled(self) -> bool:
        found = self.read()
        status = found.get("status", {})
        if self.kind == "daemonset":
            keys = ("updatedNumberScheduled", "numberAvailable")
            done = {status.get(key, 0) for key in keys} == {status.get("desiredNumberScheduled")}
            return done and status.get("observedGeneration") == found["metadata"]["generation"]
        wanted = found["spec"]["replicas"]
        numbers = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
        progressing = [c.get("reason") for c in status.get("conditions", ()) if c["type"] == "Progressing"]
        seen = status.get("observedGeneration") == found["metadata"]["generation"]
        told = progressing if self.kind == "deployment" else ["NewReplicaSetAvailable"]
        return seen and numbers == [wanted] * 3 and told == ["NewReplicaSetAvailable"]

    def adapter(self) -> KubernetesAdapter:
        settings = KubernetesSettings.model_validate(self.settings)
        return KubernetesAdapter(settings, self.cluster.place(self.path, **self.changed))

    def present(self) -> str:
        return template_id(self.read()["spec"]["template"])

    def release(self, image: str) -> Release:
        """The release of the present template with another image."""
        made = self.read()["spec"]["template"]
        made["spec"]["containers"][0]["image"] = f"registry.example/shop/{image}"
        return Release(template_id(made))

    def target(self) -> Release:
        return self.release("web:2")

    def moved_by_somebody(self) -> None:
        self.deploy("web:9")
        self.generation = int(self.read()["metadata"]["generation"])

    def finished(self) -> int:
        return int(self.read()["metadata"]["generation"]) - self.generation

    def everything(self) -> object:
        kept = "replicasets" if self.kind == "deployment" else "controllerrevisions"
        found = [self.read(), *self.cluster.api("GET", f"{self.base}/{kept}")["items"]]
        pods = self.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return [(each["metadata"]["uid"], each["metadata"]["resourceVersion"]) for each in [*found, *pods]]

    def break_it(self) -> None:
        self.cluster.api("DELETE", f"/api/v1/namespaces/{self.namespace}/configmaps/settings")

    def hang(self) -> None:
        self.settings["timeout"] = "500ms"
        self.cluster.freeze()


class StatefulWorld(WorkloadWorld):
    kind = "statefulset"


class DaemonWorld(WorkloadWorld):
    kind = "daemonset"


class ColouredWorld(World):
    """A Service that sends the traffic to green; blue is idle, and there is a red that somebody made."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        cluster.thaw()
        self.cluster, self.path = cluster, path
        self.namespace = cluster.namespace()
        self.core = f"/api/v1/namespaces/{self.namespace}"
        self.at = f"{self.core}/services/web"
        self.apps = f"{APPS}/namespaces/{self.namespace}/deployments"
        self.settings: dict[str, Any] = {
            "adapter": "blue_green",
            "cluster": "prod",
            "namespace": self.namespace,
            "service": "web",
            "colours": {colour: f"deployment/web-{colour}" for colour in ("blue", "green", "red")},
            "every": "50ms",
            "timeout": "20s",
        }
        for colour in ("blue", "green", "red"):
            labels = {"app": "web", "color": colour}
            pod = {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": f"shop/web:{colour}"}]},
            }
            spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
            made = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"web-{colour}"}, "spec": spec}
            cluster.api("POST", self.apps, made)
        chosen = {"app": "web", "color": "green"}
        service = {"selector": chosen, "ports": [{"port": 80}]}
        cluster.api(
            "POST",
            f"{self.core}/services",
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": service},
        )
        for colour in ("blue", "green", "red"):
            wait_until(lambda colour=colour: self.is_rolled_out(colour), f"{colour}'s rollout")  # type: ignore[misc]
        self.switches = 0

    def is_rolled_out(self, colour: str) -> bool:
        found = self.cluster.api("GET", f"{self.apps}/web-{colour}").get("status", {})
        return bool(found.get("availableReplicas") == found.get("updatedReplicas") == 1)

    def adapter(self) -> ServiceColours:
        return ServiceColours(BlueGreenSettings.model_validate(self.settings), self.cluster.place(self.path))

    def selector(self) -> dict[str, str]:
        found: dict[str, str] = self.cluster.api("GET", self.at)["spec"]["selector"]
        return found

    def present(self) -> str:
        return self.selector()["color"]

    def target(self) -> Release:
        return Release("blue")

    def moved_by_somebody(self) -> None:
        self.cluster.api(
            "PATCH", self.at, [{"op": "replace", "path": "/spec/selector/color", "value": "red"}], JSON_PATCH
        )

    def everything(self) -> object:
        return self.cluster.api("GET", self.at)["metadata"]["resourceVersion"]

    def break_it(self) -> None:
        self.cluster.api("DELETE", f"{self.apps}/web-blue")
        self.cluster.api("DELETE", f"{self.apps}/web-red")

    def hang(self) -> None:
        self.settings["timeout"] = "500ms"
        self.cluster.freeze()
