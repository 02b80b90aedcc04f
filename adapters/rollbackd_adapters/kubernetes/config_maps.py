"""ConfigMaps that go back with the workload that reads them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rollbackd_adapters.kubernetes.client import KubernetesClient, Object
from rollbackd_adapters.kubernetes.owners import owner_refusals, owners_of

_HELD = ("data", "binaryData")


class ConfigMaps:
    """Those of one layer, asked anew each time."""

    def __init__(self, client: KubernetesClient, namespace: str, names: Sequence[str]) -> None:
        self._client = client
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._names = names

    async def read(self) -> dict[str, Object]:
        """The objects, by their names. :raises AdapterError: not permanent, one is not there."""
        found = await asyncio.gather(*map(self._read, self._names))
        return dict(zip(self._names, found, strict=True))

    async def _read(self, name: str) -> Object:
        named = f"ConfigMap {name}, which goes back with the workload"
        return await self._client.existing(f"{self._path}/{name}", named, "bring it back")

    async def write(self, present: Object, held: Object, *, dry_run: bool = False) -> None:
        """Let one hold that, if it is still as it was read. :raises KubernetesError: refused."""
        metadata = present["metadata"]
        guards = [
            {"op": "test", "path": f"/metadata/{key}", "value": metadata[key]} for key in ("uid", "resourceVersion")
        ]
        sets: list[Mapping[str, Any]] = [{"op": "add", "path": f"/{key}", "value": held.get(key, {})} for key in _HELD]
        await self._client.patch(f"{self._path}/{metadata['name']}", [*guards, *sets], dry_run=dry_run)


def held_by(config_map: Object) -> Object:
    """What a ConfigMap holds."""
    return {key: config_map[key] for key in _HELD if config_map.get(key)}


def refusals(config_maps: Mapping[str, Object], despite: Sequence[str]) -> list[str]:
    """Why ConfigMaps cannot go back, a sentence each."""
    found = []
    for name, each in config_maps.items():
        if each.get("immutable"):
            text = "is immutable, so a template names another one each time; take it out of `config_maps`"
            found.append(f"ConfigMap {name} {text}")
        found += [f"ConfigMap {name}: {text}" for text in owner_refusals(owners_of(each, "f:data"), despite)]
    return found
