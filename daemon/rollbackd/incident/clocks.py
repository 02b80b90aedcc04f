"""The clocks, targets and escalations of an incident that have come due, and the next time. No I/O.

Each comes due once: those in the incident's facts are past.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rollbackd.facts import ClockPassed, Escalated
from rollbackd.incident.life import Incident
from rollbackd.incident.outcomes import BAD_ENDS, MEANINGS
from rollbackd.model import Priority
from rollbackd.policy.ledger import Rollback
from rollbackd.policy.spec import Clocks
from rollbackd.syntax.units import format_duration, whole_seconds

START = "start_within"
RECOVER = "recover_within"
RESPOND = "respond_within"
STEP_TARGET = "target:"
"""The name of the clock of a step's target begins with this; the layer's name follows."""
HOTFIX_TARGET = "hotfix_target"
RECOVERY_TARGET = "recovery_target"
STEP_SLACK = 1.5
"""A step that takes so many times its target is told."""
RECOVERY_SLACK = 2
AGAIN = timedelta(hours=1)
"""A second rollback of a service within this time escalates."""
HOTFIX = "hotfix"
"""The kind of announced change whose rollback has a target of its own."""
AT_ONCE = "it was opened"
"""The reason of an escalation to a first tier that does not wait."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things may take, as configured."""

    clocks: Mapping[Priority, Clocks]
    steps: Mapping[str, timedelta]
    """The target of a step, by its layer's adapter; an adapter that is not named has none."""
    hotfix: timedelta
    """The target of all steps together of a rollback that takes back a hotfix."""
    recovery: timedelta
    """The target from the first step to the end."""
    tiers: tuple[timedelta, ...] = ()
    """How long after the opening each tier of people is told, ascending."""


def due(
    incident: Incident, terms: Terms, earlier: Rollback | None, now: datetime
) -> tuple[ClockPassed | Escalated, ...]:
    """The facts, for one unit, of what has come due and is not in the incident's facts yet.

    `earlier` is the service's last rollback before this one that touched anything.
    """
    passed = tuple(clock for at, clock in _clocks(incident, terms) if at <= now)
    return (*passed, *_escalations(incident, terms, earlier, passed, now))


def next_due(incident: Incident, terms: Terms, now: datetime) -> datetime | None:
    """The time when something comes due next if nothing happens before; None: never."""
    times = [at for at, _ in _clocks(incident, terms)]
    if _escalates(incident):
        times += [incident.opened + after for after in terms.tiers[incident.tier + 1 :]]
    return min((at for at in times if at > now), default=None)


# -- clocks and targets ---------------------------------------------------------------------------
def _clocks(incident: Incident, terms: Terms) -> Iterator[tuple[datetime, ClockPassed]]:
    """The clocks that were not told yet and can still pass, or have passed unseen; each with its time."""
    found = (
        *_limits(incident, terms),
        *_steps(incident, terms),
        *_hotfix(incident, terms),
        *_recovery(incident, terms),
    )
    return ((at, clock) for at, clock in found if clock.clock not in incident.clocks)


def _limits(incident: Incident, terms: Terms) -> Iterator[tuple[datetime, ClockPassed]]:
    """The clocks of the present priority, from the opening on. Waiting for people counts; drills have none."""
    if incident.drill:
        return
    name = incident.service
    limit = incident.decision.start_within or terms.clocks[_to_start(incident)].start_within
    at = incident.opened + limit
    if _late(incident.begun, at, going_on=incident.outcome is None):
        waits = ", it waits for people" if incident.waits else ""
        text = f"the rollback of {name} did not start within {format_duration(limit)}{waits}"
        yield at, ClockPassed(START, limit, text)
    limit = terms.clocks[incident.priority].recover_within
    at = incident.opened + limit
    if _late(incident.closed, at, going_on=True) and (incident.acted or incident.outcome is None):
        text = f"{name} did not recover within {format_duration(limit)}"
        yield at, ClockPassed(RECOVER, limit, text)
    within = terms.clocks[incident.priority].respond_within
    if within is not None and _late(incident.responded, incident.opened + within, going_on=_needs_somebody(incident)):
        text = f"nobody responded to the trouble of {name} within {format_duration(within)}"
        yield incident.opened + within, ClockPassed(RESPOND, within, text)


def _needs_somebody(incident: Incident) -> bool:
    return incident.outcome is None or incident.outcome in BAD_ENDS


def _to_start(incident: Incident) -> Priority:
    """The priority by which the start is late: trouble that came after the first step does not count."""
    if incident.begun is None:
        return incident.priority
    first, begun = incident.decision.trigger, incident.begun
    return min((first.priority, *(one.priority for one in incident.joined if one.reached <= begun)))


def _steps(incident: Incident, terms: Terms) -> Iterator[tuple[datetime, ClockPassed]]:
    for layer, length in incident.took.items():
        target = _target(incident, layer, terms)
        if target is not None and length > target * STEP_SLACK:
            text = f"the step of {layer} took {_shown(length)}; its target is {format_duration(target)}"
            yield incident.opened, ClockPassed(STEP_TARGET + layer, target, text)
    for layer, since in incident.stepping.items() if _works(incident) else ():
        target = _target(incident, layer, terms)
        if target is not None:
            over = target * STEP_SLACK
            text = f"the step of {layer} takes longer than {_shown(over)}; its target is {format_duration(target)}"
            yield since + over, ClockPassed(STEP_TARGET + layer, target, text)


def _hotfix(incident: Incident, terms: Terms) -> Iterator[tuple[datetime, ClockPassed]]:
    change = incident.decision.change
    if change is None or change.kind != HOTFIX or incident.drill:
        return
    spent, over = sum(incident.took.values(), timedelta()), terms.hotfix * STEP_SLACK
    target = format_duration(terms.hotfix)
    text = f"the steps back from a hotfix take longer than {_shown(over)}; their target is {target}"
    clock = ClockPassed(HOTFIX_TARGET, terms.hotfix, text)
    if spent > over:
        yield incident.opened, clock
    elif incident.stepping and _works(incident):
        yield min(incident.stepping.values()) + over - spent, clock


def _recovery(incident: Incident, terms: Terms) -> Iterator[tuple[datetime, ClockPassed]]:
    if incident.working is None:
        return
    over = terms.recovery * RECOVERY_SLACK
    at = incident.working + over
    target = format_duration(terms.recovery)
    text = f"the recovery of {incident.service} takes longer than {_shown(over)}; its target is {target}"
    if _late(incident.closed, at, going_on=_works(incident)):
        yield at, ClockPassed(RECOVERY_TARGET, terms.recovery, text)


def _late(ended: datetime | None, limit: datetime, *, going_on: bool) -> bool:
    """Whether something ended too late, or has not ended and still goes on."""
    return going_on if ended is None else ended > limit


def _works(incident: Incident) -> bool:
    """Whether the time that passes now is the incident's own, and not that of a hold or of a person who must look."""
    return incident.outcome is None and not incident.paused and not incident.parked


def _target(incident: Incident, layer: str, terms: Terms) -> timedelta | None:
    layers = incident.config.get("layers")
    settings = layers.get(layer) if isinstance(layers, Mapping) else None
    return terms.steps.get(settings.get("adapter", "")) if isinstance(settings, Mapping) else None


def _shown(length: timedelta) -> str:
    return format_duration(max(whole_seconds(length), timedelta(seconds=1)))


# -- people ---------------------------------------------------------------------------------------
def _escalates(incident: Incident) -> bool:
    """Whether more people are to hear of the incident: it is open or ended badly, and nobody has acknowledged it.

    A drill escalates only when it could not come back.
    """
    if incident.drill:
        return incident.drill == "back" and incident.outcome in BAD_ENDS and not incident.acknowledged
    return not incident.acknowledged and _needs_somebody(incident)


def _escalations(
    incident: Incident, terms: Terms, earlier: Rollback | None, passed: tuple[ClockPassed, ...], now: datetime
) -> Iterator[Escalated]:
    """Escalations to the tiers whose time has come, then to one more for each thing that makes it worse."""
    tier = incident.tier
    if not _escalates(incident):
        return
    while tier + 1 < len(terms.tiers) and now >= incident.opened + terms.tiers[tier + 1]:
        tier += 1
        after = terms.tiers[tier]
        yield Escalated(tier, f"nobody acknowledged it in {format_duration(after)}" if after else AT_ONCE)
    for why in _worse(incident, earlier, passed):
        if why not in incident.whys and tier + 1 < len(terms.tiers):
            tier += 1
            yield Escalated(tier, why)


def _worse(incident: Incident, earlier: Rollback | None, passed: tuple[ClockPassed, ...]) -> Iterator[str]:
    """Reasons to tell the next people without waiting; the same thing is always in the same words."""
    for clock in passed:
        if clock.clock in {START, RECOVER, RESPOND}:
            yield clock.text
    if earlier is not None and incident.begun is not None and incident.begun - _end(earlier) < AGAIN:
        limit = format_duration(AGAIN)
        yield f"it is the second rollback of {incident.service} within {limit}, after {earlier.incident}"
    if incident.outcome in BAD_ENDS:
        yield MEANINGS[incident.outcome].amiss
    elif incident.parked:
        yield "it needs a person to go on"


def _end(rollback: Rollback) -> datetime:
    return rollback.ended or rollback.opened
