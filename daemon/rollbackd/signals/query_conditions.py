"""What query conditions say of services, now and in the past: by a threshold, or against what they compare with.

Nothing is known between two calls but what does not move any more. A problem of the server is an answer too.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf

from rollbackd.config.models import Config
from rollbackd.model import Verdict
from rollbackd.rules.compare import Baseline, Span, instances, sampled, shifted, versions
from rollbackd.rules.reach import LEAST, over, reach, recent, widened
from rollbackd.rules.samples import Observation, inconclusive, judge, settle, too_few
from rollbackd.rules.score import count, judged
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.signals.baselines import BEFORE_UNDONE, Baselines, Line, Lines, samples_of, within
from rollbackd.signals.prometheus import Prometheus, QueryAnswer
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration, roughly
from rollbackd.system.clock import Clock

_LONGEST = timedelta(hours=1)
"""How far back little traffic is counted in verification."""
Values = Mapping[str, Sequence[float]]
"""By service."""


def queries(leaf: QueryWhen) -> list[str]:
    """What a condition asks of the present: its query, unless it asks for a time, and how many samples it rests on."""
    own = [] if leaf.differs is not None else [leaf.query]
    return [*own, leaf.counting] if leaf.counting else own


class QueryConditions:
    """Judges conditions, each for many services at once."""

    def __init__(self, config: Config, read_model: ReadModel, rule_states: RuleStates, prometheus: Prometheus) -> None:
        assert config.prometheus is not None
        self._every = config.prometheus.poll_every
        self._rule_states = rule_states
        self._prometheus = prometheus
        self.bases = Baselines(config, read_model, rule_states, prometheus)

    async def ask(self, leaves: Iterable[QueryWhen]) -> dict[str, QueryAnswer]:
        """Ask each query of the conditions, once."""
        asked = dict.fromkeys(query for leaf in leaves for query in queries(leaf))
        return dict(zip(asked, await asyncio.gather(*map(self._prometheus.instant, asked)), strict=True))

    async def observe(
        self,
        rule: Rule,
        leaf: QueryWhen,
        answers: Mapping[str, QueryAnswer],
        services: Sequence[str],
        now: datetime,
        since: datetime | None = None,
        *,
        widens: bool = False,
    ) -> dict[str, Observation]:
        """What the condition says of each service. Services without a change to compare with are left out.

        :param answers: to its `queries`.
        :param widens: whether a longer window is asked where there are too few samples.
        :param since: when a rollback's last step ended: only what came after it is compared.
        """
        problem = next((answers[query].problem for query in queries(leaf) if answers[query].problem), "")
        if problem:
            return dict.fromkeys(services, _unanswered(problem))
        counted = self.bases.values(rule, answers[leaf.counting].series) if leaf.counting else {}
        if leaf.against is None:
            values = self.bases.values(rule, answers[leaf.query].series)
            if leaf.score is not None:
                window = format_duration(reach(leaf.query))
                return {one: by_count(leaf, values.get(one, ()), counted.get(one, ()), window) for one in services}
            found = {one: by_threshold(leaf, values.get(one, ()), counted.get(one)) for one in services}
            scarce = [one for one, seen in found.items() if seen.quiet] if widens else []
            return found | await self._widened(rule, leaf, scarce)
        if leaf.of_change and since is None:
            services = self._compared(rule, leaf, services, now)
        if leaf.score is not None:
            return await self._versions(rule, leaf, answers, services, now, since)
        if leaf.differs is None and not leaf.by_label:
            return await self._shifted(rule, leaf, answers[leaf.query], counted, services, now, since)
        few = {service: few for service in services if (few := _too_few(leaf, counted.get(service))) is not None}
        enough = [service for service in services if service not in few]
        if leaf.differs is not None:
            return few | await self._tested(rule, leaf, enough, now, since)
        series = [(one.labels, ((one.at, one.value),)) for one in answers[leaf.query].series]
        return few | await self._of_instances(rule, leaf, self.bases.spread(rule, series), enough, now, since)

    async def _widened(self, rule: Rule, leaf: QueryWhen, services: Sequence[str]) -> dict[str, Observation]:
        """What the condition says, over longer windows, of services with too few samples; those with enough."""
        found: dict[str, Observation] = {}
        for wider in leaf.wider:
            few = [service for service in services if service not in found]
            answers = await self.ask([wider]) if few else {}
            if any(answer.problem for answer in answers.values()) or not few:
                break
            values = self.bases.values(rule, answers[wider.query].series)
            counted = self.bases.values(rule, answers[wider.counting].series)
            back = reach(wider.query)
            for one in few:
                seen = by_threshold(wider, values.get(one, ()), counted.get(one))
                if seen.verdict is not Verdict.INCONCLUSIVE:
                    found[one] = replace(seen, reason=f"{seen.reason} over {format_duration(back)}", back=back)
        return found

    def is_asked(self, leaf: QueryWhen, service: str, now: datetime) -> bool:
        """Whether the condition says anything of a service now: a comparison with before a change needs a fresh one."""
        return not leaf.of_change or self.bases.fresh(service, now)

    def _compared(self, rule: Rule, leaf: QueryWhen, services: Sequence[str], now: datetime) -> list[str]:
        """The services with a change that can be to blame, and those whose trouble goes on since one could be."""
        position = next(n for n, one in enumerate(rule.leaves) if one is leaf)
        found = []
        for service in services:
            going_on = self._rule_states.track(rule, position, service).since is not None
            if going_on or self.is_asked(leaf, service, now):
                found.append(service)
            else:
                self.bases.forget(service)
        return found

    # -- drops and rises ------------------------------------------------------------------------
    async def _shifted(
        self,
        rule: Rule,
        leaf: QueryWhen,
        answer: QueryAnswer,
        counted: Values,
        services: Sequence[str],
        now: datetime,
        since: datetime | None,
    ) -> dict[str, Observation]:
        values = self.bases.values(rule, answer.series)
        bases = await self._shift_bases(rule, leaf, values, services, now, since)
        return {
            service: self._early(leaf, service, now, since)
            or by_shift(leaf, values.get(service, ()), counted.get(service), bases[service])
            for service in services
        }

    async def _shift_bases(
        self,
        rule: Rule,
        leaf: QueryWhen,
        values: Values,
        services: Sequence[str],
        now: datetime,
        since: datetime | None,
    ) -> dict[str, Baseline]:
        assert leaf.against is not None
        if leaf.against.offset is not None:
            return await self.bases.earlier(rule, leaf, services, now, since)
        if leaf.against.before_change is not None:
            return await self.bases.median_before(rule, leaf, services, now)
        return self.bases.peers(leaf, services, values, now)

    def _early(self, leaf: QueryWhen, service: str, now: datetime, since: datetime | None) -> Observation | None:
        """Why a value of now is not one of after the change yet; None when it is, or when that does not matter."""
        begin = self.bases.after(leaf, service, now, since) if leaf.of_change else None
        if begin is None or now >= begin:
            return None
        back, left = format_duration(reach(leaf.query)), roughly(begin - now)
        return inconclusive(f"looks {back} back, to before the change; conclusive in {left}", awaited=True)

    # -- instances of one service ---------------------------------------------------------------
    async def _of_instances(
        self, rule: Rule, leaf: QueryWhen, lines: Lines, services: Sequence[str], now: datetime, since: datetime | None
    ) -> dict[str, Observation]:
        """What comes of comparing a service's new instances with its old ones."""
        before = await self.bases.old_instances(rule, leaf, services, now)
        found = {}
        for service in services:
            old, own, turn = before[service], lines.get(service, ()), self.bases.turn(service)
            undone = since is not None or (turn is not None and turn.undone)
            found[service] = inconclusive(old) if isinstance(old, str) else _instances(leaf, own, old, undone=undone)
        return found

    async def _versions(
        self,
        rule: Rule,
        leaf: QueryWhen,
        answers: Mapping[str, QueryAnswer],
        services: Sequence[str],
        now: datetime,
        since: datetime | None,
    ) -> dict[str, Observation]:
        """What errors and requests of a service's new instances say, beside those of its old ones."""
        requests = leaf.model_copy(update={"query": leaf.counting})
        before = await self.bases.old_instances(rule, requests, services, now)
        both = [
            self.bases.spread(rule, [(one.labels, ((one.at, one.value),)) for one in answers[query].series])
            for query in (leaf.query, leaf.counting)
        ]
        found: dict[str, Observation] = {}
        for service in services:
            old, turn = before[service], self.bases.turn(service)
            undone = since is not None or (turn is not None and turn.undone)
            if isinstance(old, str):
                found[service] = inconclusive(old, quiet=True)
            else:
                failed, asked = (_sides(leaf, lines.get(service, ()), old) for lines in both)
                found[service] = versions(failed, asked, leaf, undone=undone)
        return found

    # -- tests ----------------------------------------------------------------------------------
    async def _tested(
        self, rule: Rule, leaf: QueryWhen, services: Sequence[str], now: datetime, since: datetime | None
    ) -> dict[str, Observation]:
        """What comes of testing samples of the last while, from after the change on, against others."""
        assert leaf.differs is not None
        lines = await self.bases.lines(rule, leaf.query, (now - leaf.differs.window, now), self._every)
        if isinstance(lines, str):
            return dict.fromkeys(services, _unanswered(lines))
        windows = {service: self._window(leaf, service, now, since) for service in services}
        if leaf.by_label:
            late = {one: _cut(lines.get(one, ()), window) for one, window in windows.items()}
            return await self._of_instances(rule, leaf, late, services, now, since)
        bases = await self._test_bases(rule, leaf, lines, windows, now, since)
        found: dict[str, Observation] = {}
        for service, window in windows.items():
            samples = samples_of(leaf, _cut(lines.get(service, ()), window))
            if isinstance(samples, Observation):
                found[service] = samples
            else:
                found[service] = sampled(samples, bases[service], leaf.differs)
        return found

    def _window(self, leaf: QueryWhen, service: str, now: datetime, since: datetime | None) -> Span:
        assert leaf.differs is not None
        begin = self.bases.after(leaf, service, now, since)
        start = now - leaf.differs.window
        return (start if begin is None else max(begin, start), now)

    async def _test_bases(
        self,
        rule: Rule,
        leaf: QueryWhen,
        lines: Lines,
        windows: Mapping[str, Span],
        now: datetime,
        since: datetime | None,
    ) -> dict[str, Baseline]:
        assert leaf.against is not None
        if leaf.against.before_change is not None:
            before = await self.bases.before_change(rule, leaf, windows, now)
            return {service: _base_of(samples, " before the change") for service, samples in before.items()}
        if leaf.against.offset is not None:
            return await self._samples_earlier(rule, leaf, windows, now - leaf.against.offset, since)
        others = self.bases.undisturbed_peers(leaf, now)
        found = {}
        for service, window in windows.items():
            pooled: list[float] = []
            for peer in others:
                samples = samples_of(leaf, _cut(lines.get(peer, ()), window)) if peer != service else []
                pooled += [] if isinstance(samples, Observation) else samples
            found[service] = Baseline(tuple(pooled), f" of peers in {leaf.group}")
        return found

    async def _samples_earlier(
        self, rule: Rule, leaf: QueryWhen, services: Iterable[str], at: datetime, since: datetime | None
    ) -> dict[str, Baseline]:
        """The samples of so long ago. One range is asked for each time that is meant, nearly always one."""
        assert leaf.differs is not None
        times = {service: self.bases.well(leaf, service, at, since) for service in services}
        found = {}
        for time in dict.fromkeys(times.values()):
            lines = await self.bases.lines(rule, leaf.query, (time - leaf.differs.window, time), self._every)
            words = f" {leaf.other}" if time == at else f" {BEFORE_UNDONE}"
            for service in [each for each, meant in times.items() if meant == time]:
                own = lines if isinstance(lines, str) else samples_of(leaf, lines.get(service, ()))
                found[service] = _base_of(own, words)
        return found


class ComparisonQueries:
    """Judges query checks that compare; each is asked like a rule for its service alone."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        clock: Clock,
        prometheus: Prometheus | None,
    ) -> None:
        self._clock = clock
        self._queries = QueryConditions(config, read_model, rule_states, prometheus) if prometheus is not None else None

    async def __call__(self, service: str, when: QueryWhen, since: datetime | None) -> Observation | None:
        """What the condition says of the service; None without a Prometheus.

        :param since: when a rollback's last step ended. Without it, a service without a fresh change has none to blame.
        """
        if self._queries is None:
            return None
        rule = Rule(name="check", when=when, services=(service,))
        leaf = rule.leaves[0]
        assert isinstance(leaf, QueryWhen)
        answers = await self._queries.ask([leaf])
        found = await self._queries.observe(rule, leaf, answers, [service], self._clock.now(), since)
        return found.get(service, Observation(Verdict.GOOD, None, "there is no fresh change to compare with"))


def since_step(leaf: QueryWhen, length: timedelta) -> QueryWhen | None:
    """The condition over the time since a rollback's last step alone; None where it cannot be asked so."""
    if leaf.score is not None:
        return counted_over(leaf, min(length, _LONGEST)) if length >= LEAST else None
    return lately(leaf, length) if leaf.against is None else None


def lately(leaf: QueryWhen, length: timedelta) -> QueryWhen | None:
    """A condition over the last while alone, with as many samples in it as it wants; None where it cannot be asked so.

    The same share of a few requests is chance, however many there were before.
    """
    short, samples = recent(leaf.query, length), leaf.samples
    if short is None or short == leaf.query or samples is None or reach(samples.query) <= length:
        return leaf.model_copy(update={"query": short}) if short is not None else None
    counting = over(samples.query, length)
    if counting is None:
        return None
    return leaf.model_copy(update={"query": short, "samples": samples.model_copy(update={"query": counting})})


def all_since_step(leaf: QueryWhen, length: timedelta) -> QueryWhen | None:
    """The condition over all of the time since the last step, for want of traffic; None where it cannot be asked so."""
    if leaf.score is not None:
        return since_step(leaf, length)
    if leaf.samples is None or not leaf.wider or length < LEAST:
        return None
    longest = min(length, leaf.samples.widest)
    query, counting = widened(leaf.query, longest), over(leaf.samples.query, longest)
    samples = leaf.samples.model_copy(update={"query": counting})
    return leaf.model_copy(update={"query": query, "samples": samples})


def counted_over(leaf: QueryWhen, length: timedelta) -> QueryWhen | None:
    """A condition that keeps a score, counting in a window of this length; None where its queries have no such form."""
    assert leaf.score is not None
    errors, requests = over(leaf.query, length), over(leaf.score.of, length)
    if errors is None or requests is None:
        return None
    return leaf.model_copy(update={"query": errors, "score": leaf.score.model_copy(update={"of": requests})})


def by_itself(leaf: QueryWhen, values: Sequence[float], counted: Sequence[float] | None) -> Observation:
    """One service's values by what the condition itself says: a threshold, or the shares of a score."""
    return (
        by_threshold(leaf, values, counted)
        if leaf.score is None
        else by_count(leaf, values, counted or (), format_duration(reach(leaf.query)))
    )


def by_count(leaf: QueryWhen, values: Sequence[float], counted: Sequence[float], window: str) -> Observation:
    """One service's errors of its requests in one window, as it is written, with what was counted."""
    assert leaf.score is not None
    if len(values) == len(counted) == 1 and 0 <= values[0] <= counted[0] < inf:  # nearly always
        return judged((values[0], counted[0]), window, leaf.score)
    found = count(settle(values, leaf.aggregate), settle(counted, leaf.aggregate))
    return found if isinstance(found, Observation) else judged(found, window, leaf.score)


def by_threshold(leaf: QueryWhen, values: Sequence[float], counted: Sequence[float] | None) -> Observation:
    """One service's values against the condition's threshold; `counted` is how many samples they rest on."""
    at_least = leaf.samples.at_least if leaf.samples is not None else None
    return judge(values, leaf.above, leaf.below, leaf.aggregate, sum(counted) if counted else None, at_least)


def by_shift(leaf: QueryWhen, values: Sequence[float], counted: Sequence[float] | None, base: Baseline) -> Observation:
    """One service's values against one number."""
    at_least = leaf.samples.at_least if leaf.samples is not None else None
    value = settle(values, leaf.aggregate, sum(counted) if counted else None, at_least)
    return value if isinstance(value, Observation) else shifted(value, base, leaf)


def _unanswered(problem: str) -> Observation:
    return Observation(Verdict.INCONCLUSIVE, None, problem, unanswered=True)


def _too_few(leaf: QueryWhen, counted: Sequence[float] | None) -> Observation | None:
    if leaf.samples is None or not (few := too_few(sum(counted) if counted else None, leaf.samples.at_least)):
        return None
    return inconclusive(few.removeprefix("but "), quiet=bool(counted))


def _instances(leaf: QueryWhen, own: Sequence[Line], old: frozenset[str], *, undone: bool) -> Observation:
    return instances(*_sides(leaf, own, old), leaf, undone=undone)


def _sides(leaf: QueryWhen, own: Sequence[Line], old: frozenset[str]) -> tuple[list[float], list[float]]:
    """The values of new instances, and of old ones."""
    changed: list[float] = []
    unchanged: list[float] = []
    for labels, points in own:
        side = unchanged if labels.get(leaf.by_label, "") in old else changed
        side += [value for _, value in points]
    return changed, unchanged


def _cut(lines: Sequence[Line], window: Span) -> list[Line]:
    return [(labels, within(points, window)) for labels, points in lines]


def _base_of(samples: Sequence[float] | Observation | str, words: str) -> Baseline:
    if isinstance(samples, str):
        return Baseline(missing=samples)
    return Baseline(missing=samples.reason) if isinstance(samples, Observation) else Baseline(tuple(samples), words)
