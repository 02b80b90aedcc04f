"""What the fake says is what an API server says: each was found on a real one where the fake had only assumed."""

import pytest

from tests.clusters import Cluster
from tests.contract.kubernetes_worlds import TRIGGERS
from tests.fakes.kubernetes_controllers import Object
from tests.servers import wait_until

GATEWAY, KEDA = "gateway.networking.k8s.io/v1", "keda.sh/v1alpha1"


def asked(cluster: Cluster, version: str, kind: str, spec: Object) -> tuple[str, str, Object]:
    """What makes an object."""
    path = f"/apis/{version}/namespaces/{cluster.namespace()}/{kind.lower()}s"
    return "POST", path, {"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec}


@pytest.mark.parametrize(
    ("version", "kind", "spec"),
    [
        (GATEWAY, "HTTPRoute", {"rules": [{"backendRefs": [{"name": "web"}]}]}),
        (KEDA, "ScaledObject", {"scaleTargetRef": {"name": "web"}, "triggers": []}),
        (KEDA, "ScaledObject", {"scaleTargetRef": {"name": "web"}, "triggers": TRIGGERS, "maxReplicaCount": 0}),
    ],
    ids=["a service without its port", "nothing that scales", "at most none"],
)
def test_what_a_schema_does_not_allow_is_refused(cluster: Cluster, version: str, kind: str, spec: Object) -> None:
    assert cluster.api.status(*asked(cluster, version, kind, spec)) == 422


def test_behind_the_proxy_of_the_api_nobody_answers_for_a_service_without_pods(cluster: Cluster) -> None:
    services = f"/api/v1/namespaces/{cluster.namespace()}/services"
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
    cluster.api("POST", services, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    wait_until(lambda: cluster.api.status("GET", f"{services}/web:80/proxy/health") == 503, "its endpoints are known")
    assert cluster.api.status("GET", f"{services}/other:80/proxy/health") == 404


def test_a_route_has_its_defaults(cluster: Cluster) -> None:
    backend = {"name": "web", "port": 80}
    rules = [{"backendRefs": [backend]}, {"matches": [{"path": {"value": "/beta"}}], "backendRefs": [backend]}]
    wanted = {"parentRefs": [{"name": "edge"}], "rules": rules}
    spec = cluster.api(*asked(cluster, GATEWAY, "HTTPRoute", wanted))["spec"]
    assert spec["parentRefs"] == [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]
    whole = [{"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 1}]
    assert [rule["backendRefs"] for rule in spec["rules"]] == [whole, whole]
    assert [rule["matches"] for rule in spec["rules"]] == [
        [{"path": {"type": "PathPrefix", "value": value}}] for value in ("/", "/beta")
    ]
