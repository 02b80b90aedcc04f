"""One process drives a journal at a time: by a lock on its file, or by a lease in its database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rollbackd.journal.contract import JournalInUse, JournalUnavailable
from rollbackd.journal.exclusive import Exclusive
from rollbackd.journal.offline import postgres_server
from rollbackd.journal.place import Access, is_postgres
from rollbackd.system.clock import Clock

if TYPE_CHECKING:
    from rollbackd.journal.lease import Lease

_LOOK = timedelta(milliseconds=500)

StandBy = Callable[[str, JournalUnavailable | None], Awaitable[None]]
"""Told at each look who drives; or, with the trouble, that this cannot be seen."""


@asynccontextmanager
async def driving(
    url: str,
    access: Access,
    clock: Clock,
    process: str,
    host: str,
    stand_by: StandBy | None = None,
    member: str = "",
) -> AsyncIterator["Lease | None"]:
    """Drive a journal for as long as this lasts; the lease, where there is one.

    :param process: what no two processes share, and one keeps that executes itself anew.
    :param host: what people call where it runs.
    :param stand_by: called while another one drives, until it no longer does. None: that is refused.
    :param member: the name of ours among those that share the journal, which no other process may have.
    :raises JournalRefused: it is no journal's address, or (`JournalInUse`) another one drives it, or has our name.
    :raises JournalUnavailable: it cannot be asked now, and nobody stands by.
    """
    if not is_postgres(url):
        with Exclusive(url):
            yield None
        return
    server = await asyncio.to_thread(postgres_server, url, access)
    from rollbackd.journal.lease import Lease

    lease = Lease(server, process, host, member)
    while holder := await _look(lease, stand_by):
        if stand_by is not None and lease.named:
            await stand_by(holder, None)
        elif stand_by is None and lease.alive:
            raise JournalInUse(
                f"{server.name}: journal is driven by {holder}; ask that one, or end it first; with `standby: true` "
                "this one would wait and take over"
            )
        await clock.sleep(_LOOK)
    lease.keep()
    try:
        yield lease
    finally:
        await asyncio.to_thread(lease.release)


async def _look(lease: "Lease", stand_by: StandBy | None) -> str:
    try:
        return await asyncio.to_thread(lease.look)
    except JournalUnavailable as trouble:
        if stand_by is None:
            raise
        await stand_by("", trouble)
        return "nobody knows whom"
