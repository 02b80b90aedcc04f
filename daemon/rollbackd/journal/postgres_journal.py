"""The journal on PostgreSQL: what is looked at before it is used."""

from typing import Self

from rollbackd.journal.database import JournalConnection
from rollbackd.journal.lease import Lease
from rollbackd.journal.place import Access
from rollbackd.journal.postgres import PostgresConnection, PostgresServer
from rollbackd.journal.postgres_schema import refuse_unready
from rollbackd.journal.reading import refuse_foreign
from rollbackd.journal.store import StoredJournal
from rollbackd.system.clock import Clock


class PostgresJournal(StoredJournal):
    """Tables of a server, which are made and changed by `rollbackd journal migrate` alone."""

    _lease: Lease | None = None

    @classmethod
    async def open(cls, url: str, clock: Clock, access: Access, lease: Lease | None = None) -> Self:
        """Open a journal that is there. Without a lease nothing keeps others from writing, too.

        :raises JournalRefused: it must not be opened; a sentence for a person.
        :raises JournalUnavailable: not now.
        """
        server = PostgresServer(url, access)
        journal = cls(server, clock)
        if lease is not None:
            journal._lease = lease
            server.drive(lease.epoch)

        def ready(connection: JournalConnection) -> int:
            refuse_unready(connection, server.name)
            refuse_foreign(connection, server.name)
            return connection.last_fact()

        await journal.prepare(lambda: server.read(ready))
        return journal

    async def look(self) -> int:
        newest = await self._ask(PostgresConnection.last_fact)
        if newest > self._newest:
            self._newest = newest
            self._wake()
        return self._newest

    @property
    def trouble(self) -> str:
        return self._lease.trouble if self._lease is not None else ""

    @property
    def host(self) -> str:
        return self._lease.host if self._lease is not None else ""
