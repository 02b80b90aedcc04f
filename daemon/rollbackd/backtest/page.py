"""A backtest as one HTML page: no scripts, nothing from elsewhere, and a policy that forbids both."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from rollbackd.backtest.answers import SWEEP_HEAD, head, sweep_rows, words
from rollbackd.backtest.report import PlayedDecision
from rollbackd.backtest.run import Backtest
from rollbackd.rules.samples import own
from rollbackd.rules.spec import QueryWhen
from rollbackd.signals.query_answers import MISSING
from rollbackd.views import plot
from rollbackd.views.markup import Markup, element, together
from rollbackd.views.plot import Line, Moment

_AROUND = timedelta(hours=1)
"""What is shown before the onset, and after the decision."""
_DRAWN = 60
"""Decisions with a plot; all have their words."""
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #1d2433; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25em .7em .25em 0; }
th { border-bottom: 1px solid #c5cad6; } td { border-bottom: 1px solid #eceef3; vertical-align: top; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: #5a6478; }
svg .left { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .grid { stroke: #e4e7ee; } svg .value { fill: none; stroke: #2f6fb5; stroke-width: 1.5; }
svg .threshold { stroke: #c0392b; stroke-dasharray: 5 3; }
svg line.change { stroke: #8a93a6; stroke-dasharray: 2 2; } svg line.people { stroke: #8e44ad; stroke-width: 2; }
svg line.roll_back { stroke: #1e8449; stroke-width: 2; } svg line.ask { stroke: #d68910; stroke-width: 2; }
svg line.refuse, svg line.observe { stroke: #c0392b; }
rect.shared { fill: #82c79b; } rect.alone { fill: #f1c27d; } rect.missed { fill: #e6a09a; }
.roll_back { color: #1e8449; } .ask { color: #b9770e; } .refuse, .observe { color: #a93226; }
section { margin: 2em 0; } li { overflow-wrap: anywhere; } .note { color: #5a6478; }
"""


def page(found: Backtest) -> str:
    """The whole page."""
    hashed = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{hashed}'; base-uri 'none'; form-action 'none'"
    title = f"Backtest, {found.start():%Y-%m-%d} to {found.end():%Y-%m-%d}"
    top = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Markup(_STYLE)),
    )
    body = element("body", element("h1", title), _summary(found), _sweep(found), _table(found), _decisions(found))
    return f"<!doctype html>\n{element('html', top, body, lang='en')}\n"


def _summary(found: Backtest) -> Markup:
    return together(element("p", line, class_="note" if line.startswith("note:") else None) for line in head(found))


def _rows(names: Sequence[str], rows: Iterable[Sequence[str | Markup]]) -> Markup:
    return element(
        "table",
        element("tr", (element("th", name) for name in names)),
        (element("tr", (element("td", cell) for cell in row)) for row in rows),
    )


def _sweep(found: Backtest) -> Markup:
    if not found.variants:
        return Markup("")
    named = [("as configured", found.account), *((f"{one.setting} {one.value}", one.account) for one in found.variants)]
    drawn = [
        (name, [(each.tally.shared, "shared"), (each.tally.rollbacks - each.tally.shared, "alone"),
                (each.tally.missed, "missed")])
        for name, each in named
    ]  # fmt: skip
    return element(
        "section",
        element("h2", "With other settings"),
        element("p", "Green: went back as people did; yellow: went back alone; red: people did, and the play did not."),
        plot.bars("Rollbacks with each setting", drawn),
        _rows(SWEEP_HEAD, sweep_rows(found)),
    )


def _table(found: Backtest) -> Markup:
    decided = [
        (f"{one.at:%Y-%m-%d %H:%M:%S}", one.service, one.rule,
         element("span", one.action.value, class_=one.action.value), one.blamed, one.target, one.people)
        for one in found.account.decisions
    ]  # fmt: skip
    people = [
        (f"{one.at:%Y-%m-%d %H:%M:%S}", one.service, one.left, one.reached, one.played)
        for one in found.account.rollbacks
    ]
    return together(
        element("section", element("h2", "What it would have done"),
                _rows(("when (UTC)", "service", "rule", "it would", "from", "to", "people"), decided)),
        element("section", element("h2", "Where people went back"),
                _rows(("when (UTC)", "service", "from", "to", "the play"), people)),
    )  # fmt: skip


def _decisions(found: Backtest) -> Markup:
    return together(
        element(
            "section",
            element("h3", f"{one.at:%Y-%m-%d %H:%M:%S} {one.service}, {one.rule}: {one.action.value}"),
            list(_plots(found, one)) if number < _DRAWN else [],
            element("ul", (element("li", line) for line in words(one))),
        )
        for number, one in enumerate(found.account.decisions)
    )


def _plots(found: Backtest, one: PlayedDecision) -> Iterator[Markup]:
    """What the rule's queries said around a decision."""
    rule = next((rule for rule in found.config.rules if rule.name == one.rule), None)
    span = (max(found.start(), one.onset - _AROUND), min(found.end(), one.at + _AROUND))
    if rule is None:
        return
    for leaf in rule.leaves:
        if isinstance(leaf, QueryWhen) and found.history.has(leaf.query, ()):
            lines = _lines(found, leaf, one.service, span)
            threshold = leaf.above if leaf.above is not None else leaf.below
            yield plot.timeline(f"{one.service}: {rule.name}", lines, threshold, _marks(found, one), span)


def _marks(found: Backtest, one: PlayedDecision) -> list[Moment]:
    changes = [
        Moment(change.at, change.state.name, "people" if change.rollback else "change")
        for change in found.changes
        if change.service == one.service
    ]
    return [*changes, Moment(one.at, one.action.value, one.action.value)]


def _lines(found: Backtest, leaf: QueryWhen, service: str, span: tuple[datetime, datetime]) -> list[Line]:
    """The service's series; without any that carries its labels those that contradict none."""
    grid = found.grid
    configured = found.config.service(service)
    assert configured is not None
    lines: dict[frozenset[tuple[str, str]], list[tuple[datetime, float]]] = {}
    for polls, rows in found.history.between(leaf.query, grid.poll(span[0]), grid.poll(span[1])):
        for match in configured.match:
            for place in own(((row.labels, n) for n, row in enumerate(rows)), match):
                row = rows[int(place)]
                points = [
                    (grid.at(poll), float("nan") if value == MISSING else value)
                    for poll, value in zip(polls, row.values, strict=True)
                ]
                lines.setdefault(frozenset(row.labels.items()), []).extend(points)
    return [Line(points) for points in lines.values()]
