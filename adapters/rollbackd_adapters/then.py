"""Runs a layer's `then` commands once each for a change, under the supervisor that outlives us."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rollbackd.adapter import AdapterError, Place
from rollbackd.model import Change
from rollbackd.system.spawner import Lock, Spawner
from rollbackd_adapters.failures import as_adapter_errors
from rollbackd_adapters.ids import incident_of
from rollbackd_adapters.traces import Trace


def environment(place: Place, change: Change | None = None) -> dict[str, str]:
    """What every command of a layer is told; the words are those of the journal, never those of an alert."""
    known = {"ROLLBACKD_SERVICE": place.service, "ROLLBACKD_LAYER": place.layer}
    if place.epoch:
        known["ROLLBACKD_EPOCH"] = str(place.epoch)
    if change is None:
        return known
    return known | {
        "ROLLBACKD_INCIDENT": incident_of(change.key),
        "ROLLBACKD_KEY": change.key,
        "ROLLBACKD_BEFORE": change.before.id,
        "ROLLBACKD_AFTER": change.after.id,
        "ROLLBACKD_INTENDED": change.intended.isoformat() if change.intended else "",
    }


class Then(NamedTuple):
    """Commands that run after a layer has moved, in order; all must exit with 0."""

    commands: Sequence[Sequence[str]] = ()
    cwd: Path = Path("/")
    timeout: timedelta = timedelta(minutes=10)
    """For each of them."""
    run_as: str = ""
    """The user that they run as; empty: as rollbackd does."""


async def run_then(then: Then, place: Place, change: Change, trace: Trace, lock: Lock) -> None:
    """Run what has not succeeded yet. :raises AdapterError: not permanent, when one fails."""
    spawner: Spawner = place.spawner
    for position, argv in enumerate(then.commands):
        digest = hashlib.sha256("\0".join(argv).encode()).hexdigest()[:8]
        with as_adapter_errors():
            finished = await spawner.run_recorded(
                argv,
                record=trace.record(f"then-{position}-{digest}"),
                lock=lock,
                timeout=then.timeout,
                cwd=then.cwd,
                env=environment(place, change),
                user=then.run_as,
            )
        if not finished.ok:
            command = spawner.clean(" ".join(argv))
            raise AdapterError(f"`{command}` in {then.cwd}: {finished.ending}", permanent=False, evidence=finished.tail)
