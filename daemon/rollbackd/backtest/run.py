"""One backtest from its question to its account: configuration, changes, history, and plays of all settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from rollbackd.backtest import recorded
from rollbackd.backtest.cache import HistoryCache
from rollbackd.backtest.grid import Grid
from rollbackd.backtest.history import History, HistoryUnavailable
from rollbackd.backtest.play import Play
from rollbackd.backtest.playable import Playable, layers_with_releases, playable, traits_of
from rollbackd.backtest.recorded import ChangesUnreadable, MetricChanges, RecordedChange
from rollbackd.backtest.report import Account, account_of
from rollbackd.backtest.sweep import Sweep
from rollbackd.config.load import load
from rollbackd.config.models import Config
from rollbackd.config.secrets import reveal
from rollbackd.facts import Changed, kinds
from rollbackd.journal.contract import JournalRefused, JournalUnavailable
from rollbackd.journal.offline import records_of
from rollbackd.model import Traits
from rollbackd.rules.spec import Rule
from rollbackd.signals.prometheus import Prometheus, PrometheusReplicas
from rollbackd.signals.rule_state import RuleStates
from rollbackd.state.journal_access import access_of
from rollbackd.system.clock import Clock
from rollbackd.system.http_connection import connection_to, shown

_PATIENCE = timedelta(minutes=2)
"""How long one question about the past may take, unless the configuration gives more."""
_LONGEST = timedelta(days=400)
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_LARGEST_FILE = 64 * 2**20

Say = Callable[[str, int, int], None]
"""Told what is being done, and how far it is."""


class BacktestRefused(Exception):  # noqa: N818  # a sentence for a person
    """It cannot be played; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestQuestion:
    """What is to be played."""

    config: Path
    start: datetime
    end: datetime
    cache: Path
    service: str = ""
    """Whose account is wanted; empty: of all. All are played in any case, since guards look at the others, too."""
    changes: Path | None = None
    changes_query: str = ""
    release_label: str = ""
    """The label of that query's series that names the release; empty: their value does."""
    sweeps: tuple[Sweep, ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """A play with another setting."""

    setting: str
    value: str
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """All that came of it."""

    grid: Grid
    config: Config
    """As it was played."""
    source: str
    """Where the changes are from."""
    changes: tuple[RecordedChange, ...]
    account: Account
    variants: tuple[Variant, ...] = ()
    notes: tuple[str, ...] = ()
    history: History
    """What was measured, for plots."""
    unplayed: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> datetime:
        return self.grid.at(self.grid.first)

    def end(self) -> datetime:
        return self.grid.at(self.grid.end - 1)


async def backtest(question: BacktestQuestion, clock: Clock, say: Say) -> Backtest:
    """Fetch, play and compare.

    :raises ConfigErrors: BacktestRefused: ChangesUnreadable: HistoryUnavailable: CacheUnusable: each with what to do.
    """
    given = playable(load(question.config, look_for=None).config)
    config = given.config
    _refuse(question, config, given, clock)
    assert config.prometheus is not None
    variants = [(sweep, value, _varied(question, sweep, value)) for sweep in question.sweeps for value in sweep.values]
    traits = traits_of(config, clock)
    grid = Grid.over(question.start, question.end, config.prometheus.poll_every)
    cache = HistoryCache(question.cache)
    cache.prune(clock.now())
    patience = max(_PATIENCE, config.prometheus.timeout)
    server = _server(config, patience, clock)
    try:
        await _reach(server)
        history = History(server, shown(config.prometheus.addresses[0]), patience, cache, grid, clock)
        queries = dict(given.queries)
        for _, _, other in variants:
            queries |= {query: max(back, queries.get(query, back)) for query, back in other.queries.items()}
        if question.changes_query:
            queries |= {question.changes_query: queries.get(question.changes_query, timedelta())}
        await history.fetch(queries, partial(say, "fetching"))
        _refuse_silence(history, given)
        changes, source = _changes(question, config, traits, history)
        answers: dict[object, Any] = {}
        accounts = []
        for number, one in enumerate((given, *(other for _, _, other in variants)), 1):
            what = "playing" if not variants else f"playing {number} of {len(variants) + 1}"
            play = Play(one.config, history, server, changes, traits, answers, say=partial(say, what))
            account = account_of(await play.run(), changes, grid.at(grid.first), grid.at(grid.end - 1))
            accounts.append(account.of(question.service) if question.service else account)
        return Backtest(
            grid=grid,
            config=config,
            source=source,
            changes=tuple(changes),
            account=accounts[0],
            variants=tuple(
                Variant(sweep.setting, sweep.shown(value), account)
                for (sweep, value, _), account in zip(variants, accounts[1:], strict=True)
            ),
            notes=tuple(_notes(given, history, changes, question)),
            history=history,
            unplayed=given.unplayed,
        )
    finally:
        await server.close()


def _refuse(question: BacktestQuestion, config: Config, given: Playable, clock: Clock) -> None:
    if config.prometheus is None:
        raise BacktestRefused("no Prometheus is configured, so there is no history; write `prometheus: {url: …}`")
    if question.service and config.service(question.service) is None:
        known = ", ".join(service.name for service in config.services[:20])
        raise BacktestRefused(f"there is no service {question.service} in the configuration; there is: {known}")
    if not config.rules:
        why = "; ".join(f"{name}: {reason}" for name, reason in given.unplayed.items()) or "there are no rules"
        raise BacktestRefused(f"no rule can be played: {why}")
    if question.end - question.start > _LONGEST:
        raise BacktestRefused(f"from --from to --to are more than {_LONGEST.days} days; take less at once")
    if question.end - question.start < config.prometheus.poll_every:
        raise BacktestRefused("--from is not before --to; nothing lies between them")
    if question.start < _FIRST:
        raise BacktestRefused(f"--from is before {_FIRST:%Y}; give a time from which a Prometheus has data")
    if question.start >= clock.now():
        raise BacktestRefused("--from is in the future; give a time of the past")


def _refuse_silence(history: History, given: Playable) -> None:
    asked = given.queries
    if asked and history.silent >= asked.keys():
        begin, end = history.grid.at(history.grid.first), history.grid.at(history.grid.end - 1)
        span = f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        raise BacktestRefused(f"no data: none of the rules' {len(asked)} queries has a series from {span}; is it kept?")


def _varied(question: BacktestQuestion, sweep: Sweep, value: float) -> Playable:
    """The configuration with another value of a pack's setting, or of a rule's threshold."""
    loaded = load(question.config, look_for=None, settings={sweep.setting: sweep.written(value)})
    config = loaded.config
    if sweep.setting in loaded.settings:
        return playable(config)
    try:
        rules = tuple(sweep.moved(rule, value) if rule.name == sweep.setting else rule for rule in config.rules)
    except ValueError as error:
        raise BacktestRefused(f"--sweep {sweep.setting}: {error}") from error
    if not any(rule.name == sweep.setting and sweep.fits(rule) for rule in rules):
        known = ", ".join(sorted({*loaded.settings, *(rule.name for rule in rules if sweep.fits(rule))}))
        raise BacktestRefused(f"--sweep {sweep.setting}: no pack's setting and no rule's threshold; there is: {known}")
    return playable(config.model_copy(update={"rules": rules}))


def _server(config: Config, patience: timedelta, clock: Clock) -> Prometheus:
    asked = config.prometheus
    assert asked is not None
    connection = partial(connection_to, settings=asked, reveal=reveal)
    if len(asked.addresses) == 1:
        return Prometheus(asked.addresses[0], patience, clock, connection)
    return PrometheusReplicas(asked.addresses, patience, clock, connection)


async def _reach(server: Prometheus) -> None:
    answer = await server.instant("vector(1)")
    if answer.problem:
        raise HistoryUnavailable(answer.problem)


def _changes(
    question: BacktestQuestion, config: Config, traits: Mapping[str, Mapping[str, Traits]], history: History
) -> tuple[list[RecordedChange], str]:
    layers = layers_with_releases(traits)
    if question.changes is not None:
        return recorded.from_text(_text(question.changes), str(question.changes), layers), str(question.changes)
    if question.changes_query:
        return _from_metric(question, config, layers, history), f"the query {question.changes_query}"
    url = config.daemon.journal
    try:
        return recorded.from_records(
            records_of(url, kinds(Changed), access=access_of(config.daemon)), layers
        ), "the journal"
    except (JournalRefused, JournalUnavailable) as error:
        raise BacktestRefused(f"{error}; or say what was changed with --changes FILE or --changes-query") from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(_LARGEST_FILE + 1)
        if len(body) > _LARGEST_FILE:
            raise ChangesUnreadable(f"{path}: larger than {_LARGEST_FILE // 2**20} MiB; give the changes alone")
        return body.decode()
    except OSError as error:
        raise ChangesUnreadable(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ChangesUnreadable(f"{path}: is no UTF-8 text") from error


def _from_metric(
    question: BacktestQuestion, config: Config, layers: Mapping[str, Sequence[str]], history: History
) -> list[RecordedChange]:
    states, grid = RuleStates(config), history.grid
    found = MetricChanges(question.release_label, grid, layers)
    anybody = Rule.model_validate({"name": "changes", "when": {"query": question.changes_query, "above": 0}})
    for chunk in grid.chunks():
        rows = history.rows(question.changes_query, chunk)
        owners = states.spread([row.labels for row in rows], anybody)
        for service in dict.fromkeys(owner for owner in owners if owner is not None):
            own = [row for row, owner in zip(rows, owners, strict=True) if owner == service]
            found.take(service, own, grid.polls_of(chunk))
    return found.changes()


def _notes(
    given: Playable, history: History, changes: Sequence[RecordedChange], question: BacktestQuestion
) -> list[str]:
    notes = [f"rule {name} is not played: {why}" for name, why in given.unplayed.items()]
    notes += [
        f"no data: {' '.join(query.split())}" for query in sorted(history.silent) if query != question.changes_query
    ]
    if not changes:
        label = "; does the release stand in a label? name it with --release-label" if question.changes_query else ""
        notes.append(f"no change is known, so that none can be to blame: trouble only asks{label}")
    return notes
