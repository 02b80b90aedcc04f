"""An incident's plot: what its rule measured, drawn and as a short table, of the API's JSON. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from rollbackd.views import plot
from rollbackd.views.markup import Markup, element

View = Mapping[str, Any]
HEAD = ("When", "From", "Until", "Least", "Middle", "Most")
STYLE = (
    "svg{width:100%;max-width:40rem;height:auto;background:#fff}svg text{font:11px system-ui,sans-serif;fill:#4a5568}"
    "svg .left{text-anchor:end}svg .middle{text-anchor:middle}svg .grid{stroke:#dde1e8}"
    "svg .limit{fill:#b3261e}svg .value{fill:none;stroke:#1b5e9b;stroke-width:1.5}"
    "svg .threshold{stroke:#b3261e;stroke-dasharray:5 3}"
    "svg line.change,svg line.decision,svg line.end{stroke:#6b7280;stroke-dasharray:2 2}"
    "svg line.onset{stroke:#b3261e}svg line.rollback{stroke:#1b7a3d;stroke-width:2}"
)
"""For a plot that stands alone, on white."""
_WIDTH = 440.0
"""As narrow as a phone can show it without scrolling."""
_PHASES = ("", "change", "onset", "rollback", "end")
_WORDS = {
    "": "before",
    "change": "after the change",
    "onset": "since the onset",
    "rollback": "since the first step",
    "end": "after the end",
}


def drawing(service: str, one: View) -> Markup:
    """The plot, with what happened meanwhile; its table says the same in words."""
    points = _points(one)
    values = [(at, value if value is not None else float("nan")) for at, value in points]
    marks = [plot.Moment(_time(mark["at"]), mark["kind"], mark["kind"]) for mark in one["marks"]]
    said = "; ".join(f"{mark.label} {mark.at.astimezone(UTC):%H:%M:%S}" for mark in marks)
    limit = f", bad {one['limit']}" if one["limit"] else ""
    title = f"What {service} measured around the onset{limit}"
    span = (points[0][0], max(points[-1][0], *(mark.at for mark in marks)))
    said = f"{said} (UTC). {one['query']}"
    return plot.timeline(title, [plot.Line(values)], one["threshold"], marks, span, said, one["limit"], _WIDTH)


def standalone(service: str, one: View) -> str:
    """The plot as a file of its own."""
    drawn, style = drawing(service, one), element("style", Markup(STYLE))
    begin, inside = drawn.split(">", 1)
    return f"{begin}>{style}{inside}\n"


def rows(one: View) -> Iterator[Sequence[str]]:
    """What was measured between the moments that matter, as `HEAD` names it."""
    points, times = _points(one), {mark["kind"]: _time(mark["at"]) for mark in one["marks"]}
    last = points[-1][0] + timedelta(seconds=1)
    begins = sorted([(points[0][0], ""), *((times[kind], kind) for kind in _PHASES if kind in times)])
    ends = [at for at, _ in begins[1:]] + [last]
    for (begin, kind), end in zip(begins, ends, strict=True):
        values = [value for at, value in points if begin <= at < end and value is not None]
        if values:
            shown = (f"{value:.3g}" for value in (min(values), median(values), max(values)))
            yield (_WORDS[kind], *(f"{at.astimezone(UTC):%H:%M:%S}" for at in (begin, min(end, points[-1][0]))), *shown)


def _points(one: View) -> list[tuple[datetime, float | None]]:
    return [(_time(at), value) for at, value in one["points"]]


def _time(at: datetime | str) -> datetime:
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)
