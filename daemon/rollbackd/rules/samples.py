"""What a query's answer says of one service. No I/O.

Only numbers that are there, finite and one to a service are evidence; all else is inconclusive.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import isfinite

from rollbackd.model import Verdict

Counts = tuple[float, ...]
"""Errors in a window, and the requests that they are of: not fewer; of new instances, also those of the old ones."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One answer judged for one service."""

    verdict: Verdict
    value: float | None
    """What was compared; None when there was nothing to compare."""
    reason: str
    """`0.342, above 0.1`; always says what was seen."""
    fault: bool = False
    """The rule itself is to blame: its answer cannot be told apart."""
    unanswered: bool = False
    """Nobody is to blame but the server: it gave no answer that could be used."""
    awaited: bool = field(default=False, compare=False)
    """It says nothing as the rule itself wants it: too few samples, or too soon after the change."""
    quiet: bool = field(default=False, compare=False)
    """It says nothing for want of traffic alone: the server answers, and nothing is wrong with the rule."""
    back: timedelta | None = field(default=None, compare=False)
    """How far it looked back, where that is further than the query says: for want of samples."""
    counted: Counts | None = None
    """What a query that keeps a score has counted."""


def judge(
    values: Sequence[float],
    above: float | None,
    below: float | None,
    aggregate: str | None = None,
    samples: float | None = None,
    at_least: float | None = None,
) -> Observation:
    """Judge one service's values: bad when the value is above `above`, or below `below`; a value equal to it is good.

    `aggregate` says what several series mean: `any` and `all` of them beyond the threshold, or their `max`, `min` or
    `sum`. One value that is no finite number spoils them all, since it stands for a series nobody knows. `samples` is
    how many observations the values rest on, None when that is not known, and `at_least` how many it takes.
    """
    value = settle(values, aggregate, samples, at_least, highest_is_worst=above is not None)
    return value if isinstance(value, Observation) else _compare(value, above, below)


def settle(
    values: Sequence[float],
    aggregate: str | None,
    samples: float | None = None,
    at_least: float | None = None,
    *,
    highest_is_worst: bool = True,
) -> float | Observation:
    """The one number that a service's values come to, or why there is none; the arguments are those of `judge`."""
    if len(values) == 1 and at_least is None and isfinite(values[0]):
        return values[0]
    if not values:
        return inconclusive("no data")
    if len(values) > 1 and aggregate is None:
        reason = f"ambiguous: {len(values)} series for one service; give the query an `aggregate` or make it one series"
        return Observation(Verdict.INCONCLUSIVE, None, reason, fault=True)
    few = too_few(samples, at_least) if at_least is not None else ""
    awaited = bool(few) and samples is not None and isfinite(samples)
    unknown = [value for value in values if not isfinite(value)]
    if unknown:
        return inconclusive(_no_number(unknown[0], len(unknown), len(values)), quiet=awaited)
    value = _reduce(values, aggregate, highest_is_worst=highest_is_worst)
    if few:
        return Observation(Verdict.INCONCLUSIVE, value, f"{value:g}, {few}", awaited=awaited, quiet=awaited)
    return value


def opposite(seen: Observation) -> Observation:
    """The observation with good and bad swapped: a check's threshold says what is good, a rule's what is bad."""
    swapped = {Verdict.BAD: Verdict.GOOD, Verdict.GOOD: Verdict.BAD, Verdict.INCONCLUSIVE: Verdict.INCONCLUSIVE}
    return Observation(swapped[seen.verdict], seen.value, seen.reason, seen.fault)


def own(series: Iterable[tuple[Mapping[str, str], float]], match: Mapping[str, str]) -> list[float]:
    """The values that belong to the service with these labels.

    Those that carry all of them; when there are none, those that contradict none, since a query that names its service
    often sums the labels away.
    """
    wanted = match.items()
    carrying: list[float] = []
    silent: list[float] = []
    for labels, value in series:
        if wanted <= labels.items():
            carrying.append(value)
        elif all(labels.get(name, text) == text for name, text in wanted):
            silent.append(value)
    return carrying or silent


def _reduce(values: Sequence[float], aggregate: str | None, *, highest_is_worst: bool) -> float:
    """One value for many: `any` is as bad as the worst of them, `all` as bad as the best."""
    if len(values) == 1:
        return values[0]
    worst, best = (max, min) if highest_is_worst else (min, max)
    reducers: dict[str | None, Callable[[Sequence[float]], float]] = {
        None: max,
        "any": worst,
        "all": best,
        "max": max,
        "min": min,
        "sum": sum,
    }
    return reducers[aggregate](values)


def _compare(value: float, above: float | None, below: float | None) -> Observation:
    if above is not None:
        beyond, words, threshold = value > above, "above", above
    elif below is not None:
        beyond, words, threshold = value < below, "below", below
    else:
        raise ValueError("a judgement needs a threshold, above or below")
    said = f"{value:g}, {'' if beyond else 'not '}{words} {threshold:g}"
    return Observation(Verdict.BAD if beyond else Verdict.GOOD, value, said)


def too_few(samples: float | None, at_least: float) -> str:
    """Why the samples do not carry a judgement; empty when they do."""
    if samples is None:
        return f"but it is not known on how many samples it rests, wants {at_least:g}"
    if not isfinite(samples):
        return f"but the number of samples is {samples}, wants {at_least:g}"
    return f"but on {samples:g} samples only, wants {at_least:g}" if samples < at_least else ""


def _no_number(value: float, how_many: int, of: int) -> str:
    name = str(value).replace("inf", "Inf").replace("nan", "NaN")
    return f"no number: {name}" if of == 1 else f"no number: {name} in {how_many} of {of} series"


def inconclusive(reason: str, *, awaited: bool = False, quiet: bool = False) -> Observation:
    """Nothing may be concluded; the reason says why. What is quiet is awaited."""
    return Observation(Verdict.INCONCLUSIVE, None, reason, awaited=awaited or quiet, quiet=quiet)
