"""Signal files that give orders: journaled once, carried out, moved away. The file's owner is the actor."""

import asyncio
import json
from collections import deque
from dataclasses import replace
from datetime import timedelta

from pydantic import TypeAdapter

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.journal import Arrived, JournalUnavailable, Received
from rollbackd.model import Request
from rollbackd.operations import InvalidOrder, Operations, OrderRefused, UnknownName
from rollbackd.signals.signal_files import MOST, SignalCommand, SignalFiles, readable
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import parse_duration
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

EVERY = timedelta(seconds=1)
AT_ONCE = 20
"""Files that are taken at the same time; orders come before what will be rejected."""
_TOLD = 10
"""Notices in a minute; what goes beyond them is told as a number."""
_MINUTE = 60.0
_PASSED = "passed file"
"""In the inbox: the source of what another host's directory had."""
_COMMAND = TypeAdapter(SignalCommand)


class SignalCommands:
    """Scans the directory every second. An order whose layers hang holds up no other."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        clock: Clock,
        files: SignalFiles,
        operations: Operations,
        *,
        passes_on: bool = False,
    ) -> None:
        """:param passes_on: another daemon drives, and carries out what is found here."""
        self._host = config.daemon.here
        self._shared = config.daemon.standby
        self._passes_on = passes_on
        self._services = {service.name for service in config.services}
        self._read_model = read_model
        self._clock = clock
        self._files = files
        self._operations = operations
        self._announced: set[str] = set()
        self._wrong: dict[str, tuple[str, float]] = {}
        """What is wrong with the directory, as told last, and when it was so last, in the clock's monotonic seconds."""
        self._in_hand: dict[str, asyncio.Task[None]] = {}
        self._told: deque[float] = deque(maxlen=_TOLD)
        """When notices were given, in the clock's monotonic seconds."""
        self._untold = 0
        self._log = log.get("orders")

    async def run(self) -> None:
        """For ever."""
        try:
            while True:
                await self.scan()
                await self._clock.sleep(EVERY)
        finally:
            await end(self._in_hand.values())

    async def scan(self) -> None:
        """Take every command file that is ready; announce holds for services that there are not."""
        await self._look_at_directory()
        for command in self._files.commands(self._services):
            if command.key not in self._in_hand and (len(self._in_hand) < AT_ONCE or not command.problem):
                self._in_hand[command.key] = asyncio.create_task(self._guarded(command), name=command.name)
        if self._shared and not self._passes_on:
            for row in await self._read_model.journal.unhandled(_PASSED):
                if row.key not in self._in_hand:
                    command = _COMMAND.validate_json(row.body)
                    self._in_hand[row.key] = asyncio.create_task(self._of_another_host(command, row), name=row.key)
        unknown = set(self._files.unknown_holds(self._services))
        for name in sorted(unknown - self._announced):
            await self._tell(f"{name} holds nothing: there is no service of that name")
        self._announced = unknown
        if self._untold and self._may_tell():
            untold, self._untold = self._untold, 0
            await self._tell(
                f"{untold} more files in the signals directory were rejected or hold nothing; rejected/ and "
                "the log say which and why"
            )

    async def _look_at_directory(self) -> None:
        """Tell what is wrong with it as a whole, once while that comes and goes."""
        now = self._clock.monotonic()
        for kind, text in (("trouble", self._untrusted()), ("crowd", self._crowded())):
            told, at = self._wrong.get(kind, ("", now))
            if text:
                self._wrong[kind] = (text, now)
                if text != told:
                    await self._tell(text, always=True)
            elif now - at >= _MINUTE:
                self._wrong.pop(kind, None)

    def _untrusted(self) -> str:
        trouble = self._files.trouble()
        return trouble and f"{trouble}. Until then everything is held, and no order by file is taken"

    def _crowded(self) -> str:
        if not self._files.crowd():
            return ""
        return (
            f"there are more than {MOST} files in the signals directory. Orders and holds for services that there are "
            "count, others are rejected a few at a time; remove them, and ask whose they are"
        )

    async def settle(self) -> None:
        """Until every order in hand is carried out."""
        await asyncio.gather(*self._in_hand.values())

    async def _guarded(self, command: SignalCommand) -> None:
        try:
            await (self._pass_on(command) if self._passes_on else self._take(command))
        except JournalUnavailable as error:
            self._log.error(
                "an order could not be written; it stays where it is", file=readable(command.name), error=str(error)
            )
        except Exception as error:  # noqa: BLE001  # one order must not end the others; it is put aside, and told
            self._log.exception("an order failed", file=readable(command.name))
            self._files.finish(command, f"rollbackd itself failed: {type(error).__name__}: {error}")
            await self._tell(f"{command.name} by {command.actor} failed: {error}")
        finally:
            self._in_hand.pop(command.key, None)

    async def _take(self, command: SignalCommand) -> None:
        """Into the inbox first; what is there already and handled is only moved away."""
        body = json.dumps({"file": readable(command.name), "actor": command.actor, "fields": command.fields})
        await self._read_model.receive([Received(command.key, "file", body.encode())])
        boundary("orders.taken")
        waiting = {row.key: row.id for row in await self._read_model.journal.unhandled("file")}
        problem = command.problem
        if command.key in waiting:
            row = waiting[command.key]
            problem = problem or await self._carry_out(command, row)
            await self._read_model.journal.handled([row])
            if problem:
                await self._tell(f"{command.name} by {command.actor} was rejected: {problem}")
        boundary("orders.done")
        trouble = self._files.finish(command, problem)
        if trouble:
            await self._tell(trouble)

    async def _pass_on(self, command: SignalCommand) -> None:
        """Into the inbox, from where the daemon that drives takes it, once."""
        if command.problem:
            await self._tell(f"{command.name} by {command.actor} was rejected: {command.problem}")
        else:
            key = f"{self._host}/{command.key}"
            await self._read_model.receive([Received(key, _PASSED, _COMMAND.dump_json(command))])
        if trouble := self._files.finish(command, command.problem):
            await self._tell(trouble)

    async def _of_another_host(self, command: SignalCommand, row: Arrived) -> None:
        try:
            problem = await self._carry_out(replace(command, key=row.key), row.id)
            await self._read_model.journal.handled([row.id])
            if problem:
                await self._tell(f"{command.name} by {command.actor} was rejected: {problem}")
        except JournalUnavailable as error:
            self._log.error("an order could not be written; it is tried again", file=command.name, error=str(error))
        except Exception as error:  # noqa: BLE001  # as in `_guarded`
            self._log.exception("an order failed", file=command.name)
            await self._read_model.journal.handled([row.id])
            await self._tell(f"{command.name} by {command.actor} failed: {error}")
        finally:
            self._in_hand.pop(row.key, None)

    async def _carry_out(self, command: SignalCommand, row: int) -> str:
        """What was wrong with it; empty when it was done."""
        reason = command.fields.get("reason", "")
        try:
            match command.verb:
                case "ROLLBACK":
                    to, plan = command.fields.get("to", ""), command.fields.get("plan", "")
                    request = Request(command.service, command.actor, reason, to, plan)
                    await self._operations.rollback(request, command.key, (row,))
                case "APPROVE":
                    await self._operations.approve(command.service, command.actor, reason, command.seen, by_file=True)
                case "MENDING":
                    length = parse_duration(command.fields["for"])
                    await self._operations.mending(command.service, command.actor, length, reason)
                case "DENY":
                    await self._operations.deny(command.service, command.actor, reason, command.seen)
                case _:
                    await self._operations.abort(command.service, command.actor, reason)
        except (UnknownName, InvalidOrder, OrderRefused) as error:
            return str(error)
        return ""

    def _may_tell(self) -> bool:
        return len(self._told) < _TOLD or self._clock.monotonic() - self._told[0] >= _MINUTE

    async def _tell(self, text: str, *, always: bool = False) -> None:
        text = readable(text)
        self._log.warning(text)
        if not (always or self._may_tell()):
            self._untold += 1
            return
        if not always:
            self._told.append(self._clock.monotonic())
        await self._read_model.tell(facts.Notice("override", text))
