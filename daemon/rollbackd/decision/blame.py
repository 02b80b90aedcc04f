"""What Prometheus and the journal know besides the polls: was a rule met before a change, how many users are affected.

A change is not to blame for what was there before it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite

from rollbackd.config.models import Config
from rollbackd.model import Verdict
from rollbackd.rules.conditions import Condition, combine
from rollbackd.rules.matchers import Matcher, parse_matchers, selector
from rollbackd.rules.reach import LEAST, reach
from rollbackd.rules.spec import AlertWhen, Leaf, QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track, step
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_conditions import QueryConditions, counted_over, lately
from rollbackd.signals.replays import can_be_replayed, replay
from rollbackd.signals.rule_state import RuleStates, gap
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration, whole_seconds
from rollbackd.system.clock import Clock

_POINTS = 2000
"""The most points of one series in one range query."""
_RESOLVES = timedelta(minutes=10)
"""How long after a state has ended an alert of it may still fire."""
_CLEARLY = 0.5
_AT_CHANGE = timedelta(minutes=5)
"""Trouble so shortly before a change was there at the change."""
_SHARE = 1 / 3
"""Trouble for this share of the time before a change is the old state's, also when it was not there at the change."""
_MISSED = 3
"""The fewest points without an answer, right before the change, that leave it open what was there."""
_KNOWN = Matcher("alertstate", "=~", "pending|firing")
_VERDICTS = {
    Standing.GOOD: Verdict.GOOD,
    Standing.PENDING: Verdict.GOOD,  # bad, but not for as long as the rule wants
    Standing.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    Standing.BAD: Verdict.BAD,
}


class Blame:
    """Asks what the conditions of a rule said in the past."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        prometheus: Prometheus | None,
    ) -> None:
        self._every = config.poll_every
        self._read_model = read_model
        self._rule_states = rule_states
        self._clock = clock
        self._prometheus = prometheus
        self._queries = QueryConditions(config, read_model, rule_states, prometheus) if prometheus is not None else None

    async def before(
        self,
        rule: Rule,
        service: str,
        until: datetime,
        length: timedelta,
        labels: Mapping[str, str] | None = None,
        since: datetime | None = None,
    ) -> tuple[Verdict, str]:
        """What the rule said of a service before a change, with the reason; an answer that fails is not raised.

        Bad: the rule was met in the last minutes before the change, or the trouble took a good share of the time before
        it, so the old state has the same trouble. Good: it was not, or once and long over. Inconclusive: nobody knows.

        :param until: the last look at the old state.
        :param length: how long before that is looked at; what the rule's `for` takes is added to it.
        :param since: when the old state began: trouble of a state before it is not its own.
        :param labels: the trigger's; for a plain alert rule only alerts of the same `alertname` count.
        """
        parts = []
        for leaf in rule.leaves:
            begin = until - length if since is None else max(until - length, since + _echo(leaf))
            parts.append(await self._leaf(rule, leaf, service, begin, until, labels or {}))
        found = combine(rule, parts)
        if found.standing is not Standing.BAD:
            found = self._journaled(rule, service, (until - length, until), labels or {}, since) or found
        began = f"since {_shown(until - found.since)} before the change: " if found.since is not None else ""
        return _VERDICTS[found.standing], f"{began}{found.reason}"

    def _journaled(
        self,
        rule: Rule,
        service: str,
        span: tuple[datetime, datetime],
        labels: Mapping[str, str],
        since: datetime | None,
    ) -> Condition | None:
        """What was decided on under the old state and began in it; None when nothing was.

        It needs no memory but our own, and sees trouble that each evaluation names anew: an alert with its value in a
        label. Trouble that was heard of only after the change may be of it, whenever it says that it began.
        """
        name = labels.get("alertname", "") if isinstance(rule.when, AlertWhen) else ""
        met = [
            (one.reached, one.onset)
            for one in self._read_model.of(service).episodes.values()
            if one.rule == rule.name and one.onset is not None and one.reached is not None
            if span[0] <= one.reached <= span[1] and one.alertname == (name or one.alertname)
            if since is None or one.onset >= since
        ]
        times = {(span[1] - reached) // _AT_CHANGE for reached, _ in met}
        if not met or not _there(max(met)[0], len(times), span, _AT_CHANGE):
            return None
        said = f"it was met {len(met)} times under the old state"
        return Condition(Standing.BAD, min(onset for _, onset in met), said)

    async def recent(self, rule: Rule, service: str) -> tuple[Verdict, str] | None:
        """What a rule of one query says over the last minute, with the reason; None where it cannot be asked so.

        Good is what has come down to half of the threshold: what only wavers about it goes on.
        """
        leaf = rule.when
        if self._queries is None or not isinstance(leaf, QueryWhen) or leaf.against is not None:
            return None
        asked = counted_over(leaf, LEAST) if leaf.score is not None else _lately(leaf)
        if asked is None:
            return None
        answers = await self._queries.ask([asked])
        seen = (await self._queries.observe(rule, asked, answers, [service], self._clock.now()))[service]
        return seen.verdict, f"{seen.reason} over the last minute"

    async def users(self, rule: Rule, service: str) -> float | None:
        """The share of users that the rule's own query says is affected, 0 to 1; None when it says nothing."""
        query = getattr(rule.users, "query", "")
        if not query or self._prometheus is None:
            return None
        answer = await self._prometheus.instant(query)
        owners = self._rule_states.spread([one.labels for one in answer.series], rule)
        values = [one.value for one, owner in zip(answer.series, owners, strict=True) if owner == service]
        if answer.problem or len(values) != 1 or not isfinite(values[0]):
            return None
        return values[0]

    async def _leaf(
        self, rule: Rule, leaf: Leaf, service: str, begin: datetime, until: datetime, labels: Mapping[str, str]
    ) -> Condition:
        if not isinstance(leaf, AlertWhen | QueryWhen):
            return _unknown("nobody keeps what a check or an event said")
        if self._queries is None:
            return _unknown("no Prometheus to ask")
        if begin >= until:
            return _unknown("the old state did not run long enough")
        if isinstance(leaf, AlertWhen):
            name = labels.get("alertname", "") if rule.when is leaf else ""
            return await self._alert(rule, leaf, service, (begin, until), name)
        if leaf.of_change:
            return Condition(Standing.GOOD, None, "it compares with the time before the change")
        if can_be_replayed(leaf):
            return await self._query(self._queries, rule, leaf, service, (begin, until))
        return await self._test(self._queries, rule, leaf, service, until)

    # -- queries --------------------------------------------------------------------------------
    async def _query(
        self, queries: QueryConditions, rule: Rule, leaf: QueryWhen, service: str, span: tuple[datetime, datetime]
    ) -> Condition:
        begin, until = span[0] - gap(rule, self._every), span[1]
        pace = max(self._every, (until - begin) / _POINTS)
        past = await replay(queries.bases, rule, leaf, (begin, until), pace, [service])
        if isinstance(past, str):
            return _unknown(past)
        track = Track()
        met: tuple[datetime, Track] | None = None
        bad = 0
        for at, seen in past.get(service, ()):
            track = step(track, leaf, seen.verdict, seen.reason, at, pace, seen)
            if seen.verdict is Verdict.BAD and at >= span[0]:
                bad += 1
                met = (at, track) if track.met else met
        if met is not None and _there(met[0], bad, span, pace):
            return Condition(Standing.BAD, met[1].since, met[1].reason)
        if track.conclusive is None:
            return _unknown(track.reason if past.get(service) else "no data before the change")
        if until - track.conclusive > pace * _MISSED:
            return _unknown(f"nothing is known of the last {_shown(until - track.conclusive)} before the change")
        return Condition(Standing.GOOD if track.since is None else Standing.PENDING, track.since, track.reason)

    async def _test(
        self, queries: QueryConditions, rule: Rule, leaf: QueryWhen, service: str, until: datetime
    ) -> Condition:
        """What a test of samples says at the change, asked once."""
        answers = {}
        if leaf.samples is not None and self._prometheus is not None:
            answers[leaf.samples.query] = await self._prometheus.instant(leaf.samples.query, until)
        seen = (await queries.observe(rule, leaf, answers, [service], until))[service]
        standings = {Verdict.GOOD: Standing.GOOD, Verdict.BAD: Standing.BAD}
        standing = standings.get(seen.verdict, Standing.INCONCLUSIVE)
        return Condition(standing, until if standing is Standing.BAD else None, seen.reason)

    # -- alerts ---------------------------------------------------------------------------------
    async def _alert(
        self, rule: Rule, leaf: AlertWhen, service: str, span: tuple[datetime, datetime], name: str
    ) -> Condition:
        """Whether an alert fired before the change, or waited then to fire and did: Prometheus's own `ALERTS` says it.

        The query is made of the rule's matchers alone; the labels of the alert only choose among the answer. An alert
        that this Prometheus does not know now may have fired before the change all the same.
        """
        assert self._prometheus is not None
        query = selector("ALERTS", (*parse_matchers(leaf.alert), _KNOWN))
        begin, until = span
        now = max(self._clock.now(), until)
        pace = max(self._every, (now - begin) / _POINTS)
        answer = await self._prometheus.range(query, begin, now, pace)
        if answer.problem:
            return _unknown(answer.problem)
        own = [
            one
            for one in answer.series
            if self._owner(rule, one.labels) == service and (not name or one.labels.get("alertname") == name)
        ]
        known = sorted({at for one in own for at, _ in one.points})
        times = sorted({at for one in own if one.labels.get("alertstate") != "pending" for at, _ in one.points})
        before = [at for at in times if at <= until]
        if before and _there(before[-1], len(before), span, pace):
            return Condition(Standing.BAD, _run(before, pace), "the alert fired")
        if not times:
            return _unknown("this Prometheus knows no such alert")
        if times[-1] > until and (began := _run(known, pace)) <= until and times[-1] >= began:
            return Condition(Standing.BAD, began, "the alert was about to fire")
        if before:
            return Condition(Standing.GOOD, None, f"the alert was over {_shown(until - before[-1])} before the change")
        before_it = f"in the {_shown(until - begin)} before the change"
        return Condition(Standing.GOOD, None, f"the alert did not fire {before_it}")

    def _owner(self, rule: Rule, labels: Mapping[str, str]) -> str | None:
        found = self._rule_states.service_of(labels)
        return found if found is not None or len(rule.services) != 1 else rule.services[0]


def _lately(leaf: QueryWhen) -> QueryWhen | None:
    """The condition over the last minute, at half of its threshold; None where it cannot be asked so."""
    short = lately(leaf, LEAST)
    if leaf.above is None or short is None or short.query == leaf.query:
        return None
    return short.model_copy(update={"above": leaf.above * _CLEARLY})


def _echo(leaf: Leaf) -> timedelta:
    """How long a condition still sees an older state: what its query looks back over, or an alert takes to resolve."""
    return reach(leaf.query) if isinstance(leaf, QueryWhen) else _RESOLVES


def _there(last: datetime, points: int, span: tuple[datetime, datetime], pace: timedelta) -> bool:
    """Whether trouble was there at the change: shortly before it, or for a good share of the time before it."""
    begin, until = span
    return until - last <= max(_AT_CHANGE, pace * 2) or points * pace >= (until - begin) * _SHARE


def _run(times: Sequence[datetime], pace: timedelta) -> datetime:
    """When the last unbroken run of points began."""
    begin = times[-1]
    for at in reversed(times):
        if begin - at > pace * 2:
            break
        begin = at
    return begin


def _unknown(reason: str) -> Condition:
    return Condition(Standing.INCONCLUSIVE, None, reason)


def _shown(length: timedelta) -> str:
    return format_duration(whole_seconds(length))
