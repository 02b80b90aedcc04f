"""Addresses as people write them in the configuration, and what is wrong with one. No I/O."""

from collections.abc import Collection
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from rollbackd.syntax.units import show


def is_url(text: str, schemes: Collection[str] = ("http", "https")) -> bool:
    """Whether it names a host, and a port that can be one where it names any; nothing in it is white space."""
    try:
        parts = urlsplit(text)
        named = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and not any(character.isspace() for character in text)


def is_of_this_host(text: str) -> bool:
    """Whether a URL names a host that is another one for everybody who opens it elsewhere."""
    host = urlsplit(text).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def origin_of(text: str) -> tuple[str, str]:
    """Scheme and place of the web page that a browser says a request came from; nothing for what is none."""
    try:
        return urlsplit(text)[:2]
    except ValueError:
        return "", ""


def redis_url(text: str) -> str:
    """A Redis without credentials in its address. :raises ValueError: for anything else, with what to write."""
    socket = text.startswith("unix:///") and not any(character.isspace() for character in text)
    if not socket and not is_url(text, ("redis", "rediss")):
        raise ValueError(
            "this is no Redis; write it like redis://127.0.0.1:6379/0, rediss://… or unix:///run/redis.sock"
        )
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("a user or password in the URL would be shown; give `username` and `password: {env: NAME}`")
    if not socket and not (parts.path in {"", "/"} or parts.path[1:].isdecimal()):
        raise ValueError(f"{show(parts.path)} is not a database's number; write it like redis://127.0.0.1:6379/0")
    return text


RedisUrl = Annotated[str, AfterValidator(redis_url)]
"""`redis://HOST:PORT/DATABASE`, `rediss://` with TLS, or `unix:///PATH`."""
