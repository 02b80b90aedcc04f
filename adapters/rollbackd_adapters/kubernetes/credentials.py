"""Who asks a cluster, and where it is: read by the library `kubernetes_asyncio`, from a kubeconfig or within a pod.

Nothing else of the library is used. Its client has no time limits, takes proxies of the environment and logs bodies;
requests go through `rollbackd.system.http_client` like all others. It is imported on first use, on a thread: that takes
most of a second and 40 MiB.
"""

import asyncio
import base64
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from yaml import YAMLError

from rollbackd.adapter import AdapterError
from rollbackd.syntax.clusters import ClusterSettings
from rollbackd.syntax.connections import Tls, unfit
from rollbackd.system.certificates import CertificateTrouble, try_tls
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
_IN_FILES = (("_cluster", "certificate-authority"), ("_user", "client-certificate"), ("_user", "client-key"))
"""What a kubeconfig has in a file or, encoded, under the same key with `-data`; and which part of it."""
_MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""What the library raises for files that are none, besides its own."""


@dataclass(frozen=True, slots=True, repr=False)
class ClusterCredentials:
    """What a request needs."""

    server: str
    connection: HttpConnection
    until: float
    """By the clock's monotonic time: read them again then."""


class _FilesInMemory(ExitStack):
    """Certificates and keys for a library that takes them from files alone. These are in memory: a full disk does not
    matter, and nothing is left of them when the process is killed."""

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, str] = {}

    def hold(self, key: str, pem: bytes) -> str:
        """A path by which this process reads it until the end. :param key: what the kubeconfig calls it."""
        file = self.enter_context(os.fdopen(os.memfd_create(key), "wb", buffering=0))
        os.fchmod(file.fileno(), 0o600)
        file.write(pem)
        path = f"/proc/self/fd/{file.fileno()}"
        self._keys[path] = key
        return path

    def named(self, text: str) -> str:
        """A sentence about a path, for people."""
        for path, key in self._keys.items():
            text = text.replace(path, key)
        return text


async def load_credentials(name: str, settings: ClusterSettings, spawner: Spawner, clock: Clock) -> ClusterCredentials:
    """Read them anew.

    :raises AdapterError: they cannot be read; permanent only where the library is missing.
    """
    try:
        library = await asyncio.to_thread(_library)
    except ImportError:
        raise AdapterError(f"cluster {name}: {EXTRA}", permanent=True) from None
    where = settings.kubeconfig or "the service account of this pod"
    files = _FilesInMemory()
    try:
        with files:
            async with asyncio.timeout(settings.request_timeout.total_seconds()):
                found, lasting = await library.read(settings, spawner, clock, files)
                server, connection = await in_thread(_connection, found)
    except TimeoutError:
        raise AdapterError(f"cluster {name}: no credentials in time from {where}", permanent=False) from None
    except AdapterError as error:
        raise AdapterError(f"cluster {name}: {error}", permanent=False) from None
    except CertificateTrouble as error:
        raise AdapterError(f"cluster {name}: {where}: {files.named(str(error))}", permanent=False) from None
    except (library.fault, YAMLError, *_MALFORMED) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        # A text that quotes its file could quote what is secret in it; the library's own name only keys.
        said = one_line(words)[:200] if isinstance(error, (library.fault, OSError)) else "it is not what kubectl reads"
        raise AdapterError(f"cluster {name}: {where}: {said}; correct it", permanent=False) from None
    return ClusterCredentials(server, connection, clock.monotonic() + lasting.total_seconds())


def _connection(found: Any) -> tuple[str, HttpConnection]:
    """Where it is, and what goes along; it blocks.

    :raises AdapterError: not permanent, for what is not done here.
    :raises CertificateTrouble: one cannot be used.
    """
    server = str(found.host)
    if not found.verify_ssl:
        text = "insecure-skip-tls-verify is not followed; give certificate-authority, which may be the server's own"
        raise AdapterError(text, permanent=False)
    if found.proxy:
        raise AdapterError("proxy-url is not followed; leave it out", permanent=False)
    token = str(found.api_key.get("BearerToken", "")).strip()
    if unfit(token):
        raise AdapterError(f"its token {unfit(token)}", permanent=False)
    headers = {"Authorization": token} if token else {}
    tls = trusted = None
    if server.startswith("https"):
        tls = Tls(server_name=found.tls_server_name or "")
        trusted = try_tls(Tls(ca=found.ssl_ca_cert, cert=found.cert_file, key=found.key_file))
    secrets = tuple(filter(None, (token, token.partition(" ")[2])))
    return server, HttpConnection(server, headers, tls, "", secrets, confidential=True, trusted=trusted)


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

        def hold_data(self, files: _FilesInMemory) -> None:
            """Keep the library from writing keys into files, which would be there until the process exits."""
            for node, name in _IN_FILES:
                given = getattr(self, node)
                if given is not None and (data := given.safe_get(f"{name}-data")):
                    given.value[name] = files.hold(f"{name}-data", base64.standard_b64decode(data))
                    del given.value[f"{name}-data"]

        async def load_from_exec_plugin(self) -> bool:
            settings, spawner, clock, files = self._started
            assert self._user is not None
            status = await _plugin_status(self._user["exec"].value, settings, spawner)
            if expires := status.get("expirationTimestamp"):
                self.lasting = max(timedelta(), time_told(expires) - clock.now() - _BEFORE)
            if "token" in status:
                self.token = f"Bearer {status['token']}"
            if "clientCertificateData" in status:
                for attribute, key in (("cert_file", "clientCertificateData"), ("key_file", "clientKeyData")):
                    setattr(self, attribute, files.hold(key, status[key].encode()) if status.get(key) else None)
            return True

    class Library:
        fault = ConfigException

        @staticmethod
        async def read(
            settings: ClusterSettings, spawner: Spawner, clock: Clock, files: _FilesInMemory
        ) -> tuple[Any, timedelta]:
            found = Configuration()
            if settings.in_cluster:
                incluster_config.load_incluster_config(found, try_refresh_token=False)  # type: ignore[no-untyped-call]
                return found, _KEPT
            place = settings.kubeconfig or ""
            if not await in_thread(Path(place).exists):  # the library would log that besides
                raise FileNotFoundError(2, "no such file")
            merged = kube_config.KubeConfigMerger(place).config
            loader = Loader(merged, active_context=settings.context, config_base_path=None)
            loader._started = settings, spawner, clock, files  # noqa: SLF001  # the library makes it with its own arguments
            loader.hold_data(files)
            await loader.load_and_set(found)
            return found, loader.lasting

    return Library
