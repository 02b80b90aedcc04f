"""A value, or samples, against others: of another time, of before a change, of peers. No I/O.

What there is nothing to compare with, or no share of, is inconclusive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isclose, isfinite
from statistics import median

from rollbackd.model import Verdict
from rollbackd.rules.compared import Compared, Differs, percent
from rollbackd.rules.ranks import mann_whitney
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Observation, inconclusive, settle
from rollbackd.rules.score import count, judged
from rollbackd.rules.spec import QueryWhen
from rollbackd.syntax.units import format_duration

FEWEST_PEERS = 2
"""One other service could be the sick one."""
FEWEST_BEFORE = 3
"""Points that a median of the time before a change is made of, at least."""

Point = tuple[datetime, float]
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a service is compared with."""

    values: tuple[float, ...] = ()
    """One number, or for a test all samples; finite."""
    words: str = ""
    """Where they are from, as it follows a number: ` 1d ago`, `, the median of 3 peers`."""
    missing: str = ""
    """Why there is nothing to compare with; a sentence."""


def shifted(value: float, base: Baseline, leaf: Compared) -> Observation:
    """A value against one number: bad when it dropped, or rose, by the share that the condition names, or more."""
    if base.missing:
        return Observation(Verdict.INCONCLUSIVE, value, f"{value:g}, but {base.missing}")
    (other,) = base.values
    share = leaf.drops_by if leaf.drops_by is not None else leaf.rises_by
    assert share is not None
    drops = leaf.drops_by is not None
    moved = value <= other if drops else value > other
    against = f"{other:g}{base.words}"
    if other <= 0 and moved:
        verb = "dropped" if drops else "rose"
        return Observation(Verdict.INCONCLUSIVE, value, f"{value:g} against {against}: there is no share it {verb} by")
    limit = other * (1 - share) if drops else other * (1 + share)
    bad = value <= limit if drops else value >= limit
    bad = bad or isclose(value, limit)  # 0.3 is 50% above 0.2, whatever binary fractions say
    wanted = f"({'drops_by' if drops else 'rises_by'} {percent(share)})"
    return Observation(
        Verdict.BAD if moved and bad else Verdict.GOOD, value, f"{value:g}, {_moved(value, other)} {against} {wanted}"
    )


def _moved(value: float, other: float) -> str:
    if value == other:
        return "the same as"
    way = "above" if value > other else "below"
    return f"{percent(abs(value - other) / other)} {way}" if other > 0 else way


def sampled(after: Sequence[float], base: Baseline, differs: Differs) -> Observation:
    """Samples against samples: bad when chance alone hardly explains it, and their medians are far enough apart.

    :param after: finite numbers.
    """
    if base.missing:
        return inconclusive(base.missing)
    wants = differs.samples
    if len(after) < wants:
        return inconclusive(f"{len(after)} samples so far, wants {wants}", awaited=True)
    if len(base.values) < wants:
        return inconclusive(f"{len(base.values)} samples{base.words} to compare with, wants {wants}")
    now, then, p = median(after), median(base.values), mann_whitney(after, base.values).p
    sides = f"{now:g} of {len(after)} samples against {then:g}{base.words} ({len(base.values)} samples)"
    said = f"p = {p:.2g}, median {sides}"
    sure = p < 1 - differs.confidence
    if not sure or now == then or not _watched(now > then, differs):
        return Observation(Verdict.GOOD, now, f"{said}: {_way(now, then)}")
    if then <= 0:
        return Observation(Verdict.INCONCLUSIVE, now, f"{said}: it moved, but there is no share of {then:g}")
    bad = abs(now - then) >= differs.effect * then
    return Observation(Verdict.BAD if bad else Verdict.GOOD, now, f"{said}: {_way(now, then)}")


def instances(
    changed: Sequence[float], unchanged: Sequence[float], leaf: Compared, *, undone: bool = False
) -> Observation:
    """A service's new instances against its old ones, told apart by a label: by their medians, or by all samples.

    :param undone: the change was rolled back, so that no new instance is what there should be.
    """
    by = leaf.by_label
    if not changed and not unchanged:
        return inconclusive("no data")
    if not changed:
        said = f"no instance is changed by {by}"
        return Observation(Verdict.GOOD, None, f"{said} any more") if undone else inconclusive(said, quiet=True)
    if not unchanged:
        return inconclusive(f"every instance is changed by {by}: none is left to compare with", quiet=True)
    new, old = [value for value in changed if isfinite(value)], [value for value in unchanged if isfinite(value)]
    if leaf.differs is not None:
        return sampled(new, Baseline(tuple(old), f" of instances unchanged by {by}"), leaf.differs)
    if len(new) < len(changed):
        return inconclusive(f"no number in {len(changed) - len(new)} of {len(changed)} changed instances")
    base = middle(
        old, f", the median of {len(old)} unchanged by {by}", 1, f"no unchanged instance by {by} has a number"
    )
    return shifted(median(new), base, leaf)


def versions(
    failed: tuple[Sequence[float], Sequence[float]],
    asked: tuple[Sequence[float], Sequence[float]],
    leaf: QueryWhen,
    *,
    undone: bool = False,
) -> Observation:
    """The errors of a service's new instances beside those of its old ones, both while they serve side by side.

    :param failed: errors of the new instances, and of the old ones.
    :param asked: their requests.
    """
    assert leaf.score is not None
    new, old = (
        count(settle(errors or (0,), "sum"), settle(requests or (0,), "sum"))
        for errors, requests in zip(failed, asked, strict=True)
    )
    if isinstance(new, Observation):
        return new
    if isinstance(old, Observation):
        return old
    if not new[1]:
        said = f"no instance is changed by {leaf.by_label}"
        return Observation(Verdict.GOOD, None, f"{said} any more") if undone else inconclusive(said, quiet=True)
    if not old[1]:
        said = f"every request goes to instances changed by {leaf.by_label}: there is nothing to compare with"
        return inconclusive(said, quiet=True)
    if old[0] >= old[1] * leaf.score.shares[1]:
        return inconclusive(
            f"instances unchanged by {leaf.by_label} fail {old[0]:.3g} of {old[1]:.4g} themselves", awaited=True
        )
    return judged((*new, *old), format_duration(reach(leaf.query)), leaf.score)


def _watched(up: bool, differs: Differs) -> bool:
    return differs.direction in {"either", "up" if up else "down"}


def _way(now: float, then: float) -> str:
    if now == then:
        return "the same"
    share = percent(abs(now - then) / then) + " " if then > 0 else ""
    return f"{share}{'up' if now > then else 'down'}"


def finite(points: Iterable[Sequence[float]], aggregate: str | None) -> list[float] | Observation:
    """The samples of a service of its values at each time; times without a number are left out.

    :returns: an observation when the values of one time cannot be told apart.
    """
    found = []
    for values in points:
        value = settle(values, aggregate)
        if not isinstance(value, Observation):
            found.append(value)
        elif value.fault:
            return value
    return found


def middle(values: Iterable[float], words: str, fewest: int, missing: str) -> Baseline:
    """The median of what is finite as what to compare with; `missing` says it when there are fewer than `fewest`."""
    found = [value for value in values if isfinite(value)]
    return Baseline((median(found),), words) if len(found) >= fewest else Baseline(missing=missing)


def spans(windows: Iterable[Span], longest: timedelta) -> list[Span]:
    """Few spans of time that cover all windows, newest last; longer than `longest` only where one window is."""
    found: list[Span] = []
    for begin, end in sorted(windows):
        if found and max(end, found[-1][1]) - found[-1][0] <= longest:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found
