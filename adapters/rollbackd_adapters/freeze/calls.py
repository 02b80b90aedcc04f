"""A freeze that is behind URLs. It cannot say whose it is, so our own note does: written before the call is made."""

import json
from collections.abc import Sequence

from rollbackd.adapter import AdapterError, Place
from rollbackd.syntax.units import show
from rollbackd.system.spawner import Lock
from rollbackd_adapters import web
from rollbackd_adapters.base import LayerPart
from rollbackd_adapters.brackets import crossing, sent_once
from rollbackd_adapters.freeze.barrier import Whose
from rollbackd_adapters.freeze.settings import Asked, FreezeCalls, FreezeSettings
from rollbackd_adapters.traces import Trace

_NOT_THERE = 404
_GONE = frozenset({404, 410})
"""What a DELETE is answered when there is nothing to delete: an earlier one did it, or somebody else."""


class FrozenByCalls(LayerPart[FreezeSettings]):
    """One freeze behind URLs."""

    def __init__(self, calls: FreezeCalls, settings: FreezeSettings, place: Place) -> None:
        super().__init__(settings, place)
        self._calls = calls

    async def whose(self, key: str, trace: Trace) -> Whose:
        called = trace.known.get("called")
        if self._calls.inside is None:
            return {"done": Whose.OURS, "leaving": Whose.UNSURE}.get(called or "", Whose.NOBODY)
        if not await self._asked(self._calls.inside, key):
            return Whose.NOBODY
        return Whose.OURS if called else Whose.THEIRS

    async def _asked(self, asked: Asked, key: str) -> bool:
        answer = await web.ask(asked, self._place, web.words_of(self._place, key), self._settings.timeout)
        if not asked.json_at:
            return answer.status != _NOT_THERE and web.accepted(answer, self._place).ok
        found = web.accepted(answer, self._place).at(asked.json_at)
        if type(found) is not type(asked.equals):
            raise AdapterError(
                f"{answer.where}: {asked.json_at} is {answer.quoted(json.dumps(found))}, which is not of the kind of "
                f"{show(json.dumps(asked.equals))}; correct `equals`",
                permanent=False,
            )
        return bool(found == asked.equals)

    async def close(self, key: str, trace: Trace, lock: Lock) -> bool:
        trace.begin(called="begun")
        try:
            web.accepted(await self._call(self._calls.enter, key, "enter", trace), self._place)
        except AdapterError as error:
            if self._calls.inside is None and not error.permanent:
                await self._take_back(error, key, trace, lock)
            raise
        trace.begin(called="done")
        return True

    async def _take_back(self, why: AdapterError, key: str, trace: Trace, lock: Lock) -> None:
        """Lift a freeze that may have been made: nothing can be asked, and nobody else would ever lift it."""
        try:
            await self.lift(key, trace, lock)
        except AdapterError as error:
            trace.begin(called="begun")
            text = f"{why}. Deployments may be frozen all the same; lifting that failed too: {error}"
            raise AdapterError(text, permanent=False, evidence=why.evidence) from error

    async def lift(self, key: str, trace: Trace, _lock: Lock) -> None:
        trace.begin(called="leaving")
        answer = await self._call(self._calls.leave, key, "leave", trace)
        if self._calls.leave.method != "DELETE" or answer.status not in _GONE:
            web.accepted(answer, self._place)
        trace.begin(called="", crossing=crossing(trace) + 1)

    async def _call(self, call: web.Call, key: str, way: str, trace: Trace) -> web.HttpReply:
        words, sent = web.words_of(self._place, key), sent_once(self._place, key, way, trace)
        return await web.call(call, self._place, words, self._settings.timeout, headers=sent)

    async def problems(self) -> Sequence[str]:
        found = await web.unprepared(self._place, self._calls.enter, self._calls.leave)
        if found or self._calls.inside is None:
            return found
        try:
            await self._asked(self._calls.inside, "")
        except AdapterError as error:
            return [f"{error}; is it reachable, and may rollbackd ask it?"]
        return []
