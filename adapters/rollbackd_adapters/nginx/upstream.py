"""Which of several upstreams serves: blue or green. The releases are the names of the choices."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Change, Progress, Release
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.healthy import asked_at, must_be_healthy
from rollbackd_adapters.nginx.settings import NginxSettings
from rollbackd_adapters.nginx.switch import Switch, text_shown
from rollbackd_adapters.traces import Trace

_SHOWN = 20


class BlueGreen(StepAdapter[NginxSettings]):
    """One link that says where the traffic goes."""

    def __init__(self, settings: NginxSettings, place: Place) -> None:
        assert settings.upstream is not None
        super().__init__(settings, place)
        self.resource = f"nginx:{settings.upstream.link}"
        self._upstream = settings.upstream
        self._wait = settings.timeout
        self._switch = Switch(settings, place, settings.upstream.link)

    async def current(self) -> Release:
        """What serves, where an answer tells: a link that somebody led elsewhere without a reload is not loaded yet."""
        linked = self._linked()
        answer = await self._switch.answer()
        serving = [name for name, text in self._upstream.says.items() if text in answer]
        return _release(serving[0]) if len(serving) == 1 else linked

    def _linked(self) -> Release:
        for name, path in self._upstream.choices.items():
            if self._switch.leads_to(path):
                return _release(name)
        where = self._switch.where()
        leads = "is not there" if where is None else f"leads to {where}"
        raise AdapterError(
            f"{self._upstream.link} {leads}, which is none of `choices`; lead it to one of them", permanent=False
        )

    async def releases(self) -> Sequence[Release]:
        return [_release(name) for name in self._upstream.choices]

    async def plan(self, target: Release) -> Change:
        change = await super().plan(target)
        waiting = await self._switch.waiting()
        text = f"nginx also loads {len(waiting)} file(s) of its configuration that were changed since it read them"
        told = f"{text}: {one_line(', '.join(waiting[:_SHOWN]))}"
        return replace(change, risks=(*change.risks, told)) if waiting else change

    async def _progress(self, change: Change, trace: Trace) -> Progress:
        present = await self.current()
        if self._linked() not in {change.before, change.after}:  # somebody is on his way with it
            return Progress.SUPERSEDED
        if present == change.after and (trace.done is not None or trace.begun is None):
            return Progress.DONE
        waits = trace.done is None and present in {change.before, change.after}
        return Progress.NOT_STARTED if waits else Progress.SUPERSEDED

    async def _elsewhere(self) -> str:
        return (
            f"{self._upstream.link} leads to {self._linked().id}, which is neither where this rollback began nor where "
            "it goes: somebody else moved it"
        )

    async def _move(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Switch; after a crash between the link and the reload, reload once more."""
        if await self.current() != change.after:
            upstream, name = self._upstream, change.after.id
            if url := upstream.healthy.get(name):
                asked = asked_at(url, self._place, self._settings.timeout)
                await must_be_healthy(name, asked, self._place, times=upstream.times, every=upstream.every)
        trace.intend()
        choices = self._upstream.choices
        shown = text_shown(self._upstream.says.get(change.after.id, ""))
        await self._switch.to(choices[change.after.id], choices[change.before.id], shown, lock)

    async def _problems(self) -> list[str]:
        try:
            self._linked()
        except AdapterError as error:
            return [str(error)]
        found = await self._switch.problems(list(self._upstream.choices.values()))
        return found or await asyncio.to_thread(self._alike)

    def _alike(self) -> list[str]:
        """Choices between which nothing would move: one copied from the other, or a link to it."""
        names: dict[bytes, str] = {}
        found = []
        for name, path in self._upstream.choices.items():
            with suppress(OSError):  # only nginx may read it
                other = names.setdefault(path.read_bytes(), name)
                if other != name:
                    text = "are the same, so nothing would move between them; give each its own upstream"
                    found.append(f"{self._upstream.choices[other]} and {path} {text}")
        return found

    def _check_id(self, release: Release) -> None:
        if release.id not in self._upstream.choices:
            known = ", ".join(self._upstream.choices)
            raise AdapterError(f"{one_line(release.name)} is not among `choices` ({known})", permanent=True)


def _release(name: str) -> Release:
    return Release(name, label=name)
