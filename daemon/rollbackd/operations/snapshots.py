"""What people ask and order about snapshots, where it needs more than the snapshots of one layer."""

import asyncio
from collections.abc import Sequence

from rollbackd.decision.refusals import InvalidOrder, OrderRefused, UnknownName
from rollbackd.operations.base import OperationsBase
from rollbackd.snapshots.views import KeptView, RestoredView

_AT_ONCE = 8
"""Layers that are asked together."""


class SnapshotOperations(OperationsBase):
    """Which layers there are, which one is meant, and the one order that a hold stops."""

    async def snapshots(self, service: str = "", layer: str = "") -> list[KeptView]:
        """All layers that keep snapshots, with them; of a service, or one layer, when it is named."""
        if service:
            self._keeping(service, layer)
        few = asyncio.Semaphore(_AT_ONCE)

        async def one(key: tuple[str, str]) -> KeptView:
            async with few:
                return await self.snapshot_manager.view(*key)

        return list(await asyncio.gather(*map(one, self.snapshot_manager.kept(service, layer))))

    async def kept(self, service: str = "") -> list[tuple[str, str]]:
        """Services and layers that keep snapshots; none of them is asked. :raises UnknownName:"""
        if service:
            self._keeping(service)
        return self.snapshot_manager.kept(service)

    async def restore_snapshot(
        self, service: str, layer: str, name: str, only: Sequence[str], actor: str, over_hold: bool
    ) -> RestoredView:
        """Take a layer to a snapshot; without a name to the best one. :raises UnknownName: OrderRefused:"""
        layer = self.snapshot_layer(service, layer)
        if not over_hold and (held := self._parts.holds(service, {}, silences=False)):
            over = f"`rollbackd snapshot restore {service} {layer} --over-hold` goes over that"
            raise OrderRefused(f"{service} is not touched: {'; '.join(held)} ({over})")
        return await self.snapshot_manager.restore(service, layer, name, only, actor)

    def snapshot_layer(self, service: str, layer: str) -> str:
        """The layer that is meant; empty stands for the only one. :raises UnknownName: InvalidOrder:"""
        found = self._keeping(service, layer)
        if len(found) > 1:
            raise InvalidOrder(f"name the layer; {service} keeps snapshots of {', '.join(found)}")
        return found[0]

    def _keeping(self, service: str, layer: str = "") -> list[str]:
        """The layers that keep snapshots. :raises UnknownName:"""
        own = self._service(service)
        layers = [each for _, each in self.snapshot_manager.kept(service)]
        if layer and layer not in own.layers:
            raise UnknownName(f'{service} has no layer "{layer}"; it has: {", ".join(own.layers)}')
        found = [each for each in layers if layer in {"", each}]
        if not found:
            which = f"layer {layer} of {service}" if layer else f"no layer of {service}"
            others = f"; those that do are: {', '.join(layers)}" if layers else ""
            raise UnknownName(f"{which} keeps {'no ' if layer else ''}snapshots{others}")
        return found
