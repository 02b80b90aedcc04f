"""Runs checks: for smoke rules, gates, verification, and a state's last exam before it counts as good."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rollbackd import plugins
from rollbackd.adapter import CheckPlace, CheckSettings
from rollbackd.clock import Clock
from rollbackd.config.models import Service
from rollbackd.config.secrets import reveal
from rollbackd.incident.spec import CheckRef
from rollbackd.model import CheckResult, Verdict

SPARE = timedelta(seconds=5)
"""A check that has not ended this long after its own time limit is given up from outside."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What checks may use; built once."""

    spawner: Any
    clock: Clock
    http: Callable[[], Any]
    prometheus: Any


class Examiner:
    """Asks a service's checks, all at once, each within its time."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def run(
        self, service: Service, refs: Sequence[CheckRef], since: datetime | None = None
    ) -> tuple[CheckResult, ...]:
        """One round. `since` is when the last step ended."""
        return tuple(await asyncio.gather(*(self.ask(service, ref, since) for ref in refs)))

    async def ask(self, service: Service, ref: CheckRef, since: datetime | None = None) -> CheckResult:
        """One check, by name or as written in place."""
        settings = service.checks[ref] if isinstance(ref, str) else ref
        name = ref if isinstance(ref, str) else _described(settings)
        around = self._around
        place = CheckPlace(
            name, service.name, service.match[0], around.spawner, around.clock, around.http, around.prometheus, reveal
        )
        check = plugins.build_check(settings, place)
        started = around.clock.monotonic()
        try:
            async with asyncio.timeout((settings.timeout + SPARE).total_seconds()):
                result = await check.run(since)
        except TimeoutError:
            result = CheckResult(name, Verdict.INCONCLUSIVE, "did not end in its time")
        except Exception as error:  # noqa: BLE001  # a check of somebody else's may raise anything; it says nothing then
            result = CheckResult(name, Verdict.INCONCLUSIVE, f"could not be asked: {type(error).__name__}: {error}")
        took = timedelta(seconds=around.clock.monotonic() - started)
        return replace(result, name=name, took=result.took or took, warn=settings.warn)


def _described(settings: CheckSettings) -> str:
    kind = plugins.check_kind(settings)
    return f"{kind} {getattr(settings, kind)}"[:80]
