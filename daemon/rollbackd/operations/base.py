"""What every operation needs: the daemon's parts, and a service or an incident by its name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from rollbackd import facts
from rollbackd.config.models import Config, Service
from rollbackd.decision.bake_timer import BakeTimer
from rollbackd.decision.engine import DecisionEngine
from rollbackd.decision.holds import ActiveHolds
from rollbackd.decision.refusals import InvalidOrder, UnknownName
from rollbackd.decision.situation import SituationReader
from rollbackd.drills import DrillRunner
from rollbackd.execution.check_runner import CheckRunner
from rollbackd.execution.layers import Layers, resolve
from rollbackd.execution.runner import Runner
from rollbackd.incident.fold import evolve
from rollbackd.incident.life import Incident
from rollbackd.journal import Conflict, Entry, JournalUnavailable
from rollbackd.model import Release, Request, Trigger, incident_service, incident_stream
from rollbackd.signals.intake import SignalIntake
from rollbackd.signals.polls import PrometheusPolls
from rollbackd.signals.rule_state import RuleStates
from rollbackd.signals.state_watcher import StateWatcher
from rollbackd.snapshots import SnapshotManager
from rollbackd.state.read_model import ReadModel
from rollbackd.system import log
from rollbackd.system.clock import Clock
from rollbackd.system.vitals import Vitals
from rollbackd.trials.alert_trial import AlertTrials
from rollbackd.trials.live_check import LiveCheck
from rollbackd.trials.passage import AlertPassages
from rollbackd.trials.receiver_trial import ReceiverTrials

_RACES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationsParts:
    """The parts of the daemon that are asked and ordered; built once, in `core.py`."""

    config: Config
    read_model: ReadModel
    rule_states: RuleStates
    clock: Clock
    decision_engine: DecisionEngine
    situations: SituationReader
    check_runner: CheckRunner
    intake: SignalIntake
    holds: ActiveHolds
    bake_timer: BakeTimer
    state_watcher: StateWatcher
    layers: Mapping[str, Layers]
    runner: Runner
    registry: CollectorRegistry
    drills: DrillRunner
    alert_trials: AlertTrials
    receiver_trials: ReceiverTrials
    passages: AlertPassages
    live_check: LiveCheck
    snapshot_manager: SnapshotManager
    vitals: Vitals
    polls: PrometheusPolls | None
    waiting: Callable[[], Mapping[str, int]]
    """How many messages wait for each receiver."""
    standing_by: Callable[[], str] | None = None
    """A sentence on who drives, where that is another daemon."""


class OperationsBase:
    """Finds what an order names."""

    def __init__(self, parts: OperationsParts) -> None:
        self._parts = parts
        self._read_model = parts.read_model
        self._config = parts.config
        self.registry = parts.registry
        self.snapshot_manager = parts.snapshot_manager
        self.give_away: Callable[[], None] | None = None
        """Lets another host drive, where there may be one."""
        self._log = log.get("operations").bind()  # each line would bind it anew

    @property
    def standing_by(self) -> str:
        """A sentence on who drives, where that is another daemon; else empty."""
        return self._parts.standing_by() if self._parts.standing_by is not None else ""

    def _service(self, name: str) -> Service:
        service = self._config.service(name)
        if service is None:
            known = ", ".join(one.name for one in self._config.services[:20])
            raise UnknownName(f'there is no service "{name}"; there are: {known}')
        return service

    async def _incident(self, name: str) -> Incident:
        incident = await self._read_model.incident(name)
        if incident is None:
            raise UnknownName(f'there is no incident "{name}"; `rollbackd incidents` lists them')
        return incident

    def _by_service(self, name: str) -> str:
        """An incident's id; of a service the open one, else the last.

        :raises UnknownName: a service that never had one.
        :raises InvalidOrder: a service and an open incident of another one have the same name.
        """
        if self._config.service(name) is None:
            return name
        rollbacks = self._read_model.of(name).rollbacks
        if name in self._read_model.open_incidents():
            other = incident_service(incident_stream(name))
            own = f", or {rollbacks[-1].incident}" if rollbacks else ""
            raise InvalidOrder(f'"{name}" is a service, and an open incident of {other}: say {other}{own}')
        if not rollbacks:
            raise UnknownName(f"{name} has no incident")
        return rollbacks[-1].incident

    async def _say(self, incident: str, actor: str, word: Callable[[Incident], facts.IncidentFact | None]) -> Incident:
        """Write what a person says of an incident as it is right then; the incident with that in it.

        `word` looks at it and gives the fact, None when it was said before, or refuses; it is asked again when
        something else was written first, so that nobody answers what is no longer asked.

        :raises UnknownName: OrderRefused: as `word` does.
        """
        for _ in range(_RACES):
            found = await self._incident(incident)
            fact = word(found)
            if fact is None:
                return found
            try:
                records = await self._read_model.append(Entry(incident_stream(found.id), fact, actor, follows=found.n))
            except Conflict:
                continue
            self._parts.runner.poke(found.id)
            return evolve(found, records[0])
        raise JournalUnavailable(f"lost {_RACES} races for a word about {incident} in a row")

    def _trial(self, service: Service, request: Request, episode: str = "") -> Trigger:
        now = self._parts.clock.now()
        stamp = episode or f"manual/{service.name}/{now.isoformat()}"
        return Trigger(service.name, "manual", service.priority, stamp, now, now, request=request)

    def _check(self, request: Request) -> Service:
        service = self._with_plan(request.service, request.plan)
        self._check_layers(service, request.irreversible)
        return service

    def _with_plan(self, name: str, plan: str) -> Service:
        """A service that has this plan, where one is named. :raises UnknownName: InvalidOrder:"""
        service = self._service(name)
        if plan and plan not in service.plans:
            raise InvalidOrder(f'{service.name} has no plan "{plan}"; it has: {", ".join(service.plans)}')
        return service

    def _check_layers(self, service: Service, named: Iterable[str]) -> None:
        """:raises InvalidOrder: the service has not all of them."""
        if unknown := set(named) - set(service.layers):
            raise InvalidOrder(f'{service.name} has no layer "{min(unknown)}"; it has: {", ".join(service.layers)}')

    async def _resolve(self, service: Service, named: Mapping[str, str]) -> dict[str, Release]:
        """Releases by layer; the key "" is the only layer that has any. :raises InvalidOrder: LookFailed:"""
        if not named:
            return {}
        there = await self._parts.layers[service.name].there()
        found = {}
        for layer, text in named.items():
            if not layer and len(there) != 1:
                raise InvalidOrder(f"say LAYER={text}; {service.name} has the layers {', '.join(there)}")
            name = layer or next(iter(there))
            if name not in there:
                raise InvalidOrder(f'{service.name} has no layer "{name}" with releases; it has: {", ".join(there)}')
            found[name] = resolve(name, text, there[name])
        return found
