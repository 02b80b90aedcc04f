"""Canaries of Istio and the Gateway API: the contract, stages, the check between them, and what others do meanwhile."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import CheckResult, Progress, Release, Verdict
from rollbackd.testing import AdapterContract, World, finish, perform, planned, problems
from rollbackd_adapters.kubernetes import canary
from rollbackd_adapters.kubernetes.settings import CanarySettings
from tests.clusters import JSON_PATCH, MERGE_PATCH, Cluster
from tests.contract.kubernetes_worlds import TRIGGERS, GatewayWorld, RoutedWorld, why_refused
from tests.fakes.kubernetes_api import FakeKubernetes, Refused
from tests.servers import wait_until

BOTH = pytest.mark.parametrize("kind", [RoutedWorld, GatewayWorld], ids=["virtualservice", "httproute"])


class TestVirtualService(AdapterContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def make_world(self, path: Path) -> World:
        return RoutedWorld(self.cluster, path)

    @pytest.mark.usefixtures("fake")
    def test_what_hangs_is_ended(self, world: World) -> None:
        """Nothing of a cluster but the API itself keeps a VirtualService from changing."""
        super().test_what_hangs_is_ended(world)


class TestHttpRoute(TestVirtualService):
    def make_world(self, path: Path) -> World:
        return GatewayWorld(self.cluster, path)

    def test_what_hangs_is_ended(self, world: World) -> None:
        AdapterContract.test_what_hangs_is_ended(self, world)


class TestCanaryThatIsScaledDown(TestVirtualService):
    def make_world(self, path: Path) -> World:
        world = RoutedWorld(self.cluster, path)
        world.settings["scale_down"] = True
        return world


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> RoutedWorld:
    return RoutedWorld(cluster, tmp_path)


def roll_back(world: RoutedWorld) -> Progress:
    return finish(perform(world.adapter(), finish(planned(world.adapter(), world.target()))))


def refusal(world: RoutedWorld) -> AdapterError:
    """Why a plan is refused, which `ready` says too; nothing is touched by it."""
    before = world.read()["spec"]
    with pytest.raises(AdapterError) as refused:
        finish(planned(world.adapter(), world.target()))
    assert world.read()["spec"] == before
    assert finish(problems(world.adapter()))
    return refused.value


class Passage:
    """The weights that the route had on its way, and how often the check was asked."""

    def __init__(self, world: RoutedWorld, verdicts: Sequence[Verdict] = ()) -> None:
        self.world, self.verdicts = world, list(verdicts)
        self.asked: list[str] = []
        self.seen: list[list[int]] = []

    async def ask(self, name: str) -> CheckResult:
        self.asked.append(name)
        self.seen.append(self.world.weights())
        return CheckResult(name, self.verdicts.pop(0), "")

    def run(self) -> None:
        change = finish(planned(self.world.adapter(), self.world.target()))
        finish(self.world.adapter().apply_in_stages(change, self.ask))
        assert finish(self.world.adapter().progress(change)) is Progress.DONE
        self.seen.append(self.world.weights())


# -- the weights --------------------------------------------------------------------------------
@BOTH
def test_only_the_two_weights_of_the_named_rule_change(
    cluster: Cluster, tmp_path: Path, kind: type[RoutedWorld]
) -> None:
    world = kind(cluster, tmp_path)
    before = world.read()["spec"]
    assert roll_back(world) is Progress.DONE
    assert world.weights() == [40, 0]
    world.set_weights(30, 10)
    assert world.read()["spec"] == before


def test_shares_are_of_the_sum_and_a_third_destination_keeps_its_own(cluster: Cluster, tmp_path: Path) -> None:
    world = RoutedWorld(cluster, tmp_path, weights=(3, 5, 2))
    assert finish(world.adapter().current()) == Release("50")
    world.settings |= {"stages": [30, 0], "between": "errors"}
    passage = Passage(world, [Verdict.GOOD])
    passage.run()
    assert passage.seen == [[5, 3, 2], [8, 0, 2]]


def test_weights_that_are_no_percentages_are_understood(cluster: Cluster, tmp_path: Path) -> None:
    world = RoutedWorld(cluster, tmp_path, weights=(3, 1))
    current = finish(world.adapter().current())
    assert (current.id, current.label) == ("25", "25% canary")
    assert roll_back(world) is Progress.DONE
    assert world.weights() == [4, 0]


def test_stages_above_where_it_is_are_left_out(world: RoutedWorld) -> None:
    world.settings |= {"stages": [75, 50, 25, 10, 0], "between": "errors"}
    passage = Passage(world, [Verdict.GOOD])
    passage.run()
    assert passage.seen == [[36, 4], [40, 0]]


def test_another_share_than_none_is_no_place_to_go_back_to(world: RoutedWorld) -> None:
    assert finish(world.adapter().releases()) == [Release("25"), Release("0")]
    with pytest.raises(AdapterError, match="not among the releases") as refused:
        finish(world.adapter().plan(Release("10")))
    assert refused.value.permanent


def test_no_drill_takes_a_canary_down_and_a_plan_tells_what_stays(world: RoutedWorld) -> None:
    change = finish(planned(world.adapter(), world.target()))
    assert "gets no traffic again" in change.aside
    assert change.risks == ("connections that are open stay with web-canary until they end",)


# -- between two stages -------------------------------------------------------------------------
@pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.INCONCLUSIVE], ids=["fine", "unknown"])
def test_when_the_check_is_fine_or_unknown_the_next_stage_follows(world: RoutedWorld, verdict: Verdict) -> None:
    world.settings["between"] = "errors"
    passage = Passage(world, [verdict, verdict])
    passage.run()
    assert passage.asked == ["errors", "errors"]
    assert passage.seen == [[34, 6], [38, 2], [40, 0]]


def test_when_the_check_is_worse_the_rest_goes_at_once(world: RoutedWorld) -> None:
    world.settings["between"] = "errors"
    passage = Passage(world, [Verdict.BAD])
    passage.run()
    assert passage.seen == [[34, 6], [40, 0]]


def test_without_a_check_the_stages_follow_each_other(world: RoutedWorld, fake: FakeKubernetes) -> None:
    passage = Passage(world)
    passage.run()
    assert passage.asked == []
    assert passage.seen == [[40, 0]]
    assert fake.patched[-3:] == [world.at] * 3


# -- others -------------------------------------------------------------------------------------
def meanwhile(fake: FakeKubernetes, times: int, change: Any) -> list[int]:
    """Somebody writes right before each of the next patches; how often that was."""
    original = fake._patch
    done: list[int] = []

    async def patch(*args: Any) -> Any:
        if args[0].query.get("dryRun") != "All" and len(done) < times:
            done.append(1)
            change(args[1])
        else:
            fake._patch = original  # type: ignore[method-assign]
        return await original(*args)

    fake._patch = patch  # type: ignore[method-assign, assignment]
    return done


def test_who_writes_the_rule_at_the_same_instant_is_read_again(world: RoutedWorld, fake: FakeKubernetes) -> None:
    change = finish(planned(world.adapter(), world.target()))

    def longer(route: Any) -> None:
        route["spec"]["http"][1]["timeout"] = f"1{route['spec']['http'][1]['timeout']}"

    done = meanwhile(fake, 4, longer)
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert len(done) == 4
    assert world.read()["spec"]["http"][1]["timeout"] == "11115s"


def test_after_five_conflicts_it_gives_up_for_now(world: RoutedWorld, fake: FakeKubernetes) -> None:
    change = finish(planned(world.adapter(), world.target()))

    def longer(route: Any) -> None:
        route["spec"]["http"][1]["timeout"] = f"1{route['spec']['http'][1]['timeout']}"

    meanwhile(fake, 5, longer)
    with pytest.raises(AdapterError, match="somebody else writes it all the time") as failed:
        finish(world.adapter().apply(change))
    assert not failed.value.permanent
    assert world.weights() == [30, 10]


def test_weights_that_somebody_else_sets_meanwhile_are_theirs(world: RoutedWorld, fake: FakeKubernetes) -> None:
    change = finish(planned(world.adapter(), world.target()))

    def more(route: Any) -> None:
        for n, weight in enumerate((10, 30)):
            route["spec"]["http"][1]["route"][n]["weight"] = weight

    meanwhile(fake, 1, more)
    with pytest.raises(AdapterError, match="somebody else moved it") as failed:
        finish(world.adapter().apply(change))
    assert failed.value.permanent
    assert world.weights() == [10, 30]


def test_a_stable_workload_that_cannot_take_all_is_refused(world: RoutedWorld) -> None:
    world.replicas("web", 1)
    assert "deployment/web is not ready for all of the traffic, which takes 2 pods" in str(refusal(world))


def test_a_stable_workload_that_fails_on_the_way_stops_it_there(world: RoutedWorld) -> None:
    world.settings["between"] = "errors"
    change = finish(planned(world.adapter(), world.target()))

    async def ask(name: str) -> CheckResult:
        world.replicas("web", 1)
        return CheckResult(name, Verdict.BAD, "")

    with pytest.raises(AdapterError, match="not ready for all of the traffic") as failed:
        finish(world.adapter().apply_in_stages(change, ask))
    assert not failed.value.permanent
    assert world.weights() == [34, 6]
    world.replicas("web", 2)
    wait_until(lambda: world.available("web") == 2, "both pods again")
    assert finish(perform(world.adapter(), change)) is Progress.DONE


def test_more_pods_are_asked_for_where_the_settings_say_so(world: RoutedWorld) -> None:
    world.settings["at_least"] = 3
    assert "takes 3 pods" in str(refusal(world))


def test_a_route_that_flagger_drives_is_refused(world: RoutedWorld) -> None:
    owner = {"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "web", "uid": "1", "controller": True}
    world.cluster.api("PATCH", world.at, {"metadata": {"ownerReferences": [owner]}}, MERGE_PATCH)
    refused = refusal(world)
    assert refused.permanent
    assert "Canary web (its owner reference)" in str(refused)


def test_a_route_that_its_owner_would_take_back_is_refused_unless_the_plan_deals_with_it(world: RoutedWorld) -> None:
    tracking = {"argocd.argoproj.io/tracking-id": "shop:networking.istio.io/VirtualService:shop/web"}
    world.cluster.api("PATCH", world.at, {"metadata": {"annotations": tracking}}, MERGE_PATCH)
    assert "it belongs to the Argo CD application shop" in str(refusal(world))
    world.settings["despite"] = "argo"
    assert roll_back(world) is Progress.DONE


def test_a_route_that_the_server_would_not_change_is_refused(world: RoutedWorld) -> None:
    def denying(_of: Any) -> Any:
        raise Refused(403, "Forbidden", "weights are frozen")

    world.cluster.admit(denying)
    wait_until(lambda: "denied the request: weights are frozen" in why_refused(world), "a webhook that is asked")
    assert world.weights() == [30, 10]


ISTIO = {"istio": {"virtualService": {"name": "web", "routes": ["main"]}}}
SEVERAL = {"istio": {"virtualServices": [{"name": "web"}]}}
PLUGIN = {"plugins": {"argoproj-labs/gatewayAPI": {"httpRoute": "web"}}}


@pytest.mark.parametrize(
    ("kind", "routing"),
    [(RoutedWorld, ISTIO), (RoutedWorld, SEVERAL), (GatewayWorld, PLUGIN)],
    ids=["one", "several", "gateway"],
)
def test_a_route_that_a_rollout_drives_is_refused(
    cluster: Cluster, tmp_path: Path, kind: type[RoutedWorld], routing: dict[str, Any]
) -> None:
    world = kind(cluster, tmp_path)
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{world.namespace}/rollouts"
    world.make(path, "argoproj.io/v1alpha1", "Rollout", "web", {"strategy": {"canary": {"trafficRouting": routing}}})
    refused = refusal(world)
    assert refused.permanent
    assert "the Rollout web" in str(refused)
    assert "kubectl argo rollouts abort" in str(refused)
    world.settings["despite"] = "rollouts"
    assert roll_back(world) is Progress.DONE


def test_without_rollouts_and_keda_in_the_cluster_nothing_is_missed(world: RoutedWorld, fake: FakeKubernetes) -> None:
    fake.absent |= {"argoproj.io", "keda.sh"}
    world.settings["scale_down"] = True
    assert finish(problems(world.adapter())) == ()
    assert roll_back(world) is Progress.DONE


@BOTH
def test_a_cluster_without_the_crd_is_told(
    cluster: Cluster, tmp_path: Path, fake: FakeKubernetes, kind: type[RoutedWorld]
) -> None:
    world = kind(cluster, tmp_path)
    fake.absent.add(world.group)
    assert f"there is no {world.route}/web" in finish(problems(world.adapter()))[0].text


# -- what a gateway says ------------------------------------------------------------------------
def test_a_route_that_its_gateway_has_not_seen_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    world = GatewayWorld(cluster, tmp_path)
    world.cluster.freeze()
    world.set_weights(20, 20)
    assert "gateway edge has not seen it yet (Accepted)" in str(refusal(world))


def test_a_route_whose_services_are_not_there_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    world = GatewayWorld(cluster, tmp_path, weights=(30, 10, 5))  # there is no web-other
    assert "gateway edge says ResolvedRefs is False" in str(refusal(world))


def test_each_stage_waits_until_the_gateway_has_taken_it_over(cluster: Cluster, tmp_path: Path) -> None:
    world = GatewayWorld(cluster, tmp_path)
    change = finish(planned(world.adapter(), world.target()))
    world.hang()
    with pytest.raises(AdapterError, match=r"gateway edge has not seen it yet \(Accepted\), after 500ms"):
        finish(world.adapter().apply(change))
    assert world.weights() == [34, 6]
    world.settings["timeout"] = "20s"
    world.cluster.thaw()
    world.cluster.api("PATCH", world.at, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH)
    assert finish(perform(world.adapter(), change)) is Progress.DONE


# -- which rule ---------------------------------------------------------------------------------
def test_without_its_name_the_only_rule_that_fits_is_meant(world: RoutedWorld) -> None:
    del world.settings["rule"]
    assert roll_back(world) is Progress.DONE
    assert world.weights() == [40, 0]


def test_two_rules_that_fit_need_a_name(world: RoutedWorld) -> None:
    del world.settings["rule"]
    rule = {**world.read()["spec"]["http"][1], "name": "second"}
    world.cluster.api("PATCH", world.at, [{"op": "add", "path": "/spec/http/-", "value": rule}], JSON_PATCH)
    assert (
        "it has 2 rules that send traffic to web and web-canary once each" in finish(problems(world.adapter()))[0].text
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rule": "other"}, "it has no rule called other that sends traffic to web and web-canary once each"),
        ({"canary": "web-next"}, "it has no rule called main that sends traffic to web and web-next once each"),
        ({"stable": "web:v1"}, "it has no rule called main that sends traffic to web:v1 and web-canary once each"),
    ],
    ids=["the rule", "the destination", "the subset"],
)
def test_what_is_not_in_the_route_is_told(world: RoutedWorld, changed: dict[str, str], said: str) -> None:
    world.settings |= changed
    assert said in finish(problems(world.adapter()))[0].text


def test_a_rule_that_sends_no_traffic_is_told(cluster: Cluster, tmp_path: Path) -> None:
    world = RoutedWorld(cluster, tmp_path)
    world.set_weights(0, 0)
    assert "so it sends no traffic anywhere" in finish(problems(world.adapter()))[0].text


def test_subsets_are_named_after_a_colon(world: RoutedWorld) -> None:
    operations = [
        {"op": "add", "path": f"/spec/http/1/route/{n}/destination", "value": {"host": "web", "subset": subset}}
        for n, subset in enumerate(("v1", "v2"))
    ]
    world.cluster.api("PATCH", world.at, operations, JSON_PATCH)
    world.settings |= {"stable": "web:v1", "canary": "web:v2"}
    assert roll_back(world) is Progress.DONE
    assert world.weights() == [40, 0]


# -- scaling down -------------------------------------------------------------------------------
def test_the_canary_is_scaled_down_only_when_asked_and_only_at_the_end(world: RoutedWorld) -> None:
    assert roll_back(world) is Progress.DONE
    assert world.available("web-canary") == 2
    world.set_weights(30, 10)
    world.settings |= {"scale_down": True, "between": "errors"}
    change = finish(planned(world.adapter(), world.target(), key="contract-2/0/layer"))
    assert "deployment/web-canary is scaled to 0 in the end" in change.risks
    pods: list[int] = []

    async def ask(name: str) -> CheckResult:
        pods.append(world.available("web-canary"))
        return CheckResult(name, Verdict.GOOD, "")

    finish(world.adapter().apply_in_stages(change, ask))
    assert pods == [2, 2]
    wait_until(lambda: world.available("web-canary") == 0, "the end of its pods")
    assert world.available("web") == 2


def test_a_canary_that_keda_scales_is_not_scaled_down(world: RoutedWorld) -> None:
    world.settings["scale_down"] = True
    spec = {"scaleTargetRef": {"name": "web-canary"}, "triggers": TRIGGERS}
    path = f"/apis/keda.sh/v1alpha1/namespaces/{world.namespace}/scaledobjects"
    world.make(path, "keda.sh/v1alpha1", "ScaledObject", "web-canary", spec)
    assert "KEDA's web-canary would scale it up again; leave `scale_down` out" in str(refusal(world))


def test_a_canary_whose_workload_is_gone_goes_to_0_all_the_same(world: RoutedWorld) -> None:
    world.settings["scale_down"] = True
    world.cluster.api("DELETE", f"{world.apps}/web-canary")
    assert roll_back(world) is Progress.DONE
    assert world.weights() == [40, 0]


def asked(kind: type[RoutedWorld]) -> list[tuple[str, str, str]]:
    known = {
        "adapter": "canary",
        "cluster": "prod",
        "namespace": "shop",
        "route": f"{kind.route}/web",
        "stable": "web",
        "canary": "web-canary",
        "stable_workload": "deployment/web",
        "canary_workload": "deployment/web-canary",
        "scale_down": True,
    }
    return canary.rights(CanarySettings.model_validate(known))


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        *((RoutedWorld, right) for right in asked(RoutedWorld)),
        *((GatewayWorld, right) for right in asked(GatewayWorld)[:2]),
    ],
    ids=lambda of: f"{of[0]} {of[2]}" if isinstance(of, tuple) else of.route,
)
def test_each_right_that_is_missing_is_named(
    cluster: Cluster, tmp_path: Path, kind: type[RoutedWorld], right: tuple[str, str, str]
) -> None:
    world = kind(cluster, tmp_path)
    world.settings["scale_down"] = True
    verb, group, resource = right
    world.cluster.deny(verb, group, resource)
    (problem,) = finish(problems(world.adapter()))
    assert f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{verb}]}}' in problem.text
