"""How services and incidents are, in the field's words: each with a sign, so that no colour says it alone. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rollbackd.incident.outcomes import BAD_ENDS, MEANINGS
from rollbackd.syntax.units import roughly
from rollbackd.views.shapes import DecisionView, IncidentView, ServiceView, StateView, StepView, VerificationView


@dataclass(frozen=True, slots=True)
class ConditionLabel:
    """How something is."""

    word: str
    sign: str
    kind: str
    """Its class in the style sheet: `bad`, `asks`, `acts`, `doubt`, `good`, `quiet`."""
    rank: int
    """What needs a person comes first."""


_STATUSES = {
    "asking": ConditionLabel("approval pending", "?", "asks", 0),
    "parked": ConditionLabel("needs a person", "!", "bad", 0),
    "paused": ConditionLabel("held", "⏸", "asks", 1),
    "queued": ConditionLabel("queued", "…", "acts", 2),
    "running": ConditionLabel("rolling back", "↺", "acts", 2),
    "verifying": ConditionLabel("rolled back, checking", "↺", "acts", 2),
}
_OUTCOMES = {
    "recovered": ConditionLabel("rolled back, recovered", "✓", "good", 8),
    "ineffective": ConditionLabel("still failing after the rollback", "✕", "bad", 0),
    "unverified": ConditionLabel("rolled back, not verified", "?", "bad", 0),
    "failed": ConditionLabel("rollback failed", "✕", "bad", 0),
    "aborted": ConditionLabel("aborted", "■", "quiet", 8),
    "declined": ConditionLabel("denied", "■", "quiet", 8),
    "expired": ConditionLabel("nobody answered", "!", "bad", 0),
    "passed": ConditionLabel("trouble went away", "✓", "good", 8),
    "superseded": ConditionLabel("changed by somebody else", "■", "quiet", 8),
}
_HEALTH = {
    "bad": ConditionLabel("in trouble", "!", "bad", 3),
    "pending": ConditionLabel("trouble pending", "…", "doubt", 6),
    "inconclusive": ConditionLabel("no evidence", "?", "doubt", 7),
    "good": ConditionLabel("well", "✓", "good", 9),
}
_HELD = ConditionLabel("held", "⏸", "asks", 4)
_CANNOT = ConditionLabel("cannot be rolled back", "⊘", "doubt", 5)
_ACTIONS = {
    "roll_back": ConditionLabel("rolled back", "↺", "acts", 0),
    "ask": ConditionLabel("asked", "?", "asks", 0),
    "observe": ConditionLabel("observed", "◦", "quiet", 0),
    "refuse": ConditionLabel("refused", "■", "quiet", 0),
}
_VERDICTS = {**_HEALTH, "good": ConditionLabel("good", "✓", "good", 9), "bad": ConditionLabel("bad", "✕", "bad", 0)}
_STEPS = {
    "waiting": ConditionLabel("waiting", "◦", "quiet", 0),
    "running": ConditionLabel("running", "↺", "acts", 0),
    "done": ConditionLabel("done", "✓", "good", 0),
    "failed": ConditionLabel("failed", "✕", "bad", 0),
}


def _other(word: str) -> ConditionLabel:
    return ConditionLabel(word.replace("_", " "), "◦", "quiet", 9)


def of_incident(one: IncidentView) -> ConditionLabel:
    """By its status, or by how it ended."""
    word = one.outcome or one.status
    return (_OUTCOMES if one.outcome else _STATUSES).get(word) or _other(word)


def of_service(one: ServiceView, incidents: Mapping[str, IncidentView]) -> ConditionLabel:
    """What is most telling of a service: its open incident, else its rules, holds, and whether it could go back."""
    if one.incident in incidents:
        return of_incident(incidents[one.incident])
    if one.asks:
        return _STATUSES["asking"]
    if one.incident:
        return _STATUSES["running"]
    if one.health == "bad":
        return _HEALTH["bad"]
    if one.holds:
        return _HELD
    if one.cannot:
        return _CANNOT
    return _HEALTH.get(one.health) or _other(one.health)


def of_decision(one: DecisionView) -> ConditionLabel:
    return _ACTIONS.get(one.action) or _other(one.action)


def of_verdict(verdict: str) -> ConditionLabel:
    return _VERDICTS.get(verdict) or _other(verdict)


def of_step(status: str) -> ConditionLabel:
    return _STEPS.get(status) or _other(status)


def needs_a_person(one: IncidentView) -> bool:
    """Whether it waits for somebody, or ended so that somebody must look and nobody said that they did."""
    return one.status in {"asking", "parked"} or (one.outcome in BAD_ENDS and not one.acknowledged)


# -- sentences ------------------------------------------------------------------------------------
def moment(at: datetime | None) -> str:
    """`2026-03-01 12:00:00 UTC`; empty for none."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at is not None else ""


def hour(at: datetime) -> str:
    return f"{at.astimezone(UTC):%H:%M:%S}"


def releases(state: StateView | None) -> str:
    """The releases of a state, a layer after the other; empty for none."""
    return ", ".join(f"{layer} {name}" for layer, name in sorted(state.releases.items())) if state is not None else ""


def until(at: datetime, now: datetime) -> str:
    """`at 12:00:30, in 12s`, or that it is due."""
    return f"at {hour(at)}, in {roughly(at - now)}" if at > now else f"due since {hour(at)}"


def step_note(one: StepView, now: datetime | None = None) -> str:
    """What is to be known of a step: its attempt, its time so far and its usual one, what is risky.

    :param now: None where nothing of it runs, as in a plan that is only shown.
    """
    so_far = f", for {roughly(now - one.since)}" if now is not None and one.since is not None else ""
    said = (
        f"Attempt {one.attempt}." if one.attempt > 1 else "",
        f"Since {hour(one.since)}{so_far}." if one.since is not None else "",
        f"Took {roughly(one.took)}." if one.took is not None else "",
        f"Usually {roughly(one.expected)}." if one.expected is not None else "",
        "" if one.reversible else "Irreversible.",
        "; ".join(one.risks),
    )
    return " ".join(filter(None, said))


def checks_note(one: VerificationView, now: datetime) -> str:
    """How far the checks after the last step are."""
    rounds = f"{one.rounds} of {one.passes} good rounds"
    return f"{rounds}, the next {until(one.next_look, now)}; the deadline is {until(one.deadline, now)}"


def headline(one: IncidentView, decision: DecisionView | None, now: datetime) -> str:
    """What, since when, what is done now, what comes next and when: one paragraph."""
    onset = f" since {moment(decision.onset)}" if decision is not None and one.rule != "manual" else ""
    what = f"{one.service}: {'ordered by hand' if one.rule == 'manual' else one.rule}{onset}, {one.priority}."
    return f"{what} {_now(one, now)}"


def _now(one: IncidentView, now: datetime) -> str:
    target = releases(one.target) or "another state"
    if one.outcome:
        return _ended(one, now)
    if one.status == "parked":
        return f"It was stopped for a person to look at: {one.reason}. Nothing happens by itself any more."
    if one.status == "paused":
        return f"The rollback to {target} is held: {one.reason}. It goes on when the hold is lifted."
    if one.question is not None:
        then = "it goes back by itself" if one.question.otherwise == "roll_back" else "the next people are called"
        lacks = one.question.missing or "nothing more, it goes back as soon as nothing holds it"
        return (
            f"Approval pending for the rollback to {target}: missing is {lacks}. "
            f"Without an answer {then} {until(one.question.expires, now)}."
        )
    if one.status == "verifying":
        return _checking(one, now)
    if one.status == "queued":
        return f"It is about to be rolled back to {target}; every layer is looked at once more first."
    return f"Rolling back to {target}. {_step(one, now)}"


def _step(one: IncidentView, now: datetime) -> str:
    for number, step in enumerate(one.steps, 1):
        if step.status == "running" and step.since is not None:
            usual = f", usually {roughly(step.expected)}" if step.expected is not None else ""
            return f"Step {number} of {len(one.steps)}, {step.layer}, runs for {roughly(now - step.since)}{usual}."
        if step.status == "failed":
            return f"Step {number} of {len(one.steps)}, {step.layer}, failed and is tried again."
    done = sum(1 for step in one.steps if step.status == "done")
    return f"{done} of {len(one.steps)} steps are done."


def _checking(one: IncidentView, now: datetime) -> str:
    said = f"Rolled back to {releases(one.target) or 'another state'}; the checks are asked whether it got well"
    if (found := one.verification) is None:
        return f"{said}."
    number = min(found.rounds + 1, found.passes)
    look = until(found.next_look, now)
    return f"{said}: check {number} of {found.passes} {look}; the deadline is {until(found.deadline, now)}."


def _ended(one: IncidentView, now: datetime) -> str:
    meaning = MEANINGS.get(one.outcome)
    said = f"It {meaning.said}" if meaning is not None else f"It ended: {one.outcome}"
    reason = f": {one.reason}" if one.reason else ""
    took = f" It took {roughly(one.closed - one.opened)}." if one.closed is not None else ""
    advice = f" {meaning.advice}." if meaning is not None and meaning.advice else ""
    watched = one.outcome == "recovered" and one.watch_until is not None and one.watch_until > now
    watch = f" It is watched until {hour(one.watch_until)}." if watched and one.watch_until is not None else ""
    return f"{said}{reason}.{took}{advice}{watch}"
