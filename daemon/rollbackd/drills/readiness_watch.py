"""The asking drill of every service at a start, and again while one is not ready. It touches nothing."""

import asyncio
from datetime import timedelta

from rollbackd.config.models import Config, Service
from rollbackd.drills.driver import DrillRunner
from rollbackd.drills.preconditions import DrillNotAllowed
from rollbackd.incident.drill import READY
from rollbackd.model import DAEMON
from rollbackd.system.clock import Clock
from rollbackd.system.tasks import end

_AT_ONCE = 2
"""How many services are asked at the same time."""
_AGAIN = timedelta(minutes=10)
"""The pause before what was not ready, or could not be asked, is asked again."""


class ReadinessWatch:
    """The root task `readiness`."""

    def __init__(self, config: Config, drills: DrillRunner, clock: Clock) -> None:
        self._config = config
        self._drills = drills
        self._clock = clock

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.ask()
            await self._clock.sleep(_AGAIN)

    async def ask(self) -> None:
        """Ask every service that was not found ready yet."""
        services = iter([service for service in self._config.services if not self._is_ready(service.name)])

        async def some() -> None:
            for service in services:
                await self._ask(service)

        tasks = [asyncio.ensure_future(some()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    def _is_ready(self, service: str) -> bool:
        found = self._drills.found.get(service)
        return found is not None and found.result == READY

    async def _ask(self, service: Service) -> None:
        try:
            await self._drills.glance(service, DAEMON)
        except DrillNotAllowed:  # a rollback goes first; it is asked again
            return
