"""Rules put together: what its conditions say of a service becomes the rule's standing. No I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rollbackd.model import Alert, Event, Evidence, Verdict
from rollbackd.rules.events import EventRun, counting, young
from rollbackd.rules.matchers import Matcher, named
from rollbackd.rules.spec import AlertWhen, AllWhen, AnyWhen, CheckWhen, EventWhen, QueryWhen, Rule, When, parts_of
from rollbackd.rules.tracks import Standing, Track
from rollbackd.syntax.units import format_duration, shortened

_QUOTED = 1000
"""Characters of one label or annotation in evidence; a trigger keeps its labels whole."""
NO_EVIDENCE = frozenset({"DatasourceNoData", "DatasourceError"})
"""Grafana's own alerts, by name: its rule has no data, or could not be asked. They carry the labels of the rule."""
_SHOWN = 10
"""Events in evidence, the newest; the reason says how many there are."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What one condition of a rule says of a service, with what it saw."""

    standing: Standing
    since: datetime | None
    reason: str
    evidence: tuple[Evidence, ...] = ()
    labels: tuple[Mapping[str, str], ...] = ()
    """Of the alerts and the events that it rests on, the newest event first."""


def of_track(when: QueryWhen | CheckWhen, track: Track, at: datetime) -> Condition:
    """A query's or a check's condition."""
    source = " ".join(when.query.split()) if isinstance(when, QueryWhen) else f"check {when.check}"
    evidence = (Evidence(source, track.reason, threshold(when), at),) if track.met else ()
    return Condition(track.standing, track.since, track.reason, evidence)


def of_alerts(
    alerts: Sequence[tuple[Alert, datetime]],
    now: datetime,
    stale_after: timedelta | None,
    waits: timedelta = timedelta(),
) -> Condition:
    """An alert condition: `alerts` are those that match it and fire, with when they were heard of last.

    Bad until resolved; inconclusive when `stale_after` is given and passed without news. `waits` is how long the
    alerting rule was met before it fired.
    """
    if not alerts:
        return Condition(Standing.GOOD, None, "no such alert fires")
    alive = [alert for alert, seen in alerts if stale_after is None or now - seen <= stale_after]
    if not alive:
        return Condition(Standing.INCONCLUSIVE, None, "fired, but there is no news of it")
    since = min(alert.starts_at for alert in alive) - waits
    evidence = tuple(alert_evidence(alert, now) for alert in alive)
    return Condition(Standing.BAD, since, f"{len(alive)} firing", evidence, tuple(alert.labels for alert in alive))


def is_evidence(matchers: tuple[Matcher, ...], labels: Mapping[str, str]) -> bool:
    """Whether an alert that the matchers ask for says anything of a service, by itself or since they name it."""
    name = labels.get("alertname", "")
    return name not in NO_EVIDENCE or named(matchers, "alertname", name)


def of_events(when: EventWhen, run: EventRun | None, events: Sequence[Event], now: datetime) -> Condition:
    """An event condition: `events` of its name in the order of their times, and the run they were last seen in.

    Bad while the run goes on, pending while some count and they are not enough.
    """
    counted = young(when, counting(when, events), now)
    within = format_duration(when.within)
    if run is not None and now < run.until:
        evidence = tuple(event_evidence(when, event) for event in counted[-_SHOWN:])
        labels = tuple(event.labels for event in reversed(counted))
        return Condition(Standing.BAD, run.first.at, f"{len(counted)} within {within}", evidence, labels)
    if counted:
        return Condition(Standing.PENDING, counted[0].at, f"{len(counted)} of {when.times} within {within}")
    return Condition(Standing.GOOD, None, f"no such event within {within}")


def event_evidence(when: EventWhen, event: Event) -> Evidence:
    """What an event says, as text."""
    source = f"event {event.name} {{{_written(event.labels)}}}" if event.labels else f"event {event.name}"
    text = event.text or "reported"  # bounded when it came; cut again it would say that it was as long as the cut
    return Evidence(source, text, threshold(when), event.at, _short(event.url))


def alert_evidence(alert: Alert, at: datetime) -> Evidence:
    """What an alert says, as text."""
    said = alert.annotations.get("summary") or alert.annotations.get("description") or "firing"
    source = f"alert {_short(alert.labels.get('alertname', '?'))} {{{_written(alert.labels)}}}"
    return Evidence(source, _short(said), "", at, _short(alert.url))


def _written(labels: Mapping[str, str]) -> str:
    return ", ".join(f'{_short(name)}="{_short(value)}"' for name, value in sorted(labels.items()))


def _short(text: str) -> str:
    return shortened(text, _QUOTED)


def combine(rule: Rule, parts: Iterable[Condition]) -> Condition:
    """The rule's own standing of its conditions', one for each of its leaves."""
    return _combined(rule.when, iter(parts))


def _combined(when: When, leaves: Iterator[Condition]) -> Condition:
    if not isinstance(when, AllWhen | AnyWhen):
        return next(leaves)
    parts = [_nested(part, leaves) for part in parts_of(when)]
    if len(parts) == 1:
        return parts[0]
    reason = "; ".join(part.reason for part in parts)
    bad = [part for part in parts if part.standing is Standing.BAD]
    onsets = [part.since for part in bad if part.since is not None]
    standings = [part.standing for part in parts]
    standing = _mildest(standings) if isinstance(when, AllWhen) else worst(standings)
    if standing is not Standing.BAD:
        return Condition(standing, None, reason)
    evidence = tuple(evidence for part in bad for evidence in part.evidence)
    labels = tuple(labels for part in bad for labels in part.labels)
    since = max(onsets) if isinstance(when, AllWhen) else min(onsets)
    return Condition(standing, since, reason, evidence, labels)


def _nested(when: When, leaves: Iterator[Condition]) -> Condition:
    """A part of a group; what several conditions say is put in brackets."""
    found = _combined(when, leaves)
    return replace(found, reason=f"({found.reason})") if len(parts_of(when)) > 1 else found


def together(rule: Rule, verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """One verdict of those that were looked at, one for each of the rule's leaves; None where nothing was.

    Of `all` one that is good suffices, of `any` one that is bad.
    """
    return _together(rule.when, iter(verdicts))


def _together(when: When, leaves: Iterator[Verdict | None]) -> Verdict | None:
    if not isinstance(when, AllWhen | AnyWhen):
        return next(leaves)
    verdicts = {_together(part, leaves) for part in parts_of(when)}
    order = (Verdict.BAD, Verdict.INCONCLUSIVE, Verdict.GOOD)
    found = reversed(order) if isinstance(when, AllWhen) else order
    return next((one for one in found if one in verdicts), None)


def _mildest(standings: Sequence[Standing]) -> Standing:
    """Of conditions that must all be bad: one that is good decides, then one that is inconclusive."""
    return min(standings, key=list(Standing).index)


def worst(standings: Sequence[Standing]) -> Standing:
    """The worst of many; good when there are none."""
    return max(standings, key=list(Standing).index, default=Standing.GOOD)


def threshold(when: QueryWhen | CheckWhen | EventWhen) -> str:
    """`> 0.1 for 5m`, `3 failures in a row`, `2 times within 30m`; empty for an event of which one suffices."""
    if isinstance(when, EventWhen):
        return f"{when.times} times within {format_duration(when.within)}" if when.times > 1 else ""
    if isinstance(when, CheckWhen):
        return f"{when.failures} failures in a row"
    limit = when.limit
    if when.bad is not None:
        return f"{limit} in {when.bad.times} of {when.bad.of} polls"
    return f"{limit} for {format_duration(when.for_)}" if when.for_ else limit


def needing_news(rule: Rule) -> frozenset[int]:
    """The leaves that go stale without news: alerts anywhere inside an `all`."""
    found = _under(rule.when, inside=False)
    return frozenset(place for place, needs in enumerate(found) if needs)


def _under(when: When, *, inside: bool) -> Iterator[bool]:
    if not isinstance(when, AllWhen | AnyWhen):
        yield inside and isinstance(when, AlertWhen)
        return
    for part in parts_of(when):
        yield from _under(part, inside=inside or isinstance(when, AllWhen))
