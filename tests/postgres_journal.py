"""Journals on a real PostgreSQL, each in a database of its own, used by a role that may change no fact."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from rollbackd.journal import Access
from tests.servers import Postgres, postgres_server

LOCAL = Access(replicated=False)
ROLE = "rollbackd"
_TEMPLATE = "journal"


def url_of(server: Postgres, database: str, user: str = ROLE) -> str:
    return f"postgresql://{user}@/{database}?host={server.socket}&port={server.port}"


@contextmanager
def journal_server(*options: str) -> Iterator[Postgres]:
    """A server on which `new_journal` makes journals."""
    with postgres_server(*options) as server:
        prepare(server)
        yield server


def prepare(server: Postgres) -> None:
    from rollbackd.journal.postgres import PostgresServer
    from rollbackd.journal.postgres_schema import migrate

    server.sql(f"CREATE ROLE {ROLE} LOGIN", f"CREATE DATABASE {_TEMPLATE}")
    migrate(PostgresServer(url_of(server, _TEMPLATE, "postgres"), LOCAL), [ROLE])


def new_journal(server: Postgres) -> str:
    """The URL of an empty one."""
    name = f"j{uuid.uuid4().hex}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    return url_of(server, name)
