"""The journal on PostgreSQL: what is looked at before it is used."""

import asyncio
from contextlib import suppress
from typing import Self

from rollbackd.journal.contract import JournalUnavailable
from rollbackd.journal.database import JournalConnection
from rollbackd.journal.lease import Lease
from rollbackd.journal.place import Access
from rollbackd.journal.postgres import PostgresConnection, PostgresServer
from rollbackd.journal.postgres_schema import refuse_unready
from rollbackd.journal.reading import refuse_foreign
from rollbackd.journal.store import StoredJournal
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end


class PostgresJournal(StoredJournal):
    """Tables of a server, which are made and changed by `rollbackd journal migrate` alone."""

    _lease: Lease | None = None

    def __init__(self, database: PostgresServer, clock: Clock) -> None:
        super().__init__(database, clock)
        self._catching_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._catching_up.set_result(None)

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
            server.drive(lease.epoch, lambda: lease.away)

        def ready(connection: JournalConnection) -> int:
            refuse_unready(connection, server.name)
            refuse_foreign(connection, server.name)
            return connection.last_fact()

        await journal.prepare(lambda: server.read(ready))
        if lease is not None:
            loop = asyncio.get_running_loop()
            lease.heard = lambda newest: loop.call_soon_threadsafe(journal._heard_of, newest)
        return journal

    async def look(self) -> int:
        newest = await self._ask(PostgresConnection.last_fact)
        if newest > self._newest:
            self._newest = newest
            self._wake()
        return self._newest

    def _heard_of(self, newest: int) -> None:
        """A host that does not drive may write, too: what was done there before it lost."""
        if newest > self._newest and not self._closed and self._catching_up.done():
            self._catching_up = asyncio.ensure_future(self._catch_up())

    async def _catch_up(self) -> None:
        with suppress(JournalUnavailable):
            if records := await self.since(self._newest):
                self._moved(records)

    async def close(self) -> None:
        if self._lease is not None:
            self._lease.heard = lambda _: None
        await end([self._catching_up])
        await super().close()

    @property
    def trouble(self) -> str:
        return self._lease.trouble if self._lease is not None else ""

    @property
    def taken(self) -> str:
        return self._lease.taken if self._lease is not None else ""

    @property
    def host(self) -> str:
        return self._lease.host if self._lease is not None else ""
