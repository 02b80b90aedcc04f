"""What every rule says of every service right now. Values in, triggers out; no I/O, memory rebuilt at a start."""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rollbackd.config.models import Config, Service
from rollbackd.model import Alert, Trigger, Verdict
from rollbackd.rules.conditions import Condition, combine, needs_news, of_alerts, of_track, worst
from rollbackd.rules.conditions import alert_evidence as evidence_of
from rollbackd.rules.matchers import all_match, parse_matchers
from rollbackd.rules.matching import ServiceIndex
from rollbackd.rules.spec import AlertWhen, CheckWhen, QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track, step

_UNSEEN = Track()
_UNASKED = Condition(Standing.GOOD, None, "asked only after a change")
Place = tuple[str, int, str]
"""Rule, position of the condition in it, service."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule says of a service, for people."""

    rule: str
    standing: Standing
    reason: str
    since: datetime | None


class Live:
    """The trackers of all rules at all services."""

    def __init__(self, config: Config) -> None:
        self._services: Mapping[str, Service] = {service.name: service for service in config.services}
        self._rules = config.rules
        self._by_name = {rule.name: rule for rule in config.rules}
        self._stale = config.limits.stale_after
        self._pace = config.prometheus.poll_every if config.prometheus is not None else timedelta()
        self._index = ServiceIndex((one.name, match) for one in config.services for match in one.match)
        self._tracks: dict[Place, Track] = {}
        self._alerts: dict[str, dict[str, tuple[Alert, datetime]]] = {}
        self._runs: dict[tuple[str, str], datetime] = {}
        """When a composed rule's present run of bad began, so that its episode keeps its name."""
        self._asked = [
            (rule, parse_matchers(leaf.alert))
            for rule in config.rules
            for leaf in rule.leaves
            if isinstance(leaf, AlertWhen)
        ]
        self._observed = [
            (rule.name, position)
            for rule in config.rules
            for position, leaf in enumerate(rule.leaves)
            if not isinstance(leaf, AlertWhen)
        ]
        self._changed: set[str] = set()
        """Services whose trouble may be another than `_troubles` says."""
        self._troubles = _Times()
        self._unasked: set[Place] = set()
        """Conditions that are not asked now, on purpose."""

    def rule(self, name: str) -> Rule | None:
        return self._by_name.get(name)

    def applies(self, rule: Rule, service: str) -> bool:
        return not rule.services or service in rule.services

    def service_of(self, labels: Mapping[str, str]) -> str | None:
        """The service that labels belong to; a rule for one service alone also places signals without labels."""
        return self._index.find(labels)

    def wanted(self, labels: Mapping[str, str]) -> str | None:
        """The service of an alert that some rule asks for; None when nobody does."""
        service = self._index.find(labels)
        for rule, matchers in self._asked:
            if all_match(matchers, labels):
                if service is not None and self.applies(rule, service):
                    return service
                if service is None and len(rule.services) == 1:
                    return rule.services[0]
        return None

    # -- observations ---------------------------------------------------------------------------
    def hear(self, alert: Alert, service: str, seen: datetime) -> None:
        """An alert, firing or resolved; `seen` is when it was heard of last."""
        self._changed.add(service)
        alerts = self._alerts.setdefault(service, {})
        if alert.firing:
            alerts[alert.fingerprint] = (alert, seen)
        elif alert.fingerprint in alerts and alerts[alert.fingerprint][0].starts_at <= alert.starts_at:
            del alerts[alert.fingerprint]

    def forget_alerts(self, gone: Callable[[str, datetime], bool]) -> None:
        """Alerts that fire no more, by their fingerprint and when they were heard of last."""
        self._changed |= self._alerts.keys()
        for service, alerts in self._alerts.items():
            self._alerts[service] = {name: entry for name, entry in alerts.items() if not gone(name, entry[1])}

    def observe(self, rule: Rule, position: int, service: str, verdict: Verdict, reason: str, at: datetime) -> None:
        """One observation of a query or a check."""
        leaf = rule.leaves[position]
        assert isinstance(leaf, QueryWhen | CheckWhen)
        place = (rule.name, position, service)
        self._unasked.discard(place)
        before = self._tracks.get(place, _UNSEEN)
        after = self._tracks[place] = step(before, leaf, verdict, reason, at, self._pace)
        if before.since != after.since:
            self._changed.add(service)

    def track(self, rule: Rule, position: int, service: str) -> Track:
        return self._tracks.get((rule.name, position, service), _UNSEEN)

    def begin_at(self, rule: Rule, position: int, service: str, since: datetime) -> None:
        """The run that goes on is one that was known before a restart: it keeps its beginning, and so its name."""
        place = (rule.name, position, service)
        self._tracks[place] = replace(self._tracks[place], since=since)
        self._changed.add(service)

    def clear(self, rule: Rule, position: int, service: str) -> None:
        """The condition is not asked now: a check outside `after_change`."""
        self._changed.add(service)
        self._unasked.add((rule.name, position, service))
        self._tracks.pop((rule.name, position, service), None)

    # -- what follows ---------------------------------------------------------------------------
    def condition(self, rule: Rule, service: str, now: datetime) -> Condition:
        """What the rule says of the service."""
        stale = self._stale if needs_news(rule) else None
        parts = []
        for position, leaf in enumerate(rule.leaves):
            if isinstance(leaf, AlertWhen):
                parts.append(of_alerts(self._matching(leaf, service), now, stale))
            elif isinstance(leaf, CheckWhen) and leaf.after_change is not None:
                unasked = (rule.name, position, service) in self._unasked
                parts.append(_UNASKED if unasked else of_track(leaf, self.track(rule, position, service), now))
            else:
                parts.append(of_track(leaf, self.track(rule, position, service), now))
        return combine(rule, parts)

    def _matching(self, leaf: AlertWhen, service: str) -> list[tuple[Alert, datetime]]:
        matchers = parse_matchers(leaf.alert)
        return [entry for entry in self._alerts.get(service, {}).values() if all_match(matchers, entry[0].labels)]

    def triggers(self, rule: Rule, service: str, now: datetime) -> list[Trigger]:
        """The rule's triggers for the service, if it is met: one an alert for a plain alert rule, else one."""
        if not self.applies(rule, service):
            return []
        leaf = rule.leaves[0]
        if rule.when is leaf and isinstance(leaf, AlertWhen):
            return [self._of_alert(rule, service, alert, now) for alert, _ in self._matching(leaf, service)]
        if rule.when is leaf and not self.track(rule, 0, service).met:
            return []
        condition = self.condition(rule, service, now)
        if condition.standing is not Standing.BAD or condition.since is None:
            if condition.standing is not Standing.INCONCLUSIVE:  # knowing nothing ends no run
                self._runs.pop((rule.name, service), None)
            return []
        since = condition.since
        if rule.when is not leaf:
            since = self._runs.setdefault((rule.name, service), since)
        episode = f"{rule.name}/{service}/{since.isoformat()}"
        return [self._trigger(rule, service, episode, since, now, condition)]

    def _of_alert(self, rule: Rule, service: str, alert: Alert, now: datetime) -> Trigger:
        condition = Condition(Standing.BAD, alert.starts_at, "firing", (evidence_of(alert, now),))
        episode = f"{rule.name}/{alert.episode}"
        return self._trigger(rule, service, episode, alert.starts_at, now, condition, alert.labels)

    def _trigger(
        self,
        rule: Rule,
        service: str,
        episode: str,
        onset: datetime,
        now: datetime,
        condition: Condition,
        labels: Mapping[str, str] | None = None,
    ) -> Trigger:
        return Trigger(
            service=service,
            rule=rule.name,
            priority=rule.priority or self._services[service].priority,
            episode=episode,
            onset=onset,
            reached=now,
            evidence=condition.evidence,
            labels=labels or {},
            plan=rule.plan,
            without_change=rule.without_change,
        )

    def all_triggers(self, service: str, now: datetime) -> list[Trigger]:
        """Everything that is met for a service."""
        return [trigger for rule in self._rules for trigger in self.triggers(rule, service, now)]

    def goes_on(self, service: str, episode: str, now: datetime) -> bool:
        """Whether an episode is still met."""
        rule = self._by_name.get(episode.partition("/")[0])
        found = self.triggers(rule, service, now) if rule is not None else []
        return any(trigger.episode == episode for trigger in found)

    def triggers_of(self, alert: Alert, service: str, now: datetime) -> list[Trigger]:
        """What an alert by itself, or together with what was seen before, meets."""
        found = []
        for rule in self._rules:
            if not any(isinstance(leaf, AlertWhen) and _fits(leaf, alert) for leaf in rule.leaves):
                continue
            if isinstance(rule.when, AlertWhen):
                if self.applies(rule, service):
                    found.append(self._of_alert(rule, service, alert, now))
            else:
                found += self.triggers(rule, service, now)
        return found

    def seen(self, service: str, now: datetime) -> list[Seen]:
        """What each rule says of a service."""
        found = []
        for rule in self._rules:
            if self.applies(rule, service):
                condition = self.condition(rule, service, now)
                found.append(Seen(rule.name, condition.standing, condition.reason, condition.since))
        return found

    def standing(self, service: str, now: datetime) -> Standing:
        """The worst that any rule says of a service."""
        return worst([seen.standing for seen in self.seen(service, now)])

    def troubled(self) -> tuple[datetime, ...]:
        """Since when each service in trouble is, bad or pending; one entry a service, sorted."""
        while self._changed:
            service = self._changed.pop()
            self._troubles.put(service, self._trouble_of(service))
        return self._troubles.sorted()

    def _trouble_of(self, service: str) -> datetime | None:
        """The newest trouble of a service: an old warning does not hide that it shares a new, common one."""
        tracks = [self._tracks.get((rule, position, service), _UNSEEN).since for rule, position in self._observed]
        alerts = [alert.starts_at for alert, _ in self._alerts.get(service, {}).values()]
        return max((since for since in (*tracks, *alerts) if since is not None), default=None)

    def fires(self, rule: Rule, service: str) -> bool:
        """Whether an alert that the rule asks for fires for the service."""
        return any(self._matching(leaf, service) for leaf in rule.leaves if isinstance(leaf, AlertWhen))

    def spread(self, labels: Sequence[Mapping[str, str]], rule: Rule) -> list[str | None]:
        """The service of each series of an answer; without labels a rule for one service alone places them."""
        alone = rule.services[0] if len(rule.services) == 1 else None
        return [alone if alone is not None and not one else self._index.find(one) for one in labels]


class _Times:
    """One time a service, kept in order as they change: a storm of alerts asks for all of them again and again."""

    def __init__(self) -> None:
        self._by_service: dict[str, datetime] = {}
        self._ordered: list[datetime] = []
        self._given: tuple[datetime, ...] | None = ()

    def put(self, service: str, time: datetime | None) -> None:
        """The service's time from now on; None takes it away."""
        before = self._by_service.pop(service, None)
        if before != time:
            self._given = None
            if before is not None:
                del self._ordered[bisect_left(self._ordered, before)]
            if time is not None:
                insort(self._ordered, time)
        if time is not None:
            self._by_service[service] = time

    def sorted(self) -> tuple[datetime, ...]:
        """All of them, oldest first."""
        if self._given is None:
            self._given = tuple(self._ordered)
        return self._given


def _fits(leaf: AlertWhen, alert: Alert) -> bool:
    return all_match(parse_matchers(leaf.alert), alert.labels)


def gap(rule: Rule, poll_every: timedelta) -> timedelta:
    """How far back a restart must look to rebuild what is pending."""
    longest = poll_every * 2
    for leaf in rule.leaves:
        if isinstance(leaf, QueryWhen):
            counted = poll_every * leaf.bad.of if leaf.bad is not None else timedelta()
            longest = max(longest, leaf.for_ * 2 + poll_every, counted + poll_every)
    return longest
