"""What several contracts are tried on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import Cluster, a_cluster
from tests.contract.files_worlds import fill
from tests.fakes.gatehouse import Gatehouse
from tests.fakes.kubernetes_api import FakeKubernetes
from tests.leftovers import no_mount_is_left

__all__ = ["no_mount_is_left"]


@pytest.fixture
def gate() -> Iterator[Gatehouse]:
    """A service that can be frozen and drained."""
    made = Gatehouse()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    """That of all tests of a module."""
    with a_cluster() as made:
        yield made


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster without anything of another test."""
    yield shared_cluster
    shared_cluster.as_new()


@pytest.fixture
def fake(cluster: Cluster) -> FakeKubernetes:
    """The fake, for what no other cluster does to order."""
    if cluster.fake is None:
        pytest.skip("only the fake does this to order")
    return cluster.fake


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A configuration of an application, in `tmp_path/conf`."""
    fill(tmp_path / "conf", 1)
    return tmp_path / "conf"
