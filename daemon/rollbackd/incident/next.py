"""What comes next in an incident. No I/O: the runner does what `next_step` names, and nothing else.

Order: brackets in, steps, gate, brackets out as each says, verification. A hold stops each of them; an abort ends the
steps and leaves the brackets; a failure keeps them and says so. Some brackets are entered while it asks, and left when
the question ends without a rollback.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from rollbackd.incident.approval import missing
from rollbackd.incident.life import Flight, Incident
from rollbackd.incident.spec import VerifySpec
from rollbackd.model import Outcome, Plan, Verdict
from rollbackd.syntax.units import format_duration, whole_seconds

ATTEMPTS = 5
"""How many attempts a step has when trying again may help."""
ADOPTIONS = 3
"""An incident is parked after so many processes took it over in the middle of one effect: the effect kills them."""
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Look at the layers, ask each for its plan and whether it is ready, ask the guards once more."""


@dataclass(frozen=True, slots=True)
class Rise:
    """The question is answered or its time is over; the layers, the trouble and the guards are looked at again."""

    why: str
    by_people: bool


@dataclass(frozen=True, slots=True)
class Start:
    """Write the intent of an effect into the journal; the effect is performed next."""

    what: str
    layer: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Perform:
    """Ask the layer how far the effect in flight is, and do the rest of it."""

    flight: Flight
    last: bool = False
    """It was cut off too often, or with its host: where the layer says that it was not done, a person is asked for."""


@dataclass(frozen=True, slots=True)
class LookAtGate:
    """One round of the gate checks."""


@dataclass(frozen=True, slots=True)
class Look:
    """One round of verification."""


@dataclass(frozen=True, slots=True)
class EndPlan:
    """The plan did not help, there is another."""

    name: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Close:
    """The incident ends."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Park:
    """The incident is handed to a person."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A hold stops the incident here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unpause:
    """The hold is lifted."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before then; a person's word or a hold may come earlier."""

    until: datetime | None


@dataclass(frozen=True, slots=True)
class Stop:
    """There is nothing left to do."""


Step = Rise | Prepare | Start | Perform | LookAtGate | Look | EndPlan | Close | Park | Pause | Unpause | Wait | Stop


def next_step(incident: Incident, verify: VerifySpec, held: str, now: datetime) -> Step:
    """The next step; `verify` is that of the plan that runs, `held` says what holds the service, empty for nothing."""
    if incident.outcome is not None:
        return _after_the_end(incident, held, now)
    if incident.waits and incident.flight is not None and not held:
        return _resume(incident.flight)
    if incident.denied and not incident.acted:
        reason = f": {incident.deny_reason}" if incident.deny_reason else ""
        return Close(Outcome.DECLINED, f"denied by {incident.denied}{reason}")
    if incident.waits:
        return _ask(incident, held, now)
    if held:
        return Wait(None) if incident.paused else Pause(held)
    if incident.paused:
        return Unpause()
    if incident.flight is not None:
        return _resume(incident.flight)
    if incident.aborted:
        return _abort(incident, now)
    if incident.superseded:
        return Close(Outcome.SUPERSEDED, f"somebody else changed {incident.superseded} meanwhile")
    if incident.parked:
        return Wait(None)
    if incident.plan is None:
        return Prepare()
    return _carry_out(incident, incident.plan, verify, now)


def _ask(incident: Incident, held: str, now: datetime) -> Step:
    """The next step of an incident that waits for people; under a hold every answer waits, and none is lost."""
    if incident.aborted:
        return _abort(incident, now)
    if incident.parked:
        return Wait(None)
    question = incident.decision.question
    people = ", ".join(dict.fromkeys(yes.actor for yes in incident.approvals))
    if question is None:
        return Park("it asks nothing: its question is missing")
    if not (more := missing(question, (yes.actor for yes in incident.approvals))):
        rise = Rise(f"approved by {people}", by_people=True)
    elif now < question.expires:
        step = _enter_asked(incident, question.expires, now)
        return step if isinstance(step, Wait) or not held else Wait(question.expires)
    else:
        asked = incident.asked or incident.opened
        length = format_duration(whole_seconds(question.expires - asked))
        why = f"only {people} said yes in {length}, not {more}" if people else f"nobody answered in {length}"
        rise = Rise(why, by_people=False)
    return Wait(None) if held else rise


def _enter_asked(incident: Incident, expires: datetime, now: datetime) -> Step:
    """The step that enters what is entered while it asks. What cannot be is tried again before the first step."""
    for layer in incident.enters_asked:
        if layer not in incident.entered:
            step = _effect(incident, "enter", layer, now)
            if isinstance(step, Wait) and step.until is not None:
                return Wait(min(step.until, expires))
            if not isinstance(step, Close):
                return step
    return Wait(expires)


def _resume(flight: Flight) -> Step:
    return Perform(flight, last=flight.adoptions >= ADOPTIONS or bool(flight.elsewhere))


def _after_the_end(incident: Incident, held: str, now: datetime) -> Step:
    """The next step after the end: brackets are left that need not stay any longer. A hold stops that, too."""
    if incident.flight is not None:
        return Wait(None) if held else _resume(incident.flight)
    leaves = leaving(incident)
    if not leaves:
        return Stop()
    step = _effect(incident, "leave", leaves[-1], now)
    if isinstance(step, Close):
        return Stop()
    return Wait(None) if held else step


def leaving(incident: Incident) -> tuple[str, ...]:
    """The brackets that are left after the end: all when a person wants it, or when nothing went back; else those that
    waited for a person to have looked.
    """
    if incident.leave_all or (incident.outcome is not None and not incident.acted):
        return incident.inside
    if not incident.acknowledged or incident.outcome is not Outcome.RECOVERED:
        return ()
    return tuple(layer for layer in incident.entered if incident.brackets.get(layer) == "acknowledged")


def _abort(incident: Incident, now: datetime) -> Step:
    by = f"by {incident.aborted}" + (f": {incident.abort_reason}" if incident.abort_reason else "")
    if incident.inside:
        layer = incident.inside[-1]
        step = _effect(incident, "leave", layer, now)
        if isinstance(step, Close):
            return Close(Outcome.ABORTED, f"{by}; {layer} could not be left: {step.reason}")
        return step
    return Close(Outcome.ABORTED, by)


def _carry_out(incident: Incident, plan: Plan, verify: VerifySpec, now: datetime) -> Step:
    for bracket in plan.brackets:
        if bracket.layer not in incident.entered and not incident.done:
            return _effect(incident, "enter", bracket.layer, now)
    for change in plan.steps:
        if change.layer not in incident.done:
            return _effect(incident, "apply", change.layer, now)
    if (leaving := _leave(incident, "steps", now)) is not None:
        return leaving
    begun = _verified_from(incident)
    if (gate := _gate(incident, verify, begun, now)) is not None:
        return gate
    if (verified := _verify(incident, verify, begun, now)) is not None:
        return verified
    if (leaving := _leave(incident, "verified", now)) is not None:
        return leaving
    return Close(Outcome.RECOVERED, _well(incident, verify))


def _well(incident: Incident, verify: VerifySpec) -> str:
    """The reason of a recovery; people must know where a feature was switched off for it."""
    said = f"{verify.passes} good rounds in a row"
    if not incident.unasked:
        return said
    switched = ", ".join(f"{layer} at {incident.present.releases[layer].name}" for layer in incident.fixed)
    return f"{said}, with {switched}; not asked again, since that is switched off: {', '.join(incident.unasked)}"


def _start(incident: Incident, what: str, layer: str) -> Start:
    return Start(what, layer, incident.attempts(what, layer) + 1)


def _effect(incident: Incident, what: str, layer: str, now: datetime) -> Step:
    """The step that begins an effect, begins it again when that may help, or gives up."""
    failure = incident.failure
    if failure is None or (failure.what, failure.layer) != (what, layer):
        return _start(incident, what, layer)
    if failure.permanent or failure.attempt >= ATTEMPTS:
        return Close(Outcome.FAILED, f"{what} {layer}: {failure.reason}")
    pause = min(FIRST_PAUSE * 2 ** (failure.attempt - 1), LONGEST_PAUSE)
    return _start(incident, what, layer) if _over(failure.at, pause, now) else Wait(failure.at + pause)


def _leave(incident: Incident, when: str, now: datetime) -> Step | None:
    """Brackets are left in the reverse order of entering, those of earlier plans too."""
    for layer in reversed(incident.entered):
        if incident.brackets.get(layer) == when:
            return _effect(incident, "leave", layer, now)
    return None


def _gate(incident: Incident, verify: VerifySpec, begun: datetime, now: datetime) -> Step | None:
    if verify.gate and incident.gate is not Verdict.GOOD:
        if incident.gated is None:
            return LookAtGate()
        if now >= _deadline(incident, verify, begun):
            return _not_well(incident, "the gate checks", verify)
        pause = min(verify.every, timedelta(seconds=5))
        return LookAtGate() if _over(incident.gated, pause, now) else Wait(incident.gated + pause)
    return _leave(incident, "gate", now)


def _verify(incident: Incident, verify: VerifySpec, begun: datetime, now: datetime) -> Step | None:
    if incident.rounds >= verify.passes:
        return None
    since, pause = _next_round(incident, verify, begun)
    if now >= _deadline(incident, verify, begun) and incident.looked is not None:
        return _not_well(incident, "verification", verify)
    return Look() if _over(since, pause, now) else Wait(since + pause)


def _next_round(incident: Incident, verify: VerifySpec, begun: datetime) -> tuple[datetime, timedelta]:
    """From when on the next round waits, and how long."""
    return (begun, verify.settle) if incident.looked is None else (incident.looked, verify.every)


def _deadline(incident: Incident, verify: VerifySpec, begun: datetime) -> datetime:
    """The deadline of gate and verification. It counts over restarts; a process that comes late has time to look."""
    late = incident.adopted + verify.every * verify.passes if incident.adopted is not None else begun
    return max(begun + verify.deadline, late)


def verification_times(incident: Incident, verify: VerifySpec) -> tuple[datetime, datetime] | None:
    """When the next round of verification is due, and its deadline; None while there is nothing to verify."""
    if incident.outcome is not None or not incident.carried_out:
        return None
    begun = _verified_from(incident)
    since, pause = _next_round(incident, verify, begun)
    return since + pause, _deadline(incident, verify, begun)


def _verified_from(incident: Incident) -> datetime:
    """From when gate and verification count their time."""
    return max(at for at in (incident.stepped, incident.resumed, incident.opened) if at is not None)


def _over(since: datetime, pause: timedelta, now: datetime) -> bool:
    """Whether a pause is over; also when the clock was set back, for the pause would last that much longer."""
    return now >= since + pause or now < since


def _not_well(incident: Incident, what: str, verify: VerifySpec) -> Step:
    limit = format_duration(verify.deadline)
    lagging = "; ".join(f"{result.name}: {result.reason}" for result in incident.results if result.lags)
    if incident.conclusive is not Verdict.BAD and not lagging:
        return Close(Outcome.UNVERIFIED, f"{what} did not reach a verdict in {limit}")
    if incident.tried + 1 < len(incident.plans):
        return EndPlan(incident.running, Outcome.INEFFECTIVE)
    seen = f": {lagging}" if lagging else ""
    return Close(Outcome.INEFFECTIVE, f"{what} still failed after {limit}{seen}")
