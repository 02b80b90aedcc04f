"""What the configuration says about a layer of adapter `alembic`. No I/O."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from rollbackd.adapter import Settings
from rollbackd.syntax.units import Duration
from rollbackd_adapters.paths import UserName, WholePath

_TABLE = r"([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}"
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class AlembicSettings(Settings):
    """A layer of adapter `alembic`: the schema of a database that another layer is."""

    config: WholePath
    """The project's `alembic.ini`. Its migrations are those of the code that is there now."""
    python: WholePath
    """The project's own interpreter, which has Alembic, the database's driver and what the migrations import."""
    database: Annotated[str, Field(min_length=1)]
    """The layer of the database, of adapter `sqlite` or `postgres`."""
    url_env: Variable | None = None
    """The variable by which env.py is told where the database is; none: by `sqlalchemy.url` of its configuration."""
    dialect: Annotated[str, StringConstraints(pattern=r"^([a-z0-9_]+(\+[a-z0-9_]+)?)?$")] = ""
    """What the address begins with, such as `postgresql+psycopg`; none: `sqlite` or `postgresql`."""
    section: Annotated[str, Field(min_length=1)] = "alembic"
    """The section of `alembic.ini`."""
    version_table: Annotated[str, StringConstraints(pattern=f"^{_TABLE}$")] = "alembic_version"
    """Where the database's heads are, as env.py has it; with its schema, if it has one of its own."""
    revision_file: WholePath | None = None
    """A file of the code in which each release names the revision that it was written for; none: they do not."""
    env: dict[Variable, str] = {}
    """What env.py and the migrations need in their environment besides; no secrets."""
    run_as: UserName = ""
    """The user that they run as; only root may name another. Empty: as rollbackd."""
    allow: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Tables, and columns as TABLE.COLUMN, that may be lost unasked."""
    rehearse_every: Duration = timedelta(days=1)
    """How old a rehearsal may be that a plan goes by; before the first step it is done once more in any case."""
    timeout: Duration = timedelta(minutes=30)
    """For each migration, and for all that a plan asks before."""

    @property
    def directory(self) -> Path:
        """Where the project is, and where its commands run."""
        return self.config.parent
