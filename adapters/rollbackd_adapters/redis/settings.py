"""What the configuration says about a layer of adapter `redis`. No I/O."""

from datetime import timedelta
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from rollbackd.adapter import Settings
from rollbackd.syntax.addresses import RedisUrl
from rollbackd.syntax.units import Duration, Secret
from rollbackd.system.redis_client import check_access, check_ca


class RedisSettings(Settings):
    """A layer of adapter `redis`: one database, of which all keys or some are removed."""

    url: RedisUrl
    """`redis://HOST:PORT/DATABASE`, `rediss://` with TLS, or `unix:///PATH`."""
    db: int = Field(default=0, ge=0)
    """The database's number, where the URL has none."""
    username: str = ""
    password: Secret | None = None
    ca: Path | None = None
    """Certificates that sign the server's, for `rediss://`; by default those of the system."""
    flush: bool = False
    """Remove all keys of the database, at one instant."""
    pattern: str = Field(default="", max_length=1000)
    """Remove the keys that match, as in Redis' KEYS: `session:*`."""
    batch: int = Field(default=500, ge=1, le=10_000)
    """How many keys are looked at, and removed, at once."""
    pause: Duration = timedelta(milliseconds=10)
    """Between two batches, for everybody else."""
    request_timeout: Duration = timedelta(seconds=5)
    """For connecting, and for each answer."""
    timeout: Duration = timedelta(minutes=10)
    """For all of it; tried again, it goes on where it was."""
    holds_data: bool = False
    """What is removed cannot be computed again: a plan does this only by name, and it cannot be taken back."""

    @property
    def number(self) -> int:
        """The database's."""
        parts = urlsplit(self.url)
        return int(parts.path[1:]) if parts.scheme != "unix" and parts.path[1:] else self.db

    @property
    def where(self) -> str:
        """For people."""
        parts = urlsplit(self.url)
        address = parts.path if parts.scheme == "unix" else parts.netloc
        return f"database {self.number} of {parts.scheme}://{address}"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.flush == bool(self.pattern):
            raise ValueError("it is not said what is to be removed; give either `flush: true` or a `pattern`")
        if self.db and self.number != self.db:
            raise ValueError("`db` is another database than the URL's; write it in one place")
        check_ca(self.url, self.ca)
        check_access(self.username, self.password)
        return self
