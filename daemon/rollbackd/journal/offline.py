"""A journal looked at from outside, whether a daemon has it open or not. Read only; it is never made here."""

from rollbackd.journal.audit import audit
from rollbackd.journal.contract import AuditReport, JournalRefused
from rollbackd.journal.engine import engine, troubles
from rollbackd.journal.place import path_of


def audit_file(url: str, busy: float = 5.0) -> AuditReport:
    """Verify every chain of the journal at `url`; `busy` is how many seconds to wait for another process's lock.

    :raises JournalRefused: there is none, or it is not a journal's URL.
    :raises JournalDamaged: it cannot be read.
    :raises JournalUnavailable: not now, or not by this user.
    """
    path = path_of(url)
    if not path.exists():
        raise JournalRefused(f"{path}: there is no journal; rollbackd has not run with it yet")
    reading = engine(path, "read", busy)
    try:
        with troubles(path), reading.begin() as connection:
            return audit(connection)
    finally:
        reading.dispose()
