"""What every rule says of every service right now. Values in, triggers out; no I/O, memory rebuilt at a start."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from heapq import nlargest

from rollbackd.config.models import Config, Service
from rollbackd.model import Alert, Event, Outcome, Trigger, Verdict
from rollbackd.policy.changes import newest_begins
from rollbackd.policy.ledger import ServiceLedger, Spell
from rollbackd.rules.conditions import (
    NO_EVIDENCE,
    Condition,
    combine,
    is_evidence,
    needing_news,
    of_alerts,
    of_track,
    worst,
)
from rollbackd.rules.conditions import alert_evidence as evidence_of
from rollbackd.rules.matchers import all_match, parse_matchers
from rollbackd.rules.matching import ServiceIndex
from rollbackd.rules.reach import reach
from rollbackd.rules.samples import Observation
from rollbackd.rules.spec import AlertWhen, CheckWhen, EventWhen, Leaf, QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track, mixing, reaching_back, renewed, step, unproven
from rollbackd.rules.weight import components_of, impact_of, scope_of, users_of
from rollbackd.signals.reported_events import ReportedEvents

_ENDED = 10_000
_MOST = 250
"""Alerts of one service that a rule looks at; more say nothing more, and would be looked at again and again."""
_LATE = timedelta(minutes=5)
"""So long after its end another replica, or another try, may still say that an alert fires."""
_REPEATED = timedelta(hours=5)
"""Alertmanager repeats what fires every four hours (`repeat_interval`), if nobody set it otherwise."""
UNSURE = 5
"""Observations in a row that say nothing make a problem of the rule."""
_UNSEEN = Track()
_FEW = 20
_NO_DATA = Condition(Standing.INCONCLUSIVE, None, "Grafana has no data for it, or cannot ask its data source")
_LAGS = Condition(Standing.INCONCLUSIVE, None, "fires, and may lag behind: it can be of what the rollback left")
_LAG = timedelta(minutes=10)
"""How long an alert may fire for what was before, where no Prometheus says what it looks back over."""
_TAKES_EFFECT = timedelta(minutes=5)
"""So long what somebody deployed against trouble may take until it helps."""
_GROUP_INTERVAL = timedelta(minutes=5)
"""Alertmanager tells that an alert has ended with the next notification of its group, by default so often."""
_UNASKED = Condition(Standing.GOOD, None, "asked only after a change")
_NOT_KNOWN = Condition(Standing.INCONCLUSIVE, None, "not asked now")
_UNHEARD = Condition(Standing.INCONCLUSIVE, None, "no such alert fires, and Prometheus was away, which says so")
_BELIEVED = timedelta(minutes=2)
"""Prometheus sends what fires each minute, and Alertmanager believes it for four: after so long it may have dropped it.
"""
_SETTLES = timedelta(minutes=5)
"""So long after Prometheus was away it has said again what fires."""
_OBSERVED = (QueryWhen, CheckWhen)
Entry = tuple[Alert, datetime]
"""An alert that fires, and when it was heard of last."""
Place = tuple[str, int, str]
"""Rule, position of the condition in it, service."""


@dataclass(frozen=True, slots=True)
class AlertSeen:
    """What a rule says of a service, for people."""

    rule: str
    standing: Standing
    reason: str
    since: datetime | None


class RuleStates:
    """The trackers of all rules at all services."""

    def __init__(self, config: Config, of: Callable[[str], ServiceLedger] = lambda _: ServiceLedger()) -> None:
        """:param of: a service's past."""
        self._of = of
        self._services: Mapping[str, Service] = {service.name: service for service in config.services}
        self._rules = config.rules
        self._by_name = {rule.name: rule for rule in config.rules}
        self._stale = config.limits.stale_after
        self._unrepeated = None if config.alertmanager is not None else _REPEATED
        """Without Alertmanager's own list nobody says that an alert ended while it was silenced or inhibited."""
        self._pace = config.prometheus.poll_every if config.prometheus is not None else timedelta()
        self._index = ServiceIndex((one.name, match) for one in config.services for match in one.match)
        self._tracks: dict[Place, Track] = {}
        self._alerts: dict[str, dict[str, Entry]] = {}
        self._asked_of: dict[tuple[str, str], dict[str, Entry]] = {}
        """Of those the ones that an `alert:` asks for, by service and expression: of a storm none is matched twice."""
        self._ended: dict[str, tuple[datetime, datetime]] = {}
        """The last alerts that were resolved: when the newest episode of each began, and when its end was heard."""
        self._runs: dict[tuple[str, str], datetime] = {}
        """When the present run of trouble of a composed rule began, so that its episode keeps its name."""
        leaves = [(rule, position, leaf) for rule in config.rules for position, leaf in enumerate(rule.leaves)]
        self._asked = [(rule, parse_matchers(leaf.alert)) for rule, _, leaf in leaves if isinstance(leaf, AlertWhen)]
        self._expressions = tuple(dict.fromkeys(leaf.alert for _, _, leaf in leaves if isinstance(leaf, AlertWhen)))
        self._observed = [(one.name, position) for one, position, leaf in leaves if isinstance(leaf, _OBSERVED)]
        self._counted = [(one, position, leaf) for one, position, leaf in leaves if isinstance(leaf, EventWhen)]
        self._waiting = [leaf for _, _, leaf in leaves if isinstance(leaf, AlertWhen) and leaf.for_]
        self._needing_news = {rule.name: needing_news(rule) for rule in config.rules}
        self.events = ReportedEvents(config.rules, lambda name: of(name).undone)
        looks = config.daemon.look_every
        self._told_late = looks * 2 if config.alertmanager is not None else _GROUP_INTERVAL
        """How long after an alert has ended we may hear of it."""
        self.lags: Mapping[str, timedelta] = {}
        """How long each alert may fire for what was before, by its name: what it looks back over, and waits for."""
        self._changed: set[str] = set()
        """Services whose trouble may be another than `_troubles` says."""
        self._troubles = _Times()
        self._broken: set[Place] = set()
        """Conditions whose last observation had no answer that could be used."""
        self._quiet: set[Place] = set()
        """Conditions whose last observation said nothing for want of traffic alone."""
        self._unasked: set[Place] = set()
        """Conditions that are not asked now, on purpose."""
        self._answered: datetime | None = None
        """When Prometheus answered last, or was asked first."""
        self._away: tuple[datetime, datetime] | None = None
        """From when until when it was silent last, for so long that Alertmanager may have dropped what fires."""
        self._begun: dict[str, datetime] = {}
        """When the newest alert of each service began."""

    def rule(self, name: str) -> Rule | None:
        return self._by_name.get(name)

    def applies(self, rule: Rule, service: str) -> bool:
        return not rule.services or service in rule.services

    def service_of(self, labels: Mapping[str, str]) -> str | None:
        """The service that labels belong to; a rule for one service alone also places signals without labels."""
        return self._index.find(labels)

    def wanted(self, labels: Mapping[str, str]) -> str | None:
        """The service of an alert that some rule asks for; None when no rule does."""
        service = self._index.find(labels)
        for rule, matchers in self._asked:
            if all_match(matchers, labels):
                if service is not None and self.applies(rule, service):
                    return service
                if service is None and len(rule.services) == 1:
                    return rule.services[0]
        return None

    def placed(self, event: Event) -> tuple[str | None, str]:
        """The service of an event that some rule asks for, or None with the reason in a sentence."""
        asking = list(self.events.asking(event))
        if not asking:
            known = ", ".join(self.events.names[:_FEW]) or "none"
            return None, f"no rule asks for the event {event.name} with such labels; rules ask for: {known}"
        if event.service and event.service not in self._services:
            return None, f"{event.name}: there is no service {event.service} in the configuration"
        service = event.service or self._index.find(event.labels)
        if service is None:
            alone = next((rule.services[0] for rule in asking if len(rule.services) == 1), None)
            said = f"{event.name}: its labels are of no service; name one, or send the labels that its `match` has"
            return alone, "" if alone is not None else said
        if not any(self.applies(rule, service) for rule in asking):
            return None, f"{event.name}: the rules that ask for it are not for {service}"
        return service, ""

    def _began(self, rule: Rule, service: str) -> tuple[datetime | None, bool]:
        """When the state that runs began, None while it is the only one known; and whether that ended the trouble.

        A rollback that recovered did, for the rules that ask what still runs.
        """
        ledger = self._of(service)
        if len(ledger.spells) < 2:
            return None, False
        now, undone = ledger.spells[-1], ledger.undone
        stepped = undone.stepped if undone is not None and undone.incident == now.incident else None
        return stepped or now.by, stepped is not None and rule.name not in now.unasked

    def behind(self, trigger: Trigger) -> timedelta | None:
        """How long what the trigger's rule says may still be of an older state; None where trouble is only reported.

        That is what its conditions look back over and wait for.
        """
        rule = self._by_name.get(trigger.rule)
        if rule is None or trigger.request is not None or any(isinstance(leaf, EventWhen) for leaf in rule.leaves):
            return None
        return max(_TAKES_EFFECT, *(self._behind(leaf, trigger.labels) for leaf in rule.leaves))

    def _behind(self, leaf: Leaf, labels: Mapping[str, str]) -> timedelta:
        if isinstance(leaf, QueryWhen):
            return reach(leaf.query) + (self._pace * leaf.bad.of if leaf.bad is not None else leaf.for_)
        if isinstance(leaf, AlertWhen):
            return self._lag(leaf, labels) + self._told_late
        return leaf.every * leaf.failures if isinstance(leaf, CheckWhen) else timedelta()

    def _lag(self, leaf: AlertWhen, labels: Mapping[str, str]) -> timedelta:
        """How long an alert may fire for what was before."""
        return self.lags.get(labels.get("alertname", ""), max(leaf.for_, _LAG))

    # -- observations ---------------------------------------------------------------------------
    def hear(self, alert: Alert, service: str, seen: datetime, *, surely: bool = False) -> bool:
        """Take an alert, firing or resolved; `seen` is when it was heard of last.

        :param surely: it fires right now, and is no late word of it.
        :returns: false for a late word of what was resolved already: another replica's, or one that was tried again.
        """
        alerts = self._alerts.setdefault(service, {})
        ended, told = self._ended.get(alert.fingerprint, (alert.starts_at, None))
        if alert.firing and not surely and told is not None and alert.starts_at <= ended and seen - told <= _LATE:
            return False
        self._changed.add(service)
        if alert.firing:
            self._ended.pop(alert.fingerprint, None)
            alerts[alert.fingerprint] = (alert, seen)
            self._begun[service] = max(alert.starts_at, self._begun.get(service, alert.starts_at))
            self._sort_in(service, alert, seen)
            return True
        self._ended[alert.fingerprint] = (max(alert.starts_at, ended), seen)
        if len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]
        if alert.fingerprint in alerts and alerts[alert.fingerprint][0].starts_at <= alert.starts_at:
            del alerts[alert.fingerprint]
            self._sort_out(service, [alert.fingerprint])
        return True

    def _sort_in(self, service: str, alert: Alert, seen: datetime) -> None:
        for expression in self._expressions:
            asked = self._asked_of.setdefault((service, expression), {})
            if all_match(parse_matchers(expression), alert.labels):
                asked[alert.fingerprint] = (alert, seen)
            else:
                asked.pop(alert.fingerprint, None)

    def _sort_out(self, service: str, fingerprints: Sequence[str]) -> None:
        for expression in self._expressions:
            asked = self._asked_of.get((service, expression), {})
            for fingerprint in fingerprints:
                asked.pop(fingerprint, None)

    def with_alert(self, alert: Alert, service: str, now: datetime) -> "RuleStates":
        """A copy that has heard of one more alert, to try it out; this one has not, and stays as it is."""
        tried = copy(self)
        tried.part_with(service)
        tried.hear(alert, service, now, surely=True)
        return tried

    def part_with(self, service: str) -> None:
        """Share no alert of a service with the one that this is a copy of."""
        self._ended, self._runs, self._begun = dict(self._ended), dict(self._runs), dict(self._begun)
        self._alerts = {**self._alerts, service: dict(self._alerts.get(service, {}))}
        self._asked_of = {
            place: dict(found) if place[0] == service else found for place, found in self._asked_of.items()
        }

    def forget_alerts(self, gone: Callable[[str, datetime], bool]) -> None:
        """Forget alerts that fire no more, by their fingerprint and when they were heard of last."""
        self._changed |= self._alerts.keys()
        for service, alerts in self._alerts.items():
            over = [name for name, entry in alerts.items() if gone(name, entry[1])]
            for name in over:
                del alerts[name]
            self._sort_out(service, over)

    def report(self, event: Event, service: str, now: datetime) -> None:
        """An event, each once; `now` is when it came."""
        self._changed |= self.events.hear(event, service, now)

    def observe(
        self,
        rule: Rule,
        position: int,
        service: str,
        verdict: Verdict,
        reason: str,
        at: datetime,
        *,
        awaited: bool = False,
        broken: bool = False,
        seen: Observation | None = None,
    ) -> None:
        """Take one observation of a query or a check.

        :param awaited: it says nothing as the rule itself wants it.
        :param broken: it says nothing since the rule or the server is at fault.
        :param seen: what more a query has seen than that.
        """
        leaf = rule.leaves[position]
        assert isinstance(leaf, QueryWhen | CheckWhen)
        place = (rule.name, position, service)
        self._unasked.discard(place)
        known = self._tracks.get(place, _UNSEEN)
        before = self._of_present(rule, known, service, at)
        back = reach(leaf.query) if isinstance(leaf, QueryWhen) and not tells_apart(leaf) else timedelta()
        back = seen.back or back if seen is not None else back
        if verdict is not Verdict.INCONCLUSIVE and (why := reaching_back(before, back, at)):
            verdict, reason, awaited = Verdict.INCONCLUSIVE, why, True
        if seen is not None and seen.counted is not None and (why := mixing(before, back, at)):
            verdict, reason, awaited, seen = Verdict.INCONCLUSIVE, why, True, None
        after = unproven(before, step(before, leaf, verdict, reason, at, self._pace, seen), back, at)
        if awaited and after.unsure > before.unsure:
            after = replace(after, unsure=before.unsure)
        self._tracks[place] = after
        (self._broken.add if broken else self._broken.discard)(place)
        (self._quiet.add if seen is not None and seen.quiet else self._quiet.discard)(place)
        if known.since != after.since:
            self._changed.add(service)

    def _of_present(self, rule: Rule, track: Track, service: str, at: datetime) -> Track:
        """The track, begun anew if the service runs another state than when it was stepped last."""
        begun, left = self._began(rule, service)
        if begun is None or not track.begun != begun <= at:
            return track
        return renewed(track, begun, left=left or self._undone_meanwhile(rule, track, service))

    def _undone_meanwhile(self, rule: Rule, track: Track, service: str) -> bool:
        """Whether a run began before a rollback whose state does not run any more, since somebody deployed after it."""
        since, spells = track.since, self._of(service).spells[:-1]
        return since is not None and any(
            one.incident and one.by > since and rule.name not in one.unasked for one in reversed(spells)
        )

    def hear_of_prometheus(self, now: datetime, *, answers: bool) -> None:
        """Whether Prometheus answered a poll: while it is away, an alert that is gone has not ended."""
        if answers:
            self._answered = now
        elif self._answered is None or now - self._answered >= _BELIEVED:
            self._answered = self._answered or now
            self._away = (self._answered, now)

    def is_unheard(self, service: str, now: datetime) -> bool:
        """Whether nobody says what fires, so that an alert which is gone may go on.

        One that began while Prometheus was away is somebody else's, who is there.
        """
        if self._away is None or now - self._away[1] >= _SETTLES:
            return False
        begun = self._begun.get(service)
        return begun is None or begun <= self._away[0] + self._pace

    def alerts_of(self, rule: Rule, service: str) -> list[Mapping[str, str]]:
        """The labels of each alert that the rule asks for and that fires for the service."""
        asked = [leaf for leaf in rule.leaves if isinstance(leaf, AlertWhen)]
        return [alert.labels for leaf in asked for alert, _ in self._evident(leaf, service)]

    def track(self, rule: Rule, position: int, service: str) -> Track:
        return self._tracks.get((rule.name, position, service), _UNSEEN)

    def begin_at(self, rule: Rule, position: int, service: str, since: datetime) -> None:
        """Give the run that goes on the beginning that was known before a restart: its episode keeps its name.

        What a rollback ended goes on no more.
        """
        place = (rule.name, position, service)
        track = self._tracks[place]
        if track.clean is None or since >= track.clean:
            self._tracks[place] = replace(track, since=since)
            self._changed.add(service)

    def clear(self, rule: Rule, position: int, service: str) -> None:
        """Forget a condition that is not asked now, such as a check outside `after_change`."""
        self._changed.add(service)
        self._unasked.add((rule.name, position, service))
        self._tracks.pop((rule.name, position, service), None)

    # -- what follows ---------------------------------------------------------------------------
    def condition(self, rule: Rule, service: str, now: datetime) -> Condition:
        """What the rule says of the service."""
        return combine(
            rule, [self._leaf(rule, position, leaf, service, now) for position, leaf in enumerate(rule.leaves)]
        )

    def _leaf(self, rule: Rule, position: int, leaf: Leaf, service: str, now: datetime) -> Condition:
        if isinstance(leaf, AlertWhen):
            stale = self._stale if position in self._needing_news[rule.name] else self._unrepeated
            evident = self._evident(leaf, service)
            if not evident and self._asked_for(leaf, service):
                return _NO_DATA
            lasting = self._lasting(rule, leaf, service, evident, now)
            if evident and not lasting:
                return _LAGS
            if not evident and self.is_unheard(service, now):
                return _UNHEARD
            return of_alerts(lasting, now, stale, leaf.for_)
        if isinstance(leaf, EventWhen):
            if self.events.look_back(service, now):
                self._changed.add(service)
            return self.events.condition(rule, position, leaf, service, now)
        if (rule.name, position, service) in self._unasked:
            return _UNASKED
        return of_track(leaf, self.track(rule, position, service), now)

    def _asked_for(self, leaf: AlertWhen, service: str) -> list[Entry]:
        """Those that it asks for and that fire; of a storm those that were heard of last."""
        found = list(self._asked_of.get((service, leaf.alert), {}).values())
        return found if len(found) <= _MOST else nlargest(_MOST, found, key=lambda entry: entry[1])

    def _evident(self, leaf: AlertWhen, service: str) -> list[Entry]:
        """Those that it asks for and that are evidence."""
        matchers = parse_matchers(leaf.alert)
        return [entry for entry in self._asked_for(leaf, service) if is_evidence(matchers, entry[0].labels)]

    def triggers(self, rule: Rule, service: str, now: datetime) -> list[Trigger]:
        """The rule's triggers for the service, if it is met: for a plain alert rule one for each alert, else one."""
        if not self.applies(rule, service):
            return []
        leaf = rule.leaves[0]
        if rule.when is leaf and isinstance(leaf, AlertWhen):
            lasting = self._lasting(rule, leaf, service, self._evident(leaf, service), now)
            return [self._of_alert(rule, leaf, service, alert, now) for alert, _ in lasting]
        if rule.when is leaf and isinstance(leaf, _OBSERVED) and not self.track(rule, 0, service).met:
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
        if not isinstance(rule.when, EventWhen):
            return [self._trigger(rule, service, episode, since, now, condition)]
        labels = condition.labels[0] if condition.labels else None
        trigger = self._trigger(rule, service, episode, since, now, condition, labels)
        return [replace(trigger, met=max((one.at for one in condition.evidence), default=since))]

    def _of_alert(self, rule: Rule, leaf: AlertWhen, service: str, alert: Alert, now: datetime) -> Trigger:
        onset, met, episode = alert.starts_at - leaf.for_, alert.starts_at, self._episode(rule, leaf, service, alert)
        if (spell := self._outlived(rule, leaf, service, alert)) is not None:
            onset = met = max(met, spell.by)
        condition = Condition(Standing.BAD, onset, "firing", (evidence_of(alert, now),), (alert.labels,))
        return replace(self._trigger(rule, service, episode, onset, now, condition, alert.labels), met=met)

    def _episode(self, rule: Rule, leaf: AlertWhen, service: str, alert: Alert) -> str:
        """The name of the alert's episode; another one once it is charged to what runs after a rollback."""
        spell = self._outlived(rule, leaf, service, alert)
        return "/".join([rule.name, alert.episode, *([spell.incident] if spell is not None else [])])

    def _outlived(self, rule: Rule, leaf: AlertWhen, service: str, alert: Alert) -> Spell | None:
        """The state that a rollback led to, when the alert began before and the rollback recovered."""
        begun, left = self._began(rule, service)
        early = left and begun is not None and alert.starts_at - leaf.for_ < begun
        return self._of(service).spells[-1] if early else None

    def _lasting(
        self, rule: Rule, leaf: AlertWhen, service: str, alerts: Iterable[Entry], now: datetime
    ) -> list[Entry]:
        """Those that cannot fire any more for a state before the one that runs.

        That is what a rollback which recovered has left, and what was replaced before it was known to be good: an alert
        that began soon after such a change may be of either. One that began before it is decided on as it is.
        """
        begun, left = self._began(rule, service)
        if begun is None or not (left or self._was_doubtful(service)):
            return list(alerts)
        passed = now - begun - self._told_late
        return [
            (alert, seen)
            for alert, seen in alerts
            if passed >= (lag := self._lag(leaf, alert.labels))
            or (not left and not begun <= alert.starts_at - leaf.for_ < begun + lag)
        ]

    def _was_doubtful(self, service: str) -> bool:
        """Whether somebody changed again what had been changed, before that was known to be good or well.

        Layers that change one after the other, such as a schema and then its code, are one deployment.
        """
        ledger = self._of(service)
        place = newest_begins(ledger.spells)
        if not 2 <= place < len(ledger.spells):
            return False
        first, before, now = ledger.spells[place - 2], ledger.spells[place - 1], ledger.spells[-1]
        if before.state.key in ledger.good:
            return False
        again = {*now.state.differing(before.state)} & {*before.state.differing(first.state)}
        well = (one.incident == before.incident and one.outcome is Outcome.RECOVERED for one in ledger.rollbacks)
        return bool(again) and not any(well)

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
            impact=impact_of(rule.impact, condition.labels),
            scope=scope_of(rule.scope, condition.labels),
            components=components_of(rule.components, condition.labels),
            users=users_of(rule.users, condition.labels),
        )

    def all_triggers(self, service: str, now: datetime) -> list[Trigger]:
        """Every trigger of a service."""
        return [trigger for rule in self._rules for trigger in self.triggers(rule, service, now)]

    def goes_on(self, service: str, episode: str, now: datetime) -> bool:
        """Whether an episode is still met."""
        rule = self._by_name.get(episode.partition("/")[0])
        if rule is not None and isinstance(rule.when, AlertWhen):
            return self.applies(rule, service) and self._alert_goes_on(rule, rule.when, service, episode)
        found = self.triggers(rule, service, now) if rule is not None else []
        return any(trigger.episode == episode for trigger in found)

    def _is_met(self, rule: Rule, service: str, now: datetime) -> bool:
        if not isinstance(rule.when, AlertWhen):
            return bool(self.triggers(rule, service, now))
        matchers, asked = parse_matchers(rule.when.alert), self._asked_of.get((service, rule.when.alert), {})
        lasting = self._lasting(rule, rule.when, service, asked.values(), now)
        return self.applies(rule, service) and any(is_evidence(matchers, one.labels) for one, _ in lasting)

    def _alert_goes_on(self, rule: Rule, when: AlertWhen, service: str, episode: str) -> bool:
        """Found by its fingerprint, which the episode's name has: of a storm each is asked for by itself."""
        fingerprint = episode.removeprefix(f"{rule.name}/alert/").partition("/")[0]
        alert, _ = self._asked_of.get((service, when.alert), {}).get(fingerprint, (None, None))
        if alert is None or self._episode(rule, when, service, alert) != episode:
            return False
        return is_evidence(parse_matchers(when.alert), alert.labels)

    def over(self, service: str, episode: str, now: datetime) -> str:
        """Why an episode is known to have ended; empty while it may go on, or while nothing is known.

        A rule that is not asked now says nothing. A rule that is met again has ended the episode before.
        """
        name = episode.partition("/")[0]
        rule = self._by_name.get(name)
        if rule is None:
            return f"rule {name} is no longer in the configuration"
        if self.goes_on(service, episode, now):
            return ""
        if self._is_met(rule, service, now):
            return "it ended, and what is reported now is another trouble"
        return self.well(rule, service, now)

    def well(self, rule: Rule, service: str, now: datetime) -> str:
        """What says that no trouble of the rule goes on; empty while any does, or while nothing is known."""
        parts = (
            _NOT_KNOWN
            if (rule.name, position, service) in self._unasked
            else self._leaf(rule, position, leaf, service, now)
            for position, leaf in enumerate(rule.leaves)
        )
        found = combine(rule, parts)
        return found.reason if found.standing is Standing.GOOD else ""

    def triggers_of(self, alert: Alert, service: str, now: datetime) -> list[Trigger]:
        """The triggers that an alert makes, by itself or together with what was seen before."""
        found = []
        for rule in self._rules:
            if not any(isinstance(leaf, AlertWhen) and _fits(leaf, alert) for leaf in rule.leaves):
                continue
            if isinstance(rule.when, AlertWhen):
                if self.applies(rule, service) and self._lasting(rule, rule.when, service, [(alert, now)], now):
                    found.append(self._of_alert(rule, rule.when, service, alert, now))
            else:
                found += self.triggers(rule, service, now)
        return found

    def triggers_of_event(self, event: Event, service: str, at: datetime) -> list[Trigger]:
        """What an event that came then, together with what was seen before, meets."""
        return [trigger for rule in self.events.asking(event) for trigger in self.triggers(rule, service, at)]

    def seen(self, service: str, now: datetime) -> list[AlertSeen]:
        """What each rule says of a service."""
        found = []
        for rule in self._rules:
            if self.applies(rule, service):
                condition = self.condition(rule, service, now)
                reason = condition.reason
                track = self.track(rule, 0, service)
                if condition.standing is Standing.INCONCLUSIVE and len(rule.leaves) == 1 and track.unsure >= UNSURE:
                    reason = _long_unsure(track)
                found.append(AlertSeen(rule.name, condition.standing, reason, condition.since))
        return found

    def scores(self) -> Iterator[tuple[str, str, float]]:
        """Each rule that keeps a score of a service, the service, and which part of its threshold that is, 0 to 1."""
        for (name, position, service), track in self._tracks.items():
            leaf = self._by_name[name].leaves[position]
            if isinstance(leaf, QueryWhen) and leaf.score is not None and track.scored_at is not None:
                yield name, service, track.scored / leaf.score.threshold

    def unjudged(self, rule: Rule, times: int = UNSURE) -> dict[str, str]:
        """The services that a condition of the rule said nothing of so many times in a row, each with the reason."""
        tracks = (
            (name, self.track(rule, position, name))
            for name in rule.services or self._services
            for position in range(len(rule.leaves))
        )
        return {name: _long_unsure(track) for name, track in tracks if track.unsure >= times}

    def says_something(self, rule: Rule, service: str) -> bool:
        """Whether the last look at each condition of the rule said something of a service; none yet says nothing."""
        tracks = (self.track(rule, position, service) for position in range(len(rule.leaves)))
        return all(track.verdict is not Verdict.INCONCLUSIVE for track in tracks)

    def all_unjudged(self) -> Iterator[tuple[str, str, str, bool]]:
        """Each rule that cannot be judged for a service, the service, the reason, and whether something is at fault."""
        for rule in self._rules:
            for service, reason in self.unjudged(rule).items():
                places = ((rule.name, position, service) for position in range(len(rule.leaves)))
                yield rule.name, service, reason, not self._broken.isdisjoint(places)

    def without_traffic(self, service: str, now: datetime) -> tuple[str, ...]:
        """The rules that say nothing of a service for want of traffic; none where another one says nothing, too."""
        found = []
        for rule in self._rules:
            if (
                not self.applies(rule, service)
                or self.condition(rule, service, now).standing is not Standing.INCONCLUSIVE
            ):
                continue
            silent = [
                (rule.name, position, service)
                for position, leaf in enumerate(rule.leaves)
                if self._leaf(rule, position, leaf, service, now).standing is Standing.INCONCLUSIVE
            ]
            if not self._quiet.issuperset(silent):
                return ()
            found.append(rule.name)
        return tuple(found)

    def standing(self, service: str, now: datetime) -> Standing:
        """The worst that any rule says of a service."""
        return worst([seen.standing for seen in self.seen(service, now)])

    def troubled(self) -> tuple[datetime, ...]:
        """Since when each service in trouble is, bad or pending; one entry for each service, sorted."""
        while self._changed:
            service = self._changed.pop()
            self._troubles.put(service, self.trouble_of(service))
        return self._troubles.sorted()

    def trouble_of(self, service: str) -> datetime | None:
        """The newest trouble of a service: an old warning must not hide that it shares a new, common one."""
        tracks = [self._tracks.get((rule, position, service), _UNSEEN).since for rule, position in self._observed]
        alerts = [self._onset(alert) for alert, _ in self._alerts.get(service, {}).values() if self._is_evidence(alert)]
        events = [self.events.since(*counted, service) for counted in self._counted]
        return max((since for since in (*tracks, *alerts, *events) if since is not None), default=None)

    def _is_evidence(self, alert: Alert) -> bool:
        """Whether it says anything for some rule; asked of a storm of alerts."""
        if alert.labels.get("alertname") not in NO_EVIDENCE:
            return True
        return any(all_match(asked, alert.labels) and is_evidence(asked, alert.labels) for _, asked in self._asked)

    def _onset(self, alert: Alert) -> datetime:
        """The onset as the alert's triggers have it: the guard against common causes must compare like with like."""
        if not self._waiting:
            return alert.starts_at
        return alert.starts_at - max((leaf.for_ for leaf in self._waiting if _fits(leaf, alert)), default=timedelta())

    def firing(self, rule: Rule, service: str) -> list[datetime | None]:
        """For each condition of the rule, when an alert that it asks for was heard of last; None where none fires."""
        return [
            max((seen for alert, seen in self._evident(leaf, service)), default=None)
            if isinstance(leaf, AlertWhen)
            else None
            for leaf in rule.leaves
        ]

    def spread(self, labels: Sequence[Mapping[str, str]], rule: Rule) -> list[str | None]:
        """The service of each series of an answer; series without labels belong to the one service of the rule."""
        alone = rule.services[0] if len(rule.services) == 1 else None
        return [alone if alone is not None and not one else self._index.find(one) for one in labels]


class _Times:
    """One time for each service, in order as they change: a storm of alerts asks for all of them again and again."""

    def __init__(self) -> None:
        self._by_service: dict[str, datetime] = {}
        self._ordered: list[datetime] = []
        self._given: tuple[datetime, ...] | None = ()

    def put(self, service: str, time: datetime | None) -> None:
        """Set the service's time; None takes it away."""
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
        """All of the times, oldest first."""
        if self._given is None:
            self._given = tuple(self._ordered)
        return self._given


def _long_unsure(track: Track) -> str:
    return f"{track.reason} ({track.unsure} times in a row)"


def _fits(leaf: AlertWhen, alert: Alert) -> bool:
    matchers = parse_matchers(leaf.alert)
    return all_match(matchers, alert.labels) and is_evidence(matchers, alert.labels)


def tells_apart(leaf: QueryWhen) -> bool:
    """Whether what it counts is never mixed with what ran before, however far it looks back."""
    return leaf.score is not None and bool(leaf.by_label)


def gap(rule: Rule, poll_every: timedelta) -> timedelta:
    """How far back a restart must look to rebuild what is pending."""
    longest = poll_every * 2
    for leaf in rule.leaves:
        if isinstance(leaf, QueryWhen):
            counted = poll_every * leaf.bad.of if leaf.bad is not None else timedelta()
            lasting = leaf.score.lasting * 4 if leaf.score is not None else leaf.for_ * 2
            longest = max(longest, lasting + poll_every, counted + poll_every)
    return longest
