"""What several contracts are tried on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import Cluster, FakeCluster, fake_cluster
from tests.contract.files_worlds import fill
from tests.fakes.gatehouse import Gatehouse
from tests.fakes.kubernetes_api import FakeKubernetes
from tests.leftovers import no_mount_is_left
from tests.real_cluster import real_cluster

__all__ = ["no_mount_is_left"]


@pytest.fixture
def gate() -> Iterator[Gatehouse]:
    """A service that can be frozen and drained."""
    made = Gatehouse()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_fake() -> Iterator[FakeCluster]:
    """That of all tests of a module."""
    with fake_cluster() as made:
        yield made


@pytest.fixture(scope="module")
def shared_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The real one where KUBECONFIG names it, else the fake."""
    if not (path := os.environ.get("KUBECONFIG", "")):
        yield request.getfixturevalue("shared_fake")
        return
    if not (context := os.environ.get("KUBECONTEXT", "")):
        pytest.fail("KUBECONFIG is set: name its context in KUBECONTEXT too, or unset both for the fake", pytrace=False)
    with real_cluster(path, context) as made:
        yield made


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster without anything of another test; always the fake for who asks for `fake` too."""
    made = request.getfixturevalue("shared_fake" if "fake" in request.fixturenames else "shared_cluster")
    request.node.user_properties.append(("kubernetes", made.version))
    yield made
    made.as_new()


@pytest.fixture
def fake(cluster: FakeCluster) -> FakeKubernetes:
    """The fake, for what no other cluster does to order."""
    return cluster.fake


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A configuration of an application, in `tmp_path/conf`."""
    fill(tmp_path / "conf", 1)
    return tmp_path / "conf"
