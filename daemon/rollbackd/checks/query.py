"""Whether a query's value is within bounds. What is not a plain, fresh number of this service is inconclusive."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.checks.timed import timed
from rollbackd.model import CheckResult, Verdict
from rollbackd.rules.compared import Compared
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Observation, inconclusive, judge, opposite, own
from rollbackd.rules.spec import QueryWhen, Samples
from rollbackd.syntax.units import Duration, Ratio, format_duration, roughly

_NOBODY = "no Prometheus to ask; give `prometheus: {url: …}`"


class QuerySettings(Compared, CheckSettings):
    """A value of Prometheus is good while it is `below`, or `above`, a threshold, or does not move from another."""

    query: str = Field(min_length=1)
    above: Ratio | None = None
    """Good above this."""
    below: Ratio | None = None
    """Good below this."""
    range: Duration = timedelta()
    """How far the query reaches back, when that is longer than its text shows: recording rules hide it."""
    samples: Samples | None = None
    aggregate: Literal["any", "all", "max", "min", "sum"] | None = None
    """When the service has several series: good when `any` or `all` are, or by their `max`, `min` or `sum`."""


class _Series(Protocol):
    """A series of Prometheus' answer."""

    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def value(self) -> float: ...


class QueryCheck:
    """A check that asks Prometheus once."""

    settings_model: ClassVar[type[CheckSettings]] = QuerySettings

    def __init__(self, settings: QuerySettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place
        self._reach = max(settings.range, reach(settings.query))
        if settings.samples is not None:
            self._reach = max(self._reach, reach(settings.samples.query))

    async def run(self, since: datetime | None = None) -> CheckResult:
        return await timed(self._place, self._settings, self._asked(since))

    async def _asked(self, since: datetime | None) -> tuple[Verdict, str]:
        seen = self._too_early(since, self._place.clock.now()) or await self._in_time(since)
        return seen.verdict, seen.reason

    def _too_early(self, since: datetime | None, now: datetime) -> Observation | None:
        """Why it is too early: a value of samples from before the last step says nothing of the time after it."""
        if since is None or (missing := since - (now - self._reach)) <= timedelta():
            return None
        back, left = format_duration(self._reach), roughly(missing)
        return inconclusive(f"looks {back} back, to before the last step; conclusive in {left}")

    async def _in_time(self, since: datetime | None) -> Observation:
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                return await (self._observed() if self._settings.against is None else self._compared(since))
        except TimeoutError:
            return inconclusive(f"no answer within {format_duration(self._settings.timeout)}")

    async def _compared(self, since: datetime | None) -> Observation:
        """The comparison with another time, the time before the change, or peers; `range` may reach further back."""
        shared = {*Compared.model_fields, "query", "samples"}
        given = {name: getattr(self._settings, name) for name in shared}
        if self._settings.samples is not None:
            given["samples"] = self._settings.samples.model_dump()
        when = QueryWhen(**given)
        hidden = self._reach - reach(self._settings.query)
        seen: Observation | None = await self._place.compare(when, since + hidden if since is not None else None)
        return seen or inconclusive(_NOBODY)

    async def _observed(self) -> Observation:
        settings, prometheus = self._settings, self._place.prometheus
        if prometheus is None:
            return inconclusive(_NOBODY)
        answer = await prometheus.instant(settings.query)
        if answer.problem:
            return inconclusive(answer.problem)
        count = None
        if settings.samples is not None:
            counted = await prometheus.instant(settings.samples.query)
            if counted.problem:
                return inconclusive(counted.problem)
            counts = self._own(counted.series)
            if len(counts) > 1:
                return inconclusive(f"ambiguous: {len(counts)} series of samples for one service")
            count = counts[0] if counts else None
        at_least = None if settings.samples is None else settings.samples.at_least
        return opposite(
            judge(self._own(answer.series), settings.above, settings.below, settings.aggregate, count, at_least)
        )

    def _own(self, series: Iterable[_Series]) -> list[float]:
        return own(((one.labels, one.value) for one in series), self._place.labels)
