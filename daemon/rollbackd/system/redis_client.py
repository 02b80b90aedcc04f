"""How the check and the adapter reach Redis: on one connection, and nothing is repeated by the library.

Its own retries would hide what users see, and do a command again that may have been done.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollbackd.syntax.units import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client


def check_access(username: str, password: Secret | None) -> None:
    """:raises ValueError: a user without a password, or the package for Redis is not there; with what to do."""
    if username and password is None:
        raise ValueError("`username` alone says nothing; give `password: {env: NAME}` as well")
    if find_spec("redis") is None:
        raise ValueError("this needs the Python package redis; install rollbackd with its extra: rollbackd[redis]")


def check_ca(url: str, ca: Path | None) -> None:
    """:raises ValueError: certificates for a connection without TLS; with what to do."""
    if ca is not None and not url.startswith("rediss:"):
        raise ValueError("`ca` is for TLS; write the URL with rediss://")


def redis_client(
    url: str, *, username: str, password: str | None, db: int | None = None, ca: Path | None = None
) -> "Client":
    """A client that connects with its first command; every limit is up to its user.

    :param db: where the URL names no database; None: the first.
    :param ca: certificates that sign the server's, for `rediss://`; None: those of the system.
    :raises ValueError: `ca` is not there; with what to do.
    """
    from redis.asyncio import Redis as Client
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from rollbackd.system.redis_answers import BoundedParser

    given: dict[str, Any] = {} if db is None else {"db": db}
    if ca is not None:
        if not ca.is_file():
            raise ValueError(f"{ca}: no such file; correct `ca`")
        given["ssl_ca_certs"] = str(ca)
    return Client.from_url(
        url,
        username=username or None,
        password=password,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
        parser_class=BoundedParser,
        socket_timeout=None,
        socket_connect_timeout=None,
        **given,
    )
