"""A layer of a service that is on another host than the one that drives: nothing of it is asked or touched here."""

from collections.abc import Sequence
from typing import ClassVar, NoReturn

from rollbackd.adapter import Adapter, AdapterError, Settings
from rollbackd.model import Change, Problem, Progress, Release


class AbsentLayer:
    """Stands in the place of the layer, and says of everything why it cannot be."""

    settings_model: ClassVar[type[Settings]] = Settings

    def __init__(self, layer: Adapter, why: str) -> None:
        self.traits = layer.traits
        self.resource = layer.resource
        self._why = why

    def _refuse(self) -> NoReturn:
        raise AdapterError(self._why, permanent=True)

    async def current(self) -> Release:
        self._refuse()

    async def releases(self) -> Sequence[Release]:
        self._refuse()

    async def plan(self, target: Release) -> Change:
        del target
        self._refuse()

    async def apply(self, change: Change) -> None:
        del change
        self._refuse()

    async def progress(self, change: Change) -> Progress:
        del change
        self._refuse()

    async def ready(self) -> Sequence[Problem]:
        self._refuse()

    async def inside(self, key: str) -> bool:
        del key
        self._refuse()

    async def enter(self, key: str) -> None:
        del key
        self._refuse()

    async def leave(self, key: str) -> None:
        del key
        self._refuse()
