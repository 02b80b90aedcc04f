"""The Role in the documentation, and the rights that `ready` asks for."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from rollbackd_adapters.kubernetes import blue_green, canary, discovery, scale, watched_layer
from rollbackd_adapters.kubernetes.lacking import CLUSTER_WIDE, quantity, rights
from rollbackd_adapters.kubernetes.settings import BlueGreenSettings, CanarySettings
from rollbackd_adapters.kubernetes.weights import KINDS
from rollbackd_adapters.kubernetes.workload import path_of
from tests.real_cluster import documented_roles


def documented(kind: str = "Role") -> set[tuple[str, str, str]]:
    role = next(each for each in documented_roles() if each["kind"] == kind)
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def canaries() -> Iterator[CanarySettings]:
    for route in ("virtualservice/web", "httproute/web"):
        yield CanarySettings(
            adapter="canary",
            cluster="prod",
            namespace="shop",
            route=route,
            stable="web",
            canary="web-canary",
            stable_workload="deployment/web",
            canary_workload="deployment/web-canary",
            scale_down=True,
        )


def colours() -> BlueGreenSettings:
    return BlueGreenSettings(
        adapter="blue_green",
        cluster="prod",
        namespace="shop",
        service="web",
        colours={"blue": "deployment/web-blue", "green": "deployment/web-green"},
        healthy={"blue": "service/web-blue:80/health", "green": "service/web-green:80/health"},
    )


def watched() -> Iterator[str]:
    """The paths of all kinds of objects that a watch tells of."""
    yield from (path_of("shop", f"{kind}/web") for kind in ("deployment", "statefulset", "daemonset"))
    yield "/api/v1/namespaces/shop/services/web"
    for kind in KINDS.values():
        yield f"/apis/{kind.group}/v1/namespaces/shop/{kind.resource}/web"


def test_the_documented_role_has_each_right_that_is_asked_for_and_no_other() -> None:
    kinds = ("deployment", "statefulset", "daemonset")
    asked = {right for kind in kinds for right in rights(kind, unstick=kind == "statefulset", config_maps=True)}
    asked |= {*blue_green.rights(colours()), *scale.rights(["deployment/a", "statefulset/b", "cronjob/c"])}
    asked |= {*discovery.RIGHTS}
    asked |= {right for settings in canaries() for right in canary.rights(settings)}
    asked |= {right for path in watched() for right in watched_layer.rights(path)}
    wide = {right for right in asked if right[2] in CLUSTER_WIDE}
    assert asked - wide == documented()
    assert wide | {("get", "", "namespaces")} == documented("ClusterRole")


@pytest.mark.parametrize("kind", ["deployment", "statefulset", "daemonset"])
def test_nothing_is_deleted_unless_it_is_to_be_unstuck(kind: str) -> None:
    assert ("delete", "", "pods") not in rights(kind, unstick=False)


def test_only_what_is_asked_for_needs_more_rights() -> None:
    plain = rights("deployment", unstick=False)
    assert ("get", "", "nodes") not in plain
    assert ("patch", "", "configmaps") not in plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", "2"),
        ("500m", "0.5"),
        ("1Gi", "1073741824"),
        ("1.5Ki", "1536"),
        ("3k", "3000"),
        ("100n", "0.0000001"),
        ("1e3", "1000"),
        ("5E", "5000000000000000000"),
        (".5", "0.5"),
        ("much", "0"),
        ("9" * 99, "0"),
    ],
)
def test_amounts_are_read_as_the_api_writes_them(text: str, value: str) -> None:
    assert quantity(text) == Decimal(value)
