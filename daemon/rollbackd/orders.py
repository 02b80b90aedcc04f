"""Signal files that give orders: journaled once, carried out, moved away. The file's owner is the actor."""

import json
from datetime import timedelta

from rollbackd import facts, log
from rollbackd.book import Book
from rollbackd.clock import Clock
from rollbackd.config.models import Config
from rollbackd.desk import Desk, Invalid, NotFound, Refused
from rollbackd.journal import Entry, JournalUnavailable, Received
from rollbackd.model import FLEET, Request
from rollbackd.sources.signal_files import Command, SignalFiles

EVERY = timedelta(seconds=1)


class Orders:
    """Scans the directory every second."""

    def __init__(self, config: Config, book: Book, clock: Clock, files: SignalFiles, desk: Desk) -> None:
        self._services = {service.name for service in config.services}
        self._book = book
        self._clock = clock
        self._files = files
        self._desk = desk
        self._announced: set[str] = set()
        self._log = log.get("orders")

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.scan()
            except JournalUnavailable as error:
                self._log.error("an order could not be written; it stays where it is", error=str(error))
            await self._clock.sleep(EVERY)

    async def scan(self) -> None:
        """Take every command file that is ready; announce holds for services that there are not."""
        for command in self._files.commands(self._services):
            await self._take(command)
        unknown = set(self._files.unknown_holds(self._services))
        for name in sorted(unknown - self._announced):
            await self._tell(f"{name} holds nothing: there is no service of that name")
        self._announced = unknown

    async def _take(self, command: Command) -> None:
        body = json.dumps({"file": command.name, "actor": command.actor, "fields": command.fields})
        receipt = await self._book.receive([Received(command.key, "file", body.encode())])
        problem = command.problem
        known = {row.key: row.id for row in await self._book.journal.unhandled() if row.source == "file"}
        if command.key in known:
            problem = problem or await self._carry_out(command)
            await self._book.journal.handled([known[command.key]])
        elif not receipt.new:
            problem = ""
        trouble = self._files.finish(command, problem)
        if problem:
            await self._tell(f"{command.name} by {command.actor} was rejected: {problem}")
        if trouble:
            await self._tell(trouble)

    async def _carry_out(self, command: Command) -> str:
        """What was wrong with it; empty when it was done."""
        reason = command.fields.get("reason", "")
        try:
            if command.verb == "ROLLBACK":
                to, plan = command.fields.get("to", ""), command.fields.get("plan", "")
                await self._desk.rollback(Request(command.service, command.actor, reason, to, plan))
            else:
                await self._desk.abort(command.service, command.actor, reason)
        except (NotFound, Invalid, Refused) as error:
            return str(error)
        return ""

    async def _tell(self, text: str) -> None:
        self._log.warning(text)
        await self._book.append(Entry(FLEET, facts.Notice("override", text)))
