"""Whose data a step on data brings back, and what that loses. No I/O.

A database's release is its lineage, so no good state says which data to go back to: the time of the blamed change does.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from rollbackd.model import Change, DataGoal, DataLoss, Replaced, State, Trigger, Verdict
from rollbackd.policy.changes import newest, to_blame
from rollbackd.policy.ledger import ServiceLedger
from rollbackd.policy.spec import Limits
from rollbackd.syntax.units import roughly

ALSO_RETURNS = "old passwords, revoked rights and erased persons return, and jobs done since are to be done once more"
"""What people forget when data goes back."""
NOTHING_LOST = "no step takes data back"


def put_down_to(trigger: Trigger, ledger: ServiceLedger, limits: Limits, earlier: Verdict | None) -> Replaced | None:
    """The change that the trouble is put down to; None where there is none. A person's order blames the newest one.

    :param earlier: what the trigger's own rule said right before that change; None: nobody asked.
    """
    if trigger.request is not None:
        return newest(ledger)
    found = to_blame(ledger, trigger.onset)
    if found is None:
        return None
    within = found.start <= trigger.onset and trigger.onset - found.end <= limits.change_window
    return found if within and earlier is not Verdict.BAD else None


def data_goal(trigger: Trigger, change: Replaced | None, copied: datetime | None = None) -> DataGoal:
    """The time whose data is wanted: the start of the blamed change; where there is none the onset, and people are
    asked, unless a person named a copy.

    :param copied: of when the copy is that a person named.
    """
    if change is not None:
        return DataGoal(change.start)
    return DataGoal(copied or trigger.onset, sure=copied is not None)


def without_data(state: State, present: State, data: Collection[str]) -> State:
    """The state with its data as it is now: a good state of the past says nothing about data."""
    if not data:
        return state
    return State({**state.releases, **{layer: present.releases[layer] for layer in data if layer in present.releases}})


def reckoned(change: Change, goal: DataGoal | None, *, fixed: bool) -> Change:
    """A step on data with the time that was wanted, and with what people must know of it.

    :param fixed: whether the configuration names the copy.
    """
    if change.loss is None or goal is None:
        return change
    loss = replace(change.loss, wanted=max(goal.time, change.loss.copied), sure=goal.sure or fixed)
    return replace(change, loss=loss, risks=(*change.risks, *_figures(loss), ALSO_RETURNS))


def _figures(loss: DataLoss) -> tuple[str, ...]:
    """The two spans of writes, a sentence each; they do not change while one looks at them."""
    meant = f"what was written since {_at(loss.aim)} is meant to go"
    more = f"what was written in the {roughly(loss.gap)} before that goes with it: the copy is of {_at(loss.copied)}"
    return (meant, more) if loss.gap else (meant,)


def losses(steps: Sequence[Change]) -> str:
    """What steps take from data, for people."""
    lost = [f"{step.layer}: {'; '.join(_figures(step.loss))}" for step in steps if step.loss is not None]
    return "; ".join([*lost, ALSO_RETURNS]) if lost else NOTHING_LOST


def to_ask(steps: Sequence[Change]) -> tuple[str, ...]:
    """What only people may lose, a sentence each: data of which nobody says that it is right, and more than `max_loss`
    between the copy and the change."""
    found = []
    for step in steps:
        if step.loss is not None and not step.loss.sure:
            why = "no change is to blame, so nobody knows which data is right"
            found.append(f"{step.layer}: {why}; it would be that of {_at(step.loss.aim)}")
        if step.loss is not None and step.loss.gap > step.loss.limit:
            between = f"between the copy ({_at(step.loss.copied)}) and {_at(step.loss.aim)}"
            limit = f"more than `max_loss` {roughly(step.loss.limit)}"
            found.append(f"{step.layer}: writes of {roughly(step.loss.gap)} {between} would be lost, {limit}")
    return tuple(found)


def _at(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
