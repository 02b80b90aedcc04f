"""Polls of Prometheus for the rules' queries. One query is asked once for all services and all rules."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from rollbackd import facts
from rollbackd.config.models import Config
from rollbackd.model import Verdict
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.signals.alert_expressions import lags
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_conditions import QueryConditions
from rollbackd.signals.replays import Past, can_be_replayed, replay
from rollbackd.signals.rule_faults import RuleFaults
from rollbackd.signals.rule_state import RuleStates, gap
from rollbackd.signals.triggers import TriggerSink
from rollbackd.state.read_model import ReadModel
from rollbackd.system.clock import Clock

_LEARN = timedelta(minutes=5)
_LONGEST_MEMORY = timedelta(hours=6)
"""How far back a restart looks for the beginning of a run that was known."""
_ANYTHING = "vector(1)"
"""Asked where no rule asks anything."""
_POINTS = 5000
"""The most points of one series in one range query; Prometheus refuses more than 11,000."""


class PrometheusPolls:
    """The poll loop."""

    def __init__(
        self,
        config: Config,
        read_model: ReadModel,
        rule_states: RuleStates,
        triggers: TriggerSink,
        clock: Clock,
        prometheus: Prometheus,
    ) -> None:
        assert config.prometheus is not None
        self._every = config.prometheus.poll_every
        self._borne = config.prometheus.unanswered
        self._services = [service.name for service in config.services]
        self._read_model = read_model
        self._rule_states = rule_states
        self._triggers = triggers
        self._clock = clock
        self._prometheus = prometheus
        self._learned: float | None = None
        self._queries = QueryConditions(config, read_model, rule_states, prometheus)
        self._unasked: set[tuple[str, int, str]] = set()
        """Conditions that compare with before a change, of services without a change to blame."""
        self._asked: list[tuple[Rule, int, QueryWhen]] = [
            (rule, position, leaf)
            for rule in config.rules
            for position, leaf in enumerate(rule.leaves)
            if isinstance(leaf, QueryWhen)
        ]
        self._unbuilt = list(self._asked)
        self._failures = 0
        self._faults = RuleFaults(read_model, rule_states)
        self.problem = ""
        """Why the last poll had no answer; empty when it had one."""
        self.polled: datetime | None = None
        """When the last poll ended."""

    async def run(self) -> None:
        """Rebuild what was pending as soon as Prometheus answers, then poll for ever."""
        while True:
            await self.learn()
            await self.rebuild()
            await self.poll()
            await self._clock.sleep(self._every)

    async def learn(self) -> None:
        """Learn every few minutes how far each alert lags behind, from the rules that Prometheus evaluates itself."""
        now = self._clock.monotonic()
        if self._learned is not None and now - self._learned < _LEARN.total_seconds():
            return
        self._learned = now
        answer = await self._prometheus.rules()
        if not answer.problem:
            self._rule_states.lags = await lags(answer)

    async def poll(self) -> None:
        """Ask each query once, and let the rules see the answers."""
        answers = await self._queries.ask(leaf for _, _, leaf in self._asked)
        now = self._clock.now()
        found = await asyncio.gather(
            *(
                self._queries.observe(rule, leaf, answers, self._about(rule), now, widens=True)
                for rule, _, leaf in self._asked
            )
        )
        problems: list[str] = []
        faults: dict[str, dict[str, str]] = {}
        for (rule, position, _), seen in zip(self._asked, found, strict=True):
            problems += [one.reason for one in seen.values() if one.unanswered][:1]
            faults.setdefault(rule.name, {}).update(self._feed(rule, position, seen, now))
        if not self._asked:  # an alert that is gone has ended only where Prometheus can say so
            alone = await self._prometheus.instant(_ANYTHING)
            problems = [alone.problem] if alone.problem else []
        await self._report(problems, max(1, len(self._asked)))
        if len(problems) < len(self._asked):  # else it is Prometheus that says nothing, and people hear of that
            self._triggers.run_soon(self._look_for_faults(faults))
        for name in dict.fromkeys(rule.name for rule, _, _ in self._asked):
            self._trigger(name)

    def _feed(self, rule: Rule, position: int, found: Mapping[str, Observation], now: datetime) -> dict[str, str]:
        """Feed one condition of one rule, for every service that it is about; returns what is at fault, by service."""
        faults = {}
        for service in self._about(rule):
            place = (rule.name, position, service)
            seen = found.get(service)
            if seen is not None:
                if seen.fault:
                    faults[service] = seen.reason
                self._rule_states.observe(
                    rule,
                    position,
                    service,
                    seen.verdict,
                    seen.reason,
                    now,
                    awaited=seen.awaited,
                    broken=seen.fault or seen.unanswered,
                    seen=seen,
                )
                self._unasked.discard(place)
            elif place not in self._unasked:
                self._unasked.add(place)
                self._rule_states.clear(rule, position, service)
        return faults

    def _about(self, rule: Rule) -> Sequence[str]:
        return rule.services or self._services

    async def _look_for_faults(self, faults: Mapping[str, Mapping[str, str]]) -> None:
        for name, found in faults.items():
            rule = self._rule_states.rule(name)
            assert rule is not None
            await self._faults.look(rule, found)

    def _trigger(self, name: str) -> None:
        rule = self._rule_states.rule(name)
        assert rule is not None
        now = self._clock.now()
        for service in self._about(rule):
            for trigger in self._rule_states.triggers(rule, service, now):
                self._triggers.consider_soon(trigger)

    async def _report(self, problems: list[str], asked: int) -> None:
        """Tell people after some failed polls in a row. A Prometheus that fails is a notice, never a trigger."""
        self.problem = problems[0] if problems else ""
        self.polled = self._clock.now()
        self._rule_states.hear_of_prometheus(self.polled, answers=len(problems) < asked)
        if len(problems) < asked:
            if self._failures >= self._borne:
                self._tell(facts.Notice("backend_unreachable", "Prometheus answers again", over=True))
            self._failures = 0
            return
        self._failures += 1
        if self._failures == self._borne:
            text = f"Prometheus did not answer {self._borne} polls in a row: {problems[0]}; nothing is judged by it"
            self._tell(facts.Notice("backend_unreachable", text))

    def _tell(self, notice: facts.Notice) -> None:
        self._triggers.run_soon(self._read_model.tell(notice))

    # -- after a restart ------------------------------------------------------------------------
    async def rebuild(self) -> None:
        """Go on with what was pending before the restart: nothing waits twice, and a known episode keeps its name."""
        now = self._clock.now()
        built = await asyncio.gather(*(self._rebuild(*asked, now) for asked in self._unbuilt))
        self._unbuilt = [asked for asked, done in zip(self._unbuilt, built, strict=True) if not done]

    async def _rebuild(self, rule: Rule, position: int, leaf: QueryWhen, now: datetime) -> bool:
        known = self._known(rule, now)
        if not can_be_replayed(leaf):
            return await self._begin_again(rule, position, leaf, known, now)
        back = max([gap(rule, self._every), *(now - since + self._every for since in known.values())])
        pace = max(self._every, back / _POINTS)
        of = {one for one in self._about(rule) if self._queries.is_asked(leaf, one, now) or one in known}
        found = await replay(self._queries.bases, rule, leaf, (now - back, now), pace, of) if of else {}
        if isinstance(found, str):
            return False
        for service, past in found.items():
            self._replay(rule, position, service, past, known.get(service), pace)
        return True

    async def _begin_again(
        self, rule: Rule, position: int, leaf: QueryWhen, known: Mapping[str, datetime], now: datetime
    ) -> bool:
        """Ask a test once, since it cannot be replayed, so that an episode that goes on keeps its name."""
        if not known:
            return True
        answers = await self._queries.ask([leaf])
        if any(answer.problem for answer in answers.values()):
            return False
        for service, seen in (await self._queries.observe(rule, leaf, answers, list(known), now)).items():
            self._rule_states.observe(rule, position, service, seen.verdict, seen.reason, now, seen=seen)
            if seen.verdict is Verdict.BAD:
                self._rule_states.begin_at(rule, position, service, known[service])
        return True

    def _known(self, rule: Rule, now: datetime) -> dict[str, datetime]:
        """The newest decided episode of each service under a rule, by when it began."""
        found: dict[str, datetime] = {}
        for service in self._about(rule):
            start = f"{rule.name}/{service}/"
            for episode in self._read_model.of(service).episodes:
                if episode.startswith(start):
                    since = datetime.fromisoformat(episode.removeprefix(start))
                    if now - since < _LONGEST_MEMORY:
                        found[service] = since
        return found

    def _replay(
        self, rule: Rule, position: int, service: str, past: Past, known: datetime | None, pace: timedelta
    ) -> None:
        goes_on = known is not None
        for at, seen in past:
            self._rule_states.observe(rule, position, service, seen.verdict, seen.reason, at, seen=seen)
            over = seen.verdict is Verdict.GOOD and self._rule_states.track(rule, position, service).since is None
            if known is not None and at >= known + pace and over:
                goes_on = False
        if goes_on and known is not None and self._rule_states.track(rule, position, service).since is not None:
            self._rule_states.begin_at(rule, position, service, known)
