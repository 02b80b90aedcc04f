"""Prometheus as it was at a time of the play: what was fetched answers by itself, all else is asked with its time."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from rollbackd.backtest.history import History
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_answers import (
    MISSING,
    QueryAnswer,
    RangeAnswer,
    RangeSeries,
    Row,
    RowsAnswer,
    RulesAnswer,
    Series,
)
from rollbackd.system.clock import Clock

A = TypeVar("A")
_REMEMBERED = 1000
"""Answers; the plays of a sweep ask much the same."""


class PastPrometheus(Prometheus):
    """Answers as the server would have at the clock's time."""

    def __init__(self, server: Prometheus, history: History, clock: Clock, answers: dict[object, Any]) -> None:
        """:param answers: what the server said, shared by the plays that ask it."""
        self._server = server
        self._history = history
        self._now = clock.now
        self._answers = answers

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        when = at or self._now()
        poll = self._history.grid.exactly(when)
        if poll is None or not self._history.has(query, [poll]):
            return await self._once(("instant", query, when), lambda: self._server.instant(query, when))
        found = self._history.values_at(query, poll)
        return QueryAnswer(tuple(Series(row.labels, value, when) for row, value in found))

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        grid = self._history.grid
        first = grid.exactly(start)
        count = (end - start) // step + 1
        if first is None or step != grid.pace or not self._history.has(query, (first, first + count - 1)):
            return await self._once(
                ("range", query, start, end, step), lambda: self._server.range(query, start, end, step)
            )
        times = [grid.at(poll) for poll in range(first, first + count)]
        lines: dict[frozenset[tuple[str, str]], tuple[Row, list[tuple[datetime, float]]]] = {}
        for polls, rows in self._history.between(query, first, first + count):
            own = times[polls[0] - first : polls[-1] + 1 - first]
            for row in rows:
                points = [(at, value) for at, value in zip(own, row.values, strict=True) if value != MISSING]
                if points:
                    lines.setdefault(frozenset(row.labels.items()), (row, []))[1].extend(points)
        return RangeAnswer(tuple(RangeSeries(row.labels, tuple(points)) for row, points in lines.values()))

    async def rows(self, query: str, start: datetime, step: timedelta, count: int) -> RowsAnswer:
        return await self._server.rows(query, start, step, count)

    async def rules(self) -> RulesAnswer:
        """Those of today: nobody keeps what they were."""
        return await self._once("rules", self._server.rules)

    async def close(self) -> None:
        """The server is closed by who opened it."""

    async def _once(self, key: object, ask: Callable[[], Awaitable[A]]) -> A:
        if key not in self._answers:
            if len(self._answers) > _REMEMBERED:
                self._answers.clear()
            self._answers[key] = await ask()
        found: A = self._answers[key]
        return found
