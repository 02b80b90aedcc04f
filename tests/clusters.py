"""Clusters for tests: the strict fake, or the real one that KUBECONFIG names, by the same means.

In a real one each test has a namespace of its own, and a thread plays kubelet: pods there have no node.
"""

import base64
import contextlib
import json
import os
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rollbackd.adapter import Place
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.testing import place
from tests.fakes.kubernetes_api import ADMIN, TOKEN, FakeKubernetes, fake_kubernetes
from tests.fakes.kubernetes_controllers import ENDED, Object, is_ready, pod_status
from tests.servers import wait_until

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPS = "/apis/apps/v1"


@dataclass
class ClusterApi:
    """The API as an admin asks it, without anything of rollbackd."""

    url: str
    token: str
    context: ssl.SSLContext | None = None

    def __call__(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind, "Accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20, context=self.context) as answer:
            return json.loads(answer.read())

    def exists(self, path: str) -> bool:
        try:
            self("GET", path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise
        return True


@dataclass
class Cluster:
    """One cluster."""

    api: ClusterApi
    kubeconfig: Path
    context: str
    fake: FakeKubernetes | None = None
    """None for a real one."""
    frozen: bool = False
    """Pods do not become ready."""
    namespaces: list[str] = field(default_factory=list)

    @property
    def settings(self) -> ClusterSettings:
        uid = self.api("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"]
        return ClusterSettings(kubeconfig=str(self.kubeconfig), context=self.context, uid=uid)

    def place(self, path: Path, **changed: Any) -> Place:
        """A place for a layer, in a daemon whose configuration has the cluster as `prod`."""
        settings = ClusterSettings.model_validate(self.settings.model_dump() | changed)
        return replace(place(path), clusters={"prod": settings})

    def namespace(self) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.namespaces.append(name)
        if self.fake is None:  # made by a controller
            wait_until(lambda: self.api.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"), "the account")
        return name

    def freeze(self) -> None:
        self.frozen = True
        if self.fake is not None:
            self.fake.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        if self.fake is not None:
            self.fake.frozen = False

    def clean(self) -> None:
        for name in self.namespaces:
            with contextlib.suppress(urllib.error.HTTPError):
                self.api("DELETE", f"/api/v1/namespaces/{name}")
        self.namespaces.clear()

    def as_new(self) -> None:
        """What a test made and set is gone."""
        self.clean()
        if self.fake is not None:
            for kept in (
                self.fake.denied,
                self.fake.faults,
                self.fake.absent,
                self.fake.admission,
                self.fake.listing,
                self.fake.watching,
            ):
                kept.clear()
            self.fake.bring_up()
            self.fake.controllers.pushed.clear()
            self.fake.tokens = {TOKEN}
            self.kubeconfig.write_text(kubeconfig(self.fake.url, TOKEN))

    def kubelet(self, ended: threading.Event) -> None:
        """Say of all pods what a kubelet would say."""
        while not ended.wait(0.1):
            for name in () if self.frozen else tuple(self.namespaces):
                with contextlib.suppress(urllib.error.URLError, OSError):
                    maps = self.api("GET", f"/api/v1/namespaces/{name}/configmaps")["items"]
                    for pod in self.api("GET", f"/api/v1/namespaces/{name}/pods")["items"]:
                        if pod.get("status", {}).get("phase") in ENDED:
                            continue
                        self._tell(name, pod, {each["metadata"]["name"] for each in maps})

    def _tell(self, namespace: str, pod: Object, maps: set[str]) -> None:
        status = pod_status(pod, maps)
        waiting = [each["state"] for each in pod.get("status", {}).get("containerStatuses", ())]
        if is_ready(pod) != is_ready({"status": status}) or waiting != [
            e["state"] for e in status["containerStatuses"]
        ]:
            path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/status"
            self.api("PATCH", path, {"status": status}, MERGE_PATCH)


def kubeconfig(url: str, token: str, **cluster: object) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "elsewhere",
            "clusters": [
                {"name": "there", "cluster": {"server": url, **cluster}},
                {"name": "elsewhere", "cluster": {"server": "http://127.0.0.1:1"}},
            ],
            "users": [{"name": "rollbackd", "user": {"token": token}}],
            "contexts": [
                {"name": "there", "context": {"cluster": "there", "user": "rollbackd"}},
                {"name": "elsewhere", "context": {"cluster": "elsewhere", "user": "rollbackd"}},
            ],
        }
    )


@contextlib.contextmanager
def fake_cluster(certificate: Path | None = None, key: Path | None = None) -> Iterator[Cluster]:
    """The fake, over TLS where it has a certificate."""
    served = trusted = None
    authority = {}
    if certificate is not None and key is not None:
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(certificate, key)
        trusted = ssl.create_default_context(cafile=str(certificate))
        authority["certificate-authority-data"] = base64.b64encode(certificate.read_bytes()).decode()
    with fake_kubernetes(served) as fake, tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kubeconfig"
        path.write_text(kubeconfig(fake.url, TOKEN, **authority))
        path.chmod(0o600)
        yield Cluster(ClusterApi(fake.url, ADMIN, trusted), path, "there", fake)
        assert fake.wrong == []


@contextlib.contextmanager
def real_cluster(path: str) -> Iterator[Cluster]:
    """The one that a kubeconfig's current context names, with a token."""
    config = yaml.safe_load(Path(path).read_text())
    context = next(each for each in config["contexts"] if each["name"] == config["current-context"])
    server = next(e["cluster"] for e in config["clusters"] if e["name"] == context["context"]["cluster"])
    user = next(e["user"] for e in config["users"] if e["name"] == context["context"]["user"])
    authority = base64.b64decode(server["certificate-authority-data"]).decode()
    api = ClusterApi(server["server"], user["token"], ssl.create_default_context(cadata=authority))
    cluster = Cluster(api, Path(path), context["name"])
    ended = threading.Event()
    kubelet = threading.Thread(target=cluster.kubelet, args=(ended,), daemon=True)
    kubelet.start()
    try:
        yield cluster
    finally:
        ended.set()
        kubelet.join(30)
        cluster.clean()


@contextlib.contextmanager
def a_cluster() -> Iterator[Cluster]:
    """The real one where KUBECONFIG names it, else the fake."""
    path = os.environ.get("KUBECONFIG", "")
    with real_cluster(path) if path else fake_cluster() as cluster:
        yield cluster
