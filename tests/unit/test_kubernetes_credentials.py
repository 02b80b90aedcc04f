"""Who asks a cluster: within a pod, and where the library is missing."""

from datetime import timedelta
from pathlib import Path

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from rollbackd_adapters.kubernetes import credentials

CLOCK = SystemClock()
HERE = ClusterSettings(in_cluster=True, uid="0b8f3c52-7e0f-4c1c-9a55-3d3f5d1c2a10")


async def load(settings: ClusterSettings = HERE) -> credentials.ClusterCredentials:
    return await credentials.load_credentials("here", settings, Spawner(), CLOCK)


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files and variables that a pod has."""
    from kubernetes_asyncio.config import incluster_config

    (tmp_path / "token").write_text("t0ken-of-the-account\n")
    (tmp_path / "ca.crt").write_text("certificates")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return tmp_path


async def test_in_a_pod_its_service_account_asks(pod: Path) -> None:
    found = await load()
    assert found.server == "https://[fd00::1]:443"
    assert found.connection.headers == {"Authorization": "Bearer t0ken-of-the-account"}
    assert found.connection.tls is not None
    assert found.connection.tls.ca == str(pod / "ca.crt")
    assert "t0ken" not in repr(found)
    assert found.connection.masked("said t0ken-of-the-account") == "said ***"


async def test_a_token_that_was_replaced_is_read_when_it_is_loaded_again(pod: Path) -> None:
    await load()
    (pod / "token").write_text("another")
    assert (await load()).connection.headers == {"Authorization": "Bearer another"}
    assert (await load()).until <= CLOCK.monotonic() + timedelta(minutes=1).total_seconds()


async def test_outside_of_a_pod_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(
        AdapterError, match="cluster here: the service account of this pod: Service host/port is not set"
    ):
        await load()


async def test_a_token_with_a_line_break_within_is_refused_and_not_shown(pod: Path) -> None:
    (pod / "token").write_text("t0ken\nX-Other: 1")
    with pytest.raises(AdapterError, match="its token has a line break in it") as refused:
        await load()
    assert "t0ken" not in str(refused.value)


async def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("kubernetes_asyncio")

    monkeypatch.setattr(credentials, "_library", missing)
    with pytest.raises(AdapterError, match=r"pip install 'rollbackd\[kubernetes\]'") as refused:
        await load()
    assert refused.value.permanent


async def test_a_kubeconfig_that_is_not_there_is_told() -> None:
    settings = ClusterSettings(kubeconfig="/nonexistent/kubeconfig", context="a", uid=HERE.uid)
    with pytest.raises(AdapterError, match="cluster here: /nonexistent/kubeconfig: no such file"):
        await load(settings)
