"""Workloads of Kubernetes: the contract, and all that a cluster, its people and its tools do meanwhile.

With KUBECONFIG the same is tried in the real cluster that it names; what asks for `fake` stays on the fake.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from rollbackd.adapter import AdapterError
from rollbackd.config.load import load
from rollbackd.execution.layers import LayerFactory, PlanRequest
from rollbackd.model import Plan, Progress, Release, State
from rollbackd.syntax.units import parse_duration
from rollbackd.system import boundary
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from rollbackd.testing import AdapterContract, World, finish, perform, planned, problems
from rollbackd_adapters.kubernetes import blue_green, lacking
from rollbackd_adapters.kubernetes.rollout import is_ready
from rollbackd_adapters.kubernetes.settings import BlueGreenSettings
from rollbackd_adapters.kubernetes.templates import template_id
from tests.clusters import JSON_PATCH, MERGE_PATCH, Cluster, fake_cluster, kubeconfig
from tests.contract.kubernetes_worlds import (
    PATIENT,
    ColouredWorld,
    ConfiguredDaemonWorld,
    ConfiguredWorld,
    DaemonWorld,
    Doctor,
    StatefulWorld,
    WorkloadWorld,
    why_refused,
)
from tests.fakes.kubernetes_api import TOKEN, FakeKubernetes, Refused
from tests.fakes.kubernetes_controllers import Object, digest_of
from tests.fakes.smtp import make_certificate
from tests.servers import wait_until


class TestDeployment(AdapterContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def make_world(self, path: Path) -> World:
        return WorkloadWorld(self.cluster, path)


class TestStatefulSet(TestDeployment):
    def make_world(self, path: Path) -> World:
        return StatefulWorld(self.cluster, path)


class TestDaemonSet(TestDeployment):
    def make_world(self, path: Path) -> World:
        return DaemonWorld(self.cluster, path)


class TestDeploymentWithItsConfigMap(TestDeployment):
    def make_world(self, path: Path) -> World:
        return ConfiguredWorld(self.cluster, path)


class TestDaemonSetWithItsConfigMap(TestDeployment):
    def make_world(self, path: Path) -> World:
        return ConfiguredDaemonWorld(self.cluster, path)


class TestPinned(TestDeployment):
    def make_world(self, path: Path) -> World:
        world = WorkloadWorld(self.cluster, path, history=("web:1", "web:2"))
        world.settings["pin"] = True
        finish(world.adapter().current())  # as the daemon looks all the time
        world.deploy("web:3")
        world.settled()
        world.generation = int(world.read()["metadata"]["generation"])
        return world


class TestBlueGreen(TestDeployment):
    def make_world(self, path: Path) -> World:
        return ColouredWorld(self.cluster, path)


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> WorkloadWorld:
    return WorkloadWorld(cluster, tmp_path)


def roll_back(world: WorkloadWorld, target: Release | None = None, retries: int = 0) -> Progress:
    change = finish(planned(world.adapter(), target or world.target()))
    return finish(perform(world.adapter(), change, retries))


def ids(world: WorkloadWorld) -> list[str]:
    return [release.id for release in finish(world.adapter().releases())]


def refusal(world: WorkloadWorld, target: Release | None = None) -> AdapterError:
    """Why a plan is refused; nothing is touched by it."""
    before = world.read()["spec"]
    with pytest.raises(AdapterError) as refused:
        finish(planned(world.adapter(), target or world.target()))
    assert world.read()["spec"] == before
    return refused.value


# -- releases -----------------------------------------------------------------------------------
def test_releases_are_told_newest_first_with_their_images_and_revisions(world: WorkloadWorld) -> None:
    labels = [release.label for release in finish(world.adapter().releases())]
    assert labels == ["web:3 (revision 3)", "web:2 (revision 2)", "web:1 (revision 1)"]


def test_the_template_that_is_sent_is_the_one_that_the_server_gave(world: WorkloadWorld) -> None:
    kept = world.cluster.api("GET", f"{world.base}/replicasets")["items"]
    given = next(
        e["spec"]["template"] for e in kept if e["spec"]["template"]["spec"]["containers"][0]["image"].endswith("web:2")
    )
    del given["metadata"]["labels"]["pod-template-hash"]
    assert roll_back(world) is Progress.DONE
    assert world.read()["spec"]["template"] == given


def test_a_restart_is_no_other_release(world: WorkloadWorld) -> None:
    before = finish(world.adapter().current())
    mark = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    world.patch({"op": "add", "path": "/spec/template/metadata/annotations", "value": mark})
    world.settled()
    assert finish(world.adapter().current()) == before
    assert len(ids(world)) == 3
    assert roll_back(world) is Progress.DONE


def test_undone_twice_by_people_the_good_release_is_still_found(world: WorkloadWorld) -> None:
    for image in ("web:2", "web:3", "web:2"):  # what `kubectl rollout undo` does
        world.deploy(image)
        world.settled()
    assert len(ids(world)) == 3
    assert roll_back(world, world.release("web:1")) is Progress.DONE


def test_after_five_bad_releases_and_with_no_history_the_good_one_is_still_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    world = WorkloadWorld(cluster, tmp_path, history=("web:1",), revisionHistoryLimit=1)
    good = finish(world.adapter().current())
    for n in range(2, 7):
        world.deploy(f"web:{n}")
        world.settled()
    kept = f"{world.base}/replicasets"
    wait_until(lambda: len(world.cluster.api("GET", kept)["items"]) <= 2, "an end of the older ones")
    assert good.id in ids(world)
    assert roll_back(world, good) is Progress.DONE
    assert world.present() == good.id
    stored = list((world.adapter()._place.scratch / "templates").iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in stored)


def test_replicas_and_all_else_stay_and_status_writes_disturb_nobody(world: WorkloadWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    world.patch({"op": "replace", "path": "/spec/replicas", "value": 3})  # an autoscaler, meanwhile
    world.settled()
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.read()["spec"]["replicas"] == 3


def test_what_is_marked_and_then_undone_by_somebody_is_theirs(world: WorkloadWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert "rollbackd/change" in world.read()["metadata"]["annotations"]
    world.deploy("web:3")  # with our annotation still on it
    assert finish(world.adapter().progress(change)) is Progress.SUPERSEDED


def test_a_configuration_reaches_its_cluster_and_plans(world: WorkloadWorld, tmp_path: Path) -> None:
    layer = {key: value for key, value in world.settings.items() if isinstance(value, str)}
    cluster = world.cluster.settings.model_dump(mode="json", exclude_defaults=True)
    written = {
        "daemon": {"mode": "act", "open_on_loopback": True},
        "clusters": {"prod": cluster},
        "services": [
            {
                "name": "shop",
                "match": {"service": "shop"},
                "layers": {"web": layer},
                "verify": {"checks": [{"tcp": "127.0.0.1:1"}]},
            }
        ],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    config = load(tmp_path / "config.yaml").config
    spawner = Spawner(tmp_path / "locks", SystemClock())
    layers = LayerFactory(tmp_path / "layers", spawner, SystemClock(), config.clusters).build(config.services[0])

    async def prepared() -> Plan:
        present = await layers.look()
        there = await layers.there()
        good = State({"web": there["web"][-1]})
        plan, problems = await layers.prepare("default", PlanRequest(present, good, "shop-1/0"))
        assert problems == ()
        return plan

    (change,) = finish(prepared()).steps
    assert (change.before.id, change.after.id) == (world.present(), world.release("web:1").id)
    assert finish(perform(layers.adapters["web"], change)) is Progress.DONE


# -- what a plan finds --------------------------------------------------------------------------
@pytest.mark.parametrize(("resource", "name"), [("configmaps", "settings"), ("secrets", "keys")])
def test_what_pods_would_lack_is_found_before_anything_is_touched(
    world: WorkloadWorld, resource: str, name: str
) -> None:
    world.cluster.api("DELETE", f"/api/v1/namespaces/{world.namespace}/{resource}/{name}")
    refused = refusal(world)
    assert name in str(refused)
    assert "bring it back first" in str(refused)


def test_all_that_pods_would_lack_is_told_at_once(world: WorkloadWorld) -> None:
    before = world.read()["spec"]["template"]
    entry = {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "B"}}}
    needs = {
        "serviceAccountName": "runner",
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers/0/env": [entry],
    }
    world.patch(*({"op": "add", "path": f"/spec/template/spec/{at}", "value": value} for at, value in needs.items()))
    lacking = finish(world.adapter().current())
    world.patch({"op": "replace", "path": "/spec/template", "value": before})
    said = str(refusal(world, lacking))
    for what in (
        "ServiceAccount runner, which its pods need, is not in",
        "Secret registry, which its pods need, is not in",
        "PersistentVolumeClaim data, which its pods need, is not in",
        "ConfigMap settings has no entry B",
    ):
        assert what in said


def test_a_paused_workload_is_refused(world: WorkloadWorld) -> None:
    world.patch({"op": "add", "path": "/spec/paused", "value": True})
    assert "kubectl rollout resume" in str(refusal(world))
    assert finish(problems(world.adapter()))


def test_a_workload_that_is_being_deleted_is_refused(world: WorkloadWorld) -> None:
    held: Object = {"metadata": {"finalizers": ["example.com/drains"]}}
    world.cluster.api("PATCH", world.at, held, MERGE_PATCH)
    try:
        world.cluster.api("DELETE", world.at)
        refused = refusal(world)
    finally:
        world.cluster.api("PATCH", world.at, {"metadata": {"finalizers": None}}, MERGE_PATCH)
    assert refused.permanent
    assert "it is being deleted" in str(refused)


def test_a_name_in_a_template_leads_nowhere_else(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    hostile = "../../../../../api/v1/namespaces/kube-system?x="
    strange = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": hostile, "key": "a"}}}]
    world.patch({"op": "add", "path": "/spec/template/spec/containers/0/env", "value": strange})
    bad = finish(world.adapter().current())
    world.patch({"op": "remove", "path": "/spec/template/spec/containers/0/env"})
    fake.asked.clear()
    assert "bring it back first" in str(refusal(world, bad))
    assert fake.asked.count("GET /api/v1/namespaces/kube-system") == 1, "that of which cluster it is"


def test_a_full_quota_stops_a_rollout_that_needs_more_pods(cluster: Cluster, tmp_path: Path) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    world = WorkloadWorld(cluster, tmp_path, strategy=strategy)
    quota(world)
    assert "quota full has 2 of 2 pods in use" in str(refusal(world))


def test_a_full_quota_is_told_where_pods_are_taken_away_first(cluster: Cluster, tmp_path: Path) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    world = WorkloadWorld(cluster, tmp_path, strategy=strategy)
    quota(world)
    change = finish(planned(world.adapter(), world.target()))
    assert any("quota full" in risk for risk in change.risks)
    pods = f"/api/v1/namespaces/{world.namespace}/pods"
    names = [each["metadata"]["name"] for each in world.cluster.api("GET", pods)["items"]]
    for name in names:
        held: Object = {"metadata": {"finalizers": ["example.com/drains"]}}
        world.cluster.api("PATCH", f"{pods}/{name}", held, MERGE_PATCH)
    world.settings["timeout"] = "2s"
    with pytest.raises(AdapterError, match="not rolled out after 2s"):  # room comes once old pods have ended
        finish(world.adapter().apply(change))
    for name in names:
        world.cluster.api("PATCH", f"{pods}/{name}", {"metadata": {"finalizers": None}}, MERGE_PATCH)
    world.settings |= {"timeout": "60s", "failing_for": "20s"}
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_pods_that_a_quota_refuses_end_the_step_early(cluster: Cluster, tmp_path: Path) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    world = WorkloadWorld(cluster, tmp_path, strategy=strategy)
    change = finish(planned(world.adapter(), world.target()))
    quota(world, pods=1)
    with pytest.raises(AdapterError, match="exceeded quota") as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent


def quota(world: WorkloadWorld, pods: int = 2) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/resourcequotas"
    made = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full"},
        "spec": {"hard": {"pods": str(pods)}},
    }
    world.cluster.api("POST", path, made)
    wait_until(lambda: world.cluster.api("GET", f"{path}/full")["status"].get("used") == {"pods": "2"}, "its use")


def test_recreating_is_told_as_an_outage(cluster: Cluster, tmp_path: Path) -> None:
    world = WorkloadWorld(cluster, tmp_path, strategy={"type": "Recreate"})
    change = finish(planned(world.adapter(), world.target()))
    assert any("outage" in risk for risk in change.risks)
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_an_owner_that_would_take_it_back_is_refused_unless_the_plan_deals_with_it(world: WorkloadWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    tracking = {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}
    world.cluster.api("PATCH", world.at, {"metadata": {"annotations": tracking}}, MERGE_PATCH)
    refused = refusal(world)
    assert refused.permanent
    assert "Argo CD application shop" in str(refused)
    with pytest.raises(AdapterError, match="Argo CD"):
        finish(perform(world.adapter(), change))
    world.settings["despite"] = "argo"
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_a_tool_that_may_set_the_images_again_is_told_with_the_command_that_stops_it(world: WorkloadWorld) -> None:
    keel = {"metadata": {"annotations": {"keel.sh/policy": "force"}}}
    world.cluster.api("PATCH", world.at, keel, MERGE_PATCH)
    command = f"kubectl annotate --namespace={world.namespace} --overwrite deployment/web keel.sh/policy=never"
    (risk,) = finish(planned(world.adapter(), world.target())).risks
    assert risk == f"Keel may set its images again; stop it meanwhile: {command}"


def denying(_of: Object) -> Object:
    raise Refused(403, "Forbidden", "image is not signed")


def mutating(of: Object) -> Object:
    of["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "INJECTED", "value": "1"}]
    return of


def without_dry_runs(of: Object, dry: bool) -> Object:
    if dry:
        raise Refused(400, "BadRequest", 'admission webhook "old.example" does not support dry run')
    return of


def test_a_webhook_that_denies_is_heard_before_anything_is_touched(world: WorkloadWorld) -> None:
    world.cluster.admit(denying)
    wait_until(lambda: bool(finish(problems(world.adapter()))), "a webhook that is asked")
    assert 'admission webhook "policy.example.com" denied the request: image is not signed' in str(refusal(world))
    assert finish(problems(world.adapter()))


def test_a_webhook_without_dry_runs_is_a_risk_only(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    fake.admission.append(without_dry_runs)
    change = finish(planned(world.adapter(), world.target()))
    assert any("does not support dry run" in risk for risk in change.risks)
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_what_a_webhook_makes_of_the_template_is_told_and_rolled_out(world: WorkloadWorld) -> None:
    world.cluster.admit(mutating)
    told = "an admission webhook makes another template of it than it was; that one is rolled out"
    wait_until(lambda: told in finish(planned(world.adapter(), world.target())).risks, "a webhook that is asked")
    change = finish(planned(world.adapter(), world.target()))
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.present() != change.after.id


@pytest.mark.parametrize(
    "right", lacking.rights("deployment", unstick=False), ids=lambda right: f"{right[0]} {right[2]}"
)
def test_each_right_that_is_missing_is_named(world: WorkloadWorld, right: tuple[str, str, str]) -> None:
    verb, group, resource = right
    world.cluster.deny(verb, group, resource)
    (problem,) = finish(problems(world.adapter()))
    assert f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{verb}]}}' in problem.text


@pytest.mark.parametrize(
    "right",
    sorted({*lacking.rights("statefulset", unstick=True)} - {*lacking.rights("deployment", unstick=False)}),
    ids=lambda right: f"{right[0]} {right[2]}",
)
def test_each_right_of_a_stateful_set_that_is_missing_is_named(
    cluster: Cluster, tmp_path: Path, right: tuple[str, str, str]
) -> None:
    world = StatefulWorld(cluster, tmp_path, history=("web:1",))
    world.settings["unstick"] = True
    verb, group, resource = right
    cluster.deny(verb, group, resource)
    (problem,) = finish(problems(world.adapter()))
    assert f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{verb}]}}' in problem.text


def test_the_right_to_see_which_cluster_it_is_is_named(world: WorkloadWorld) -> None:
    line = '{apiGroups: [""], resources: [namespaces], resourceNames: [kube-system], verbs: [get]}; add it'
    world.cluster.deny("get", "", "namespaces")
    wait_until(lambda: any(line in each.text for each in finish(problems(world.adapter()))), "a right that is gone")
    assert f"cluster prod: the ClusterRole has no line {line}" in str(refusal(world))


def test_a_right_that_is_taken_away_after_the_plan_touches_nothing_and_names_the_page(world: WorkloadWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    world.cluster.deny("patch", "apps", "deployments")
    with pytest.raises(
        AdapterError, match=r"answered 403: .*; docs/kubernetes\.md has the Role that it needs"
    ) as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent
    assert world.finished() == 0


# -- the rollout --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("image", "reason"), [("absent:1", "ImagePullBackOff"), ("crash:1", "CrashLoopBackOff")], ids=["absent", "crashing"]
)
def test_pods_of_the_target_that_do_not_come_up_end_the_step_early(
    cluster: Cluster, tmp_path: Path, image: str, reason: str
) -> None:
    world = WorkloadWorld(cluster, tmp_path, history=("web:1",))
    world.deploy(image)
    bad = finish(world.adapter().current())
    world.deploy("web:3")
    world.settled()
    change = finish(planned(world.adapter(), bad))
    boundary.hook = lambda name: say_why(world, image) if name == "kubernetes.moved" else None
    with pytest.raises(AdapterError, match=reason) as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent
    assert "pod web-" in str(failed.value)
    assert "BackOff: the node says why" in failed.value.evidence
    assert finish(world.adapter().progress(change)) is Progress.NOT_STARTED


def say_why(world: WorkloadWorld, image: str) -> None:
    """An event of each pod of an image, as a node writes it."""
    core = f"/api/v1/namespaces/{world.namespace}"

    def made() -> list[Object]:
        pods = world.cluster.api("GET", f"{core}/pods")["items"]
        return [pod["metadata"] for pod in pods if pod["spec"]["containers"][0]["image"].endswith(image)]

    wait_until(lambda: bool(made()), "a pod of the target")
    for pod in made():
        about = {"kind": "Pod", "name": pod["name"], "namespace": world.namespace, "uid": pod["uid"]}
        event = {"metadata": {"name": f"{pod['name']}.1"}, "involvedObject": about, "reason": "BackOff"}
        world.cluster.api("POST", f"{core}/events", {**event, "message": "the node says why", "kind": "Event"})


def test_pods_that_cannot_be_configured_end_the_step_early(world: WorkloadWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    world.cluster.api("DELETE", f"/api/v1/namespaces/{world.namespace}/configmaps/settings")
    with pytest.raises(AdapterError, match="CreateContainerConfigError") as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent


def test_it_is_done_only_when_the_last_old_pod_has_ended(world: WorkloadWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    pods = f"/api/v1/namespaces/{world.namespace}/pods"
    name = world.cluster.api("GET", pods)["items"][0]["metadata"]["name"]
    held = {"metadata": {"finalizers": ["example.com/drains"]}}
    world.cluster.api("PATCH", f"{pods}/{name}", held, MERGE_PATCH)
    world.settings["timeout"] = "4s"
    with pytest.raises(AdapterError, match=f"not rolled out after 4s: .*pods of another revision: {name}"):
        finish(world.adapter().apply(change))
    held["metadata"]["finalizers"] = None  # type: ignore[assignment]
    world.cluster.api("PATCH", f"{pods}/{name}", held, MERGE_PATCH)
    world.settings["timeout"] = "20s"
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_a_broken_release_is_left_for_the_good_one(cluster: Cluster, tmp_path: Path) -> None:
    world = WorkloadWorld(cluster, tmp_path, history=("web:1",))
    good = finish(world.adapter().current())
    world.deploy("crash:2")
    assert roll_back(world, good) is Progress.DONE


def test_a_deadline_that_passed_before_counts_for_nothing(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    world.cluster.freeze()
    late(world, "2026-01-01T00:00:00Z")
    change = finish(planned(world.adapter(), world.target()))
    world.settings["timeout"] = "400ms"
    with pytest.raises(AdapterError) as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent


def test_a_deadline_that_passes_after_the_change_ends_the_step(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    world.cluster.freeze()
    late(world, "2026-01-01T00:00:00Z")
    change = finish(planned(world.adapter(), world.target()))
    fake.faults.append("lost")
    with pytest.raises(AdapterError):
        finish(world.adapter().apply(change))
    late(world, "2026-01-01T00:10:00Z")  # before the next life looks
    with pytest.raises(AdapterError, match="progress deadline is exceeded") as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent


def late(world: WorkloadWorld, when: str) -> None:
    said = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "lastUpdateTime": when}
    world.cluster.api("PATCH", f"{world.at}/status", {"status": {"conditions": [said]}}, MERGE_PATCH)


def test_our_annotation_on_somebody_elses_template_proves_nothing(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    change = finish(planned(world.adapter(), world.target()))
    fake.faults.append("lost")
    with pytest.raises(AdapterError):
        finish(world.adapter().apply(change))
    world.moved_by_somebody()
    assert change.key in world.read()["metadata"]["annotations"]["rollbackd/change"]
    assert finish(world.adapter().progress(change)) is Progress.SUPERSEDED


# -- answers that do not come -------------------------------------------------------------------
@pytest.mark.parametrize("fault", ["lost", "dropped", "429", "504", "etcd"])
def test_when_an_answer_is_lost_it_is_looked_at_before_it_is_sent_again(
    world: WorkloadWorld, fake: FakeKubernetes, fault: str
) -> None:
    change = finish(planned(world.adapter(), world.target()))
    fake.faults.append(fault)
    with pytest.raises(AdapterError) as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.finished() == 1


def test_what_somebody_else_took_to_the_target_meanwhile_is_not_rolled_out_again(
    world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    change = finish(planned(world.adapter(), world.target()))
    fake.faults.append("dropped")
    with pytest.raises(AdapterError):
        finish(world.adapter().apply(change))
    world.deploy("web:2")
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.finished() == 1


def test_a_server_that_hangs_is_left_after_its_limit(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    change = finish(planned(world.adapter(), world.target()))
    fake.faults.append("hang")
    world.changed["request_timeout"] = "300ms"
    with pytest.raises(AdapterError, match="no answer within 300ms") as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent


def test_a_template_that_changes_under_the_patch_is_left_to_them(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    change = finish(planned(world.adapter(), world.target()))
    original = fake._patch

    async def meanwhile(*args: Any) -> Any:
        fake._patch = original  # type: ignore[method-assign]
        before = args[1]
        before["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/shop/web:9"
        return await original(*args)

    fake._patch = meanwhile  # type: ignore[method-assign, assignment]
    with pytest.raises(AdapterError, match="422"):
        finish(world.adapter().apply(change))
    assert finish(world.adapter().progress(change)) is Progress.SUPERSEDED


def test_a_status_that_is_written_all_the_time_stands_against_nothing(
    cluster: Cluster, tmp_path: Path, fake: FakeKubernetes
) -> None:
    world = StatefulWorld(cluster, tmp_path)  # it has no annotations yet, unlike a Deployment
    original, writes = fake._patch, iter(range(3))

    async def meanwhile(*args: Any) -> Any:
        if next(writes, None) is not None:
            written = fake.store.get("statefulsets", world.namespace, "web")
            assert written is not None
            written["metadata"]["resourceVersion"] = f"{written['metadata']['resourceVersion']}0"
        return await original(*args)

    fake._patch = meanwhile  # type: ignore[method-assign, assignment]
    try:
        assert roll_back(world) is Progress.DONE
    finally:
        fake._patch = original  # type: ignore[method-assign]


# -- who asks, and whom -------------------------------------------------------------------------
def test_another_cluster_at_the_same_address_is_not_touched(world: WorkloadWorld) -> None:
    world.changed["uid"] = "99999999-2222-4333-8444-555555555555"
    refused = refusal(world)
    assert refused.permanent
    assert "another one than the configuration means" in str(refused)


def test_a_token_that_expired_is_read_again(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    adapter = world.adapter()

    async def twice() -> None:
        await adapter.current()
        fake.tokens = {"the-next-token"}
        world.cluster.write("the-next-token")
        await adapter.current()

    finish(twice())


def looks(world: WorkloadWorld, times: int) -> None:
    """So many by one daemon."""
    adapter = world.adapter()

    async def looked() -> None:
        for _ in range(times):
            await adapter.asked()

    finish(looked())


@pytest.mark.parametrize(("left", "again"), [("1h", False), ("20s", True)], ids=["in an hour", "in a moment"])
def test_credentials_that_expire_are_got_anew_before_they_do(
    world: WorkloadWorld, tmp_path: Path, left: str, again: bool
) -> None:
    expires = (datetime.now(UTC) + parse_duration(left)).isoformat(timespec="seconds")
    status = {"token": world.cluster.token, "expirationTimestamp": expires}
    plugin(world.cluster, tmp_path, json.dumps({"apiVersion": "v1", "kind": "ExecCredential", "status": status}))
    looks(world, 3)
    assert (len((tmp_path / "asked").read_text().splitlines()) > 1) is again


def test_a_certificate_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    second = make_certificate(tmp_path / "next")
    with fake_cluster(*make_certificate(tmp_path)) as cluster:
        world = WorkloadWorld(cluster, tmp_path, history=("web:1",))
        adapter = world.adapter()

        async def twice() -> None:
            await adapter.asked()
            cluster.replace_certificate(*second)
            await adapter.asked()

        finish(twice())


def test_a_proxy_of_the_environment_is_not_asked(world: WorkloadWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    looks(world, 1)


def test_nothing_of_a_template_is_logged(world: WorkloadWorld, caplog: pytest.LogCaptureFixture) -> None:
    good, secret = world.release("web:2"), [{"name": "PASSWORD", "value": "hunter2-of-the-shop"}]
    world.patch({"op": "add", "path": "/spec/template/spec/containers/0/env", "value": secret})
    world.settled()
    with caplog.at_level(logging.DEBUG), capture_logs() as said:
        assert roll_back(world, good) is Progress.DONE
    assert "hunter2" not in caplog.text + repr(said)


def test_a_token_that_is_not_accepted_is_told_and_never_shown(world: WorkloadWorld) -> None:
    world.cluster.write("the-token-of-last-year")
    refused = refusal(world)
    assert "look at the kubeconfig" in str(refused)
    assert "the-token-of-last-year" not in str(refused)


def plugin(cluster: Cluster, path: Path, says: str, code: int = 0) -> None:
    program = path / "get-token"
    program.write_text(f"#!/bin/sh\necho \"$KUBERNETES_EXEC_INFO\" >> {path}/asked\necho '{says}'\nexit {code}\n")
    program.chmod(0o700)
    version = "client.authentication.k8s.io/v1"
    run = {"apiVersion": version, "command": str(program), "interactiveMode": "Never"}
    written = cluster.kubeconfig.read_text().replace(f"    token: {cluster.token}\n", f"    exec: {json.dumps(run)}\n")
    cluster.kubeconfig.write_text(written)


def test_a_program_gets_the_credentials(world: WorkloadWorld, tmp_path: Path) -> None:
    says = {"apiVersion": "v1", "kind": "ExecCredential", "status": {"token": world.cluster.token}}
    plugin(world.cluster, tmp_path, json.dumps(says))
    assert finish(world.adapter().current()).id == world.present()
    assert json.loads((tmp_path / "asked").read_text())["kind"] == "ExecCredential"


@pytest.mark.parametrize(("says", "code"), [("no JSON", 0), ("{}", 0), ("", 1)], ids=["no JSON", "no token", "fails"])
def test_a_program_that_gives_none_is_told(world: WorkloadWorld, tmp_path: Path, says: str, code: int) -> None:
    plugin(world.cluster, tmp_path, says, code)
    assert "get-token, which gets the credentials" in str(refusal(world))


def test_a_program_that_never_ends_is_ended(world: WorkloadWorld, tmp_path: Path) -> None:
    plugin(world.cluster, tmp_path, "")
    (tmp_path / "get-token").write_text("#!/bin/sh\nsleep 600\n")
    world.changed["request_timeout"] = "300ms"
    assert "credentials" in str(refusal(world))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "correct it"),
        ("{", "it is not what kubectl reads"),
        ("[1]", "correct it"),
        ("clusters: 7", "correct it"),
        ("apiVersion: v1\nclusters: []\ncontexts: []\nusers: []\n", "Expected object with name there"),
    ],
    ids=["empty", "no YAML", "a list", "a number", "without the context"],
)
def test_a_kubeconfig_that_cannot_be_read_is_told(world: WorkloadWorld, text: str, said: str) -> None:
    world.cluster.kubeconfig.write_text(text)
    refused = refusal(world)
    assert said in str(refused)
    assert str(world.cluster.kubeconfig) in str(refused)


def test_a_server_whose_certificate_is_not_to_be_verified_is_refused(world: WorkloadWorld) -> None:
    world.cluster.write(world.cluster.token, **{"insecure-skip-tls-verify": True})
    assert "insecure-skip-tls-verify is not followed" in str(refusal(world))


def test_a_server_is_verified_by_the_authority_that_its_kubeconfig_has(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with fake_cluster(certificate, key) as cluster:
        world = WorkloadWorld(cluster, tmp_path, history=("web:1", "web:2"))
        assert roll_back(world, world.release("web:1")) is Progress.DONE
        cluster.kubeconfig.write_text(kubeconfig(cluster.api.url, TOKEN))  # the system's authorities do not know it
        assert "TLS failed" in str(refusal(world))


def test_the_kubeconfig_is_never_written(world: WorkloadWorld) -> None:
    before = world.cluster.kubeconfig.stat()
    assert roll_back(world) is Progress.DONE
    after = world.cluster.kubeconfig.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_a_rollback_asks_little(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    world.settings["every"] = "2s"
    finish(world.adapter().current())
    adapter = world.adapter()

    async def whole() -> None:
        change = await planned(adapter, world.target())
        assert await perform(adapter, change) is Progress.DONE

    fake.asked.clear()
    finish(whole())
    looks = fake.asked[next(n for n, line in enumerate(fake.asked) if line.startswith("WATCH")) :]
    while_pods_end = sum(line.endswith("/replicasets") for line in looks)  # as often as a busy machine needs
    assert len(fake.asked) - 2 * while_pods_end <= 15, "\n".join(fake.asked)


def test_while_a_rollout_stands_still_its_pods_are_looked_at_now_and_then(
    world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    change = finish(planned(world.adapter(), world.target()))
    world.cluster.freeze()
    world.settings |= {"timeout": "1s", "failing_for": "20s"}
    fake.asked.clear()
    with pytest.raises(AdapterError, match="not rolled out after 1s"):
        finish(world.adapter().apply(change))
    assert sum(line.endswith("/pods") for line in fake.asked) == 1
    told = sum(line.endswith("/deployments/web") for line in fake.asked)
    fake.denied.add(("watch", "deployments"))
    fake.asked.clear()
    with pytest.raises(AdapterError, match="not rolled out after 1s"):
        finish(world.adapter().apply(change))
    assert sum(line.endswith("/pods") for line in fake.asked) == 1
    assert sum(line.endswith("/deployments/web") for line in fake.asked) > told


def test_nodes_are_asked_about_only_where_a_pod_may_be_on_one_that_is_down(
    cluster: Cluster, tmp_path: Path, fake: FakeKubernetes
) -> None:
    world = a_daemon_set(cluster, tmp_path, spare=2)
    bad = world.release("crash:1")
    world.deploy("crash:1")
    finish(world.adapter().current())
    world.deploy("web:2")
    world.settled()
    change = finish(planned(world.adapter(), bad))
    fake.asked.clear()
    with pytest.raises(AdapterError, match="CrashLoopBackOff"):
        finish(world.adapter().apply(change))
    assert not [line for line in fake.asked if "/nodes/" in line]


# -- ConfigMaps that go back with it ------------------------------------------------------------
@pytest.fixture
def configured(cluster: Cluster, tmp_path: Path) -> ConfiguredWorld:
    return ConfiguredWorld(cluster, tmp_path)


def test_what_a_config_map_held_goes_back_with_the_template(configured: ConfiguredWorld) -> None:
    change = finish(planned(configured.adapter(), configured.target()))
    assert "ConfigMap settings goes back first, and pods that run see it until they are replaced" in change.risks
    assert finish(perform(configured.adapter(), change)) is Progress.DONE
    assert configured.held() == {"A": "2"}
    assert configured.image() == "registry.example/shop/web:2"


def test_a_config_map_alone_is_a_release_and_its_pods_are_replaced(configured: ConfiguredWorld) -> None:
    before = finish(configured.adapter().current())
    pods = configured.pods()
    configured.configure("7")
    assert finish(configured.adapter().current()) != before
    assert roll_back(configured, before) is Progress.DONE
    assert configured.held() == {"A": "3"}
    assert configured.image() == "registry.example/shop/web:3"
    assert not set(pods) & set(configured.pods())


def test_a_template_whose_config_map_nobody_saw_is_no_release(configured: ConfiguredWorld) -> None:
    labels = [release.label for release in finish(configured.adapter().releases())]
    assert labels == ["web:3 (revision 3)", "web:2 (revision 2)", "web:1 (revision 1)"]
    configured.configure("8")
    configured.deploy("web:4")
    configured.settled()
    configured.configure("9")
    configured.deploy("web:5")  # the daemon never saw web:4
    configured.settled()
    assert [release.label for release in finish(configured.adapter().releases())][1] == "web:3 (revision 3)"


def test_what_is_in_no_data_goes_back_too(configured: ConfiguredWorld) -> None:
    before = finish(configured.adapter().current())
    configured.cluster.api("PATCH", configured.map, {"data": None, "binaryData": {"B": "AAAA"}}, MERGE_PATCH)
    assert roll_back(configured, before) is Progress.DONE
    found = configured.cluster.api("GET", configured.map)
    assert (found.get("data"), found.get("binaryData") or {}) == ({"A": "3"}, {})


def test_an_immutable_config_map_is_refused(configured: ConfiguredWorld) -> None:
    configured.cluster.api("PATCH", configured.map, {"immutable": True}, MERGE_PATCH)
    refused = refusal(configured)
    assert refused.permanent
    assert "ConfigMap settings is immutable" in str(refused)
    assert "take it out of `config_maps`" in finish(problems(configured.adapter()))[0].text


def test_a_config_map_that_is_gone_is_told(configured: ConfiguredWorld) -> None:
    configured.cluster.api("DELETE", configured.map)
    assert "there is no ConfigMap settings" in finish(problems(configured.adapter()))[0].text


def test_a_config_map_that_its_owner_would_take_back_is_refused(configured: ConfiguredWorld) -> None:
    labels = {"metadata": {"labels": {"argocd.argoproj.io/instance": "shop"}}}
    configured.cluster.api("PATCH", configured.map, labels, MERGE_PATCH)
    assert "ConfigMap settings: it belongs to the Argo CD application shop" in str(refusal(configured))
    configured.settings["despite"] = "argo"
    assert roll_back(configured) is Progress.DONE


def test_a_config_map_that_somebody_writes_on_the_way_is_left_to_them(
    configured: ConfiguredWorld, fake: FakeKubernetes
) -> None:
    change = finish(planned(configured.adapter(), configured.target()))
    fake.faults.append("lost")  # the ConfigMap is written, and nobody says so
    with pytest.raises(AdapterError):
        finish(configured.adapter().apply(change))
    assert configured.held() == {"A": "2"}
    assert finish(configured.adapter().progress(change)) is Progress.NOT_STARTED
    configured.configure("5")
    assert finish(configured.adapter().progress(change)) is Progress.SUPERSEDED


def test_the_right_to_write_config_maps_is_asked_for(configured: ConfiguredWorld) -> None:
    configured.cluster.deny("patch", "", "configmaps")
    (problem,) = finish(problems(configured.adapter()))
    assert '{apiGroups: [""], resources: [configmaps], verbs: [patch]}' in problem.text


# -- digests ------------------------------------------------------------------------------------
def moved_tag(world: WorkloadWorld, fake: FakeKubernetes) -> Release:
    """web:2 ran, web:3 runs, and somebody pushed another web:2, which a pod of web:4 has beside its own."""
    world.deploy("web:2")
    world.settled()
    good = finish(world.adapter().current())
    fake.controllers.pushed["registry.example/shop/web:2"] = 1
    value = [{"name": "X", "value": "1"}]
    world.patch({"op": "add", "path": "/spec/template/spec/containers/0/env", "value": value})
    world.settled()
    return good


def test_a_tag_that_has_moved_since_is_told(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    good = moved_tag(world, fake)
    was, now = (digest_of("registry.example/shop/web:2", n)[:19] for n in (0, 1))
    change = finish(planned(world.adapter(), good))
    assert any(
        f"the tag of registry.example/shop/web:2 has moved: it was {was} and led to {now} since" in risk
        for risk in change.risks
    )


def test_a_tag_that_stayed_is_not_told(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    good = moved_tag(world, fake)
    fake.controllers.pushed.clear()
    world.deploy("web:3")
    world.settled()
    change = finish(planned(world.adapter(), good))
    assert not any("has moved" in risk for risk in change.risks)


def test_with_pin_it_goes_back_by_the_digest_that_ran(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    good = moved_tag(world, fake)
    world.settings["pin"] = True
    change = finish(planned(world.adapter(), good))
    assert not any("digest" in risk for risk in change.risks)
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    image = world.read()["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"registry.example/shop/web:2@{digest_of('registry.example/shop/web:2')}"
    assert finish(world.adapter().current()) == good
    assert finish(world.adapter().current()).label.startswith("web:2 ")


def test_what_somebody_sets_after_a_pin_is_another_release(world: WorkloadWorld, fake: FakeKubernetes) -> None:
    good = moved_tag(world, fake)
    world.settings["pin"] = True
    assert roll_back(world, good) is Progress.DONE
    world.deploy(f"web:2@{digest_of('registry.example/shop/web:2', 1)}")
    world.settled()
    assert finish(world.adapter().current()) != good


def test_a_digest_that_nobody_saw_is_told_with_pin(world: WorkloadWorld) -> None:
    world.settings["pin"] = True
    change = finish(planned(world.adapter(), world.target()))
    text = "the digest of registry.example/shop/web:2 is not known, so it goes back by its tag"
    assert text in change.risks
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_digests_of_releases_that_are_forgotten_go_too(world: WorkloadWorld) -> None:
    finish(world.adapter().current())
    kept = world.adapter()._images
    assert kept.digests(world.present())
    finish(world.adapter().prune((), 1))
    finish(world.adapter().releases())
    dropped = finish(world.adapter().prune((), 1))
    assert dropped
    world.deploy("web:4")
    world.settled()
    present = world.present()
    finish(world.adapter().current())
    old = set(ids(world)) - {present}
    finish(world.adapter().prune({present}, 1))
    assert not any(kept.digests(release) for release in old)
    assert kept.digests(present)


# -- DaemonSets ---------------------------------------------------------------------------------
def a_daemon_set(cluster: Cluster, tmp_path: Path, spare: int) -> DaemonWorld:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": spare, "maxSurge": 0}}
    return DaemonWorld(cluster, tmp_path, history=("web:1", "web:2"), updateStrategy=rolling)


def test_a_node_that_is_down_is_named_and_not_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    world = a_daemon_set(cluster, tmp_path, spare=2)
    node_a, node_b = cluster.nodes
    cluster.take_down(node_b)
    change = finish(planned(world.adapter(), world.release("web:1")))
    assert f"not waited for, since they are down: {node_b}" in change.risks
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert finish(world.adapter().note(change.key)) == f"not waited for, since they are down: {node_b}"
    pods = cluster.api("GET", f"/api/v1/namespaces/{world.namespace}/pods")["items"]
    images = {pod["spec"]["nodeName"]: pod["spec"]["containers"][0]["image"][-5:] for pod in pods}
    assert images[node_a] == "web:1"


def test_a_node_that_is_up_is_waited_for_though_another_is_down(cluster: Cluster, tmp_path: Path) -> None:
    world = a_daemon_set(cluster, tmp_path, spare=1)
    cluster.take_down(cluster.nodes[1])
    change = finish(planned(world.adapter(), world.release("web:1")))
    assert any("that is all of maxUnavailable (1), so the rollout stops there" in risk for risk in change.risks)
    world.settings["timeout"] = "4s"
    with pytest.raises(AdapterError, match=f"not rolled out after 4s: .*; down: {cluster.nodes[1]}"):
        finish(world.adapter().apply(change))
    assert finish(world.adapter().note(change.key)) == ""


def test_a_node_that_gets_no_pod_is_waited_for_though_another_is_down(cluster: Cluster, tmp_path: Path) -> None:
    world = a_daemon_set(cluster, tmp_path, spare=2)
    cluster.take_down(cluster.nodes[1])
    change = finish(planned(world.adapter(), world.release("web:1")))
    quota(world, pods=1)  # the pod on the node that is down still counts
    world.settings["timeout"] = "2s"
    with pytest.raises(AdapterError, match="not rolled out after 2s: 0 of 1 pods updated"):
        finish(world.adapter().apply(change))


def test_all_nodes_up_leave_nothing_to_note(cluster: Cluster, tmp_path: Path) -> None:
    world = a_daemon_set(cluster, tmp_path, spare=1)
    change = finish(planned(world.adapter(), world.release("web:1")))
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert finish(world.adapter().note(change.key)) == ""


def test_the_right_to_see_nodes_is_one_of_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    cluster.deny("get", "", "nodes")
    (problem,) = finish(problems(DaemonWorld(cluster, tmp_path).adapter()))
    line = '{apiGroups: [""], resources: [nodes], verbs: [get]}'
    assert problem.text == f"the ClusterRole has no line {line}; add it"


# -- StatefulSets -------------------------------------------------------------------------------
def test_a_stuck_stateful_set_goes_back_only_when_its_broken_pod_may_be_deleted(
    cluster: Cluster, tmp_path: Path
) -> None:
    world = StatefulWorld(cluster, tmp_path, history=("web:1",))
    good = finish(world.adapter().current())
    world.deploy("crash:2")
    change = finish(planned(world.adapter(), good))
    world.settings["timeout"] = "500ms"
    with pytest.raises(AdapterError) as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent
    world.settings |= {"timeout": "20s", "unstick": True}
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    pods = cluster.api("GET", f"/api/v1/namespaces/{world.namespace}/pods")["items"]
    assert all(pod["spec"]["containers"][0]["image"].endswith("web:1") for pod in pods)


def ends_of(world: WorkloadWorld, then: Callable[[], None] = lambda: None) -> list[str]:
    """One more each time that a pod is about to be deleted, when that is done before."""
    deleted: list[str] = []

    def hook(name: str) -> None:
        if name == "kubernetes.unstick":
            deleted.append(name)
            then()

    boundary.hook = hook
    world.settings["unstick"] = True
    return deleted


def test_while_a_broken_pod_ends_no_other_is_deleted(cluster: Cluster, tmp_path: Path) -> None:
    world = StatefulWorld(cluster, tmp_path, history=("web:1", "web:2"))
    pods = [f"/api/v1/namespaces/{world.namespace}/pods/web-{n}" for n in (0, 1)]
    broken = {"op": "replace", "path": "/spec/containers/0/image", "value": "registry.example/shop/crash:2"}
    for pod in pods:
        cluster.api("PATCH", pod, [broken], JSON_PATCH)
        wait_until(lambda pod=pod: not is_ready(cluster.api("GET", pod)), "a pod that is not ready")  # type: ignore[misc]
    held: Object = {"metadata": {"finalizers": ["example.com/drains"]}}
    cluster.api("PATCH", pods[1], held, MERGE_PATCH)
    deleted = ends_of(world)
    change = finish(planned(world.adapter(), world.release("web:1")))
    assert "a pod of an older revision that is not ready, and blocks the others, is deleted (unstick)" in change.risks
    world.settings["timeout"] = "1s"
    with pytest.raises(AdapterError, match="not rolled out after 1s"):
        finish(world.adapter().apply(change))
    assert "deletionTimestamp" in cluster.api("GET", pods[1])["metadata"]
    assert "deletionTimestamp" not in cluster.api("GET", pods[0])["metadata"]
    assert len(deleted) == 1
    cluster.api("PATCH", pods[1], {"metadata": {"finalizers": None}}, MERGE_PATCH)
    world.settings["timeout"] = "60s"
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_a_pod_that_somebody_replaced_at_the_same_instant_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    world = StatefulWorld(cluster, tmp_path, history=("web:1",))
    good = finish(world.adapter().current())
    world.deploy("crash:2")
    pods = f"/api/v1/namespaces/{world.namespace}/pods"

    def found() -> Object:
        of = (pod for pod in cluster.api("GET", pods)["items"] if pod["metadata"]["name"] == "web-1")
        return next(of, {"metadata": {"uid": ""}})

    wait_until(lambda: "crash" in json.dumps(found()), "a broken pod", PATIENT)
    seen = {"", found()["metadata"]["uid"]}

    def replace() -> None:
        cluster.api("DELETE", f"{pods}/web-1")
        wait_until(lambda: found()["metadata"]["uid"] not in seen, "the pod that came instead", PATIENT)
        seen.add(found()["metadata"]["uid"])

    change, deleted = finish(planned(world.adapter(), good)), ends_of(world, replace)
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert len(deleted) == 1
    assert found()["metadata"]["uid"] in seen


def test_pods_below_a_partition_stay(cluster: Cluster, tmp_path: Path) -> None:
    world = StatefulWorld(cluster, tmp_path, history=("web:1", "web:2"))
    world.patch({"op": "replace", "path": "/spec/updateStrategy/rollingUpdate/partition", "value": 1})
    change = finish(planned(world.adapter(), world.release("web:1")))
    assert any("below 1 stay" in risk for risk in change.risks)
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    pods = cluster.api("GET", f"/api/v1/namespaces/{world.namespace}/pods")["items"]
    images = {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"][-5:] for pod in pods}
    assert images == {"web-0": "web:2", "web-1": "web:1"}


def test_a_pod_below_a_partition_is_not_deleted_though_it_is_not_ready(cluster: Cluster, tmp_path: Path) -> None:
    world = StatefulWorld(cluster, tmp_path, history=("web:1", "web:2"))
    world.patch({"op": "replace", "path": "/spec/updateStrategy/rollingUpdate/partition", "value": 1})
    world.settings |= {"timeout": "500ms", "failing_for": "20s", "unstick": True}
    change = finish(planned(world.adapter(), world.release("web:1")))
    pod = f"/api/v1/namespaces/{world.namespace}/pods/web-0"
    broken = {"op": "replace", "path": "/spec/containers/0/image", "value": "registry.example/shop/crash:2"}
    uid = cluster.api("PATCH", pod, [broken], JSON_PATCH)["metadata"]["uid"]
    wait_until(lambda: not is_ready(cluster.api("GET", pod)), "a pod that is not ready")
    with pytest.raises(AdapterError, match="not rolled out after 500ms"):
        finish(world.adapter().apply(change))
    assert cluster.api("GET", pod)["metadata"]["uid"] == uid


def test_pods_that_nobody_replaces_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    world = StatefulWorld(cluster, tmp_path, history=("web:1", "web:2"))
    world.patch({"op": "replace", "path": "/spec/updateStrategy", "value": {"type": "OnDelete"}})
    assert "OnDelete" in str(refusal(world, world.release("web:1")))
    assert template_id(world.read()["spec"]["template"]) == world.present()


# -- blue and green -----------------------------------------------------------------------------
@pytest.fixture
def colours(cluster: Cluster, tmp_path: Path) -> ColouredWorld:
    return ColouredWorld(cluster, tmp_path)


@pytest.mark.parametrize(("sick", "moves"), [(5, False), (6, True)], ids=["4 of 5", "5 of 5"])
def test_the_idle_colour_must_answer_five_times_in_a_row(colours: ColouredWorld, sick: int, moves: bool) -> None:
    doctor = Doctor(sick)
    colours.settings["healthy"]["blue"] = doctor.url
    del colours.settings["times"]
    change = finish(planned(colours.adapter(), Release("blue")))
    try:
        if moves:
            assert finish(perform(colours.adapter(), change)) is Progress.DONE
        else:
            with pytest.raises(AdapterError, match=r"blue is not healthy, so the traffic stays where it is \(5 of 5\)"):
                finish(perform(colours.adapter(), change))
    finally:
        doctor.close()
    assert doctor.asked == 5
    assert colours.present() == ("blue" if moves else "green")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([200] * 5, ""),
        ([200] * 4 + [500], r"blue is not healthy, .* \(5 of 5\): cluster prod: GET .*/proxy/health answered 500"),
        (None, r"blue is not healthy, .* \(1 of 5\): .* answered 503: no endpoints available for service .web-blue."),
    ],
    ids=["5 of 5", "4 of 5", "nobody"],
)
def test_the_idle_colour_is_asked_through_the_proxy_of_the_api(
    colours: ColouredWorld, fake: FakeKubernetes, answers: list[int] | None, said: str
) -> None:
    own = {"selector": {"app": "web", "color": "blue"}, "ports": [{"port": 8080}]}
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web-blue"}, "spec": own}
    colours.cluster.api("POST", f"{colours.core}/services", made)
    colours.settings["healthy"]["blue"] = "service/web-blue:8080/health"
    colours.settings["times"] = 5
    if answers is not None:
        given = iter(answers)
        fake.served["web-blue:8080"] = lambda path: next(given) if path == "/health" else 404
    change = finish(planned(colours.adapter(), Release("blue")))
    if said:
        with pytest.raises(AdapterError, match=said):
            finish(perform(colours.adapter(), change))
    else:
        assert finish(perform(colours.adapter(), change)) is Progress.DONE
    assert colours.present() == ("green" if said else "blue")


def blue_green_rights() -> list[tuple[str, str, str]]:
    known = {"adapter": "blue_green", "cluster": "prod", "namespace": "shop", "service": "web"}
    each = {name: f"deployment/web-{name}" for name in ("blue", "green")}
    healthy = {name: f"service/web-{name}:80/" for name in each}
    return blue_green.rights(BlueGreenSettings.model_validate({**known, "colours": each, "healthy": healthy}))


@pytest.mark.parametrize("right", blue_green_rights(), ids=lambda right: f"{right[0]} {right[2]}")
def test_each_right_of_a_switch_that_is_missing_is_named(colours: ColouredWorld, right: tuple[str, str, str]) -> None:
    colours.settings["healthy"]["red"] = "service/web-red:80/"
    verb, group, resource = right
    colours.cluster.deny(verb, group, resource)
    (problem,) = finish(problems(colours.adapter()))
    assert f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{verb}]}}' in problem.text


def test_an_idle_colour_that_is_sick_gets_no_traffic_though_the_active_one_is_well(colours: ColouredWorld) -> None:
    value = "shop/web:crash"
    operation = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": value}
    colours.cluster.api("PATCH", f"{colours.apps}/web-blue", [operation], JSON_PATCH)
    with pytest.raises(AdapterError, match="is not rolled out, so the traffic stays where it is"):
        finish(planned(colours.adapter(), Release("blue")))
    assert colours.present() == "green"


def test_an_idle_colour_without_pods_gets_no_traffic(colours: ColouredWorld) -> None:
    operation = {"op": "replace", "path": "/spec/replicas", "value": 0}
    colours.cluster.api("PATCH", f"{colours.apps}/web-blue", [operation], JSON_PATCH)
    with pytest.raises(AdapterError, match="is not rolled out"):
        finish(planned(colours.adapter(), Release("blue")))


def test_other_keys_of_the_selector_stay_and_open_connections_are_told(colours: ColouredWorld) -> None:
    change = finish(planned(colours.adapter(), Release("blue")))
    assert change.risks == ("connections that are open stay with green until they end",)
    assert finish(perform(colours.adapter(), change)) is Progress.DONE
    assert colours.selector() == {"app": "web", "color": "blue"}


def test_an_owner_of_the_service_is_refused_unless_the_plan_deals_with_it(colours: ColouredWorld) -> None:
    labels = {"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}}
    change = finish(planned(colours.adapter(), Release("blue")))
    colours.cluster.api("PATCH", colours.at, labels, MERGE_PATCH)
    with pytest.raises(AdapterError, match="service web: it belongs to Flux's shop"):
        finish(planned(colours.adapter(), Release("blue")))
    with pytest.raises(AdapterError, match="Flux's shop"):
        finish(perform(colours.adapter(), change))
    assert "Flux's shop" in finish(problems(colours.adapter()))[0].text
    assert colours.present() == "green"
    colours.settings["despite"] = "flux"
    assert finish(perform(colours.adapter(), change)) is Progress.DONE


def test_a_service_that_the_server_would_not_change_is_refused(colours: ColouredWorld) -> None:
    colours.cluster.admit(denying)
    wait_until(lambda: "denied the request: image is not signed" in why_refused(colours), "a webhook that is asked")
    assert colours.present() == "green"


def test_a_selector_of_no_colour_is_told(colours: ColouredWorld) -> None:
    operation = {"op": "replace", "path": "/spec/selector/color", "value": "mauve"}
    colours.cluster.api("PATCH", colours.at, [operation], JSON_PATCH)
    assert "color=mauve, which is none of `colours`" in finish(problems(colours.adapter()))[0].text
