"""A journal looked at from outside, whether a daemon has it open or not. Read only; it is never made here."""

from collections.abc import Iterator, Sequence
from contextlib import closing

from rollbackd.facts import Record
from rollbackd.journal.audit import audit
from rollbackd.journal.contract import AuditReport, JournalRefused
from rollbackd.journal.place import path_of
from rollbackd.journal.reading import since, until
from rollbackd.journal.sqlite import connect, transaction, troubles


def records_until(url: str, seq: int, busy: float = 5.0) -> Iterator[Record]:
    """The facts of all streams up to a place, in order. Raises as `audit_file` does."""
    path = path_of(url)
    with troubles(path), closing(connect(path, "read", busy)) as connection, transaction(connection, "read"):
        yield from until(connection, path, seq)


def records_of(url: str, kinds: Sequence[str], busy: float = 5.0) -> list[Record]:
    """The facts of these kinds, in order. Raises as `audit_file` does."""
    path = path_of(url)
    if not path.exists():
        raise JournalRefused(f"{path}: there is no journal; rollbackd has not run with it yet")
    with troubles(path), closing(connect(path, "read", busy)) as connection, transaction(connection, "read"):
        return since(connection, path, 0, kinds, 0)


def audit_file(url: str, busy: float = 5.0) -> AuditReport:
    """Verify every chain of the journal at `url`; `busy` is how many seconds to wait for another process's lock.

    :raises JournalRefused: there is none, or it is not a journal's URL.
    :raises JournalDamaged: it cannot be read.
    :raises JournalUnavailable: not now, or not by this user.
    """
    path = path_of(url)
    if not path.exists():
        raise JournalRefused(f"{path}: there is no journal; rollbackd has not run with it yet")
    with troubles(path), closing(connect(path, "read", busy)) as connection, transaction(connection, "read"):
        return audit(connection)
