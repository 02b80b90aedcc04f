"""Waits until units are where they were sent, and sees whether they stay there. It only looks."""

from collections.abc import Sequence
from datetime import timedelta

from rollbackd.adapter import AdapterError
from rollbackd.syntax.units import format_duration
from rollbackd.system.clock import Clock
from rollbackd_adapters.systemd.manager import Manager, SystemdUnit
from rollbackd_adapters.systemd.settings import SystemdSettings

_LOOK_AGAIN = timedelta(milliseconds=100)


class UnitWatcher:
    """The waiting of one layer, by its `timeout` and `settle`."""

    def __init__(self, settings: SystemdSettings, manager: Manager, clock: Clock) -> None:
        self._settings = settings
        self._manager = manager
        self._clock = clock

    async def arrived(self, unit: SystemdUnit) -> SystemdUnit:
        """The unit once no job moves it any more, or as it is after `timeout`."""
        until = self._clock.monotonic() + self._settings.timeout.total_seconds()
        while unit.moving and self._clock.monotonic() < until:
            await self._clock.sleep(_LOOK_AGAIN)
            (unit,) = await self._manager.look([unit.name])
        return unit

    async def unsettled(self, names: Sequence[str]) -> list[SystemdUnit]:
        """Those that are not well, or did not stay as they were for as long as `settle`."""
        if not names:
            return []
        before = await self._manager.look(names)
        failed = [unit for unit in before if not unit.well]
        if failed or not self._settings.settle:
            return failed
        await self._clock.sleep(self._settings.settle)
        after = await self._manager.look(names)
        return [now for was, now in zip(before, after, strict=True) if not now.well or _life(was) != _life(now)]

    async def failure(self, action: str, units: Sequence[SystemdUnit]) -> AdapterError:
        """What became of units that should have been somewhere else."""
        states = ", ".join(f"{unit.name} is {unit.state}{_why(unit)}" for unit in units)
        limit = f" after {format_duration(self._settings.timeout)}" if any(unit.moving for unit in units) else ""
        return await self._manager.failure(action, f"{states}{limit}", "", [unit.name for unit in units])


def _life(unit: SystemdUnit) -> tuple[str, str]:
    """A value that changes when the unit ends: a unit that flaps is active nearly all of the time."""
    return unit["InvocationID"], unit["NRestarts"]


def _why(unit: SystemdUnit) -> str:
    if unit.well and unit["ReloadResult"] in {"", "success"}:
        return ", but did not stay up"
    if unit.skipped:
        return ", skipped: it has a condition that is not met"
    return f", its reload failed ({unit['ReloadResult']})" if unit.well else ""
