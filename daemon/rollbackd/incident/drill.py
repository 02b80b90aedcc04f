"""The next step of an executed drill: the way there, the return, the result. No I/O.

Each way is an incident of its own. A change that somebody else made meanwhile is never taken back.
"""

from dataclasses import dataclass

from rollbackd.facts import AbortRequested
from rollbackd.incident.ending import Addressed
from rollbackd.incident.life import Incident
from rollbackd.incident.next import ATTEMPTS
from rollbackd.model import DAEMON, Outcome, State, Trigger, incident_stream
from rollbackd.policy.ledger import Rollback

READY, NOT_READY, INTERRUPTED = "ready", "not_ready", "interrupted"
"""The results of a drill; one that was interrupted says nothing about a rollback."""
_TELLING = frozenset({Outcome.FAILED, Outcome.INEFFECTIVE, Outcome.UNVERIFIED})
"""Ends of the way there that a real rollback would have had, too."""


@dataclass(frozen=True, slots=True)
class DrillWait:
    """One of its incidents is at work, or the layers cannot be told right now."""


@dataclass(frozen=True, slots=True)
class Return:
    """The layers go back to the state before the drill."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The service is back, and brackets that the way there entered are left now."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The service is back and in real trouble, so its rollback does not wait until the return is verified."""


@dataclass(frozen=True, slots=True)
class End:
    """The drill is over."""

    result: str
    problems: tuple[str, ...] = ()


Step = DrillWait | Return | Leave | Cut | End


def next_of_drill(there: Incident, back: Incident | None, present: State | None, *, trouble: bool = False) -> Step:
    """The next step of an executed drill.

    :param back: the return, once it was opened.
    :param trouble: a rule is bad for the service right now.
    :param present: what the layers run now; None: they are being changed, or cannot be looked at.
    """
    if there.outcome is None:
        return DrillWait()
    if back is not None:
        return _returned(there, back, trouble=trouble)
    if not there.acted:
        return _end(there)
    if there.outcome is Outcome.SUPERSEDED:
        return _left(there, there.reason)
    if present is None:
        return DrillWait()
    foreign = _foreign(there, present)
    if foreign:
        return _left(there, f"somebody else changed {', '.join(foreign)} meanwhile")
    if there.decision.present is not None and present.key == there.decision.present.key:
        return _leave(there) or _end(there)
    return Return()


def broken_off(running: Rollback | None, trigger: Trigger) -> list[Addressed]:
    """The facts by which real trouble ends a drill's way there; it is decided on when the drill has returned."""
    if running is None or running.drill != "there":
        return []
    return [(incident_stream(running.incident), AbortRequested(f"{trigger.rule} came during the drill"))]


def _returned(there: Incident, back: Incident, *, trouble: bool) -> Step:
    if back.outcome is None:
        return Cut() if trouble and not back.aborted and _stepped(back) else DrillWait()
    if back.outcome is Outcome.RECOVERED or (back.aborted == DAEMON and _stepped(back)):
        return _leave(there) or _end(there)
    text = f"it did not return: {back.id} ended {back.outcome.value} ({back.reason}); now {back.present.name} runs"
    lost = _shown(there) or back.outcome in _TELLING
    return End(NOT_READY if lost else INTERRUPTED, (*_shown(there), text))


def _stepped(back: Incident) -> bool:
    return back.plan is not None and back.flight is None and len(back.done) == len(back.plan.steps)


def _leave(there: Incident) -> Step | None:
    """The step that leaves what is still entered; None when nothing is, or leaving was given up."""
    if not there.entered:
        return None
    if not there.leave_all:
        return Leave()
    failure = there.failure
    given_up = failure is not None and failure.what == "leave" and (failure.permanent or failure.attempt >= ATTEMPTS)
    return None if given_up else DrillWait()


def _left(there: Incident, why: str) -> End:
    """The end of a drill that touches nothing more, since somebody else changed the layers meanwhile."""
    moved = f"; the drill had moved {', '.join(there.moved)}, and that stays" if there.moved else ""
    return End(INTERRUPTED, (f"{why}{moved}",))


def _end(there: Incident) -> End:
    """The end of a drill whose service is where it was."""
    entered = f"{', '.join(there.entered)} could not be left; `rollbackd ack {there.id} --leave` tries again"
    problems = (*_shown(there), *((entered,) if there.entered else ()))
    if there.outcome is Outcome.RECOVERED or there.outcome in _TELLING:
        return End(NOT_READY if problems else READY, problems)
    return End(INTERRUPTED, (f"{there.id} ended {there.outcome}: {there.reason}",))


def _shown(there: Incident) -> tuple[str, ...]:
    """The problems that a real rollback would have met, too."""
    if there.outcome not in _TELLING:
        return ()
    return (f"{there.id} ended {there.outcome}: {there.reason}",)


def _foreign(there: Incident, present: State) -> tuple[str, ...]:
    """Layers that run neither their release from before nor the one that the drill took them to.

    Whatever a failed step left behind is the drill's own.
    """
    before = there.decision.present
    failed = there.failure.layer if there.failure is not None else ""
    return tuple(
        layer
        for layer, release in present.releases.items()
        if layer != failed
        and release != there.present.releases.get(layer)
        and (before is None or release != before.releases.get(layer))
    )
