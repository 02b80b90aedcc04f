"""Reports that come by themselves: a file for each rollback, and the month before, told by the calendar."""

import asyncio
import os
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

from pydantic_core import to_jsonable_python

from rollbackd import facts
from rollbackd.calendar import CalendarEntry
from rollbackd.config.models import Config
from rollbackd.config.schedules import ReportSchedule
from rollbackd.model import FLEET, name_in
from rollbackd.notify.messages.troubles import MONTHLY
from rollbackd.operations import Operations
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.whole_file import whole_file
from rollbackd.views import report_text
from rollbackd.views.shapes import IncidentDetail

UNWRITTEN = "report_unwritten"
_INCIDENT_FACTS = get_args(facts.IncidentFact)
_OF_INCIDENTS = facts.kinds(*_INCIDENT_FACTS)
_STEPS = frozenset(facts.kinds(facts.Entering, facts.ApplyStarted))
_CURSOR = "reports"
_PORTION = 1000
"""Facts that are read at once."""
_SOON = timedelta(seconds=10)
"""The pause after news, in which more comes: who was told, what was checked."""
_AGAIN = timedelta(minutes=5)
"""The pause before a file is tried again that could not be written."""


class Reports:
    """The root task `reports`, and the entries of the calendar."""

    def __init__(self, config: Config, read_model: ReadModel, clock: Clock, operations: Operations) -> None:
        self._config = config
        self._read_model = read_model
        self._clock = clock
        self._operations = operations
        self._news = asyncio.Event()
        self._told: dict[str, datetime] = {}
        """When the month before was told last, by entry of the calendar."""
        self._trouble = ""
        """Why no file could be written last, as people were told."""
        self._log = log.get("reports")
        read_model.subscribe(self._heard)

    def _heard(self, record: facts.Record) -> None:
        if isinstance(record.fact, _INCIDENT_FACTS):
            self._news.set()
        elif isinstance(record.fact, facts.Notice) and record.fact.kind == MONTHLY:
            self._told[record.fact.details["entry"]] = record.at

    # -- a file for each rollback ---------------------------------------------------------------
    async def run(self, directory: Path) -> None:
        """Write for ever: what ended, and what was added to it since. What ended before the first start is passed over.

        How far it has come is in the journal, so that no start leaves one out.

        :raises JournalUnavailable:
        """
        journal = self._read_model.journal
        if not await journal.cursor(_CURSOR):
            await journal.enqueue((), _CURSOR, max(self._read_model.seq, 1))
        while True:
            self._news.clear()
            while records := await journal.since(await journal.cursor(_CURSOR), _OF_INCIDENTS, _PORTION):
                for incident in dict.fromkeys(name_in(record.stream) for record in records):
                    await self._write(directory, incident)
                await journal.enqueue((), _CURSOR, records[-1].seq)
            await self._news.wait()
            await self._clock.sleep(_SOON)

    async def _write(self, directory: Path, incident: str) -> None:
        """Write the report of an incident that has ended and acted; again and again until it can be written."""
        detail = await self._operations.incident(incident)
        if detail.incident.closed is None or not any(record.kind in _STEPS for record in detail.records):
            return
        while True:
            try:
                await asyncio.to_thread(_put, directory, detail)
            except OSError as error:
                await self._tell_trouble(f"{directory}: {error.strerror or error}")
                await self._clock.sleep(_AGAIN)
            else:
                self._trouble = ""
                return

    async def _tell_trouble(self, why: str) -> None:
        if why == self._trouble:
            return
        self._trouble = why
        self._log.error("a report cannot be written", error=why)
        text = f"reports of rollbacks cannot be written: {why}; it is tried again every 5m, and none is left out"
        await self._read_model.tell(facts.Notice(UNWRITTEN, text))

    # -- the month before -----------------------------------------------------------------------
    async def open(self) -> None:
        """Know what was told when. :raises JournalUnavailable:"""
        for record in reversed(await self._read_model.journal.latest(facts.kinds(facts.Notice), FLEET, _PORTION)):
            self._heard(record)

    def planned(self) -> list[CalendarEntry]:
        """Every `{report: month}` of the configuration, as the calendar takes it."""
        entries = {_name(one): one for one in self._config.schedules if isinstance(one, ReportSchedule)}
        return [
            CalendarEntry(name, one.times, partial(self._told.get, name), partial(self._tell_month, name, one))
            for name, one in entries.items()
        ]

    async def _tell_month(self, name: str, entry: ReportSchedule) -> None:
        """Tell it. The fact says that it was told, so that no start tells it twice."""
        today = self._clock.now().astimezone(ZoneInfo(entry.zone))
        month = f"{today.replace(day=1) - timedelta(days=1):%Y-%m}"
        view = await self._operations.month(month)
        said = {one.heading: report_text.text(one) for one in report_text.of_month(to_jsonable_python(view)).sections}
        many = f"{view.rollbacks} rollback{'' if view.rollbacks == 1 else 's'}"
        text = f"{many} in {month}, {view.recovered} recovered; `rollbackd report month {month}` has all of it"
        details = {"entry": name, "receivers": ",".join(entry.to), **{head: one for head, one in said.items() if one}}
        await self._read_model.tell(facts.Notice(MONTHLY, text, details=details))


def _name(entry: ReportSchedule) -> str:
    return f"report month {entry.cron} {entry.zone} {','.join(entry.to)}"


def _put(directory: Path, detail: IncidentDetail) -> None:
    """Both files, for the daemon's group to read. :raises OSError: one cannot be written."""
    directory.mkdir(mode=0o750, exist_ok=True)
    report = report_text.of_incident(to_jsonable_python(detail))
    for suffix, written in (("md", report_text.markdown(report)), ("html", report_text.html(report))):
        with whole_file(directory / f"{detail.incident.id}.{suffix}") as sink:
            os.fchmod(sink.fileno(), 0o640)
            sink.write(written.encode())
