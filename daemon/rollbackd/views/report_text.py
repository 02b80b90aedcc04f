"""Reports as sections, and each section as Markdown and as HTML. No I/O.

What came from outside is text in both: nothing of it is markup.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any

from rollbackd.syntax.units import roughly
from rollbackd.views import incident_plot

View = Mapping[str, Any]
"""A value of the API's JSON."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&])")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
"""Controls and what turns the direction of text."""
_PEOPLE = ("unix:", "token:", "file:")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #999;padding:.2rem .5rem;text-align:left;"
    "vertical-align:top;overflow-wrap:anywhere}" + incident_plot.STYLE
)
_COUNTED = (
    ("Outcomes", "outcomes"),
    ("Causes", "causes"),
    ("Services", "services"),
    ("What stood against it", "against"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with fields, a table and things to tick; empty parts are left out."""

    heading: str
    fields: Sequence[tuple[str, str]] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    ticks: Sequence[str] = ()
    drawn: str = ""
    """What only a page can show; the table says the same."""

    @property
    def says_something(self) -> bool:
        return any(value for _, value in self.fields) or bool(self.rows) or bool(self.ticks)


@dataclass(frozen=True, slots=True)
class Report:
    """A title and its sections."""

    title: str
    sections: Sequence[Section]


def markdown(report: Report) -> str:
    """The report as GitHub's Markdown."""
    parts = [f"# {_plain(report.title)}"]
    for one in report.sections:
        if not one.says_something:
            continue
        parts.append(f"## {_plain(one.heading)}")
        if shown := [f"- **{_plain(name)}:** {_plain(value)}" for name, value in one.fields if value]:
            parts.append("\n".join(shown))
        if one.rows:
            lines = [one.head, ["---"] * len(one.head)]
            cells = [[_plain(cell) for cell in row] for row in one.rows]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in [*lines, *cells]))
        if one.ticks:
            parts.append("\n".join(f"- [ ] {_plain(text)}" for text in one.ticks))
    return "\n\n".join(parts) + "\n"


def html(report: Report) -> str:
    """The report as a page that needs nothing else."""
    parts = [f"<h1>{_safe(report.title)}</h1>"]
    for one in report.sections:
        if not one.says_something:
            continue
        parts.append(f"<h2>{_safe(one.heading)}</h2>")
        if shown := [f"<tr><th>{_safe(name)}</th><td>{_safe(value)}</td></tr>" for name, value in one.fields if value]:
            parts.append(f"<table>{''.join(shown)}</table>")
        parts.append(one.drawn)
        if one.rows:
            head = "".join(f"<th>{_safe(name)}</th>" for name in one.head)
            rows = "".join(f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>" for row in one.rows)
            parts.append(f"<table><tr>{head}</tr>{rows}</table>")
        if one.ticks:
            ticks = "".join(f"<li>\N{BALLOT BOX} {_safe(text)}</li>" for text in one.ticks)
            parts.append(f"<ul>{ticks}</ul>")
    head = f'<meta charset="utf-8"><title>{_safe(report.title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def text(section: Section) -> str:
    """A section's content as lines of a message; empty when it says nothing."""
    fields = [f"{name}: {value}" for name, value in section.fields if value]
    rows = [", ".join(f"{head}: {cell}" for head, cell in zip(section.head, row, strict=True)) for row in section.rows]
    return "\n".join(_line(one) for one in (*fields, *rows, *section.ticks))


def _line(text: object) -> str:
    return _CONTROLS.sub(" ", str(text)).strip()


def _plain(text: object) -> str:
    return _MARKS.sub(r"\\\1", _line(text))


def _safe(text: object) -> str:
    return escape(_line(text))


# -- one incident -------------------------------------------------------------------------------
def of_incident(detail: View) -> Report:
    """The report of an incident, from the API's answer to it; it need not have ended."""
    one, decision, records = detail["incident"], detail["decision"], detail["records"]
    onset = _time(decision["onset"]) if decision else _time(one["opened"])
    ended = one["outcome"] or one["status"]
    return Report(
        f"{one['id']}: {ended.replace('_', ' ')}",
        (
            _summary(one, ended, onset),
            _delays(one, decision, records, onset),
            _decision(decision),
            measured(one["service"], detail.get("plot")),
            Section(
                "Steps",
                head=("Layer", "From", "To", "Status", "Risks"),
                rows=[(s["layer"], s["before"], s["after"], s["status"], "; ".join(s["risks"])) for s in one["steps"]],
            ),
            _verification(records),
            Section(
                "Evidence",
                head=("Asked", "Says", "Why"),
                rows=[(each["name"], each["verdict"], each["reason"]) for each in one["evidence"]],
            ),
            Section("Timeline", head=("At", "After", "Who", "What"), rows=[_row(record, onset) for record in records]),
            _people(records),
            Section("Data that may be lost", ticks=_losses(one)),
            *(Section(f"After-care: {each['heading']}", ticks=each["items"]) for each in detail["after_care"]),
            Section("Review", fields=[(name, "…") for name in detail["review"]]),
        ),
    )


def _summary(one: View, ended: str, onset: datetime) -> Section:
    return Section(
        "Summary",
        (
            ("Service", one["service"]),
            ("Outcome", ended),
            ("Why", one["reason"]),
            ("Priority", one["priority"]),
            ("Rule", one["rule"]),
            ("Trouble since", moment(onset)),
            ("Opened", moment(one["opened"])),
            ("Closed", moment(one["closed"])),
            ("Watched until", moment(one["watch_until"])),
            ("From", _releases(one["before"])),
            ("To", _releases(one["target"])),
            ("Change blamed", one["change"]),
            ("Plan", one["plan"]),
            ("Acknowledged by", one["acknowledged"]),
            ("Still entered", ", ".join(one["entered"])),
            ("Notes", "; ".join(one["notes"])),
        ),
    )


def _delays(one: View, decision: View | None, records: Sequence[View], onset: datetime) -> Section:
    first = next((_time(r["at"]) for r in records if r["kind"] in {"Entering", "ApplyStarted"}), None)
    closed = _time(one["closed"]) if one["closed"] else None
    return Section(
        "How long it took",
        (
            ("Detection, from the onset to the decision", _between(onset, _time(decision["at"]) if decision else None)),
            ("Start, from the opening to the first step", _between(_time(one["opened"]), first)),
            ("Recovery, from the first step to the end", _between(first, closed)),
            ("All of it, from the onset to the end", _between(onset, closed)),
        ),
    )


def _decision(decision: View | None) -> Section:
    if decision is None:
        return Section("Decision")
    return Section(
        "Decision",
        (("Decided", decision["action"]), ("Evidence", "; ".join(decision["evidence"]))),
        ("Guard", "Says", "Why"),
        [(each["guard"], each["against"] or "passed", each["reason"]) for each in decision["findings"]],
    )


def measured(service: str, plot: View | None) -> Section:
    """What the rule's query said around the onset, drawn and in words; empty where nothing was measured."""
    if plot is None:
        return Section("What was measured")
    query, limit = plot["query"], plot["limit"]
    drawn = incident_plot.drawing(service, plot)
    rows = list(incident_plot.rows(plot))
    return Section("What was measured", (("Query", query), ("Bad when", limit)), incident_plot.HEAD, rows, drawn=drawn)


def _verification(records: Sequence[View]) -> Section:
    rounds = [record for record in records if record["kind"] in {"Gated", "Round"}]
    rows = [(moment(_time(record["at"])), record["kind"].lower(), record["text"]) for record in rounds]
    return Section("Verification", head=("At", "Kind", "Says"), rows=rows)


def _row(record: View, onset: datetime) -> tuple[str, str, str, str]:
    at = _time(record["at"])
    return moment(at), _between(onset, at), record["actor"], record["text"]


def _people(records: Sequence[View]) -> Section:
    said = [record for record in records if str(record["actor"]).startswith(_PEOPLE)]
    return Section(
        "People", head=("Who", "At", "Did"), rows=[(r["actor"], moment(_time(r["at"])), r["text"]) for r in said]
    )


def _losses(one: View) -> list[str]:
    return [f"{step['layer']}: {risk}" for step in one["steps"] for risk in step["risks"]]


def _releases(state: View | None) -> str:
    return ", ".join(f"{layer} {name}" for layer, name in sorted(state["releases"].items())) if state else ""


# -- a month ------------------------------------------------------------------------------------
def of_month(found: View) -> Report:
    """The report of a month, from the API's answer."""
    many = found["rollbacks"]
    counted = (
        Section(heading, head=("What", "How often"), rows=[(one["name"], str(one["count"])) for one in found[key]])
        for heading, key in _COUNTED
    )
    count = Section(
        "Count",
        (
            ("Rollbacks that acted", str(many)),
            ("Recovered", f"{found['recovered']} ({found['success']:.1%})" if many else ""),
            ("Questions that led to nothing", str(found["asked"])),
            ("Decided not to roll back", str(found["refused"])),
            ("Executed drills, and how many were ready", f"{found['drills']}, {found['drills_ready']}"),
        ),
    )
    head = ("What", "How many", "Mean", "95 of 100 within", "Target", "Over it")
    times = Section("How long it took", head=head, rows=[_time_row(one) for one in found["times"]])
    left = Section("Cannot be rolled back now", ticks=found["unready"])
    return Report(f"Rollbacks in {found['month']}", (count, times, *counted, left))


def _time_row(one: View) -> tuple[str, ...]:
    lengths = (_length(one["mean"]), _length(one["p95"]), _length(one["target"]))
    return (one["what"], str(one["count"]), *lengths, str(one["slower"]))


# -- times --------------------------------------------------------------------------------------
def moment(at: datetime | str | None) -> str:
    """A time as `2026-03-01 12:00:00Z`; empty for none."""
    return f"{_time(at).astimezone(UTC):%Y-%m-%d %H:%M:%S}Z" if at else ""


def _time(at: datetime | str) -> datetime:
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)


def _between(since: datetime | None, until: datetime | None) -> str:
    return roughly(until - since) if since is not None and until is not None and until >= since else ""


def _length(seconds: float | None) -> str:
    return roughly(timedelta(seconds=seconds)) if seconds is not None else ""
