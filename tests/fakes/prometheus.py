"""A Prometheus in memory that knows its past: each series is a function of time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rollbackd.signals.prometheus import QueryAnswer, RangeAnswer, RangeSeries, RulesAnswer, Series
from rollbackd.system.clock import Clock

Course = Callable[[datetime], float | None]
"""A series' value at each time; None where it has none."""


@dataclass
class TimedPrometheus:
    """Answers instants and ranges of what the test tells it; the queries are mere names."""

    clock: Clock
    courses: dict[str, list[tuple[Mapping[str, str], Course]]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    past_problem: str = ""
    """Of ranges alone."""
    instants: list[tuple[str, datetime | None]] = field(default_factory=list)
    ranges: list[tuple[str, datetime, datetime, timedelta]] = field(default_factory=list)

    def tell(self, query: str, course: Course | float, **labels: str) -> None:
        """One more series, or another course of one that is there; a number stays the same for ever."""
        steady = course if callable(course) else lambda _: course
        kept = [one for one in self.courses.get(query, []) if one[0] != labels]
        self.courses[query] = [*kept, (labels, steady)]

    async def instant(self, query: str, at: datetime | None = None) -> QueryAnswer:
        self.instants.append((query, at))
        if query in self.problems:
            return QueryAnswer(problem=self.problems[query])
        time = at or self.clock.now()
        found = [(labels, course(time)) for labels, course in self.courses.get(query, [])]
        return QueryAnswer(tuple(Series(labels, value, time) for labels, value in found if value is not None))

    async def rules(self) -> RulesAnswer:
        return RulesAnswer()

    async def range(self, query: str, start: datetime, end: datetime, step: timedelta) -> RangeAnswer:
        self.ranges.append((query, start, end, step))
        problem = self.problems.get(query) or self.past_problem
        if problem:
            return RangeAnswer(problem=problem)
        times = [start + step * n for n in range(int((end - start) / step) + 1)]
        found = []
        for labels, course in self.courses.get(query, []):
            points = tuple((time, value) for time in times if (value := course(time)) is not None)
            if points:
                found.append(RangeSeries(labels, points))
        return RangeAnswer(tuple(found))
