"""What people ask and order about snapshots."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rollbackd.operations.base import InvalidOrder, OperationsBase, OrderRefused, UnknownName
from rollbackd.snapshots import NotKept
from rollbackd.snapshots.views import DifferenceView, KeptView, RestoredView, TakenView

_AT_ONCE = 8
"""Layers that are asked together."""


class SnapshotOperations(OperationsBase):
    """By service and layer; what is not done is a sentence."""

    async def snapshots(self, service: str = "", layer: str = "") -> list[KeptView]:
        """All layers that keep snapshots, with them; of a service, or one layer, when it is named."""
        if service:
            self._keeping(service, layer)
        few = asyncio.Semaphore(_AT_ONCE)

        async def one(key: tuple[str, str]) -> KeptView:
            async with few:
                return await self._parts.snapshot_manager.view(*key)

        return list(await asyncio.gather(*map(one, self._parts.snapshot_manager.kept(service, layer))))

    async def kept(self, service: str = "") -> list[tuple[str, str]]:
        """Services and layers that keep snapshots; none of them is asked. :raises UnknownName:"""
        if service:
            self._keeping(service)
        return self._parts.snapshot_manager.kept(service)

    async def take_snapshot(self, service: str, layer: str, name: str, actor: str) -> TakenView:
        """Take one and read it. :raises UnknownName: InvalidOrder: OrderRefused:"""
        with _refusing():
            return await self._parts.snapshot_manager.take(service, self._only(service, layer), name, actor)

    async def verify_snapshot(self, service: str, layer: str, name: str, actor: str, rehearse: bool) -> TakenView:
        """Read all of one; restore it into a scratch place when that is wanted. :raises UnknownName: OrderRefused:"""
        with _refusing():
            layer = self._only(service, layer)
            return await self._parts.snapshot_manager.verify(service, layer, name, actor, rehearse=rehearse)

    async def diff_snapshots(self, service: str, layer: str, older: str, newer: str) -> list[DifferenceView]:
        """What differs between two, or between one and what is there now. :raises UnknownName: OrderRefused:"""
        with _refusing():
            found = await self._parts.snapshot_manager.diff(service, self._only(service, layer), older, newer)
        return [DifferenceView(one.path, one.kind, one.lines) for one in found]

    async def restore_snapshot(
        self, service: str, layer: str, name: str, only: Sequence[str], actor: str, over_hold: bool
    ) -> RestoredView:
        """Take a layer to a snapshot; without a name to the best one. :raises UnknownName: OrderRefused:"""
        layer = self._only(service, layer)
        if not over_hold and (held := self._parts.holds(service, {}, silences=False)):
            over = f"`rollbackd snapshot restore {service} {layer} --over-hold` goes over that"
            raise OrderRefused(f"{service} is not touched: {'; '.join(held)} ({over})")
        with _refusing():
            return await self._parts.snapshot_manager.restore(service, layer, name, only, actor)

    async def prune_snapshots(self, service: str, layer: str, actor: str) -> tuple[str, ...]:
        """Drop what nothing keeps. :raises UnknownName: OrderRefused:"""
        with _refusing():
            return await self._parts.snapshot_manager.prune(service, self._only(service, layer), actor)

    @asynccontextmanager
    async def exported_snapshot(self, service: str, layer: str, name: str) -> AsyncIterator[Path]:
        """One as a file, until the end of the block. :raises UnknownName: OrderRefused:"""
        layer = self._only(service, layer)
        with _refusing():
            async with self._parts.snapshot_manager.exported(service, layer, name) as file:
                yield file

    @asynccontextmanager
    async def place_for_snapshot(self, service: str, layer: str) -> AsyncIterator[Path]:
        """Where a file that is taken in can be put, until the end of the block. :raises UnknownName:"""
        self._only(service, layer)
        async with self._parts.snapshot_manager.place_for_file() as file:
            yield file

    async def take_in_snapshot(self, service: str, layer: str, file: Path, actor: str) -> TakenView:
        """Take in what was exported, here or elsewhere. :raises UnknownName: OrderRefused:"""
        with _refusing():
            return await self._parts.snapshot_manager.take_in(service, self._only(service, layer), file, actor)

    def _only(self, service: str, layer: str) -> str:
        """The layer that is meant; empty stands for the only one. :raises UnknownName: InvalidOrder:"""
        found = self._keeping(service, layer)
        if len(found) > 1:
            raise InvalidOrder(f"name the layer; {service} keeps snapshots of {', '.join(found)}")
        return found[0]

    def _keeping(self, service: str, layer: str = "") -> list[str]:
        """The layers that keep snapshots. :raises UnknownName:"""
        own = self._service(service)
        layers = [each for _, each in self._parts.snapshot_manager.kept(service)]
        if layer and layer not in own.layers:
            raise UnknownName(f'{service} has no layer "{layer}"; it has: {", ".join(own.layers)}')
        found = [each for each in layers if layer in {"", each}]
        if not found:
            which = f"layer {layer} of {service}" if layer else f"no layer of {service}"
            others = f"; those that do are: {', '.join(layers)}" if layers else ""
            raise UnknownName(f"{which} keeps {'no ' if layer else ''}snapshots{others}")
        return found


class _refusing:  # noqa: N801  # reads as what it does
    """Turns the keeper's no into the desk's."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NotKept):
            raise OrderRefused(str(error)) from error
