"""How the journal of a configuration is reached."""

from functools import partial

from rollbackd.config.models import Daemon
from rollbackd.config.secrets import reveal
from rollbackd.journal import Access, Unwritten
from rollbackd.journal.place import is_postgres


def access_of(daemon: Daemon) -> Access:
    """All that stands beside its address; a password is read when it is needed."""
    secret = daemon.journal_password
    password = partial(reveal, secret) if secret is not None else None
    return Access(daemon.scratch, password, replicated=daemon.durability == "replicated")


def unwritten_of(daemon: Daemon) -> Unwritten | None:
    """What this host has not written yet; None for a journal on it, which is no further away than such a file."""
    return Unwritten.beside(daemon.journal, access_of(daemon)) if is_postgres(daemon.journal) else None
