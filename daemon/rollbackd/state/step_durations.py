"""How long steps took, read from the journal."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median_low

from rollbackd import facts
from rollbackd.journal import Journal
from rollbackd.model import Change, incident_service

_STEPS = 2000
"""How many facts of steps, of all services, are looked at."""
_NEWEST = 20


async def of_steps(journal: Journal, service: str) -> dict[str, timedelta]:
    """How long each layer's step of a service took in the past, from its first attempt on: the median of the newest."""
    began: dict[tuple[str, str], datetime] = {}
    took: defaultdict[str, list[timedelta]] = defaultdict(list)
    records = await journal.latest(facts.kinds(facts.ApplyStarted, facts.Applied), limit=_STEPS)
    for record in reversed(records):
        if incident_service(record.stream) != service:
            continue
        place = (record.stream, record.fact.layer)
        if isinstance(record.fact, facts.ApplyStarted):
            began.setdefault(place, record.at)
        elif place in began:
            took[record.fact.layer].append(record.at - began.pop(place))
    return {layer: median_low(lengths[-_NEWEST:]) for layer, lengths in took.items()}


def expected(steps: Sequence[Change], took: Mapping[str, timedelta], verification: timedelta) -> timedelta | None:
    """All steps, as long as they took in the past, and verification; None while one never ran, or there is none."""
    known = [took[change.layer] for change in steps if change.layer in took]
    return sum(known, verification) if known and len(known) == len(steps) else None
