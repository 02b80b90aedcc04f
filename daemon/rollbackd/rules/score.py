"""A score of errors: how much likelier what was counted is at a bad share of errors than at a good one. No I/O.

Page's cumulative sum of log-likelihood ratios, which never falls below nothing. Each request adds what it says, so that
little traffic needs longer and is not silent; what a minute can add is capped, so that much traffic needs its time too.
https://en.wikipedia.org/wiki/CUSUM
"""

from datetime import datetime, timedelta
from functools import cached_property
from math import log
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from rollbackd.model import Verdict
from rollbackd.rules.samples import Counts, Observation, inconclusive
from rollbackd.syntax.units import Duration, Ratio, Spec, show

CLEARLY = 1.0
"""So much evidence, in natural logarithms of odds, says which share it is; less says nothing."""
_PENDING = 0.5
"""From this part of the threshold on the trouble is pending; below it errors come and go."""
_NOTHING = timedelta()
_ALONE = 2
"""So many numbers are counted of a service by itself."""


def _share(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"{show(share)} is no share of requests; write it like 5%, more than 0 and less than 100%")
    return share


def _length(length: timedelta) -> timedelta:
    if length < timedelta(seconds=1):
        raise ValueError("this is at least 1s; write it like 2m30s")
    return length


class ScoreSpec(Spec):
    """What errors are counted against, and how much evidence is enough."""

    of: str
    """The requests in the same window as the query's errors: `sum by (service) (increase(http_requests_total[1m]))`."""
    around: Annotated[Ratio, AfterValidator(_share)] = 0.1
    """The share of errors above which a service is bad: `good` is half of it and `bad` is twice, if not given."""
    good: Annotated[Ratio, AfterValidator(_share)] | None = None
    """A share of errors that is still good."""
    bad: Annotated[Ratio, AfterValidator(_share)] | None = None
    """A share of errors that is surely bad."""
    threshold: float = Field(default=10.0, ge=1, le=100)
    """How much evidence is enough, as the natural logarithm of odds: at 10 bad is 22,000 times likelier than good."""
    lasting: Annotated[Duration, AfterValidator(_length)] = timedelta(minutes=2, seconds=30)
    """However clear, it takes at least so long, and as long again until it is forgotten."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        good, bad = self.shares
        if good >= bad:
            raise ValueError(f"`good`, {good:.3g}, is not below `bad`, {bad:.3g}; give shares that are apart")
        return self

    @cached_property
    def shares(self) -> tuple[float, float]:
        """The good and the bad share that are told apart."""
        bad = min(self.around * 2, (1 + self.around) / 2)
        return self.around / 2 if self.good is None else self.good, bad if self.bad is None else self.bad

    @cached_property
    def weights(self) -> tuple[float, float]:
        """What one error and one other request add; the second is negative."""
        return weights(*self.shares)

    @property
    def even(self) -> float:
        """The share of errors above which the score rises."""
        error, other = self.weights
        return other / (other - error)


class Score(NamedTuple):
    """The evidence so far; made twice for each look, so that it is a tuple."""

    value: float = 0.0
    """From 0 to the threshold."""
    at: datetime | None = None
    """Up to when requests are in it; None: none are yet."""
    left: datetime | None = None
    """When it left 0 last; None while it is 0."""


FRESH = Score()


def weights(good: float, bad: float) -> tuple[float, float]:
    """The log-likelihood ratio of one error, and of one request without."""
    return log(bad / good), log((1 - bad) / (1 - good))


def evidence(counted: Counts, spec: ScoreSpec) -> float:
    """What was counted says for the bad share, or, when negative, for the good one."""
    errors, requests = counted[0], counted[1]
    error, other = spec.weights if len(counted) == _ALONE else beside(counted, spec)
    return errors * error + (requests - errors) * other


def beside(counted: Counts, spec: ScoreSpec) -> tuple[float, float]:
    """What an error and another request of new instances add, where the old ones fail more than is good.

    The odds of errors are as many times higher as those of the bad share are, so that what fails alike is no evidence.

    :param counted: of old ones that have requests, and are not bad themselves.
    """
    good, bad = spec.shares
    usual = max(good, counted[2] / counted[3])
    odds = usual / (1 - usual) * (bad / (1 - bad)) / (good / (1 - good))
    return weights(usual, odds / (1 + odds))


def count(errors: float | Observation, requests: float | Observation) -> Counts | Observation:
    """What was counted, or why that is not known.

    Prometheus extrapolates to the ends of a window, so that there may seem to be more errors than requests.
    """
    if isinstance(errors, Observation):
        return errors
    if isinstance(requests, Observation):
        return requests
    if errors < 0 or requests < 0:
        return inconclusive(f"{errors:g} errors of {requests:g} requests are no counts")
    return min(errors, requests), requests


def judged(counted: Counts, window: str, spec: ScoreSpec) -> Observation:
    """One window, as it is written, by itself, without a past: as verification and blame ask it."""
    found = evidence(counted, spec)
    errors, requests = counted[0], counted[1]
    said = f"{errors:.3g} errors of {requests:.4g} requests in {window}"
    if len(counted) > _ALONE:
        said = f"{said} of the new instances, {counted[2]:.3g} of {counted[3]:.4g} of the old ones"
    if -CLEARLY < found < CLEARLY:
        text = f"{said}, too few to say"
        return Observation(Verdict.INCONCLUSIVE, None, text, awaited=True, quiet=True, counted=counted)
    return Observation(Verdict.BAD if found > 0 else Verdict.GOOD, errors / requests, said, counted=counted)


def advance(
    score: Score,
    counted: Counts,
    window: timedelta,
    spec: ScoreSpec,
    at: datetime,
    every: timedelta,
) -> Score:
    """The score after one more look.

    Windows overlap: of each only the part since the last look counts, of the first all of it. A look that comes twice,
    or late, adds nothing. Of a time without looks that is longer than the window nothing is known, and after a long one
    the score begins anew. New instances have a window of their own from the first look on, and not been there for long.
    """
    passed = window
    if score.at is not None:
        passed = at - score.at
        if passed <= _NOTHING:
            set_back = passed <= -window  # our clock
            return Score(score.value, at, score.left) if set_back else score
        if passed > window:
            score = FRESH if passed > max(spec.lasting, every * 2) else score
            passed = window
    threshold = spec.threshold
    first = score.at is None and len(counted) > _ALONE
    most = threshold * ((min(every, window) if first else passed) / spec.lasting)
    found = evidence(counted, spec) * (passed / window)
    value = score.value + (most if found > most else max(found, -most))
    value = 0.0 if value < 0 else min(value, threshold)
    return Score(value, at, (score.left or at) if value else None)


def is_pending(score: Score, spec: ScoreSpec) -> bool:
    """Whether it is so high that something seems to be wrong."""
    return score.value >= spec.threshold * _PENDING


def is_enough(score: Score, spec: ScoreSpec) -> bool:
    """Whether it is as high as it can be."""
    return score.value >= spec.threshold
