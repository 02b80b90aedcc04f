"""`rollbackd discover kubernetes`: what a cluster has, as services that load as they are printed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from rollbackd.cli.commands import app
from rollbackd.config.load import load
from tests.clusters import MERGE_PATCH, Cluster
from tests.contract.kubernetes_worlds import DaemonWorld, StatefulWorld, WorkloadWorld
from tests.fakes.kubernetes_api import FakeKubernetes


class Configured:
    """A configuration with the cluster, and the command that reads it."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        self.path = path / "config.yaml"
        self.written: dict[str, Any] = {
            "daemon": {"mode": "act", "open_on_loopback": True},
            "clusters": {"prod": cluster.settings.model_dump(mode="json", exclude_defaults=True)},
        }
        self.write()

    def write(self, **more: object) -> None:
        self.path.write_text(yaml.safe_dump(self.written | more))

    def discover(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["--config", str(self.path), "discover", *arguments])


@pytest.fixture
def configured(cluster: Cluster, tmp_path: Path) -> Configured:
    return Configured(cluster, tmp_path)


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> WorkloadWorld:
    return WorkloadWorld(cluster, tmp_path, history=("web:1",))


def test_what_is_printed_loads_in_shadow_mode_and_touches_nothing(
    configured: Configured, world: WorkloadWorld, tmp_path: Path
) -> None:
    before = world.everything()
    said = configured.discover("kubernetes", "prod", world.namespace)
    assert said.exit_code == 0
    configured.path.write_text(configured.path.read_text() + said.stdout)
    config = load(configured.path).config
    (service,) = config.services
    assert (service.name, config.mode(service)) == ("web", "shadow")
    assert service.match == ({"namespace": world.namespace, "service": "web"},)
    assert service.layers["code"].model_dump()["workload"] == "deployment/web"
    assert world.everything() == before


def test_two_of_one_name_get_names_of_their_own(cluster: Cluster, configured: Configured, tmp_path: Path) -> None:
    worlds = [kind(cluster, tmp_path / kind.kind, history=("web:1",)) for kind in (StatefulWorld, DaemonWorld)]
    namespaces = [world.namespace for world in worlds]
    said = configured.discover("kubernetes", "prod", *namespaces, namespaces[0], "--json")
    services = json.loads(said.stdout)["services"]
    assert [each["name"] for each in services] == ["web", f"web-{namespaces[1]}"]
    assert [each["layers"]["code"]["workload"] for each in services] == ["statefulset/web", "daemonset/web"]


def test_a_name_that_the_configuration_has_is_left_to_it(configured: Configured, world: WorkloadWorld) -> None:
    configured.write(services=[{"name": "web", "layers": {"code": {"adapter": "files", "paths": ["/etc/web"]}}}])
    said = configured.discover("kubernetes", "prod", world.namespace, "--json")
    assert [each["name"] for each in json.loads(said.stdout)["services"]] == [f"web-{world.namespace}"]


def test_what_the_configuration_has_already_is_not_printed_again(configured: Configured, world: WorkloadWorld) -> None:
    layer = {"adapter": "kubernetes", "cluster": "prod", "namespace": world.namespace, "workload": "deployment/web"}
    configured.write(services=[{"name": "shop", "layers": {"web": {**layer, "keep": 5}}}])
    said = configured.discover("kubernetes", "prod", world.namespace)
    assert said.stdout.startswith("services: []")


def test_owners_stand_above_as_comments_that_end_with_their_line(configured: Configured, world: WorkloadWorld) -> None:
    hostile = {"argocd.argoproj.io/tracking-id": "shop\n  - name: evil\x1b[2J:apps"}
    world.cluster.api("PATCH", world.at, {"metadata": {"annotations": hostile}}, MERGE_PATCH)
    said = configured.discover("kubernetes", "prod", world.namespace)
    assert [each["name"] for each in yaml.safe_load(said.stdout)["services"]] == ["web"]
    assert "# it belongs to the Argo CD application shop" in said.stdout
    assert "\x1b" not in said.stdout


@pytest.mark.parametrize("name", ["web$(id)", "a b", "-rf", "web: {x: y}", "../x", "W"])
def test_a_name_that_no_cluster_takes_is_left_out(
    configured: Configured, world: WorkloadWorld, fake: FakeKubernetes, name: str
) -> None:
    found = world.read()
    stranger = {**found, "metadata": {**found["metadata"], "name": name, "ownerReferences": []}}
    fake.frozen = True
    fake.store.add("deployments", stranger)
    said = configured.discover("kubernetes", "prod", world.namespace, "--json")
    fake.frozen = False
    assert [each["name"] for each in json.loads(said.stdout)["services"]] == ["web"]


def test_what_cannot_be_asked_is_told(configured: Configured, world: WorkloadWorld) -> None:
    world.cluster.deny("list", "apps", "deployments")
    said = configured.discover("kubernetes", "prod", world.namespace)
    assert said.exit_code == 1
    assert 'cannot list resource "deployments"' in said.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("kubernetes", "prodd", "shop"), 2, "the configuration has no cluster prodd; there is prod"),
        (("files", "prod", "shop"), 2, "adapter files cannot say what there is; kubernetes can"),
        (("nomad", "prod", "shop"), 2, "adapter nomad cannot say what there is; kubernetes can"),
        (("kubernetes", "prod", "shop/../x"), 1, "'shop/../x' is no namespace; write it like shop"),
    ],
    ids=["cluster", "adapter", "unknown adapter", "namespace"],
)
def test_what_is_asked_wrongly_is_told(
    configured: Configured, arguments: tuple[str, ...], code: int, text: str
) -> None:
    said = configured.discover(*arguments)
    assert (said.exit_code, text in said.stderr) == (code, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusters: {", "config.yaml:1:"),
        ("clusters:\n  prod: {context: prod}\n", "config.yaml:2:3: "),
        ("clusters:\n  prod: {in_cluster: true, uid: 7}\n", "config.yaml:2:28: "),
    ],
    ids=["no YAML", "no way there", "no uid"],
)
def test_clusters_that_are_wrong_are_told_at_their_place(configured: Configured, text: str, said: str) -> None:
    configured.path.write_text(text)
    found = configured.discover("kubernetes", "prod", "shop")
    assert (found.exit_code, said in found.stderr) == (1, True), found.stderr


def test_what_else_is_wrong_with_the_file_stops_nothing(configured: Configured, world: WorkloadWorld) -> None:
    configured.write(servces=[], services=[{"name": "web"}, 7])
    said = configured.discover("kubernetes", "prod", world.namespace, "--json")
    assert [each["name"] for each in json.loads(said.stdout)["services"]] == [f"web-{world.namespace}"]
