"""The journal on PostgreSQL: what is looked at before it is used."""

from datetime import datetime, timedelta
from typing import Self

from rollbackd.journal.contract import JournalTaken, Member
from rollbackd.journal.database import JournalConnection, scalar
from rollbackd.journal.lease import Lease
from rollbackd.journal.place import Access
from rollbackd.journal.postgres import PostgresConnection, PostgresServer
from rollbackd.journal.postgres_schema import refuse_unready
from rollbackd.journal.reading import refuse_foreign
from rollbackd.journal.store import StoredJournal
from rollbackd.system.clock import Clock, surely_ahead

_ATTENDS = """
    INSERT INTO members (host, process, version, configuration, ahead) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET process = excluded.process, version = excluded.version,
        configuration = excluded.configuration, ahead = excluded.ahead, seen = clock_timestamp(),
        since = CASE WHEN members.process = excluded.process THEN members.since ELSE clock_timestamp() END
    WHERE members.process IN ('', excluded.process)
"""
_LEAVES = "UPDATE members SET process = '' WHERE host = ? AND process = ?"
_MEMBERS = """
    SELECT members.host, members.process, version, configuration, since, clock_timestamp() - seen, ahead,
        members.process = driver.process AND driver.process != '', epoch
    FROM members, driver ORDER BY members.host
"""


class PostgresJournal(StoredJournal):
    """Tables of a server, which are made and changed by `rollbackd journal migrate` alone."""

    _lease: Lease | None = None

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
        return journal

    async def look(self) -> int:
        newest = await self._ask(PostgresConnection.last_fact)
        if newest > self._newest:
            self._newest = newest
            self._wake()
        return self._newest

    async def attend(self, host: str, process: str, version: str, configuration: str) -> timedelta:
        def said(connection: JournalConnection, _now: datetime) -> timedelta:
            asked = self._clock.now()
            there = scalar(connection, "SELECT clock_timestamp()")
            ahead = -surely_ahead(asked, there, self._clock.now())
            attended = connection.execute(_ATTENDS, (host, process, version, configuration, ahead.total_seconds()))
            if attended.rowcount == 0:
                raise JournalTaken(f"{self._database.name}: another daemon is called {host} now; this one ends")
            return ahead

        return await self._effect(said)

    async def leave(self, host: str, process: str) -> None:
        await self._effect(lambda connection, _now: connection.execute(_LEAVES, (host, process)))

    async def members(self) -> list[Member]:
        def asked(connection: JournalConnection) -> list[Member]:
            return [
                Member(host, process, version, digest, since, silent, timedelta(seconds=ahead), drives, epoch)
                for host, process, version, digest, since, silent, ahead, drives, epoch in connection.execute(_MEMBERS)
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
