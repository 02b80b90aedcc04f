"""A layer on another host that keeps its own past."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar

from rollbackd.adapter import AdapterError, Difference, Snapshot, SnapshotProblem
from rollbackd.model import Release
from rollbackd_adapters.remote.layer import RemoteAdapter


class RemoteSnapshots(RemoteAdapter):
    """`Snapshots`, asked of the one host. Files stay there: a path is nothing that one host chooses for another."""

    exported: ClassVar[bool] = False

    async def take(self, name: str = "", why: str = "manual") -> Snapshot:
        return await self._ordered("take", name=name, why=why)  # type: ignore[no-any-return]

    async def snapshots(self) -> Sequence[Snapshot]:
        return await self._hosts[0].ask("snapshots")  # type: ignore[no-any-return]

    async def verify(self, name: str) -> Sequence[SnapshotProblem]:
        return await self._hosts[0].ask("verify", self._settings.timeout, name=name)  # type: ignore[no-any-return]

    async def diff(self, older: str, newer: str = "") -> Sequence[Difference]:
        return await self._hosts[0].ask("diff", older=older, newer=newer)  # type: ignore[no-any-return]

    async def restore(self, name: str, key: str, only: Sequence[str] = ()) -> Snapshot:
        return await self._ordered("restore", name=name, key=key, only=only)  # type: ignore[no-any-return]

    async def export_to(self, name: str, path: str) -> None:
        raise self._there(f"write {name} to {path}")

    async def import_from(self, path: str) -> Snapshot:
        raise self._there(f"read {path}")

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        own = {"last": last} if last else {}
        return await self._ordered("prune", spare=list(spare), **own)  # type: ignore[no-any-return]

    async def rehearse(self, name: str) -> Sequence[SnapshotProblem]:
        return await self._hosts[0].ask("rehearse", self._settings.timeout, name=name)  # type: ignore[no-any-return]

    async def _ordered(self, method: str, /, **params: Any) -> Any:
        return (await self._hosts[0].order((method, params)))[0]

    def _there(self, what: str) -> AdapterError:
        return AdapterError(
            f"{self._hosts[0].name} does not {what} for another host; do it there, on the layer itself", permanent=True
        )


class RemoteCopies(RemoteSnapshots):
    """`PointInTime`, `Marks` and `KeepsReplaced`, asked of the one host."""

    async def as_of(self, time: datetime) -> Release:
        return await self._hosts[0].ask("as_of", time=time)  # type: ignore[no-any-return]

    async def mark(self, at: datetime, why: str) -> None:
        await self._ordered("mark", at=at, why=why)

    async def lost(self, *, export: bool = False) -> Sequence[Difference]:
        return await self._ordered("lost", export=export)  # type: ignore[no-any-return]
