"""What would stop Redis' keys from being removed right now. Read only; every sentence says what to do."""

import re

from rollbackd.system.spawner import one_line
from rollbackd_adapters.redis.connection import Connection, RedisRefusal
from rollbackd_adapters.redis.settings import RedisSettings

_FLUSHING = (
    ("FLUSHDB", "ASYNC"),
    ("MULTI",),
    ("EXEC",),
    ("DBSIZE",),
    ("EXISTS", "rollbackd:flushed:x"),
    ("SET", "rollbackd:flushed:x", "1", "EX", "1"),
)


async def problems(redis: Connection, settings: RedisSettings) -> list[str]:
    """:raises AdapterError: Redis cannot be asked at all."""
    await redis.ask("PING")
    found = await unfit(redis, settings)
    return [found] if found else await _rights(redis, settings)


async def unfit(redis: Connection, settings: RedisSettings) -> str:
    """Why keys that are removed here would not be gone: a replica, a node of a cluster, a sentinel. Else empty.

    HELLO tells it to every user (https://redis.io/docs/latest/commands/hello/).
    """
    try:
        told = await redis.ask("HELLO")
    except RedisRefusal:  # older than 6.0; what writes to a replica is refused there too
        return ""
    said = {_text(name): _text(value) for name, value in told.items()} if isinstance(told, dict) else {}
    match said.get("mode"), said.get("role"):
        case "sentinel", _:
            return f"{settings.where} is a sentinel; name the master that it watches"
        case "cluster", _:
            return f"{settings.where} is a node of a cluster, which this adapter does not know; use `command`"
        case _, "replica" | "slave":
            text = f"{settings.where} is a replica, in which nothing can be removed; name its master"
            return f"{text}{await _master(redis)}"
        case _:
            return ""


async def _master(redis: Connection) -> str:
    """Where a replica's master is, for a message; empty when its user may not ask."""
    try:
        told = await redis.ask("ROLE")
    except RedisRefusal:
        return ""
    return f", {_text(told[1])}:{told[2]}" if len(told) > 2 else ""


async def _rights(redis: Connection, settings: RedisSettings) -> list[str]:
    """What the user may not do, where Redis says so: from 7.0 on, to a user who may ask (`+acl|dryrun`)."""
    user = settings.username or "default"
    found = []
    for command in _FLUSHING if settings.flush else _sweeping(settings.pattern):
        try:
            said = _text(await redis.ask("ACL", "DRYRUN", user, *command))
        except RedisRefusal as error:
            if "not found" in str(error):
                found.append(f"{settings.where}: {command[0]} is renamed or switched off there; allow it")
                continue
            return []
        if said != "OK":
            found.append(f"{settings.where}: {one_line(said)}; give it that right")
    return found


def _sweeping(pattern: str) -> tuple[tuple[str, ...], ...]:
    key = re.sub(r"[*?]", "x", pattern)
    plain = not set(key) & set("[]\\")  # else no key can be made up that surely matches
    return (("SCAN", "0"), *((("UNLINK", key),) if plain else ()))


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
