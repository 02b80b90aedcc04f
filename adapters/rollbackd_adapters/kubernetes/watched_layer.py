"""What layers have in common that are one object of a cluster: looks that come round are answered by a watch."""

from collections.abc import Sequence
from typing import TypeVar

from rollbackd.model import Release
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.kubernetes import lacking
from rollbackd_adapters.kubernetes.client import KubernetesClient, client_of, identified_client
from rollbackd_adapters.kubernetes.settings import InNamespace
from rollbackd_adapters.kubernetes.watch import told_of

InNamespaceT = TypeVar("InNamespaceT", bound=InNamespace)


def rights(path: str) -> list[tuple[str, str, str]]:
    """Verb, API group and resource of what a watch needs, by the path of an object."""
    parts = path.split("/")
    group = parts[2] if parts[1] == "apis" else ""
    return [("list", group, parts[-2]), ("watch", group, parts[-2])]


class WatchedLayer(StepAdapter[InNamespaceT]):
    """One object. What acts asks the cluster, always."""

    _path: str
    """Of the object in the API."""
    _is_watched = True
    """Whether the object alone says which release is there."""

    async def current(self) -> Release:
        told = None
        if self._is_watched:
            told = told_of(client_of(self._place, self._settings.cluster), self._path, self._clock)
        return await self.asked() if told is None else await self._of(told)

    async def asked(self) -> Release:
        raise NotImplementedError

    async def unwatched(self) -> Sequence[str]:
        if not self._is_watched:
            return []
        missing = await lacking.missing_rights(await self._client(), self._settings.namespace, rights(self._path))
        return [
            f"{text}, so that its looks are answered by a watch; until then each asks the cluster" for text in missing
        ]

    async def _of(self, told: bytes) -> Release:
        """The release of what a watch told."""
        raise NotImplementedError

    async def _present_release(self) -> Release:
        return await self.asked()

    async def _client(self) -> KubernetesClient:
        return await identified_client(self._place, self._settings.cluster)
