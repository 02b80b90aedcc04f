"""How the journal of a configuration is reached."""

from functools import partial

from rollbackd.config.models import Daemon
from rollbackd.config.secrets import reveal
from rollbackd.journal import Access


def access_of(daemon: Daemon) -> Access:
    """All that stands beside its address; a password is read when it is needed."""
    secret = daemon.journal_password
    password = partial(reveal, secret) if secret is not None else None
    return Access(daemon.scratch, password, replicated=daemon.durability == "replicated")
