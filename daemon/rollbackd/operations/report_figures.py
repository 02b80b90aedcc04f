"""Figures of a month, and the journal's facts as events, for reports and for programs that read along."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil

from rollbackd import facts
from rollbackd.decision.refusals import InvalidOrder
from rollbackd.incident import drill as drill_results
from rollbackd.incident.life import Incident
from rollbackd.model import FLEET, Action, Outcome, incident_service, name_in
from rollbackd.operations.base import OperationsBase
from rollbackd.policy.target import candidates
from rollbackd.views.presenters import record_view
from rollbackd.views.shapes import CountView, EventView, MonthView, TimesView

_MANY = 100_000
_TOP = 20


class ReportOperations(OperationsBase):
    """Nothing is kept: all of it is read off the journal."""

    async def month(self, month: str) -> MonthView:
        """What was done in a month, `2026-03`, in UTC. :raises InvalidOrder: it is no month."""
        begin, end = _span(month)
        journal = self._read_model.journal

        async def found(kinds: Sequence[str]) -> list[facts.Record]:
            records = await journal.latest(kinds, limit=_MANY)
            return [record for record in records if begin <= record.at < end]

        openings = [record.fact for record in await found(facts.kinds(facts.Opening))]
        incidents = [await self._incident(one.incident) for one in openings if not one.drill]
        acted = [one for one in incidents if one.acted]
        refused = [
            one.fact.decision
            for one in await found(facts.kinds(facts.Decided))
            if one.fact.decision.action is Action.REFUSE
        ]
        drills = [one.fact for one in await found(facts.kinds(facts.Drilled)) if one.fact.execute]
        recovered = sum(one.outcome is Outcome.RECOVERED for one in acted)
        targets = self._config.targets
        return MonthView(
            month=month,
            rollbacks=len(acted),
            recovered=recovered,
            success=recovered / len(acted) if acted else 0.0,
            asked=sum(not one.acted and one.outcome is not None for one in incidents),
            refused=len(refused),
            drills=len(drills),
            drills_ready=sum(one.result == drill_results.READY for one in drills),
            times=(
                _times("detection", [one.opened - one.decision.trigger.onset for one in acted]),
                _times("start", [one.begun - one.opened for one in acted if one.begun is not None]),
                _times("recovery", list(_recoveries(acted)), targets.recovery),
            ),
            outcomes=_counted(one.outcome.value if one.outcome is not None else "open" for one in acted),
            causes=_counted(one.decision.trigger.rule for one in acted),
            services=_counted(one.service for one in acted),
            against=_counted(finding.guard for one in refused for finding in one.against),
            unready=tuple(
                f"{service.name}: {why}" for service in self._config.services if (why := self._why_not(service.name))
            ),
        )

    def _why_not(self, service: str) -> str:
        ledger = self._read_model.of(service)
        if ledger.ready is False:
            return "its last drill found that a rollback would not work"
        return "" if candidates(ledger, ledger.present) else "there is nothing that it could go back to"

    async def events(self, after: int = 0, limit: int = 1000, service: str = "") -> tuple[list[EventView], int]:
        """The journal's facts after a place, in order, and the last place that was looked at.

        :raises UnknownName: for a service that there is not.
        """
        if service:
            self._service(service)
        records = await self._read_model.journal.since(after, limit=limit)
        views = [_event(record) for record in records]
        last = records[-1].seq if records else after
        return [view for view in views if service in {"", view.service}], last


def _event(record: facts.Record) -> EventView:
    view = record_view(record)
    kind, _, name = record.stream.partition(":")
    incident = name if kind == "incident" else str(getattr(record.fact, "incident", ""))
    service = incident_service(record.stream) if kind == "incident" else name_in(record.stream) if name else ""
    if record.stream == FLEET:
        service = str(getattr(record.fact, "service", ""))
    return EventView(record.seq, record.at, record.actor, view.kind, service, incident, view.text, view.fact)


def _span(month: str) -> tuple[datetime, datetime]:
    try:
        begin = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidOrder(f'"{month}" is no month; write it like 2026-03') from error
    return begin, (begin + timedelta(days=32)).replace(day=1)


def _recoveries(acted: Iterable[Incident]) -> Iterable[timedelta]:
    return (
        one.closed - one.begun
        for one in acted
        if one.closed is not None and one.begun is not None and one.outcome is Outcome.RECOVERED
    )


def _times(what: str, lengths: Sequence[timedelta], target: timedelta | None = None) -> TimesView:
    seconds = sorted(max(one.total_seconds(), 0.0) for one in lengths)
    if not seconds:
        return TimesView(what, 0, None, None, target.total_seconds() if target else None, 0)
    limit = target.total_seconds() if target is not None else None
    mean, p95 = sum(seconds) / len(seconds), seconds[ceil(0.95 * len(seconds)) - 1]
    return TimesView(what, len(seconds), mean, p95, limit, sum(limit is not None and one > limit for one in seconds))


def _counted(names: Iterable[str]) -> tuple[CountView, ...]:
    return tuple(CountView(name, many) for name, many in Counter(names).most_common(_TOP))
