"""The journal on SQLite: what is looked at, and made, before it is used."""

from typing import Self

from rollbackd.journal.contract import JournalUnavailable
from rollbackd.journal.database import JournalConnection
from rollbackd.journal.place import Mark, create, path_of
from rollbackd.journal.reading import refuse_foreign
from rollbackd.journal.reserve import RESERVE, Reserve
from rollbackd.journal.sqlite import JournalFile, is_empty, migrate, save_before_migration
from rollbackd.journal.store import StoredJournal
from rollbackd.system.clock import Clock


class SqliteJournal(StoredJournal):
    """A file, with a reserve beside it."""

    @classmethod
    async def open(cls, url: str, clock: Clock, *, reserve: int = RESERVE, busy: float = 5.0) -> Self:
        """Open or make the journal, bring its schema up to date, set the reserve aside.

        `reserve` is in bytes; `busy` is how many seconds another process's write is waited for.

        :raises JournalRefused: it must not be opened; a sentence for a person.
        :raises JournalDamaged: it cannot be read.
        :raises JournalUnavailable: not now.
        """
        path = path_of(url)
        file, aside = JournalFile(path, busy), Reserve(path, reserve)
        journal = cls(file, clock, aside)
        await journal.prepare(lambda: _prepare(file, aside))
        return journal


def _prepare(file: JournalFile, reserve: Reserve) -> int:
    mark = Mark(file.path)
    known = mark.read()
    was_there = known is not None or reserve.path.exists()

    def ready(connection: JournalConnection) -> int:
        if is_empty(connection) and was_there:
            raise mark.gone()
        migrate(connection, file.path)
        refuse_foreign(connection, file.name)
        newest = connection.last_fact()
        if known and not newest:
            raise mark.gone()
        return newest

    if was_there and not file.path.exists():
        raise mark.gone()
    is_new = create(file.path)

    def begun() -> int:
        if not is_new:
            with file.troubles():
                save_before_migration(file.path, file.busy)
        return file.write(ready)

    try:
        newest = begun()
    except JournalUnavailable as trouble:
        # The life before this one may have been killed on a full disk, with a rollback under way.
        if not (trouble.full and reserve.release()):
            raise
        newest = begun()
    reserve.restore()
    mark.write(newest)
    return newest
