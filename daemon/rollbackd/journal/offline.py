"""A journal looked at from outside, whether a daemon has it open or not. Read only; it is never made here."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from rollbackd.facts import Record
from rollbackd.journal.audit import audit
from rollbackd.journal.contract import AuditReport, JournalRefused
from rollbackd.journal.database import JournalConnection, JournalDatabase, scalar
from rollbackd.journal.place import DEFAULT_ACCESS, Access, is_postgres, path_of
from rollbackd.journal.reading import since, until
from rollbackd.journal.sqlite import MIGRATIONS, JournalFile, schema_too_new

if TYPE_CHECKING:
    from rollbackd.journal.postgres import PostgresServer


def database_of(url: str, access: Access, busy: float = 5.0) -> JournalDatabase:
    """The database that a URL names; `busy` is how many seconds to wait for another process's lock.

    :raises JournalRefused: it names none, or psycopg is missing.
    """
    if not is_postgres(url):
        return JournalFile(path_of(url), busy)
    return postgres_server(url, access)


def postgres_server(url: str, access: Access) -> "PostgresServer":
    """:raises JournalRefused: that is no address of one, or psycopg is missing."""
    try:
        from rollbackd.journal.postgres import PostgresServer
    except ImportError as error:
        raise JournalRefused("daemon.journal: psycopg is missing; install rollbackd[postgres]") from error
    return PostgresServer(url, access)


def look_at_server(url: str, access: Access) -> None:
    """Look at a journal on PostgreSQL as who opens it does, and change nothing. Raises as `open_journal` does."""
    server = postgres_server(url, access)
    from rollbackd.journal.postgres_schema import refuse_unready

    with server.troubles(), closing(server.connect("write")) as connection, server.transaction(connection, "read"):
        refuse_unready(connection, server.name)


@contextmanager
def _reading(url: str, access: Access, busy: float) -> Iterator[tuple[JournalConnection, str]]:
    database = database_of(url, access, busy)
    if isinstance(database, JournalFile) and not database.path.exists():
        raise JournalRefused(f"{database.path}: there is no journal; rollbackd has not run with it yet")
    with (
        database.troubles(),
        closing(database.connect("read")) as connection,
        database.transaction(connection, "read"),
    ):
        yield connection, database.name


def records_until(url: str, seq: int, busy: float = 5.0, access: Access = DEFAULT_ACCESS) -> Iterator[Record]:
    """The facts of all streams up to a place, in order. Raises as `audit_journal` does."""
    with _reading(url, access, busy) as (connection, name):
        yield from until(connection, name, seq)


def records_of(url: str, kinds: Sequence[str], busy: float = 5.0, access: Access = DEFAULT_ACCESS) -> list[Record]:
    """The facts of these kinds, in order. Raises as `audit_journal` does."""
    with _reading(url, access, busy) as (connection, name):
        return since(connection, name, 0, kinds, 0)


def audit_journal(url: str, busy: float = 5.0, access: Access = DEFAULT_ACCESS) -> AuditReport:
    """Verify every chain of the journal at `url`; `busy` is how many seconds to wait for another process's lock.

    :raises JournalRefused: there is none, or it is not a journal's URL.
    :raises JournalDamaged: it cannot be read.
    :raises JournalUnavailable: not now, or not by this user.
    """
    with _reading(url, access, busy) as (connection, _):
        return audit(connection)


def refuse_newer(url: str, busy: float = 5.0) -> None:
    """Nothing where this version reads the journal, or where there is none.

    :raises JournalRefused: a newer version wrote it; with the way back to that one, or to this one's journal.
    :raises JournalUnavailable: it cannot be read, as in `audit_journal`.
    """
    path = path_of(url)
    if not path.exists():
        return
    with _reading(url, DEFAULT_ACCESS, busy) as (connection, _):
        version = scalar(connection, "PRAGMA user_version")
    if version > max(MIGRATIONS):
        raise schema_too_new(path, version, max(MIGRATIONS))
