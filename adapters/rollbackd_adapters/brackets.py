"""Layers that are only ever entered and left: they have no releases and are no steps. No I/O."""

from typing import NoReturn

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import NO_RELEASE, Change, Traits
from rollbackd_adapters.base import LayerAdapter, SettingsT
from rollbackd_adapters.traces import Trace


def crossing(trace: Trace) -> int:
    """How often the bracket is entered with this one; `crossing` is noted as one more when it was left."""
    return int(trace.known.get("crossing", 1))


def sent_once(place: Place, key: str, way: str, trace: Trace) -> dict[str, str]:
    """The header for a call that may be repeated for want of an answer; a later crossing is no repetition."""
    text, number = f"{place.service}/{key}/{way}", crossing(trace)
    return {"Idempotency-Key": text if number == 1 else f"{text}/{number}"}


class BracketAdapter(LayerAdapter[SettingsT]):
    """A layer that is only ever entered and left."""

    traits = Traits(releases=False, step=False, bracket=True)

    async def _no_step(self, *_: object, **__: object) -> NoReturn:
        raise AdapterError(
            f"{self._place.layer} can only be entered and left; name it under `within`, not under `steps`",
            permanent=True,
        )

    current = releases = plan = apply = progress = _no_step

    def _trace(self, key: str) -> Trace:
        """What was written about this bracket for an incident."""
        return Trace(self._place.scratch, Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key))
