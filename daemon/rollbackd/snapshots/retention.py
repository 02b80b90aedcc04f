"""What pruning spares, and the pruning each night of layers that drop what is old and keep no snapshots."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from rollbackd.adapter import Prunes, Snapshots
from rollbackd.execution.layers import Layers, LookFailed
from rollbackd.policy.changes import newest
from rollbackd.snapshots.selection import spared
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log


class Retention:
    """All layers, and the journal that says what of them may still be needed."""

    def __init__(self, read_model: ReadModel, layers: Mapping[str, Layers]) -> None:
        self._read_model = read_model
        self._layers = layers
        self._log = log.get("snapshots")

    async def spared(self, service: str, layer: str) -> frozenset[str]:
        """The ids of a layer's releases that the journal relies on, and of those that the configuration goes to.

        :raises LookFailed: the layer does not say what it has. JournalUnavailable: the journal cannot be read.
        """
        ledger = self._read_model.of(service)
        last = ledger.rollbacks[-1].incident if ledger.rollbacks else ""
        incident = await self._read_model.incident(last) if last else None
        layers = self._layers[service]
        kept = spared(ledger, layer, incident) | await layers.fixed(layer)
        change = newest(ledger)
        if layer in layers.data and change is not None:
            with suppress(LookFailed):  # there is no copy of before the change
                kept |= {(await layers.as_of(layer, change.start)).id}
        return kept

    async def prune(self) -> None:
        """Have each such layer drop what is old. One that is being rolled back, or that fails, is left for next time.

        :raises JournalUnavailable: what is needed cannot be told.
        """
        for service, layers in self._layers.items():
            for name, adapter in layers.adapters.items():
                if not isinstance(adapter, Snapshots) and isinstance(adapter, Prunes):
                    await self._prune(service, name, adapter)

    async def _prune(self, service: str, layer: str, adapter: Prunes) -> None:
        layers = self._layers[service]
        try:
            spare = await self.spared(service, layer)
            if self._read_model.of(service).acting is not None:
                return
            dropped = await layers.pruned(layer, partial(adapter.prune, spare))
        except LookFailed as error:
            self._log.warning("old releases are not dropped", service=service, error=str(error))
        else:
            self._log.info("old releases were dropped", service=service, layer=layer, dropped=list(dropped))
