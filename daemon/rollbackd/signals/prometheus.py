"""The client of Prometheus. A problem is an answer too: nothing here raises for what a server, or its absence, does.

Questions run on daemon threads of our own, a bounded number of them, and never longer than the time limit: a server
that keeps a thread busy with a byte a second has its connection cut. The same query is never under way twice.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from rollbackd.signals.query_answers import (
    QueryAnswer,
    RangeAnswer,
    RangeSeries,
    RowsAnswer,
    RulesAnswer,
    Series,
    Unusable,
    instant_series,
    one_of_replicas,
    one_range_of_replicas,
    own_rules,
    range_series,
    rows,
)
from rollbackd.signals.query_threads import QueryThread, readable
from rollbackd.syntax.units import Secret, format_duration
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.http_connection import DIRECT, HttpConnection, shown
from rollbackd.system.redaction import without_passwords

__all__ = ["Prometheus", "PrometheusReplicas", "QueryAnswer", "RangeAnswer", "RangeSeries", "RulesAnswer", "Series"]

THREADS = 8
"""How many questions are under way at once; more of them wait their turn, within their own time limit."""
_GOODBYE = 1.0
"""Seconds that `close` gives the threads whose connections it cut."""

A = TypeVar("A", QueryAnswer, RangeAnswer, RowsAnswer, RulesAnswer)


@dataclass(eq=False, slots=True)
class _Ask(Generic[A]):
    """A question under way, or waiting for a thread."""

    query: str
    subject: tuple[object, ...]
    """What else makes it the same question: now, or which time."""
    kind: type[A]
    fetch: Callable[[QueryThread], A]
    answer: asyncio.Future[A]
    ended: asyncio.Future[None]
    """Done when no thread works on it any more."""
    line: QueryThread | None = None
    given_up: float | None = None
    """When the asker gave up, in the clock's monotonic seconds; None: not yet."""


class Prometheus:
    """One Prometheus server, or anything that speaks its API. Used from one event loop."""

    def __init__(
        self,
        url: str | Secret,
        timeout: timedelta,
        clock: Clock,
        connection: Callable[[str | Secret], HttpConnection] = lambda _: DIRECT,
        replica_labels: Collection[str] = (),
    ) -> None:
        """:param replica_labels: labels without which series of two replicas are one."""
        self._replica_labels = replica_labels
        self._address = url
        self._connection = connection
        self._masked: Callable[[str], str] = str
        self._name = shown(url).rstrip("/")
        self._timeout = timeout
        self._clock = clock
        self._under_way: dict[str, _Ask[Any]] = {}
        self._queue: deque[_Ask[Any]] = deque()
        self._idle: list[QueryThread] = []
        self._threads = 0
        self._closed = False

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        """The series of a query now, or at a time; ends within the time limit.

        While an ask of the same query hangs beyond its own limit, there is a problem at once.
        """

        def fetch(line: QueryThread) -> QueryAnswer:
            return QueryAnswer(one_of_replicas(instant_series(line.instant(query, at)), self._replica_labels))

        return await self._ask(query, (at,), QueryAnswer, fetch)

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        """The series of a query over a time, start and end rounded to the second; otherwise like `instant`."""

        def fetch(line: QueryThread) -> RangeAnswer:
            found = range_series(line.range(query, start, end, step))
            return RangeAnswer(one_range_of_replicas(found, self._replica_labels))

        return await self._ask(query, (start, end, step), RangeAnswer, fetch)

    async def rows(self, query: str, start: datetime, step: timedelta, count: int) -> RowsAnswer:
        """The series of a query at `count` times, whole seconds apart, as plain numbers; otherwise like `instant`."""
        end, seconds, begin = start + step * (count - 1), round(step.total_seconds()), round(start.timestamp())

        def fetch(line: QueryThread) -> RowsAnswer:
            return RowsAnswer(rows(line.range(query, start, end, step), begin, seconds, count))

        return await self._ask(query, ("rows", start, step, count), RowsAnswer, fetch)

    async def rules(self) -> RulesAnswer:
        """The rules that it evaluates itself; otherwise like `instant`."""

        def fetch(line: QueryThread) -> RulesAnswer:
            return own_rules(line.rules())

        return await self._ask("/api/v1/rules", (), RulesAnswer, fetch)

    async def close(self) -> None:
        """Cut what is under way; whoever waits for it gets a problem."""
        self._closed = True
        asks = list(self._under_way.values())
        for ask in asks:
            self._give_up(ask, "this client was closed")
        if asks:
            await asyncio.wait([ask.ended for ask in asks], timeout=_GOODBYE)
        while self._idle:
            self._idle.pop().close()

    async def _ask(
        self, query: str, subject: tuple[object, ...], kind: type[A], fetch: Callable[[QueryThread], A]
    ) -> A:
        """Join the same question, wait for another one of the same query to end, or ask."""
        try:
            async with asyncio.timeout(self._timeout.total_seconds()) as limit:
                while (other := self._under_way.get(query)) is not None:
                    if other.given_up is not None:
                        return kind(problem=self._problem(f"the previous ask still hangs, {self._age(other)}"))
                    if other.subject == subject:
                        joined: A = await asyncio.shield(other.answer)
                        return joined
                    await asyncio.shield(other.ended)
        except TimeoutError:
            return kind(problem=self._no_answer())
        if self._closed:
            return kind(problem=self._problem("this client was closed"))
        ask = self._begin(query, subject, kind, fetch, limit.when())
        return await asyncio.shield(ask.answer)

    def _begin(
        self,
        query: str,
        subject: tuple[object, ...],
        kind: type[A],
        fetch: Callable[[QueryThread], A],
        limit: float | None,
    ) -> _Ask[A]:
        loop = asyncio.get_running_loop()
        ask = _Ask(query, subject, kind, fetch, loop.create_future(), loop.create_future())
        self._under_way[query] = ask
        timer = loop.call_at(limit or loop.time(), self._expire, ask)
        ask.ended.add_done_callback(lambda _: timer.cancel())
        self._queue.append(ask)
        self._next()
        return ask

    def _next(self) -> None:
        """Give threads to the questions that wait for one."""
        while self._queue and self._threads < THREADS:
            ask = self._queue.popleft()
            ask.line = self._idle.pop() if self._idle else self._new_thread()
            loop = asyncio.get_running_loop()
            thread = threading.Thread(target=self._work, args=(loop, ask, ask.line), name="prometheus", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system's limit of threads
                ask.line.close()
                self._settle(ask, ask.kind(problem=self._problem(str(error))))
                continue
            self._threads += 1

    def _new_thread(self) -> QueryThread:
        line = QueryThread("" if isinstance(self._address, Secret) else self._address.rstrip("/"), self._timeout)
        line.connection = self._connected
        return line

    def _connected(self) -> HttpConnection:
        """What goes along with a question, on its thread. :raises ValueError: OSError: a secret cannot be read."""
        connection = self._connection(self._address)
        self._masked = connection.masked
        return connection

    def _work(self, loop: asyncio.AbstractEventLoop, ask: _Ask[A], line: QueryThread) -> None:
        """Ask, on the thread."""
        broken = False
        try:
            answer = ask.fetch(line)
        except Unusable as error:
            answer = ask.kind(problem=self._problem(str(error)))
        except Exception as error:  # noqa: BLE001  # the thread's root: whatever the libraries raise, the asker must hear
            broken = True
            said = readable(error)
            problem = self._no_answer() if said == "timed out" else self._problem(f"no answer: {said}")
            answer = ask.kind(problem=problem)
        with suppress(RuntimeError):  # the loop is gone, and with it everybody who would want to know
            loop.call_soon_threadsafe(self._end, ask, line, answer, broken)

    def _end(self, ask: _Ask[A], line: QueryThread, answer: A, broken: bool) -> None:
        """Note that the thread has ended; what it asked by is kept unless that is `broken`."""
        self._threads -= 1
        self._settle(ask, answer)
        if ask.given_up is None and not self._closed and not broken:
            self._idle.append(line)
        else:
            line.close()
        self._next()

    def _settle(self, ask: _Ask[A], answer: A) -> None:
        self._under_way.pop(ask.query, None)
        if not ask.answer.done():
            ask.answer.set_result(answer)
        ask.ended.set_result(None)

    def _expire(self, ask: _Ask[Any]) -> None:
        self._give_up(ask, f"none of {THREADS} threads was free" if ask.line is None else "")

    def _give_up(self, ask: _Ask[Any], why: str) -> None:
        """Answer with a problem now; the query stays under way until its thread has ended too."""
        if ask.answer.done():
            return
        problem = ask.kind(problem=self._problem(why) if why else self._no_answer())
        if ask.line is None:
            self._queue.remove(ask)
            self._settle(ask, problem)
            return
        ask.given_up = self._clock.monotonic()
        ask.answer.set_result(problem)
        ask.line.cut()

    def _age(self, ask: _Ask[Any]) -> str:
        since = self._clock.monotonic() - (ask.given_up or 0.0)
        return f"given up {format_duration(timedelta(seconds=since))} ago"

    def _no_answer(self) -> str:
        return self._problem(f"no answer within {format_duration(self._timeout)}")

    def _problem(self, text: str) -> str:
        return f"Prometheus at {self._name}: {self._masked(without_passwords(text))}"


class PrometheusReplicas(Prometheus):
    """Several servers that know the same, asked one after the other until one answers.

    Whoever answered last is asked first, so that a server that hangs costs its time limit once. Answers are never put
    together: what two of them know of one series is one series.
    """

    def __init__(
        self,
        urls: Sequence[str | Secret],
        timeout: timedelta,
        clock: Clock,
        connection: Callable[[str | Secret], HttpConnection] = lambda _: DIRECT,
        replica_labels: Collection[str] = (),
    ) -> None:
        super().__init__(urls[0], timeout, clock, connection)
        self._servers = [Prometheus(url, timeout, clock, connection, replica_labels) for url in urls]
        self._log = log.get("prometheus")

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        return await self._first(lambda server: server.instant(query, at))

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        return await self._first(lambda server: server.range(query, start, end, step))

    async def rows(self, query: str, start: datetime, step: timedelta, count: int) -> RowsAnswer:
        return await self._first(lambda server: server.rows(query, start, step, count))

    async def rules(self) -> RulesAnswer:
        return await self._first(lambda server: server.rules())

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers))

    async def _first(self, ask: Callable[[Prometheus], Awaitable[A]]) -> A:
        """The first answer without a problem; else one with all problems."""
        problems: list[str] = []
        for server in tuple(self._servers):
            answer = await ask(server)
            if not answer.problem:
                if problems:
                    self._prefer(server, problems)
                return answer
            problems.append(answer.problem)
        return type(answer)(problem="; ".join(problems))

    def _prefer(self, server: Prometheus, problems: Sequence[str]) -> None:
        if server is not self._servers[0]:
            self._log.warning("another Prometheus is asked from now on", because="; ".join(problems))
            self._servers.sort(key=lambda one: one is not server)
