"""Replays: what query conditions said of services over a time of the past. Ranges are asked, and no instant twice."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rollbackd.rules.compare import Baseline, Span
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.signals.baselines import Baselines, Lines, base_of, by_time
from rollbackd.signals.query_conditions import by_itself, by_shift

Past = Sequence[tuple[datetime, Observation]]
"""One service's observations, oldest first."""
Table = Mapping[datetime, Sequence[float]]
"""One service's values at each time."""


def can_be_replayed(leaf: QueryWhen) -> bool:
    """Whether a range of the query shows what the condition said; a test takes a range for each single look."""
    return leaf.differs is None and not leaf.by_label


@dataclass(frozen=True, slots=True)
class _Tables:
    """What was asked, by service."""

    own: Mapping[str, Table]
    counted: Mapping[str, Table]
    earlier: Mapping[str, Table]
    bases: Mapping[str, Baseline] = field(default_factory=dict)


async def replay(
    bases: Baselines, rule: Rule, leaf: QueryWhen, span: Span, pace: timedelta, of: Collection[str]
) -> dict[str, Past] | str:
    """What a condition that can be replayed said of those services that had data.

    :returns: the problem when the past is not known.
    """
    offset = leaf.against.offset if leaf.against is not None else None
    then = (span[0] - offset, span[1] - offset) if offset is not None else None
    own = await bases.lines(rule, leaf.query, span, pace)
    counted = await bases.lines(rule, leaf.counting, span, pace) if leaf.counting else {}
    earlier = await bases.lines(rule, leaf.query, then, pace) if then is not None else {}
    for lines in (own, counted, earlier):
        if isinstance(lines, str):
            return lines
    assert not isinstance(own, str)
    assert not isinstance(counted, str)
    assert not isinstance(earlier, str)
    services = [service for service in own if service in of]
    before: Mapping[str, Baseline] = {}
    if leaf.against is not None and leaf.against.before_change is not None:
        before = await bases.median_before(rule, leaf, services, span[1])
    tables = _Tables(_tables(own), _tables(counted), _tables(earlier), before)
    return {service: list(_replayed(bases, leaf, service, tables, span[1])) for service in services}


def _tables(lines: Lines) -> dict[str, Table]:
    return {service: by_time(points for _, points in own) for service, own in lines.items()}


def _replayed(bases: Baselines, leaf: QueryWhen, service: str, tables: _Tables, end: datetime) -> Past:
    begin = bases.after(leaf, service, end) if leaf.of_change else None
    found = []
    for at, values in tables.own[service].items():
        counted = tables.counted.get(service, {}).get(at)
        if leaf.against is None:
            found.append((at, by_itself(leaf, values, counted)))
        elif begin is None or at >= begin:
            found.append((at, by_shift(leaf, values, counted, _base(bases, leaf, service, tables, at, end))))
    return found


def _base(bases: Baselines, leaf: QueryWhen, service: str, tables: _Tables, at: datetime, end: datetime) -> Baseline:
    """What one service's value at one time is compared with."""
    assert leaf.against is not None
    if leaf.against.offset is not None:
        return base_of(leaf, tables.earlier.get(service, {}).get(at - leaf.against.offset, ()), leaf.other)
    if leaf.against.before_change is not None:
        return tables.bases[service]
    values = {peer: table[at] for peer in bases.group(leaf) if at in (table := tables.own.get(peer, {}))}
    return bases.peers(leaf, [service], values, end)[service]
