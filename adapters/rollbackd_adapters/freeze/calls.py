"""A freeze that is behind URLs. It cannot say whose it is, so our own note does: written before the call is made."""

import json
from collections.abc import Sequence

from rollbackd import jsonpath
from rollbackd.adapter import AdapterError, Place
from rollbackd.process import Lock
from rollbackd.units import show
from rollbackd_adapters import web
from rollbackd_adapters.freeze.barrier import Whose
from rollbackd_adapters.freeze.settings import Asked, FreezeCalls, FreezeSettings
from rollbackd_adapters.traces import Trace

_NOT_THERE = 404


class FrozenByCalls:
    """One freeze behind URLs."""

    def __init__(self, calls: FreezeCalls, settings: FreezeSettings, place: Place) -> None:
        self._calls = calls
        self._settings = settings
        self._place = place

    async def whose(self, key: str, trace: Trace) -> Whose:
        called = (trace.begun or {}).get("called")
        if self._calls.inside is None:
            return {"done": Whose.OURS, "leaving": Whose.UNSURE}.get(called or "", Whose.NOBODY)
        if not await self._asked(self._calls.inside, key):
            return Whose.NOBODY
        return Whose.OURS if called else Whose.THEIRS

    async def _asked(self, asked: Asked, key: str) -> bool:
        answer = await web.ask(asked, self._place, web.words_of(self._place, key), self._settings.timeout)
        if not asked.json_at:
            return answer.status != _NOT_THERE and web.accepted(answer, self._place).ok
        try:
            found = jsonpath.at(web.accepted(answer, self._place).json(), asked.json_at)
        except ValueError as error:
            raise AdapterError(f"{answer.where}: {error}", permanent=False) from None
        if type(found) is not type(asked.equals):
            raise AdapterError(
                f"{answer.where}: {asked.json_at} is {show(json.dumps(found))}, which is not of the kind of "
                f"{show(json.dumps(asked.equals))}; correct `equals`",
                permanent=False,
            )
        return bool(found == asked.equals)

    async def close(self, key: str, trace: Trace, _lock: Lock) -> bool:
        trace.begin(called="begun")
        words = web.words_of(self._place, key)
        sent = {"Idempotency-Key": f"{self._place.service}/{key}/enter"}
        web.accepted(
            await web.call(self._calls.enter, self._place, words, self._settings.timeout, headers=sent), self._place
        )
        trace.begin(called="done")
        return True

    async def lift(self, key: str, trace: Trace, _lock: Lock) -> None:
        trace.begin(called="leaving")
        words = web.words_of(self._place, key)
        sent = {"Idempotency-Key": f"{self._place.service}/{key}/leave"}
        web.accepted(
            await web.call(self._calls.leave, self._place, words, self._settings.timeout, headers=sent), self._place
        )
        trace.begin(called="")

    async def problems(self) -> Sequence[str]:
        if self._calls.inside is None:
            return []
        try:
            await self._asked(self._calls.inside, "")
        except AdapterError as error:
            return [f"{error}; is it reachable, and may rollbackd ask it?"]
        return []
