"""Any service that can be rolled back by URL: a CI's jobs, a server of feature flags, a deployment API.

It moves whatever the service behind the URLs moves, and saves nothing by itself. `apply` is sent once and its work
waited for; when no answer came, `progress` or `current` is asked before it is sent again, with the same key in the
`Idempotency-Key` header (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/). Only when the
service itself said that the work failed is it begun anew, with a new key.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

from rollbackd.adapter import AdapterError, Place, Settings
from rollbackd.model import Change, Progress, Release, Traits
from rollbackd.syntax.units import Secret, format_duration
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import one_line
from rollbackd_adapters import web
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.failures import as_adapter_errors, holding
from rollbackd_adapters.http.reading import release_of
from rollbackd_adapters.http.settings import HttpSettings, Reading
from rollbackd_adapters.listed import listed
from rollbackd_adapters.traces import Trace

__all__ = ["HttpAdapter", "HttpSettings", "Secret"]

_NOT_THERE = 404


@dataclass(frozen=True, slots=True)
class _Said:
    """How far the work is, and in which words."""

    progress: Progress
    words: str = ""
    failed: bool = False
    """The service said that it ended without success."""


class HttpAdapter(StepAdapter[HttpSettings]):
    """One layer behind URLs."""

    settings_model: ClassVar[type[Settings]] = HttpSettings

    def __init__(self, settings: HttpSettings, place: Place) -> None:
        super().__init__(settings, place)
        self.resource = settings.resource or f"http:{place.service}/{place.layer}"
        self._running: tuple[str, float] = ("", 0.0)
        self._reversible = not settings.irreversible
        self.fences = settings.fenced
        self.traits = Traits(releases=settings.current is not None, data=settings.holds_data)

    async def current(self) -> Release:
        return release_of(*await self._read(self._settings.current))

    async def releases(self) -> Sequence[Release]:
        found, reading, answer = await self._read(self._settings.releases)
        if not isinstance(found, list):
            raise AdapterError(f"{answer.where}: there is no list of releases; correct `json`", permanent=False)
        releases, self._passed_over = listed(found, lambda item: release_of(item, reading, answer, dated=False))
        return releases

    async def apply(self, change: Change) -> None:
        """The work is the service's own: it is asked for once, and then waited for."""
        self._check(change)
        trace = Trace(self._place.scratch, change)
        async with holding(self._spawner, self.resource):
            said = await self._ask(change, trace)
            if said.progress is Progress.NOT_STARTED:
                await self._send(change, trace, again=said.failed)
                said = await self._ask(change, trace)
            await self._until_done(change, trace, said)
            trace.finish(after=change.after.id)

    async def _send(self, change: Change, trace: Trace, *, again: bool) -> None:
        begun = trace.begun or {"attempt": 1}
        attempt = int(begun["attempt"]) + (1 if again else 0)
        trace.intend(attempt=attempt, sent=self._clock.now().timestamp(), accepted=0)
        boundary("http.begun")
        words = self._words(change, attempt)
        headers = {self._settings.idempotency_header: words["key"]}
        if self._place.epoch:
            headers["Rollbackd-Epoch"] = str(self._place.epoch)
        limit = self._settings.request_timeout
        answer = await web.call(self._settings.apply, self._place, words, limit, headers=headers)
        boundary("http.sent")
        web.accepted(answer, self._place)
        trace.begin(accepted=self._clock.now().timestamp())
        boundary("http.accepted")

    async def _until_done(self, change: Change, trace: Trace, said: _Said) -> None:
        deadline = self._clock.monotonic() + self._settings.timeout.total_seconds()
        while said.progress is not Progress.DONE:
            if said.progress is Progress.SUPERSEDED:
                raise await self._superseded()
            if said.progress is Progress.NOT_STARTED or self._clock.monotonic() > deadline:
                raise self._not_done(said)
            await self._clock.sleep(self._settings.every)
            said = await self._ask(change, trace)

    def _not_done(self, said: _Said) -> AdapterError:
        late = "" if said.failed else f" after {format_duration(self._settings.timeout)}"
        return AdapterError(f"{self._place.layer} is not done{late}: {said.words}", permanent=False)

    async def progress(self, change: Change) -> Progress:
        self._check(change)
        key, asked = self._running
        now = self._clock.monotonic()
        if key == change.key and now - asked < self._settings.every.total_seconds():
            return Progress.RUNNING  # somebody asks us more often than the service should be asked
        trace = Trace(self._place.scratch, change)
        with as_adapter_errors():
            said = await self._ask(change, trace)
        if said.progress is Progress.RUNNING and self._is_late(trace.known):
            raise self._not_done(said)
        self._running = (change.key, now) if said.progress is Progress.RUNNING else ("", 0.0)
        return said.progress

    # -- how far it is --------------------------------------------------------------------------
    async def _ask(self, change: Change, trace: Trace) -> _Said:
        """What the service, its present release and our own traces say together."""
        begun = trace.begun
        told = _Said(Progress.DONE) if trace.done is not None else await self._told(change, begun)
        if told.progress is Progress.RUNNING:
            return told
        # Asked second: work that ended between the two shows its effect, and not the state from before it.
        present = (await self.current()).id if self.traits.releases else change.after.id
        if trace.done is not None:
            return _Said(Progress.DONE if present == change.after.id else Progress.SUPERSEDED)
        if self.traits.releases and present not in {change.before.id, change.after.id}:
            return _Said(Progress.SUPERSEDED)
        if self.traits.releases and present == change.after.id and not told.failed:
            return _Said(Progress.DONE)
        if told.failed or begun is None or (told.progress is Progress.DONE and not self.traits.releases):
            return told
        progress = Progress.RUNNING if self._is_fresh(begun) else Progress.NOT_STARTED
        return _Said(progress, told.words or f"{one_line(change.before.name)} still runs")

    async def _told(self, change: Change, begun: dict[str, Any] | None) -> _Said:
        """What the progress URL says of our own work. Before that has begun it could only mean another's."""
        question = self._settings.progress
        if question is None or begun is None:
            return _Said(Progress.NOT_STARTED)
        words = self._words(change, int(begun["attempt"]))
        answer = await web.ask(question, self._place, words, self._settings.request_timeout)
        if answer.status == _NOT_THERE:
            return _Said(Progress.NOT_STARTED, f"{answer.where} answered 404")
        word = _word(web.accepted(answer, self._place).at(question.json_at))
        said = f"{answer.where} says {answer.quoted(word)}"
        if word in question.done:
            return _Said(Progress.DONE, said)
        if word in question.running:
            return _Said(Progress.RUNNING, said)
        if word in question.failed:
            return _Said(Progress.NOT_STARTED, said, failed=True)
        raise AdapterError(f"{said}, which is none of `done`, `running` and `failed`; add it", permanent=False)

    def _is_fresh(self, begun: dict[str, Any]) -> bool:
        """Whether the service took it so short a time ago that it may still be on its way."""
        age = self._clock.now().timestamp() - float(begun["accepted"])
        return timedelta(seconds=age) < self._settings.timeout

    def _is_late(self, begun: dict[str, Any]) -> bool:
        """Whether the work should be done by now: the next attempt does not wait again for work that never ends."""
        since = max(float(begun.get("sent", 0)), float(begun.get("accepted", 0)))
        return bool(since) and timedelta(seconds=self._clock.now().timestamp() - since) > self._settings.timeout

    def _words(self, change: Change, attempt: int) -> dict[str, str]:
        """What `{…}` stands for; an attempt after one that failed has a key of its own."""
        words = web.words_of(self._place, change=change)
        return words | {"key": change.key if attempt == 1 else f"{change.key}/{attempt}"}

    # -- could it work now? ---------------------------------------------------------------------
    async def _problems(self) -> list[str]:
        try:
            if self.traits.releases:
                await asyncio.gather(self.current(), self.releases())
            await self._reach()
        except AdapterError as error:
            return [str(error)]
        return []

    async def _reach(self) -> None:
        """Whether `apply` and `progress` could be asked, and somebody listens where `apply` goes, or its proxy.

        No request is sent.
        """
        if self._settings.progress is not None:
            await web.prepare(self._settings.progress, self._place)
        proxy = (await web.prepare(self._settings.apply, self._place)).proxy
        parts = urlsplit(proxy or self._settings.apply.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        try:
            async with asyncio.timeout(self._settings.request_timeout.total_seconds()):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except (OSError, ValueError) as error:  # a ValueError: no name that could be looked up
            late = f"no answer within {format_duration(self._settings.request_timeout)}"
            words = (getattr(error, "strerror", None) or str(error)).lower()
            reason = late if isinstance(error, TimeoutError) else words
            what = "the proxy of `apply`" if proxy else "where `apply` goes"
            raise AdapterError(f"{host}:{port}, {what}, cannot be reached: {reason}", permanent=False) from None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    # -- asking ---------------------------------------------------------------------------------
    async def _read(self, reading: Reading | None) -> tuple[object, Reading, web.HttpReply]:
        """What is there, the settings that say how to read it, and the answer that it was read in."""
        if reading is None:
            raise AdapterError("this layer has no releases; see its `traits`", permanent=True)
        words = web.words_of(self._place)
        answer = web.accepted(await web.ask(reading, self._place, words, self._settings.request_timeout), self._place)
        return answer.at(reading.json_at), reading, answer


def _word(value: object) -> str:
    """A text as it is; anything else as JSON writes it, so that `true` and `200` can be named."""
    return value if isinstance(value, str) else str(value).lower()
