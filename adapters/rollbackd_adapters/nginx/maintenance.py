"""The maintenance page as a bracket: on while a link to its configuration is in place and loaded.

What is wanted is written down before the link moves, and that it was loaded after: a switch that a crash cut off counts
as not done, so the next life does it again. A second reload is harmless.
"""

import json
from pathlib import Path

from rollbackd.adapter import AdapterError, Place
from rollbackd_adapters.base import LayerAdapter
from rollbackd_adapters.failures import holding
from rollbackd_adapters.nginx.settings import NginxSettings
from rollbackd_adapters.nginx.switch import Switch, Unsettled, text_shown
from rollbackd_adapters.traces import write_facts


class Maintenance(LayerAdapter[NginxSettings]):
    """One page of one nginx."""

    def __init__(self, settings: NginxSettings, place: Place) -> None:
        assert settings.maintenance is not None
        assert settings.link is not None
        super().__init__(settings, place)
        self.resource = f"nginx:{settings.link}"
        self._file = settings.maintenance
        self._switch = Switch(settings, place, settings.link)
        self._record = place.scratch / "maintenance.json"

    async def inside(self) -> bool:
        """Whether the page is on. In the middle of a switch it is what it was before, so that the rest is done."""
        wanted, loaded = self._known()
        if not loaded:
            return not wanted
        return wanted and self._switch.leads_to(self._file)

    async def enter(self) -> None:
        await self._cross(wanted=True)

    async def leave(self) -> None:
        await self._cross(wanted=False)

    async def _cross(self, *, wanted: bool) -> None:
        async with holding(self._spawner, self.resource, self._settings.timeout) as lock:
            _, settled = self._known()
            if settled and await self.inside() is wanted:
                return
            if wanted and (where := self._switch.where()) is not None and not self._switch.leads_to(self._file):
                raise AdapterError(self._elsewhere(where), permanent=True)
            shown = text_shown(self._settings.page, wanted=wanted)
            there, away = (self._file, None) if wanted else (None, self._file)
            back = self._switch.where() if settled else away  # what a crash cut off has moved the link already
            self._note(wanted=wanted, loaded=False)
            try:
                await self._switch.to(there, back, shown, lock)
            except Unsettled:
                raise  # as after a crash: the next try, or leaving, does all of it again
            except AdapterError:
                self._note(wanted=not wanted, loaded=True)
                raise
            self._note(wanted=wanted, loaded=True)

    def _known(self) -> tuple[bool, bool]:
        """What was wanted last, and whether it was loaded. At first: off."""
        try:
            data = json.loads(self._record.read_bytes())
            return bool(data["wanted"]), bool(data["loaded"])
        except FileNotFoundError:
            return False, True
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise AdapterError(
                f"{self._record}: cannot be read ({error}); look at it, then remove it", permanent=True
            ) from error

    def _note(self, *, wanted: bool, loaded: bool) -> None:
        write_facts(self._record, {"wanted": wanted, "loaded": loaded})

    async def _problems(self) -> list[str]:
        where: Path | None = None
        try:
            where = self._switch.where()
        except AdapterError as error:
            return [str(error)]
        if where is not None and not self._switch.leads_to(self._file):
            return [self._elsewhere(where)]
        return await self._switch.problems([self._file])

    def _elsewhere(self, where: Path) -> str:
        return f"{self._settings.link} leads to {where}, not to {self._file}; take it away, or correct `link`"
