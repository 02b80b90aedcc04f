"""A service's past on one line of time: states, incidents, holds, and what else happened. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from rollbackd import facts
from rollbackd.views import condition_labels, plot
from rollbackd.views.markup import Markup
from rollbackd.views.shapes import IncidentView, RecordView, StateView

_SHORTEST = timedelta(hours=1)
_LONGEST = timedelta(days=14)
"""Of the span that is drawn; the table goes back farther."""
_MARKS: Mapping[str, str] = {
    **dict.fromkeys(facts.kinds(facts.Decided), "ask"),
    **dict.fromkeys(facts.kinds(facts.MarkTaken, facts.Quarantined), "refuse"),
    **dict.fromkeys(facts.kinds(facts.Announced), "people"),
}
"""The class of each event's mark; of all others it is `change`."""
(_HELD, _UNHELD) = facts.kinds(facts.Held, facts.Unheld)


def past_of(
    service: str,
    states: Sequence[StateView],
    incidents: Sequence[IncidentView],
    records: Sequence[RecordView],
    now: datetime,
) -> Markup:
    """The drawing; its table says the same in words."""
    begins = [one.since for one in states if one.since is not None] + [one.opened for one in incidents]
    first = min((at for at in begins if now - at < _LONGEST), default=now)
    span = (min(first, now - _SHORTEST) - (now - first) / 50, now)
    ran = [
        plot.Bar(one.since, one.until or now, condition_labels.releases(one), "bad" if one.quarantined else _good(one))
        for one in states
        if one.since is not None
    ]
    troubles = [
        plot.Bar(one.opened, one.closed or now, f"{one.id}: {condition_labels.of_incident(one).word}", _ended(one))
        for one in incidents
    ]
    marks = [
        plot.Moment(
            one.at, f"{condition_labels.moment(one.at)} {one.actor}: {one.text}", _MARKS.get(one.kind, "change")
        )
        for one in records
        if one.kind not in {_HELD, _UNHELD}
    ]
    rows = [
        plot.Lane("states", ran),
        plot.Lane("incidents", troubles),
        plot.Lane("holds", list(_holds(records, now))),
        plot.Lane("events", (), marks),
    ]
    said = f"{len(ran)} states, {len(troubles)} incidents and {len(marks)} events; the table below has them in words."
    return plot.lanes(f"The past of {service}", said, rows, span)


def _good(one: StateView) -> str:
    return "good" if one.good else "other"


def _ended(one: IncidentView) -> str:
    return "good" if condition_labels.of_incident(one).kind == "good" else "bad"


def _holds(records: Sequence[RecordView], now: datetime) -> Iterator[plot.Bar]:
    held: RecordView | None = None
    for one in sorted(records, key=lambda record: record.n):
        if one.kind == _HELD:
            held = held or one
        elif one.kind == _UNHELD and held is not None:
            yield plot.Bar(held.at, one.at, f"{held.actor}: {held.text}", "other")
            held = None
    if held is not None:
        yield plot.Bar(held.at, now, f"{held.actor}: {held.text}", "other")
