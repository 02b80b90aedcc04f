"""Runs checks: for smoke rules, gates and verification, and for a state that has baked, before it counts as good."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from rollbackd import plugins
from rollbackd.adapter import AdapterError, CheckPlace, CheckSettings
from rollbackd.config.models import Service
from rollbackd.config.secrets import reveal
from rollbackd.incident.spec import CheckRef, VerifySpec
from rollbackd.model import CheckResult, Release, Verdict
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import QueryWhen
from rollbackd.system.clock import Clock
from rollbackd.system.spawner import Spawner

SPARE = timedelta(seconds=5)
"""How long after its own time limit a check is given up from outside."""


async def _no_layers(service: Service, layer: str) -> Sequence[Release]:
    raise AdapterError(f"{service.name}/{layer}: layers cannot be asked here", permanent=True)


async def _nothing_to_compare(_service: str, _when: QueryWhen, _since: datetime | None) -> None:
    return None


@dataclass(frozen=True, slots=True)
class CheckSurroundings:
    """What checks may use; built once."""

    spawner: Spawner
    clock: Clock
    http: Callable[[], object]
    prometheus: object
    """Handed on to the checks that ask it; None when none is configured."""
    releases: Callable[[Service, str], Awaitable[Sequence[Release]]] = _no_layers
    """Gives what a layer has now, then what it can go back to. :raises AdapterError: the layer does not say."""
    compare: Callable[[str, QueryWhen, datetime | None], Awaitable[Observation | None]] = _nothing_to_compare
    """Judges, for a service, a query condition that compares."""
    held_up: Callable[[float], float] = lambda _: 0.0
    """Says how many seconds since then, by the loop's time, our own event loop was late."""


class CheckRunner:
    """Asks a service's checks, all at once, each within its time limit."""

    def __init__(self, around: CheckSurroundings) -> None:
        self._around = around
        self._memories: defaultdict[tuple[str, str], dict[str, object]] = defaultdict(dict)

    async def run(
        self, service: Service, refs: Sequence[CheckRef], since: datetime | None = None
    ) -> tuple[CheckResult, ...]:
        """One round of checks. `since` is when the last step ended."""
        return tuple(await asyncio.gather(*(self.ask(service, ref, since) for ref in refs)))

    async def ask(self, service: Service, ref: CheckRef, since: datetime | None = None) -> CheckResult:
        """One check, by its name or as it is written in place."""
        settings = service.checks[ref] if isinstance(ref, str) else ref
        name = ref if isinstance(ref, str) else _described(settings)
        around = self._around
        place = CheckPlace(
            name=name,
            service=service.name,
            labels=service.match[0],
            spawner=around.spawner,
            clock=around.clock,
            http=around.http,
            prometheus=around.prometheus,
            reveal=reveal,
            releases=partial(around.releases, service),
            compare=partial(around.compare, service.name),
            memory=self._memories[service.name, name],
            held_up=around.held_up,
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
        reason = around.spawner.clean(result.reason)
        return replace(result, name=name, reason=reason, took=result.took or took, warn=settings.warn)


def asked_by(specs: Iterable[VerifySpec]) -> list[CheckRef]:
    """Every check that these verifications ask, gates first, each once."""
    found: list[CheckRef] = []
    for ref in (ref for spec in specs for ref in (*spec.gate, *spec.checks)):
        if ref not in found:
            found.append(ref)
    return found


def _described(settings: CheckSettings) -> str:
    kind = plugins.check_kind(settings)
    return f"{kind} {getattr(settings, kind)}"[:80]
