"""Pod templates and rollouts as pure values: what a release is, what is needed, what is done and what is stuck."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollbackd_adapters.kubernetes import rollout
from rollbackd_adapters.kubernetes.client import segment
from rollbackd_adapters.kubernetes.owners import owners_of, rivals
from rollbackd_adapters.kubernetes.templates import (
    NeededObject,
    digests_of,
    images,
    label_of,
    needed_objects,
    own_template,
    template_id,
    with_digests,
)
from rollbackd_adapters.kubernetes.workload import patch_of

BUSY = settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CONTAINER = st.dictionaries(st.sampled_from(["command", "env2", "x"]), JSON).map(
    lambda more: {"name": "web", "image": "shop/web:1", **more}
)
TEMPLATES = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"labels": st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5))}
        ),
        "spec": st.fixed_dictionaries({"containers": st.lists(CONTAINER, min_size=1, max_size=2)}),
    }
)


def kept_by_a_replica_set(template: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(template)
    made["metadata"]["labels"]["pod-template-hash"] = "5d89bdfcb5"
    return made


def kept_by_a_revision(template: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(template)
    made["metadata"]["creationTimestamp"] = None
    return {**made, "$patch": "replace"}


def restarted(template: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(template)
    made["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    return made


@BUSY
@given(TEMPLATES)
def test_what_a_controller_keeps_is_the_template_that_the_server_gave(template: dict[str, Any]) -> None:
    for kept in (kept_by_a_replica_set(template), kept_by_a_revision(template)):
        assert own_template(kept) == template
        assert template_id(kept) == template_id(template)
    assert template_id(restarted(template)) == template_id(template)


@BUSY
@given(TEMPLATES, TEMPLATES)
def test_templates_are_one_release_only_when_they_are_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (template_id(one) == template_id(other)) is same


@BUSY
@given(TEMPLATES, st.booleans())
def test_a_patch_changes_the_template_and_one_annotation_and_nothing_else(
    template: dict[str, Any], noted: bool
) -> None:
    import jsonpatch

    metadata: dict[str, Any] = {"name": "web", "uid": "u", "resourceVersion": "7", "generation": 3}
    metadata |= {"annotations": {"a/b": "c"}} if noted else {}
    before = {
        "metadata": metadata,
        "spec": {"replicas": 5, "template": {"spec": {"containers": []}}},
        "status": {"x": 1},
    }
    after = jsonpatch.apply_patch(before, patch_of(before, template, "i-1/0/web 0123"))
    assert after["spec"].pop("template") == template
    assert after["metadata"].pop("annotations") == {
        **metadata.get("annotations", {}),
        "rollbackd/change": "i-1/0/web 0123",
    }
    plain = copy.deepcopy(before)
    del plain["spec"]["template"]
    plain["metadata"].pop("annotations", None)
    assert after == plain


@pytest.mark.parametrize("moved", ["uid", "template"])
def test_a_patch_is_refused_by_what_is_not_as_it_was_read(moved: str) -> None:
    import jsonpatch

    before: dict[str, Any] = {
        "metadata": {"uid": "u", "annotations": {"a": "b"}},
        "spec": {"template": {"spec": {"containers": []}}},
    }
    patch = patch_of(copy.deepcopy(before), {"spec": {}}, "k")
    if moved == "uid":
        before["metadata"]["uid"] = "another"
    else:
        before["spec"]["template"]["spec"]["containers"] = [{"image": "web:9"}]
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        jsonpatch.apply_patch(before, patch)


def test_all_that_pods_need_is_found_and_what_is_optional_is_not() -> None:
    spec = {
        "serviceAccountName": "web",
        "imagePullSecrets": [{"name": "registry"}],
        "initContainers": [{"image": "init", "envFrom": [{"secretRef": {"name": "s1"}}]}],
        "containers": [
            {
                "image": "web",
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "a"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "b"}}},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "c"}}},
                    {"name": "D", "valueFrom": {"secretKeyRef": {"name": "no", "key": "c", "optional": True}}},
                    {"name": "E", "value": "plain"},
                ],
            }
        ],
        "volumes": [
            {"name": "1", "configMap": {"name": "c2", "items": [{"key": "k", "path": "p"}]}},
            {"name": "2", "secret": {"secretName": "s3"}},
            {"name": "3", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "4", "projected": {"sources": [{"configMap": {"name": "c3"}}, {"secret": {"name": "s4"}}]}},
            {"name": "5", "configMap": {"name": "no", "optional": True}},
            {"name": "6", "emptyDir": {}},
        ],
    }
    assert needed_objects({"spec": spec}) == [
        NeededObject("configmaps", "c1", frozenset({"a", "b"})),
        NeededObject("configmaps", "c2", frozenset({"k"})),
        NeededObject("configmaps", "c3"),
        NeededObject("persistentvolumeclaims", "data"),
        *(NeededObject("secrets", name) for name in ("registry", "s1", "s2", "s3", "s4")),
        NeededObject("serviceaccounts", "web"),
    ]


@pytest.mark.parametrize(
    ("name", "written"),
    [("web-1.example", "web-1.example"), ("../x?y=z#", "..%2Fx%3Fy%3Dz%23"), ("a/b", "a%2Fb"), ("..", "-"), (".", "-")],
)
def test_a_name_in_a_path_is_one_segment_of_it(name: str, written: str) -> None:
    assert segment(name) == written


def test_a_hostile_image_does_no_harm_to_a_label() -> None:
    assert label_of({"spec": {"containers": [{"image": "r/a\nb\x1b[2J:1"}]}}, "7").isprintable()


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}}, "argo"),
        ({"labels": {"argocd.argoproj.io/instance": "shop"}}, "argo"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, "flux"),
        ({"labels": {"helm.toolkit.fluxcd.io/name": "web"}}, "flux"),
        ({"annotations": {"meta.helm.sh/release-name": "web"}}, "helm"),
        ({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, "helm"),
        (
            {
                "ownerReferences": [
                    {"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "web", "controller": True}
                ]
            },
            "flagger",
        ),
        (
            {
                "ownerReferences": [
                    {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "web", "controller": True}
                ]
            },
            "controller",
        ),
        ({"managedFields": [{"manager": "argocd-controller", "fieldsV1": {"f:spec": {"f:template": {}}}}]}, "argo"),
        ({"managedFields": [{"manager": "kustomize-controller", "fieldsV1": {"f:spec": {"f:template": {}}}}]}, "flux"),
    ],
)
def test_each_owner_is_known_by_what_it_writes(metadata: dict[str, Any], owner: str) -> None:
    (found,) = owners_of({"metadata": metadata})
    assert found.kind == owner
    assert f"despite: [{owner}]" in found.refusal


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"labels": {"app": "web"}, "annotations": {"deployment.kubernetes.io/revision": "3"}},
        {"ownerReferences": [{"kind": "App", "name": "web"}]},
        {
            "managedFields": [
                {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {}}}}
            ]
        },
        {"managedFields": [{"manager": "argocd-controller", "fieldsV1": {"f:metadata": {}}}]},
    ],
)
def test_a_workload_of_nobody_else_has_no_owner(metadata: dict[str, Any]) -> None:
    assert owners_of({"metadata": metadata}) == []
    assert rivals({"metadata": metadata}, "deployment/web") == []


KEEL = "kubectl annotate --namespace=shop --overwrite deployment/web keel.sh/policy=never"
UPDATER = "kubectl annotate --namespace=argocd application {} argocd-image-updater.argoproj.io/image-list-"
APPLY = "kubectl apply --server-side --field-manager={} --force-conflicts"
LISTED = {"argocd-image-updater.argoproj.io/image-list": "web"}


def applied_by(manager: str) -> dict[str, Any]:
    return {"managedFields": [{"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {"f:template": {}}}}]}


@pytest.mark.parametrize(
    ("metadata", "command"),
    [
        ({"annotations": LISTED}, UPDATER.format("APPLICATION")),
        (
            {"annotations": {**LISTED, "argocd.argoproj.io/tracking-id": "shop:apps/Deployment:x"}},
            UPDATER.format("shop"),
        ),
        ({"annotations": {"keel.sh/policy": "minor"}}, KEEL),
        ({"labels": {"keel.sh/policy": "minor"}}, KEEL),
        (applied_by("ci"), APPLY.format("ci")),
        (applied_by("x; rm -rf /"), APPLY.format("'x; rm -rf /'")),
    ],
    ids=["image updater", "of an application", "keel", "keel by a label", "a server-side apply", "a hostile one"],
)
def test_tools_that_may_move_it_again_are_told_with_the_command_that_settles_them(
    metadata: dict[str, Any], command: str
) -> None:
    (said,) = rivals({"metadata": {"namespace": "shop", **metadata}}, "deployment/web")
    assert said.endswith(command)


def test_an_owner_whose_name_is_hostile_is_told_on_one_line() -> None:
    (owner,) = owners_of({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "a\nb\x1b[2J:x"}}})
    assert owner.refusal.isprintable()


def deployment(**status: int) -> dict[str, Any]:
    whole = {"observedGeneration": 4, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}
    return {"metadata": {"generation": 4}, "spec": {"replicas": 3}, "status": {**whole, **status}}


def test_a_rollout_is_done_only_when_every_number_says_so() -> None:
    assert rollout.counts("deployment", deployment()).done
    for key, value in {"observedGeneration": 3, "replicas": 4, "updatedReplicas": 2, "availableReplicas": 2}.items():
        assert not rollout.counts("deployment", deployment(**{key: value})).done, key


def test_pods_below_a_partition_are_not_waited_for() -> None:
    workload = deployment(updatedReplicas=1)
    assert not rollout.counts("statefulset", workload).done
    workload["spec"]["updateStrategy"] = {"rollingUpdate": {"partition": 2}}
    assert rollout.counts("statefulset", workload).done


def container(reason: str) -> dict[str, Any]:
    return {"name": "web", "state": {"waiting": {"reason": reason, "message": "of the node"}}}


def unschedulable(message: str = "0/3 nodes are available") -> dict[str, Any]:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        *(
            ({"containerStatuses": [container(reason)]}, f"pod web-1: {reason}: container web: of the node")
            for reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")
        ),
        ({"initContainerStatuses": [container("CrashLoopBackOff")]}, "CrashLoopBackOff: container web: of the node"),
        ({"conditions": [unschedulable()]}, "pod web-1: Unschedulable: 0/3 nodes are available"),
        ({"conditions": [unschedulable("a\nb\x1b[2J")]}, "pod web-1: Unschedulable: a b"),
        ({"phase": "Failed", "reason": "Evicted", "message": "too much memory"}, "pod web-1: Evicted: too much memory"),
    ],
)
def test_what_does_not_pass_by_waiting_is_seen(status: dict[str, Any], said: str) -> None:
    pod = {"metadata": {"name": "web-1"}, "status": status}
    (trouble,) = rollout.troubles([pod])
    assert said in str(trouble)
    assert str(trouble).isprintable()
    assert not list(rollout.troubles([{**pod, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}]))


@pytest.mark.parametrize(
    "status",
    [{}, {"containerStatuses": [container("ContainerCreating")]}, {"phase": "Succeeded"}],
    ids=["new", "on its way", "over"],
)
def test_what_passes_by_waiting_is_no_trouble(status: dict[str, Any]) -> None:
    assert not list(rollout.troubles([{"metadata": {"name": "web-1"}, "status": status}]))


def test_a_selector_is_written_as_a_query_has_it() -> None:
    chosen = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "new", "operator": "Exists"},
            {"key": "x", "operator": "NotIn", "values": ["y"]},
        ],
    }
    assert rollout.selector({"spec": {"selector": chosen}}) == "app=web,tier in (a,b),!old,new,x notin (y)"


@BUSY
@given(TEMPLATES, st.dictionaries(st.sampled_from(["web", "proxy"]), st.sampled_from(["sha256:" + "a" * 64])))
def test_a_pinned_template_is_the_same_release_and_is_known_by_its_digests(
    template: dict[str, Any], digests: dict[str, str]
) -> None:
    pinned = with_digests(template, digests)
    assert template_id(pinned) == template_id(template)
    wanted = f"shop/web:1@{digests['web']}" if "web" in digests else "shop/web:1"
    assert images(pinned)["web"] == wanted
    assert images(own_template(pinned)) == images(template)


@pytest.mark.parametrize("note", ["{", "[]", "7", '{"web": 7}', '{"web": "sha256:0"}'])
def test_a_note_of_digests_that_says_nothing_is_no_part_of_a_release(note: str) -> None:
    plain = {"metadata": {}, "spec": {"containers": [{"name": "web", "image": "shop/web:1"}]}}
    noted = {**plain, "metadata": {"annotations": {"rollbackd/pinned": note}}}
    assert template_id(noted) == template_id(plain)


def test_digests_are_those_of_the_newest_pod_whose_image_it_is() -> None:
    def pod(image: str, told: str, created: str) -> dict[str, Any]:
        status = {"containerStatuses": [{"name": "web", "imageID": told}]}
        spec = {"containers": [{"name": "web", "image": image}]}
        return {"metadata": {"creationTimestamp": created}, "spec": spec, "status": status}

    one, two = (f"sha256:{digit * 64}" for digit in "12")
    template = {"spec": {"containers": [{"name": "web", "image": "shop/web:1"}]}}
    pods = [
        pod("shop/web:1", f"docker.io/shop/web@{two}", "2026-01-02T00:00:00Z"),
        pod("shop/web:1", f"docker-pullable://shop/web@{one}", "2026-01-01T00:00:00Z"),
        pod("shop/web:2", f"docker.io/shop/web@{one}", "2026-01-03T00:00:00Z"),
        pod("shop/web:1", one, "2026-01-04T00:00:00Z"),  # an image's own id, which no registry has
        pod("shop/web:1", "", "2026-01-05T00:00:00Z"),
    ]
    assert digests_of(template, pods) == {"web": ("shop/web:1", two)}


def placed(node: str, revision: str, ready: str = "True") -> dict[str, Any]:
    labels = {"controller-revision-hash": revision}
    conditions = [{"type": "Ready", "status": ready}]
    return {"metadata": {"labels": labels}, "spec": {"nodeName": node}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(("desired", "misscheduled"), [(3, 0), (2, 1)], ids=["tolerated", "tainted"])
@pytest.mark.parametrize(
    ("pods", "generation", "done"),
    [
        ([placed("a", "new"), placed("b", "new"), placed("down", "old", "False")], 2, True),
        ([placed("a", "new"), placed("b", "new")], 2, True),
        ([placed("a", "new"), placed("b", "old"), placed("down", "new")], 2, False),
        ([placed("a", "new"), placed("b", "new"), placed("b", "old")], 2, False),
        ([placed("a", "new"), placed("b", "new", "False")], 2, False),
        ([placed("a", "new"), placed("down", "old", "False")], 2, False),
        ([placed("a", "new"), placed("b", "new")], 3, False),
    ],
    ids=["all but one", "one gone", "an old one", "an old one beside", "not ready", "one lacks", "not seen"],
)
def test_a_daemon_set_is_done_but_for_nodes_that_are_down(
    pods: list[dict[str, Any]], generation: int, done: bool, desired: int, misscheduled: int
) -> None:
    status = {"observedGeneration": 2, "desiredNumberScheduled": desired, "numberMisscheduled": misscheduled}
    workload = {"metadata": {"generation": generation}, "status": status}
    assert rollout.done_but_for(workload, pods, "new", ["down"]) is done
