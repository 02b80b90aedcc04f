"""Lets running sessions end before a service is touched: no new ones are taken, then the present ones are waited for.

A bracket, never a step. It asks by HTTP or by commands; running containers with a label count as sessions too. The
waiting has a limit that a crash does not restart: the time of entering is on disk. When the limit is over the rollback
goes on, or fails, as `at_limit` says; a count that nobody answers is waited for as well. An abort is heeded when the
waiting is over.
"""

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rollbackd import jsonpath, log
from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.boundary import boundary
from rollbackd.clock import Clock
from rollbackd.jsonpath import JsonPath
from rollbackd.model import NO_RELEASE, Change, Problem
from rollbackd.process import Finished, Lock, Spawner, one_line
from rollbackd.units import Duration, Spec, format_duration, show
from rollbackd_adapters import web
from rollbackd_adapters.brackets import BracketOnly
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.lacks import missing_programs
from rollbackd_adapters.then import environment
from rollbackd_adapters.traces import Trace

Vector = Annotated[tuple[str, ...], Field(min_length=1)]

_TOLD = timedelta(minutes=1)
"""How often the same count is logged again."""
_LONGEST = timedelta(minutes=50)
"""The runner gives up after an hour."""


class Counted(web.Question):
    """Where the number of sessions is: a number, or a list that has an item for each."""

    json_at: JsonPath = Field(default="", alias="json")
    """Where in the JSON document; empty: the document is the number."""


class DrainCalls(Spec):
    """By HTTP."""

    enter: web.Call
    """From now on no new sessions."""
    leave: web.Call
    """New sessions again."""
    sessions: Counted | None = None
    """How many there are."""


class DrainCommands(Spec):
    """By argument vectors; each must be harmless when repeated."""

    enter: Vector
    """From now on no new sessions."""
    leave: Vector
    """New sessions again."""
    sessions: Vector | None = None
    """Prints how many there are."""


class DrainSettings(Settings):
    """A layer of adapter `drain`: `http` or `command`, and one place where sessions are counted."""

    http: DrainCalls | None = None
    command: DrainCommands | None = None
    docker: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]*(=[A-Za-z0-9._/:@-]+)?)?$")
    """A label: the running containers that have it are the sessions, as `docker ps` counts them."""
    at_most: int = Field(default=0, ge=0)
    """So many sessions may be left."""
    limit: Duration = Field(default=timedelta(minutes=10), le=_LONGEST)
    """How long they are waited for, from the first entering on."""
    at_limit: Literal["go_on", "fail"] = "go_on"
    """When it is over: `go_on` ends them with the rollback, `fail` takes new ones again and stops the rollback."""
    every: Duration = Field(default=timedelta(seconds=5), ge=timedelta(milliseconds=100))
    """Between two counts."""
    answer_within: Duration = timedelta(seconds=10)
    """For each request and each command."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.http is None) == (self.command is None):
            raise ValueError("new sessions are stopped by `http` or by `command`; give exactly one")
        own = (self.http or self.command).sessions  # type: ignore[union-attr]
        if (own is None) == (not self.docker):
            raise ValueError("sessions are counted in one place; give `sessions`, or `docker` with a label")
        return self


class Drain(BracketOnly):
    """One service's sessions."""

    settings_model: ClassVar[type[Settings]] = DrainSettings

    def __init__(self, settings: DrainSettings, place: Place) -> None:
        super().__init__(place)
        self._settings = settings
        self._spawner: Spawner = place.spawner
        self._clock: Clock = place.clock
        self._log = log.get("drain").bind(service=place.service, layer=place.layer)
        self.resource = f"drain:{place.service}/{place.layer}"

    async def inside(self, key: str) -> bool:
        """Once they have been waited for: before that, entering is not done, and goes on after a crash."""
        return bool((self._trace(key).begun or {}).get("drained"))

    async def enter(self, key: str) -> None:
        trace = self._trace(key)
        with as_adapter_errors():
            async with self._spawner.hold(self.resource, wait=self._settings.answer_within) as lock:
                begun = trace.begun or {}
                if begun.get("drained") and not begun.get("leaving"):
                    return
                if not begun.get("since") or begun.get("leaving"):
                    trace.begin(since=self._clock.now().isoformat(), drained=False, leaving=False)
                await self._switch("enter", key, lock)  # again after a crash: nobody knows whether it arrived
                boundary("drain.entered")
                left = await self._wait(datetime.fromisoformat(str((trace.begun or {})["since"])))
                if left and self._settings.at_limit == "fail":
                    await self._give_up(key, trace, lock, left)
                trace.begin(drained=True)

    async def _give_up(self, key: str, trace: Trace, lock: Lock, left: str) -> None:
        """The core leaves only what was entered, so new sessions are let in again here."""
        await self._switch("leave", key, lock)
        trace.begin(since="")
        limit = format_duration(self._settings.limit)
        raise AdapterError(
            f"{self._place.layer}: {left} after {limit}; new ones are taken again. End them, or make `limit` longer",
            permanent=True,
        )

    async def leave(self, key: str) -> None:
        trace = self._trace(key)
        with as_adapter_errors():
            async with self._spawner.hold(self.resource, wait=self._settings.answer_within) as lock:
                if not (trace.begun or {}).get("since"):
                    return
                trace.begin(leaving=True)
                await self._switch("leave", key, lock)
                trace.begin(since="", drained=False, leaving=False)

    # -- waiting --------------------------------------------------------------------------------
    async def _wait(self, since: datetime) -> str:
        """Until they have ended; what is left at the limit, in words, or ""."""
        spent = min(max(self._clock.now() - since, timedelta()), self._settings.limit)
        until = self._clock.monotonic() + (self._settings.limit - spent).total_seconds()
        said, told = "", -math.inf
        while True:
            left = await self._left()
            now = self._clock.monotonic()
            if not left:
                self._log.info("all sessions have ended")
                return ""
            if now >= until:
                self._log.warning("the time for sessions to end is over", left=left)
                return left
            if left != said or now - told >= _TOLD.total_seconds():
                self._log.info("waiting for sessions to end", left=left, seconds=round(until - now))
                said, told = left, now
            await self._clock.sleep(min(self._settings.every, timedelta(seconds=until - now)))

    async def _left(self) -> str:
        """What is still to be waited for, in words; "" when nothing is."""
        try:
            number = await self._count()
        except AdapterError as error:
            return f"sessions cannot be counted ({error})"
        return "" if number <= self._settings.at_most else f"{number:g} sessions are left"

    async def _count(self) -> float:
        """:raises AdapterError: nobody says."""
        if self._settings.docker:
            argv = ("docker", "ps", "--quiet", "--no-trunc", "--filter", f"label={self._settings.docker}")
            return len((await self._output(argv)).split())
        if self._settings.http is not None:
            assert self._settings.http.sessions is not None
            return await self._counted(self._settings.http.sessions)
        assert self._settings.command is not None
        assert self._settings.command.sessions is not None
        said = (await self._output(self._settings.command.sessions)).strip()
        if re.fullmatch(r"\d{1,12}", said) is None:
            raise AdapterError(f"{show(one_line(said))} is not a number of sessions", permanent=False)
        return int(said)

    async def _counted(self, counted: Counted) -> float:
        words = web.words_of(self._place)
        answer = web.accepted(await web.ask(counted, self._place, words, self._settings.answer_within), self._place)
        try:
            found: Any = jsonpath.at(answer.json(), counted.json_at)
        except ValueError as error:
            raise AdapterError(f"{answer.where}: {error}", permanent=False) from None
        if isinstance(found, list):
            return len(found)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < math.inf:
            raise AdapterError(f"{answer.where}: {show(one_line(str(found)))} is not a number", permanent=False)
        return found

    # -- asking ---------------------------------------------------------------------------------
    async def _switch(self, way: Literal["enter", "leave"], key: str, lock: Lock) -> None:
        if self._settings.http is not None:
            call: web.Call = getattr(self._settings.http, way)
            words = web.words_of(self._place, key)
            sent = {"Idempotency-Key": f"{self._place.service}/{key}/{way}"}
            done = await web.call(call, self._place, words, self._settings.answer_within, headers=sent)
            web.accepted(done, self._place)
            return
        argv: Sequence[str] = getattr(self._settings.command, way)
        change = Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key)
        finished = await self._run(argv, change, lock)
        if not finished.ok:
            raise AdapterError(f"`{_shown(argv)}`: {finished.ending}", permanent=False, evidence=finished.tail)

    async def _output(self, argv: Sequence[str]) -> str:
        finished = await self._run(argv)
        if not finished.ok:
            raise AdapterError(f"`{_shown(argv)}`: {finished.ending}", permanent=False, evidence=finished.tail)
        return finished.stdout.decode(errors="replace")

    async def _run(self, argv: Sequence[str], change: Change | None = None, lock: Lock | None = None) -> Finished:
        with as_adapter_errors():
            return await self._spawner.run(
                argv, timeout=self._settings.answer_within, env=environment(self._place, change), lock=lock
            )

    async def ready(self) -> Sequence[Problem]:
        command = self._settings.command
        vectors = () if command is None else (command.enter, command.leave, command.sessions)
        programs = {argv[0] for argv in vectors if argv} | ({"docker"} if self._settings.docker else set())
        texts = missing_programs(self._spawner, sorted(programs))
        return [Problem(self._place.layer, text) for text in texts]


def _shown(argv: Sequence[str]) -> str:
    return one_line(" ".join(argv))
