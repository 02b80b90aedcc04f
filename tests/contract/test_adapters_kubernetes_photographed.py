"""What a rollback in a cluster changes is what its plan told: photographs of all of its objects, before and after."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rollbackd.model import Change, Progress, Release
from rollbackd.testing import KEY, World, finish, perform, planned
from tests.clusters import Cluster
from tests.contract.kubernetes_worlds import (
    ColouredWorld,
    ConfiguredWorld,
    DaemonWorld,
    GatewayWorld,
    RoutedWorld,
    ScaledWorld,
    StatefulWorld,
    WorkloadWorld,
)
from tests.fakes.kubernetes_api import FakeKubernetes
from tests.fakes.kubernetes_controllers import Object

Name = tuple[str, str, str]
"""Namespace, resource, name."""
_COUNTED = ("resourceVersion", "generation", "managedFields")
_OWN = ("deployment.kubernetes.io/revision", "rollbackd/change")
"""Annotations that count: the controller's, and ours, which says which change was the last."""
_MADE = frozenset({"replicasets", "controllerrevisions", "pods", "events"})
"""What controllers make for others."""


def photograph(fake: FakeKubernetes) -> dict[Name, Object]:
    """All objects of the cluster, whoever's."""
    return {
        (namespace, resource, name): copy.deepcopy(one)
        for namespace, resources in fake.store._namespaces.items()
        for resource, named in resources.items()
        for name, one in named.items()
    }


def changed(before: Mapping[Name, Object], after: Mapping[Name, Object]) -> dict[Name, list[str]]:
    """Each object that is not as it was, with the fields that changed; a new one and one that is gone have none."""
    return {
        name: _fields(before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }


def _fields(old: Any, new: Any, at: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [found for name in names for found in _fields(old.get(name), new.get(name), f"{at}/{name}")]
    same = old == new or not (old or new)  # nothing at all, and nothing in it
    return [at] if at and not same and not at.endswith((*_COUNTED, *_OWN)) else []


def neighbours(world: Any) -> None:
    """What stands beside it: the same names in another namespace, others in its own, with labels of everybody's."""
    other = world.cluster.namespace()
    for namespace, name in ((other, "web"), (other, "settings"), (world.namespace, "others")):
        for kind, more in (("ConfigMap", {"data": {"A": "theirs"}}), ("Secret", {"data": {}})):
            made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": {"app": "web"}}, **more}
            world.cluster.api("POST", f"/api/v1/namespaces/{namespace}/{kind.lower()}s", made)
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web", "of": "others"}},
        "template": {
            "metadata": {"labels": {"app": "web", "of": "others"}},
            "spec": {"containers": [{"name": "web", "image": "shop/web:others"}]},
        },
    }
    for namespace, name in ((other, "web"), (world.namespace, "others")):
        made = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
        world.cluster.api("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", made)
    world.cluster.fake.reconcile(other)
    world.cluster.fake.reconcile(world.namespace)


def is_of(found: Mapping[Name, Object], name: Name, owners: set[Name]) -> bool:
    """Whether it is one of these, or a controller made it for one of them."""
    if name in owners:
        return True
    metadata = found[name]["metadata"]
    if name[1] == "endpointslices":
        return (name[0], "services", metadata["labels"]["kubernetes.io/service-name"]) in owners
    uids = {one["uid"] for one in metadata.get("ownerReferences", ())}
    above = {each for each, of in found.items() if of["metadata"]["uid"] in uids}
    return name[1] in _MADE and any(is_of(found, each, owners) for each in above)


def there_and_back(world: World, fake: FakeKubernetes, moved: Mapping[Name, tuple[str, ...]]) -> None:
    """To the target and back again.

    :param moved: the objects that may be written to, each with the fields in which the releases differ.
    """
    before = photograph(fake)
    there = finish(planned(world.adapter(), world.target()))
    finish(world.adapter().ready())
    assert changed(before, photograph(fake)) == {}
    assert finish(perform(world.adapter(), there)) is Progress.DONE
    between = photograph(fake)
    told(before, between, there, moved)
    assert set(moved) <= set(changed(before, between))
    back = finish(planned(world.adapter(), there.before, "contract-2/0/layer"))
    assert finish(perform(world.adapter(), back)) is Progress.DONE
    after = photograph(fake)
    told(between, after, back, moved)
    for name in moved:
        assert said_by_people(before[name], after[name]) == []


def said_by_people(before: Object, after: Object) -> list[str]:
    """The fields that changed of what people wrote into an object."""
    return [field for field in _fields(before, after) if not field.startswith("/status")]


def told(
    before: Mapping[Name, Object], after: Mapping[Name, Object], change: Change, moved: Mapping[Name, tuple[str, ...]]
) -> None:
    """All that changed is what was to be moved, or a controller's own, or was named by the plan."""
    texts = json.dumps([change.aside, *change.risks])
    for name, fields in changed(before, after).items():
        if name in moved:
            wrong = [
                field
                for field in fields
                if not field.startswith((*moved[name], "/status")) and field.rpartition("/")[2] not in texts
            ]
            assert not wrong, f"{name}: {wrong} changed, and the plan did not tell it ({texts})"
        else:
            assert is_of({**before, **after}, name, set(moved)), f"{name} changed: {fields}"


@pytest.mark.parametrize("kind", [WorkloadWorld, StatefulWorld, DaemonWorld])
def test_a_workload(cluster: Cluster, fake: FakeKubernetes, tmp_path: Path, kind: type[WorkloadWorld]) -> None:
    world = kind(cluster, tmp_path)
    world.cluster.api(
        "PATCH",
        world.at,
        {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "of people", "empty": ""}}},
        "application/merge-patch+json",
    )
    neighbours(world)
    there_and_back(world, fake, {(world.namespace, f"{kind.kind}s", "web"): ("/spec/template",)})


def test_a_workload_with_its_config_map(cluster: Cluster, fake: FakeKubernetes, tmp_path: Path) -> None:
    world = ConfiguredWorld(cluster, tmp_path)
    neighbours(world)
    moved = {
        (world.namespace, "deployments", "web"): ("/spec/template",),
        (world.namespace, "configmaps", "settings"): ("/data",),
    }
    there_and_back(world, fake, moved)


def test_a_service_of_two_colours(cluster: Cluster, fake: FakeKubernetes, tmp_path: Path) -> None:
    world = ColouredWorld(cluster, tmp_path)
    neighbours(world)
    there_and_back(world, fake, {(world.namespace, "services", "web"): ("/spec/selector/color",)})


@pytest.mark.parametrize("kind", [RoutedWorld, GatewayWorld])
def test_a_canary(cluster: Cluster, fake: FakeKubernetes, tmp_path: Path, kind: type[RoutedWorld]) -> None:
    world = kind(cluster, tmp_path)
    neighbours(world)
    before = photograph(fake)
    there = finish(planned(world.adapter(), Release("0")))
    assert changed(before, photograph(fake)) == {}
    assert finish(perform(world.adapter(), there)) is Progress.DONE
    after = photograph(fake)
    rules = {"virtualservice": "/spec/http", "httproute": "/spec/rules"}[world.route]
    told(before, after, there, {(world.namespace, f"{world.route}s", "web"): (rules,)})
    old, new = (seen[(world.namespace, f"{world.route}s", "web")] for seen in (before, after))
    assert without_weights(old) == without_weights(new)


def without_weights(of: Any) -> Any:
    """A route without its numbers, and without what is counted."""
    if isinstance(of, dict):
        kept = ((key, value) for key, value in of.items() if key not in {"weight", "status", *_COUNTED})
        return {key: without_weights(value) for key, value in kept}
    return [without_weights(each) for each in of] if isinstance(of, list) else of


@pytest.mark.parametrize("keda", [None, {}, {"note": "of people"}])
def test_what_is_scaled_down_is_as_it_was_once_it_is_left(
    cluster: Cluster, fake: FakeKubernetes, tmp_path: Path, keda: dict[str, str] | None
) -> None:
    world = ScaledWorld(cluster, tmp_path, keda)
    neighbours(world)
    its = {
        (world.namespace, resource, name)
        for resource, name in (("deployments", "worker"), ("statefulsets", "queue"), ("cronjobs", "mail"))
    } | ({(world.namespace, "scaledobjects", "worker")} if keda is not None else set())
    before = photograph(fake)
    finish(world.adapter().enter(KEY))
    inside = photograph(fake)
    assert all(is_of({**before, **inside}, name, its) for name in changed(before, inside))
    finish(world.adapter().leave(KEY))
    after = photograph(fake)
    assert all(is_of({**before, **after}, name, its) for name in changed(before, after))
    for name in its:
        assert said_by_people(before[name], after[name]) == []
