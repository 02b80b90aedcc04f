"""What a condition has seen of a service over time, and what follows from it. No I/O.

A track is stepped with each observation; the condition is met when it was bad long or often enough.
An inconclusive observation neither starts nor resets anything; too long a gap does reset what is pending.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from rollbackd.model import Verdict
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Counts, Observation
from rollbackd.rules.score import Score, ScoreSpec, advance, is_enough, is_pending
from rollbackd.rules.spec import CheckWhen, Clear, QueryWhen
from rollbackd.syntax.units import format_duration, roughly

CALM = timedelta(minutes=5)
"""How long trouble must be gone at every look to have ended: a start knows nothing yet, and trouble flaps."""
LONGEST_GAP = timedelta(minutes=15)
"""For conditions that count polls: what was seen before such a gap says nothing about now."""
_MISSED = 2
"""So many times the pace is no gap yet, however short `for` is: one look may be missed."""


class Standing(StrEnum):
    """What a rule says of a service right now; the later, the worse."""

    GOOD = "good"
    INCONCLUSIVE = "inconclusive"
    PENDING = "pending"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Track:
    """The past of one condition of one service, as far as it is needed."""

    since: datetime | None = None
    """The first bad observation of the present run; None when there is none."""
    conclusive: datetime | None = None
    """The last observation that said anything."""
    met: bool = False
    verdict: Verdict = Verdict.INCONCLUSIVE
    """The last observation."""
    reason: str = "not looked at yet"
    recent: tuple[tuple[datetime, bool], ...] = ()
    """For conditions that count: the last conclusive polls, bad or not."""
    unsure: int = 0
    """Observations in a row, up to now, that said nothing."""
    begun: datetime | None = None
    """When the state began that the condition is observed of; None: it always ran."""
    clean: datetime | None = None
    """What looks back to before this says nothing of that state, since it was reached by leaving another in trouble."""
    scored: float = 0.0
    """For conditions that count errors: the evidence so far."""
    scored_at: datetime | None = None
    """Up to when requests are in it."""
    left: datetime | None = None
    """When it left 0 last; None while it is 0."""
    clearing: datetime | None = None
    """Since when what was met has been as well as it must be to be over; None: it is not."""

    @property
    def standing(self) -> Standing:
        if self.verdict is Verdict.INCONCLUSIVE:
            return Standing.PENDING if self.since is not None and not self.met else Standing.INCONCLUSIVE
        if self.met:
            return Standing.BAD
        return Standing.PENDING if self.since is not None else Standing.GOOD


def step(
    track: Track,
    when: QueryWhen | CheckWhen,
    verdict: Verdict,
    reason: str,
    at: datetime,
    every: timedelta = timedelta(),
    seen: Observation | None = None,
) -> Track:
    """The track after one more observation.

    :param every: how often a query is asked, so that its pace is no gap.
    :param seen: what more a query has seen than that: its value, or what it has counted.
    """
    counted = seen.counted if seen is not None else None
    if isinstance(when, QueryWhen) and when.score is not None and counted is not None:
        return _score(track, when, when.score, counted, reason, at, every)
    if verdict is Verdict.INCONCLUSIVE:
        return replace(track, verdict=verdict, reason=reason, unsure=track.unsure + 1)
    silent = at - track.conclusive if track.conclusive is not None else timedelta()
    if isinstance(when, CheckWhen):
        gap = silent > max(LONGEST_GAP, when.every * _MISSED)
        forgotten = gap or verdict is Verdict.GOOD
        return _count(track, verdict, reason, at, when.failures, when.failures, forgotten=forgotten)
    value = seen.value if seen is not None else None
    if when.clear is not None and track.met and value is not None:
        return _clearing(track, when.clear, value, reason, at, gone=silent > max(LONGEST_GAP, every * _MISSED))
    if when.bad is not None:
        gap = silent > max(LONGEST_GAP, every * _MISSED)
        return _count(track, verdict, reason, at, when.bad.times, when.bad.of, forgotten=gap)
    return _last(track, verdict, reason, at, when.for_, forgotten=silent > max(when.for_, every * _MISSED))


def renewed(track: Track, begun: datetime, *, left: bool) -> Track:
    """The track of a condition whose service runs another state since then.

    What goes on over a change belongs to what ran before it, and keeps its beginning. `left`: a rollback led to the
    state, so what was pending, or met, was of the one that was left, and is over.
    """
    return (
        Track(begun=begun, clean=begun)
        if left
        else replace(track, begun=begun, clean=None, scored=0.0, scored_at=None, left=None)
    )


def reaching_back(track: Track, back: timedelta, at: datetime) -> str:
    """Why what looks back so far says nothing of the state that runs; empty when it does."""
    if track.clean is None or at - back >= track.clean:
        return ""
    return f"looks {format_duration(back)} back, to before the present state ran"


def mixing(track: Track, window: timedelta, at: datetime) -> str:
    """Why a window that is to be counted holds requests of another state; empty when it holds none."""
    if track.begun is None or at - window >= track.begun or at < track.begun:
        return ""
    return f"counts in {roughly(track.begun + window - at)}, what the present state alone has served"


def unproven(before: Track, after: Track, back: timedelta, at: datetime) -> Track:
    """The track after an observation, not met yet while what meets it looks back to a state before."""
    early = after.begun is not None and at - back < after.begun <= at
    return replace(after, met=False) if after.met and not before.met and early else after


def _score(
    track: Track, when: QueryWhen, spec: ScoreSpec, counted: Counts, seen: str, at: datetime, every: timedelta
) -> Track:
    """The track of a condition that counts errors: met from the threshold on until nothing is left of it."""
    before = Score(track.scored, track.scored_at, track.left)
    score = advance(before, counted, reach(when.query), spec, at, every)
    goes_on = score.value > 0 and (track.since is not None or is_pending(score, spec))
    since = (track.since or score.left) if goes_on else None
    met = goes_on and (track.met or is_enough(score, spec))
    reason = f"score {score.value:.3g} of {spec.threshold:g}, {seen}"
    verdict, conclusive, unsure = Verdict.GOOD if since is None else Verdict.BAD, track.conclusive, track.unsure
    if counted[1]:
        conclusive, unsure = at, 0
    else:
        verdict = Verdict.INCONCLUSIVE
    past = (track.begun, track.clean, score.value, score.at, score.left)
    return Track(since, conclusive, met, verdict, reason, (), unsure, *past)


def _clearing(track: Track, clear: Clear, value: float, reason: str, at: datetime, *, gone: bool) -> Track:
    """The track of trouble that was met and is over only when it is clear for a while, seen without a gap."""
    if not clear.holds(value):
        reason = f"{reason}, over when {clear}"
        return replace(track, conclusive=at, verdict=Verdict.BAD, reason=reason, unsure=0, clearing=None)
    since = at if track.clearing is None or gone or at < track.clearing else track.clearing
    if at - since >= clear.for_:
        return Track(None, at, False, Verdict.GOOD, reason, begun=track.begun, clean=track.clean)
    reason = f"{reason}, over when {clear}"
    return replace(track, conclusive=at, verdict=Verdict.BAD, reason=reason, unsure=0, clearing=since)


def _last(track: Track, verdict: Verdict, reason: str, at: datetime, lasting: timedelta, *, forgotten: bool) -> Track:
    """The track of a condition that must be bad for so long."""
    if verdict is Verdict.GOOD:
        return replace(track, since=None, conclusive=at, met=False, verdict=verdict, reason=reason, unsure=0)
    since = track.since
    set_back = since is not None and at < since  # our clock: what is pending would wait for all that time once more
    if since is None or ((forgotten or set_back) and not track.met):
        since = at
    met = track.met or at - since >= lasting
    return replace(track, since=since, conclusive=at, met=met, verdict=verdict, reason=reason, unsure=0)


def _count(track: Track, verdict: Verdict, reason: str, at: datetime, times: int, of: int, *, forgotten: bool) -> Track:
    """The track of a condition that must be bad in so many of the last polls."""
    before = () if forgotten else track.recent
    recent = (*before, (at, verdict is Verdict.BAD))[-of:]
    bads = [when for when, was_bad in recent if was_bad]
    met = len(bads) >= times
    since = bads[0] if bads else None
    if met and track.met and track.since is not None:
        since = track.since
    return replace(track, since=since, conclusive=at, met=met, verdict=verdict, reason=reason, recent=recent, unsure=0)
