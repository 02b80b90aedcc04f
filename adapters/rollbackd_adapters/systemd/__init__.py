"""Units of systemd: restarted or reloaded after what they run has changed; as a bracket, stopped and started again.

Uses the `systemctl` and `journalctl` programs (https://www.freedesktop.org/software/systemd/man/systemctl.html). It
saves nothing but which units it stopped, before it stops them: those are started again, and those that had failed by
themselves, since a release that crashes is what one goes back from. No others are. What systemd moves with them, since
it requires them, is part of them, or is wanted by them, is told before; what a bracket stopped so is started again too.

A restart takes over what is on disk: where systemd knows an older definition of a unit it is told to read them again.

A restart is recognised after a crash by the unit's invocation id, which is new for every start, and a reload by the
time of the unit's last change of state; both are written down before systemd is asked. What is already asked for goes
on without us, so it is waited for and not asked for twice.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from rollbackd.adapter import AdapterError, Needs, Place, Settings
from rollbackd.model import NO_RELEASE, Change, Release, Traits
from rollbackd.system.spawner import Lock
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.failures import holding
from rollbackd_adapters.systemd.manager import ENGLISH, SYSTEMCTL, Dragged, Manager, SystemdUnit, ending_of, vector
from rollbackd_adapters.systemd.settings import SystemdSettings
from rollbackd_adapters.systemd.watching import UnitWatcher
from rollbackd_adapters.traces import Trace

__all__ = ["SystemdAdapter", "SystemdSettings"]


class SystemdAdapter(StepAdapter[SystemdSettings]):
    """Some units, as a layer without releases."""

    settings_model: ClassVar[type[Settings]] = SystemdSettings
    traits = Traits(releases=False, step=True, bracket=True, local=True)

    def __init__(self, settings: SystemdSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = settings.resource or f"systemd:{','.join(sorted(settings.units))}"
        self._manager = Manager(place.spawner)
        self._watch = UnitWatcher(settings, self._manager, place.clock)

    @property
    def needs(self) -> Needs:
        """The verb of `action`, which `ready` asks about in any case, and the verbs that go with it."""
        units, action = self._settings.units, self._settings.action
        step = (action,) if action == "reload" else (action, "reset-failed")
        bracket = ("start", "stop", "reset-failed")
        return Needs(units=dict.fromkeys(units, step), bracket_units=dict.fromkeys(units, bracket))

    async def plan(self, target: Release) -> Change:
        change = await super().plan(target)
        with suppress(AdapterError):  # `ready` tells that systemd does not answer
            units = await self._manager.look(self._settings.units)
            others = await self._manager.dragged(self._settings.action, units)
            newly = await self._manager.newly_related([unit for unit in units if unit.outdated])
            return replace(change, risks=(*change.risks, *self._told(units, others, newly)))
        return change

    def _told(self, units: Sequence[SystemdUnit], others: Dragged, newly: Sequence[str]) -> Iterator[str]:
        """What systemd does besides, a sentence each."""
        if outdated := [unit.name for unit in units if unit.outdated]:
            yield f"systemd reads all its definitions again, since those of {', '.join(outdated)} are newer on disk"
        if newly:
            yield f"on disk these units name others by {', '.join(newly)}, which systemd moves as that says"
        if others.along:
            verb = "reloads" if self._settings.action == "reload" else "restarts"
            yield f"systemd {verb} what depends on these units too: {', '.join(others.along)}"
        if others.started:
            yield f"systemd starts what these units want and what is down: {', '.join(others.started)}"
        if others.ended:
            yield f"systemd stops what conflicts with these units: {', '.join(others.ended)}"

    async def _move(self, _change: Change, trace: Trace, lock: Lock) -> None:
        for position, name in enumerate(self._settings.units):
            await self._act(position, name, trace, lock)
        if failed := await self._watch.unsettled(self._settings.units):
            self._forget(trace, [unit.name for unit in failed])
            raise await self._watch.failure(self._settings.action, failed)
        if newer := [unit.name for unit in await self._manager.look(self._settings.units) if unit.outdated]:
            self._forget(trace, newer)
            text = f"{', '.join(newer)}: the definition on disk was changed while this was done"
            raise AdapterError(f"{text}; trying again takes it over", permanent=False)

    async def _up_to_date(self, name: str, trace: Trace, lock: Lock) -> SystemdUnit:
        """The unit, by the definition that is on disk: what was done by an older one does not count."""
        (unit,) = await self._manager.look([name])
        if unit.outdated:
            await self._manager.reread([name], lock)
            self._forget(trace, [name])
            (unit,) = await self._manager.look([name])
        self._check_usable([unit])
        return unit

    async def _problems(self) -> list[str]:
        if self._spawner.which(SYSTEMCTL) is None:
            return [f"{SYSTEMCTL}: no such program; this adapter is for hosts that run systemd"]
        texts = []
        for unit in await self._manager.look(self._settings.units):
            texts += [unit.trouble] if unit.trouble else await self._objections(unit)
        return texts

    async def _objections(self, unit: SystemdUnit) -> list[str]:
        """Why a loaded unit could not be moved."""
        action = self._settings.action
        if action == "reload" and unit["CanReload"] != "yes":
            return [f"{unit.name} cannot be reloaded; give it ExecReload=, or use `action: restart`"]
        if action != "reload" and "no" in {unit["CanStart"], unit["CanStop"]}:
            return [f"{unit.name} refuses to be started or stopped by hand; name another unit in `units`"]
        denied = "" if os.geteuid() == 0 else await self._manager.may(action, unit.name)
        return [denied] if denied else []

    # -- as a step ------------------------------------------------------------------------------
    async def _act(self, position: int, name: str, trace: Trace, lock: Lock) -> None:
        """Have one unit restarted or reloaded, unless this change did it already; wait until it is active."""
        action = self._settings.action
        unit = await self._up_to_date(name, trace, lock)
        began = trace.known.get("before", {}).get(name)
        if began is not None:
            unit = await self._watch.arrived(unit)
        if began is None or self._mark(unit) in {"", began}:
            if began is None:
                trace.begin(before={**trace.known.get("before", {}), name: self._mark(unit)})
            if action != "reload":
                await self._manager.forgive(name, lock)
            await self._ask(position, name, trace, lock)
            (unit,) = await self._manager.look([name])
        unit = await self._watch.arrived(unit)
        if not unit.well or unit["ReloadResult"] not in {"", "success"}:
            self._forget(trace, [name])
            raise await self._watch.failure(action, [unit])

    async def _ask(self, position: int, name: str, trace: Trace, lock: Lock) -> None:
        """Ask systemd, once: the answer is found on disk by the next life."""
        action = self._settings.action
        attempt = trace.known.get("attempt", 0)
        finished = await self._spawner.run_recorded(
            vector(action, name),
            record=trace.record(f"{action}-{position}-{attempt}"),
            lock=lock,
            timeout=self._settings.timeout,
            env=ENGLISH,
        )
        if not finished.ok:
            if not finished.timed_out:  # systemd goes on with that, so the next attempt waits for it
                self._forget(trace, [name])
            ending = ending_of(finished, self._settings.timeout)
            raise await self._manager.failure(f"{action} {name}", ending, finished.tail, [name])

    def _mark(self, unit: SystemdUnit) -> str:
        """A text that is another one once the unit was restarted; for a reload, also once it was reloaded."""
        if self._settings.action == "restart":
            return unit["InvocationID"]
        return f"{unit['InvocationID']}/{unit['StateChangeTimestampMonotonic']}"

    def _forget(self, trace: Trace, names: Sequence[str]) -> None:
        """Forget the units that failed, so that the next attempt asks for them anew."""
        begun = trace.known
        before = {name: mark for name, mark in begun.get("before", {}).items() if name not in names}
        trace.begin(before=before, attempt=begun.get("attempt", 0) + 1)

    # -- as a bracket ---------------------------------------------------------------------------
    async def inside(self, key: str) -> bool:
        return await self._inside(self._crossing(key))

    async def _inside(self, trace: Trace) -> bool:
        """Whether it was entered and not left. It counts as left when somebody started all units that were stopped."""
        begun = trace.known
        if not begun.get("entered"):
            return False
        stopped = begun["stopped"]
        return not stopped or any(unit.down or not unit.well for unit in await self._manager.look(stopped))

    async def enter(self, key: str) -> None:
        trace = self._crossing(key)
        async with holding(self._spawner, self.resource, self._settings.timeout) as lock:
            begun, inside = trace.known, await self._inside(trace)
            units = await self._manager.look(self._settings.units)
            self._check_usable(units)
            running = [unit for unit in units if not unit.down]
            if inside and not running:
                return
            broke = [unit for unit in units if unit.broke]  # a crash loop that ended has nothing left to stop
            await self._no_triggers([*running, *broke])
            known = begun.get("stopped", []) if inside or not begun.get("entered") else []
            stopped = [unit.name for unit in units if unit in running or unit in broke or unit.name in known]
            others = await self._stopped_along(running)
            stopped += [name for name in dict.fromkeys([*known, *others]) if name not in stopped]
            trace.begin(stopped=stopped, entered=False, started=[], ended=[])
            try:
                await self._stop([unit.name for unit in reversed(running)], lock)
            except AdapterError:
                ran = [name for name in stopped if name not in {unit.name for unit in broke}]
                await self._undo(trace, ran, lock)
                raise
            trace.begin(entered=True)

    async def leave(self, key: str) -> None:
        trace = self._crossing(key)
        async with holding(self._spawner, self.resource, self._settings.timeout) as lock:
            stopped = trace.known.get("stopped", [])
            if (
                outdated := [unit.name for unit in await self._manager.look(stopped) if unit.outdated]
                if stopped
                else []
            ):
                await self._manager.reread(outdated, lock)
            if stopped:
                others = await self._manager.dragged("restart", await self._manager.look(stopped))
                trace.begin(started=others.started, ended=others.ended)
            for name in stopped:
                await self._manager.forgive(name, lock)
                await self._manager.do("start", name, lock, self._settings.timeout)
            if failed := await self._watch.unsettled(stopped):
                raise await self._watch.failure("start", failed)
            if trace.begun is not None:
                trace.begin(stopped=[], entered=False)

    async def note(self, key: str) -> str:
        """What systemd moved with the units, and the layer does not name."""
        begun = self._crossing(key).known
        others = {
            "stopped too, since they depend on these units": begun.get("stopped", []),
            "started too, since these units want them": begun.get("started", []),
            "stopped, since they conflict with these units": begun.get("ended", []),
        }
        named = {why: [name for name in names if name not in self._settings.units] for why, names in others.items()}
        return "; ".join(f"{why}: {', '.join(names)}" for why, names in named.items() if names)

    async def _stopped_along(self, running: Sequence[SystemdUnit]) -> list[str]:
        """The active units outside of the layer that systemd stops with these, and that we start again.

        :raises AdapterError: permanent, for one that we may not start.
        """
        names = (await self._manager.dragged("stop", running)).along
        active = [unit for unit in (await self._manager.look(names) if names else []) if unit.well]
        for unit in active:
            if os.geteuid() != 0 and (denied := await self._manager.may("start", unit.name)):
                text = f"{unit.name} would be stopped with these units, since it depends on them"
                raise AdapterError(f"{text}; add it to `units` after them, or: {denied}", permanent=True)
        return [unit.name for unit in active]

    async def _stop(self, names: Sequence[str], lock: Lock) -> None:
        for name in names:
            await self._manager.do("stop", name, lock, self._settings.timeout)
        if up := [unit for unit in await self._manager.look(names) if not unit.down] if names else []:
            raise await self._watch.failure("stop", up)

    async def _undo(self, trace: Trace, stopped: Sequence[str], lock: Lock) -> None:
        """Start the units again that were stopped when another could not be. Only the error of the stop is told."""
        for name in stopped:
            with suppress(AdapterError):
                await self._manager.do("start", name, lock, self._settings.timeout)
        trace.begin(stopped=[], entered=False)

    async def _no_triggers(self, running: Sequence[SystemdUnit]) -> None:
        """:raises AdapterError: permanent, when something outside of the layer would start a stopped unit again."""
        ours = set(self._settings.units)
        for unit in running:
            others = [name for name in unit["TriggeredBy"].split() if name not in ours]
            if armed := [each.name for each in await self._manager.look(others) if not each.down] if others else []:
                raise AdapterError(
                    f"{unit.name} would be started again by {', '.join(armed)}; add that to `units`, before it",
                    permanent=True,
                )

    def _crossing(self, key: str) -> Trace:
        """The traces of a bracket, apart from those of a step of the same layer."""
        return Trace(self._place.scratch, Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=f"{key}/bracket"))

    def _check_usable(self, units: Sequence[SystemdUnit]) -> None:
        if trouble := next((unit.trouble for unit in units if unit.trouble), ""):
            raise AdapterError(trouble, permanent=True)
