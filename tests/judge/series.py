"""Samples as a Prometheus has them: a value every fifteen seconds, gaps and resets included, and what ranges make of
them. A range does not have its own beginning in it, as from Prometheus 3 on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

PACE = 15.0
"""Seconds between two scrapes of a target."""
LOOKBACK = 300.0
"""Seconds for which a last sample still counts when Prometheus itself did not scrape."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """Values of series at times, `[series, times]`; where `there` is false, there is none."""

    labels: Sequence[Labels]
    values: Floats
    there: Flags


@dataclass(frozen=True)
class Metric:
    """All series of one metric over one stretch of time, on one grid of scrapes."""

    labels: Sequence[Labels]
    begin: float
    """When the first scrape of the grid is due, in seconds."""
    offsets: Floats
    """How long after the grid each series' target is scraped, in seconds below `PACE`."""
    samples: Floats
    """`[series, scrapes]`; NaN where there is no sample."""
    stale: Flags
    """`[series, scrapes]`: the target was asked and had no such series, so the sample before it counts no more."""

    @cached_property
    def _there(self) -> Flags:
        return ~np.isnan(self.samples)

    @cached_property
    def _last(self) -> Ints:
        """The newest scrape with a sample up to each; -1 where there is none."""
        numbers = np.where(self._there, np.arange(self.samples.shape[1]), -1)
        return np.maximum.accumulate(numbers, axis=1)

    @cached_property
    def _next(self) -> Ints:
        """The first scrape with a sample from each on; their count where there is none."""
        count = self.samples.shape[1]
        numbers = np.where(self._there, np.arange(count), count)
        return np.minimum.accumulate(numbers[:, ::-1], axis=1)[:, ::-1]

    @cached_property
    def _counts(self) -> Ints:
        return np.pad(np.cumsum(self._there, axis=1), ((0, 0), (1, 0)))

    @cached_property
    def _sums(self) -> Floats:
        return np.pad(np.cumsum(np.nan_to_num(self.samples), axis=1), ((0, 0), (1, 0)))

    @cached_property
    def _grown(self) -> Floats:
        """What counters have grown by since the first sample, over resets."""
        before = np.maximum(self._last[:, :-1], 0)
        earlier = np.where(self._last[:, :-1] >= 0, np.take_along_axis(self.samples, before, axis=1), np.nan)
        now = self.samples[:, 1:]
        steps = np.where(now >= earlier, now - earlier, now)
        steps[np.isnan(steps) | np.isnan(earlier)] = 0.0
        return np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))

    def _scrape(self, at: Floats) -> Ints:
        """The number of the newest scrape at each time, `[series, times]`; may lie outside of the grid."""
        return np.floor((at[None, :] - self.begin - self.offsets[:, None]) / PACE + 1e-9).astype(np.int64)

    def _inside(self, numbers: Ints) -> Ints:
        return np.clip(numbers, 0, self.samples.shape[1] - 1)

    def instant(self, at: Floats) -> Found:
        """The newest sample, where it is fresh and its series did not end."""
        newest = self._scrape(at)
        inside = self._inside(newest)
        last = np.take_along_axis(self._last, inside, axis=1)
        values = np.take_along_axis(self.samples, self._inside(last), axis=1)
        age = (newest - last) * PACE
        ended = np.take_along_axis(self._stales, inside, axis=1) > last
        there = (newest >= 0) & (last >= 0) & (age < LOOKBACK) & ~ended
        return Found(self.labels, values, there)

    @cached_property
    def _stales(self) -> Ints:
        """The newest scrape up to each at which the series had ended."""
        numbers = np.where(self.stale, np.arange(self.samples.shape[1]), -1)
        return np.maximum.accumulate(numbers, axis=1)

    def _ends(self, at: Floats, length: float) -> tuple[Ints, Ints, Flags]:
        """The first and the last sample of each range, and whether there is any."""
        late, early = self._scrape(at), self._scrape(at - length) + 1
        count = self.samples.shape[1]
        first = np.where(early < count, np.take_along_axis(self._next, self._inside(early), axis=1), count)
        last = np.where(late >= 0, np.take_along_axis(self._last, self._inside(late), axis=1), -1)
        return first, last, (last >= first) & (last >= 0) & (first < count)

    def over(self, how: str, at: Floats, length: float) -> Found:
        """`avg`, `sum`, `count`, `max`, `min` or `last` of the samples of each range."""
        first, last, there = self._ends(at, length)
        one, end = self._inside(first), self._inside(last)
        count = np.take_along_axis(self._counts, end + 1, axis=1) - np.take_along_axis(self._counts, one, axis=1)
        if how in {"avg", "sum", "count"}:
            total = np.take_along_axis(self._sums, end + 1, axis=1) - np.take_along_axis(self._sums, one, axis=1)
            with np.errstate(all="ignore"):
                values = {"avg": total / np.maximum(count, 1), "sum": total, "count": count.astype(float)}[how]
            return Found(self.labels, values, there)
        if how == "last":
            return Found(self.labels, np.take_along_axis(self.samples, end, axis=1), there)
        extreme = np.full(there.shape, np.nan)
        reduce = np.nanmax if how == "max" else np.nanmin
        for row, column in zip(*np.nonzero(there), strict=True):
            extreme[row, column] = reduce(self.samples[row, one[row, column] : end[row, column] + 1])
        return Found(self.labels, extreme, there)

    def growth(self, at: Floats, length: float) -> Found:
        """How much counters grew over each range, extrapolated to its ends as Prometheus 2 does it (`increase`).

        https://github.com/prometheus/prometheus/blob/v2.42.0/promql/functions.go, `extrapolatedRate`.
        """
        first, last, there = self._ends(at, length)
        there &= last > first
        one, end = self._inside(first), self._inside(last)
        grown = np.take_along_axis(self._grown, end, axis=1) - np.take_along_axis(self._grown, one, axis=1)
        begun = np.take_along_axis(self.samples, one, axis=1)
        count = np.take_along_axis(self._counts, end + 1, axis=1) - np.take_along_axis(self._counts, one, axis=1)
        sampled = (last - first) * PACE
        times = self.begin + self.offsets[:, None]
        to_begin = times + one * PACE - (at - length)[None, :]
        to_end = at[None, :] - (times + end * PACE)
        with np.errstate(all="ignore"):
            between = sampled / (count - 1)
            to_zero = np.where(grown > 0, sampled * begun / grown, np.inf)
            to_begin = np.minimum(to_begin, to_zero)
            to_begin = np.where(to_begin >= between * 1.1, between / 2, to_begin)
            to_end = np.where(to_end >= between * 1.1, between / 2, to_end)
            values = grown * (sampled + to_begin + to_end) / sampled
        return Found(self.labels, values, there)

    def resets(self, at: Floats, length: float) -> Found:
        """How often counters fell in each range."""
        first, last, there = self._ends(at, length)
        values = np.zeros(there.shape)
        for row, column in zip(*np.nonzero(there), strict=True):
            inside = self.samples[row, first[row, column] : last[row, column] + 1]
            values[row, column] = np.count_nonzero(np.diff(inside[~np.isnan(inside)]) < 0)
        return Found(self.labels, values, there)
