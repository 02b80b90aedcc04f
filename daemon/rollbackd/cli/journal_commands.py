"""The journal as a whole: its tables made on PostgreSQL, and moved from one database into another."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollbackd.cli.command_frame import Session, StopError, command
from rollbackd.cli.locations import scratch_path
from rollbackd.cli.terminal_text import safe

if TYPE_CHECKING:
    from rollbackd.journal import Access

app = typer.Typer(name="journal", help="Make the journal's tables on PostgreSQL, or move it.", rich_markup_mode=None)


def journal_access(config: Path, url: str) -> "Access":
    """How a journal is reached: as the configuration says, where it names this one; else by libpq's own ways."""
    from rollbackd.config.load import ConfigErrors, load
    from rollbackd.journal import Access
    from rollbackd.journal.place import is_postgres
    from rollbackd.state.journal_access import access_of

    if is_postgres(url):
        with suppress(ConfigErrors):
            daemon = load(config, look_for=None).config.daemon
            if daemon.journal == url:
                return access_of(daemon)
    return Access(scratch_path(config), replicated=False)


def migrate(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="As a role that may make tables: postgresql://admin@db/x.")],
    role: Annotated[list[str], typer.Option("--role", help="Let this role use them, as the daemon does.")] = [],  # noqa: B006  # typer's way
) -> None:
    """Make the journal's tables on PostgreSQL, or bring them up to date."""
    from rollbackd.journal import JournalRefused, JournalUnavailable
    from rollbackd.journal.offline import postgres_server

    try:
        server = postgres_server(url, journal_access(session.config_path, url))
        from rollbackd.journal.postgres_schema import migrate as bring_up_to_date

        version = bring_up_to_date(server, role)
    except (JournalRefused, JournalUnavailable) as error:
        raise StopError(str(error)) from error
    found = {"journal": server.name, "version": version, "roles": role}
    session.show(found, lambda: print(safe(f"{server.name}: version {version}")))


def move(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The journal's URL.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The URL of an empty one.")],
) -> None:
    """Move the journal, with all daemons stopped; nothing starts on the old one any more.

    What was cut off is done again by the same command.
    """
    from rollbackd.journal import JournalRefused, JournalUnavailable

    try:
        count = asyncio.run(_move(session.config_path, source, target))
    except (JournalRefused, JournalUnavailable) as error:
        raise StopError(str(error)) from error
    text = f"{count} facts are in {target}; name that as daemon.journal. Nothing starts on {source} any more"
    session.show({"facts": count, "from": source, "to": target}, lambda: print(safe(text)))


async def _move(config: Path, source: str, target: str) -> int:
    from rollbackd.cli.offline_rollback import actor
    from rollbackd.execution.runner import process_name
    from rollbackd.facts import Moved
    from rollbackd.journal import Entry, JournalRefused, driving, open_journal
    from rollbackd.journal.moving import copy
    from rollbackd.journal.offline import database_of
    from rollbackd.model import FLEET
    from rollbackd.system.clock import SystemClock

    if source == target:
        raise JournalRefused("both are the same journal; name another one to move it to")
    clock, here, there = SystemClock(), journal_access(config, source), journal_access(config, target)
    me = (process_name(), f"`rollbackd journal move` on {socket.gethostname()}")
    async with driving(source, here, clock, *me) as lease, driving(target, there, clock, *me):
        old = await open_journal(source, clock, here, lease)
        try:
            await (await open_journal(target, clock, there)).close()  # made, and known to be fit
            into = database_of(target, there)
            count = await asyncio.to_thread(copy, database_of(source, here), into)
            await old.append(Entry(FLEET, Moved(into.name), actor()))
        finally:
            await old.close()
    return count


for _run in (migrate, move):
    command(app, _run.__name__)(_run)
