"""Which snapshots retention keeps. No I/O."""

from collections.abc import Collection, Sequence
from datetime import date, datetime

from rollbackd_adapters.files.settings import Keep
from rollbackd_adapters.files.store import Head

BEFORE = "before"
"""Why a snapshot of what a restore replaced was taken."""


def dropped(heads: Sequence[Head], keep: Keep, spare: Collection[str], now: datetime) -> list[str]:
    """Names of the snapshots that nothing keeps, oldest first.

    :param heads: newest first.
    :param spare: ids of releases, and names of snapshots, that are never dropped. Of a release's snapshots the newest
        one is enough.
    """
    kept = {head.name for head in heads[: keep.last]}
    kept |= _newest_of_each([(head.created.date(), head) for head in heads], keep.daily)
    kept |= _newest_of_each([(_week(head.created), head) for head in heads], keep.weekly)
    kept |= {head.name for head in heads if head.why == BEFORE and now - head.created < keep.saved}
    kept |= {head.name for head in heads if head.name in spare}
    spared = set[str]()
    for head in heads:
        if head.release in spare and head.release not in spared:
            spared.add(head.release)
            kept.add(head.name)
    return [head.name for head in reversed(heads) if head.name not in kept]


def _newest_of_each(periods: Sequence[tuple[date, Head]], count: int) -> set[str]:
    """Of the newest `count` periods that have any, the newest of each."""
    newest: dict[date, str] = {}
    for period, head in periods:
        if period not in newest and len(newest) == count:
            break
        newest.setdefault(period, head.name)
    return set(newest.values())


def _week(at: datetime) -> date:
    year, week, _ = at.isocalendar()
    return date.fromisocalendar(year, week, 1)
