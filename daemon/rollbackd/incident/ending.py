"""What the end of an incident means for the service and the fleet. No I/O."""

from datetime import datetime
from itertools import zip_longest

from rollbackd import facts
from rollbackd.incident.life import Incident
from rollbackd.incident.spec import VerifySpec
from rollbackd.model import FLEET, Outcome, State, Trigger, incident_stream, service_stream

Addressed = tuple[str, object]
"""A stream and a fact for it."""


def ending(incident: Incident, outcome: Outcome, reason: str, verify: VerifySpec, now: datetime) -> list[Addressed]:
    """The facts of an end, for one unit: the close, the budget's end, the state reached, its mark, the quarantine.

    A drill leaves no trace beside its own end, since it takes back what it moved.
    """
    stream = service_stream(incident.service)
    recovered = outcome is Outcome.RECOVERED
    manual = incident.decision.trigger.request is not None or incident.by_people
    watch = now + verify.watch if recovered and not incident.drill else None
    denied = bool(incident.denied) and outcome is Outcome.DECLINED
    stepped = incident.stepped if recovered else None
    unfinished, target = _unfinished(incident, outcome), incident.decision.target
    over = facts.Ended(
        incident.service, incident.id, outcome, incident.acted, watch, manual, denied, stepped,
        unfinished=unfinished, toward=target.key if unfinished and target is not None else "",
    )  # fmt: skip
    found: list[Addressed] = [(incident_stream(incident.id), facts.Closed(outcome, reason)), (FLEET, over)]
    if incident.drill or not incident.moved:
        return found
    if not incident.present.mixed:
        # Somebody's own change came after what was looked at last.
        seen = (incident.looked or incident.stepped) if outcome is Outcome.SUPERSEDED else None
        at = seen or now
        found.append((stream, facts.Changed(incident.present, at, at, incident.id, incident.fixed, incident.unasked)))
    if not recovered or target is None:
        return found
    if incident.present.key == target.key:
        found.append((stream, facts.MarkedGood(target, f"verified after {incident.id}")))
    left = {layer: behind for layer in incident.moved if (behind := _left_behind(incident, layer, target))}
    for ids in zip_longest(*left.values()):  # a layer whose parts differed leaves several
        releases = {layer: each for layer, each in zip(left, ids, strict=True) if each is not None}
        found.append((stream, facts.Quarantined(releases, f"left behind by {incident.id}")))
    return found


def _unfinished(incident: Incident, outcome: Outcome) -> tuple[str, ...]:
    """Layers whose steps were not finished. A drill that breaks off on its way there leaves none, since it returns."""
    begun = incident.done or incident.stepping
    broke_off = outcome in {Outcome.FAILED, Outcome.ABORTED} and incident.drill != "there"
    if not begun or not broke_off or incident.plan is None:
        return ()
    return tuple(step.layer for step in incident.plan.steps if step.layer not in incident.done)


def _left_behind(incident: Incident, layer: str, target: State) -> list[str]:
    """Releases that a layer left for the target's; a release that the plan fixes itself blames none of them.

    A lineage of data is not bad: what was written to it was, and every good state before had it as well.
    """
    now, before = incident.present.releases[layer], incident.moved[layer]
    if now != target.releases.get(layer) or layer in incident.data:
        return []
    return [each for each in dict.fromkeys([*dict(before.parts).values()] or [before.id]) if each != now.id]


def relapse(incident: Incident, trigger: Trigger, now: datetime) -> list[Addressed]:
    """The facts of trouble with the same state in the watch time: the rollback was ineffective after all."""
    manual = incident.decision.trigger.request is not None or incident.by_people
    return [
        (incident_stream(incident.id), facts.Relapsed(trigger)),
        (FLEET, facts.Ended(incident.service, incident.id, Outcome.INEFFECTIVE, incident.acted, now, manual)),
        (service_stream(incident.service), facts.MarkTaken(incident.present, f"in trouble again: {trigger.rule}")),
    ]
