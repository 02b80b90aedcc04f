"""An incident's plot: no label is written over another, and its table says the same."""

import re
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from pydantic_core import to_jsonable_python

from rollbackd.views import incident_plot, report_text
from rollbackd.views.shapes import PlotMarkView, PlotView
from tests.fakes.operations import NOON, PLOT

MINUTE = timedelta(minutes=1)
KINDS = ("change", "onset", "decision", "rollback", "end")


def drawn(*marks: float) -> ET.Element:
    """A plot of half an hour with marks so many minutes after its begin."""
    begin = NOON - MINUTE * 30
    points = tuple((begin + MINUTE * n, 0.1 * (n % 5)) for n in range(31))
    given = tuple(PlotMarkView(begin + MINUTE * at, kind) for at, kind in zip(marks, KINDS, strict=False))
    view = PlotView("a <b>", points, 0.25, "> 0.25", given)
    return ET.fromstring(incident_plot.drawing("shop", to_jsonable_python(view)))


def labels(svg: ET.Element) -> list[tuple[float, float, float, float]]:
    """Of each mark its label's begin, end and height, and where its line is; about."""
    lines = [one for one in svg.iter() if one.tag.endswith("line") and one.get("class") in KINDS]
    texts = [one for one in svg.iter() if one.tag.endswith("text") and (one.get("class") or "").split()[-1] in KINDS]
    found = []
    for line, text in zip(lines, texts, strict=True):
        at, wide = float(text.get("x", "")), len(text.text or "") * 6.0
        begin = at - wide if (text.get("class") or "").startswith("left") else at
        found.append((begin, begin + wide, float(text.get("y", "")), float(line.get("x1", ""))))
    return found


@pytest.mark.parametrize("marks", [(15, 16, 17, 18, 19), (2, 2, 2, 2, 2), (5, 12, 20, 29), (29, 29.5, 29.8, 30)])
def test_no_label_is_over_another_nor_crossed_by_the_line_of_a_later_one(marks: tuple[float, ...]) -> None:
    svg = drawn(*marks)
    found = labels(svg)
    assert len(found) == len(marks)
    _, top, wide, high = map(float, svg.get("viewBox", "").split())
    for n, (begin, end, height, _) in enumerate(found):
        assert wide >= end
        assert begin >= 0
        assert top <= height - 8 < height <= high + top
        for later in found[n + 1 :]:
            assert end <= later[0] or later[1] <= begin or abs(height - later[2]) >= 10, found
            assert not (begin < later[3] < end and later[2] <= height), "its line goes through the label"


def test_what_is_drawn_is_named_described_and_text() -> None:
    svg = drawn(10, 12)
    named = {one.tag.rpartition("}")[2]: one.text for one in svg}
    assert (svg.get("role"), svg.get("aria-label")) == ("img", named["title"])
    assert named["title"] == "What shop measured around the onset, bad > 0.25"
    assert named["desc"] == "change 11:40:00; onset 11:42:00 (UTC). a <b>"
    assert [one.text for one in svg.iter() if one.get("class") == "limit"] == ["> 0.25"]


def test_a_value_that_is_not_known_is_a_gap_and_what_moves_has_no_threshold() -> None:
    text = incident_plot.standalone("shop", to_jsonable_python(PLOT))
    assert text.count("<polyline") == 2
    moving = to_jsonable_python(PLOT) | {"threshold": None, "limit": ""}
    assert 'class="threshold"' not in incident_plot.drawing("shop", moving)


def test_a_report_has_it_as_a_table_and_its_page_also_as_a_drawing() -> None:
    section = report_text.measured("shop", to_jsonable_python(PLOT))
    report = report_text.Report("shop-1", (section, report_text.measured("shop", None)))
    text = report_text.markdown(report)
    assert text.count("## What was measured") == 1
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| When | From | Until | Least | Middle | Most |",
        "| --- | --- | --- | --- | --- | --- |",
        "| before | 11:30:00 | 11:54:00 | 0.02 | 0.02 | 0.02 |",
        "| after the change | 11:54:00 | 11:55:00 | 0.02 | 0.02 | 0.02 |",
        "| since the onset | 11:55:00 | 12:00:00 | 0.342 | 0.342 | 0.342 |",
        "| after the end | 12:00:00 | 12:01:00 | 0.342 | 0.342 | 0.342 |",
    ]
    page: Any = report_text.html(report)
    assert page.count("<svg") == page.count("</svg>") == 1
    assert re.search(r"<style>.*svg \.value\{", page)
