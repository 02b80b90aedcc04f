"""Adapter `drain` counts the pods of a cluster: the contract, and what happens when they cannot be counted."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError
from rollbackd.system import boundary
from rollbackd.testing import KEY, BracketContract, BracketWorld, finish
from rollbackd_adapters.drain import DrainAdapter, DrainSettings
from tests.clusters import MERGE_PATCH, Cluster
from tests.contract.worlds import script


class ExportsWorld(BracketWorld):
    """A desk whose exports are pods; who enters puts a flag there."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        cluster.thaw()
        self.cluster, self.path = cluster, path
        self.namespace = cluster.namespace()
        self.at = f"/api/v1/namespaces/{self.namespace}/pods"
        self.flag, self.log = path / "draining", path / "log"
        path.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self._command = {
            "enter": [script(path / "bin/enter", f"[ -e {self.flag} ] || echo in >> {self.log}", f"touch {self.flag}")],
            "leave": [script(path / "bin/leave", f"rm -f {self.flag}", f"echo out >> {self.log}")],
        }
        self.begin("server", role="server")
        self.begin("over")
        self.end("over")

    def begin(self, name: str, **labels: str) -> None:
        """One export more, unless its labels say otherwise."""
        metadata = {"name": name, "labels": {"role": "export", **labels}}
        spec = {"containers": [{"name": "export", "image": "shop/export:1"}], "restartPolicy": "Never"}
        self.cluster.api("POST", self.at, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def end(self, name: str) -> None:
        """It has done its work, and stays listed."""
        self.cluster.api("PATCH", f"{self.at}/{name}/status", {"status": {"phase": "Succeeded"}}, MERGE_PATCH)

    def adapter(self, **settings: Any) -> DrainAdapter:
        pods = {"cluster": "prod", "namespace": self.namespace, "label": "role=export"}
        known = {"adapter": "drain", "command": self._command, "pods": pods, "every": "100ms", **settings}
        return DrainAdapter(DrainSettings.model_validate(known), self.cluster.place(self.path))

    def inside(self) -> bool:
        return self.flag.exists()

    def crossings(self) -> int:
        return len(self.log.read_text().splitlines())


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> ExportsWorld:
    return ExportsWorld(cluster, tmp_path)


class TestDrainByPods(BracketContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def make_world(self, path: Path) -> BracketWorld:
        return ExportsWorld(self.cluster, path)


def test_a_session_in_a_pod_is_waited_for_until_it_has_ended(world: ExportsWorld) -> None:
    world.begin("export")
    after: list[str] = []

    def hook(name: str) -> None:
        after.append(name)
        if name == "drain.entered":
            world.end("export")

    boundary.hook = hook
    finish(world.adapter().enter(KEY))
    assert "drain.entered" in after
    assert finish(world.adapter().inside(KEY))
    finish(world.adapter().leave(KEY))
    assert world.log.read_text() == "in\nout\n"


def test_at_the_limit_it_goes_on_or_fails_as_it_says(world: ExportsWorld) -> None:
    world.begin("one")
    world.begin("two")
    finish(world.adapter(limit="300ms", at_most=2).enter(KEY))
    finish(world.adapter().leave(KEY))
    with pytest.raises(AdapterError, match=r"2 sessions are left after 300ms; new ones are taken again\. End them"):
        finish(world.adapter(limit="300ms", at_limit="fail").enter(KEY))
    assert not world.inside()
    left = world.cluster.api("GET", world.at)["items"]
    assert {each["metadata"]["name"] for each in left} == {"one", "two", "over", "server"}, "no pod is touched"


def test_a_right_that_is_missing_is_told_before_anything_is_entered(world: ExportsWorld) -> None:
    assert finish(world.adapter().ready()) == []
    world.cluster.deny("list", "", "pods")
    (problem,) = finish(world.adapter().ready())
    assert f"the Role in namespace {world.namespace} has no line" in problem.text
    assert "resources: [pods], verbs: [list]" in problem.text


def test_a_cluster_that_does_not_answer_is_waited_for_until_the_limit(world: ExportsWorld) -> None:
    world.cluster.kubeconfig.write_text(
        world.cluster.kubeconfig.read_text().replace(world.cluster.api.url, "http://127.0.0.1:1")
    )
    limits = {"limit": "250ms", "answer_within": "200ms"}
    failing, going_on = world.adapter(**limits, at_limit="fail"), world.adapter(**limits)
    (problem,) = finish(failing.ready())
    assert "sessions cannot be counted: cluster prod: " in problem.text
    assert finish(going_on.ready()) == [], "it would go on"
    finish(going_on.enter(KEY))
    assert finish(going_on.inside(KEY))
    assert "sessions cannot be counted" in finish(going_on.note(KEY))


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ({"label": "role in (export)"}, "String should match pattern"),
        ({"label": "role=export,app=web"}, "String should match pattern"),
        ({"namespace": "../shop"}, "String should match pattern"),
        ({}, "sessions are counted in one place; give `sessions`, or `docker` or `pods` with a label"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(pods: dict[str, str], said: str) -> None:
    known: dict[str, Any] = {"cluster": "prod", "namespace": "shop", "label": "role=export", **pods}
    more = {} if pods else {"docker": "role=export"}
    command = {"enter": ["true"], "leave": ["true"]}
    with pytest.raises(ValidationError, match=said):
        DrainSettings.model_validate({"adapter": "drain", "command": command, "pods": known, **more})
