"""Which change trouble is put down to, and who announced it. No I/O."""

from datetime import datetime, timedelta

from rollbackd.model import Replaced, State
from rollbackd.policy.ledger import Announcement, ServiceLedger, Spell

ONE_CHANGE = timedelta(minutes=5)
"""Layers that change within this are one change; an announcement this near to a change is of it."""
COMING = timedelta(hours=1)
"""A change may follow its announcement by so much: what is announced first and built then."""
_PREFIX = 7
"""A release may be announced by so many first characters of its id."""


def newest(ledger: ServiceLedger) -> Replaced | None:
    """The newest change that was somebody's own; those that follow each other within `ONE_CHANGE` are one."""
    spells = ledger.spells
    first = len(spells)
    while first > 1 and not spells[first - 1].incident:
        if first < len(spells) and spells[first].after - spells[first - 1].by > ONE_CHANGE:
            break
        first -= 1
    group = spells[first:]
    if not group:
        return None
    announced = next((found for one in reversed(group) if (found := announcement(ledger, one)) is not None), None)
    return Replaced(
        spells[first - 1].state,
        group[-1].state,
        group[0].after,
        group[-1].by,
        announced.id if announced is not None else "",
        announced.by if announced is not None else "",
        announced.kind if announced is not None else "",
        spells[first - 1].by,
    )


def announcement(ledger: ServiceLedger, spell: Spell) -> Announcement | None:
    """The newest announcement of the change that led to a state; None when nobody announced it."""
    for one in reversed(ledger.announced):
        if abs(one.at - spell.by) <= COMING and spell_of(ledger, one) == spell:
            return one
    return None


def spell_of(ledger: ServiceLedger, announced: Announcement) -> Spell | None:
    """The state that an announced change led to: the one that ran when it was announced if that was new, or the next.

    An announcement that names releases is of a state that has them.
    """
    near = [spell for spell in ledger.spells[1:] if not spell.incident and abs(spell.by - announced.at) <= COMING]
    fitting = [spell for spell in near if names(announced, spell.state)]
    fresh = COMING if announced.releases else ONE_CHANGE
    for spell in fitting:
        if _running(spell, announced.at) and announced.at - spell.by <= fresh:
            return spell
    return next((spell for spell in fitting if announced.at < spell.by), None)


def _running(spell: Spell, at: datetime) -> bool:
    return spell.by <= at and (spell.ended is None or at < spell.ended)


def names(announced: Announcement, state: State) -> bool:
    """Whether a state has all the releases that an announcement names; without names every state has."""
    for layer, text in announced.releases.items():
        release = state.releases.get(layer)
        if release is None:
            return False
        prefix = len(text) >= _PREFIX and release.id.startswith(text)
        if text not in {release.id, release.label} and not prefix:
            return False
    return True


def unconfirmed(ledger: ServiceLedger, now: datetime) -> Announcement | None:
    """The announced change that runs now, should have been confirmed by now, and was not; None when there is none."""
    if not ledger.spells:
        return None
    present = ledger.spells[-1]
    for one in reversed(ledger.announced):
        due = one.confirm_by is not None and one.confirm_by <= now and not one.confirmed
        if due and abs(present.by - one.at) <= COMING and spell_of(ledger, one) == present:
            return one
    return None
