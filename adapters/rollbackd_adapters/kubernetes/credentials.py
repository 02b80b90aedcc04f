"""Who asks a cluster, and where it is: read by the library `kubernetes_asyncio`, from a kubeconfig or within a pod.

Nothing else of the library is used. Its client has no time limits, takes proxies of the environment and logs bodies;
requests go through `rollbackd.system.http_client` like all others. It is imported on first use, on a thread: that takes
most of a second and 40 MiB.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from yaml import YAMLError

from rollbackd.adapter import AdapterError
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.syntax.connections import Tls, unfit
from rollbackd.system.clock import Clock
from rollbackd.system.http_connection import HttpConnection
from rollbackd.system.spawner import Spawner, SpawnError, one_line
from rollbackd_adapters.listed import time_told
from rollbackd_adapters.threads import in_thread

EXTRA = "the Python package kubernetes_asyncio is missing; pip install 'rollbackd[kubernetes]'"
_KEPT = timedelta(minutes=1)
"""How long credentials are used before they are read again; a service account's token changes within the hour."""
_BEFORE = timedelta(seconds=30)
"""So long before they expire they are read again."""
_LONGEST_ANSWER = 2**20
_MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""What the library raises for files that are none, besides its own."""


@dataclass(frozen=True, slots=True, repr=False)
class ClusterCredentials:
    """What a request needs."""

    server: str
    connection: HttpConnection
    until: float
    """By the clock's monotonic time: read them again then."""


async def load_credentials(name: str, settings: ClusterSettings, spawner: Spawner, clock: Clock) -> ClusterCredentials:
    """Read them anew.

    :raises AdapterError: they cannot be read; permanent only where the library is missing.
    """
    try:
        library = await asyncio.to_thread(_library)
    except ImportError:
        raise AdapterError(f"cluster {name}: {EXTRA}", permanent=True) from None
    where = settings.kubeconfig or "the service account of this pod"
    try:
        async with asyncio.timeout(settings.request_timeout.total_seconds()):
            found, lasting = await library.read(settings, spawner, clock)
    except TimeoutError:
        raise AdapterError(f"cluster {name}: no credentials in time from {where}", permanent=False) from None
    except AdapterError as error:
        raise AdapterError(f"cluster {name}: {error}", permanent=False) from None
    except (library.fault, YAMLError, *_MALFORMED) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        # A text that quotes its file could quote what is secret in it; the library's own name only keys.
        said = one_line(words)[:200] if isinstance(error, (library.fault, OSError)) else "it is not what kubectl reads"
        raise AdapterError(f"cluster {name}: {where}: {said}; correct it", permanent=False) from None
    return ClusterCredentials(*_connection(name, found), clock.monotonic() + lasting.total_seconds())


def _connection(name: str, found: Any) -> tuple[str, HttpConnection]:
    """Where it is, and what goes along. :raises AdapterError: not permanent, for what is not done here."""
    server = str(found.host)
    if not found.verify_ssl:
        text = "insecure-skip-tls-verify is not followed; give certificate-authority, which may be the server's own"
        raise AdapterError(f"cluster {name}: {text}", permanent=False)
    if found.proxy:
        raise AdapterError(f"cluster {name}: proxy-url is not followed; leave it out", permanent=False)
    token = str(found.api_key.get("BearerToken", "")).strip()
    if unfit(token):
        raise AdapterError(f"cluster {name}: its token {unfit(token)}", permanent=False)
    headers = {"Authorization": token} if token else {}
    tls = None
    if server.startswith("https"):
        tls = Tls(
            ca=found.ssl_ca_cert, cert=found.cert_file, key=found.key_file, server_name=found.tls_server_name or ""
        )
    secrets = tuple(filter(None, (token, token.partition(" ")[2])))
    return server, HttpConnection(server, headers, tls, "", secrets, confidential=True)


async def _plugin_status(plugin: Mapping[str, Any], settings: ClusterSettings, spawner: Spawner) -> Mapping[str, Any]:
    """What a program that a kubeconfig names says; its output is a secret and goes nowhere else.

    https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins

    :raises AdapterError: not permanent, it gives no credentials.
    """
    asked = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    env = {str(each["name"]): str(each["value"]) for each in plugin.get("env") or ()}
    argv = [str(plugin["command"]), *map(str, plugin.get("args") or ())]
    env["KUBERNETES_EXEC_INFO"] = json.dumps(asked)
    try:
        ran = await spawner.run(argv, timeout=settings.request_timeout, env=env, limit=_LONGEST_ANSWER)
    except SpawnError as error:
        raise AdapterError(str(error), permanent=False) from None
    if not ran.ok:
        raise AdapterError(f"{argv[0]}, which gets the credentials: {ran.ending}", permanent=False)
    try:
        status = json.loads(ran.stdout)["status"]
    except (ValueError, LookupError, TypeError, RecursionError):
        status = None
    if not isinstance(status, dict) or not {"token", "clientCertificateData"} & status.keys():
        raise AdapterError(f"{argv[0]}, which gets the credentials, answered none", permanent=False)
    return status


@cache
def _library() -> Any:
    """The library's parts, with a loader whose programs our spawner starts. :raises ImportError: it is not there."""
    from kubernetes_asyncio.client.configuration import Configuration
    from kubernetes_asyncio.config import ConfigException, incluster_config, kube_config

    class Loader(kube_config.KubeConfigLoader):
        """Reads one context of a kubeconfig; keeps nothing and writes nothing back."""

        lasting = _KEPT
        _started: Any = None

        async def load_from_exec_plugin(self) -> bool:
            settings, spawner, clock = self._started
            assert self._user is not None
            status = await _plugin_status(self._user["exec"].value, settings, spawner)
            if expires := status.get("expirationTimestamp"):
                self.lasting = max(timedelta(), time_told(expires) - clock.now() - _BEFORE)
            if "token" in status:
                self.token = f"Bearer {status['token']}"
            if "clientCertificateData" in status:
                for attribute, key in (("cert_file", "clientCertificateData"), ("key_file", "clientKeyData")):
                    data = kube_config.FileOrData(status, "", data_key_name=key, base64_file_content=False)
                    setattr(self, attribute, data.as_file())
            return True

    class Library:
        fault = ConfigException

        @staticmethod
        async def read(settings: ClusterSettings, spawner: Spawner, clock: Clock) -> tuple[Any, timedelta]:
            found = Configuration()
            if settings.in_cluster:
                incluster_config.load_incluster_config(found, try_refresh_token=False)  # type: ignore[no-untyped-call]
                return found, _KEPT
            place = settings.kubeconfig or ""
            if not await in_thread(Path(place).exists):  # the library would log that besides
                raise FileNotFoundError(2, "no such file")
            merged = kube_config.KubeConfigMerger(place).config
            loader = Loader(merged, active_context=settings.context, config_base_path=None)
            loader._started = settings, spawner, clock  # noqa: SLF001  # the library makes it with its own arguments
            await loader.load_and_set(found)
            return found, loader.lasting

    return Library
