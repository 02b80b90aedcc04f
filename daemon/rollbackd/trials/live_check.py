"""What a configuration names, asked for real: the journal's server, queries, Alertmanager, layers, receivers.

Nothing is written but a test to each receiver, and only where that is wanted.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from rollbackd.adapter import written_by
from rollbackd.checks.query import QuerySettings
from rollbackd.config.models import Config
from rollbackd.execution.layers import Layers
from rollbackd.journal import JournalRefused, JournalUnavailable
from rollbackd.journal.offline import look_at_server
from rollbackd.journal.place import is_postgres
from rollbackd.rules.matchers import Matcher, parse_matchers
from rollbackd.rules.spec import AlertWhen, QueryWhen, Rule
from rollbackd.signals.alertmanager_client import Alertmanager, Unreachable
from rollbackd.signals.alertmanager_routes import Routing
from rollbackd.signals.prometheus import Prometheus, QueryAnswer, RulesAnswer
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.journal_access import access_of
from rollbackd.syntax.units import Percentage
from rollbackd.system.clock import Clock
from rollbackd.trials.receiver_trial import ReceiverTrials
from rollbackd.views.shapes import LiveCheckView, ProbeView

OK, WRONG, NOTE = "ok", "wrong", "note"
_AT_ONCE = 8
_NAMED = 5
"""Names that a sentence lists."""


@dataclass(frozen=True, slots=True)
class _Query:
    """A query, and who asks it."""

    text: str
    rule: Rule | None
    asker: str
    share: bool
    """Whether its value is compared with a percentage, so that it cannot be above 1."""
    value: bool = True
    """False: it counts samples."""


class LiveCheck:
    """Asks; it keeps nothing, and stops nothing."""

    def __init__(
        self,
        config: Config,
        prometheus: Prometheus | None,
        alertmanager: Alertmanager | None,
        layers: Mapping[str, Layers],
        receivers: ReceiverTrials,
        rule_states: RuleStates,
        clock: Clock,
        asked_by: str,
    ) -> None:
        self._config = config
        self._prometheus = prometheus
        self._alertmanager = alertmanager
        self._layers = layers
        self._receivers = receivers
        self._rule_states = rule_states
        self._clock = clock
        self._asked_by = asked_by

    async def run(self, *, messages: bool, actor: str) -> LiveCheckView:
        """Ask everything; with `messages` also whether each receiver takes one."""
        parts = [self._journal(), self._queries(), self._alertmanager_and_routes(), self._all_layers()]
        if messages:
            parts.append(self._all_receivers(actor))
        found = [probe for probes in await asyncio.gather(*parts) for probe in probes]
        return LiveCheckView(all(one.result != WRONG for one in found), self._asked_by, tuple(found))

    async def _journal(self) -> list[ProbeView]:
        """A file is looked at by who opens it."""
        daemon = self._config.daemon
        if not is_postgres(daemon.journal):
            return []
        try:
            await asyncio.to_thread(look_at_server, daemon.journal, access_of(daemon))
        except (JournalRefused, JournalUnavailable) as error:
            return [ProbeView("journal", "PostgreSQL", WRONG, str(error))]
        return [ProbeView("journal", "PostgreSQL", OK, "it answers, and would be used")]

    # -- Prometheus -----------------------------------------------------------------------------
    async def _queries(self) -> list[ProbeView]:
        asked = list(_asked(self._config))
        if self._prometheus is None or not asked:
            return []
        texts = list(dict.fromkeys(one.text for one in asked))
        answers = dict(zip(texts, await asyncio.gather(*map(self._prometheus.instant, texts)), strict=True))
        return [probe for one in asked for probe in self._judged(one, answers[one.text])]

    def _judged(self, asked: _Query, answer: QueryAnswer) -> Iterator[ProbeView]:
        if answer.problem:
            yield ProbeView("query", asked.asker, WRONG, f"{answer.problem}; asked: {_short(asked.text)}")
            return
        if not answer.series:
            text = f"no series: it says nothing of any service; is the metric there? asked: {_short(asked.text)}"
            yield ProbeView("query", asked.asker, WRONG, text)
            return
        above = [one.value for one in answer.series if isfinite(one.value) and one.value > 1]
        if asked.share and above:
            text = f"a share above 1: {max(above):g}, which is compared with a percentage; divide the query by 100"
            yield ProbeView("query", asked.asker, WRONG, text)
            return
        yield self._spread(asked, answer)

    def _spread(self, asked: _Query, answer: QueryAnswer) -> ProbeView:
        """How many series each service has."""
        many = f"{len(answer.series)} series"
        if asked.rule is None:
            return ProbeView("query", asked.asker, OK, many)
        spread = self._rule_states.spread([one.labels for one in answer.series], asked.rule)
        counts = Counter(name for name in spread if name is not None)
        wanted = asked.rule.services or [service.name for service in self._config.services]
        without = [name for name in wanted if name not in counts]
        if not counts:
            text = f"{many}, and none is of a service: their labels fit no `match`; keep its labels in the query"
            return ProbeView("query", asked.asker, WRONG, text)
        said = ", ".join(f"{name}: {number}" for name, number in sorted(counts.items())[:_NAMED])
        if without:
            return ProbeView("query", asked.asker, NOTE, f"{said}; none of {_listed(without)}, nothing is said of them")
        return ProbeView("query", asked.asker, OK, said + (", …" if len(counts) > _NAMED else ""))

    # -- Alertmanager ---------------------------------------------------------------------------
    async def _alertmanager_and_routes(self) -> list[ProbeView]:
        if self._alertmanager is None:
            return []
        try:
            firing = await self._alertmanager.firing(self._clock.now())
            silences = await self._alertmanager.silences()
            routing = await self._alertmanager.routing()
        except Unreachable as error:
            return [ProbeView("alertmanager", "answers", WRONG, str(error))]
        said = f"{len(firing.alerts)} alerts, {len(silences)} silences"
        own = await self._prometheus.rules() if self._prometheus is not None else RulesAnswer()
        return [ProbeView("alertmanager", "answers", OK, said), *self._routes(routing, own)]

    def _routes(self, routing: Routing, own: RulesAnswer) -> Iterator[ProbeView]:
        ours = routing.posting_to(self._config.daemon.listen)
        if not ours and routing.hidden:
            names = _listed(sorted(routing.hidden))
            text = f"it hides where {names} post to; rollbackd test-alert LABELS --through shows whether an alert comes"
            yield ProbeView("route", "to us", NOTE, text)
            ours = routing.hidden
        elif not ours:
            text = f"no receiver of it posts to port {_port(self._config.daemon.listen)}, /api/v1/alerts; add one"
            yield ProbeView("route", "to us", WRONG, text)
            return
        else:
            yield ProbeView("route", "to us", OK, f"receiver {_listed(sorted(ours))}")
        for name in sorted(ours & routing.ends_unsent):
            text = f"receiver {name} has send_resolved: false: no end of an alert comes; take it away"
            yield ProbeView("route", name, WRONG, text)
        for rule in self._config.rules:
            yield from self._routed(rule, routing, ours, own)

    def _routed(self, rule: Rule, routing: Routing, ours: frozenset[str], own: RulesAnswer) -> Iterator[ProbeView]:
        """Whether the alerts that a rule asks for come to us, with the labels that are known of them."""
        for leaf in rule.leaves:
            if not isinstance(leaf, AlertWhen):
                continue
            for service in self._config.services:
                if not self._rule_states.applies(rule, service.name):
                    continue
                for labels in _alerts(parse_matchers(leaf.alert), service.match[0], own):
                    if not ours & (led := routing.receivers(labels)):
                        shown = ", ".join(f"{name}={value}" for name, value in labels.items())
                        text = (
                            f"{shown} goes to {_listed(sorted(led))} and not to us; route it to {_listed(sorted(ours))}"
                        )
                        yield ProbeView("route", rule.name, WRONG, text)

    # -- layers ---------------------------------------------------------------------------------
    async def _all_layers(self) -> list[ProbeView]:
        few = asyncio.Semaphore(_AT_ONCE)

        async def ask(layers: Layers) -> list[ProbeView]:
            async with few:
                return [*await self._readable(layers), *await asyncio.to_thread(_writable, layers)]

        return [probe for probes in await asyncio.gather(*map(ask, self._layers.values())) for probe in probes]

    async def _readable(self, layers: Layers) -> list[ProbeView]:
        problems = await layers.ready()
        wrong = {problem.layer for problem in problems}
        service = layers.service.name
        fine = [name for name in layers.adapters if name not in wrong]
        told = [ProbeView("layer", f"{service}/{one.layer}", WRONG, one.text) for one in problems]
        told += [ProbeView("layer", f"{service}/{one.layer}", NOTE, one.text) for one in await layers.unwatched(fine)]
        return [*(ProbeView("layer", f"{service}/{name}", OK, "answers, and can plan a way") for name in fine), *told]

    # -- receivers ------------------------------------------------------------------------------
    async def _all_receivers(self, actor: str) -> list[ProbeView]:
        found = await asyncio.gather(*(self._receivers.send(name, actor) for name in self._receivers.names))
        return [ProbeView("receiver", one.receiver, OK if one.taken else WRONG, one.text) for one in found]


def _asked(config: Config) -> Iterator[_Query]:
    """Every query of rules and checks."""
    for rule in config.rules:
        for leaf in rule.leaves:
            if isinstance(leaf, QueryWhen):
                share = isinstance(leaf.above, Percentage) or isinstance(leaf.below, Percentage)
                yield _Query(leaf.query, rule, f"rule {rule.name}", share)
                if leaf.counting:
                    yield _Query(leaf.counting, rule, f"rule {rule.name}, samples", share=False, value=False)
        if rule.users is not None and (query := getattr(rule.users, "query", "")):
            yield _Query(query, rule, f"rule {rule.name}, users", share=True)
    for service in config.services:
        for name, check in service.checks.items():
            if isinstance(check, QuerySettings):
                share = isinstance(check.above, Percentage) or isinstance(check.below, Percentage)
                yield _Query(check.query, None, f"check {name} of {service.name}", share)


def _alerts(asked: Sequence[Matcher], match: Mapping[str, str], own: RulesAnswer) -> Iterator[dict[str, str]]:
    """The labels of the alerts that a rule asks for: Prometheus's own rules that fit, else what the rule says."""
    known = [
        {**one.labels, **match, "alertname": one.name}
        for one in own.alerting
        if all(m.matches({**match, **one.labels, "alertname": one.name}) for m in asked)
    ]
    said = {one.name: one.value for one in asked if one.operator == "="}
    yield from known or [{**match, **said}]


def _writable(layers: Layers) -> list[ProbeView]:
    """Places that a layer writes to and that we may not write to: by rights, a read-only mount, or a sandbox."""
    return [
        ProbeView("layer", f"{layers.service.name}/{name}", WRONG, f"{path} cannot be written to; see rollbackd check")
        for name, adapter in layers.adapters.items()
        for path in written_by(adapter)
        if not _may_write(path)
    ]


def _may_write(path: Path) -> bool:
    """Whether it, or where it would be made, can be written to."""
    there = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
    return os.access(there, os.W_OK)


def _port(listen: str) -> str:
    return listen.rpartition(":")[2]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more or "nobody"


def _short(query: str) -> str:
    line = " ".join(query.split())
    return line if len(line) <= 120 else f"{line[:119]}…"
