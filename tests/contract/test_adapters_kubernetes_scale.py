"""Workloads of Kubernetes at 0 as a bracket: the contract, autoscalers, KEDA, and what people do meanwhile."""

import json
import shutil
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.testing import KEY, BracketContract, BracketWorld, finish, problems
from rollbackd_adapters.kubernetes import scale
from rollbackd_adapters.kubernetes.resting import MARK, PAUSED
from tests.clusters import MERGE_PATCH, Cluster
from tests.contract.kubernetes_worlds import ScaledWorld
from tests.fakes.kubernetes_api import FakeKubernetes

OTHER = "contract-2/0"


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> ScaledWorld:
    return ScaledWorld(cluster, tmp_path)


class TestScale(BracketContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def make_world(self, path: Path) -> BracketWorld:
        return ScaledWorld(self.cluster, path)


class TestScaleWithKeda(TestScale):
    @pytest.fixture(autouse=True)
    def _fake(self, fake: FakeKubernetes) -> None:
        """A real cluster has KEDA only by chance."""

    def make_world(self, path: Path) -> BracketWorld:
        return ScaledWorld(self.cluster, path, keda={})


def enter(world: ScaledWorld, key: str = KEY) -> None:
    finish(world.adapter().enter(key))


def leave(world: ScaledWorld, key: str = KEY) -> None:
    finish(world.adapter().leave(key))


def pause(world: ScaledWorld) -> str | None:
    found = world.read("scaledobjects", "worker")["metadata"].get("annotations", {}).get(PAUSED)
    return None if found is None else str(found)


def test_what_it_was_is_noted_in_the_journal_and_on_the_object(world: ScaledWorld) -> None:
    enter(world)
    said = finish(world.adapter().note(KEY))
    assert "deployment/worker is at 0, it was at 3; statefulset/queue is at 0, it was at 2" in said
    assert "cronjob/mail is suspended; jobs of it that run already go on" in said
    mark = world.read("deployments", "worker")["metadata"]["annotations"][MARK]
    assert json.loads(mark) == {"key": KEY, "was": 3, "now": 0}


def test_a_cron_job_that_was_suspended_stays_so(world: ScaledWorld) -> None:
    world.cluster.api("PATCH", world.at("cronjobs", "mail"), {"spec": {"suspend": True}}, MERGE_PATCH)
    enter(world)
    leave(world)
    assert world.numbers() == (3, 2, True)


def test_what_was_at_0_stays_there(world: ScaledWorld) -> None:
    world.scale("deployments", "worker", 0)
    enter(world)
    assert finish(world.adapter().inside(KEY))
    leave(world)
    assert world.numbers() == (0, 2, False)


def test_what_somebody_else_scaled_meanwhile_stays(world: ScaledWorld) -> None:
    enter(world)
    world.scale("deployments", "worker", 7)
    leave(world)
    assert world.numbers() == (7, 2, False)
    assert world.marks() == []


def test_when_somebody_woke_everything_it_counts_as_left(world: ScaledWorld) -> None:
    world.settings["workloads"] = "deployment/worker"
    enter(world)
    world.cluster.api("PATCH", world.at("deployments", "worker"), {"metadata": {"annotations": None}}, MERGE_PATCH)
    assert finish(world.adapter().inside(KEY))
    world.scale("deployments", "worker", 7)
    assert not finish(world.adapter().inside(KEY))


def test_without_its_mark_it_goes_back_by_our_own_note(world: ScaledWorld) -> None:
    enter(world)
    world.cluster.api("PATCH", world.at("deployments", "worker"), {"metadata": {"annotations": None}}, MERGE_PATCH)
    leave(world)
    assert world.numbers() == (3, 2, False)


def test_without_our_own_notes_it_goes_back_by_its_marks(world: ScaledWorld) -> None:
    enter(world)
    shutil.rmtree(world.path / "scratch")
    assert finish(world.adapter().inside(KEY))
    assert not finish(world.adapter().inside(OTHER))
    leave(world)
    assert world.numbers() == (3, 2, False)
    assert not finish(world.adapter().inside(KEY))


def test_a_workload_that_was_deleted_meanwhile_keeps_nobody(world: ScaledWorld) -> None:
    enter(world)
    world.cluster.api("DELETE", world.at("statefulsets", "queue"))
    assert finish(world.adapter().inside(KEY))
    leave(world)
    assert not finish(world.adapter().inside(KEY))
    assert world.read("deployments", "worker")["spec"]["replicas"] == 3


def test_what_another_incident_put_to_rest_is_left_to_it(world: ScaledWorld) -> None:
    enter(world)
    with pytest.raises(AdapterError, match="deployment/worker is at rest for incident contract-1, it was at 3"):
        enter(world, OTHER)
    leave(world, OTHER)
    assert world.numbers() == (0, 0, True)
    leave(world)
    assert world.numbers() == (3, 2, False)


def test_a_mark_that_an_undo_brought_back_stops_nobody_once_it_is_taken_away(world: ScaledWorld) -> None:
    mark = {"metadata": {"annotations": {MARK: json.dumps({"key": OTHER, "was": 9, "now": 0})}}}
    world.cluster.api("PATCH", world.at("deployments", "worker"), mark, MERGE_PATCH)
    assert finish(problems(world.adapter())) == ()  # it is not at rest
    world.scale("deployments", "worker", 0)
    assert f"take its annotation {MARK} away" in finish(problems(world.adapter()))[0].text
    mark["metadata"]["annotations"][MARK] = None  # type: ignore[assignment]
    world.cluster.api("PATCH", world.at("deployments", "worker"), mark, MERGE_PATCH)
    assert finish(problems(world.adapter())) == ()


def test_its_rest_that_somebody_ended_by_hand_keeps_nobody(world: ScaledWorld) -> None:
    world.settings["workloads"] = "deployment/worker"
    enter(world)
    world.scale("deployments", "worker", 4)
    enter(world, OTHER)
    leave(world, OTHER)
    assert world.numbers()[0] == 4


def test_an_autoscaler_stays_as_it_is(world: ScaledWorld) -> None:
    autoscaler(world, minReplicas=1)
    enter(world)
    leave(world)
    assert world.numbers() == (3, 2, False)
    assert "rollbackd" not in json.dumps(world.read("horizontalpodautoscalers", "worker"))


def test_an_autoscaler_that_scales_from_0_is_refused(world: ScaledWorld, fake: FakeKubernetes) -> None:
    autoscaler(world, minReplicas=0)
    with pytest.raises(AdapterError, match="its autoscaler worker scales it up from 0 again; set minReplicas: 1"):
        enter(world)
    assert world.numbers() == (3, 2, False)
    assert "minReplicas: 1" in finish(problems(world.adapter()))[0].text


def autoscaler(world: ScaledWorld, **more: int) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}
    spec = {"scaleTargetRef": target, "maxReplicas": 9, **more}
    world.make("horizontalpodautoscalers", "autoscaling/v2", "HorizontalPodAutoscaler", "worker", spec)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("own", [None, "3"], ids=["without a pause", "with a pause of its own"])
def test_keda_is_paused_and_its_own_pause_is_put_back(cluster: Cluster, tmp_path: Path, own: str | None) -> None:
    world = ScaledWorld(cluster, tmp_path, keda={} if own is None else {PAUSED: own})
    enter(world)
    assert pause(world) == "0"
    leave(world)
    assert pause(world) == own
    assert world.numbers() == (3, 2, False)
    assert MARK not in world.read("scaledobjects", "worker")["metadata"].get("annotations", {})


def test_without_keda_in_the_cluster_nothing_is_missed(world: ScaledWorld, fake: FakeKubernetes) -> None:
    fake.absent.add("keda.sh")
    assert finish(problems(world.adapter())) == ()
    enter(world)
    leave(world)
    assert world.numbers() == (3, 2, False)


def test_an_owner_that_would_take_it_back_is_refused_unless_the_plan_deals_with_it(world: ScaledWorld) -> None:
    labels = {"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}}
    world.cluster.api("PATCH", world.at("cronjobs", "mail"), labels, MERGE_PATCH)
    with pytest.raises(AdapterError, match="cronjob/mail: it belongs to Flux's shop"):
        enter(world)
    assert world.numbers() == (3, 2, False)
    assert "Flux's shop" in finish(problems(world.adapter()))[0].text
    world.settings["despite"] = "flux"
    enter(world)
    assert world.inside()


def test_pods_that_do_not_end_stop_the_rollback_and_everything_goes_back(world: ScaledWorld) -> None:
    world.cluster.freeze()
    world.settings["timeout"] = "300ms"
    with pytest.raises(AdapterError, match="pods have not ended after 300ms: worker-") as failed:
        enter(world)
    assert failed.value.permanent
    assert world.numbers() == (3, 2, False)
    assert world.marks() == []


@pytest.mark.parametrize("fault", ["lost", "dropped", "504"])
def test_when_an_answer_is_lost_all_goes_back_and_the_next_attempt_gets_in(
    world: ScaledWorld, fake: FakeKubernetes, fault: str
) -> None:
    fake.faults.append(fault)
    with pytest.raises(AdapterError) as failed:
        enter(world)
    assert not failed.value.permanent
    assert world.numbers() == (3, 2, False)
    enter(world)
    assert world.inside()


def test_when_putting_back_fails_too_it_is_told_what_is_at_rest(world: ScaledWorld, fake: FakeKubernetes) -> None:
    fake.faults += ["lost", "504"]
    with pytest.raises(AdapterError, match=r"putting back failed too: .*deployment/worker is at 0, it was at 3"):
        enter(world)


def test_who_scales_at_the_same_instant_is_asked_again(world: ScaledWorld, fake: FakeKubernetes) -> None:
    original, meanwhile = fake._patch, iter([4, 5])

    async def patch(*args: object) -> object:
        if (number := next(meanwhile, None)) is not None and str(args[2]) == "deployments":
            args[1]["spec"]["replicas"] = number  # type: ignore[index]
        return await original(*args)  # type: ignore[arg-type]

    fake._patch = patch  # type: ignore[method-assign, assignment]
    try:
        enter(world)
    finally:
        fake._patch = original  # type: ignore[method-assign]
    leave(world)
    assert world.numbers() == (5, 2, False)


def test_a_workload_that_is_not_there_is_told(world: ScaledWorld) -> None:
    world.cluster.api("DELETE", world.at("deployments", "worker"))
    assert "there is no deployment/worker" in finish(problems(world.adapter()))[0].text


@pytest.mark.parametrize(
    "right",
    scale.rights(["deployment/worker", "statefulset/queue", "cronjob/mail"]),
    ids=lambda right: f"{right[0]} {right[2]}",
)
def test_each_right_that_is_missing_is_named(world: ScaledWorld, right: tuple[str, str, str]) -> None:
    verb, group, resource = right
    world.cluster.deny(verb, group, resource)
    (problem,) = finish(problems(world.adapter()))
    assert f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{verb}]}}' in problem.text


def test_cron_jobs_alone_need_no_other_rights(world: ScaledWorld, fake: FakeKubernetes) -> None:
    world.settings["workloads"] = "cronjob/mail"
    fake.asked.clear()
    enter(world)
    leave(world)
    assert {path.split("/")[-2] for path in fake.asked} == {"namespaces", "cronjobs"}
