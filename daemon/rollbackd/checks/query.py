"""Whether a query's value is within bounds. What is not a plain, fresh number of this service is inconclusive."""

import asyncio
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.model import CheckResult, Verdict
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Observation, judge, opposite, own
from rollbackd.rules.spec import Samples
from rollbackd.units import Duration, Ratio, format_duration


class QuerySettings(CheckSettings):
    """A value of Prometheus is good while it is `below`, or `above`, a threshold."""

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

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("a query needs one threshold, of what is good; give either `above` or `below`")
        return self


class Query:
    """Asks Prometheus once."""

    settings_model: ClassVar[type[CheckSettings]] = QuerySettings

    def __init__(self, settings: QuerySettings, place: CheckPlace) -> None:
        self._settings = settings
        self._place = place
        self._reach = max(settings.range, reach(settings.query))
        if settings.samples is not None:
            self._reach = max(self._reach, reach(settings.samples.query))

    async def run(self, since: datetime | None = None) -> CheckResult:
        clock = self._place.clock
        began = clock.monotonic()
        seen = self._too_early(since, clock.now()) or await self._in_time()
        took = timedelta(seconds=clock.monotonic() - began)
        return CheckResult(self._place.name, seen.verdict, seen.reason, took, self._settings.warn)

    def _too_early(self, since: datetime | None, now: datetime) -> Observation | None:
        """A value made of samples from before the last step says nothing of what came after it."""
        if since is None or (missing := since - (now - self._reach)) <= timedelta():
            return None
        back, left = format_duration(self._reach), format_duration(missing)
        return _unknown(f"looks {back} back, to before the last step; conclusive in {left}")

    async def _in_time(self) -> Observation:
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()):
                return await self._observed()
        except TimeoutError:
            return _unknown(f"no answer within {format_duration(self._settings.timeout)}")

    async def _observed(self) -> Observation:
        settings, prometheus = self._settings, self._place.prometheus
        if prometheus is None:
            return _unknown("no Prometheus to ask; give `prometheus: {url: …}`")
        answer = await prometheus.instant(settings.query)
        if answer.problem:
            return _unknown(answer.problem)
        count = None
        if settings.samples is not None:
            counted = await prometheus.instant(settings.samples.query)
            if counted.problem:
                return _unknown(counted.problem)
            counts = self._own(counted)
            if len(counts) > 1:
                return _unknown(f"ambiguous: {len(counts)} series of samples for one service")
            count = counts[0] if counts else None
        at_least = None if settings.samples is None else settings.samples.at_least
        return opposite(judge(self._own(answer), settings.above, settings.below, settings.aggregate, count, at_least))

    def _own(self, answer: Any) -> list[float]:
        return own(((series.labels, series.value) for series in answer.series), self._place.labels)


def _unknown(reason: str) -> Observation:
    return Observation(Verdict.INCONCLUSIVE, None, reason)
