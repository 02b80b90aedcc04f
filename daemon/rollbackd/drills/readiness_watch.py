"""The asking drill of every service at a start, and again while one is not ready. It touches nothing."""

import asyncio
from collections.abc import Collection
from datetime import timedelta

from rollbackd import facts
from rollbackd.config.models import Config, Service
from rollbackd.drills.driver import DrillRunner
from rollbackd.drills.preconditions import DrillNotAllowed
from rollbackd.model import DAEMON, name_in
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end, until_first

_AT_ONCE = 2
"""How many services are asked at the same time."""
_AGAIN = timedelta(minutes=10)
"""The pause before what was not ready, or could not be asked, is asked again."""
_SOON = timedelta(seconds=1)
"""The pause before a service of which something was written is asked again; more may come at once."""
_NEWS = (
    facts.Changed, facts.MarkedGood, facts.MarkTaken, facts.Quarantined, facts.QuarantineLifted,
    facts.Snapshotted, facts.SnapshotVerified,
)  # fmt: skip
"""Facts of a service that can make it ready."""


class ReadinessWatch:
    """The root task `readiness`."""

    def __init__(self, config: Config, read_model: ReadModel, drills: DrillRunner, clock: Clock) -> None:
        self._config = config
        self._drills = drills
        self._clock = clock
        self._news: set[str] = set()
        """Services of which something was written since they were asked."""
        self._wake = asyncio.Event()
        read_model.subscribe(self._heard)

    def _heard(self, record: facts.Record) -> None:
        if isinstance(record.fact, _NEWS):
            self._news.add(name_in(record.stream))
            self._wake.set()

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            self._news.clear()
            await self.ask()
            due = self._clock.monotonic() + _AGAIN.total_seconds()
            while (left := due - self._clock.monotonic()) > 0:
                await until_first(self._wake.wait(), self._clock.sleep(timedelta(seconds=left)))
                self._wake.clear()
                if self._news:
                    await self._clock.sleep(_SOON)
                    news, self._news = self._news, set()
                    await self.ask(news)

    async def ask(self, only: Collection[str] | None = None) -> None:
        """Ask every service that was not found ready yet, or those of these names."""
        named = [one for one in self._config.services if only is None or one.name in only]
        services = iter([service for service in named if not self._drills.is_ready(service.name)])

        async def some() -> None:
            for service in services:
                await self._ask(service)

        tasks = [asyncio.ensure_future(some()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    async def _ask(self, service: Service) -> None:
        try:
            await self._drills.glance(service, DAEMON)
        except DrillNotAllowed:  # a rollback goes first; it is asked again
            return
