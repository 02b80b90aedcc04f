"""A real cluster for tests: an API server and its controllers, whose nodes and gateways a thread plays.

KUBECONFIG names the file and KUBECONTEXT the context in it, never the current one by chance; its user is an admin with
a token. rollbackd itself asks as a service account that has the Roles of docs/kubernetes.md, and no right besides.
"""

import base64
import contextlib
import itertools
import re
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rollbackd_adapters.kubernetes.lacking import CLUSTER_WIDE
from tests.admission_webhook import AdmissionWebhook
from tests.clusters import MERGE_PATCH, Cluster, ClusterApi
from tests.fakes.kubernetes_api import node_status
from tests.fakes.kubernetes_controllers import ENDED, Object, is_ready, pod_status, route_status
from tests.servers import wait_until

PAGE = Path(__file__).parents[1] / "docs" / "kubernetes.md"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
ROUTES = "/apis/gateway.networking.k8s.io/v1"
LEASE = 40
"""Seconds until a node that is not heard of counts as down."""
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
PASS = 0.1
PATIENT = 150.0
"""Seconds for its controllers; they are slow beside others' work."""


def documented_roles() -> list[Object]:
    """The objects that docs/kubernetes.md tells people to apply."""
    (block,) = re.findall(r"^```yaml\n(# kubectl apply.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return list(yaml.safe_load_all(block))


class RealCluster(Cluster):
    """One that KUBECONFIG names."""

    def __init__(self, api: ClusterApi, kubeconfig: Path, authority: dict[str, str]) -> None:
        run = uuid.uuid4().hex[:8]
        super().__init__(api, kubeconfig, "", authority)
        self.home = f"test-home-{run}"
        self.nodes = tuple(f"test-{run}-{letter}" for letter in "ab")
        self.chosen = {"rollbackd/tests": run}
        self.down: set[str] = set()
        self.frozen = False
        self._passing = threading.Lock()
        self._undone: list[Callable[[], object]] = []
        self._addresses = itertools.count(1)
        self._renewed = 0.0

    # -- rollbackd's account --------------------------------------------------------------------
    def begin(self) -> None:
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.home}}
        self.api("POST", "/api/v1/namespaces", made)
        accounts = f"/api/v1/namespaces/{self.home}/serviceaccounts"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "rollbackd"}}
        self.api("POST", accounts, account)
        wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        self.token = self.api("POST", f"{accounts}/rollbackd/token", wanted)["status"]["token"]
        self.write(self.token)
        self._grant()
        for name in self.nodes:
            metadata = {"name": name, "labels": self.chosen}
            self.api("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
            self._say_of_node(name, "True")
            lease = {"holderIdentity": name, "leaseDurationSeconds": LEASE}
            made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": lease}
            self.api("POST", LEASES, made)

    def end(self) -> None:
        for path in (
            f"/api/v1/namespaces/{self.home}",
            *(f"/api/v1/nodes/{name}" for name in self.nodes),
            *(f"{LEASES}/{name}" for name in self.nodes),
            f"{RBAC}/clusterroles/{self.home}",
            f"{RBAC}/clusterrolebindings/{self.home}",
        ):
            self.api("DELETE", path)

    def _grant(self, namespace: str = "") -> None:
        """Give rollbackd what the documentation gives it in a namespace, or in the whole cluster."""
        for each in documented_roles():
            if each["kind"].startswith("Cluster") is bool(namespace):
                continue
            each["metadata"] = {"name": self.home}
            if "roleRef" in each:
                each["roleRef"]["name"] = self.home
                each["subjects"][0]["namespace"] = self.home
            within = f"/namespaces/{namespace}" if namespace else ""
            self.api("POST", f"{RBAC}{within}/{each['kind'].lower()}s", each)
        known = ("get", "apps", "deployments") if namespace else ("get", "", "nodes")
        wait_until(lambda: self.may(*known, namespace), "its rights", PATIENT)

    def may(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        ours = ClusterApi(self.api.url, self.token, self.api.context)
        whole, _, part = resource.partition("/")
        wanted = {"verb": verb, "group": group, "resource": whole, "subresource": part, "namespace": namespace}
        review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
        asked = {**review, "spec": {"resourceAttributes": wanted}}
        return bool(ours("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", asked)["status"]["allowed"])

    def deny(self, verb: str, group: str, resource: str) -> None:
        wide = resource in {*CLUSTER_WIDE, "namespaces"}
        namespace = "" if wide else self.namespaces[-1]
        within = "clusterroles" if wide else f"namespaces/{namespace}/roles"
        role = self.api("GET", f"{RBAC}/{within}/{self.home}")
        role["rules"] = [
            {**rule, "apiGroups": [of], "resources": [name], "verbs": [word]}
            for rule in role["rules"]
            for of, name, word in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
            if (word, of, name) != (verb, group, resource)
        ]
        self.api("PUT", f"{RBAC}/{within}/{self.home}", role)
        wait_until(lambda: not self.may(verb, group, resource, namespace), "a right that is gone", PATIENT)
        if wide:
            self._undone.append(self._grant_again)

    def _grant_again(self) -> None:
        for kind in ("clusterrolebindings", "clusterroles"):
            self.api("DELETE", f"{RBAC}/{kind}/{self.home}")
        self._grant()

    # -- what a test does -----------------------------------------------------------------------
    def namespace(self) -> str:
        name = super().namespace()
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_until(lambda: self.api.status("GET", account) == 200, "the account of pods", PATIENT)
        self._grant(name)
        return name

    def freeze(self) -> None:
        with self._passing:
            self.frozen = True

    def thaw(self) -> None:
        self.frozen = False

    def admit(self, hook: Callable[[Object], Object]) -> None:
        webhook = AdmissionWebhook(self.kubeconfig.parent, hook)
        self.api("POST", WEBHOOKS, webhook.configuration(self.home, self.namespaces[-1]))
        self._undone += [webhook.close, lambda: self.api("DELETE", f"{WEBHOOKS}/{self.home}")]

    def take_down(self, node: str) -> None:
        self.down.add(node)
        self._say_of_node(node, "Unknown")
        self._undone.append(lambda: self._bring_up(node))

    def _bring_up(self, node: str) -> None:
        self._say_of_node(node, "True")
        self.down.discard(node)

    def _say_of_node(self, node: str, ready: str) -> None:
        self.api("PATCH", f"/api/v1/nodes/{node}/status", {"status": node_status(ready)}, MERGE_PATCH)

    def as_new(self) -> None:
        super().as_new()
        while self._undone:
            self._undone.pop()()

    # -- the nodes and the gateway --------------------------------------------------------------
    def play(self, ended: threading.Event) -> None:
        """Do what kubelets and a gateway do, until the end, and then until no pod is left here."""
        gateway = self.api.status("GET", ROUTES) == 200
        while not ended.is_set() or any(pod["spec"].get("nodeName") in self.nodes for pod in self._all("/api/v1/pods")):
            with contextlib.suppress(OSError), self._passing:  # one that is slow is asked again
                self._renew()
                for pod in [] if self.frozen else self._all("/api/v1/pods"):
                    self._play_pod(pod)
                for route in self._all(f"{ROUTES}/httproutes") if gateway and not self.frozen else ():
                    self._play_route(route)
            ended.wait(PASS)

    def _all(self, path: str) -> list[Object]:
        found: list[Object] = self.api("GET", path)["items"]
        return [
            each
            for each in found
            if each["metadata"]["namespace"] in self.namespaces or each["spec"].get("nodeName") in self.nodes
        ]

    def _renew(self) -> None:
        now = time.time()
        if now - self._renewed > LEASE / 4:
            self._renewed = now
            renewed = {"spec": {"renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
            for name in set(self.nodes) - self.down:
                self.api("PATCH", f"{LEASES}/{name}", renewed, MERGE_PATCH)

    def _play_pod(self, pod: Object) -> None:
        metadata, node = pod["metadata"], pod["spec"].get("nodeName")
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if pod["status"].get("phase") in ENDED and "deletionTimestamp" not in metadata:
            return
        if not node:
            target = {"kind": "Node", "name": _destined(pod) or self.nodes[0]}
            made = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}, "target": target}
            self._say("POST", f"{path}/binding", made)
        elif node in self.down:
            if is_ready(pod):
                unready = {"conditions": [{"type": "Ready", "status": "False"}]}
                self._say("PATCH", f"{path}/status", {"status": unready}, MERGE_PATCH)
        elif "deletionTimestamp" in metadata:
            self._say("DELETE", path, {"gracePeriodSeconds": 0})
        else:
            maps = self.api("GET", f"/api/v1/namespaces/{metadata['namespace']}/configmaps")["items"]
            status = pod_status(pod, {each["metadata"]["name"] for each in maps})
            if _told(pod) != _told({"status": status}):
                address = (
                    pod["status"].get("podIP") or f"10.1.{next(self._addresses) // 250}.{next(self._addresses) % 250}"
                )
                status |= {"podIP": address, "podIPs": [{"ip": address}]}
                seen = {"resourceVersion": metadata["resourceVersion"]}  # it may have ended meanwhile
                self._say("PATCH", f"{path}/status", {"metadata": seen, "status": status}, MERGE_PATCH)

    def _play_route(self, route: Object) -> None:
        namespace, name = route["metadata"]["namespace"], route["metadata"]["name"]
        services = self.api("GET", f"/api/v1/namespaces/{namespace}/services")["items"]
        status = route_status(route, {each["metadata"]["name"] for each in services})
        if route.get("status") != status:
            path = f"{ROUTES}/namespaces/{namespace}/httproutes/{name}/status"
            self._say("PATCH", path, {"status": status}, MERGE_PATCH)

    def _say(self, method: str, path: str, body: Object, kind: str = "application/json") -> None:
        said = self.api.status(method, path, body, kind)
        # Gone meanwhile, another one by now, or its namespace ends: the next pass sees.
        assert said in {200, 403, 404, 409}, (said, method, path, body)


def _destined(pod: Object) -> str:
    """The node that a DaemonSet's controller made it for."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or ()
    return next((str(field["values"][0]) for term in terms for field in term.get("matchFields") or ()), "")


def _told(pod: Object) -> tuple[bool, list[str]]:
    """What matters of a pod's status; a server adds to the rest."""
    states = [each["state"] for each in pod.get("status", {}).get("containerStatuses", ())]
    return is_ready(pod), [state.get("waiting", {}).get("reason", "") for state in states]


@contextlib.contextmanager
def real_cluster(path: str, context: str) -> Iterator[RealCluster]:
    """The one of a context, whose user is an admin with a token."""
    config = yaml.safe_load(Path(path).read_text())

    def named(kind: str, name: str) -> Any:
        return next(each[kind] for each in config[f"{kind}s"] if each["name"] == name)

    there = named("context", context)
    server = named("cluster", there["cluster"])
    authority = {"certificate-authority-data": server["certificate-authority-data"]}
    trusted = ssl.create_default_context(cadata=base64.b64decode(authority["certificate-authority-data"]).decode())
    with tempfile.TemporaryDirectory() as directory:
        api = ClusterApi(server["server"], named("user", there["user"])["token"], trusted)
        cluster = RealCluster(api, Path(directory) / "kubeconfig", authority)
        cluster.begin()
        ended = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            played = threads.submit(cluster.play, ended)
            try:
                yield cluster
                cluster.as_new()
            finally:
                ended.set()
                played.result(60)
        cluster.end()
