"""A database of Redis that is emptied, or of which the keys that match a pattern go: a cache after a rollback.

It has no releases, and what it removes is gone: for a cache that is the purpose, with `holds_data` a person must allow
it by name. It speaks Redis' protocol by redis-py (https://redis.readthedocs.io/) and removes once for each change:

- `flush` empties the database and leaves a key `rollbackd:flushed:…`, for a day, in one transaction: whatever is killed
  in the middle, that key says whether it was done, so that what came in since is never removed too.
- `pattern` goes through the database by SCAN and removes by UNLINK, in batches, and keeps where it is on disk. Killed,
  it goes on there; when Redis itself was started again meanwhile, from the beginning.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from secrets import token_hex
from typing import Any, ClassVar

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import NO_RELEASE, Change, Progress, Release, Traits
from rollbackd.syntax.units import format_duration
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.redis.connection import Connection, RedisRefusal, connected
from rollbackd_adapters.redis.ready import problems, unfit
from rollbackd_adapters.redis.settings import RedisSettings
from rollbackd_adapters.traces import Trace

__all__ = ["RedisAdapter", "RedisSettings"]

_LOOKED_FOR = timedelta(seconds=1)
"""How long a plan looks for a key that matches."""
_MARK = "rollbackd:flushed"
_MARKED = timedelta(days=1)
_NOTED = timedelta(seconds=1)
"""How often the place in the database is written to disk."""


class RedisAdapter(StepAdapter[RedisSettings]):
    """One database as a layer without releases."""

    settings_model: ClassVar[type[Settings]] = RedisSettings

    def __init__(self, settings: RedisSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"redis:{settings.where}"
        self.traits = Traits(releases=False, data=settings.holds_data)
        self._reversible = not settings.holds_data
        self._log = log.get("redis").bind(service=place.service, layer=place.layer)

    async def plan(self, target: Release) -> Change:
        settings = self._settings
        async with connected(settings, self._place) as redis:
            if settings.flush:
                keys = await redis.ask("DBSIZE")
                risk = f"removes all {keys} keys of {settings.where}, and notes that for a day in a key {_MARK}:…"
            else:
                risk = f"removes all keys that match {settings.pattern} in {settings.where}{await self._found(redis)}"
        return replace(await super().plan(target), risks=(risk,))

    async def _found(self, redis: Connection) -> str:
        """What to add where no key matches now; a large database is not looked through for that."""
        cursor, until = 0, self._clock.monotonic() + _LOOKED_FOR.total_seconds()
        looked = 0
        while self._clock.monotonic() < until:
            found, keys = await redis.ask("SCAN", cursor, *self._match)
            looked, cursor = looked + self._settings.batch, int(found)
            if keys:
                return ""
            if cursor == 0:
                return "; none does now: is the pattern right?"
        return f"; none of about {looked} keys that were looked at does"

    async def note(self, key: str) -> str:
        """A sentence when nothing was removed, since that was hardly meant."""
        done = Trace(self._place.scratch, Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key)).done
        if done is None or done.get("removed") != 0:
            return ""
        if self._settings.flush:
            return f"nothing was removed: {self._settings.where} had no keys"
        return f"nothing was removed: no key of {self._settings.where} matched {self._settings.pattern}"

    @property
    def _match(self) -> tuple[str | int, ...]:
        return ("MATCH", self._settings.pattern, "COUNT", self._settings.batch)

    async def _move(self, _change: Change, trace: Trace, _lock: Lock) -> None:
        async with connected(self._settings, self._place) as redis:
            if text := await unfit(redis, self._settings):
                raise AdapterError(text, permanent=True)
            removed = await (self._flush(redis, trace) if self._settings.flush else self._sweep(redis, trace))
        boundary("redis.removed")
        trace.finish(removed=removed)
        self._log.info("removed keys", keys=removed, where=self._settings.where)

    async def _finish(self, change: Change, trace: Trace, lock: Lock) -> None:
        """Nothing is left to do: the move has written the marker, with the number of keys."""

    async def progress(self, change: Change) -> Progress:
        progress = await super().progress(change)
        marker = _marker(Trace(self._place.scratch, change)) if self._settings.flush else ""
        if progress is Progress.NOT_STARTED and marker:
            async with connected(self._settings, self._place) as redis:
                if await redis.ask("EXISTS", marker):
                    return Progress.DONE
        return progress

    async def _problems(self) -> list[str]:
        try:
            async with connected(self._settings, self._place) as redis:
                return await problems(redis, self._settings)
        except AdapterError as error:
            return [str(error)]

    # -- removing -------------------------------------------------------------------------------
    async def _flush(self, redis: Connection, trace: Trace) -> int:
        """Empty the database, once.

        :returns: how many keys it had.
        """
        marker = _marker(trace)
        if marker and await redis.ask("EXISTS", marker):
            return int(trace.known.get("keys", 0))
        keys = int(await redis.ask("DBSIZE"))
        trace.begin(key=trace.name, keys=keys, token=trace.known.get("token") or token_hex(8))
        marker = _marker(trace)
        boundary("redis.begun")
        mark = ("SET", marker, "1", "EX", int(_MARKED.total_seconds()))
        try:
            await redis.transaction(("FLUSHDB", "ASYNC"), mark)
        except RedisRefusal as error:
            if "OOM" not in str(error):
                raise
            # Full, so that nothing may be added, not even the mark: from here on our own trace alone says it was done.
            await redis.ask("FLUSHDB", "ASYNC")
        return keys

    async def _sweep(self, redis: Connection, trace: Trace) -> int:
        """Remove the keys that match, going on where an earlier life stopped.

        :returns: how many keys all lives removed, without those of the last second before a kill.
        """
        run = await _run_of(redis)
        begun: dict[str, Any] = trace.known
        cursor = int(begun["cursor"]) if run and begun.get("run") == run else 0
        removed = int(begun.get("removed", 0))
        trace.begin(key=trace.name, run=run, cursor=cursor, removed=removed)
        boundary("redis.begun")
        began = noted = self._clock.monotonic()
        while True:
            try:
                found, keys = await redis.ask("SCAN", cursor, *self._match)
                removed += await self._unlink(redis, keys)
            except AdapterError:  # such as a connection that is lost: the next attempt goes on here
                trace.begin(cursor=cursor, removed=removed)
                raise
            boundary("redis.batch")
            cursor = int(found)
            if cursor == 0:
                return removed
            now = self._clock.monotonic()
            late = now - began > self._settings.timeout.total_seconds()
            if late or now - noted >= _NOTED.total_seconds():
                trace.begin(cursor=cursor, removed=removed)
                noted = now
            if late:
                raise AdapterError(
                    f"{self._settings.where}: not through after {format_duration(self._settings.timeout)}, {removed} "
                    "keys removed so far; tried again it goes on there",
                    permanent=False,
                )
            if keys:
                await self._clock.sleep(self._settings.pause)

    async def _unlink(self, redis: Connection, keys: Sequence[bytes]) -> int:
        """Remove keys in batches: one SCAN may give more of them than it was asked for."""
        removed = 0
        for start in range(0, len(keys), self._settings.batch):
            removed += int(await redis.ask("UNLINK", *keys[start : start + self._settings.batch]))
        return removed


def _marker(trace: Trace) -> str:
    """The key in Redis that says that this change was done; empty before it begins. The random token in it tells the
    change from one of another journal with the same name.
    """
    token = trace.known.get("token", "")
    return f"{_MARK}:{trace.name}:{token}" if token else ""


async def _run_of(redis: Connection) -> str:
    """The id of the server's present run, within which a cursor means something; empty when the user may not ask."""
    try:
        info: dict[str, Any] = await redis.ask("INFO", "server")
    except RedisRefusal:
        return ""
    return str(info.get("run_id", ""))
