"""What people can ask. Nothing is touched."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from string import Template
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError

from rollbackd import __version__, facts
from rollbackd.config.load import load_service
from rollbackd.config.models import Service
from rollbackd.execution.check_runner import asked_by
from rollbackd.incident.life import Incident
from rollbackd.model import (
    DAEMON,
    Request,
    Verdict,
    incident_stream,
    service_stream,
)
from rollbackd.operations.base import OperationsBase
from rollbackd.policy.guards import failures_in_a_row
from rollbackd.policy.target import candidates
from rollbackd.rules.conditions import worst
from rollbackd.rules.tracks import Standing
from rollbackd.state import step_durations
from rollbackd.syntax.addresses import is_of_this_host, is_url
from rollbackd.syntax.units import format_duration, whole_seconds
from rollbackd.system.redaction import without_passwords
from rollbackd.views.presenters import (
    check_view,
    decision_view,
    incident_view,
    plot_view,
    record_view,
    state_view,
    verification_view,
    waiting,
)
from rollbackd.views.shapes import (
    DaemonView,
    DecisionView,
    HealthView,
    HoldView,
    IncidentDetail,
    IncidentView,
    PlotView,
    Readiness,
    ReceiverView,
    RecordView,
    RuleView,
    ServiceView,
    StateView,
    TickList,
)

_GOOD = Standing.GOOD
_UNSEEN = Standing.INCONCLUSIVE
"""What is said of a service where nobody looks at it."""
_MANY = 100_000
_PAST = facts.kinds(
    facts.Changed, facts.MarkedGood, facts.MarkTaken, facts.Quarantined, facts.QuarantineLifted, facts.Held,
    facts.Unheld, facts.Announced, facts.Confirmed, facts.Decided, facts.Drilled,
)  # fmt: skip
"""What a service's past is told by."""


class StateQueries(OperationsBase):
    """Services, their states, incidents and decisions, from the journal and the rules."""

    async def services(self) -> list[ServiceView]:
        """All of them, at a glance."""
        return [self._view(service, detailed=False) for service in self._config.services]

    async def service(self, name: str) -> ServiceView:
        """One, with what each rule says of it. :raises UnknownName:"""
        return self._view(self._service(name), detailed=True)

    async def checks(self, name: str) -> HealthView:
        """What its checks say right now; nothing comes of it. :raises UnknownName:"""
        service = self._service(name)
        needed = asked_by([service.verify])
        others = [check for check in service.checks if check not in needed]
        results = await self._parts.check_runner.run(service, [*needed, *others])
        asked = results[: len(needed)]
        counted = [one for one in asked if not one.warn]
        told = [*(one for one in asked if one.warn), *results[len(needed) :]]
        return HealthView(
            service=name,
            healthy=all(one.verdict is Verdict.GOOD for one in counted),
            checks=tuple(check_view(one) for one in counted),
            others=tuple(check_view(one) for one in told),
        )

    def _view(self, service: Service, *, detailed: bool) -> ServiceView:
        parts = self._parts
        ledger = self._read_model.of(service.name)
        present = ledger.present
        found = candidates(ledger, present)
        seen = parts.rule_states.seen(service.name, parts.clock.now()) if parts.standing_by is None else []
        listed = tuple(hold for hold in parts.holds.listed() if hold.scope in {"*", service.name}) if detailed else ()
        problem = parts.state_watcher.problems.get(service.name, "")
        cannot = f"its layers cannot be looked at: {problem}" if problem else ""
        if not cannot and not found:
            cannot = self.cannot(service)
        spell = ledger.spells[-1] if ledger.spells else None
        drill = parts.drills.found.get(service.name)
        return ServiceView(
            name=service.name,
            mode=self._config.mode(service),
            priority=service.priority.value,
            health=(worst([one.standing for one in seen]) if parts.standing_by is None else _UNSEEN).value,
            present=state_view(ledger, present, spell) if present is not None else None,
            target=state_view(ledger, found[0].state) if found else None,
            cannot=cannot,
            incident=ledger.open.incident if ledger.open is not None else ledger.drill,
            holds=listed or self._brief_holds(service.name),
            rules=tuple(RuleView(one.rule, one.standing.value, one.reason, one.since) for one in seen),
            baked=parts.bake_timer.share(service),
            waiting=waiting(ledger, service.name, parts.clock.now()),
            asks=ledger.open is not None and ledger.open.waits,
            drilled=drill.at if drill is not None else None,
            unready=drill.problems if drill is not None else (),
        )

    def _brief_holds(self, service: str) -> tuple[HoldView, ...]:
        return tuple(HoldView(service, "", text, "") for text in self._parts.holds(service, {}))

    def cannot(self, service: Service) -> str:
        """Why there is nothing to go back to, and what would make it so."""
        trigger = self._trial(service, Request(service.name, DAEMON))
        text = self._parts.situations.quick(trigger).no_target
        if self._parts.standing_by is not None:
            return text
        seen = self._parts.rule_states.seen(service.name, self._parts.clock.now())
        waits = [f"{one.rule} is {one.standing.value} ({one.reason})" for one in seen if one.standing is not _GOOD]
        return f"{text}; the present state does not bake while {', '.join(waits)}" if waits else text

    async def states(self, service: str) -> list[StateView]:
        """A service's history, newest first; then states marked good that never ran here. :raises UnknownName:"""
        self._service(service)
        ledger = self._read_model.of(service)
        ran = {spell.state.key for spell in ledger.spells}
        views = [state_view(ledger, spell.state, spell) for spell in reversed(ledger.spells)]
        return views + [state_view(ledger, state) for state in reversed(ledger.marked) if state.key not in ran]

    async def incidents(
        self, service: str = "", open_only: bool = False, limit: int = 50, before: int = 0
    ) -> list[IncidentView]:
        """Newest first; with `before` only those from before a place. :raises UnknownName: for a service that there is
        not.
        """
        if service:
            self._service(service)
        if open_only:
            found = [await self._incident(name) for name in self._read_model.open_incidents()]
            found = [one for one in found if service in {"", one.service}]
            found.sort(key=lambda one: one.opened, reverse=True)
            return [incident_view(one, self._read_model.of(one.service)) for one in found[:limit]]
        most = _MANY if service else limit
        openings = await self._read_model.journal.latest(facts.kinds(facts.Opening), limit=most, before=before)
        own = [record for record in openings if service in {"", record.fact.service}]
        shown = {record.seq: await self._incident(record.fact.incident) for record in own[:limit]}
        return [replace(incident_view(one, self._read_model.of(one.service)), seq=seq) for seq, one in shown.items()]

    async def incident(self, id: str, after: int = 0, wait: timedelta = timedelta()) -> IncidentDetail:  # noqa: A002
        """One, with its facts after a place; waits so long for news when there are none yet. :raises UnknownName:"""
        found = await self._incident(id)
        journal = self._read_model.journal
        deadline = self._parts.clock.monotonic() + wait.total_seconds()
        while found.n <= after and (left := deadline - self._parts.clock.monotonic()) > 0:
            await journal.changed(self._read_model.seq, timedelta(seconds=left))
            await self._read_model.refresh()
            found = await self._incident(id)
        records = await journal.read(incident_stream(id), after) if found.n > after else []
        measured = [one.fact for one in records if isinstance(one.fact, facts.Measured)] if not after else []
        return IncidentDetail(
            incident=await self._detailed(found),
            decision=decision_view(found.decision, found.opened),
            records=tuple(record_view(record) for record in records if record.n <= found.n),
            plot=self._plot(found, measured[-1]) if measured else None,
            **self._asked_of_people(found),
        )

    def _plot(self, incident: Incident, measured: facts.Measured) -> PlotView:
        """What was measured, with the way to Prometheus's own graph of it."""
        view, asked = plot_view(incident, measured), self._config.prometheus
        address = asked.addresses[0] if asked is not None else ""
        if not isinstance(address, str) or not is_url(address) or is_of_this_host(address):
            return view
        end = measured.begin + measured.step * len(measured.values)
        length = format_duration(whole_seconds(end - measured.begin))
        graph = {"expr": measured.query, "tab": "0", "range_input": length, "end_input": f"{end:%Y-%m-%d %H:%M:%S}"}
        words = urlencode({f"g0.{key}": value for key, value in graph.items()})
        return replace(view, url=f"{without_passwords(address).rstrip('/')}/graph?{words}")

    def _asked_of_people(self, incident: Incident) -> dict[str, Any]:
        """What the report asks of people, with the incident's values."""
        lists = self._config.reports
        values = {
            "service": incident.service,
            "incident": incident.id,
            "priority": incident.priority,
            "outcome": incident.outcome or "open",
        }

        def filled(texts: Iterable[str]) -> tuple[str, ...]:
            return tuple(Template(text).safe_substitute(values) for text in texts)

        after_care = tuple(TickList(name, filled(items)) for name, items in lists.after_care.items())
        return {"after_care": after_care, "review": filled(lists.review)}

    async def _detailed(self, incident: Incident) -> IncidentView:
        """An incident with how far it is, and how long each step took before."""
        view = incident_view(incident, self._read_model.of(incident.service))
        if incident.outcome is not None:
            return view
        took = await step_durations.of_steps(self._read_model.journal, incident.service)
        steps = tuple(replace(step, expected=took.get(step.layer)) for step in view.steps)
        try:
            service = load_service(incident.config)
        except ValidationError:  # a plugin that it needs is gone; the runner says so
            return replace(view, steps=steps)
        verification = verification_view(incident, service.verified_by(incident.running))
        return replace(view, steps=steps, verification=verification)

    async def past(self, service: str, limit: int = 200) -> list[RecordView]:
        """What happened to a service: its states, marks, changes, decisions and holds, newest first.

        :raises UnknownName:
        """
        stream = service_stream(self._service(service).name)
        return [record_view(record) for record in await self._read_model.journal.latest(_PAST, stream, limit)]

    async def news(self, seq: int, wait: timedelta) -> int:
        """The journal's place, as soon as it is past `seq`, or when the time is over."""
        newest = await self._read_model.journal.changed(seq, wait)
        if newest > self._read_model.seq:
            await self._read_model.refresh()
        return newest

    async def daemon(self) -> DaemonView:
        """The daemon itself: whether it could do its work, whom it hears, and whom it tells."""
        parts = self._parts
        readiness = await self.readiness()
        row = failures_in_a_row(self._read_model.fleet)
        stopped = row >= self._config.limits.breaker.failures
        return DaemonView(
            name=self._config.daemon.called,
            driver=self._driver(),
            version=__version__,
            now=parts.clock.now(),
            ready=readiness.ready,
            problems=readiness.problems,
            breaker=f"{row} rollbacks in a row did not help: none begins by itself" if stopped else "",
            polled=parts.polls.polled if parts.polls is not None else None,
            poll_problem=without_passwords(parts.polls.problem) if parts.polls is not None else "",
            received=parts.intake.posted,
            receivers=tuple(ReceiverView(name, many) for name, many in parts.waiting().items()),
        )

    def _driver(self) -> str:
        if self._parts.standing_by is not None:
            return f"stands by; {self._parts.standing_by()}"
        return f"{self._config.daemon.here} drives" if self._config.daemon.standby else ""

    async def decisions(self, service: str = "", limit: int = 50, before: int = 0) -> list[DecisionView]:
        """Newest first; with `before` only those from before a place. :raises UnknownName:"""
        if service:
            self._service(service)
        stream = service_stream(service) if service else ""
        records = await self._read_model.journal.latest(facts.kinds(facts.Decided), stream, limit, before)
        return [replace(decision_view(record.fact.decision, record.at), seq=record.seq) for record in records]

    async def readiness(self) -> Readiness:
        """Whether it could do its work right now. A service that has no target yet is a note, not a problem.

        Where the world has nothing to say of a rule, that is a problem to look at; we are ready all the same.
        """
        if self._parts.standing_by is not None:
            trouble = self._read_model.trouble
            problems = [f"the journal cannot be written: {trouble}"] if trouble else []
            return Readiness(not problems, tuple(problems), (f"stands by: {self._parts.standing_by()}",))
        problems = list(self._parts.vitals.problems)
        problems += [f"{name}: {text}" for name, text in sorted(self._parts.state_watcher.problems.items())]
        if self._read_model.trouble:
            problems.append(f"the journal cannot be written: {self._read_model.trouble}")
        if self._parts.intake.unreachable:
            problems.append(self._parts.intake.unreachable)
        ready = not problems
        for rule, name, reason, broken in self._parts.rule_states.all_unjudged():
            problems.append(f"rule {rule} cannot be judged for {name}: {reason}")
            ready = ready and not broken
        notes = []
        for service in self._config.services:
            ledger = self._read_model.of(service.name)
            if not candidates(ledger, ledger.present):
                notes.append(f"cannot roll back {service.name} yet: {self.cannot(service)}")
            elif (drill := self._parts.drills.found.get(service.name)) is not None:
                problems += [f"a rollback of {service.name} would not work: {text}" for text in drill.problems]
        return Readiness(ready, tuple(map(without_passwords, problems)), tuple(map(without_passwords, notes)))
