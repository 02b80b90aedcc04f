"""What the configuration says about a layer of adapter `sqlite`. No I/O."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from rollbackd.syntax.bounds import Bounds
from rollbackd.syntax.units import Duration, Size
from rollbackd_adapters.databases import DatabaseSettings
from rollbackd_adapters.paths import WholePath


class IntegrityQuery(Bounds):
    """What a copy must say before it is put in place."""

    sql: Annotated[str, Field(min_length=1)]
    """A query of one value."""


class SqliteSettings(DatabaseSettings):
    """A layer of adapter `sqlite`."""

    file: WholePath
    """The database."""
    integrity: tuple[IntegrityQuery, ...] = ()
    """Asked of a copy before it is put in place."""
    lock_within: Duration = timedelta(seconds=30)
    """How long others may hold the database up before a restore gives up, and says who they are."""
    timeout: Duration = timedelta(minutes=10)
    """For each copy and each restore."""
    room: Size = 64 * 2**20
    """Free space that must be left besides what a restore needs."""

    @property
    def written(self) -> tuple[Path, ...]:
        return (self.file.parent, *super().written)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.store is not None and self.store == self.file:
            raise ValueError("`store` is the database itself; give a directory of its own")
        if self.lock_within >= self.timeout:
            raise ValueError("`lock_within` is not shorter than `timeout`; make `timeout` longer")
        return self
