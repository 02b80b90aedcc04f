"""Who asks a cluster: within a pod, by a certificate that is in no file, and where the library is missing."""

import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollbackd.adapter import AdapterError
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.syntax.connections import Tls
from rollbackd.system.certificates import try_tls
from rollbackd.system.clock import SystemClock
from rollbackd.system.spawner import Spawner
from rollbackd_adapters.kubernetes import credentials
from tests.authority import Authority

CLOCK = SystemClock()
HERE = ClusterSettings(in_cluster=True, uid="0b8f3c52-7e0f-4c1c-9a55-3d3f5d1c2a10")


async def load(settings: ClusterSettings = HERE) -> credentials.ClusterCredentials:
    return await credentials.load_credentials("here", settings, Spawner(), CLOCK)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def pod(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files and variables that a pod has."""
    from kubernetes_asyncio.config import incluster_config

    (tmp_path / "token").write_text("t0ken-of-the-account\n")
    (tmp_path / "ca.crt").write_bytes(authority.certificate.read_bytes())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return tmp_path


async def test_in_a_pod_its_service_account_asks(pod: Path) -> None:
    found = await load()
    assert found.server == "https://[fd00::1]:443"
    assert found.connection.headers == {"Authorization": "Bearer t0ken-of-the-account"}
    assert found.connection.trusted is not None
    assert [each["subject"] for each in found.connection.trusted.get_ca_certs()] == [((("commonName", "authority"),),)]
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


def test_the_library_is_imported_on_first_use_only() -> None:
    code = "import sys, rollbackd_adapters.kubernetes.client as it; sys.exit('kubernetes_asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_kubeconfig_that_is_not_there_is_told() -> None:
    settings = ClusterSettings(kubeconfig="/nonexistent/kubeconfig", context="a", uid=HERE.uid)
    with pytest.raises(AdapterError, match="cluster here: /nonexistent/kubeconfig: no such file"):
        await load(settings)


# -- certificates that are in no file --------------------------------------------------------------
def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def written(path: Path, authority: Authority, **user: Any) -> ClusterSettings:
    """A kubeconfig of that user."""
    cluster = {"server": "https://cluster.example", "certificate-authority-data": encoded(authority.certificate)}
    config = {
        "clusters": [{"name": "there", "cluster": cluster}],
        "users": [{"name": "ours", "user": user}],
        "contexts": [{"name": "there", "context": {"cluster": "there", "user": "ours"}}],
    }
    (path / "kubeconfig").write_text(yaml.safe_dump(config))
    return ClusterSettings(kubeconfig=str(path / "kubeconfig"), context="there", uid=HERE.uid)


def in_a_kubeconfig(_: Path, certificate: Path, key: Path) -> dict[str, Any]:
    return {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}


def of_a_program(path: Path, certificate: Path, key: Path) -> dict[str, Any]:
    status = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    (path / "answer").write_text(json.dumps({"kind": "ExecCredential", "status": status}))
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [f"{path}/answer"]}}


def shown(trusted: ssl.SSLContext, authority: Authority, server: tuple[Path, Path]) -> Any:
    """The name that a server is shown in a handshake."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*server)
    serving.load_verify_locations(authority.certificate)
    serving.verify_mode = ssl.CERT_REQUIRED
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        trusted.wrap_bio(back, there, server_hostname="cluster.example"),
        serving.wrap_bio(there, back, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return (ends[1].getpeercert() or {}).get("subject")


@pytest.mark.parametrize("given", [in_a_kubeconfig, of_a_program])
async def test_a_key_is_used_and_never_in_a_file_that_a_killed_process_would_leave(
    tmp_path: Path,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    given: Callable[[Path, Path, Path], dict[str, Any]],
) -> None:
    temporary, seen = tmp_path / "temporary", list[str]()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def looked(tls: Tls) -> ssl.SSLContext:
        seen.extend(os.listdir(temporary))
        return try_tls(tls)

    monkeypatch.setattr(credentials, "try_tls", looked)
    settings = written(tmp_path, authority, **given(tmp_path, *authority.signed("rollbackd")))
    trusted = (await load(settings)).connection.trusted
    assert trusted is not None
    assert shown(trusted, authority, authority.signed("cluster.example")) == ((("commonName", "rollbackd"),),)
    assert seen + os.listdir(temporary) == []


async def test_a_key_of_another_certificate_is_told_by_the_names_that_the_kubeconfig_has(
    tmp_path: Path, authority: Authority
) -> None:
    pair = (authority.signed("rollbackd")[0], authority.signed("somebody")[1])
    settings = written(tmp_path, authority, **in_a_kubeconfig(tmp_path, *pair))
    said = "kubeconfig: client-certificate-data and client-key-data are no certificate and its key"
    with pytest.raises(AdapterError, match=said) as refused:
        await load(settings)
    assert not refused.value.permanent
