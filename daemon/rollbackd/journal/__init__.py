"""The journal: facts, inbox and outbox. The only SQL is in this package; nothing outside relies on the database.

The SQL is plain text that both databases take. What is SQLite's own, the tables too, is in `sqlite.py`; what is
PostgreSQL's own in `postgres.py` and `postgres_schema.py`. Who drives is said by `exclusive.py` and `lease.py`.
"""

from typing import TYPE_CHECKING

from rollbackd.journal.contract import (
    Arrived,
    AuditReport,
    Conflict,
    Entry,
    Journal,
    JournalDamaged,
    JournalInUse,
    JournalRefused,
    JournalTaken,
    JournalUnavailable,
    Member,
    Outgoing,
    PageTurn,
    Receipt,
    Received,
    until_written,
)
from rollbackd.journal.driving import driving
from rollbackd.journal.exclusive import Exclusive
from rollbackd.journal.place import DEFAULT_ACCESS, Access, is_postgres
from rollbackd.journal.sqlite_journal import SqliteJournal
from rollbackd.journal.unwritten import Unwritten, UnwrittenResult, write_unwritten
from rollbackd.system.clock import Clock

if TYPE_CHECKING:
    from rollbackd.journal.lease import Lease

__all__ = [
    "Access",
    "Arrived",
    "AuditReport",
    "Conflict",
    "Entry",
    "Exclusive",
    "Journal",
    "JournalDamaged",
    "JournalInUse",
    "JournalRefused",
    "JournalTaken",
    "JournalUnavailable",
    "Member",
    "Outgoing",
    "PageTurn",
    "Receipt",
    "Received",
    "Unwritten",
    "UnwrittenResult",
    "driving",
    "open_journal",
    "until_written",
    "write_unwritten",
]


async def open_journal(
    url: str, clock: Clock, access: Access = DEFAULT_ACCESS, lease: "Lease | None" = None
) -> Journal:
    """Open the journal that `daemon.journal` names; in a file that is not there one is made.

    :raises JournalRefused: it must not be opened; a sentence for a person.
    :raises JournalDamaged: it cannot be read.
    :raises JournalUnavailable: not now.
    """
    if not is_postgres(url):
        return await SqliteJournal.open(url, clock)
    from rollbackd.journal.postgres_journal import PostgresJournal

    return await PostgresJournal.open(url, clock, access, lease)
