"""Clusters for tests: what a test may do with one, be it the strict fake or a real one (tests/real_cluster.py)."""

import base64
import contextlib
import json
import ssl
import tempfile
import urllib.error
import urllib.request
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rollbackd.adapter import Place
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.testing import place
from tests.fakes.kubernetes_api import ADMIN, LABEL, TOKEN, FakeKubernetes, Refused, fake_kubernetes
from tests.fakes.kubernetes_controllers import NODES, Object

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
        with self._opener.open(request, timeout=20) as answer:
            return json.loads(answer.read())

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        """Asks no proxy, whatever a test puts into the environment."""
        tls = urllib.request.HTTPSHandler(context=self.context)
        return urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)

    def status(self, method: str, path: str, body: object = None, kind: str = "application/json") -> int:
        """How it is answered."""
        try:
            self(method, path, body, kind)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        return 200


@dataclass
class Cluster(ABC):
    """One cluster, in which each test has namespaces of its own."""

    api: ClusterApi
    kubeconfig: Path
    """That of rollbackd, which is no admin."""
    token: str
    """In it."""
    authority: dict[str, str]
    """Who vouches for the server, as a kubeconfig says it."""
    context: str = "there"
    fake: FakeKubernetes | None = None
    """None for a real one."""
    namespaces: list[str] = field(default_factory=list)

    nodes: tuple[str, ...] = NODES
    chosen: Mapping[str, str] = field(default_factory=lambda: LABEL)
    """What the nodes of tests are chosen by."""

    @property
    def version(self) -> str:
        """What people call it."""
        return str(self.api("GET", "/version")["gitVersion"])

    @cached_property
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
        return name

    def write(self, token: str, **cluster: object) -> None:
        """Write rollbackd's kubeconfig."""
        self.kubeconfig.write_text(kubeconfig(self.api.url, token, **{**self.authority, **cluster}))
        self.kubeconfig.chmod(0o600)

    @abstractmethod
    def freeze(self) -> None:
        """From now on no pod becomes ready and none ends."""

    @abstractmethod
    def thaw(self) -> None:
        """All goes on."""

    @abstractmethod
    def deny(self, verb: str, group: str, resource: str) -> None:
        """Take that right from rollbackd."""

    @abstractmethod
    def admit(self, hook: Callable[[Object], Object]) -> None:
        """Let a webhook make another object of each workload that is written, or raise Refused."""

    @abstractmethod
    def take_down(self, node: str) -> None:
        """Nothing is heard of that node any more."""

    def as_new(self) -> None:
        """What a test made and set is gone."""
        self.thaw()
        for name in self.namespaces:
            assert self.api.status("DELETE", f"/api/v1/namespaces/{name}") in {200, 404}
        self.namespaces.clear()
        self.write(self.token)


class FakeCluster(Cluster):
    """The strict fake."""

    fake: FakeKubernetes
    served: ssl.SSLContext | None = None
    """What it shows to whoever asks over TLS."""

    @property
    def version(self) -> str:
        return "the fake"

    def replace_certificate(self, certificate: Path, key: Path) -> None:
        """From now on it shows another one, which rollbackd's kubeconfig knows."""
        assert self.served is not None
        self.served.load_cert_chain(certificate, key)
        self.authority = _authority(certificate)
        self.write(self.token)

    def freeze(self) -> None:
        self.fake.frozen = True

    def thaw(self) -> None:
        self.fake.frozen = False

    def deny(self, verb: str, group: str, resource: str) -> None:
        self.fake.denied.add((verb, resource))

    def admit(self, hook: Callable[[Object], Object]) -> None:
        def asked(of: Object, _dry: bool) -> Object:
            try:
                return hook(of)
            except Refused as refused:
                text = f'admission webhook "policy.example.com" denied the request: {refused}'
                raise Refused(refused.status, refused.reason, text) from None

        self.fake.admission.append(asked)

    def take_down(self, node: str) -> None:
        self.fake.take_down(node)
        for name in self.namespaces:
            self.fake.reconcile(name)

    def as_new(self) -> None:
        super().as_new()
        for kept in (
            self.fake.denied,
            self.fake.faults,
            self.fake.absent,
            self.fake.admission,
            self.fake.listing,
            self.fake.watching,
            self.fake.served,
        ):
            kept.clear()
        self.fake.bring_up()
        self.fake.controllers.pushed.clear()
        self.fake.tokens = {self.token}


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


def _authority(certificate: Path) -> dict[str, str]:
    """Who vouches for one that nobody else signed."""
    return {"certificate-authority-data": base64.b64encode(certificate.read_bytes()).decode()}


@contextlib.contextmanager
def fake_cluster(certificate: Path | None = None, key: Path | None = None) -> Iterator[FakeCluster]:
    """The fake, over TLS where it has a certificate."""
    served = trusted = None
    authority = {}
    if certificate is not None and key is not None:
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(certificate, key)
        trusted = ssl.create_default_context(cafile=str(certificate))
        authority = _authority(certificate)
    with fake_kubernetes(served) as fake, tempfile.TemporaryDirectory() as directory:
        api = ClusterApi(fake.url, ADMIN, trusted)
        cluster = FakeCluster(api, Path(directory) / "kubeconfig", TOKEN, authority, fake=fake)
        cluster.served = served
        cluster.write(TOKEN)
        yield cluster
        assert fake.wrong == []
