"""All that people can ask or order, whichever way they come: socket, HTTP, command line, signal files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry

from rollbackd import facts, log
from rollbackd.book import Book
from rollbackd.clock import Clock
from rollbackd.config.models import Config, Service
from rollbackd.incident.life import Incident, fold
from rollbackd.journal import Entry
from rollbackd.judge.bake import Bakery
from rollbackd.judge.engine import Judge
from rollbackd.judge.holds import Holds
from rollbackd.judge.intake import Intake
from rollbackd.judge.live import Live
from rollbackd.judge.situation import Situations
from rollbackd.layers import Layers, LookFailed, resolve
from rollbackd.model import (
    DAEMON,
    FLEET,
    Action,
    Alert,
    Decision,
    Release,
    Request,
    State,
    Trigger,
    incident_stream,
    service_stream,
)
from rollbackd.policy.decide import decide
from rollbackd.policy.target import candidates
from rollbackd.rules.conditions import worst
from rollbackd.rules.tracks import Standing
from rollbackd.runner import Runner
from rollbackd.sources.states import Looker
from rollbackd.sources.webhook import Webhook
from rollbackd.telling import decision_view, finding_view, incident_view, record_view, state_view
from rollbackd.views import (
    DecisionView,
    FindingView,
    HoldView,
    IncidentDetail,
    IncidentView,
    PlanView,
    Readiness,
    RuleView,
    ServiceView,
    StateView,
    StepView,
)

_GOOD = Standing.GOOD
_MANY = 100_000


class NotFound(Exception):  # noqa: N818  # an answer
    """There is no such thing; the sentence says what there is."""


class Invalid(Exception):  # noqa: N818  # an answer
    """An argument makes no sense; the sentence says what to write instead."""


class Refused(Exception):  # noqa: N818  # an answer
    """Understood, and not done now."""

    def __init__(self, text: str, findings: tuple[FindingView, ...] = ()) -> None:
        super().__init__(text)
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Parts:
    """What the desk speaks for; built once, in `app.py`."""

    config: Config
    book: Book
    live: Live
    clock: Clock
    judge: Judge
    situations: Situations
    intake: Intake
    holds: Holds
    bakery: Bakery
    looker: Looker
    layers: Mapping[str, Layers]
    runner: Runner
    registry: CollectorRegistry


class Desk:
    """Every order is journaled with its actor before anything happens."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._book = parts.book
        self._config = parts.config
        self.registry = parts.registry
        self._log = log.get("desk")

    # -- asking ---------------------------------------------------------------------------------
    def _service(self, name: str) -> Service:
        service = self._config.service(name)
        if service is None:
            known = ", ".join(one.name for one in self._config.services[:20])
            raise NotFound(f'there is no service "{name}"; there are: {known}')
        return service

    async def services(self) -> list[ServiceView]:
        """All of them, at a glance."""
        return [self._view(service, detailed=False) for service in self._config.services]

    async def service(self, name: str) -> ServiceView:
        """One, with what each rule says of it. :raises NotFound:"""
        return self._view(self._service(name), detailed=True)

    def _view(self, service: Service, *, detailed: bool) -> ServiceView:
        parts = self._parts
        ledger = self._book.of(service.name)
        present = ledger.present
        found = candidates(ledger, present)
        seen = parts.live.seen(service.name, parts.clock.now())
        listed = tuple(hold for hold in parts.holds.listed() if hold.scope in {"*", service.name}) if detailed else ()
        problem = parts.looker.problems.get(service.name, "")
        cannot = f"its layers cannot be looked at: {problem}" if problem else ""
        if not cannot and not found:
            cannot = self.cannot(service)
        spell = ledger.spells[-1] if ledger.spells else None
        return ServiceView(
            name=service.name,
            mode=self._config.mode(service),
            priority=service.priority.value,
            health=worst([one.standing for one in seen]).value,
            present=state_view(ledger, present, spell) if present is not None else None,
            target=state_view(ledger, found[0].state) if found else None,
            cannot=cannot,
            incident=ledger.open.incident if ledger.open is not None else "",
            holds=listed or self._brief_holds(service.name),
            rules=tuple(RuleView(one.rule, one.standing.value, one.reason, one.since) for one in seen),
            baked=parts.bakery.share(service),
        )

    def _brief_holds(self, service: str) -> tuple[HoldView, ...]:
        return tuple(HoldView(service, "", text, "") for text in self._parts.holds(service, {}))

    def cannot(self, service: Service) -> str:
        """Why there is nothing to go back to, and what would make it so."""
        trigger = self._trial(service, Request(service.name, DAEMON))
        text = self._parts.situations.quick(trigger).no_target
        seen = self._parts.live.seen(service.name, self._parts.clock.now())
        waits = [f"{one.rule} is {one.standing.value} ({one.reason})" for one in seen if one.standing is not _GOOD]
        return f"{text}; the present state does not bake while {', '.join(waits)}" if waits else text

    async def states(self, service: str) -> list[StateView]:
        """A service's history, newest first; then states marked good that never ran here. :raises NotFound:"""
        self._service(service)
        ledger = self._book.of(service)
        ran = {spell.state.key for spell in ledger.spells}
        views = [state_view(ledger, spell.state, spell) for spell in reversed(ledger.spells)]
        return views + [state_view(ledger, state) for state in reversed(ledger.marked) if state.key not in ran]

    async def incidents(self, service: str = "", open_only: bool = False, limit: int = 50) -> list[IncidentView]:
        """Newest first. :raises NotFound: for a service that there is not."""
        if service:
            self._service(service)
        openings = await self._book.journal.latest(("Opening",), limit=_MANY if service or open_only else limit)
        still_open = set(self._book.open_incidents())
        names = [
            record.fact.incident
            for record in openings
            if (not service or record.fact.service == service) and (not open_only or record.fact.incident in still_open)
        ]
        found = [await self._incident(name) for name in names[:limit]]
        return [incident_view(one, self._book.of(one.service)) for one in found]

    async def _incident(self, name: str) -> Incident:
        incident = await self._book.incident(name)
        if incident is None:
            raise NotFound(f'there is no incident "{name}"; `rollbackd incidents` lists them')
        return incident

    async def incident(self, id: str, after: int = 0, wait: timedelta = timedelta()) -> IncidentDetail:  # noqa: A002
        """One, with its facts after a place; waits so long for news when there are none yet. :raises NotFound:"""
        stream = incident_stream(id)
        journal = self._book.journal
        deadline = self._parts.clock.monotonic() + wait.total_seconds()
        newest = await journal.changed(0, timedelta())
        records = await journal.read(stream)
        while records and records[-1].n <= after:
            left = deadline - self._parts.clock.monotonic()
            if left <= 0:
                break
            newest = await journal.changed(newest, timedelta(seconds=left))
            records = await journal.read(stream)
        incident = fold(records)
        if incident is None:
            raise NotFound(f'there is no incident "{id}"; `rollbackd incidents` lists them')
        return IncidentDetail(
            incident=incident_view(incident, self._book.of(incident.service)),
            decision=decision_view(incident.decision, incident.opened),
            records=tuple(record_view(record) for record in records if record.n > after),
        )

    async def decisions(self, service: str = "", limit: int = 50) -> list[DecisionView]:
        """Newest first. :raises NotFound:"""
        if service:
            self._service(service)
        stream = service_stream(service) if service else ""
        records = await self._book.journal.latest(("Decided",), stream, limit)
        return [decision_view(record.fact.decision, record.at) for record in records]

    async def plan(self, request: Request) -> PlanView:
        """What a rollback would be, and what would be decided now; nothing is touched. :raises NotFound: Invalid:"""
        service = self._check(request)
        trigger = self._trial(service, request)
        given = await self._parts.situations.full(trigger)
        automatic = Trigger(service.name, "trial", service.priority, trigger.episode, trigger.onset, trigger.reached)
        trial = decide(automatic, given, service.plan)
        ordered = decide(trigger, given, service.plan)
        ledger = self._book.of(service.name)
        problems = [finding.reason for finding in ordered.against]
        target = given.target.state if given.target is not None else None
        return PlanView(
            service=service.name,
            plan=", then ".join(ordered.plans),
            present=state_view(ledger, given.present) if given.present is not None else None,
            target=state_view(ledger, target) if target is not None else None,
            steps=tuple(
                StepView(one.layer, one.before.name, one.after.name, "waiting", one.reversible, one.risks)
                for one in given.changes
            ),
            brackets=service.plans[ordered.plans[0]].within,
            problems=tuple(problems),
            action=trial.action.value,
            findings=tuple(finding_view(finding) for finding in trial.findings),
        )

    def _trial(self, service: Service, request: Request, episode: str = "") -> Trigger:
        now = self._parts.clock.now()
        stamp = episode or f"manual/{service.name}/{now.isoformat()}"
        return Trigger(service.name, "manual", service.priority, stamp, now, now, request=request)

    def _check(self, request: Request) -> Service:
        service = self._service(request.service)
        if request.plan and request.plan not in service.plans:
            raise Invalid(f'{service.name} has no plan "{request.plan}"; it has: {", ".join(service.plans)}')
        unknown = set(request.irreversible) - set(service.layers)
        if unknown:
            raise Invalid(f'{service.name} has no layer "{min(unknown)}"; it has: {", ".join(service.layers)}')
        return service

    # -- ordering -------------------------------------------------------------------------------
    async def rollback(self, request: Request, episode: str = "", handled: Sequence[int] = ()) -> str:
        """A person's own rollback; the incident's id. One that is open already is joined, unless it is to go elsewhere.

        `episode` names an order that may come twice, such as a file, and `handled` its row of the inbox.

        :raises NotFound: Invalid: Refused:
        """
        service = self._check(request)
        running = self._book.of(service.name).open
        elsewhere = request.to or request.plan or request.irreversible or request.over_hold
        if running is not None and not elsewhere and not (await self._incident(running.incident)).parked:
            joined = facts.Joined(self._trial(service, request))
            await self._book.append(Entry(incident_stream(running.incident), joined, request.actor))
            self._parts.runner.poke(running.incident)
            return running.incident
        decision = await self._parts.judge.consider(self._trial(service, request, episode), handled)
        if decision.action is not Action.ROLL_BACK:
            views = tuple(finding_view(finding) for finding in decision.findings)
            raise Refused(f"{service.name} is not rolled back: {_against(decision)}", views)
        return decision.joins

    async def abort(self, incident: str, actor: str, reason: str = "") -> None:
        """Stop it at the next boundary. :raises NotFound: Refused: when it is closed."""
        found = await self._incident(self._by_service(incident))
        if found.outcome is not None:
            raise Refused(f"{found.id} has ended: {found.outcome.value}")
        await self._book.append(Entry(incident_stream(found.id), facts.AbortRequested(reason), actor))
        self._parts.runner.poke(found.id)

    def _by_service(self, name: str) -> str:
        """An incident's id; of a service the open one, else the last."""
        if self._config.service(name) is None:
            return name
        rollbacks = self._book.of(name).rollbacks
        return rollbacks[-1].incident if rollbacks else name

    async def acknowledge(self, incident: str, actor: str, leave: bool = False) -> None:
        """Somebody has seen it: an incident, what was refused for a service, or `*`, notices of rollbackd's own.

        `leave`: every bracket that is still entered is left. :raises NotFound:
        """
        if incident == "*":
            await self._book.append(Entry(FLEET, facts.NoticeAcknowledged(), actor))
            return
        if self._config.service(incident) is not None:
            await self._book.append(Entry(service_stream(incident), facts.NoticeAcknowledged(), actor))
            rollbacks = self._book.of(incident).rollbacks
            if not rollbacks:
                return
            incident = rollbacks[-1].incident
        found = await self._incident(incident)
        await self._book.append(Entry(incident_stream(found.id), facts.Acknowledged(leave), actor))
        self._parts.runner.poke(found.id)

    async def holds(self) -> list[HoldView]:
        """Everything that holds anything."""
        return self._parts.holds.listed()

    def _hold_stream(self, scope: str) -> str:
        return FLEET if scope == "*" else service_stream(self._service(scope).name)

    async def hold(self, scope: str, actor: str, reason: str, until: datetime | None) -> None:
        """A stop sign for a service, or `*`. :raises NotFound: Invalid:"""
        if until is not None and until <= self._parts.clock.now():
            raise Invalid(f"until {until.isoformat()} is in the past")
        await self._book.append(Entry(self._hold_stream(scope), facts.Held(reason, until), actor))
        self._parts.runner.wake_all()

    async def unhold(self, scope: str, actor: str) -> None:
        """Lift a hold made by `hold`. :raises Refused: when there is none; what else holds it, and what lifts that."""
        stream = self._hold_stream(scope)
        ledger = self._book.fleet if scope == "*" else self._book.of(scope)
        if ledger.hold is None or not ledger.hold.holds(self._parts.clock.now()):
            raise Refused(self._parts.holds.how_to_lift(scope))
        await self._book.append(Entry(stream, facts.Unheld(), actor))
        self._parts.runner.wake_all()

    async def resume(self, actor: str, reason: str = "") -> None:
        """Let automatic rollbacks go on after the breaker stopped them."""
        await self._book.append(Entry(FLEET, facts.BreakerReset(reason), actor))

    async def good(self, service: str, releases: Mapping[str, str], actor: str) -> StateView:
        """Mark a state good: the present one, with these layers' releases instead.

        :raises NotFound: Invalid: Refused:
        """
        found = self._service(service)
        if self._book.of(service).open is not None:
            raise Refused(f"{service} is being rolled back; mark it good when that is over")
        present = await self._parts.looker.look(service)
        if present is None:
            problem = self._parts.looker.problems.get(service, "two looks differ, something is being deployed")
            raise Invalid(f"the present state cannot be told: {problem}")
        try:
            resolved = await self._resolve(found, releases)
        except LookFailed as error:
            raise Invalid(str(error)) from error
        state = State({**present.releases, **resolved})
        if blocked := self._book.of(service).blocked(state):
            raise Refused(f"{', '.join(blocked)} is quarantined; lift that first: `rollbackd quarantine --lift`")
        entry = Entry(service_stream(service), facts.MarkedGood(state, f"marked by {actor}"), actor)
        await self._book.append(entry)
        return state_view(self._book.of(service), state)

    async def _resolve(self, service: Service, named: Mapping[str, str]) -> dict[str, Release]:
        """Releases by layer; the key "" is the only layer that has any. :raises Invalid: LookFailed:"""
        if not named:
            return {}
        there = await self._parts.layers[service.name].there()
        found = {}
        for layer, text in named.items():
            if not layer and len(there) != 1:
                raise Invalid(f"say LAYER={text}; {service.name} has the layers {', '.join(there)}")
            name = layer or next(iter(there))
            if name not in there:
                raise Invalid(f'{service.name} has no layer "{name}" with releases; it has: {", ".join(there)}')
            found[name] = resolve(name, text, there[name])
        return found

    async def quarantine(self, service: str, releases: Mapping[str, str], actor: str, lift: bool = False) -> None:
        """Releases that are never a target, or are one again. :raises NotFound: Invalid:"""
        found = self._service(service)
        if not releases:
            raise Invalid("name the releases as LAYER=RELEASE")
        ledger = self._book.of(service)
        known = {(layer, ident) for layer, ident in ledger.quarantined}
        try:
            resolved = {layer: release.id for layer, release in (await self._resolve(found, releases)).items()}
        except LookFailed as error:
            exact = dict(releases)
            if not lift or not set(exact.items()) <= known:
                raise Invalid(str(error)) from error
            resolved = exact
        if lift and not set(resolved.items()) <= known:
            raise Invalid(f"not quarantined: {', '.join(f'{layer}={ident}' for layer, ident in resolved.items())}")
        why = f"by {actor}"
        fact = facts.QuarantineLifted(resolved, why) if lift else facts.Quarantined(resolved, why)
        await self._book.append(Entry(service_stream(service), fact, actor))

    # -- alerts and health ----------------------------------------------------------------------
    def wants(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels belongs to a service and a rule."""
        return self._parts.live.wanted(labels) is not None

    async def receive(self, alerts: Sequence[Alert], actor: str) -> tuple[int, int, int]:
        """Accepted, duplicates, unmatched; on disk when it returns. :raises JournalUnavailable:"""
        counts = await self._parts.intake.receive(alerts)
        self._log.debug("alerts", actor=actor, accepted=counts[0], duplicates=counts[1], unmatched=counts[2])
        return counts

    async def complete(self, webhook: Webhook) -> None:
        """A truncated group is completed from Alertmanager, when one is configured."""
        await self._parts.intake.complete(webhook)

    async def readiness(self) -> Readiness:
        """Whether it could do its work right now. A service that has no target yet is a note, not a problem."""
        problems = [f"{name}: {text}" for name, text in sorted(self._parts.looker.problems.items())]
        if self._book.trouble:
            problems.append(f"the journal cannot be written: {self._book.trouble}")
        if self._parts.intake.unreachable:
            problems.append(self._parts.intake.unreachable)
        notes = []
        for service in self._config.services:
            ledger = self._book.of(service.name)
            if not candidates(ledger, ledger.present):
                notes.append(f"cannot roll back {service.name} yet: {self.cannot(service)}")
        return Readiness(not problems, tuple(problems), tuple(notes))


def _against(decision: Decision) -> str:
    over = f" (`rollbackd rollback {decision.trigger.service} --over-hold` goes over that)"
    return "; ".join(finding.reason + (over if finding.guard == "hold" else "") for finding in decision.against)
