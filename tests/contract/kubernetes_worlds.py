"""Workloads in a namespace of their own, for the contract and what else is tested on them."""

import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rollbackd.adapter import AdapterError
from rollbackd.model import Release
from rollbackd.testing import BracketWorld, World, finish, planned
from rollbackd_adapters.kubernetes import KubernetesAdapter, KubernetesSettings
from rollbackd_adapters.kubernetes.blue_green import ServiceColours
from rollbackd_adapters.kubernetes.canary import CanaryAdapter
from rollbackd_adapters.kubernetes.scale import ScaleAdapter
from rollbackd_adapters.kubernetes.settings import BlueGreenSettings, CanarySettings, ScaleSettings
from rollbackd_adapters.kubernetes.templates import content_id, template_id
from tests.clusters import APPS, JSON_PATCH, MERGE_PATCH, Cluster
from tests.fakes.kubernetes_controllers import Object, is_ready
from tests.servers import wait_until

PATIENT = 150.0
"""Seconds for what a cluster does; a real one beside others' work is slow."""
TRIGGERS = [{"type": "cron", "metadata": {"timezone": "UTC", "start": "0 6 * * *", "end": "0 20 * * *"}}]


def why_refused(world: World) -> str:
    """Why a plan to the world's target is refused; empty when it is not."""
    try:
        finish(planned(world.adapter(), world.target()))
    except AdapterError as error:
        return str(error)
    return ""


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
        pod = template(image)
        if self.kind == "daemonset":
            pod["spec"]["nodeSelector"] = self.cluster.chosen
        body = {
            "apiVersion": "apps/v1",
            "kind": {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}[self.kind],
            "metadata": {"name": "web"},
            "spec": {**self.scale(), "selector": {"matchLabels": {"app": "web"}}, "template": pod, **spec},
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
        wait_until(lambda: self.is_settled() and self.is_quiet(), "a rollout", PATIENT)

    def is_quiet(self) -> bool:
        """Whether its pods are ready, none of them ends, and nothing more is to be written about its revisions."""
        pods = self.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        kept = self.cluster.api("GET", f"{self.base}/replicasets")["items"]
        return all(is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods) and all(
            each["status"].get("observedGeneration") == each["metadata"]["generation"]
            and each["status"]["replicas"] == each["spec"]["replicas"] == each["status"].get("availableReplicas", 0)
            for each in kept
        )

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


class ConfiguredWorld(WorkloadWorld):
    """A workload whose ConfigMap goes back with it; it held 1, 2 and now 3, as its image's tag."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        self.seen: dict[str, str] = {}
        super().__init__(cluster, path, history=("web:1",))
        self.settings["config_maps"] = "settings"
        self.map = f"/api/v1/namespaces/{self.namespace}/configmaps/settings"
        self.look()
        for n in ("2", "3"):
            self.configure(n)
            self.deploy(f"web:{n}")
            self.settled()
            self.look()
        self.generation = int(self.read()["metadata"]["generation"])

    def look(self) -> None:
        """As the daemon does all the time."""
        self.seen[self.image()[-5:]] = finish(self.adapter().current()).id

    def configure(self, value: str) -> None:
        self.cluster.api("PATCH", self.map, {"data": {"A": value}}, MERGE_PATCH)

    def held(self) -> dict[str, str]:
        found: dict[str, str] = self.cluster.api("GET", self.map)["data"]
        return found

    def image(self) -> str:
        return str(self.read()["spec"]["template"]["spec"]["containers"][0]["image"])

    def pods(self) -> list[str]:
        pods = self.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return [pod["metadata"]["uid"] for pod in pods]

    def present(self) -> str:
        template = super().present()
        return content_id({"template": template, "config": {"settings": {"data": self.held()}}})

    def target(self) -> Release:
        return Release(self.seen["web:2"])

    def everything(self) -> object:
        return [super().everything(), self.cluster.api("GET", self.map)["metadata"]["resourceVersion"]]


class ConfiguredDaemonWorld(ConfiguredWorld):
    kind = "daemonset"


class Doctor:
    """Answers what `healthy` asks: with 500 from the `sick`-th question on."""

    def __init__(self, sick: float = float("inf")) -> None:
        self.asked = 0
        doctor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                doctor.asked += 1
                self.send_response(500 if doctor.asked >= sick else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@cache
def all_is_well() -> Doctor:
    """One for all worlds of a process."""
    return Doctor()


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
            "healthy": {colour: f"{all_is_well().url}/{colour}" for colour in ("blue", "green", "red")},
            "times": 1,
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
            wait_until(lambda colour=colour: self.is_rolled_out(colour), f"{colour}'s rollout", PATIENT)  # type: ignore[misc]
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
        """Somebody else's endpoints are among the Service's, and stay."""
        self.settings["timeout"] = "500ms"
        strange = {"kind": "Pod", "name": "stranger", "uid": "1", "namespace": self.namespace}
        made = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "theirs", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.9.9.9"], "conditions": {"ready": True}, "targetRef": strange}],
        }
        self.cluster.api("POST", f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices", made)


class ScaledWorld(BracketWorld):
    """A Deployment of three, a StatefulSet of two, and a CronJob; KEDA drives the Deployment where it is asked for."""

    def __init__(self, cluster: Cluster, path: Path, keda: dict[str, str] | None = None) -> None:
        cluster.thaw()
        self.cluster, self.path = cluster, path
        self.namespace = cluster.namespace()
        self.settings: dict[str, Any] = {
            "adapter": "scale",
            "cluster": "prod",
            "namespace": self.namespace,
            "workloads": ["deployment/worker", "statefulset/queue", "cronjob/mail"],
            "every": "50ms",
            "timeout": "20s",
        }
        self.make("deployments", "apps/v1", "Deployment", "worker", {**self.pods("worker"), "replicas": 3})
        queue = {**self.pods("queue"), "replicas": 2, "serviceName": "queue"}
        self.make("statefulsets", "apps/v1", "StatefulSet", "queue", queue)
        self.make("cronjobs", "batch/v1", "CronJob", "mail", cron_job())
        if keda is not None:
            target = {"scaleTargetRef": {"name": "worker"}, "minReplicaCount": 1, "triggers": TRIGGERS}
            self.make("scaledobjects", "keda.sh/v1alpha1", "ScaledObject", "worker", target, keda)
        wait_until(lambda: len(self.running()) == 5, "all pods", PATIENT)

    def pods(self, name: str) -> Object:
        pod = {"containers": [{"name": name, "image": f"shop/{name}:1"}]}
        labels = {"app": name}
        return {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}

    def at(self, resource: str, name: str = "") -> str:
        group = {
            "cronjobs": "batch/v1",
            "scaledobjects": "keda.sh/v1alpha1",
            "horizontalpodautoscalers": "autoscaling/v2",
        }.get(resource, "apps/v1")
        return f"/apis/{group}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def make(
        self, resource: str, version: str, kind: str, name: str, spec: Object, annotations: dict[str, str] | None = None
    ) -> None:
        metadata = {"name": name, **({"annotations": annotations} if annotations else {})}
        self.cluster.api(
            "POST", self.at(resource), {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
        )

    def read(self, resource: str, name: str) -> Object:
        found: Object = self.cluster.api("GET", self.at(resource, name))
        return found

    def scale(self, resource: str, name: str, replicas: int) -> None:
        operation = {"op": "replace", "path": "/spec/replicas", "value": replicas}
        self.cluster.api("PATCH", self.at(resource, name), [operation], JSON_PATCH)

    def running(self) -> list[str]:
        pods = self.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return sorted(pod["metadata"]["name"] for pod in pods)

    def numbers(self) -> tuple[int, int, bool]:
        queue = self.read("statefulsets", "queue")["spec"]["replicas"]
        return self.read("deployments", "worker")["spec"]["replicas"], queue, self.suspended()

    def suspended(self) -> bool:
        return bool(self.read("cronjobs", "mail")["spec"]["suspend"])

    def marks(self) -> list[str]:
        found = []
        for resource, name in (("deployments", "worker"), ("statefulsets", "queue"), ("cronjobs", "mail")):
            found += [key for key in self.read(resource, name)["metadata"].get("annotations", {}) if "rollbackd" in key]
        return found

    def adapter(self) -> ScaleAdapter:
        return ScaleAdapter(ScaleSettings.model_validate(self.settings), self.cluster.place(self.path))

    def inside(self) -> bool:
        numbers = self.numbers()
        if numbers == (0, 0, True):
            return not self.running()
        assert numbers == (3, 2, False)
        assert self.marks() == []
        return False


def cron_job() -> Object:
    pod = {"containers": [{"name": "mail", "image": "shop/mail:1"}], "restartPolicy": "Never"}
    return {"schedule": "0 0 29 2 *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}


class RoutedWorld(World):
    """A VirtualService that sends 10 of 40 to a canary; a rule for others and a mirror are in it, too."""

    route, group = "virtualservice", "networking.istio.io"

    def __init__(self, cluster: Cluster, path: Path, weights: tuple[int, ...] = (30, 10)) -> None:
        cluster.thaw()
        self.cluster, self.path = cluster, path
        self.namespace = cluster.namespace()
        self.at = f"/apis/{self.group}/v1/namespaces/{self.namespace}/{self.route}s/web"
        self.apps = f"{APPS}/namespaces/{self.namespace}/deployments"
        self.settings: dict[str, Any] = {
            "adapter": "canary",
            "cluster": "prod",
            "namespace": self.namespace,
            "route": f"{self.route}/web",
            "rule": "main",
            "stable": "web",
            "canary": "web-canary",
            "stable_workload": "deployment/web",
            "canary_workload": "deployment/web-canary",
            "stages": [15, 5, 0],
            "every": "50ms",
            "timeout": "20s",
        }
        self.changed: dict[str, Any] = {}
        services = f"/api/v1/namespaces/{self.namespace}/services"
        for name in ("web", "web-canary"):
            self.deploy(name)
            self.make(services, "v1", "Service", name, {"selector": {"app": name}, "ports": [{"port": 80}]})
        self.make(self.at.rpartition("/")[0], f"{self.group}/v1", self.kind, "web", self.spec(weights))
        for name in ("web", "web-canary"):
            wait_until(lambda name=name: self.available(name) == 2, f"{name}'s pods", PATIENT)  # type: ignore[misc]

    @property
    def kind(self) -> str:
        return {"virtualservice": "VirtualService", "httproute": "HTTPRoute"}[self.route]

    def spec(self, weights: tuple[int, ...]) -> Object:
        names = ("web", "web-canary", "web-other")
        split = [{"destination": {"host": name}, "weight": n} for name, n in zip(names, weights, strict=False)]
        beta = {
            "name": "beta",
            "match": [{"headers": {"beta": {"exact": "yes"}}}],
            "route": [{"destination": {"host": "web-canary"}, "weight": 100}],
        }
        main = {"name": "main", "route": split, "mirror": {"host": "shadow"}, "timeout": "5s"}
        return {"hosts": ["web.example"], "http": [beta, main]}

    def deploy(self, name: str) -> None:
        pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "web", "image": "shop/web:1"}]}}
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": pod}
        self.make(self.apps, "apps/v1", "Deployment", name, spec)

    def make(self, path: str, version: str, kind: str, name: str, spec: Object) -> None:
        self.cluster.api("POST", path, {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})

    def available(self, name: str) -> int:
        return int(self.cluster.api("GET", f"{self.apps}/{name}").get("status", {}).get("availableReplicas", 0))

    def replicas(self, name: str, number: int) -> None:
        operation = {"op": "replace", "path": "/spec/replicas", "value": number}
        self.cluster.api("PATCH", f"{self.apps}/{name}", [operation], JSON_PATCH)

    def adapter(self) -> CanaryAdapter:
        settings = CanarySettings.model_validate(self.settings)
        return CanaryAdapter(settings, self.cluster.place(self.path, **self.changed))

    def read(self) -> Object:
        found: Object = self.cluster.api("GET", self.at)
        return found

    def weights(self) -> list[int]:
        return [each["weight"] for each in self.read()["spec"]["http"][1]["route"]]

    def set_weights(self, *weights: int) -> None:
        operations = [
            {"op": "replace", "path": f"/spec/http/1/route/{n}/weight", "value": weight}
            for n, weight in enumerate(weights)
        ]
        self.cluster.api("PATCH", self.at, operations, JSON_PATCH)

    def present(self) -> str:
        weights = self.weights()
        return f"{weights[1] * 100 / sum(weights):g}"

    def target(self) -> Release:
        return Release("0")

    def moved_by_somebody(self) -> None:
        self.set_weights(20, 20)

    def everything(self) -> object:
        return self.read()["metadata"]["resourceVersion"]

    def break_it(self) -> None:
        self.cluster.api("DELETE", f"{self.apps}/web")

    def hang(self) -> None:
        assert self.cluster.fake is not None, "nothing else makes a route hang"
        self.changed["request_timeout"] = "2s"
        self.cluster.fake.faults.append("hang")


class GatewayWorld(RoutedWorld):
    """The same by an HTTPRoute, whose gateway says what it has taken over."""

    route, group = "httproute", "gateway.networking.k8s.io"

    def spec(self, weights: tuple[int, ...]) -> Object:
        split = [
            {"name": name, "port": 80, "weight": n}
            for name, n in zip(("web", "web-canary", "web-other"), weights, strict=False)
        ]
        header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}
        beta = {
            "name": "beta",
            "matches": [{"path": {"value": "/beta"}}],
            "backendRefs": [{"name": "web-canary", "port": 80}],
        }
        main = {"name": "main", "filters": [header], "backendRefs": split}
        return {"parentRefs": [{"name": "edge"}], "hostnames": ["web.example"], "rules": [beta, main]}

    def weights(self) -> list[int]:
        return [each["weight"] for each in self.read()["spec"]["rules"][1]["backendRefs"]]

    def set_weights(self, *weights: int) -> None:
        operations = [
            {"op": "replace", "path": f"/spec/rules/1/backendRefs/{n}/weight", "value": weight}
            for n, weight in enumerate(weights)
        ]
        self.cluster.api("PATCH", self.at, operations, JSON_PATCH)

    def hang(self) -> None:
        self.settings["timeout"] = "500ms"
        self.cluster.freeze()
