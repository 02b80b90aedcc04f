"""Lets running sessions end before a service is touched: no new ones are taken, then the present ones are waited for.

A bracket, never a step. It asks by HTTP or by commands; running containers with a label count as sessions too, as the
`docker` program (https://docs.docker.com/reference/cli/docker/) tells them to the daemon's user, in the context that is
that user's, and so do pods of a cluster. The waiting has a limit that a crash does not restart: the time of entering is
on disk. When the limit is over the rollback goes on, or fails, as `at_limit` says; a count that nobody answers is
waited for as well. An abort is heeded when the waiting is over.
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import NO_RELEASE, Change
from rollbackd.syntax.json_path import JsonPath
from rollbackd.syntax.units import Duration, Ref, Spec, Vector, format_duration, show
from rollbackd.system import log
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Finished, Lock, one_line
from rollbackd_adapters import web
from rollbackd_adapters.brackets import BracketAdapter, crossing, sent_once
from rollbackd_adapters.failures import as_adapter_errors, holding
from rollbackd_adapters.kubernetes.client import identified_client
from rollbackd_adapters.kubernetes.lacking import missing_rights
from rollbackd_adapters.kubernetes.settings import NAMESPACE
from rollbackd_adapters.lacks import missing_programs
from rollbackd_adapters.then import environment
from rollbackd_adapters.traces import Trace

_UNCOUNTED = "sessions cannot be counted"
_NO_RIGHT = "permission denied while trying to connect"
"""What `docker` says in all its versions to a user who may not."""
_TOLD = timedelta(minutes=1)
"""How often the same count is logged again."""
_SHUT = timedelta(minutes=1)
"""How long stopping new sessions is tried: a service that is down must not keep a rollback from mending it."""
_LONGEST = timedelta(minutes=50)
"""The runner gives up after an hour."""
PODS_RIGHT = ("list", "", "pods")
"""Verb, API group and resource."""
_ENDED = {"Succeeded", "Failed"}
_LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


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


class DrainPods(Spec):
    """Pods of a cluster that are sessions."""

    cluster: Annotated[str, Ref("cluster")]
    """One of `clusters`, by name."""
    namespace: str = Field(pattern=NAMESPACE)
    """Where they are."""
    label: str = Field(pattern=rf"^([a-z0-9.-]{{1,253}}/)?{_LABEL_NAME}(={_LABEL_NAME})?$")
    """All that have it and have not ended are counted: `role=session`, or only the label's key."""


class DrainSettings(Settings):
    """A layer of adapter `drain`: `http` or `command`, and one place where sessions are counted."""

    http: DrainCalls | None = None
    command: DrainCommands | None = None
    docker: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]*(=[A-Za-z0-9._/:@-]+)?)?$")
    """A label: the running containers that have it are the sessions, as `docker ps` counts them."""
    pods: DrainPods | None = None
    """The same of pods, as the API of a cluster counts them."""
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
        if [own is None, not self.docker, self.pods is None].count(False) != 1:
            raise ValueError("sessions are counted in one place; give `sessions`, or `docker` or `pods` with a label")
        return self


class DrainAdapter(BracketAdapter[DrainSettings]):
    """One service's sessions."""

    settings_model: ClassVar[type[Settings]] = DrainSettings

    def __init__(self, settings: DrainSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = f"drain:{place.service}/{place.layer}"
        self._log = log.get("drain").bind(service=place.service, layer=place.layer)

    async def inside(self, key: str) -> bool:
        """Once they have been waited for: before that, entering is not done, and goes on after a crash."""
        return bool(self._trace(key).known.get("drained"))

    async def enter(self, key: str) -> None:
        trace = self._trace(key)
        async with holding(self._spawner, self.resource, self._settings.answer_within) as lock:
            begun = trace.known
            if begun.get("drained") and not begun.get("leaving"):
                return
            if not begun.get("since") or begun.get("leaving"):
                trace.begin(since=self._clock.now().isoformat(), drained=False, leaving=False)
            until = self._until(datetime.fromisoformat(str(trace.known["since"])))
            refused = await self._shut(key, trace, lock)  # again after a crash: nobody knows whether it arrived
            boundary("drain.entered")
            left = "" if refused else await self._wait(until)
            if left and self._settings.at_limit == "fail":
                await self._give_up(key, trace, lock, left)
            trace.begin(drained=True, note=self._ended(refused, left))

    async def note(self, key: str) -> str:
        """A sentence when the rollback went on although sessions may run, since it ends those."""
        begun = self._trace(key).known
        return str(begun.get("note", "")) if begun.get("drained") and not begun.get("leaving") else ""

    def _ended(self, refused: str, left: str) -> str:
        if refused:
            return f"new sessions could not be stopped, and none was waited for: {refused}"
        limit = format_duration(self._settings.limit)
        return f"{left} after {limit}, and the rollback went on" if left else ""

    def _until(self, since: datetime) -> float:
        """When the limit is over, by the monotonic clock."""
        spent = min(max(self._clock.now() - since, timedelta()), self._settings.limit)
        return self._clock.monotonic() + (self._settings.limit - spent).total_seconds()

    async def _shut(self, key: str, trace: Trace, lock: Lock) -> str:
        """Have no new sessions taken; why they still are when they are, and the rollback goes on all the same.

        :raises AdapterError: it was refused for good; or failed, and `at_limit` says to fail.
        """
        until = self._clock.monotonic() + min(_SHUT, self._settings.limit).total_seconds()
        while True:
            try:
                await self._switch("enter", key, trace, lock)
            except AdapterError as error:
                if error.permanent:
                    raise
                if self._settings.at_limit == "fail":
                    with suppress(AdapterError):  # the first failure is told
                        await self._reopen(key, trace, lock)
                    raise
                over = self._clock.monotonic() >= until
                then = "the rollback goes on" if over else "trying again"
                self._log.warning("new sessions could not be stopped", then=then, error=str(error))
                if over:
                    return str(error)
                await self._clock.sleep(self._settings.every)
            else:
                return ""

    async def _reopen(self, key: str, trace: Trace, lock: Lock) -> None:
        await self._switch("leave", key, trace, lock)
        trace.begin(since="", drained=False, leaving=False, crossing=crossing(trace) + 1)

    async def _give_up(self, key: str, trace: Trace, lock: Lock, left: str) -> None:
        """The core leaves only what was entered, so new sessions are let in again here."""
        await self._reopen(key, trace, lock)
        limit = format_duration(self._settings.limit)
        remedy = "Mend that" if left.startswith(_UNCOUNTED) else "End them, or make `limit` longer"
        text = f"{self._place.layer}: {left} after {limit}; new ones are taken again. {remedy}"
        raise AdapterError(text, permanent=True)

    async def leave(self, key: str) -> None:
        trace = self._trace(key)
        async with holding(self._spawner, self.resource, self._settings.answer_within) as lock:
            if not trace.known.get("since"):
                return
            trace.begin(leaving=True)
            await self._reopen(key, trace, lock)

    # -- waiting --------------------------------------------------------------------------------
    async def _wait(self, until: float) -> str:
        """Until they have ended; what is left at the limit, in words, or ""."""
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
            return f"{_UNCOUNTED} ({error})"
        if number <= self._settings.at_most:
            return ""
        return "1 session is left" if number == 1 else f"{number:g} sessions are left"

    async def _count(self) -> float:
        """:raises AdapterError: nobody says."""
        if self._settings.docker:
            return await self._containers()
        if self._settings.pods is not None:
            return await self._pods(self._settings.pods)
        if self._settings.http is not None:
            assert self._settings.http.sessions is not None
            return await self._counted(self._settings.http.sessions)
        assert self._settings.command is not None
        assert self._settings.command.sessions is not None
        finished = await self._must(self._settings.command.sessions)
        said = finished.stdout.decode(errors="replace").strip()
        if re.fullmatch(r"\d{1,12}", said) is None:
            text = f"{show(one_line(self._spawner.clean(said)))} is not a number of sessions"
            raise AdapterError(text, permanent=False)
        return int(said)

    async def _containers(self) -> int:
        argv = ("docker", "ps", "--quiet", "--no-trunc", "--filter", f"label={self._settings.docker}")
        finished = await self._run(argv)
        if not finished.ok:
            may_not = _NO_RIGHT in finished.stderr
            remedy = "add rollbackd's user to the group docker" if may_not else "does dockerd run?"
            raise AdapterError(f"{_failed(finished)}; {remedy}", permanent=may_not, evidence=finished.tail)
        return len(finished.stdout.split())

    async def _pods(self, pods: DrainPods) -> int:
        """Also those that wait for a node or are about to end; a pod that has ended stays listed."""
        client = await identified_client(self._place, pods.cluster)
        found = await client.items(f"/api/v1/namespaces/{pods.namespace}/pods", labelSelector=pods.label)
        return sum((each.get("status") or {}).get("phase") not in _ENDED for each in found)

    async def _counted(self, counted: Counted) -> float:
        words = web.words_of(self._place)
        answer = web.accepted(await web.ask(counted, self._place, words, self._settings.answer_within), self._place)
        found = answer.at(counted.json_at)
        if isinstance(found, list):
            return len(found)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < math.inf:
            raise AdapterError(f"{answer.where}: {answer.quoted(str(found))} is not a number", permanent=False)
        return found

    # -- asking ---------------------------------------------------------------------------------
    async def _switch(self, way: Literal["enter", "leave"], key: str, trace: Trace, lock: Lock) -> None:
        if self._settings.http is not None:
            call: web.Call = getattr(self._settings.http, way)
            words = web.words_of(self._place, key)
            sent = sent_once(self._place, key, way, trace)
            done = await web.call(call, self._place, words, self._settings.answer_within, headers=sent)
            web.accepted(done, self._place)
            return
        argv: Sequence[str] = getattr(self._settings.command, way)
        await self._must(argv, Change(self._place.layer, NO_RELEASE, NO_RELEASE, key=key), lock)

    async def _must(self, argv: Sequence[str], change: Change | None = None, lock: Lock | None = None) -> Finished:
        finished = await self._run(argv, change, lock)
        if not finished.ok:
            raise AdapterError(_failed(finished), permanent=False, evidence=finished.tail)
        return finished

    async def _run(self, argv: Sequence[str], change: Change | None = None, lock: Lock | None = None) -> Finished:
        with as_adapter_errors():
            return await self._spawner.run(
                argv, timeout=self._settings.answer_within, env=environment(self._place, change), lock=lock
            )

    async def _problems(self) -> list[str]:
        command, http = self._settings.command, self._settings.http
        vectors = () if command is None else (command.enter, command.leave, command.sessions)
        programs = {argv[0] for argv in vectors if argv} | ({"docker"} if self._settings.docker else set())
        texts = missing_programs(self._spawner, sorted(programs))
        if http is not None:
            texts += await web.unprepared(self._place, http.enter, http.leave, http.sessions)
        if self._settings.docker and not texts:
            texts += await self._nobody_counts()
        if (pods := self._settings.pods) is not None:
            texts += await self._may_not_list(pods) or await self._nobody_counts()
        return texts

    async def _may_not_list(self, pods: DrainPods) -> list[str]:
        """The right that is missing; nothing where the cluster cannot be asked."""
        with suppress(AdapterError):
            client = await identified_client(self._place, pods.cluster)
            return await missing_rights(client, pods.namespace, [PODS_RIGHT])
        return []

    async def _nobody_counts(self) -> list[str]:
        """Why dockerd or the cluster cannot be asked. One away for now is a problem only with `at_limit: fail`."""
        try:
            await self._count()
        except AdapterError as error:
            if error.permanent or self._settings.at_limit == "fail":
                return [f"{_UNCOUNTED}: {error}"]
        return []


def _failed(finished: Finished) -> str:
    """The command, how it ended, and what it complained about last."""
    lines = [line for line in finished.stderr.splitlines() if line.strip()]
    said = f": {one_line(lines[-1])}" if lines else ""
    return f"`{one_line(' '.join(finished.argv))}`: {finished.ending}{said}"
