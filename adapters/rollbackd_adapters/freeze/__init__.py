"""Stops deployments while a service is rolled back: a lock file, a ref that CI looks at, or URLs that CI has for it.

A bracket, never a step. Somebody else's freeze is respected: entering it only notes that it is there, and leaving does
not lift it. `inside` is true for an incident that has entered, while deployments are frozen, by whomever; so one that
found another's freeze is inside as long as that lasts, and outside once it has left, although it lasts on.
"""

from collections.abc import Sequence
from typing import ClassVar

from rollbackd.adapter import AdapterError, Needs, Place, Settings
from rollbackd.system import log
from rollbackd_adapters.brackets import BracketAdapter
from rollbackd_adapters.failures import holding
from rollbackd_adapters.freeze.barrier import Barrier, Whose
from rollbackd_adapters.freeze.calls import FrozenByCalls
from rollbackd_adapters.freeze.file import FrozenFile
from rollbackd_adapters.freeze.ref import FrozenRef
from rollbackd_adapters.freeze.settings import FreezeSettings

__all__ = ["FreezeAdapter", "FreezeSettings"]

_TRIES = 3
"""Looks, when somebody freezes or lifts at the same instant."""


class FreezeAdapter(BracketAdapter[FreezeSettings]):
    """One freeze."""

    settings_model: ClassVar[type[Settings]] = FreezeSettings

    def __init__(self, settings: FreezeSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"freeze:{place.service}/{place.layer}"
        """The layer's own: services may share a freeze, and what is locked while it is crossed is `_held`."""
        self._barrier: Barrier
        self.needs = Needs()
        if settings.file is not None:
            self._barrier = FrozenFile(settings.file, place)
            self._held = f"freeze:{settings.file}"
            self.needs = Needs(writes=(settings.file.parent,))
        elif settings.git is not None:
            self._barrier = FrozenRef(settings.git, settings, place)
            self._held = f"freeze:{settings.git.remote} {settings.git.ref}"
        else:
            assert settings.http is not None
            self._barrier = FrozenByCalls(settings.http, settings, place)
            self._held = f"freeze:{settings.http.enter.method} {settings.http.enter.url}"

    async def inside(self, key: str) -> bool:
        trace = self._trace(key)
        whose = await self._barrier.whose(key, trace)
        return whose in {Whose.OURS, Whose.UNSURE} or (whose is Whose.THEIRS and bool(trace.known.get("guest")))

    async def enter(self, key: str) -> None:
        trace = self._trace(key)
        async with holding(self._spawner, self._held, self._settings.timeout) as lock:
            for _ in range(_TRIES):
                whose = await self._barrier.whose(key, trace)
                if whose is Whose.THEIRS:
                    trace.begin(guest=True)
                    log.get("freeze").info("deployments are frozen by somebody else", layer=self._place.layer)
                    return
                if whose is Whose.OURS or await self._barrier.close(key, trace, lock):
                    return
        raise AdapterError(
            f"{self._place.layer}: others freeze and lift at the same time; trying again", permanent=False
        )

    async def note(self, key: str) -> str:
        """A sentence while the freeze is somebody else's, who can lift it."""
        guest = bool(self._trace(key).known.get("guest"))
        return "deployments are frozen by somebody else, who can lift that at any time" if guest else ""

    async def leave(self, key: str) -> None:
        trace = self._trace(key)
        async with holding(self._spawner, self._held, self._settings.timeout) as lock:
            if await self._barrier.whose(key, trace) in {Whose.OURS, Whose.UNSURE}:
                await self._barrier.lift(key, trace, lock)
            if trace.begun is not None:
                trace.begin(guest=False)

    async def _problems(self) -> Sequence[str]:
        return await self._barrier.problems()
