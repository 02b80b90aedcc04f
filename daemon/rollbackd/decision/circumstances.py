"""Circumstances: what else than the release may explain trouble, as Prometheus and the journal's own past tell it.

Each is a verdict with its words: bad speaks for the release, since something else explains the trouble. What is not
known is inconclusive, and so is all that was not answered within one query's time limit: nothing waits for it longer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median

from rollbackd.config.models import Config
from rollbackd.model import Replaced, Trigger, Verdict
from rollbackd.policy.changes import ONE_CHANGE, to_blame
from rollbackd.policy.guards import FIRST_MINUTES, OTHERS_WORSENED, SAME_TIME, TRAFFIC_LEVEL, Circumstance
from rollbackd.policy.ledger import Spell
from rollbackd.rules.compare import Span
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.signals.baselines import Baselines, by_time
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.replays import replay
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration, roughly
from rollbackd.system.clock import Clock

LEARNED = 3
"""So many changes must be known before anything is learned of them."""
_CHANGES = 6
"""The newest changes that are looked at."""
_YOUNG = timedelta(days=30)
"""Changes that are older teach nothing: Prometheus has forgotten, and the service is another."""
_POINTS = 3
"""The fewest points that say how a time was."""
_USUAL = 0.5
"""More than this share of what was seen makes it usual."""
_EARLIER_MINUTES = timedelta(minutes=15)
"""How long before the onset it is looked how others were."""
_BLURRED = timedelta(minutes=1)
"""So shortly before the onset another service may have begun to feel it."""
_FELT = 0.1
"""Others feel it when they rise by this share of what is bad for the rule,"""
_TIMES = 3
"""and to so many times what they had."""
_SOME = 2
"""So many others that got worse explain trouble that came long after a change; more, and more than the share of
`common_cause`, also trouble right after one. One alone explains late trouble when it is at least as bad: it may be what
the service rests on."""
_SOON = timedelta(minutes=10)
"""Trouble so shortly after a change is most likely of it."""
_NEAR = timedelta(hours=1)
"""A rollback so near to the same time before: what was bad then was a release."""
_EARLIER = (timedelta(days=1), timedelta(days=7))
"""So long ago it is looked how it was at the same time."""
_NAMES = tuple(guard.name for guard in (OTHERS_WORSENED, TRAFFIC_LEVEL, SAME_TIME, FIRST_MINUTES))
"""In the order in which they are asked about."""


class Circumstances:
    """Asks what else may explain the trouble of one service."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        prometheus: Prometheus | None,
    ) -> None:
        self._limits = config.limits
        self._services = config.services
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._bases = Baselines(config, read_model, rule_states, prometheus) if prometheus is not None else None
        self._every = config.poll_every
        self._limit = config.prometheus.timeout if config.prometheus is not None else timedelta()

    async def of(self, trigger: Trigger) -> dict[str, Circumstance]:
        """What was found, by guard; nothing where there is no change to blame, or no query that tells."""
        change, rule = (
            to_blame(self._read_model.of(trigger.service), trigger.onset),
            self._rule_states.rule(trigger.rule),
        )
        if rule is None or change is None or self._bases is None or trigger.request is not None:
            return {}
        leaf = next((one for one in rule.leaves if isinstance(one, QueryWhen) and one.against is None), None)
        if leaf is None or change.start > trigger.onset:
            return {}
        asked = (
            self._others(self._bases, rule, leaf, trigger, change),
            self._traffic(self._bases, rule, leaf, trigger, change),
            self._before(self._bases, rule, leaf, trigger),
            self._first_minutes(self._bases, rule, leaf, trigger.service, change),
        )
        try:
            async with asyncio.timeout(self._limit.total_seconds()):
                return dict(zip(_NAMES, await asyncio.gather(*asked), strict=True))
        except TimeoutError:
            text = f"no answer within {format_duration(self._limit)}"
            return dict.fromkeys(_NAMES, (Verdict.INCONCLUSIVE, text))

    async def _others(
        self, bases: Baselines, rule: Rule, leaf: QueryWhen, trigger: Trigger, change: Replaced
    ) -> Circumstance:
        """Whether other services got worse in the same minutes, which no change of theirs at that time explains."""
        limit = leaf.score.shares[1] if leaf.score is not None else leaf.above
        if limit is None or not self._limits.common_cause or len(self._services) < 2:
            return _unknown("nothing tells whether others got worse")
        shares = await self._shares(bases, rule, leaf, (trigger.onset - _EARLIER_MINUTES, self._clock.now()))
        if isinstance(shares, str):
            return _unknown(shares)
        levels = {one: _levels(points, trigger.onset) for one, points in shares.items()}
        ours = levels.pop(trigger.service, None)
        worse = {
            one: found[1]
            for one, found in levels.items()
            if found is not None
            and found[1] - found[0] >= limit * _FELT
            and found[1] >= found[0] * _TIMES
            and not self._changed_with(one, change, trigger.onset)
        }
        if ours is None or not worse:
            return Verdict.GOOD, "no other service got worse in the same minutes"
        as_bad = [one for one, level in worse.items() if level >= ours[1]]
        late = trigger.onset - change.end > _SOON
        many = max(_SOME, self._limits.common_cause.share * len(self._services))
        explained = len(worse) >= _SOME or bool(as_bad) if late else len(worse) > many
        names = sorted(worse, key=worse.__getitem__, reverse=True)
        more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
        text = f"{', '.join(names[:_SOME])}{more} got worse in the same minutes"
        return Verdict.BAD if explained else Verdict.GOOD, text

    async def _shares(
        self, bases: Baselines, rule: Rule, leaf: QueryWhen, span: Span
    ) -> dict[str, dict[datetime, float]] | str:
        """What the rule measures of each service at each time; of a score the share of errors."""
        lines = await bases.lines(rule, leaf.query, span, self._every)
        counted = await bases.lines(rule, leaf.counting, span, self._every) if leaf.score is not None else {}
        if isinstance(lines, str) or isinstance(counted, str):
            return lines if isinstance(lines, str) else str(counted)
        found: dict[str, dict[datetime, float]] = {}
        for service, own in lines.items():
            values = {at: sum(many) for at, many in by_time(points for _, points in own).items()}
            if leaf.score is not None:
                of = by_time(points for _, points in counted.get(service, ()))
                values = {at: value / sum(of[at]) for at, value in values.items() if sum(of.get(at, ())) > 0}
            found[service] = values
        return found

    def _changed_with(self, service: str, change: Replaced, onset: datetime) -> bool:
        """Whether another service had a change of its own together with that change: each is looked at by itself."""
        own = to_blame(self._read_model.of(service), onset)
        return own is not None and abs(own.end - change.end) <= ONE_CHANGE

    async def _traffic(
        self, bases: Baselines, rule: Rule, leaf: QueryWhen, trigger: Trigger, change: Replaced
    ) -> Circumstance:
        """Whether far more is asked of the service than before the change."""
        if not leaf.counting:
            return _unknown("the rule does not say how many requests there are")
        begin = max(
            change.start - self._limits.before_change, (change.old_since or change.start) + reach(leaf.counting)
        )
        before = await self._requests(bases, rule, leaf, trigger.service, (begin, change.start))
        after = await self._requests(bases, rule, leaf, trigger.service, (trigger.onset, self._clock.now()))
        if isinstance(before, str) or isinstance(after, str):
            return _unknown(before if isinstance(before, str) else str(after))
        if len(before) < _POINTS or not after or median(before) <= 0:
            return _unknown("there is no traffic before the change to compare with")
        times = median(after[-_POINTS:]) / median(before)
        text = f"{times:.2g} times the traffic of before the change"
        return Verdict.BAD if times >= self._limits.campaign else Verdict.GOOD, text

    async def _requests(
        self, bases: Baselines, rule: Rule, leaf: QueryWhen, service: str, span: Span
    ) -> Sequence[float] | str:
        if span[0] >= span[1]:
            return "the old state did not run long enough"
        lines = await bases.lines(rule, leaf.counting, span, self._every)
        if isinstance(lines, str):
            return lines
        return [sum(values) for values in by_time(points for _, points in lines.get(service, ())).values()]

    async def _before(self, bases: Baselines, rule: Rule, leaf: QueryWhen, trigger: Trigger) -> Circumstance:
        """Whether it was as bad at the same time of a day before, without a release that was taken back then."""
        found = _unknown("no other day is asked about")
        rollbacks = [one.opened for one in self._read_model.of(trigger.service).rollbacks if one.acted]
        for offset in _EARLIER if self._limits.same_time else ():
            begin, end = trigger.onset - offset, self._clock.now() - offset
            words = f"{format_duration(offset)} ago"
            if any(begin - _NEAR <= opened <= end + _NEAR for opened in rollbacks):
                continue
            seen = await self._conclusive(
                bases, rule, leaf, trigger.service, (begin, max(end, begin + self._every * 4))
            )
            if isinstance(seen, str) or len(seen) < _POINTS:
                found = found if found[0] is Verdict.GOOD else _unknown(f"nothing is known of {words}")
                continue
            bad = [one for _, one in seen if one.verdict is Verdict.BAD]
            if len(bad) > len(seen) * _USUAL:
                return Verdict.BAD, f"as bad at the same time {words}: {bad[-1].reason}"
            found = Verdict.GOOD, f"well at the same time {words}"
        return found

    async def _first_minutes(
        self, bases: Baselines, rule: Rule, leaf: QueryWhen, service: str, change: Replaced
    ) -> Circumstance:
        """Whether changes of this service usually look so for their first minutes, and are well after them."""
        length, now = self._limits.first_minutes, self._clock.now()
        spells = self._read_model.of(service).spells
        past = [spell for spell in _left_alone(spells, length) if spell.by < change.start and now - spell.by <= _YOUNG]
        if len(past) < LEARNED or not length:
            return _unknown(f"{len(past)} changes are known to learn from, wants {LEARNED}")
        known, settled = 0, list[timedelta]()
        for spell in past[-_CHANGES:]:
            seen = await self._conclusive(bases, rule, leaf, service, (spell.by, spell.by + length))
            if isinstance(seen, str) or len(seen) < _POINTS:
                continue
            known += 1
            bad = [at for at, one in seen if one.verdict is Verdict.BAD]
            if bad and seen[-1][1].verdict is Verdict.GOOD:
                settled.append(bad[-1] - spell.by)
        if known < LEARNED:
            return _unknown(f"of {known} changes is known how they began, wants {LEARNED}")
        if len(settled) <= known * _USUAL:
            return Verdict.GOOD, f"{len(settled)} of its last {known} changes looked so at first"
        text = f"{len(settled)} of its last {known} changes looked so for up to {roughly(max(settled))}, and got well"
        return Verdict.BAD if now - change.end <= max(settled) else Verdict.GOOD, text

    async def _conclusive(
        self, bases: Baselines, rule: Rule, leaf: QueryWhen, service: str, span: Span
    ) -> Sequence[tuple[datetime, Observation]] | str:
        found = await replay(bases, rule, leaf, span, self._every, [service])
        if isinstance(found, str):
            return found
        return [(at, one) for at, one in found.get(service, ()) if one.verdict is not Verdict.INCONCLUSIVE]


def _levels(points: Mapping[datetime, float], onset: datetime) -> tuple[float, float] | None:
    """What was measured before the onset, and the most since then; None where too little is known."""
    before = [value for at, value in points.items() if at <= onset - _BLURRED]
    after = [value for at, value in points.items() if at > onset]
    runs = [after[begin : begin + _POINTS] for begin in range(len(after) - _POINTS + 1)]
    return (median(before), max(map(median, runs))) if len(before) >= _POINTS and runs else None


def _left_alone(spells: Sequence[Spell], length: timedelta) -> list[Spell]:
    """The changes that nobody took back, whose state ran for so long at least; oldest first."""
    found = []
    for spell, after in zip(spells[1:], (*spells[2:], None), strict=True):
        ran_on = spell.ended is None or spell.ended - spell.by >= length
        if not spell.incident and ran_on and (after is None or not after.incident):
            found.append(spell)
    return found


def _unknown(text: str) -> Circumstance:
    return Verdict.INCONCLUSIVE, text
