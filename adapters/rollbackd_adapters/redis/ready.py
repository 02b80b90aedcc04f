"""What would stop Redis' keys from being removed right now. Read only; every sentence says what to do."""

import re
from typing import Any

from rollbackd.process import one_line
from rollbackd_adapters.redis.connection import Connection, Refused
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
    found = [*await _role(redis, settings), *await _cluster(redis, settings)]
    return found or await _rights(redis, settings)


async def _role(redis: Connection, settings: RedisSettings) -> list[str]:
    try:
        told = await redis.ask("ROLE")
    except Refused:  # its user may not ask; then the removal itself will tell
        return []
    role = _text(told[0])
    if role == "slave":
        master = f"{_text(told[1])}:{told[2]}"
        return [f"{settings.where} is a replica, in which nothing can be removed; name its master, {master}"]
    return [f"{settings.where} is a sentinel; name the master that it watches"] if role == "sentinel" else []


async def _cluster(redis: Connection, settings: RedisSettings) -> list[str]:
    try:
        info: dict[str, Any] = await redis.ask("INFO", "cluster")
    except Refused:
        return []
    if str(info.get("cluster_enabled", "0")) == "1":
        return [f"{settings.where} is a node of a cluster, which this adapter does not know; use `command`"]
    return []


async def _rights(redis: Connection, settings: RedisSettings) -> list[str]:
    """What the user may not do, where Redis says so: from 7.0 on, to a user who may ask (`+acl|dryrun`)."""
    user = settings.username or "default"
    found = []
    for command in _FLUSHING if settings.flush else _sweeping(settings.pattern):
        try:
            said = _text(await redis.ask("ACL", "DRYRUN", user, *command))
        except Refused:
            return []
        if said != "OK":
            found.append(f"{settings.where}: {one_line(said)}; give it that right")
    return found


def _sweeping(pattern: str) -> tuple[tuple[str, ...], ...]:
    key = re.sub(r"[*?]", "x", pattern)
    plain = not set(key) & set("[]\\")  # else no key can be made up that surely matches
    return (("SCAN", "0"), *((("UNLINK", key),) if plain else ()))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
