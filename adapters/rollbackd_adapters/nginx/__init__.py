"""nginx: a maintenance page that is switched on and off, or traffic that is led to another upstream.

Uses the `nginx` program, or whatever `test` and `reload` name (https://nginx.org/en/docs/control.html). What is
switched is a link that nginx's configuration includes. It is led elsewhere by rename, all of the configuration is
tested, nginx reloads, and the switch is done when new workers serve: old ones finish their connections meanwhile.
Whatever nginx does not take is put back at once. Nothing is saved first, since nothing but the link changes.
"""

from collections.abc import Sequence
from typing import ClassVar

from rollbackd.adapter import AdapterError, Needs, Place, Settings
from rollbackd.model import Problem, Traits
from rollbackd_adapters.base import ChoosingAdapter
from rollbackd_adapters.nginx.maintenance import Maintenance
from rollbackd_adapters.nginx.settings import NginxSettings
from rollbackd_adapters.nginx.switch import unit_of
from rollbackd_adapters.nginx.upstream import BlueGreen

__all__ = ["NginxAdapter", "NginxSettings"]


class NginxAdapter(ChoosingAdapter[NginxSettings]):
    """One link of one nginx."""

    settings_model: ClassVar[type[Settings]] = NginxSettings

    def __init__(self, settings: NginxSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._link = settings.upstream.link if settings.upstream is not None else settings.link
        self._upstream = BlueGreen(settings, place) if settings.upstream is not None else None
        self._page = Maintenance(settings, place) if settings.upstream is None else None
        serves = self._upstream is not None
        self.resource = (self._upstream or self._as_bracket).resource
        self.traits = Traits(releases=serves, step=serves, bracket=not serves, local=True)

    @property
    def needs(self) -> Needs:
        """The link's directory, and the unit when systemd is asked to reload it."""
        assert self._link is not None
        unit = unit_of(self._settings.reload)
        return Needs(writes=(self._link.parent,), units={unit: (self._settings.reload[1],)} if unit else {})

    async def ready(self) -> Sequence[Problem]:
        return await (self._upstream or self._as_bracket).ready()

    async def inside(self, key: str) -> bool:  # noqa: ARG002  # a page is on or off, whoever switched it
        return await self._as_bracket.inside()

    async def enter(self, key: str) -> None:  # noqa: ARG002
        await self._as_bracket.enter()

    async def leave(self, key: str) -> None:  # noqa: ARG002
        await self._as_bracket.leave()

    @property
    def _step(self) -> BlueGreen:
        if self._upstream is None:
            raise AdapterError(f"{self._place.layer} is a maintenance page: it has no releases", permanent=True)
        return self._upstream

    @property
    def _as_bracket(self) -> Maintenance:
        if self._page is None:
            raise AdapterError(f"{self._place.layer} is an upstream: it cannot be entered", permanent=True)
        return self._page
