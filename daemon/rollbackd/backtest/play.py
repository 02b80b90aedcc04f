"""A play of the past: the real rules, guards and ledger in virtual time, from one poll that matters to the next."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from rollbackd import facts
from rollbackd.backtest.alerts import PastAlerts
from rollbackd.backtest.bake import PlayedBake, bakes
from rollbackd.backtest.clock import PlayClock
from rollbackd.backtest.conditions import PlayedCondition, feed
from rollbackd.backtest.history import History
from rollbackd.backtest.incidents import PlayedIncidents, forgotten_after
from rollbackd.backtest.layers import PlayedLayers
from rollbackd.backtest.past_prometheus import PastPrometheus
from rollbackd.backtest.recorded import BEFORE, RecordedChange
from rollbackd.config.models import Config
from rollbackd.decision.approvals import Approvals
from rollbackd.decision.blame import Blame
from rollbackd.decision.engine import DecisionEngine
from rollbackd.decision.situation import SituationReader
from rollbackd.facts import Record
from rollbackd.journal.contract import Entry, Journal
from rollbackd.journal.memory import MemoryJournal
from rollbackd.model import CheckResult, State, Traits, service_stream
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.rules.tracks import Standing
from rollbackd.signals.alert_expressions import lags
from rollbackd.signals.prometheus import Prometheus
from rollbackd.signals.query_conditions import QueryConditions
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.state_watcher import StateWatcher
from rollbackd.state.read_model import ReadModel
from rollbackd.syntax.units import format_duration
from rollbackd.system.clock import JumpWatch

_YOUNG = timedelta(hours=1)
_OFTEN = timedelta(minutes=1)
"""How often trouble that goes on is decided on again, until `_YOUNG` after its onset."""
_SELDOM = timedelta(minutes=5)
"""How often later, and how often a service is looked at that the play has rolled back."""


@dataclass
class _Service:
    """One service of a play."""

    name: str
    played: PlayedLayers
    recorded: State
    """What ran in the past."""
    changes: list[RecordedChange]
    """Those to come, the next one last."""
    conditions: list[PlayedCondition] = field(default_factory=list)
    unasked: set[tuple[str, int]] = field(default_factory=set)
    wakes: list[int] = field(default_factory=list)
    """Polls at which it must be looked at whatever its conditions say."""
    due: int = 0
    baking: PlayedBake | None = None
    silent: bool = False
    """Whether nothing was ever heard of it."""
    moved: bool = False
    """Whether something changed at the poll under way."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a play made of the past."""

    records: Sequence[Record]
    ungood: Mapping[str, str]
    """Services of which no state was ever good, each with what its rules say at the end."""


class Play:
    """One play of one configuration."""

    def __init__(
        self,
        config: Config,
        history: History,
        server: Prometheus,
        changes: Sequence[RecordedChange],
        traits: Mapping[str, Mapping[str, Traits]],
        answers: dict[object, Any] | None = None,
        *,
        every_poll: bool = False,
        say: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> None:
        """:param config: of `playable`. :param traits: of each service's layers.

        :param answers: what the server said to other plays.
        :param every_poll: skip none, which takes far longer and comes to the same.
        :param say: told how many chunks are played, of how many.
        """
        self._config = config
        self._history = history
        self._grid = grid = history.grid
        self._every_poll = every_poll
        self._say = say
        self._clock = clock = PlayClock(grid.at(grid.first))
        self._journal = MemoryJournal(clock)
        self._read_model = ReadModel(cast("Journal", self._journal))
        self._states = RuleStates(config, self._read_model.of)
        self._past = PastPrometheus(server, history, clock, {} if answers is None else answers)
        self._queries = QueryConditions(config, self._read_model, self._states, self._past)
        self._asked = [
            (rule, position, leaf)
            for rule in config.rules
            for position, leaf in enumerate(rule.leaves)
            if isinstance(leaf, QueryWhen) and leaf.against is not None
        ]
        """Conditions that compare, which are asked at each poll."""
        self._alerts = PastAlerts(config, history, self._states)
        self._services = {one.name: self._service(one.name, changes, traits[one.name]) for one in config.services}
        layers = {name: one.played.layers for name, one in self._services.items()}
        jumps = JumpWatch(clock)
        watcher = StateWatcher(self._read_model, layers, clock, config.daemon.look_every)
        situations = SituationReader(
            config, self._read_model, self._states, clock, jumps, _nothing_holds, layers, watcher,
            Blame(config, self._read_model, self._states, clock, self._past),
        )  # fmt: skip
        self._engine = DecisionEngine(
            config, self._read_model, self._states, clock, situations, _ignored, _ignored, _no_checks, _nothing_due
        )
        approvals = Approvals(config, self._read_model, self._states, clock, situations)
        self._incidents = PlayedIncidents(config, self._read_model, clock, approvals, layers)
        self._often, self._seldom = (max(1, length // grid.pace) for length in (_OFTEN, _SELDOM))

    def _service(self, name: str, changes: Sequence[RecordedChange], traits: Mapping[str, Traits]) -> _Service:
        own = [change for change in changes if change.service == name]
        begin = self._grid.at(self._grid.first)
        before = [change for change in own if change.at <= begin]
        first = State({layer: BEFORE for layer, one in traits.items() if one.releases})
        state = before[-1].state if before else first
        service = self._config.service(name)
        assert service is not None
        later = sorted((change for change in own if change.at > begin), key=lambda change: change.at, reverse=True)
        found = _Service(name, PlayedLayers(service, traits, state), state, later)
        for change in before:
            found.played.run(change.state)
        for rule in self._config.rules:
            if self._states.applies(rule, name):
                for position, leaf in enumerate(rule.leaves):
                    if isinstance(leaf, QueryWhen) and leaf.against is None:
                        found.conditions.append(PlayedCondition(rule, position, leaf, name))
        return found

    # -- the course of time ---------------------------------------------------------------------
    async def run(self) -> Played:
        """Play it all. :raises HistoryUnavailable: what was fetched is gone."""
        answer = await self._past.rules()
        self._states.lags = {} if answer.problem else await lags(answer)
        for one in self._services.values():
            begin = self._clock.now()
            heapq.heappush(one.wakes, self._grid.first)
            await self._write(one.name, facts.Changed(one.recorded, begin, begin))
        chunks = self._grid.chunks()
        for done, chunk in enumerate(chunks, 1):
            await self._play(chunk, self._grid.polls_of(chunk))
            self._say(done, len(chunks))
        return Played(tuple(self._journal.records), self._ungood())

    async def _play(self, chunk: int, polls: range) -> None:
        self._load(chunk, polls)
        heap: list[tuple[int, str]] = []
        for one in self._services.values():
            heapq.heappush(one.wakes, polls[-1])  # so that no condition reaches back over the end of what is loaded
            self._plan(one, polls[0], heap)
        order = {name: place for place, name in enumerate(self._services)}
        while heap and heap[0][0] < polls.stop:
            poll, due = heap[0][0], set()
            while heap and heap[0][0] == poll:
                name = heapq.heappop(heap)[1]
                if self._services[name].due == poll:
                    due.add(name)
            if not due:
                continue
            self._clock.set(self._grid.at(poll))
            services = [self._services[name] for name in sorted(due, key=order.__getitem__)]
            for one in services:
                await self._observe(one, poll)
            await self._ask([one for one in services if one.name not in self._incidents.left], poll)
            for one in services:
                await self._conclude(one, poll)
            for one in services:
                self._plan(one, poll + 1, heap)

    def _plan(self, one: _Service, poll: int, heap: list[tuple[int, str]]) -> None:
        """Find the next poll at which the service must be looked at."""
        while one.wakes and one.wakes[0] < poll:
            heapq.heappop(one.wakes)
        one.due = min(self._wanted(one, poll), default=poll + self._grid.chunk)
        heapq.heappush(heap, (one.due, one.name))

    def _wanted(self, one: _Service, poll: int) -> Iterator[int]:
        if one.wakes:
            yield one.wakes[0]
        if one.changes:
            yield max(poll, self._grid.poll(one.changes[-1].at))
        if (alert := self._alerts.next(one.name)) is not None:
            yield max(poll, alert)
        if one.name in self._incidents.left:
            left = self._incidents.left[one.name]
            if not left.ended:
                yield max(poll, self._grid.poll(left.ends))
            yield -(-poll // self._seldom) * self._seldom
            return
        if self._every_poll or self._incidents.asks(one.name) or self._any_asked(one, poll):
            yield poll
        for condition in one.conditions:
            yield condition.due(poll)
        if one.baking is None and bakes(self._read_model.of(one.name)) is not None:
            yield poll
        elif one.baking is not None and (done := one.baking.done(self._bake_time(one), self._grid.pace)) is not None:
            yield max(poll, done)

    def _any_asked(self, one: _Service, poll: int) -> bool:
        at = self._grid.at(poll)
        return any(
            self._states.applies(rule, one.name) and self._says_something(rule, position, leaf, one.name, at)
            for rule, position, leaf in self._asked
        )

    def _load(self, chunk: int, polls: range) -> None:
        """Have every condition take its own series of the next chunk."""
        owned: dict[tuple[str, tuple[str, ...]], dict[str, list[Any]]] = {}

        def series(rule: Rule, query: str, service: str) -> list[Any]:
            key = (query, rule.services)
            if key not in owned:
                shift = polls[0] - self._history.known[query].polls_of(chunk)[0]
                rows = self._history.rows(query, chunk)
                found: dict[str, list[Any]] = defaultdict(list)
                owners = self._queries.bases.owners(rule, [row.labels for row in rows])
                for row, owner in zip(rows, owners, strict=True):
                    if owner is not None:
                        found[owner].append(row.values[shift:] if shift else row.values)
                owned[key] = found
            return owned[key].get(service, [])

        for one in self._services.values():
            for condition in one.conditions:
                leaf = condition.leaf
                counted = series(condition.rule, leaf.counting, one.name) if leaf.counting else []
                condition.load(series(condition.rule, leaf.query, one.name), counted, polls)
        self._alerts.load(chunk, polls)

    # -- one poll -------------------------------------------------------------------------------
    async def _observe(self, one: _Service, poll: int) -> None:
        """What happened to the service until then, and what its conditions say."""
        one.moved = False
        while one.changes and self._grid.poll(one.changes[-1].at) <= poll:
            await self._change(one, one.changes.pop().state, poll)
        if one.name in self._incidents.left:
            await self._wait(one, poll)
        if one.name in self._incidents.left:
            return
        one.moved |= self._alerts.tell(one.name, poll, self._clock.now())
        for condition in one.conditions:
            one.moved |= condition.observe(self._states, self._grid, poll)

    async def _ask(self, services: Sequence[_Service], poll: int) -> None:
        """Ask the conditions that compare, each once for all of these services, as the polls of the daemon do."""
        now = self._clock.now()
        for rule, position, leaf in self._asked:
            place = (rule.name, position)
            wanted = [one for one in services if self._states.applies(rule, one.name)]
            names = []
            for one in wanted:
                if self._says_something(rule, position, leaf, one.name, now):
                    names.append(one.name)
                elif place not in one.unasked:
                    one.unasked.add(place)
                    self._states.clear(rule, position, one.name)
            found = (
                await self._queries.observe(rule, leaf, await self._queries.ask([leaf]), names, now) if names else {}
            )
            for one in wanted:
                if (seen := found.get(one.name)) is not None:
                    one.unasked.discard(place)
                    before = self._states.track(rule, position, one.name)
                    feed(self._states, rule, position, one.name, seen, self._grid, poll)
                    after = self._states.track(rule, position, one.name)
                    one.moved |= (before.since, before.met, before.verdict) != (after.since, after.met, after.verdict)

    def _says_something(self, rule: Rule, position: int, leaf: QueryWhen, service: str, at: datetime) -> bool:
        """Whether a condition that compares is asked: one with before a change only after a change."""
        going_on = self._states.track(rule, position, service).since is not None
        return going_on or self._queries.is_asked(leaf, service, at)

    async def _change(self, one: _Service, state: State, poll: int) -> None:
        """People change what the service runs: from here on the recording is of what the play runs, too."""
        one.recorded = state
        if one.name in self._incidents.left:
            await self._rejoin(one, poll)
        else:
            await self._run(one, poll)

    async def _run(self, one: _Service, poll: int) -> None:
        """Let the play run what was recorded."""
        one.moved = True
        one.played.run(one.recorded)
        present = self._read_model.of(one.name).present
        if present is None or present.key != one.recorded.key:
            await self._write(one.name, facts.Changed(one.recorded, self._grid.at(poll - 1), self._grid.at(poll)))

    async def _rejoin(self, one: _Service, poll: int) -> None:
        await self._incidents.end(one.name)
        del self._incidents.left[one.name]
        await self._run(one, poll)
        for condition in one.conditions:
            condition.begin(poll)
        self._alerts.tell_again(one.name, self._clock.now())

    async def _wait(self, one: _Service, poll: int) -> None:
        """Go on after a rollback of the play's: the recording is of what was left."""
        left = self._incidents.left[one.name]
        now = self._clock.now()
        if now >= left.ends:
            await self._incidents.end(one.name)
        self._alerts.skip(one.name, poll)
        lately = range(max(poll - self._seldom + 1, self._grid.polls_of(poll // self._grid.chunk)[0]), poll + 1)
        if self._alerts.fires(one.name) or any(condition.was_bad(lately) for condition in one.conditions):
            left.trouble = now
        elif now - left.trouble >= forgotten_after(self._config):
            await self._rejoin(one, poll)

    async def _conclude(self, one: _Service, poll: int) -> None:
        """What follows: good states, decisions, ends of questions."""
        if one.name in self._incidents.left:
            return
        now = self._clock.now()
        self._bake(one, poll, now)
        if one.baking is not None and one.baking.baked >= self._bake_time(one):
            await self._mark(one)
        if self._incidents.asks(one.name):
            await self._incidents.answer(one.name)
        triggers = self._states.all_triggers(one.name, now)
        if triggers:
            pace = self._often if any(now - trigger.onset < _YOUNG for trigger in triggers) else self._seldom
            heapq.heappush(one.wakes, (poll // pace + 1) * pace)
            if one.moved or poll % pace == 0:
                self._engine.think_again(one.name)
                await self._engine.idle()
        if self._incidents.acts(one.name):
            await self._roll_back(one)

    async def _roll_back(self, one: _Service) -> None:
        one.played.run(await self._incidents.roll_back(one.name))
        for rule in self._config.rules:
            if self._states.applies(rule, one.name):
                for position, leaf in enumerate(rule.leaves):
                    if isinstance(leaf, QueryWhen):
                        self._states.clear(rule, position, one.name)
                        one.unasked.add((rule.name, position))
        self._alerts.forget(one.name, self._clock.now())
        one.baking = None

    # -- bake time ------------------------------------------------------------------------------
    def _bake(self, one: _Service, poll: int, now: datetime) -> None:
        state = bakes(self._read_model.of(one.name))
        if state is None:
            one.baking = None
            return
        standing = self._states.standing(one.name, now)
        if one.baking is None or one.baking.key != state.key:
            one.baking = PlayedBake(state.key, poll, standing)
        else:
            one.baking.count(poll, standing, self._grid.pace)

    def _bake_time(self, one: _Service) -> timedelta:
        service = self._config.service(one.name)
        assert service is not None
        return service.bake

    async def _mark(self, one: _Service) -> None:
        state = self._read_model.of(one.name).present
        assert state is not None
        assert one.baking is not None
        if one.baking.standing is Standing.GOOD:
            why = f"ran {format_duration(self._bake_time(one))} without a trigger; its checks are not played"
            await self._write(one.name, facts.MarkedGood(state, why))
            one.baking = None

    def _ungood(self) -> dict[str, str]:
        found = {}
        for name in self._services:
            if not self._read_model.of(name).good:
                seen = self._states.seen(name, self._clock.now())
                unsure = [one for one in seen if one.standing is Standing.INCONCLUSIVE]
                said = "; ".join(f"{one.rule}: {one.reason}" for one in unsure) or "it did not run for the bake time"
                found[name] = said
        return found

    async def _write(self, service: str, fact: object) -> None:
        await self._read_model.append(Entry(service_stream(service), fact))


def _nothing_holds(service: str, labels: Mapping[str, str], *, silences: bool = True) -> tuple[str, ...]:
    """Nobody knows what was held then."""
    del service, labels, silences
    return ()


def _ignored(_incident: str) -> None:
    """The play itself drives incidents."""


async def _no_checks(_service: object) -> tuple[CheckResult, ...]:
    return ()


def _nothing_due(_service: str) -> tuple[()]:
    return ()
