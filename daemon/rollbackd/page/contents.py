"""What each page is of: the API's own views, gathered for its template. There is no other truth here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pydantic import Field
from pydantic_core import to_jsonable_python

from rollbackd import facts
from rollbackd.operations import Operations
from rollbackd.operations.parameters import Reference, RequestFields
from rollbackd.page.service_past import past_of
from rollbackd.system.clock import Clock
from rollbackd.views import condition_labels, report_text
from rollbackd.views.shapes import DecisionView, IncidentView, ServiceView

SHOWN = 100
"""Services, incidents or decisions on one page."""
_TOLD = facts.kinds(facts.Told)
_ELSEWHERE = _TOLD + facts.kinds(facts.Measured)
"""Facts that an incident's page shows elsewhere than among what happened."""
_MONTHS = 13
"""Months that the list of reports names, the present one first."""
_ENDED = 20
"""Incidents that are looked through for ends that people must look at."""


class FleetQuery(RequestFields):
    """The filters of the fleet; they live in the address."""

    find: Reference = ""
    """A part of the name."""
    only: str = Field(default="", pattern=r"^[a-z]{0,20}$")
    """One kind of condition: `bad`, `asks`, `acts`, `doubt`, `good`."""
    page: int = Field(default=1, ge=1, le=10_000)


class ListQuery(RequestFields):
    """The filters of a list."""

    service: Reference = ""
    limit: int = Field(default=SHOWN, ge=1, le=1000)


class ReportQuery(RequestFields):
    """Which month; the present one when none is given."""

    month: str = Field(default="", max_length=10)


@dataclass(frozen=True, slots=True)
class FleetRow:
    """A service, and how it is."""

    service: ServiceView
    condition: condition_labels.ConditionLabel


class PageContents:
    """Gathers what a page shows."""

    def __init__(self, operations: Operations, clock: Clock) -> None:
        self._operations = operations
        self._clock = clock

    async def fleet(self, query: FleetQuery) -> Mapping[str, object]:
        """All services, what needs a person first."""
        services = await self._operations.services()
        incidents = await self._operations.incidents(open_only=True, limit=1000)
        latest = await self._operations.incidents(limit=_ENDED)
        known = {one.id: one for one in incidents}
        rows = [FleetRow(one, condition_labels.of_service(one, known)) for one in services]
        rows.sort(key=lambda row: (row.condition.rank, row.service.name))
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.condition.kind] = counts.get(row.condition.kind, 0) + 1
        found = [
            row for row in rows if query.find.lower() in row.service.name and query.only in {"", row.condition.kind}
        ]
        begin = (query.page - 1) * SHOWN
        waiting = {one.id: one for one in (*incidents, *latest) if condition_labels.needs_a_person(one)}
        return {
            "daemon": await self._operations.daemon(),
            "query": query,
            "rows": found[begin : begin + SHOWN],
            "total": len(services),
            "found": len(found),
            "pages": max(1, -(-len(found) // SHOWN)),
            "counts": counts,
            "people": list(waiting.values())[:SHOWN],
            "holds": [one for one in await self._operations.holds() if one.scope == "*"],
            "refused": [
                one for one in await self._operations.decisions(limit=_ENDED) if one.escalate and not one.incident
            ],
        }

    async def service(self, name: str) -> Mapping[str, object]:
        """One service, with its past."""
        view = await self._operations.service(name)
        states = await self._operations.states(name)
        incidents = await self._operations.incidents(name, limit=_ENDED)
        records = await self._operations.past(name)
        known = {one.id: one for one in incidents}
        return {
            "service": view,
            "condition": condition_labels.of_service(view, known),
            "states": states[:SHOWN],
            "incidents": incidents,
            "past": records,
            "drawing": past_of(name, states, incidents, records, self._clock.now()),
        }

    async def incident(self, name: str) -> Mapping[str, object]:
        """One incident, with all that was decided and done."""
        detail = await self._operations.incident(name)
        daemon = await self._operations.daemon()
        one, now = detail.incident, daemon.now
        return {
            "daemon": daemon,
            "incident": one,
            "decision": detail.decision,
            "plot": detail.plot,
            "measured": report_text.measured(one.service, to_jsonable_python(detail.plot)),
            "condition": condition_labels.of_incident(one),
            "headline": condition_labels.headline(one, detail.decision, now),
            "records": [record for record in detail.records if record.kind not in _ELSEWHERE],
            "told": [record for record in detail.records if record.kind in _TOLD],
        }

    async def report(self, name: str) -> Mapping[str, object]:
        """The report of one incident."""
        detail = await self._operations.incident(name)
        return {"report": report_text.of_incident(to_jsonable_python(detail)), "incident": name, "months": ()}

    async def month(self, query: ReportQuery) -> Mapping[str, object]:
        """The report of a month, and which months there may be others of."""
        first = self._clock.now().replace(day=1)
        months: list[str] = []
        while len(months) < _MONTHS:
            months.append(f"{first:%Y-%m}")
            first = (first - timedelta(days=1)).replace(day=1)
        month = query.month or months[0]
        view = await self._operations.month(month)
        if month not in months:
            months.append(month)
        return {"report": report_text.of_month(to_jsonable_python(view)), "month": month, "months": months}

    async def incidents(self, query: ListQuery) -> Mapping[str, object]:
        found: list[IncidentView] = await self._operations.incidents(query.service, limit=query.limit)
        return {"query": query, "incidents": found}

    async def decisions(self, query: ListQuery) -> Mapping[str, object]:
        """Those that did not act, and why; those that did are with their incidents."""
        found: list[DecisionView] = await self._operations.decisions(query.service, query.limit)
        return {"query": query, "decisions": [one for one in found if one.action != "roll_back"]}
