"""What the end of an incident means for the service and the fleet. No I/O."""

from datetime import datetime

from rollbackd import facts
from rollbackd.incident.life import Incident
from rollbackd.incident.spec import VerifySpec
from rollbackd.model import FLEET, Outcome, State, Trigger, incident_stream, service_stream

Addressed = tuple[str, object]
"""A stream and a fact for it."""


def ending(incident: Incident, outcome: Outcome, reason: str, verify: VerifySpec, now: datetime) -> list[Addressed]:
    """All facts of the end, for one unit: the close, the budget's end, the state reached, its mark, the quarantine.

    A drill leaves no trace beside its own end: what it moved it takes back.
    """
    stream = service_stream(incident.service)
    recovered = outcome is Outcome.RECOVERED
    manual = incident.decision.trigger.request is not None or incident.by_people
    watch = now + verify.watch if recovered and not incident.drill else None
    denied = bool(incident.denied) and outcome is Outcome.DECLINED
    found: list[Addressed] = [
        (incident_stream(incident.id), facts.Closed(outcome, reason)),
        (FLEET, facts.Ended(incident.service, incident.id, outcome, incident.acted, watch, manual, denied)),
    ]
    if incident.drill or not incident.moved:
        return found
    found.append((stream, facts.Changed(incident.present, now, now, incident.id)))
    target = incident.decision.target
    if not recovered or target is None:
        return found
    if incident.present.key == target.key:
        found.append((stream, facts.MarkedGood(target, f"verified after {incident.id}")))
    left = {layer: release.id for layer, release in incident.moved.items() if _left_behind(incident, layer, target)}
    if left:
        found.append((stream, facts.Quarantined(left, f"left behind by {incident.id}")))
    return found


def _left_behind(incident: Incident, layer: str, target: State) -> bool:
    """Whether it is at the target's release and was at another; a plan's own preset blames nobody."""
    now = incident.present.releases[layer]
    return now == target.releases.get(layer) and now != incident.moved[layer]


def relapse(incident: Incident, trigger: Trigger, now: datetime) -> list[Addressed]:
    """Trouble of the same state in the watch time: ineffective after all."""
    manual = incident.decision.trigger.request is not None or incident.by_people
    return [
        (incident_stream(incident.id), facts.Relapsed(trigger)),
        (FLEET, facts.Ended(incident.service, incident.id, Outcome.INEFFECTIVE, incident.acted, now, manual)),
        (service_stream(incident.service), facts.MarkTaken(incident.present, f"in trouble again: {trigger.rule}")),
    ]
