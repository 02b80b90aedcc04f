"""Notifications: the order of escalation tiers, and the values in a receiver's own words. Pure: data in."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from rollbackd.config import placeholders
from rollbackd.config.outline import Complaint, Outline
from rollbackd.config.positions import Loc, entries, mapping
from rollbackd.notification_events import PLACEHOLDERS
from rollbackd.syntax.units import parse_duration


def complaints(outline: Outline) -> Iterator[Complaint]:
    """All that is wrong with `notify` beyond the shape of each part and the names in it."""
    notify = outline.section("notify")
    for loc, receiver in entries(notify.get("receivers"), ("notify", "receivers")):
        yield from _words(mapping(receiver.get("says")), (*loc, "says"))
    yield from _tiers(notify)


def _tiers(notify: Mapping[str, object]) -> Iterator[Complaint]:
    """Tiers that are not after the one before them: their order in the list is their order in time."""
    last = timedelta(microseconds=-1)
    for loc, tier in entries(notify.get("escalation"), ("notify", "escalation")):
        try:
            after = parse_duration(tier.get("after", "0"))
        except ValueError:
            continue  # the model says what is wrong with it
        if after <= last:
            place = (*loc, "after") if "after" in tier else loc
            yield place, "this tier is not after the one before it; put them in order, or put both into one"
        last = max(last, after)


def _words(says: Mapping[str, object], loc: Loc) -> Iterator[Complaint]:
    for event, words in says.items():
        if not isinstance(words, str):
            continue
        yield from (((*loc, event), said) for said in placeholders.wrong(words, PLACEHOLDERS))
