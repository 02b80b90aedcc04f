"""The conditions of one service in a play: fed poll by poll where something can happen, and skipped where not.

A stretch of polls is skipped when each would leave the condition as the one before did. What is skipped is caught up
with before the next poll, as far as the condition remembers it, so that nothing can be told from a play of every poll.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from rollbackd.backtest import verdicts
from rollbackd.backtest.grid import Grid
from rollbackd.model import Verdict
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import CheckWhen, EventWhen, QueryWhen, Rule
from rollbackd.signals.rule_state import RuleStates

_VERDICTS = (Verdict.GOOD, Verdict.BAD, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)


@dataclass
class PlayedCondition:
    """One condition with a threshold or a score, of one service, in the chunk that is played."""

    rule: Rule
    position: int
    leaf: QueryWhen
    service: str
    columns: list[verdicts.Column] = field(default_factory=list)
    counted: list[verdicts.Column] = field(default_factory=list)
    polls: range = range(0)
    starts: list[int] = field(default_factory=list)
    found: bytes = b""
    """The verdict of each run that begins in `starts`."""
    seen: int = -1
    """The poll that was observed last."""
    steady: bool = False
    """Whether more of the last verdict change nothing."""
    last: int = verdicts.UNSURE

    def load(self, columns: list[verdicts.Column], counted: list[verdicts.Column], polls: range) -> None:
        """Take the next chunk."""
        self.columns, self.counted, self.polls = columns, counted, polls
        starts, self.found = verdicts.runs(verdicts.codes(self.leaf, columns, counted, len(polls)))
        self.starts = [polls[0] + start for start in starts]

    def due(self, poll: int) -> int:
        """The next poll from that one on which must be observed; the end of the chunk where there is none."""
        run = bisect_right(self.starts, poll) - 1
        if not self.steady or self.found[run] != self.last:
            return poll
        return self.starts[run + 1] if run + 1 < len(self.starts) else self.polls.stop

    def begin(self, poll: int) -> None:
        """Forget what came before: the service was not looked at until then."""
        self.seen, self.steady = poll - 1, False

    def observe(self, states: RuleStates, grid: Grid, poll: int) -> bool:
        """Catch up, and observe a poll; whether its verdict is another, or not settled yet."""
        if self.steady and self.last != verdicts.UNSURE:
            remembered = self.leaf.bad.of if self.leaf.bad is not None else 1
            for before in range(max(self.seen + 1, poll - remembered), poll):
                self._feed(states, grid, before)
        was, settled = self.last, self.steady
        self._feed(states, grid, poll)
        self.seen = poll
        self.last = self.found[bisect_right(self.starts, poll) - 1]
        self.steady = self._is_steady(states)
        return self.last != was or not (settled and self.steady)

    def _feed(self, states: RuleStates, grid: Grid, poll: int) -> None:
        feed(states, self.rule, self.position, self.service, self._seen(poll), grid, poll)

    def _seen(self, poll: int) -> Observation:
        return verdicts.observed(self.leaf, self.columns, self.counted, poll - self.polls[0])

    def _is_steady(self, states: RuleStates) -> bool:
        track = states.track(self.rule, self.position, self.service)
        if track.verdict is not _VERDICTS[self.last]:  # it looks back too far: nothing follows from it yet
            return False
        if self.last in (verdicts.GOOD, verdicts.IDLE):
            return track.since is None and not track.scored
        if self.last == verdicts.UNSURE:
            return True
        if self.leaf.score is not None:
            return False
        full = self.leaf.bad is None or (len(track.recent) == self.leaf.bad.of and all(bad for _, bad in track.recent))
        return track.met and full

    def was_bad(self, polls: Sequence[int]) -> bool:
        """Whether it was beyond its threshold at any of these polls of the chunk."""
        if not polls:
            return False
        if self.leaf.score is not None:
            return any(self._seen(poll).verdict is Verdict.BAD for poll in polls)
        first = bisect_right(self.starts, polls[0]) - 1
        last = bisect_right(self.starts, polls[-1])
        return verdicts.BAD in self.found[max(0, first) : last]


def feed(states: RuleStates, rule: Rule, position: int, service: str, seen: Observation, grid: Grid, poll: int) -> None:
    """Let a rule see an observation, as the polls of the daemon do."""
    broken = seen.fault or seen.unanswered
    states.observe(
        rule,
        position,
        service,
        seen.verdict,
        seen.reason,
        grid.at(poll),
        awaited=seen.awaited,
        broken=broken,
        seen=seen,
    )


def why_unplayed(rule: Rule) -> str:
    """Why a rule cannot be played; empty when it can."""
    if any(isinstance(leaf, CheckWhen) for leaf in rule.leaves):
        return "nobody kept what its check said"
    return "nobody kept its events" if any(isinstance(leaf, EventWhen) for leaf in rule.leaves) else ""
