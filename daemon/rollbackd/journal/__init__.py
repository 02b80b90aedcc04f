"""The journal: facts, inbox and outbox. The only SQL is in this package; nothing outside relies on SQLite.

The SQL is plain text. What is SQLite's own, the tables too, is in `sqlite.py`; where its file is and what lies beside
it is in `place.py`, `exclusive.py` and `reserve.py`.
"""

from rollbackd.journal.contract import (
    Arrived,
    AuditReport,
    Conflict,
    Entry,
    Journal,
    JournalDamaged,
    JournalInUse,
    JournalRefused,
    JournalUnavailable,
    Outgoing,
    PageTurn,
    Receipt,
    Received,
    until_written,
)
from rollbackd.journal.exclusive import Exclusive
from rollbackd.journal.store import SqliteJournal
from rollbackd.system.clock import Clock

__all__ = [
    "Arrived",
    "AuditReport",
    "Conflict",
    "Entry",
    "Exclusive",
    "Journal",
    "JournalDamaged",
    "JournalInUse",
    "JournalRefused",
    "JournalUnavailable",
    "Outgoing",
    "PageTurn",
    "Receipt",
    "Received",
    "open_journal",
    "until_written",
]


async def open_journal(url: str, clock: Clock) -> Journal:
    """Open the journal that `daemon.journal` names, and make it when there is none.

    :raises JournalRefused: it must not be opened; a sentence for a person.
    :raises JournalDamaged: it cannot be read.
    :raises JournalUnavailable: not now.
    """
    return await SqliteJournal.open(url, clock)
