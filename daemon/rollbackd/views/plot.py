"""Plots as SVG: what a rule's query said over time, with its threshold, changes and decisions; and bars. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite

from rollbackd.views.markup import Markup, element

_WIDTH, _HEIGHT = 860.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 10.0, 16.0, 24.0
_LANE = 28.0
_LABEL, _LETTER = 13.0, 6.2
"""How high a label is, and about how wide each of its letters."""
_LEVELS = 5
"""How many labels can stand one above the other."""
_POINTS = 800
"""The most points of one line; of more only the extremes are drawn."""
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440)
"""Minutes between two times under a plot."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that is worth a line."""

    at: datetime
    label: str
    kind: str
    """Its class: `change`, `people`, `roll_back`, `ask`, `refuse`."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series; what is no finite number is a gap."""

    points: Sequence[tuple[datetime, float]]


def timeline(
    title: str,
    lines: Sequence[Line],
    threshold: float | None,
    marks: Sequence[Moment],
    span: tuple[datetime, datetime],
    description: str = "",
    limit: str = "",
    width: float = _WIDTH,
) -> Markup:
    """What was measured in a span of time; `limit` is written at the threshold, a narrow one is for phones, too."""
    values = [value for line in lines for _, value in line.points if isfinite(value)]
    highest = max([*values, threshold or 0.0, 0.0]) or 1.0
    lowest, right = min([*values, 0.0]), width - _RIGHT
    x, y = _scale_x(span, right), _scale_y(lowest, highest * 1.05)
    parts = [element("title", title), *([element("desc", description)] if description else [])]
    parts += [*_frame(lowest, highest, y, right), *_times(span, x)]
    shown = sorted((mark for mark in marks if span[0] <= mark.at <= span[1]), key=lambda mark: mark.at)
    levels = _levels(shown, x)
    for mark, level in zip(shown, levels, strict=True):
        parts += _mark(mark, x, level)
    if threshold is not None:
        at = y(threshold)
        parts.append(element("line", x1=_LEFT, x2=right, y1=at, y2=at, class_="threshold"))
        parts.append(element("text", limit, x=_LEFT + 4, y=at - 4, class_="limit"))
    for line in lines:
        parts += [element("polyline", points=run, class_="value") for run in _runs(_thinned(line.points), x, y)]
    return _svg(title, _HEIGHT, parts, above=max(levels, default=0) * _LABEL, width=width)


def bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[int, str]]]]) -> Markup:
    """A bar for each row, made of parts: how many, and of which class."""
    high = max((sum(many for many, _ in parts) for _, parts in rows), default=0) or 1
    wide = (_WIDTH - _LEFT - _RIGHT - 120) / high
    drawn = [element("title", title)]
    for number, (name, parts) in enumerate(rows):
        at, left = _TOP + number * 22, _LEFT + 80
        drawn.append(element("text", name, x=left - 6, y=at + 12, class_="left"))
        for many, kind in parts:
            if many:
                drawn.append(element("rect", x=left, y=at, width=many * wide, height=16.0, class_=kind))
                drawn.append(element("text", str(many), x=left + many * wide / 2, y=at + 12, class_="middle"))
            left += many * wide
    return _svg(title, _TOP + len(rows) * 22 + 6, drawn)


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that lasted."""

    begin: datetime
    end: datetime
    label: str
    kind: str
    """Its class: `good`, `bad`, `other`."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What is of one kind, on a line of its own."""

    name: str
    bars: Sequence[Bar] = ()
    marks: Sequence[Moment] = ()


def lanes(title: str, description: str, rows: Sequence[Lane], span: tuple[datetime, datetime]) -> Markup:
    """Several lanes over one span of time."""
    x, high = _scale_x(span), _TOP + len(rows) * _LANE + _BOTTOM
    drawn = [element("title", title), element("desc", description), *_times(span, x, high)]
    for number, row in enumerate(rows):
        top = _TOP + number * _LANE
        drawn.append(element("text", row.name, x=_LEFT - 6, y=top + 15, class_="left"))
        for bar in row.bars:
            begin, end = x(max(bar.begin, span[0])), x(min(bar.end, span[1]))
            if end >= _LEFT:
                shown = element("title", bar.label)
                wide = max(end - begin, 2.0)
                drawn.append(element("rect", shown, x=begin, y=top, width=wide, height=_LANE - 8, class_=bar.kind))
        for mark in row.marks:
            if span[0] <= mark.at <= span[1]:
                at, shown = x(mark.at), element("title", mark.label)
                drawn.append(element("line", shown, x1=at, x2=at, y1=top - 2, y2=top + _LANE - 6, class_=mark.kind))
    return _svg(title, high, drawn)


def _svg(title: str, height: float, parts: Sequence[Markup], above: float = 0.0, width: float = _WIDTH) -> Markup:
    """The drawing; `above` is what it needs above its own places."""
    return element(
        "svg", parts, viewBox=f"0 {-above:.0f} {width:.0f} {height + above:.0f}", role="img", aria_label=title,
        xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


def _scale_x(span: tuple[datetime, datetime], right: float = _WIDTH - _RIGHT) -> "_Scale":
    begin = span[0].timestamp()
    return _Scale(begin, max(span[1].timestamp() - begin, 1.0), _LEFT, right)


def _scale_y(lowest: float, highest: float) -> "_Scale":
    return _Scale(lowest, (highest - lowest) or 1.0, _HEIGHT - _BOTTOM, _TOP)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From a value to a place on the plot."""

    begin: float
    length: float
    first: float
    last: float

    def __call__(self, value: float | datetime) -> float:
        number = value.timestamp() if isinstance(value, datetime) else value
        return self.first + (self.last - self.first) * (number - self.begin) / self.length


def _frame(lowest: float, highest: float, y: _Scale, right: float) -> list[Markup]:
    found = []
    for value in (lowest, (lowest + highest) / 2, highest):
        found.append(element("line", x1=_LEFT, x2=right, y1=y(value), y2=y(value), class_="grid"))
        found.append(element("text", f"{value:.3g}", x=_LEFT - 6, y=y(value) + 4, class_="left"))
    return found


def _times(span: tuple[datetime, datetime], x: _Scale, height: float = _HEIGHT) -> list[Markup]:
    minutes = (span[1] - span[0]) / timedelta(minutes=1)
    step = next((one for one in _STEPS if minutes / one <= 8), _STEPS[-1] * max(1, round(minutes / 1440 / 8)))
    pace = timedelta(minutes=step)
    midnight = span[0].replace(hour=0, minute=0, second=0, microsecond=0)
    at = midnight + pace * -((midnight - span[0]) // pace)
    found = []
    while at <= span[1]:
        text = f"{at:%H:%M}" if step < 1440 else f"{at:%m-%d}"
        found.append(element("text", text, x=x(at), y=height - 8, class_="middle"))
        at += pace
    return found


def _mark(mark: Moment, x: _Scale, level: int) -> list[Markup]:
    top, at, (begin, end) = _TOP - level * _LABEL, x(mark.at), _label(mark, x)
    place, side = (at + 3, "label") if begin == at else (end - 3, "left")
    return [
        element("line", element("title", mark.label), x1=at, x2=at, y1=top, y2=_HEIGHT - _BOTTOM, class_=mark.kind),
        element("text", mark.label, x=place, y=top - 4, class_=f"{side} {mark.kind}"),
    ]


def _label(mark: Moment, x: _Scale) -> tuple[float, float]:
    """From where to where a mark's label is; it stands before its line where there is no room after it."""
    at, wide = x(mark.at), len(mark.label) * _LETTER + 6
    return (at - wide, at) if x.last < at + wide and x.first < at - wide else (at, at + wide)


def _levels(marks: Sequence[Moment], x: _Scale) -> list[int]:
    """How high each label stands: above the labels and lines after it that it would cross; marks are in order."""
    found: list[int] = []
    for n in reversed(range(len(marks))):
        begin, end = _label(marks[n], x)
        later = zip(reversed(marks[n + 1 :]), found, strict=True)
        crossed = [level for other, level in later if _label(other, x)[0] < end and begin < _label(other, x)[1]]
        found.append(min(max(crossed, default=-1) + 1, _LEVELS - 1))
    return found[::-1]


def _runs(points: Sequence[tuple[datetime, float]], x: _Scale, y: _Scale) -> list[str]:
    """The stretches without gaps, as lists of places."""
    found: list[list[str]] = [[]]
    for at, value in points:
        if isfinite(value):
            found[-1].append(f"{x(at):.1f},{y(value):.1f}")
        elif found[-1]:
            found.append([])
    return [" ".join(run) for run in found if run]


def _thinned(points: Sequence[tuple[datetime, float]]) -> Sequence[tuple[datetime, float]]:
    """Few enough points; of each stretch the least and the greatest stay."""
    each = -(-len(points) * 2 // _POINTS)
    if each <= 2:
        return points
    found = []
    for begin in range(0, len(points), each):
        part = points[begin : begin + each]
        finite = [point for point in part if isfinite(point[1])]
        if len(finite) < len(part):
            found.append((part[0][0], float("nan")))
        if finite:
            ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])}
            found += sorted(ends)
    return found
