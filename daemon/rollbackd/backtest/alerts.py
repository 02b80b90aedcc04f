"""The alerts of the past, as Prometheus's own series `ALERTS` has them. Each is heard as soon as it fires."""

import hashlib
from collections import defaultdict, deque
from datetime import datetime

from rollbackd.backtest.history import History
from rollbackd.config.models import Config
from rollbackd.model import Alert
from rollbackd.rules.matchers import parse_matchers, selector
from rollbackd.rules.spec import AlertWhen
from rollbackd.signals.query_answers import MISSING
from rollbackd.signals.rule_state import RuleStates

_OWN = frozenset({"__name__", "alertstate"})


def alert_queries(config: Config) -> list[str]:
    """What is asked of `ALERTS`, one for each condition; made of the rules' matchers alone."""
    leaves = (leaf for rule in config.rules for leaf in rule.leaves if isinstance(leaf, AlertWhen))
    return list(dict.fromkeys(selector("ALERTS", parse_matchers(leaf.alert), alertstate="firing") for leaf in leaves))


class PastAlerts:
    """When which alert begins and ends, told to the rules in virtual time."""

    def __init__(self, config: Config, history: History, states: RuleStates) -> None:
        self._queries = alert_queries(config)
        self._history = history
        self._states = states
        self._firing: dict[str, dict[str, Alert]] = defaultdict(dict)
        """By service and fingerprint, as of the poll that was told last."""
        self._open: dict[str, Alert] = {}
        """Those that go on at the end of what is loaded."""
        self._coming: dict[str, deque[tuple[int, Alert]]] = defaultdict(deque)
        """What begins and ends in what is loaded, by service, oldest first."""

    def load(self, chunk: int, polls: range) -> None:
        """Read the next chunk."""
        grid = self._history.grid
        found: list[tuple[int, str, Alert]] = []
        present: set[str] = set()
        for query in self._queries:
            shift = polls[0] - self._history.known[query].polls_of(chunk)[0]
            for row in self._history.rows(query, chunk):
                labels = {name: value for name, value in row.labels.items() if name not in _OWN}
                service = self._states.wanted(labels)
                name = hashlib.sha256(repr(sorted(labels.items())).encode()).hexdigest()[:16]
                if service is None or name in present:
                    continue
                present.add(name)
                alert = self._open.pop(name, None)
                for poll, value in zip(polls, row.values[shift:], strict=True):
                    if alert is None and value != MISSING:
                        alert = Alert(name, labels, {}, grid.at(poll), None)
                        found.append((poll, service, alert))
                    elif alert is not None and value == MISSING:
                        found.append((poll, service, _ended(alert, grid.at(poll))))
                        alert = None
                if alert is not None:
                    self._open[name] = alert
        for name in self._open.keys() - present:
            alert = self._open.pop(name)
            service = self._states.wanted(alert.labels)
            if service is not None:
                found.append((polls[0], service, _ended(alert, grid.at(polls[0]))))
        for poll, service, alert in sorted(found, key=lambda each: each[0]):
            self._coming[service].append((poll, alert))

    def next(self, service: str) -> int | None:
        """The poll at which one begins or ends next."""
        coming = self._coming.get(service)
        return coming[0][0] if coming else None

    def tell(self, service: str, poll: int, now: datetime) -> bool:
        """Let the rules hear what began and ended until then, and that the others go on; whether there was any."""
        news = self._take(service, poll)
        for alert in news:
            self._states.hear(alert, service, now, surely=True)
        for alert in self._firing[service].values():
            self._states.hear(alert, service, now, surely=True)
        return bool(news)

    def tell_again(self, service: str, now: datetime) -> None:
        """Let the rules hear of all that fire, after a time in which they heard nothing."""
        for alert in self._firing[service].values():
            self._states.hear(alert, service, now, surely=True)

    def skip(self, service: str, poll: int) -> None:
        """Pass over what began and ended until then."""
        self._take(service, poll)

    def fires(self, service: str) -> bool:
        return bool(self._firing[service])

    def forget(self, service: str, now: datetime) -> None:
        """Let the rules know of none any more: what fires is of a state that does not run in the play."""
        for alert in self._firing[service].values():
            self._states.hear(_ended(alert, now), service, now)

    def _take(self, service: str, poll: int) -> list[Alert]:
        coming, news = self._coming[service], []
        while coming and coming[0][0] <= poll:
            alert = coming.popleft()[1]
            news.append(alert)
            if alert.firing:
                self._firing[service][alert.fingerprint] = alert
            else:
                self._firing[service].pop(alert.fingerprint, None)
        return news


def _ended(alert: Alert, at: datetime) -> Alert:
    return Alert(alert.fingerprint, alert.labels, alert.annotations, alert.starts_at, at, alert.url)
