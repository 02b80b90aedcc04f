"""Following a cluster: what a look at the API keeps and tells, whatever stands in labels there."""

from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from rollbackd import facts
from rollbackd.config.followed import found_in
from rollbackd.config.load import load
from rollbackd.execution.followed_services import ServicesFollower
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from rollbackd.testing import finish
from tests.clusters import MERGE_PATCH, Cluster
from tests.contract.kubernetes_worlds import StatefulWorld, WorkloadWorld
from tests.fakes.kubernetes_api import FakeKubernetes

LABEL = "example.com/service"


class Told:
    """What people are told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.unreachable: list[tuple[str, bool]] = []

    async def tell(self, notice: facts.Notice) -> None:
        if notice.kind == "backend_unreachable":
            self.unreachable.append((notice.text, notice.over))
        else:
            assert notice.kind == "services_followed"
            self.texts.append(notice.text)


class Following:
    """A follower of two namespaces, as a daemon has one that was just started."""

    def __init__(self, cluster: Cluster, path: Path, *namespaces: str, **more: Any) -> None:
        self.path = path
        template = {
            "match": {"service": "{name}"},
            "layers": {
                "code": {
                    "adapter": "kubernetes",
                    "cluster": "prod",
                    "namespace": "{namespace}",
                    "workload": "{workload}",
                }
            },
            "verify": {"checks": [{"tcp": "127.0.0.1:1"}]},
        }
        entry = {"cluster": "prod", "namespaces": list(namespaces), "label": LABEL, "template": template, **more}
        written = {
            "daemon": {"mode": "act", "open_on_loopback": True, "scratch": str(path)},
            "clusters": {"prod": cluster.settings.model_dump(mode="json", exclude_defaults=True)},
            "services_from": [entry],
        }
        (path / "config.yaml").write_text(yaml.safe_dump(written))
        self.told = Told()
        self.changes = 0
        self.follower = self.new()

    def new(self) -> ServicesFollower:
        clock = SystemClock()
        config = load(self.path / "config.yaml").config
        made = ServicesFollower(config, cast("ReadModel", self.told), Spawner(self.path / "locks", clock), clock)
        made.on_change = self.changed
        return made

    def changed(self) -> None:
        self.changes += 1

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            finish(self.follower.look(0))

    @property
    def names(self) -> list[str]:
        return [each.name for each in found_in(self.path) if each.gone is None]


def label(world: WorkloadWorld, value: str | None) -> None:
    world.cluster.api("PATCH", world.at, {"metadata": {"labels": {LABEL: value}}}, MERGE_PATCH)


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> WorkloadWorld:
    return WorkloadWorld(cluster, tmp_path / "web", history=("web:1",))


@pytest.fixture
def following(cluster: Cluster, tmp_path: Path, world: WorkloadWorld) -> Following:
    return Following(cluster, tmp_path, world.namespace)


def test_only_what_has_the_label_takes_part_by_the_name_in_it(following: Following, world: WorkloadWorld) -> None:
    following.look()
    assert (following.names, following.told.texts, following.changes) == ([], [], 0)
    label(world, "shop")
    following.look(3)
    assert following.names == ["shop"]
    assert following.told.texts == [
        f"shop is new as deployment/web in {world.namespace} of prod, in shadow mode unless `act` names it"
    ]
    assert following.changes == 1
    (service,) = load(following.path / "config.yaml").config.services
    assert service.layers["code"].model_dump()["workload"] == "deployment/web"


def test_what_loses_the_label_is_parked_and_what_gets_it_again_is_back(
    following: Following, world: WorkloadWorld
) -> None:
    label(world, "shop")
    following.look()
    label(world, None)
    following.follower = following.new()
    following.look(2)
    assert load(following.path / "config.yaml").config.services == ()
    label(world, "shop")
    following.look()
    assert [text.partition(":")[0].partition(" as")[0] for text in following.told.texts] == [
        "shop is new",
        "shop is gone",
        "shop is back",
    ]
    assert following.changes == 3


def test_two_of_one_name_are_refused_and_told_once(cluster: Cluster, tmp_path: Path, world: WorkloadWorld) -> None:
    other = StatefulWorld(cluster, tmp_path / "other", history=("web:1",))
    following = Following(cluster, tmp_path, world.namespace, other.namespace)
    label(world, "shop")
    label(other, "shop")
    following.look(3)
    assert following.names == []
    (text,) = following.told.texts
    assert text.count("is refused, since another service has that name; rename one") == 2
    assert following.changes == 0


def test_no_more_than_so_many_take_part(cluster: Cluster, tmp_path: Path, world: WorkloadWorld) -> None:
    other = StatefulWorld(cluster, tmp_path / "other", history=("web:1",))
    following = Following(cluster, tmp_path, world.namespace, other.namespace, at_most=1)
    label(world, "one")
    label(other, "two")
    following.look()
    assert len(following.names) == 1
    assert "is refused, since 1 take part; raise `at_most`" in following.told.texts[0]


@pytest.mark.parametrize("value", ["-rf", "$(id)", "a b", "../x", "Upper", "a\nb", "", "x" * 64])
def test_a_label_that_is_no_name_of_a_service_does_no_harm(
    following: Following, world: WorkloadWorld, fake: FakeKubernetes, value: str
) -> None:
    label(world, value)
    following.look()
    assert (following.names, following.changes) == ([], 0)
    label(world, "shop")
    following.look()
    assert following.names == ["shop"]


def test_a_cluster_that_cannot_be_asked_changes_nothing(
    following: Following, world: WorkloadWorld, fake: FakeKubernetes
) -> None:
    label(world, "shop")
    following.look()
    fake.denied.add(("list", "statefulsets"))
    following.look(4)
    assert following.told.unreachable == []
    following.look(3)
    assert (following.names, following.changes, len(following.told.texts)) == (["shop"], 1, 1)
    ((text, over),) = following.told.unreachable
    assert not over
    assert 'cannot list resource "statefulsets"' in text
    fake.denied.clear()
    following.look(2)
    assert following.told.unreachable[1:] == [("cluster prod: it answers again", True)]
