"""The journal on PostgreSQL: what is looked at before it is used."""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Self

from rollbackd.journal.contract import JournalUnavailable, Member
from rollbackd.journal.database import JournalConnection, scalar
from rollbackd.journal.lease import Lease
from rollbackd.journal.place import Access
from rollbackd.journal.postgres import PostgresConnection, PostgresServer
from rollbackd.journal.postgres_schema import refuse_unready
from rollbackd.journal.reading import refuse_foreign
from rollbackd.journal.store import StoredJournal
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

_ATTENDS = """
    INSERT INTO members (host, process, version, ahead) VALUES (?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET process = excluded.process, version = excluded.version, ahead = excluded.ahead,
        seen = clock_timestamp(),
        since = CASE WHEN members.process = excluded.process THEN members.since ELSE clock_timestamp() END
"""
_MEMBERS = """
    SELECT members.host, members.process, version, since, clock_timestamp() - seen, ahead,
        members.process = driver.process, epoch
    FROM members, driver ORDER BY members.host
"""


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
        server = lease.server if lease is not None else PostgresServer(url, access)
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

    async def attend(self, host: str, process: str, version: str) -> timedelta:
        def said(connection: JournalConnection, _now: datetime) -> timedelta:
            asked = self._clock.now()
            there = scalar(connection, "SELECT clock_timestamp()")
            took = self._clock.now() - asked
            ahead = asked + took / 2 - there
            sure: timedelta = max(abs(ahead) - took / 2, timedelta()) * (1 if ahead > timedelta() else -1)
            connection.execute(_ATTENDS, (host, process, version, sure.total_seconds()))
            return sure

        return await self._effect(said)

    async def members(self) -> list[Member]:
        def asked(connection: JournalConnection) -> list[Member]:
            return [
                Member(host, process, version, since, silent, timedelta(seconds=ahead), drives, epoch)
                for host, process, version, since, silent, ahead, drives, epoch in connection.execute(_MEMBERS)
            ]

        return await self._ask(asked)

    @property
    def trouble(self) -> str:
        return self._lease.trouble if self._lease is not None else ""

    @property
    def taken(self) -> str:
        return self._lease.taken if self._lease is not None else ""

    @property
    def epoch(self) -> int:
        return self._lease.epoch if self._lease is not None else 0

    @property
    def host(self) -> str:
        return self._lease.host if self._lease is not None else ""
