"""Rules put together: what its conditions say of a service becomes the rule's standing. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rollbackd.model import Alert, Evidence
from rollbackd.rules.spec import AlertWhen, AllWhen, CheckWhen, QueryWhen, Rule
from rollbackd.rules.tracks import Standing, Track
from rollbackd.units import format_duration

_QUOTED = 1000
"""Characters of one label or annotation in evidence; a trigger keeps its labels whole."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What one condition of a rule says of a service, with what it saw."""

    standing: Standing
    since: datetime | None
    reason: str
    evidence: tuple[Evidence, ...] = ()


def of_track(when: QueryWhen | CheckWhen, track: Track, at: datetime) -> Condition:
    """A query's or a check's condition."""
    source = " ".join(when.query.split()) if isinstance(when, QueryWhen) else f"check {when.check}"
    evidence = (Evidence(source, track.reason, threshold(when), at),) if track.met else ()
    return Condition(track.standing, track.since, track.reason, evidence)


def of_alerts(alerts: Sequence[tuple[Alert, datetime]], now: datetime, stale_after: timedelta | None) -> Condition:
    """An alert condition: `alerts` are those that match it and fire, with when they were heard of last.

    Bad until resolved; inconclusive when `stale_after` is given and passed without news.
    """
    if not alerts:
        return Condition(Standing.GOOD, None, "no such alert fires")
    alive = [alert for alert, seen in alerts if stale_after is None or now - seen <= stale_after]
    if not alive:
        return Condition(Standing.INCONCLUSIVE, None, "fired, but there is no news of it")
    since = min(alert.starts_at for alert in alive)
    return Condition(Standing.BAD, since, f"{len(alive)} firing", tuple(alert_evidence(alert, now) for alert in alive))


def alert_evidence(alert: Alert, at: datetime) -> Evidence:
    """What an alert says, as text."""
    labels = ", ".join(f'{_short(name)}="{_short(value)}"' for name, value in sorted(alert.labels.items()))
    said = alert.annotations.get("summary") or alert.annotations.get("description") or "firing"
    source = f"alert {_short(alert.labels.get('alertname', '?'))} {{{labels}}}"
    return Evidence(source, _short(said), "", at, _short(alert.url))


def _short(text: str) -> str:
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}… ({len(text)} characters)"


def combine(rule: Rule, parts: Sequence[Condition]) -> Condition:
    """The rule's own standing of its conditions' (design section 6: one level of `all` or `any`)."""
    if len(parts) == 1:
        return parts[0]
    reason = "; ".join(part.reason for part in parts)
    bad = [part for part in parts if part.standing is Standing.BAD]
    standings = [part.standing for part in parts]
    evidence = tuple(evidence for part in bad for evidence in part.evidence)
    onsets = [part.since for part in bad if part.since is not None]
    if isinstance(rule.when, AllWhen):
        if len(bad) == len(parts):
            return Condition(Standing.BAD, max(onsets), reason, evidence)
        return Condition(_mildest(standings), None, reason)
    if bad:
        return Condition(Standing.BAD, min(onsets), reason, evidence)
    return Condition(worst(standings), None, reason)


def _mildest(standings: Sequence[Standing]) -> Standing:
    """Of conditions that must all be bad: one that is good decides, then one that is inconclusive."""
    return min(standings, key=list(Standing).index)


def worst(standings: Sequence[Standing]) -> Standing:
    """The worst of many; good when there are none."""
    return max(standings, key=list(Standing).index, default=Standing.GOOD)


def threshold(when: QueryWhen | CheckWhen) -> str:
    """`> 0.1 for 5m`, `3 failures in a row`."""
    if isinstance(when, CheckWhen):
        return f"{when.failures} failures in a row"
    limit = f"> {when.above:g}" if when.above is not None else f"< {when.below:g}"
    if when.bad is not None:
        return f"{limit} in {when.bad.times} of {when.bad.of} polls"
    return f"{limit} for {format_duration(when.for_)}" if when.for_ else limit


def needs_news(rule: Rule) -> bool:
    """Whether an alert among its conditions goes stale without news: inside `all`."""
    return isinstance(rule.when, AllWhen) and any(isinstance(leaf, AlertWhen) for leaf in rule.leaves)
