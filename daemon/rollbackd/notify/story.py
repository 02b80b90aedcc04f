"""An incident as its messages tell it, folded from its facts. No I/O; what drives an incident is folded elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rollbackd import facts
from rollbackd.facts import Record
from rollbackd.model import DAEMON, Bracketed, Change, CheckResult, Evidence, Outcome, Priority, Request, State


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of an incident after some of its facts."""

    incident: str
    service: str = ""
    priority: Priority = Priority.P2
    rule: str = ""
    onset: datetime | None = None
    evidence: tuple[Evidence, ...] = ()
    """Of the trigger, and of those that joined."""
    request: Request | None = None
    """A person's own rollback."""
    present: State | None = None
    target: State | None = None
    plans: tuple[str, ...] = ()
    plan: str = ""
    steps: tuple[Change, ...] = ()
    brackets: tuple[Bracketed, ...] = ()
    entered: tuple[str, ...] = ()
    """Brackets that are entered, or may be because entering them was begun."""
    starts: int = 0
    """How many times anything was begun that touches the world."""
    attempt: tuple[str, int] = ("", 0)
    """Layer and number of the last attempt."""
    applied: tuple[str, ...] = ()
    """Layers whose step of the present plan is done."""
    failure: str = ""
    """The last one: `code: npm exited 1`."""
    output: str = ""
    """Of the program that failed last."""
    results: tuple[CheckResult, ...] = ()
    """Of the last round of checks."""
    opened: datetime | None = None
    outcome: Outcome | None = None
    reason: str = ""
    """Of the outcome, the pause or the parking, whichever came last."""
    ended: datetime | None = None
    paused: bool = False
    parked: bool = False
    acknowledged: bool = False
    who: str = DAEMON
    """The actor of the last fact."""


def story(records: Sequence[Record]) -> Story:
    """Fold an incident's stream, from its first fact on, as far as it is given."""
    told = Story(records[0].stream.partition(":")[2] if records else "")
    for record in records:
        fold = _FOLDS.get(type(record.fact))
        told = fold(replace(told, who=record.actor), record, record.fact) if fold else told
    return told


def _opened(told: Story, record: Record, fact: facts.Opened) -> Story:
    decision = fact.decision
    trigger = decision.trigger
    return replace(
        told,
        service=fact.service,
        priority=trigger.priority,
        rule=trigger.rule,
        onset=trigger.onset,
        evidence=trigger.evidence,
        request=trigger.request,
        present=decision.present,
        target=decision.target,
        plans=fact.plans,
        opened=record.at,
    )


def _joined(told: Story, _record: Record, fact: facts.Joined) -> Story:
    return replace(
        told,
        evidence=(*told.evidence, *fact.trigger.evidence),
        priority=min(told.priority, fact.trigger.priority),
    )


def _planned(told: Story, _record: Record, fact: facts.Planned) -> Story:
    plan = fact.plan
    return replace(
        told, plan=plan.name, steps=plan.steps, brackets=plan.brackets, present=fact.present, applied=(), results=()
    )


def _begun(told: Story, _record: Record, fact: facts.Entering | facts.ApplyStarted) -> Story:
    entered = told.entered
    if isinstance(fact, facts.Entering) and fact.layer not in entered:
        entered = (*entered, fact.layer)
    return replace(told, starts=told.starts + 1, attempt=(fact.layer, fact.attempt), entered=entered)


def _applied(told: Story, _record: Record, fact: facts.Applied) -> Story:
    return replace(told, applied=(*told.applied, fact.layer))


def _failed(told: Story, _record: Record, fact: facts.EnterFailed | facts.ApplyFailed | facts.LeaveFailed) -> Story:
    return replace(told, failure=f"{fact.layer}: {fact.reason}", output=fact.evidence)


def _left(told: Story, _record: Record, fact: facts.Left) -> Story:
    return replace(told, entered=tuple(layer for layer in told.entered if layer != fact.layer))


def _looked(told: Story, _record: Record, fact: facts.Gated | facts.Round) -> Story:
    return replace(told, results=fact.results)


def _paused(told: Story, _record: Record, fact: facts.Paused) -> Story:
    return replace(told, paused=True, reason=fact.reason)


def _unpaused(told: Story, _record: Record, _fact: facts.Unpaused) -> Story:
    return replace(told, paused=False)


def _acknowledged(told: Story, _record: Record, _fact: facts.Acknowledged) -> Story:
    return replace(told, acknowledged=True)


def _parked(told: Story, _record: Record, fact: facts.Parked) -> Story:
    return replace(told, parked=True, reason=fact.reason)


def _closed(told: Story, record: Record, fact: facts.Closed) -> Story:
    return replace(told, outcome=fact.outcome, reason=fact.reason, ended=record.at, paused=False, parked=False)


def _relapsed(told: Story, record: Record, fact: facts.Relapsed) -> Story:
    return replace(told, outcome=Outcome.INEFFECTIVE, evidence=fact.trigger.evidence, ended=record.at)


def _actor_only(told: Story, _record: Record, _fact: object) -> Story:
    return told


_FOLDS: dict[type[Any], Callable[[Story, Record, Any], Story]] = {
    facts.Opened: _opened,
    facts.Joined: _joined,
    facts.Planned: _planned,
    facts.Entering: _begun,
    facts.ApplyStarted: _begun,
    facts.Applied: _applied,
    facts.EnterFailed: _failed,
    facts.ApplyFailed: _failed,
    facts.LeaveFailed: _failed,
    facts.Left: _left,
    facts.Gated: _looked,
    facts.Round: _looked,
    facts.Paused: _paused,
    facts.Unpaused: _unpaused,
    facts.Acknowledged: _acknowledged,
    facts.AbortRequested: _actor_only,
    facts.Parked: _parked,
    facts.Closed: _closed,
    facts.Relapsed: _relapsed,
}
