"""Reports: what is in them is what the journal says, and nothing from outside is markup."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from rollbackd.operations import InvalidOrder
from rollbackd.views import report_text
from rollbackd.views.shapes import EventView, IncidentDetail, RecordView
from tests.fakes.operations import DECIDED, NOON, OPENED
from tests.unit.test_operations import House, opened


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    one = await opened(tmp_path, ())
    yield one
    await one.stage.down()


async def test_a_rollback_is_in_its_report_in_the_months_and_in_the_events(house: House) -> None:
    await house.event("broken")
    await house.pass_(timedelta(minutes=20))
    detail = await house.operations.incident("shop-1")
    assert detail.incident.outcome == "recovered"
    text = report_text.markdown(report_text.of_incident(to_jsonable_python(detail)))
    for said in ("# shop-1: recovered", "## Timeline", "## Decision", "| code | v2 | v1 | done |", "## Verification"):
        assert said in text, text
    assert "Recovery, from the first step to the end" in text

    month = await house.operations.month(f"{house.now:%Y-%m}")
    assert (month.rollbacks, month.recovered, month.success) == (1, 1, 1.0)
    assert [(one.name, one.count) for one in month.causes] == [("broken", 1)]
    assert [(one.what, one.count, one.slower) for one in month.times][-1] == ("recovery", 1, 0)
    assert "100.0%" in report_text.markdown(report_text.of_month(to_jsonable_python(month))).replace("\\", "")
    empty = await house.operations.month("1999-12")
    assert (empty.rollbacks, empty.success, empty.times[0].mean) == (0, 0.0, None)

    read: list[EventView] = []
    last = 0
    while True:
        portion, now = await house.operations.events(last, limit=7)
        read += portion
        if now == last:
            break
        last = now
    assert [one.seq for one in read] == [record.seq for record in house.stage.journal.records]
    closed = [one for one in read if one.kind == "Closed"]
    assert [(one.service, one.incident) for one in closed] == [("shop", "shop-1")]
    schema = Draft202012Validator(TypeAdapter(EventView).json_schema())
    assert [error.message for one in read for error in schema.iter_errors(to_jsonable_python(one))] == []
    mine, _ = await house.operations.events(0, service="desk")
    assert {one.service for one in mine} == {"desk"}


async def test_rounds_and_trouble_in_the_watch_time_are_in_the_report_and_call_people(tmp_path: Path) -> None:
    ten = {"settle": "5s", "every": "30s", "passes": 10, "deadline": "10m", "watch": "15m", "checks": ["health"]}
    house = await opened(tmp_path, (), shop={"verify": ten})

    async def report() -> str:
        detail = to_jsonable_python(await house.operations.incident("shop-1"))
        return report_text.markdown(report_text.of_incident(detail)).replace("\\", "")

    await house.event("broken")
    await house.pass_(timedelta(minutes=8))
    well = await report()
    rounds = re.findall(
        r"^\| ([\d-]+ [\d:]+)Z \| round \| verification good: health, events of broken good \|$", well, re.MULTILINE
    )
    assert len(rounds) == 10
    times = [datetime.fromisoformat(one) for one in rounds]
    assert {after - before for before, after in pairwise(times)} == {timedelta(seconds=30)}
    closed = re.findall(r"- \*\*(Closed|Watched until):\*\* (.*)Z", well)
    (ended, until) = (datetime.fromisoformat(at) for _, at in closed)
    assert until - ended == timedelta(minutes=15)

    await house.event("worse")
    again = await report()
    assert "# shop-1: ineffective" in again
    assert "- **Why:** in trouble again: worse" in again
    assert re.search(r"^\| .* \| daemon \| .*worse.* \|$", again, re.MULTILINE), "it is in the timeline"
    (decision,) = [one for one in await house.operations.decisions("shop") if one.rule == "worse"]
    assert (decision.action, decision.escalate) == ("refuse", True), "nothing goes back again: people are called"
    await house.stage.down()


async def test_what_is_no_month_is_said(house: House) -> None:
    with pytest.raises(InvalidOrder, match='"2026-13" is no month; write it like 2026-03'):
        await house.operations.month("2026-13")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)


_OWN = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "tr", "th", "td", "ul", "li"}


@settings(max_examples=60)
@given(
    st.text(max_size=60) | st.sampled_from(["<img onerror=x>", "</script>", "| a | b |\n# c", "\u202egnp", "`x`<b>"])
)
def test_nothing_from_outside_is_markup(text: str) -> None:
    incident = replace(OPENED, reason=text, change=text, notes=(text,))
    decision = replace(DECIDED, evidence=(text,))
    detail = IncidentDetail(incident, decision, (RecordView(1, NOON, text, "Opened", text),))
    made = report_text.of_incident(json.loads(json.dumps(asdict(detail), default=str)))
    page = _Tags()
    page.feed(report_text.html(made))
    assert page.tags <= _OWN
    rows = [line for line in report_text.markdown(made).splitlines() if line.startswith("| 2026-03-01 12:00:00Z")]
    (row,) = rows
    assert row.replace("\\|", "").count("|") == 5, "a row has its own cells and no others"
    assert "<" not in report_text.markdown(made).replace("\\<", "")
