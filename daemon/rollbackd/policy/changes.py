"""Which change trouble is put down to, and who announced it. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rollbackd.model import Replaced, State
from rollbackd.policy.ledger import Announcement, ServiceLedger, Spell

ONE_CHANGE = timedelta(minutes=5)
"""Layers that change within this are one change; an announcement this near to a change is of it."""
COMING = timedelta(hours=1)
"""The longest time from an announcement to its change: some changes are announced first, then built."""
_PREFIX = 7
"""The fewest first characters of an id that name a release in an announcement."""

UNCONFIRMED = "unconfirmed"
"""The name of the rule in the trigger of a change that nobody confirmed; no configured rule may have it."""


def to_blame(ledger: ServiceLedger, onset: datetime) -> Replaced | None:
    """The change that trouble is put down to: the newest before it began; where all came after, the newest of all."""
    last = newest(ledger)
    found, kept = last, len(ledger.spells)
    while found is not None and found.start > onset:
        kept = next(n for n in range(kept) if ledger.spells[n].after >= found.start)
        found = newest(replace(ledger, spells=ledger.spells[:kept]))
    return found or last


def newest_begins(spells: Sequence[Spell]) -> int:
    """The place of the first spell of the newest change that no rollback made; behind the last when there is none."""
    first = len(spells)
    while first > 1 and not spells[first - 1].incident:
        if first < len(spells) and spells[first].after - spells[first - 1].by > ONE_CHANGE:
            break
        first -= 1
    return first


def newest(ledger: ServiceLedger) -> Replaced | None:
    """The newest change that no rollback made; changes that follow each other within `ONE_CHANGE` are one."""
    spells = ledger.spells
    first = newest_begins(spells)
    group = spells[first:]
    if not group:
        return None
    announced = [one for spell in reversed(group) for one in _announcements(ledger, spell)]
    return Replaced(
        before=spells[first - 1].state,
        after=group[-1].state,
        start=group[0].after,
        end=group[-1].by,
        announced=announced[0].id if announced else "",
        by=announced[0].by if announced else "",
        kind=announced[0].kind if announced else "",
        old_since=spells[first - 1].by,
        announcers=tuple(dict.fromkeys(who for one in announced for who in (one.by, one.told_by) if who)),
    )


def announcement(ledger: ServiceLedger, spell: Spell) -> Announcement | None:
    """The newest announcement of the change that led to a state; None when nobody announced it."""
    return next(_announcements(ledger, spell), None)


def _announcements(ledger: ServiceLedger, spell: Spell) -> Iterator[Announcement]:
    """Newest first."""
    for one in reversed(ledger.announced):
        if abs(one.at - spell.by) <= COMING and spell_of(ledger, one) == spell:
            yield one


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
        if not (prefix or release.is_called(text)):
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


def began_later(ledger: ServiceLedger, asked: datetime, onset: datetime | None) -> bool:
    """Whether a trouble began in a state that came after people were asked: the question was about another state."""
    return onset is not None and any(asked < spell.by <= onset for spell in reversed(ledger.spells))
