"""What the configuration says about a layer of adapter `postgres`. No I/O."""

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.syntax.units import Duration, Secret, Size, Spec
from rollbackd_adapters.databases import DatabaseSettings
from rollbackd_adapters.paths import UserName, WholePath
from rollbackd_adapters.sqlite.settings import IntegrityQuery

_KEYWORDS = frozenset(
    {"host", "hostaddr", "port", "dbname", "user", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey"}
)


def check_dsn(text: str) -> str:
    """A connection string without a password. :raises ValueError: with what to do."""
    if find_spec("psycopg") is None:
        raise ValueError("this needs the Python package psycopg; install rollbackd with its extra: rollbackd[postgres]")
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(text)
    except ProgrammingError as error:
        raise ValueError('it cannot be read; write "host=/run/postgresql dbname=shop user=rollbackd"') from error
    if "password" in given:
        raise ValueError("a password has no place here; give `password: {credential: NAME}`, or a passfile")
    if unknown := sorted({*given} - _KEYWORDS):
        raise ValueError(f"{unknown[0]} cannot be given here; known are {', '.join(sorted(_KEYWORDS))}")
    if not given.get("dbname") or not (given.get("host") or given.get("hostaddr")):
        raise ValueError('it does not say which database; write "host=/run/postgresql dbname=shop"')
    return text


class PgBackRestSettings(Spec):
    """Where the points in time come from: a repository of pgBackRest's, with the server's backups and its WAL."""

    stanza: Annotated[str, Field(pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")]
    """What pgBackRest calls the server."""
    config: WholePath | None = None
    """Its configuration; none: its own default."""
    repo: Annotated[int, Field(ge=1, le=256)] = 1
    """Which of its repositories."""
    run_as: UserName = ""
    """As whom it and the scratch cluster run: one who may read the repository, and never root; empty: as we do."""
    scratch: WholePath | None = None
    """Where the scratch cluster lies while it is there, as large as the server; none: in the daemon's own `scratch`."""


class PostgresSettings(DatabaseSettings):
    """A layer of adapter `postgres`: one database of a server."""

    dsn: Annotated[str, AfterValidator(check_dsn)]
    """How the database is reached: `host=/run/postgresql dbname=shop`, never with a password, nor through a pooler."""
    password: Secret | None = None
    """Of our role there; without it, libpq's own password file counts."""
    maintenance: Annotated[str, Field(min_length=1, max_length=63)] = "postgres"
    """The database that we are in while the names are changed."""
    programs: WholePath | None = None
    """The directory of pg_dump and pg_restore; none: Debian's of the server's version, else PATH."""
    volumes: tuple[WholePath, ...] = ()
    """Directories on the volumes of its data, WAL and tablespaces; none: what the server says, where it is here."""
    floor: Size = 2**30
    """Free space below which a restore stops itself: a full volume of WAL takes the live server down."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """How many tables are dumped, read or restored at once."""
    level: Annotated[int, Field(ge=1, le=9)] = 6
    """How hard copies are compressed."""
    keep_old: Duration = timedelta(days=7)
    """How long a database that was replaced stays, and the copy that was made of it."""
    loss: dict[str, str] = Field(default_factory=dict)
    """For each table, named as in SQL, the column that says when a row was written; `layer lost` goes by it."""
    integrity: tuple[IntegrityQuery, ...] = ()
    """Asked of a restored database before it is put in place."""
    after_restore: tuple[str, ...] = ()
    """SQL done in a restored database before it is put in place, such as to mark as sent what was sent."""
    rows: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Which part of the present's rows a restored database must have at least, all tables together; 0.5 is half."""
    allow: tuple[Literal["prepared", "slots", "subscriptions", "sessions"], ...] = ()
    """What may be there although it stands in the way: prepared transactions, logical slots, subscriptions, and
    sessions that we may not end. They are still looked for before each try."""
    lock_within: Duration = timedelta(seconds=30)
    """How long a copy waits for locks on the tables."""
    closed: Duration = timedelta(seconds=1)
    """How long one try to put the database in place may keep clients out."""
    swap_within: Duration = timedelta(seconds=30)
    """How long it is tried; then the present goes on serving, and the step failed."""
    pgbackrest: PgBackRestSettings | None = None
    """Where times between two copies come from; none: there are only copies."""
    wait_for: tuple[str, ...] = ()
    """Standbys, by `application_name`, that must have replayed it before the step is done."""
    timeout: Duration = timedelta(hours=1)
    """For each copy and each restore."""

    @property
    def written(self) -> tuple[Path, ...]:
        apart = self.pgbackrest.scratch if self.pgbackrest is not None else None
        return (*super().written, *([apart] if apart is not None else []))

    @property
    def parameters(self) -> dict[str, str]:
        """The parts of `dsn`."""
        from psycopg.conninfo import conninfo_to_dict

        return {name: str(value) for name, value in conninfo_to_dict(self.dsn).items()}

    @property
    def database(self) -> str:
        return self.parameters["dbname"]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.database == self.maintenance:
            raise ValueError("`maintenance` is the database itself; name another one of the server")
        if len(self.database.encode()) > 63:
            raise ValueError(
                "the database's name is longer than 63 bytes, and PostgreSQL cuts it off; write what it has"
            )
        if self.swap_within >= self.timeout or self.closed > self.swap_within:
            raise ValueError("`closed`, `swap_within` and `timeout` must be ever longer; make the later ones longer")
        return self
