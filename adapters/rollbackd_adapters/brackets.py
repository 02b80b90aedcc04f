"""Layers that are only ever entered and left: they have no releases and are no steps. No I/O."""

from collections.abc import Sequence
from typing import NoReturn

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import NO_RELEASE, Change, Progress, Release, Traits
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

    async def current(self) -> Release:
        self._no_step()

    async def releases(self) -> Sequence[Release]:
        self._no_step()

    async def plan(self, _target: Release) -> Change:
        self._no_step()

    async def apply(self, _change: Change) -> None:
        self._no_step()

    async def progress(self, _change: Change) -> Progress:
        self._no_step()

    def _trace(self, key: str) -> Trace:
        """What was written about this bracket for an incident."""
        return Trace(self._place.scratch, Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key))

    def _no_step(self) -> NoReturn:
        raise AdapterError(
            f"{self._place.layer} can only be entered and left; name it under `within`, not under `steps`",
            permanent=True,
        )
