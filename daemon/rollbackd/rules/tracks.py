"""What a condition has seen of a service over time, and what follows from it. No I/O.

A track is stepped with each observation; the condition is met when it was bad long or often enough.
An inconclusive observation neither starts nor resets anything; too long a gap does reset what is pending.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from rollbackd.model import Verdict
from rollbackd.rules.spec import CheckWhen, QueryWhen
from rollbackd.syntax.units import format_duration

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
) -> Track:
    """The track after one more observation; `every` is how often a query is asked, so that its pace is no gap."""
    if verdict is Verdict.INCONCLUSIVE:
        return replace(track, verdict=verdict, reason=reason, unsure=track.unsure + 1)
    silent = at - track.conclusive if track.conclusive is not None else timedelta()
    if isinstance(when, CheckWhen):
        gap = silent > max(LONGEST_GAP, when.every * _MISSED)
        forgotten = gap or verdict is Verdict.GOOD
        return _count(track, verdict, reason, at, when.failures, when.failures, forgotten=forgotten)
    if when.bad is not None:
        gap = silent > max(LONGEST_GAP, every * _MISSED)
        return _count(track, verdict, reason, at, when.bad.times, when.bad.of, forgotten=gap)
    return _last(track, verdict, reason, at, when.for_, forgotten=silent > max(when.for_, every * _MISSED))


def renewed(track: Track, begun: datetime, *, left: bool) -> Track:
    """The track of a condition whose service runs another state since then.

    What goes on over a change belongs to what ran before it, and keeps its beginning. `left`: a rollback led to the
    state, so what was pending, or met, was of the one that was left, and is over.
    """
    return Track(begun=begun, clean=begun) if left else replace(track, begun=begun, clean=None)


def reaching_back(track: Track, back: timedelta, at: datetime) -> str:
    """Why what looks back so far says nothing of the state that runs; empty when it does."""
    if track.clean is None or at - back >= track.clean:
        return ""
    return f"looks {format_duration(back)} back, to before the present state ran"


def unproven(before: Track, after: Track, back: timedelta, at: datetime) -> Track:
    """The track after an observation, not met yet while what meets it looks back to a state before."""
    early = after.begun is not None and at - back < after.begun <= at
    return replace(after, met=False) if after.met and not before.met and early else after


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
